"""`rois` against SimpleITK reading the same DICOM series and nothing else, and the peak memory of both.

Each run is a process of its own. SimpleITK reads as its documentation shows: it lists the series' files, which reads
their headers, then the slices. The series of a real study is taken from the folder that MUMO_DATA names,
where set; a larger one, 512 × 512 × 400, is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5
LESIONS = 5

_READING = """
import sys, time
import SimpleITK as sitk
sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
from benchmarks.rois import memory
before = memory("VmRSS")
began, worked = time.perf_counter(), time.process_time()
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
image = reader.Execute()
seconds, busy = time.perf_counter() - began, time.process_time() - worked
print(seconds, busy, memory("VmHWM") - before, image.GetNumberOfPixels())
"""

_ROIS = """
import sys, time
from pathlib import Path
from benchmarks.rois import prepared
item, stage, settings, store = prepared(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
for number in range(int(sys.argv[4])):  # what only the first item of a process costs is no part of an item
    (Path(sys.argv[2]) / f"warm{number}").mkdir()
    small, _, _, other = prepared(Path(sys.argv[5]), Path(sys.argv[2]) / f"small{number}", "box")
    stage.run(small, settings, other, Path(sys.argv[2]) / f"warm{number}")
out = Path(sys.argv[2]) / "out"
out.mkdir()
from benchmarks.rois import memory
before = memory("VmRSS")
began, worked = time.perf_counter(), time.process_time()
stage.run(item, settings, store, out)
seconds, busy = time.perf_counter() - began, time.process_time() - worked
print(seconds, busy, memory("VmHWM") - before, 0)
"""


def memory(field: str) -> int:
    """Memory of this process, kB: `VmRSS`, now, or `VmHWM`, the most since it was asked for the first (Linux)."""
    if field == "VmRSS":
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def prepared(series: Path, folder: Path, mask: str) -> Any:
    """A `rois` item of a series with its stage, settings and a store that has windows; `mask` is a file or `box`."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
    import ct_files

    from mumo.config import Settings
    from mumo.pipeline.rois import RoisStage
    from mumo.stores.records import Store
    from mumo.stores.specs import WINDOWS
    from mumo.stores.tables import write_table

    settings, store = Settings(), Store.create(folder / "store")
    staging = store.begin("windows", "cohort")
    window = {"level": "cohort", "lesion_type": "", "centre": "", "low_hu": -50.0, "high_hu": 150.0, "lesions": 1}
    write_table(staging / "windows.parquet", [window], WINDOWS)
    store.commit("windows", "cohort", staging, depends={}, status="ok", summary={}, seconds=0.0)
    if mask == "box":
        boxes = [(20 + 12 * n, 40, 3, 45 + 12 * n, 70, 9) for n in range(LESIONS)]
        lesions = [ct_files.lesion(f"L{n}", box=box) for n, box in enumerate(boxes)]
    else:
        lesions = [ct_files.lesion("L1", mask=Path(mask))]
    (item,) = RoisStage().plan(ct_files.cohort(ct_files.study(series, *lesions)), settings, store)
    return item, RoisStage(), settings, store


def main() -> None:
    """Print the ratio of times and the peaks of memory, for a large series and, where it is there, a real one."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))
    import ct_files

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        small = folder / "small"
        ct_files.write_dicom(ct_files.image_of(_noise(10, 128)), small)
        large = folder / "large"
        ct_files.write_dicom(ct_files.image_of(_noise(400, 512)), large)
        for file in large.iterdir():
            ct_files.change(file, BitsStored=12, HighBit=11)
        series = [("512 × 512 × 400, five boxes", large, "box")]
        shared = os.environ.get("MUMO_DATA")
        if shared:
            real = Path(shared) / "ct" / "sts_019_dicom_rtstruct"
            series.append(("134 × 136 × 47 (real), one RTSTRUCT", real / "image", str(real / "mask" / "RS.dcm")))
        for name, path, mask in series:
            _compare(name, path, mask, small, folder)


def _compare(name: str, series: Path, mask: str, small: Path, folder: Path) -> None:
    wall: dict[str, list[float]] = {"simpleitk": [], "rois": []}
    busy: dict[str, list[float]] = {"simpleitk": [], "rois": []}
    peaks: dict[str, float] = {}
    voxels = 0.0
    for number in range(ROUNDS):
        own = folder / f"run-{time.time_ns()}-{number}"
        own.mkdir()
        rois = [str(series), str(own), mask, "2", str(small)]
        for what, code, arguments in (("simpleitk", _READING, [str(series)]), ("rois", _ROIS, rois)):
            seconds, processor, kilobytes, count = _measure(code, arguments)
            wall[what].append(seconds)
            busy[what].append(processor)
            peaks[what] = max(peaks.get(what, 0.0), kilobytes * 1024)
            voxels = max(voxels, count)
    for kind, times in (("seconds", wall), ("seconds of processor", busy)):
        own_best, other_best = min(times["rois"]), min(times["simpleitk"])
        print(
            f"rois, {name}: {own_best:.3f} {kind} against {other_best:.3f} for SimpleITK's reading, "
            f"ratio {own_best / other_best:.2f} (target ≤ 1.3)"
        )
    print(
        f"rois, {name}: memory {peaks['rois'] / 1e6:.0f} MB against {peaks['simpleitk'] / 1e6:.0f} MB, the volume has "
        f"{2 * voxels / 1e6:.0f} MB in 16 bits"
    )


def _measure(code: str, arguments: list[str]) -> tuple[float, ...]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=Path(__file__).resolve().parents[1],
    )
    return tuple(map(float, done.stdout.split()))


def _noise(slices: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    plane = rng.integers(-100, 200, (side, side), dtype=np.int16)
    return np.stack([np.roll(plane, z, axis=0) for z in range(slices)])

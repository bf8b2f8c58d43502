"""Radiomics: both engines on bags with the preset and on PyRadiomics' test volumes with its example files.

One process, one thread. Compilation is left out and its one-time cost printed. The volumes and the slide are taken from
the folder that MUMO_DATA names (see `examples/real`); without it bags are synthetic and volumes left out.
Bags of 2048 px are measured when MUMO_BENCH_LARGE is set. nyxus is measured on the same images where it is installed
in this environment, or in that of the interpreter that MUMO_NYXUS_PYTHON names; its features are not PyRadiomics' own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mumo.config import RadiomicsSettings
from mumo.pipeline.omics.compare import Comparison, compare
from mumo.pipeline.omics.filters import image_types
from mumo.pipeline.omics.grey_bags import grey_bag
from mumo.pipeline.omics.presets import bag_parameters, read_parameter_file

ROUNDS = 3
DATA = Path(os.environ.get("MUMO_DATA", "no-data"))
SIDES = (256, 512, 1024)
VOLUMES = ("lung1", "brain1")
FILES = ("Params", "exampleCT", "exampleMR_3mm", "exampleMR_5mm", "exampleMR_NoResampling")

_FIRST_RUN = """
import time
began = time.perf_counter()
import numpy as np
from mumo.config import RadiomicsSettings
from mumo.pipeline.omics.presets import bag_parameters
from mumo.pipeline.radiomics import extract
image = np.random.default_rng(0).normal(100, 30, (1, 32, 32))
extract(image, np.ones(image.shape, bool), (1.0, 1.0, 1.0), bag_parameters(RadiomicsSettings()))
print(time.perf_counter() - began)
"""

_NYXUS = """
import sys, time
import numpy as np
import nyxus
groups = ["*ALL_INTENSITY*", "*ALL_GLCM*", "*ALL_GLRLM*", "*ALL_GLSZM*", "*ALL_GLDM*", "*ALL_NGTDM*"]
images = np.load(sys.argv[1])
engine = nyxus.Nyxus(groups, n_feature_calc_threads=1, coarse_gray_depth=12)
mask = np.ones(images[0].shape, np.uint32)
times = []
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    for image in images:
        engine.featurize(image, mask)
    times.append(time.perf_counter() - began)
print(min(times))
"""


def main() -> None:
    """Print seconds of both engines, their ratio, and the largest relative difference."""
    _first_run()
    print("radiomics                               | features | PyRadiomics s |  fast s | ratio | largest difference")
    whole = _bag()
    parameters = bag_parameters(RadiomicsSettings())
    sides = (*SIDES, 2048) if os.environ.get("MUMO_BENCH_LARGE") else SIDES
    bags = {side: grey_bag(whole, side)[None] for side in sides}
    for side, bag in bags.items():
        _print(
            f"bag {side} × {side}, mumo-736",
            compare(bag, np.ones(bag.shape, bool), (1.0, 1.0, 1.0), parameters, ROUNDS),
        )
    folder = DATA / "ct" / "pyradiomics"
    if not folder.is_dir():
        print(f"radiomics: volumes left out, there is no folder {folder}")
    else:
        for volume in VOLUMES:
            for file in FILES:
                _print(f"{volume}, {file}", _volume(folder, volume, file))
    _nyxus(bags[512])


def _first_run() -> None:
    """Import and first run in a new process: with an empty cache of compiled kernels, and with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        cold, warm = (
            float(
                subprocess.run(
                    [sys.executable, "-c", _FIRST_RUN], env=environment, capture_output=True, check=True, text=True
                ).stdout
            )
            for _ in range(2)
        )
    print(f"radiomics: import and first run {warm:.1f} s (target < 3 s); compiling, once, makes it {cold:.1f} s")


def _bag() -> npt.NDArray[np.uint8]:
    """A bag of 2048 px: of a real slide where there is one, else smoothed noise in the colours of H&E."""
    file = DATA / "slides" / "CMU-1-Small-Region.svs"
    if file.is_file():
        import openslide

        with openslide.OpenSlide(file) as slide:
            return np.asarray(slide.read_region((60, 400), 0, (2048, 2048)).convert("RGB"))
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    noise = sum(gaussian_filter(rng.normal(size=(2048, 2048)), width) * width for width in (1, 3, 9, 40))
    share = np.clip(noise / noise.std() * 0.25 + 0.5, 0, 1)[..., None]
    return (share * np.array([235, 225, 235]) + (1 - share) * np.array([95, 55, 125])).astype(np.uint8)


def _volume(folder: Path, volume: str, file: str) -> Comparison:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(folder / f"{volume}_image.nrrd"))
    labels = sitk.ReadImage(str(folder / f"{volume}_label.nrrd"))
    parameters = read_parameter_file(folder / "exampleSettings" / f"{file}.yaml")
    return compare(
        sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels) == 1, image.GetSpacing(), parameters, ROUNDS
    )


def _print(what: str, result: Comparison) -> None:
    print(
        f"{what:39} | {len(result.features):8} | {result.pyradiomics_s:13.3f} | {result.fast_s:7.3f} | "
        f"{result.ratio:5.1f} | {result.worst.difference:.1e} ({result.worst.name})"
    )


def _nyxus(bag: npt.NDArray[np.float64]) -> None:
    """Time of nyxus on the eight image types of one bag, rounded to whole numbers from 0, as it wants them."""
    python = os.environ.get("MUMO_NYXUS_PYTHON") or (sys.executable if find_spec("nyxus") else "")
    if not python:
        print("radiomics: nyxus left out, it is not installed (set MUMO_NYXUS_PYTHON to an interpreter that has it)")
        return
    values = bag_parameters(RadiomicsSettings()).as_dict()
    depth, height, width = bag.shape
    box = (slice(0, depth), slice(0, height), slice(0, width))
    found = image_types(bag, box, (1.0, 1.0, 1.0), values["setting"], values["imageType"])
    images = np.stack([np.rint(image[0] - image.min()).astype(np.uint32) for _, image, _ in found])
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "images.npy", images)
        command = [python, "-c", _NYXUS, str(Path(folder) / "images.npy"), str(ROUNDS)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        print(f"radiomics: nyxus left out, it failed: {run.stderr.strip().splitlines()[-1:]}")
        return
    print(
        f"nyxus, the 8 images of a bag {height} × {width}: {float(run.stdout.split()[-1]):.2f} s for its intensity, "
        "GLCM, GLRLM, GLSZM, GLDM and NGTDM features, without the filters; its grey levels, angles and several "
        "definitions are its own, so values are not compared"
    )

"""The whole path on a small synthetic cohort, as a user walks it: demo, a bad night, a changed setting."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mumo.stores.records import Store
from mumo.stores.specs import STAGES

pytestmark = pytest.mark.slow


def mumo(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mumo.cli", *map(str, arguments)], check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def extract(cohort: Path, store: Path, *more: object, stage: str = "all", code: int = 0) -> list[dict[str, Any]]:
    done = mumo(
        "extract", stage, cohort / "cohort.toml", store, "--config", cohort / "demo.toml", "--json", *more, code=code
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_demo__finds_the_planted_signal_and_writes_everything(demo: Path) -> None:
    output = (demo / "output.txt").read_text()
    assert "AUC on " in output
    assert f"report: {demo}/run/report.html" in output
    assert f"explanations: {demo}/run/explain/index.html" in output
    metrics = json.loads((demo / "run" / "metrics.json").read_text())
    predictions = pq.read_table(demo / "run" / "predictions.parquet").to_pandas()
    assert len(predictions) == 40
    assert set(predictions["modalities"]) == {"both", "pathology", "radiology", "none"}
    assert metrics["parts"]["train"]["auc"]["value"] > 0.8
    assert all(not Store(demo / "store").failures(stage) for stage in STAGES)
    said = json.loads((demo / "run" / "explain" / "explain.json").read_text())
    assert set(said["patients"]) == set(predictions.loc[predictions["part"] == "test", "patient"])
    report = (demo / "run" / "report.html").read_text()
    assert all(f'href="explain/{folder}/index.html"' in report for folder in said["patients"].values())


def test_demo__names_of_patients_and_paths_reach_no_output(demo: Path) -> None:
    """The generator writes a made-up PatientName into every DICOM file."""
    name = b"MADEUPNAME"
    assert sum(name in file.read_bytes() for file in (demo / "cohort" / "ct").rglob("*") if file.is_file()) > 100
    for folder in ("store", "run"):
        for file in (demo / folder).rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            assert name not in content, file
            assert str(demo / "cohort").encode() not in content, file


def test_extract__second_run_has_nothing_to_do(demo: Path) -> None:
    assert sum(row["ok"] + row["empty"] for row in extract(demo / "cohort", demo / "store")) == 0


def test_extract__killed_and_run_again_gives_the_same_store(demo: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    command = [sys.executable, "-m", "mumo.cli", "extract", "all", demo / "cohort" / "cohort.toml", store]
    command += ["--config", demo / "cohort" / "demo.toml", "--workers", "2"]
    for stage in ("tiles", "radiomics"):
        process = subprocess.Popen(
            [str(part) for part in command],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list((store / stage / "records").glob("*.json"))) < 5:
            time.sleep(0.05)
            assert process.poll() is None, "it ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert Store(store).digest(STAGES) != Store(demo / "store").digest(STAGES)
    assert all(row["complete"] for row in extract(demo / "cohort", store))
    assert Store(store).digest(STAGES) == Store(demo / "store").digest(STAGES)


def test_extract__bad_files_cost_themselves_alone(demo: Path, tmp_path: Path) -> None:
    cohort, store = tmp_path / "cohort", tmp_path / "store"
    shutil.copytree(demo / "cohort", cohort)
    shutil.copytree(demo / "store", store)
    slides = sorted((cohort / "slides").iterdir())
    slides[0].write_bytes(slides[0].read_bytes()[:5000])
    slides[1].unlink()
    volume = next(file for file in sorted((cohort / "ct").iterdir()) if file.suffix == ".gz")
    volume.write_bytes(volume.read_bytes()[: volume.stat().st_size // 2])
    # A cut volume is only found when its voxels are read; the header is fine.
    checked = mumo("check", cohort / "cohort.toml", "--config", cohort / "demo.toml", code=2)
    assert "2 errors" in checked.stdout, checked.stderr
    rows = {row["stage"]: row for row in extract(cohort, store, code=3)}
    assert len(rows["tiles"]["failed"]) == 2
    assert len(rows["rois"]["failed"]) == 1
    assert len(rows["embed"]["waiting"]) == len(rows["radiomics"]["waiting"]) == 3
    # Windows lack a study now, so crops are new; what reads the intensities themselves is not touched.
    assert rows["tiles"]["ok"] == rows["radiomics"]["ok"] == 0
    assert rows["rois"]["ok"] > 0
    again = extract(cohort, store, code=3)
    assert sum(row["ok"] for row in again) == 0
    mumo("fit", store, tmp_path / "run", "--set", "fit.epochs=2", "--set", "fit.bootstrap=100")


def test_extract__dry_run_after_a_changed_setting(demo: Path) -> None:
    def states(*settings: str) -> dict[str, set[str]]:
        assignments = [part for setting in settings for part in ("--set", setting)]
        rows = extract(demo / "cohort", demo / "store", "--dry-run", *assignments)
        return {
            stage: {row["item"].split("-")[0] for row in rows if row["stage"] == stage and row["state"] != "done"}
            for stage in STAGES
        }

    nothing: dict[str, set[str]] = {stage: set() for stage in STAGES}
    assert states() == nothing
    assert states("radiomics.bin_width=10") == nothing | {"radiomics": {"slide", "ct"}}
    touched = nothing | {"tiles": {"slide"}, "embed": {"slide"}, "radiomics": {"slide"}}
    assert states("tiles.colour.target_mean=[60, 20, -12]") == touched
    assert states("embed.weights=random:1") == nothing | {"embed": {"slide", "ct"}}
    assert states("fit.epochs=3", "model.width=64", "run.threads=2") == nothing

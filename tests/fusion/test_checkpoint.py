"""The run folder: who may take it, what can be loaded, and what never can."""

from __future__ import annotations

import json
import math
import pickle
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from packs import make_packed

from mumo.config import FitSettings, ModelSettings, SplitSettings
from mumo.errors import FitError
from mumo.fusion import checkpoint
from mumo.fusion.dataset import fit_scalers, layout_of
from mumo.fusion.model import MuMo
from mumo.fusion.splits import Split

SETTINGS = ModelSettings(width=8, heads=2, feed_forward=8, modalities=("radiology", "pathology"))


def finished_run(run: Path, *, finish: bool = True) -> MuMo:
    packed = make_packed(12)
    scalers = fit_scalers(packed, np.arange(12), 7.5)
    layout = layout_of(packed, scalers, SETTINGS)
    model = MuMo(layout, SETTINGS)
    checkpoint.begin(run, {"seed": 3})
    checkpoint.save_config(run, SETTINGS, FitSettings(split=SplitSettings(file=Path("/home/someone/split.csv"))))
    checkpoint.save_inputs(run, layout, packed.codes)
    checkpoint.save_split(run, Split(dict.fromkeys(packed.patients, "train")))
    checkpoint.save_scalers(run, scalers)
    checkpoint.save_weights(run, model.state_dict())
    if finish:
        checkpoint.finish(run, {"seed": 3})
    return model


def test_load_run__gives_back_what_was_saved(tmp_path: Path) -> None:
    model = finished_run(tmp_path / "run")
    loaded = checkpoint.load_run(tmp_path / "run")
    packed = make_packed(12)
    assert loaded.settings == SETTINGS
    assert loaded.info["seed"] == 3
    assert loaded.layout == model.layout
    assert not loaded.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    for name, scaler in fit_scalers(packed, np.arange(12), 7.5).items():
        assert loaded.scalers[name].columns == scaler.columns
        values = packed.units[name].omics
        np.testing.assert_array_equal(loaded.scalers[name](values), scaler(values))
    assert loaded.codes["radiology_report"]["lymph_node_sites"] == packed.codes["radiology_report"].items[1].classes
    assert loaded.split.parts["P003"] == "train"


def test_run_folder__holds_no_path_and_no_pickle(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    for file in (tmp_path / "run").iterdir():
        content = file.read_bytes()
        assert b"someone" not in content
        assert not content.startswith((b"\x80", b"PK")), file
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, IndexError, EOFError, UnicodeDecodeError)):
            pickle.loads(content)


def test_finish__says_when(tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    finished_run(tmp_path / "run")
    finished = datetime.fromisoformat(json.loads((tmp_path / "run" / "run.json").read_text())["finished"])
    assert before <= finished <= datetime.now(UTC)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_load_run__of_an_unfinished_run_is_refused(tmp_path: Path, status: str) -> None:
    finished_run(tmp_path / "run", finish=False)
    if status == "failed":
        checkpoint.fail(tmp_path / "run", {}, FitError("no luck"))
        assert json.loads((tmp_path / "run" / "run.json").read_text())["message"] == "no luck"
    with pytest.raises(FitError, match=f"the run is {status}, expected finished"):
        checkpoint.load_run(tmp_path / "run")


def test_load_run__of_another_version_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    checkpoint.write_json(tmp_path / "run" / "run.json", {"run_version": 99, "status": "finished"})
    with pytest.raises(FitError, match="format version 99, this mumo reads 2"):
        checkpoint.load_run(tmp_path / "run")


def test_load_run__of_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"is no run \(run\.json is missing\)"):
        checkpoint.load_run(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "scaler.safetensors", "inputs.json", "config.json"])
def test_load_run__with_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    finished_run(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(b"nonsense")
    with pytest.raises(FitError, match="not readable"):
        checkpoint.load_run(tmp_path / "run")


def test_load_run__with_weights_of_another_model_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    checkpoint.save_config(tmp_path / "run", SETTINGS.model_copy(update={"feed_forward": 16}), FitSettings())
    with pytest.raises(FitError, match="its files do not belong together"):
        checkpoint.load_run(tmp_path / "run")


# --- who may take a folder --------------------------------------------------------------------------------


def test_begin__takes_new_and_empty_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new/deep", "empty"):
        checkpoint.begin(tmp_path / name, {})
        assert json.loads((tmp_path / name / "run.json").read_text())["status"] == "running"


@pytest.mark.parametrize("end", ["finished", "failed"])
def test_begin__replaces_a_run_that_has_ended_and_nothing_else(tmp_path: Path, end: str) -> None:
    run = tmp_path / "run"
    finished_run(run)
    (run / "notes.txt").write_text("mine")
    if end == "failed":
        checkpoint.fail(run, {}, ValueError("x"))
    checkpoint.begin(run, {})
    assert sorted(p.name for p in run.iterdir()) == ["notes.txt", "run.json"]


def test_begin__of_a_run_that_is_going_on_needs_force(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finished_run(run, finish=False)
    with pytest.raises(FitError, match="going on or was killed"):
        checkpoint.begin(run, {})
    assert (run / "model.safetensors").exists()
    checkpoint.begin(run, {}, force=True)
    assert not (run / "model.safetensors").exists()


def test_begin__of_a_folder_with_other_content_needs_force_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FitError, match="is not empty and holds no run"):
        checkpoint.begin(tmp_path, {})
    checkpoint.begin(tmp_path, {}, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_begin__of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(FitError, match="is a file"):
        checkpoint.begin(tmp_path / "file", {})


# --- writing ----------------------------------------------------------------------------------------------


def test_write_atomically__leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    checkpoint.write_json(file, {"a": 1})

    def half(temporary: Path) -> None:
        temporary.write_text("{")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_atomically(file, half)
    assert json.loads(file.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_json_able__turns_what_json_has_not_into_null_and_plain_numbers() -> None:
    found = checkpoint.json_able({"a": math.nan, "b": (np.int64(3), np.float32(math.inf)), 3: {"c": np.bool_(True)}})
    assert found == {"a": None, "b": [3, None], "3": {"c": True}}

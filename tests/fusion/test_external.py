"""External validation: a trained model on another cohort, from its folder to its page."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from packs import make_packed, write_store
from quick_fits import ONE_EPOCH, store_and_run

from mumo.cli import main
from mumo.errors import FitError
from mumo.fusion import external, report, seeds
from mumo.fusion.checkpoint import load_run, member_folders
from mumo.fusion.external import cautions, validate
from mumo.fusion.origin import differences, extraction_settings
from mumo.fusion.predict import predict, read_predictions
from mumo.fusion.report_methods import _cutoffs
from mumo.stores.packed import Packed
from mumo.stores.records import Store

COHORT = make_packed(24, bags=2, lesions=2)


store, run = store_and_run(COHORT)


def renamed(packed: Packed, *names: str) -> Packed:
    """The patients under other names; those after the given ones get a prefix."""
    patients = (*names, *(f"E{patient}" for patient in packed.patients[len(names) :]))
    return dataclasses.replace(packed, patients=patients)


def write_other(folder: Path, packed: Packed | None = None) -> Path:
    write_store(folder, packed if packed is not None else renamed(make_packed(16, seed=5, bags=2, lesions=2)))
    return folder


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return found


def test_validate__freezes_the_model_and_keeps_what_the_report_needs(run: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path / "other")
    frame = validate(run, other, tmp_path / "out", device="cpu")
    assert set(frame["part"]) == {"external"}
    kept = read_predictions(tmp_path / "out" / "predictions.parquet")
    plain = predict(run, other, tmp_path / "plain.parquet", device="cpu")
    np.testing.assert_array_equal(kept["probability"], plain["probability"])
    threshold = json.loads((run / "run.json").read_text())["threshold"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["threshold"] == threshold
    facts = facts_of(tmp_path / "out")
    assert facts["model"]["threshold"] == threshold
    assert facts["other_extraction"] == []
    assert facts["shared"] == []
    assert not list((tmp_path / "out").rglob("*.safetensors"))
    text = report.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "The frozen model of the run “run” on another cohort" in text
    assert f"{threshold:.3f}, chosen on validation patients" in text


def test_validate__leaves_out_patients_of_the_run_and_says_so(run: Path, tmp_path: Path) -> None:
    first = COHORT.patients[:2]
    packed = dataclasses.replace(COHORT, patients=(*first, *(f"E{p}" for p in COHORT.patients[2:])))
    other = write_other(tmp_path / "other", packed)
    frame = validate(run, other, tmp_path / "out", device="cpu")
    assert set(frame["patient"]) == set(packed.patients[2:])
    said = cautions(facts_of(tmp_path / "out"))
    assert said[0].startswith("Patients of the run's own cohort, by their ids, are left out of all figures: 2 (")
    assert all(patient in said[0] for patient in first)
    page = report.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "2 left out: also in the run&#39;s own cohort" in page
    assert "left out of all figures: 2" in page
    # the others are the run's patients under other ids: known follow-up and codes give them away
    assert any("probably the same people" in text for text in said)


def test_validate__with_the_same_ids_needs_to_be_told_that_the_patients_are_others(run: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path / "other", make_packed(16, seed=5, bags=2, lesions=2))
    with pytest.raises(FitError, match=r"all 16 patients have ids of the run's own cohort.*--new-patients"):
        validate(run, other, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    frame = validate(run, other, tmp_path / "out", device="cpu", new_patients=True)
    assert len(frame) == 16
    assert set(frame["part"]) == {"external"}
    assert "16 ids are also used in the run's cohort" in " ".join(cautions(facts_of(tmp_path / "out")))


def test_validate__refuses_to_call_the_runs_own_patients_new(run: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"patients have the id and the follow-up of patients of the run \(P000, P001"):
        validate(run, store, tmp_path / "out", device="cpu", new_patients=True)


def test_validate__says_which_of_those_left_out_may_be_others(run: Path, tmp_path: Path) -> None:
    packed = renamed(make_packed(16, seed=5, bags=2, lesions=2), COHORT.patients[0])
    validate(run, write_other(tmp_path / "other", packed), tmp_path / "out", device="cpu")
    said = cautions(facts_of(tmp_path / "out"))
    assert "their follow-up differs or is unknown: P000" in said[1]


def test_validate__writes_only_into_free_folders(run: Path, tmp_path: Path) -> None:
    other = write_other(tmp_path / "other")
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(FitError, match="holds no external validation"):
        validate(run, other, run, device="cpu")
    assert (run / "model.safetensors").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(FitError, match="is not empty"):
        validate(run, other, tmp_path / "mine", device="cpu")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FitError, match="is a file"):
        validate(run, other, tmp_path / "file", device="cpu")
    validate(run, other, tmp_path / "out", device="cpu")
    first = (tmp_path / "out" / "predictions.parquet").read_bytes()
    report.write_report(tmp_path / "out")
    validate(run, other, tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "predictions.parquet").read_bytes() == first
    assert not (tmp_path / "out" / "report.html").exists()  # of the earlier validation


def test_validate__killed_half_way_is_not_reported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(external, "_copy_development", fail)
    with pytest.raises(OSError, match="disk full"):
        validate(run, write_other(tmp_path / "other"), tmp_path / "out", device="cpu")
    with pytest.raises(FitError, match="failed"):
        report.write_report(tmp_path / "out")


def test_member_folders__of_an_external_validation_are_refused(run: Path, tmp_path: Path) -> None:
    validate(run, write_other(tmp_path / "other"), tmp_path / "out", device="cpu")
    for load in (member_folders, load_run):
        with pytest.raises(FitError, match="holds the predictions of another cohort"):
            load(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("folds", [0, 2])
def test_validate__of_an_ensemble_averages_its_members(store: Path, tmp_path: Path, folds: int) -> None:
    settings = ONE_EPOCH.model_copy(update={"fit": ONE_EPOCH.fit.model_copy(update={"bootstrap": 10})})
    seeds.fit_many(store, tmp_path / "run", settings, seeds=2, folds=folds, device="cpu", workers=1)
    validate(tmp_path / "run", write_other(tmp_path / "other"), tmp_path / "out", device="cpu")
    facts = facts_of(tmp_path / "out")
    assert len(facts["model"]["models"]) == (4 if folds else 2)
    text = report.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert f"weights of {len(facts['model']['models'])} members" in text
    assert ("called at the mean of their thresholds" in text) == bool(folds)
    for of_folds in (
        "the mean of those that each member chose on its validation patients",
        "mean of the members’ thresholds, each by the Youden index on the validation patients of its fold",
    ):
        assert (of_folds in text.replace("&#39;", "’")) == bool(folds)
    assert ("chosen on validation patients of the run" in text) == (not folds)
    assert ("interquartile ranges of the training patients of the first fold" in text) == bool(folds)


def test_validate__keeps_the_omics_features_in_the_training_patients_scale(run: Path, tmp_path: Path) -> None:
    plain = renamed(make_packed(16, seed=5, bags=2, lesions=2))
    units = plain.units["pathology"]
    moved = np.array(units.omics)
    moved[:, 0] += 1000.0
    packed = dataclasses.replace(
        plain, units={**plain.units, "pathology": dataclasses.replace(units, omics=moved.astype("float32"))}
    )
    validate(run, write_other(tmp_path / "other", packed), tmp_path / "out", device="cpu")
    table = pd.read_csv(tmp_path / "out" / "shift.csv")
    assert set(table["modality"]) == {"pathology", "radiology"}
    first = table[table["modality"] == "pathology"].iloc[0]
    assert first["median"] > 100
    assert first["cut"] == 1
    assert table[table["modality"] == "radiology"]["median"].abs().max() < 5


# --- how the store was made -------------------------------------------------------------------------------


def test_differences__names_settings_that_shape_features_and_no_others() -> None:
    expected = {
        "tiles slide": {"working_mpp": 1.0, "zstd_level": 1, "colour": {"method": "reinhard"}},
        "rois ct": {"views": 4},
    }
    found = {"tiles slide": {"working_mpp": 0.5, "zstd_level": 3, "colour": {"method": "none"}}}
    assert differences(expected, found) == [
        "tiles slide: colour.method is none, the model's reinhard",
        "tiles slide: working_mpp is 0.5, the model's 1.0",
    ]
    assert differences(expected, expected) == []
    assert differences(None, found) is None


def test_extraction_settings__are_those_of_the_stores_records(store: Path, run: Path) -> None:
    found = extraction_settings(store)
    assert found == json.loads((run / "run.json").read_text())["extraction"]
    assert found


def test_extraction_settings__have_the_cut_offs_of_the_label(tmp_path: Path) -> None:
    """The report of a run states them, and that of an external validation whether the other cohort's are others."""
    for name, days in (("one", {"old": 180.0, "anti-HER2": 240.5}), ("two", {"anti-HER2": 300.0})):
        opened = Store.create(tmp_path / name)
        staging = opened.begin("clinical", "cohort")
        (staging / "part").touch()
        summary = {"cutoff_days": days}
        opened.commit("clinical", "cohort", staging, depends={"settings": {}}, status="ok", summary=summary, seconds=0)
    first, second = (extraction_settings(tmp_path / name) for name in ("one", "two"))
    assert first == {"clinical cohort": {"cutoff_days": "anti-HER2: 240.5; old: 180"}}
    assert differences(first, second) == [
        "clinical cohort: cutoff_days is anti-HER2: 300, the model's anti-HER2: 240.5; old: 180"
    ]
    assert _cutoffs({"extraction": first}) == " (days: anti-HER2: 240.5; old: 180)"
    assert _cutoffs({}) == ""


def test_cautions__says_what_differs_in_the_inputs() -> None:
    facts: dict[str, Any] = {
        "shared": [],
        "other_windows": True,
        "other_extraction": ["rois ct: views is 4, the model's 2"],
    }
    windows, settings = cautions(facts)
    assert "other grey-level windows" in windows
    assert "views is 4, the model's 2" in settings
    assert "could not be compared" in cautions({**facts, "other_windows": False, "other_extraction": None})[0]


# --- the commands -----------------------------------------------------------------------------------------


def ended(*arguments: object) -> Any:
    with pytest.raises(SystemExit) as found:
        main([str(argument) for argument in arguments])
    return found.value.code


def test_predict__into_a_folder_and_report_are_an_external_validation(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = renamed(make_packed(16, seed=5, bags=2, lesions=2), COHORT.patients[0])
    other, out = write_other(tmp_path / "other", packed), tmp_path / "second-hospital"
    assert ended("predict", run, other, out, "--device", "cpu") == 0
    said = capsys.readouterr().out
    assert f"15 patients new to the model: {out}" in said
    area = json.loads((out / "metrics.json").read_text())["parts"]["external"]["auc"]
    assert f"AUC {area['value']:.3f}" in said
    assert "note: Patients of the run's own cohort, by their ids, are left out of all figures: 1" in said
    assert ended("report", out) == 0
    assert (out / "report.html").exists()
    assert ended("predict", run, other, tmp_path / "out.parquet", "--device", "cpu", "--new-patients") == 2
    assert "--new-patients: is for a folder" in capsys.readouterr().err

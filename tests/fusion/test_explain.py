"""Explanations over the members of runs: who explains whom, what is averaged, and what the checks are computed of."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from packs import make_packed, write_store
from quick_fits import ONE_EPOCH, store_and_run

from mumo.errors import FitError
from mumo.fusion import crossfit
from mumo.fusion.checkpoint import load_run
from mumo.fusion.explain import Explainer
from mumo.fusion.explained import VERSION, checks_as_json, curves_of, read_explained, says
from mumo.fusion.predict import read_predictions

store, run = store_and_run(make_packed(24, bags=4, lesions=3))


@pytest.fixture(scope="module")
def ensemble(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ensemble") / "run"
    crossfit.fit_folds(store, path, ONE_EPOCH, folds=2, seeds=2, device="cpu", workers=0)
    return path


def test_explain__says_what_the_run_predicted(run: Path, store: Path) -> None:
    explainer = Explainer(run, store, device="cpu")
    for row in read_predictions(run / "predictions.parquet").itertuples():
        found = explainer.explain(row.patient)
        assert (found.part, found.modalities, found.centre) == (row.part, row.modalities, row.centre)
        assert found.risk == pytest.approx(row.risk, abs=1e-5)
        assert found.probability == pytest.approx(row.probability, abs=1e-5)


def test_explain__names_every_unit_and_weights_sum_to_one(run: Path, store: Path) -> None:
    explainer = Explainer(run, store, device="cpu")
    for patient in explainer.find([]):
        found = explainer.explain(patient)
        for modality, parts in found.units.items():
            assert len(found.sources[modality]) == len(parts.weight) == len(parts.effect)
            assert parts.weight.sum() == pytest.approx(1, abs=1e-6)
        assert (found.words is None) == ("pathology" not in found.units)
        assert (found.lesion_slopes is None) == ("radiology" not in found.units)
        assert found.completeness[0] < 1e-4


def test_explain__of_an_ensemble_asks_the_members_that_did_not_have_the_patient(ensemble: Path, store: Path) -> None:
    explainer = Explainer(ensemble, store, device="cpu")
    assert len(explainer.members) == 4
    pooled = read_predictions(ensemble / "predictions.parquet").set_index("patient")
    for patient in explainer.find([]):
        found = explainer.explain(patient)
        assert (found.part, found.models) == ("test", 2)
        assert found.risk == pytest.approx(pooled.risk[patient], abs=1e-5)


def test_explain__of_an_ensemble_is_the_mean_over_members(ensemble: Path, store: Path) -> None:
    together = Explainer(ensemble, store, device="cpu")
    patient = next(p for p in together.find([]) if together.explain(p).words is not None)
    folders = [
        folder for folder in sorted((ensemble / "members").iterdir()) if load_run(folder).split.parts[patient] == "test"
    ]
    alone = [Explainer(folder, store, device="cpu").explain(patient) for folder in folders]
    found = together.explain(patient)
    assert found.words is not None
    expected = np.mean([one.words.effect for one in alone if one.words is not None], axis=0)
    assert found.words.effect == pytest.approx(expected, abs=1e-9)
    for group, parts in found.items.items():
        assert parts.weight == pytest.approx(np.mean([one.items[group].weight for one in alone], axis=0), abs=1e-9)


def test_explain__refuses_an_unknown_patient_by_name(run: Path, store: Path) -> None:
    with pytest.raises(FitError, match="--only: NOBODY is no patient of the store"):
        Explainer(run, store, device="cpu").find(["P000", "NOBODY"])


def test_find__only_held_out_leaves_out_those_of_training(run: Path, store: Path) -> None:
    explainer = Explainer(run, store, device="cpu")
    parts = {patient: explainer.part(patient) for patient in explainer.packed.patients}
    found = explainer.find([], only_held_out=True)
    assert found == [patient for patient, part in parts.items() if part == "test"]
    assert 0 < len(found) < len(parts)
    trained_on = next(patient for patient, part in parts.items() if part == "train")
    assert explainer.find([found[0], trained_on], only_held_out=True) == [found[0]]
    with pytest.raises(FitError, match="--held-out: none of the patients that --only names is of the test part"):
        explainer.find([trained_on], only_held_out=True)


def test_find__every_patient_of_folds_is_held_out(ensemble: Path, store: Path) -> None:
    explainer = Explainer(ensemble, store, device="cpu")
    assert explainer.find([], only_held_out=True) == list(explainer.packed.patients)


def test_explain__refuses_a_store_of_other_features(run: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "other", make_packed(12, width=24))
    with pytest.raises(FitError, match="deep features of width 24, expected 16"):
        Explainer(run, tmp_path / "other", device="cpu")


def test_check__is_computed_of_held_out_patients_with_slides(run: Path, store: Path) -> None:
    explainer = Explainer(run, store, device="cpu")
    checks = explainer.check(draws=3)
    split = load_run(run).split.parts
    assert checks.patients and checks.part == "test"
    for patient in checks.patients:
        assert split[patient] == "test"
        assert explainer.explain(patient).words is not None
    assert checks_as_json(explainer.check(draws=3)) == checks_as_json(checks)
    for own in checks.likeness.values():
        assert set(own) == {"weight", "effect", "shuffled"}
        assert all(len(values) == len(checks.patients) for values in own.values())
        assert all(0 <= value <= 1 for values in own.values() for value in values if np.isfinite(value))


def test_check__of_patients_that_the_run_never_saw(run: Path, tmp_path: Path) -> None:
    packed = make_packed(12)
    others = dataclasses.replace(packed, patients=tuple(f"X{name}" for name in packed.patients))
    write_store(tmp_path / "other", others)
    assert Explainer(run, tmp_path / "other", device="cpu").check(draws=2).part == "external"


def test_read_explained__takes_only_what_is_of_these_weights(
    run: Path, store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    assert read_explained(own) == {}
    explainer = Explainer(own, store, device="cpu")
    checks = checks_as_json(explainer.check(draws=2))
    (own / "explain").mkdir()
    content = {"version": VERSION, "of": "response", "weights": explainer.digests, "checks": checks}
    file = own / "explain" / "explain.json"
    file.write_text(json.dumps(content))
    found = read_explained(own)
    assert len(curves_of(found)) == len(checks["curves"]) > 0
    said = says(found)
    assert any("moves the chance of response by" in line for line in said)
    assert any(line.startswith("Likeness of the maps of words") and "for shuffled maps" in line for line in said)
    file.write_text(json.dumps({**content, "weights": ["0" * 64]}))
    assert read_explained(own) == {}
    assert "is of another run and left out" in caplog.text

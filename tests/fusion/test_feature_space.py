"""Distances to the training patients in deep features: against scikit-learn's, and of cohorts that were shifted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packs import make_packed, write_store
from quick_fits import quick_settings, store_and_run
from sklearn.covariance import LedoitWolf

from mumo.errors import FitError
from mumo.fusion import feature_space, report
from mumo.fusion.external import validate
from mumo.fusion.feature_space import FEWEST, FeatureSpace, distances, load_spaces, read_distances
from mumo.fusion.pooling import patient_means, unit_features
from mumo.fusion.shift import deep_shift
from mumo.fusion.splits import read_split
from mumo.stores.packed import Packed

COHORT = make_packed(80, bags=3, lesions=2)


store, run = store_and_run(COHORT, quick_settings())


def others(shift: float) -> Packed:
    """Patients who are new to the run, the features of whose slides are moved by `shift` standard deviations."""
    packed = make_packed(60, seed=9, bags=3, lesions=2)
    pathology = packed.units["pathology"]
    moved = (pathology.features.astype(np.float32) + shift).astype(np.float16)
    units = packed.units | {"pathology": dataclasses.replace(pathology, features=moved)}
    return dataclasses.replace(packed, patients=tuple(f"E{name}" for name in packed.patients), units=units)


@pytest.mark.parametrize("patients", [30, 300])
def test_distance__equals_scikit_learns_mahalanobis(patients: int) -> None:
    """With fewer patients than features, and with more; features of other scales, one of them constant."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(60, 60))
    trained, new = (rng.normal(size=(count, 60)) @ mixing + 5 for count in (patients, 12))
    trained[:, 7] = new[:, 7] = 3.0
    space = FeatureSpace.fit(trained)
    assert space is not None
    scale = np.where(np.arange(60) == 7, 1.0, trained.std(axis=0))
    oracle = LedoitWolf(assume_centered=True).fit((trained - trained.mean(axis=0)) / scale)
    expected = np.sqrt(oracle.mahalanobis((new - trained.mean(axis=0)) / scale) / 60)
    np.testing.assert_allclose(space.distance(new), expected, rtol=1e-6)


def test_distance__of_many_training_patients_is_about_one() -> None:
    rng = np.random.default_rng(1)
    space = FeatureSpace.fit(rng.normal(2, 3, size=(500, 20)))
    assert space is not None
    assert np.median(space.distance(rng.normal(2, 3, size=(500, 20)))) == pytest.approx(1, abs=0.1)
    assert np.median(space.distance(rng.normal(8, 3, size=(500, 20)))) > 2


def test_fit__of_few_or_equal_patients_is_no_space() -> None:
    rng = np.random.default_rng(2)
    assert FeatureSpace.fit(rng.normal(size=(FEWEST - 1, 5))) is None
    assert FeatureSpace.fit(np.ones((FEWEST, 5))) is None


def test_fit__keeps_distances_of_those_that_were_not_trained_on(run: Path) -> None:
    table = read_distances(run)
    assert table is not None
    split = read_split(run / "split.csv")
    counts = {name: dict(zip(COHORT.patients, units.counts, strict=True)) for name, units in COHORT.units.items()}
    expected = {
        (patient, modality)
        for modality, own in counts.items()
        for patient in COHORT.patients
        if split.part(patient) != "train" and own[patient]
    }
    assert set(zip(table["patient"], table["modality"], strict=True)) == expected
    assert all(split.part(patient) == part for patient, part in zip(table["patient"], table["part"], strict=True))
    space = load_spaces(run)["radiology"]
    units = COHORT.units["radiology"]
    rows = table[table["modality"] == "radiology"]
    place = [COHORT.patients.index(patient) for patient in rows["patient"]]
    found = space.distance(patient_means(unit_features(units), units.offsets)[place])
    np.testing.assert_allclose(rows["distance"], found, rtol=1e-5)


def test_distances__of_features_of_another_width_are_refused(run: Path) -> None:
    packed = make_packed(6, width=24)
    with pytest.raises(FitError, match="pathology: 24 deep features, expected"):
        distances(packed, load_spaces(run), np.ones(6, dtype=bool), "external")


def test_validate__finds_slides_that_were_moved_and_leaves_ct_alone(run: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "other", others(0.5))
    validate(run, tmp_path / "other", tmp_path / "out", device="cpu")
    development, external = read_distances(tmp_path / "out" / "development"), read_distances(tmp_path / "out")
    assert development is not None and external is not None
    found = {one.modality: one for one in deep_shift(development[development["part"] == "test"], external)}
    assert found["pathology"].beyond > 0.9 and found["pathology"].p < 0.01
    assert found["radiology"].beyond < 0.5 and found["radiology"].distance < 0.5
    page = report.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "Shift of deep features" in page and "deep features are not compared" not in page
    kept = pd.read_csv(tmp_path / "out" / "report" / "shift-deep.csv")
    assert set(kept["part"]) == {"test", "external"}


def test_validate__of_a_run_that_kept_no_distances_says_so(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(run, old)
    (old / feature_space.SPACE_FILE).unlink()
    (old / feature_space.DISTANCE_FILE).unlink()
    write_store(tmp_path / "other", others(0))
    validate(old, tmp_path / "other", tmp_path / "out", device="cpu")
    page = report.write_report(tmp_path / "out").read_text(encoding="utf-8")
    assert "Shift of deep features" not in page and "deep features are not compared" in page


@pytest.mark.parametrize("content", ["", "patient,part\nP1,test\n", "patient,part,modality,distance\nP1,test,ct,far\n"])
def test_read_distances__a_broken_table_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / feature_space.DISTANCE_FILE).write_text(content)
    with pytest.raises(FitError, match=r"distance\.csv"):
        read_distances(tmp_path)


def test_load_spaces__a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / feature_space.SPACE_FILE).write_text(json.dumps({}))
    with pytest.raises(FitError, match=r"feature_space\.safetensors: not readable"):
        load_spaces(tmp_path)

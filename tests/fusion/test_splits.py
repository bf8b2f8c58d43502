"""Splits: shares, strata, and nobody in two parts."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packs import make_packed

from mumo.config import SplitSettings
from mumo.errors import FitError
from mumo.fusion import metrics
from mumo.fusion.splits import (
    PARTS,
    Split,
    draw_folds,
    draw_split,
    fold_split,
    held_out,
    least_seen,
    read_split,
    split_for,
    strata_of,
    write_split,
)
from mumo.pipeline.synthetic.features import Plan, feature_cohort
from mumo.stores.packed import Packed


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    validation=st.floats(0.05, 0.45),
    test=st.floats(0.0, 0.45),
    seed=st.integers(0, 1000),
)
def test_draw_split__gives_every_stratum_its_share_to_within_two_patients(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    strata = [(number % 2, number) for number, size in enumerate(sizes) for _ in range(size)]
    patients = [f"P{n}" for n in range(len(strata))]
    split = draw_split(patients, strata, SplitSettings(validation=validation, test=test, seed=seed))
    assert set(split.parts) == set(patients)
    for part, share in (("validation", validation), ("test", test)):
        assert abs(sum(p == part for p in split.parts.values()) - share * len(patients)) <= 2
        for stratum in set(strata):
            members = [split.parts[p] for p, s in zip(patients, strata, strict=True) if s == stratum]
            assert abs(members.count(part) - share * len(members)) <= 2


def test_draw_split__keeps_the_shares_of_labels_in_each_part() -> None:
    labels = [1] * 60 + [0] * 100 + [-1] * 40
    patients = [f"P{n}" for n in range(200)]
    split = draw_split(patients, [(label,) for label in labels], SplitSettings(validation=0.2, test=0.25, seed=3))
    counts = Counter((label, split.parts[p]) for p, label in zip(patients, labels, strict=True))
    for label, size in ((1, 60), (0, 100), (-1, 40)):
        assert counts[label, "test"] == pytest.approx(0.25 * size, abs=1)
        assert counts[label, "validation"] == pytest.approx(0.2 * size, abs=1)


def test_draw_split__repeats_by_seed_and_differs_with_another() -> None:
    patients, strata = [f"P{n}" for n in range(50)], [(n % 3,) for n in range(50)]
    one, two, other = (draw_split(patients, strata, SplitSettings(seed=seed)).parts for seed in (1, 1, 2))
    assert one == two
    assert one != other


def test_draw_split__without_a_test_share_has_two_parts() -> None:
    split = draw_split([f"P{n}" for n in range(50)], [()] * 50, SplitSettings(test=0.0))
    assert Counter(split.parts.values()) == {"train": 40, "validation": 10}


def test_draw_split__that_leaves_nobody_to_train_on_is_refused() -> None:
    with pytest.raises(FitError, match=r"validation 0\.5 and test 0\.5 leave nobody"):
        draw_split(["a", "b"], [(), ()], SplitSettings(validation=0.5, test=0.5))


def test_draw_split__of_a_patient_given_twice_is_refused() -> None:
    with pytest.raises(FitError, match="stands twice"):
        draw_split(["a", "a"], [(), ()], SplitSettings())


def test_split_for__stratifies_by_label() -> None:
    packed = make_packed(200)
    split = split_for(packed, SplitSettings(validation=0.25, test=0.2))
    for part, share in (("validation", 0.25), ("test", 0.2)):
        chosen = packed.labels[split.indices(packed.patients, part)]
        for label in (-1, 0, 1):
            assert (chosen == label).sum() == pytest.approx(share * (packed.labels == label).sum(), abs=1)


def rate_by_pattern(packed: Packed, train: np.ndarray, test: np.ndarray) -> float:
    """AUC on `test` of what `train` says about response by which images a patient has: all there is without signal."""
    patterns = np.array(packed.modalities)
    rate = {p: packed.labels[train][patterns[train] == p].mean() for p in np.unique(patterns[train])}
    return metrics.auc(packed.labels[test].astype(float), [rate.get(p, 0.5) for p in patterns[test]])


def test_split_for__of_a_cohort_without_signal_lets_missing_images_tell_nothing() -> None:
    # strata of label × imaging × centre gave a mean of 0.54 here
    found = []
    for seed in range(150):
        packed = no_signal(271, seed)
        split = split_for(packed, SplitSettings(validation=0.16, test=0.34, seed=seed))
        parts = (split.indices(packed.patients, part) for part in ("train", "test"))
        found.append(rate_by_pattern(packed, *parts))
    error = np.std(found, ddof=1) / len(found) ** 0.5
    assert error < 0.007
    assert abs(np.mean(found) - 0.5) < 2.5 * error


def test_fold_split__of_a_cohort_without_signal_lets_missing_images_tell_nothing() -> None:
    found = []
    for seed in range(100):
        packed = no_signal(271, seed)
        fold_of = draw_folds(packed.patients, strata_of(packed), 4, seed)
        split = fold_split(
            packed.patients, strata_of(packed), {p for p, f in fold_of.items() if f == "1"}, SplitSettings(seed=seed)
        )
        parts = (split.indices(packed.patients, part) for part in ("train", "test"))
        found.append(rate_by_pattern(packed, *parts))
    error = np.std(found, ddof=1) / len(found) ** 0.5
    assert error < 0.008
    assert abs(np.mean(found) - 0.5) < 2.5 * error


def no_signal(patients: int, seed: int) -> Packed:
    """A cohort whose labels, imaging and centres are drawn apart; features are not needed."""
    return feature_cohort(Plan(patients=patients, signal=0.0, width=4, words=1, views=1, omics=4), seed).packed


def test_split_for__of_too_few_patients_is_refused() -> None:
    with pytest.raises(FitError, match=r"no patient for validation \(2 patients in all\)"):
        split_for(make_packed(2), SplitSettings(validation=0.01, test=0.0))


def test_read_split__gives_back_what_was_written(tmp_path: Path) -> None:
    split = Split({"a": "train", "b,c": "validation", "d": "test"})
    write_split(split, tmp_path / "split.csv")
    assert read_split(tmp_path / "split.csv").parts == split.parts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("patient,part\na,train\na,test\n", r"line 3: patient a stands there twice \(train and test\)"),
        ("patient,part\na,train\na,train\n", "stands there twice"),
        ("patient,part\na,holdout\n", "line 2: part 'holdout', expected one of train, validation, test"),
        ("patient,part\na\n", "line 2: part ''"),
        ("id,part\na,train\n", r"expected columns patient and part, found \['id', 'part'\]"),
        ("", "expected columns patient and part"),
    ],
)
def test_read_split__that_cannot_be_used_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "split.csv"
    file.write_text(content)
    with pytest.raises(FitError, match=message):
        read_split(file)


def test_read_split__of_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"split none\.csv: cannot be read"):
        read_split(tmp_path / "none.csv")


def test_split_for__takes_a_given_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed = make_packed(6)
    given = {patient: PARTS[n % 3] for n, patient in enumerate(packed.patients)}
    write_split(Split({**given, "GONE": "train"}), tmp_path / "split.csv")
    with caplog.at_level(logging.WARNING):
        split = split_for(packed, SplitSettings(file=tmp_path / "split.csv"))
    assert split.parts == given
    assert "1 patient(s) are not in the store: GONE" in caplog.text
    np.testing.assert_array_equal(split.indices(packed.patients, "validation"), [1, 4])


def test_split_for__of_a_file_that_leaves_patients_out_is_refused(tmp_path: Path) -> None:
    write_split(Split({"P000": "train", "P001": "validation"}), tmp_path / "split.csv")
    with pytest.raises(FitError, match=r"4 patient\(s\) of the store have no part: P002, P003"):
        split_for(make_packed(6), SplitSettings(file=tmp_path / "split.csv"))


def test_least_seen__takes_the_models_that_have_the_patient_in_the_part_they_know_least() -> None:
    splits = [
        Split({"A": "train", "B": "validation", "C": "train"}),
        Split({"A": "test", "B": "train", "C": "train"}),
        Split({"A": "test", "B": "train"}),
    ]
    assert least_seen(splits, "A") == ([1, 2], "test")
    assert least_seen(splits, "B") == ([0], "validation")
    assert least_seen(splits, "C") == ([2], "external")  # of a split that does not name the patient
    assert least_seen(splits, "D") == ([0, 1, 2], "external")
    assert least_seen(splits[:1], "C") == ([0], "train")


def test_held_out__prefers_patients_held_out_from_everything() -> None:
    assert held_out(["train", "external", "validation", "test"]) == ("test", "external")
    assert held_out(["train", "external"]) == ("external",)
    assert held_out(["train", "validation"]) == ("validation",)
    assert held_out({"train"}) == ("train",)
    assert held_out([]) == ()

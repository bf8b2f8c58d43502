"""Patients whom two cohorts share, by id and by what is known of them."""

from __future__ import annotations

import math

import pytest

from mumo.errors import FitError
from mumo.fusion.overlap import People, Shared, find_shared, left_out

SEX = ("patient_information", "sex", (1.0, 0.0))
OWN = People(
    {"A": (100.0, 1.0, 300.0, 0.0), "B": (90.0, 0.0, 90.0, 0.0), "C": (math.nan, math.nan, 50.0, 1.0)},
    {"A": (SEX,), "B": (SEX,), "C": (SEX,)},
)
PARTS = {"A": "train", "B": "test", "C": "validation"}


def shared(outcomes: tuple[float, ...], patient: str = "A", codes: tuple[object, ...] = (SEX,)) -> list[Shared]:
    return find_shared(OWN, PARTS, People({patient: outcomes}, {patient: codes}))  # type: ignore[arg-type, dict-item]


def test_find_shared__by_id_says_whether_the_follow_up_is_the_same() -> None:
    assert shared((100.0, 1.0, 300.0, 0.0)) == [Shared("A", "A", "train", same_data=True)]
    assert shared((100.0, 1.0, 301.0, 0.0)) == [Shared("A", "A", "train", same_data=False)]
    # what one cohort does not know is no difference; but there must be a time that both know
    assert shared((100.0, 1.0, math.nan, math.nan)) == [Shared("A", "A", "train", same_data=True)]
    assert shared((math.nan, 1.0, math.nan, 0.0)) == [Shared("A", "A", "train", same_data=False)]


def test_find_shared__under_another_id_needs_all_outcomes_and_codes() -> None:
    assert shared((100.0, 1.0, 300.0, 0.0), "X") == [Shared("X", "A", "train", same_data=True)]
    assert shared((100.0, 1.0, 300.0, 1.0), "X") == []
    assert shared((100.0, 1.0, 300.0, 0.0), "X", (("patient_information", "sex", (0.0, 1.0)),)) == []
    assert shared((100.0, 1.0, 300.0, 0.0), "X", ()) == []
    assert shared((math.nan, math.nan, 50.0, 1.0), "X") == []


def test_left_out__takes_equal_ids_for_the_same_people_unless_told_otherwise() -> None:
    same, other = Shared("A", "A", "train", same_data=True), Shared("B", "B", "test", same_data=False)
    twin = Shared("X", "C", "validation", same_data=True)
    assert left_out([same, other, twin], new_patients=False) == {"A", "B"}
    assert left_out([other, twin], new_patients=True) == frozenset()
    with pytest.raises(FitError, match=r"--new-patients: 1 patients have the id and the follow-up .* \(A\)"):
        left_out([same, other], new_patients=True)

"""What the checks of explanations say in words."""

from __future__ import annotations

from typing import Any

import pytest

from mumo.fusion.explained import WORDING, sentences


def checks(moved: float, patients: int) -> dict[str, Any]:
    """Checks of maps of words, of which 4, 16 and 64 are left out."""
    rows = [
        {"level": "words", "by": by, "count": count, "moved": change, "spread": 0.0, "patients": patients}
        for by in ("effect", "weight", "random")
        for count, change in ((4, moved), (16, moved), (64, 5.0))  # 64 words are a whole bag
    ]
    likeness = {measure: {"mean": 0.2, "patients": patients} for measure in ("weight", "effect", "shuffled")}
    return {"curves": rows, "likeness": {"words": likeness}}


@pytest.mark.parametrize(("moved", "nothing"), [(0.0, True), (4e-6, True), (4e-5, False), (2.0, False)])
def test_sentences__say_where_leaving_parts_out_changes_nothing(moved: float, nothing: bool) -> None:
    said = sentences(checks(moved, 4), WORDING["risk"])
    assert said[0].startswith("Leaving out 16 words does not move the risk beyond rounding") is nothing
    assert ("4 patients" in said[0], len(said)) == (True, 1 if nothing else 2)


def test_sentences__of_one_patient() -> None:
    assert sentences(checks(2.0, 1), WORDING["risk"])[0].endswith("mean of 1 patient.")

"""Colour scales and titles of the maps of effects."""

from __future__ import annotations

import numpy as np
import pytest

from mumo.commands.explain.pictures import effect_limit, title_of
from mumo.fusion.explained import WORDING


@pytest.mark.parametrize(("largest", "limit"), [(0.0, 1e-5), (2e-7, 1e-5), (3e-4, 3e-4), (9.5, 9.5)])
def test_effect_limit__does_not_blow_rounding_up_to_full_colour(largest: float, limit: float) -> None:
    assert effect_limit(np.array([[0.0, -largest / 2], [-largest, largest / 3]])) == limit


def test_title_of__says_where_no_effect_is_beyond_rounding() -> None:
    assert title_of(np.array([[2e-7, -1e-7]]), WORDING["risk"]) == "effect on the risk: none beyond rounding"
    assert title_of(np.array([[2e-3, -1e-7]]), WORDING["risk"]) == "effect: change of the risk by it"

"""Outlines that cross too often are told before anything is computed on them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from mumo.pipeline.pathology.crossings import cannot_be_joined, cannot_be_repaired, too_tangled


def star(points: int) -> shapely.Polygon:
    return shapely.Polygon(np.random.default_rng(0).uniform(0, 1e5, (points, 2)))


def hatch(count: int) -> list[shapely.Polygon]:
    """Long bars across long bars; each pair has four crossings."""
    step = 1e5 / count
    bars = [shapely.box(i * step + 1, 0, i * step + step / 2, 1e5) for i in range(count)]
    return bars + [shapely.box(0, i * step + 1, 1e5, i * step + step / 2) for i in range(count)]


def test_too_tangled__counts_crossings_exactly() -> None:
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    assert too_tangled([bow_tie], 0)
    assert not too_tangled([bow_tie], 1)
    assert too_tangled(hatch(3), 4 * 9 - 1)
    assert not too_tangled(hatch(3), 4 * 9)


def test_too_tangled__plain_outlines_have_no_crossing() -> None:
    angle = np.linspace(0, 2 * np.pi, 5000, endpoint=False)
    circle = shapely.Polygon(np.column_stack([np.cos(angle), np.sin(angle)]) * 1e4)
    assert not too_tangled([circle, shapely.box(2e4, 0, 3e4, 1e4)], 0)
    assert not too_tangled([], 0)


def test_cannot_be_repaired__scribble_is_refused_and_a_slip_of_the_pen_is_not() -> None:
    assert cannot_be_repaired(star(300))
    assert not cannot_be_repaired(star(20))


@pytest.mark.parametrize("points", [2_000, 50_000])
def test_cannot_be_repaired__is_known_at_once_however_many_crossings(points: int) -> None:
    assert cannot_be_repaired(star(points))


def test_cannot_be_joined__neighbours_with_shared_borders_are_fine() -> None:
    assert not cannot_be_joined([shapely.box(x, y, x + 1, y + 1) for x in range(30) for y in range(30)])
    assert cannot_be_joined(hatch(1000))

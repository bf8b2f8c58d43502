"""Outlines as another annotator might have drawn them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import shapely
from shapely import affinity
from shapely.geometry.base import BaseGeometry

from ..cohorts.variation import Variation

_WAVES = (2, 3, 4, 5)
"""Periods around an outline of the wobble that is added to it; 1 would be a shift."""
_PARTS_OF_SIZE = 16


def vary_areas(
    areas: Sequence[tuple[int, BaseGeometry]], slide: str, variation: Variation
) -> list[tuple[int, BaseGeometry]]:
    """Areas (class, px of level 0) as another annotator might have drawn them.

    With s the square root of an area and σ = `variation.share`, each area is shifted by a normal draw of deviation
    σ·s along x and along y, its size is multiplied by exp of a normal draw of deviation σ, and its outline wobbles by
    waves with 2 to 5 periods around it, σ·s in all (root mean square). All keep their classes and their order.
    """
    return [
        (kind, _vary_area(area, variation.draws(slide, number), variation.share))
        for number, (kind, area) in enumerate(areas)
    ]


def _vary_area(area: BaseGeometry, rng: np.random.Generator, share: float) -> BaseGeometry:
    size = float(np.sqrt(area.area))
    centre = area.centroid
    x, y = rng.normal(0, share * size, 2)
    factor = float(np.exp(rng.normal(0, share)))
    heights, phases = rng.normal(0, 1, len(_WAVES)), rng.uniform(0, 2 * np.pi, len(_WAVES))
    heights *= share * size * np.sqrt(2 / len(_WAVES))

    def wobble(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        offset = points - [centre.x, centre.y]
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        length = np.maximum(np.hypot(offset[:, 0], offset[:, 1]), 1e-9)
        height = sum(h * np.sin(n * angle + p) for n, h, p in zip(_WAVES, heights, phases, strict=True))
        return np.asarray(points + offset * (height / length)[:, None])

    fine = shapely.segmentize(area, max(size / _PARTS_OF_SIZE, 1.0))
    moved = shapely.transform(fine, wobble)
    moved = affinity.translate(affinity.scale(moved, factor, factor, origin=centre), float(x), float(y))
    polygons = [part for part in shapely.get_parts(shapely.make_valid(moved)) if part.geom_type.endswith("Polygon")]
    found = shapely.union_all(polygons)
    return area if found.is_empty else found

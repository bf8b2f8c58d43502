"""How tangled outlines are, told before geometry is computed on them: n edges can cross each other n² times, and
repair and union take time and memory in proportion to that, or worse."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

MAX_IN_REPAIR = 2_000
"""Crossings of an outline with itself that are still repaired: a few seconds; the time grows with the square."""
MAX_IN_UNION = 200_000
"""Crossings between areas, beside touches of neighbours, that are still joined: about ten seconds."""

_CHUNK = 64
_TOUCHES = 4


def too_tangled(areas: Sequence[BaseGeometry], limit: int, touches: int = 0) -> bool:
    """Whether edges of the areas meet more than `limit` times, and `touches` times the number of edges.

    Ends as soon as that is known, so time and memory are bounded whatever the outlines are. That an edge meets the
    next one of its ring does not count.
    """
    rings = shapely.get_rings(shapely.get_parts(np.asarray(areas, object)))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    edges = np.stack([points[:-1], points[1:]], axis=1)[ring[1:] == ring[:-1]] if len(points) else points
    if not len(edges):
        return False
    lines = shapely.linestrings(edges)
    tree = shapely.STRtree(lines)
    allowed = 2 * (limit + touches * len(lines))
    found = start = 0
    while start < len(lines):
        # One edge first, then more at a time, so that not even one answer is large where there are many crossings.
        chunk = lines[start : start + min(start + 1, _CHUNK)]
        start += len(chunk)
        # Each edge meets itself, the one before and the one after; every other pair is found from both sides.
        found += tree.query(chunk, predicate="intersects").shape[1] - 3 * len(chunk)
        if found > allowed:
            return True
    return False


def cannot_be_repaired(area: BaseGeometry) -> bool:
    """Whether an outline crosses itself too often to be made valid in reasonable time."""
    return too_tangled([area], MAX_IN_REPAIR)


def cannot_be_joined(areas: Sequence[BaseGeometry]) -> bool:
    """Whether areas cross each other too often to be joined in reasonable time; shared borders are no crossing."""
    return too_tangled(areas, MAX_IN_UNION, _TOUCHES)

"""Intensities to grey levels: fixed bin width (IBSI Q3RU) or fixed bin number (IBSI K15C).

One discretisation serves every texture class of an image. Levels are kept in an array with a border of zeros, so that
kernels look at neighbours without asking whether they exist or belong to the region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...jit import compiled

MAX_LEVELS = 65_535
"""Highest grey level that texture kernels take."""


class LevelsError(ValueError):
    """A region has more grey levels than the kernels take."""


@dataclass(frozen=True)
class Levels:
    """A region in grey levels."""

    true: npt.NDArray[np.uint16]
    """Grey levels from 1, of shape (z, y, x) with the border; 0 outside the region."""
    ranks: npt.NDArray[np.uint16]
    """The same with levels that do not occur left out: 1 is the lowest that does."""
    values: npt.NDArray[np.int64]
    """Grey levels that occur, increasing; the level of rank r is `values[r - 1]`."""
    counts: npt.NDArray[np.int64]
    """Voxels of each of them."""
    spans: npt.NDArray[np.int64]
    """For each row of `ranks`, where the region's first voxel is and where its last one ends, as (z, y, 2)."""
    box: tuple[int, int, int]
    """Size without the border."""
    flat: bool
    """Whether neighbours are looked for in the slice (z) only."""

    @property
    def highest(self) -> int:
        """Highest grey level, Ng."""
        return int(self.values[-1])

    @property
    def voxels(self) -> int:
        """Voxels of the region."""
        return int(self.counts.sum())


def bin_edges(low: Any, high: Any, values: npt.NDArray[Any], settings: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Edges of the grey-level bins, as PyRadiomics defines them.

    Args:
        low: Smallest value, as a NumPy scalar of the image's type: the edges are rounded as that type is.
        high: Largest value, likewise.
        values: The values, needed for `binCount` only.
        settings: `binCount`, or `binWidth` (default 25).

    Bins of fixed width start at a multiple of the width; integers are taken as 64-bit, where PyRadiomics lets the
    narrow ones overflow. The last bin of a fixed number includes its upper edge.
    """
    count = settings.get("binCount")
    if count is not None:
        edges = np.histogram(values, count)[1].astype(np.float64)
        edges[-1] += 1
        return edges
    width = settings.get("binWidth", 25)
    if isinstance(low, np.integer):
        low, high = np.int64(low), np.int64(high)
    edges = np.arange(low - low % width, high + 2 * width, width)
    if len(edges) == 1:
        return np.array([edges[0] - 0.5, edges[0] + 0.5], dtype=np.float64)
    return edges.astype(np.float64)


def to_levels(
    image: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
    edges: npt.NDArray[np.float64],
    distances: Sequence[int],
    flat: bool,
) -> Levels:
    """Grey levels of `image` inside `mask`, both (z, y, x): a value between edges k - 1 and k gets level k.

    Args:
        distances: Distances of neighbours that kernels will look at.
        flat: Whether they stay in the slice.

    Raises:
        LevelsError: more than MAX_LEVELS grey levels.
    """
    if len(edges) > MAX_LEVELS:
        raise LevelsError(f"{len(edges)} grey levels, at most {MAX_LEVELS}")
    reach = max(1, *distances)
    border = (0 if flat else reach, reach, reach)
    padded = np.zeros([size + 2 * width for size, width in zip(image.shape, border, strict=True)], np.uint16)
    counts = np.zeros(len(edges) + 1, np.int64)
    spans = np.zeros((*padded.shape[:2], 2), np.int64)
    _fill(image, mask, edges, border, padded, counts, spans)
    values = np.flatnonzero(counts)
    ranks = padded
    if len(values) < values[-1]:
        rank_of = np.zeros(len(counts), np.uint16)
        rank_of[values] = np.arange(1, len(values) + 1)
        ranks = rank_of[padded]
    z, y, x = image.shape
    return Levels(padded, ranks, values, counts[values], spans, (z, y, x), flat or z == 1)


@compiled
def _fill(
    image: npt.NDArray[np.float64],
    mask: npt.NDArray[np.bool_],
    edges: npt.NDArray[np.float64],
    border: tuple[int, int, int],
    padded: npt.NDArray[np.uint16],
    counts: npt.NDArray[np.int64],
    spans: npt.NDArray[np.int64],
) -> None:
    last = len(edges) - 1
    first = edges[0]
    scale = last / (edges[last] - first)
    for z in range(image.shape[0]):
        for y in range(image.shape[1]):
            for x in range(image.shape[2]):
                if mask[z, y, x]:
                    value = image[z, y, x]
                    level = min(max(int((value - first) * scale) + 1, 0), last + 1)
                    # Rounding may have put a value near an edge on its wrong side.
                    while level > 0 and value < edges[level - 1]:
                        level -= 1
                    while level <= last and value >= edges[level]:
                        level += 1
                    padded[z + border[0], y + border[1], x + border[2]] = level
                    counts[level] += 1
                    span = spans[z + border[0], y + border[1]]
                    if span[1] == 0:
                        span[0] = x + border[2]
                    span[1] = x + border[2] + 1

"""Directions to neighbouring voxels, in the order and with the exceptions that PyRadiomics has."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Offsets = npt.NDArray[np.int64]


def half_offsets(shape: tuple[int, ...], distances: Sequence[int], flat: bool) -> Offsets:
    """Offsets (n, 3) along z, y, x to one of each two opposite neighbours: the one that comes later in memory.

    Args:
        shape: Size of the region's box; an offset that leaves it from every voxel is left out.
        distances: Distances in the infinity norm.
        flat: Whether to stay in the slice.

    The order is PyRadiomics': from (d, d, d) downwards.
    """
    reach = max(distances)
    z, y, x = (min(size, reach + 1) for size in shape)
    return _half_offsets((z, y, x), tuple(distances), flat)


@functools.lru_cache(maxsize=64)
def _half_offsets(shape: tuple[int, int, int], distances: tuple[int, ...], flat: bool) -> Offsets:
    reach = max(distances)
    steps = range(reach, -reach - 1, -1)
    offsets = np.array(
        [
            offset
            for offset in itertools.product((0,) if flat else steps, steps, steps)
            if offset > (0, 0, 0)
            and max(map(abs, offset)) in distances
            and all(abs(step) < size for step, size in zip(offset, shape, strict=True))
        ],
        dtype=np.int64,
    ).reshape(-1, 3)
    offsets.flags.writeable = False  # shared by all callers
    return offsets


def weights(offsets: Offsets, spacing: tuple[float, ...], norm: str) -> npt.NDArray[np.float64]:
    """Length of each offset (n, 3) in mm by `manhattan`, `euclidean` or `infinity`; 1 for any other norm.

    `spacing` is along z, y, x.
    """
    size = np.abs(offsets) * np.array(spacing)
    if norm == "manhattan":
        return np.asarray(size.sum(axis=1))
    if norm == "euclidean":
        return np.asarray(np.sqrt((size**2).sum(axis=1)))
    if norm == "infinity":
        return np.asarray(size.max(axis=1))
    return np.ones(len(offsets))

"""The kernels: one pass over the voxels for each matrix.

All look at a flat array of ranks with a border of zeros (see `discretise.Levels`), where a step to a neighbour is one
number. Nothing branches on the position or on the neighbour's membership: rank 0 gets a row and a column of its own,
which are dropped at the end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..jit import compiled
from .discretise import Levels
from .offsets import Offsets, half_offsets

Ranks = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

_LANES = 4
"""Directions that a kernel handles at once: writes to one table wait for each other, writes to four do not."""


def steps_of(levels: Levels, offsets: Offsets) -> Counts:
    """Offsets (n, 3) as distances in the flat array of ranks."""
    _, rows, columns = levels.ranks.shape
    return np.asarray(offsets @ np.array([rows * columns, columns, 1]))


def _whole_lanes(number: int) -> int:
    return -(-number // _LANES) * _LANES


def _padded(steps: Counts) -> Counts:
    """Steps filled up with zeros to whole groups; what they count is thrown away."""
    return np.concatenate([steps, np.zeros(_whole_lanes(len(steps)) - len(steps), np.int64)])


def _groups(number: int) -> list[slice]:
    return [slice(first, first + _LANES) for first in range(0, number, _LANES)]


# --- co-occurrence ----------------------------------------------------------------------------------------------
def cooccurrence(levels: Levels, offsets: Offsets) -> Counts:
    """Pairs of ranks for each offset (n, 3): how often a voxel of rank i has its neighbour there of rank j.

    Returns:
        Counts of shape (n, K, K) for the K levels that occur; not symmetrical.
    """
    size = len(levels.values) + 1
    table = np.zeros((_whole_lanes(len(offsets)), size * size), np.int64)
    steps = _padded(steps_of(levels, offsets))
    for lanes in _groups(len(table)):
        _count_pairs(levels.ranks.ravel(), levels.ranks.shape, levels.border, steps[lanes], size, table[lanes])
    return table.reshape(-1, size, size)[: len(offsets), 1:, 1:]


@compiled
def _count_pairs(
    ranks: Ranks, shape: tuple[int, int, int], border: tuple[int, int, int], steps: Counts, size: int, table: Counts
) -> None:
    step_0, step_1, step_2, step_3 = steps[0], steps[1], steps[2], steps[3]
    table_0, table_1, table_2, table_3 = table[0], table[1], table[2], table[3]
    for z in range(border[0], shape[0] - border[0]):
        for y in range(border[1], shape[1] - border[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + border[2], row + shape[2] - border[2]):
                here = ranks[i]
                if here > 0:
                    base = here * size
                    table_0[base + ranks[i + step_0]] += 1
                    table_1[base + ranks[i + step_1]] += 1
                    table_2[base + ranks[i + step_2]] += 1
                    table_3[base + ranks[i + step_3]] += 1


# --- runs -------------------------------------------------------------------------------------------------------
def run_lengths(levels: Levels, offsets: Offsets) -> tuple[Counts, npt.NDArray[np.bool_]]:
    """Runs of one rank along each offset (n, 3).

    Returns:
        Counts of shape (n, K, R): runs of rank i and length j + 1, R the longest that occurs; and for each offset
        whether any line along it holds two voxels of the region. Where none does, a run means nothing.
    """
    longest = max(levels.box)
    shape = levels.ranks.shape
    table = np.zeros((_whole_lanes(len(offsets)), len(levels.values) + 1, longest + 2), np.int64)
    lengths = np.zeros((_LANES, levels.ranks.size), np.int32)
    followed = np.zeros(len(table), np.uint16)
    steps = _padded(steps_of(levels, offsets))
    for lanes in _groups(len(table)):
        _count_positions(
            levels.ranks.ravel(), shape, levels.border, steps[lanes], lengths, table[lanes], followed[lanes]
        )
    paired = [bool(yes) or _shares_a_line(levels, offset) for yes, offset in zip(followed, offsets, strict=False)]
    # A run of length r has one voxel at each position 1 … r: runs of exactly r are those that reach r less those that
    # reach r + 1.
    runs = table[: len(offsets), 1:, 1:-1] - table[: len(offsets), 1:, 2:]
    used = np.flatnonzero(runs.any(axis=(0, 1)))
    return runs[:, :, : used[-1] + 1], np.array(paired, np.bool_)


@compiled
def _count_positions(
    ranks: Ranks,
    shape: tuple[int, int, int],
    border: tuple[int, int, int],
    steps: Counts,
    lengths: npt.NDArray[np.int32],
    table: Counts,
    followed: Ranks,
) -> None:
    """Count voxels by rank and position in their run; note where two voxels of the region follow each other."""
    step_0, step_1, step_2, step_3 = steps[0], steps[1], steps[2], steps[3]
    length_0, length_1, length_2, length_3 = lengths[0], lengths[1], lengths[2], lengths[3]
    table_0, table_1, table_2, table_3 = table[0], table[1], table[2], table[3]
    for z in range(border[0], shape[0] - border[0]):
        for y in range(border[1], shape[1] - border[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + border[2], row + shape[2] - border[2]):
                here = ranks[i]
                if here > 0:
                    before_0, before_1 = ranks[i - step_0], ranks[i - step_1]
                    before_2, before_3 = ranks[i - step_2], ranks[i - step_3]
                    position_0 = length_0[i - step_0] * (before_0 == here) + 1
                    position_1 = length_1[i - step_1] * (before_1 == here) + 1
                    position_2 = length_2[i - step_2] * (before_2 == here) + 1
                    position_3 = length_3[i - step_3] * (before_3 == here) + 1
                    length_0[i], length_1[i], length_2[i], length_3[i] = position_0, position_1, position_2, position_3
                    table_0[here, position_0] += 1
                    table_1[here, position_1] += 1
                    table_2[here, position_2] += 1
                    table_3[here, position_3] += 1
                    followed[0] |= before_0
                    followed[1] |= before_1
                    followed[2] |= before_2
                    followed[3] |= before_3


def _shares_a_line(levels: Levels, offset: npt.NDArray[np.int64]) -> bool:
    """Whether two voxels of the region lie on one line along the offset, gaps between them or not."""
    voxels = np.argwhere(levels.ranks)
    axis = int(np.flatnonzero(offset)[0])
    # All steps are -1, 0 or 1: moving every voxel along the line to coordinate 0 of one axis gives the line's name.
    lines = voxels - (voxels[:, axis] * offset[axis])[:, None] * offset
    return len(np.unique(lines, axis=0)) < len(voxels)


# --- zones ------------------------------------------------------------------------------------------------------
def zones(levels: Levels) -> tuple[Counts, Counts, Counts]:
    """Connected zones of one rank (8 neighbours in a slice, 26 in 3-D).

    Returns:
        Three arrays of one length: rank (from 0), size in voxels, and how many zones have both; ordered by them.
    """
    parent = np.empty(levels.voxels, np.int32)
    sizes = np.zeros(levels.voxels, np.int32)
    rank_of = np.zeros(levels.voxels, np.uint16)
    labels = np.zeros(levels.ranks.size, np.int32)
    flat_ranks = levels.ranks.ravel()
    if levels.flat:
        found = _label_flat(flat_ranks, levels.ranks.shape, levels.border, labels, parent, sizes, rank_of)
    else:
        steps = steps_of(levels, half_offsets((2, 2, 2), (1,), flat=False))
        found = _label_solid(flat_ranks, levels.ranks.shape, levels.border, steps, labels, parent, sizes, rank_of)
    whole = sizes[:found] > 0
    codes = rank_of[:found][whole].astype(np.int64) << 32 | sizes[:found][whole]
    codes, numbers = np.unique(codes, return_counts=True)
    return (codes >> 32) - 1, codes & 0xFFFFFFFF, numbers


@compiled
def _root(parent: npt.NDArray[np.int32], label: int) -> int:
    while parent[label] != label:
        parent[label] = parent[parent[label]]
        label = parent[label]
    return label


@compiled
def _join(parent: npt.NDArray[np.int32], one: int, other: int) -> int:
    one, other = _root(parent, one), _root(parent, other)
    if one < other:
        parent[other] = one
        return one
    parent[one] = other
    return other


@compiled
def _gather(parent: npt.NDArray[np.int32], sizes: npt.NDArray[np.int32], found: int) -> None:
    # A label's root is never greater than the label: one pass downwards adds every size to its root.
    for label in range(found - 1, -1, -1):
        if parent[label] != label:
            sizes[parent[label]] += sizes[label]
            sizes[label] = 0


@compiled
def _label_flat(
    ranks: Ranks,
    shape: tuple[int, int, int],
    border: tuple[int, int, int],
    labels: npt.NDArray[np.int32],
    parent: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
    rank_of: Ranks,
) -> int:
    """Label slice by slice, row by row; neighbours that touch each other were joined when the later one was seen."""
    found = 0
    for z in range(border[0], shape[0] - border[0]):
        for y in range(border[1], shape[1] - border[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + border[2], row + shape[2] - border[2]):
                here = ranks[i]
                if here == 0:
                    continue
                above = i - shape[2]
                if ranks[above] == here:
                    label = labels[above]
                elif ranks[i - 1] == here:
                    label = labels[i - 1]
                    if ranks[above + 1] == here and labels[above + 1] != label:
                        label = _join(parent, label, labels[above + 1])
                elif ranks[above - 1] == here:
                    label = labels[above - 1]
                    if ranks[above + 1] == here and labels[above + 1] != label:
                        label = _join(parent, label, labels[above + 1])
                elif ranks[above + 1] == here:
                    label = labels[above + 1]
                else:
                    label = found
                    parent[label] = label
                    rank_of[label] = here
                    found += 1
                labels[i] = label
                sizes[label] += 1
    _gather(parent, sizes, found)
    return found


@compiled
def _label_solid(
    ranks: Ranks,
    shape: tuple[int, int, int],
    border: tuple[int, int, int],
    steps: Counts,
    labels: npt.NDArray[np.int32],
    parent: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
    rank_of: Ranks,
) -> int:
    """Label in 3-D. The voxel below touches all earlier neighbours: where it has the rank, it speaks for them."""
    found = 0
    below = shape[1] * shape[2]
    for z in range(border[0], shape[0] - border[0]):
        for y in range(border[1], shape[1] - border[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + border[2], row + shape[2] - border[2]):
                here = ranks[i]
                if here == 0:
                    continue
                label = -1
                if ranks[i - below] == here:
                    label = labels[i - below]
                else:
                    for step in steps:
                        if ranks[i - step] == here:
                            other = labels[i - step]
                            if label < 0:
                                label = other
                            elif other != label:
                                label = _join(parent, label, other)
                if label < 0:
                    label = found
                    parent[label] = label
                    rank_of[label] = here
                    found += 1
                labels[i] = label
                sizes[label] += 1
    _gather(parent, sizes, found)
    return found


# --- neighbourhoods ---------------------------------------------------------------------------------------------
def neighbourhoods(levels: Levels, offsets: Offsets, tolerance: int) -> tuple[Counts, npt.NDArray[np.float64]]:
    """Dependence and tone differences in one pass.

    Args:
        offsets: One of each two opposite neighbours (n, 3).
        tolerance: Largest difference of levels that counts as dependent.

    Returns:
        Counts of shape (K, 2 n + 1): voxels of rank i with j dependent neighbours; and, of shape (K,), the sum over
        the voxels of rank i of the absolute difference between their level and the mean of their neighbours' levels,
        0 for a voxel without neighbours.
    """
    steps = steps_of(levels, offsets)
    steps = np.concatenate([steps, -steps])
    dependent = np.zeros((levels.highest + 1, len(steps) + 1), np.int64)
    differences = np.zeros((levels.highest + 1, len(steps) + 1), np.int64)
    work = np.zeros((3, levels.true.shape[2]), np.int32)
    _look_around(levels.true.ravel(), levels.true.shape, levels.border, steps, tolerance, work, dependent, differences)
    # Differences were summed as whole numbers, multiplied by the number of neighbours: exact in any order.
    numbers = np.maximum(np.arange(len(steps) + 1), 1)
    return dependent[levels.values], (differences[levels.values] / numbers).sum(axis=1)


@compiled
def _look_around(
    true: Ranks,
    shape: tuple[int, int, int],
    border: tuple[int, int, int],
    steps: Counts,
    tolerance: int,
    work: npt.NDArray[np.int32],
    dependent: Counts,
    differences: Counts,
) -> None:
    width = shape[2] - 2 * border[2]
    alike, present, total = work[0], work[1], work[2]
    for z in range(border[0], shape[0] - border[0]):
        for y in range(border[1], shape[1] - border[1]):
            row = (z * shape[1] + y) * shape[2] + border[2]
            alike[:] = 0
            present[:] = 0
            total[:] = 0
            here = true[row : row + width]
            for step in steps:
                there = true[row + step : row + step + width]
                for x in range(width):
                    level = np.int32(there[x])
                    inside = level > 0
                    total[x] += level
                    present[x] += inside
                    alike[x] += inside & (abs(level - np.int32(here[x])) <= tolerance)
            for x in range(width):
                level = np.int64(here[x])
                if level > 0:
                    dependent[level, alike[x]] += 1
                    differences[level, present[x]] += abs(level * present[x] - total[x])

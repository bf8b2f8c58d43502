"""The kernels: one pass over the voxels for each matrix.

All look at a flat array of ranks with a border of zeros (see `discretise.Levels`), where a step to a neighbour is one
number. Nothing branches on the position or on the neighbour's membership: rank 0 gets a row and a column of its own,
which are dropped at the end.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...jit import compiled
from .discretise import Levels
from .offsets import Offsets

Ranks = npt.NDArray[np.uint16]
Counts = npt.NDArray[np.int64]

_PAIR_LANES = 4
"""Directions whose pairs are counted at once: writes to one table wait for each other, writes to four do not."""
_LANES = 3
"""The same for runs; of 4 directions in a slice and 13 in space, the one along rows is done apart."""


def steps_of(levels: Levels, offsets: Offsets) -> Counts:
    """Offsets (n, 3) as distances in the flat array of ranks."""
    _, rows, columns = levels.ranks.shape
    return np.asarray(offsets @ np.array([rows * columns, columns, 1]))


# --- co-occurrence ----------------------------------------------------------------------------------------------
def cooccurrence(levels: Levels, offsets: Offsets) -> Counts:
    """Pairs of ranks for each offset (n, 3): how often a voxel of rank i has its neighbour there of rank j.

    Returns:
        Counts of shape (n, K, K) for the K levels that occur; not symmetrical.
    """
    size = len(levels.values) + 1
    # Filled up to whole groups; what the extra lanes count is thrown away.
    steps = np.concatenate([steps_of(levels, offsets), np.zeros(-len(offsets) % _PAIR_LANES, np.int64)])
    table = np.zeros((len(steps), size * size), np.int64)
    for first in range(0, len(steps), _PAIR_LANES):
        lanes = slice(first, first + _PAIR_LANES)
        _count_pairs(levels.ranks.ravel(), levels.ranks.shape, levels.spans, steps[lanes], size, table[lanes])
    return table.reshape(-1, size, size)[: len(offsets), 1:, 1:]


@compiled
def _count_pairs(
    ranks: Ranks, shape: tuple[int, int, int], spans: Counts, steps: Counts, size: int, table: Counts
) -> None:
    step_0, step_1, step_2, step_3 = steps[0], steps[1], steps[2], steps[3]
    table_0, table_1, table_2, table_3 = table[0], table[1], table[2], table[3]
    for z in range(shape[0]):
        for y in range(shape[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + spans[z, y, 0], row + spans[z, y, 1]):
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
    ranks, shape, spans = levels.ranks.ravel(), levels.ranks.shape, levels.spans
    along_rows = (offsets == (0, 0, 1)).all(axis=1)
    others = np.flatnonzero(~along_rows)
    # Filled up to whole groups; what the extra lanes count is thrown away.
    lanes = np.concatenate([others, np.full(-len(others) % _LANES, len(offsets))])
    steps = np.append(steps_of(levels, offsets), 0)
    table = np.zeros((len(offsets) + 1, len(levels.values) + 1, longest + 2), np.int64)
    followed = np.zeros(len(offsets) + 1, np.bool_)
    lengths = np.zeros((_LANES, ranks.size), np.int32)
    for group in lanes.reshape(-1, _LANES):
        _count_positions(ranks, shape, spans, steps[group], lengths, group, table, followed)
    for row in np.flatnonzero(along_rows):
        followed[row] = _count_row_positions(ranks, shape, spans, table[row])
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
    spans: Counts,
    steps: Counts,
    lengths: npt.NDArray[np.int32],
    group: Counts,
    table: Counts,
    followed: npt.NDArray[np.bool_],
) -> None:
    """Count voxels by rank and position in their run; note where two voxels of the region follow each other."""
    step_0, step_1, step_2 = steps[0], steps[1], steps[2]
    length_0, length_1, length_2 = lengths[0], lengths[1], lengths[2]
    table_0, table_1, table_2 = table[group[0]], table[group[1]], table[group[2]]
    any_0, any_1, any_2 = np.uint16(0), np.uint16(0), np.uint16(0)
    for z in range(shape[0]):
        for y in range(shape[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + spans[z, y, 0], row + spans[z, y, 1]):
                here = ranks[i]
                if here > 0:
                    before_0, before_1, before_2 = ranks[i - step_0], ranks[i - step_1], ranks[i - step_2]
                    position_0 = length_0[i - step_0] * (before_0 == here) + 1
                    position_1 = length_1[i - step_1] * (before_1 == here) + 1
                    position_2 = length_2[i - step_2] * (before_2 == here) + 1
                    length_0[i], length_1[i], length_2[i] = position_0, position_1, position_2
                    table_0[here, position_0] += 1
                    table_1[here, position_1] += 1
                    table_2[here, position_2] += 1
                    any_0 |= before_0
                    any_1 |= before_1
                    any_2 |= before_2
    followed[group[0]], followed[group[1]], followed[group[2]] = any_0 > 0, any_1 > 0, any_2 > 0


@compiled
def _count_row_positions(ranks: Ranks, shape: tuple[int, int, int], spans: Counts, table: Counts) -> bool:
    """The same along rows."""
    followed = np.uint16(0)
    for z in range(shape[0]):
        for y in range(shape[1]):
            row = (z * shape[1] + y) * shape[2]
            before, position = np.uint16(0), 0
            for i in range(row + spans[z, y, 0], row + spans[z, y, 1]):
                here = ranks[i]
                position = position + 1 if here == before else 1
                if here > 0:
                    table[here, position] += 1
                    followed |= before
                before = here
    return bool(followed > 0)


def _shares_a_line(levels: Levels, offset: npt.NDArray[np.int64]) -> bool:
    """Whether two voxels of the region lie on one line along the offset, gaps between them or not."""
    voxels = np.argwhere(levels.ranks)
    axis = int(np.flatnonzero(offset)[0])
    # All steps are -1, 0 or 1: moving every voxel along the line to coordinate 0 of one axis gives the line's name.
    lines = voxels - (voxels[:, axis] * offset[axis])[:, None] * offset
    return len(np.unique(lines, axis=0)) < len(voxels)


# --- zones ------------------------------------------------------------------------------------------------------
def zones(levels: Levels, offsets: Offsets) -> tuple[Counts, Counts, Counts]:
    """Connected zones of one rank, neighbours being those at `offsets` (n, 3): 8 in a slice, 26 in 3-D.

    Returns:
        Three arrays of one length: rank (from 0), size in voxels, and how many zones have both.
    """
    parent = np.empty(levels.voxels, np.int32)
    sizes = np.zeros(levels.voxels, np.int32)
    rank_of = np.zeros(levels.voxels, np.uint16)
    labels = np.zeros(levels.ranks.size, np.int32)
    flat_ranks = levels.ranks.ravel()
    if levels.flat:
        found = _label_flat(flat_ranks, levels.ranks.shape, levels.spans, labels, parent, sizes, rank_of)
    else:
        steps = steps_of(levels, offsets)
        found = _label_solid(flat_ranks, levels.ranks.shape, levels.spans, steps, labels, parent, sizes, rank_of)
    # Most zones are small: those are counted in a table, the others are sorted.
    small = np.zeros((len(levels.values) + 1, _SMALL_ZONE + 1), np.int64)
    large = _count_zones(rank_of, sizes, found, small)
    codes, numbers = np.unique(large, return_counts=True)
    rank, size = np.nonzero(small)
    return (
        np.concatenate([rank, codes >> 32]) - 1,
        np.concatenate([size, codes & 0xFFFFFFFF]),
        np.concatenate([small[rank, size], numbers]),
    )


_SMALL_ZONE = 63


@compiled
def _count_zones(rank_of: Ranks, sizes: npt.NDArray[np.int32], found: int, small: Counts) -> Counts:
    """Count zones by rank and size where the size is small; returns the others as rank · 2³² + size."""
    largest = small.shape[1] - 1
    number = 0
    for label in range(found):
        number += sizes[label] > largest
    others = np.empty(number, np.int64)
    number = 0
    for label in range(found):
        size = np.int64(sizes[label])
        if size > largest:
            others[number] = (np.int64(rank_of[label]) << 32) | size
            number += 1
        elif size > 0:
            small[rank_of[label], size] += 1
    return others


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
    spans: Counts,
    labels: npt.NDArray[np.int32],
    parent: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
    rank_of: Ranks,
) -> int:
    """Label slice by slice, row by row; neighbours that touch each other were joined when the later one was seen."""
    found = 0
    for z in range(shape[0]):
        for y in range(shape[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + spans[z, y, 0], row + spans[z, y, 1]):
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
    spans: Counts,
    steps: Counts,
    labels: npt.NDArray[np.int32],
    parent: npt.NDArray[np.int32],
    sizes: npt.NDArray[np.int32],
    rank_of: Ranks,
) -> int:
    """Label in 3-D. The voxel below touches all earlier neighbours: where it has the rank, it speaks for them."""
    found = 0
    below = shape[1] * shape[2]
    for z in range(shape[0]):
        for y in range(shape[1]):
            row = (z * shape[1] + y) * shape[2]
            for i in range(row + spans[z, y, 0], row + spans[z, y, 1]):
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
    _look_around(levels.true.ravel(), levels.true.shape, levels.spans, steps, tolerance, work, dependent, differences)
    # Differences were summed as whole numbers, multiplied by the number of neighbours: exact in any order.
    numbers = np.maximum(np.arange(len(steps) + 1), 1)
    return dependent[levels.values], (differences[levels.values] / numbers).sum(axis=1)


@compiled
def _look_around(
    true: Ranks,
    shape: tuple[int, int, int],
    spans: Counts,
    steps: Counts,
    tolerance: int,
    work: npt.NDArray[np.int32],
    dependent: Counts,
    differences: Counts,
) -> None:
    for z in range(shape[0]):
        for y in range(shape[1]):
            width = spans[z, y, 1] - spans[z, y, 0]
            if width == 0:
                continue
            row = (z * shape[1] + y) * shape[2] + spans[z, y, 0]
            alike, present, total = work[0, :width], work[1, :width], work[2, :width]
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
                own = np.int64(here[x])
                if own > 0:
                    dependent[own, alike[x]] += 1
                    differences[own, present[x]] += abs(own * present[x] - total[x])

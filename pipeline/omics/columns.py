"""Rows of an array to columns and back, for recursive filters: many rows are filtered at once, side by side."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from ..jit import compiled

Array = npt.NDArray[Any]


@compiled
def to_columns(source: Array, start: int, width: int, lines: Array) -> None:
    """`width` rows of (rows, length) from `start` on become columns of flat `lines` (length, width).

    Eight rows go together, so that writes to a line are next to each other.
    """
    whole = width // 8 * 8
    for x in range(0, whole, 8):
        at = start + x
        row0, row1, row2, row3 = source[at], source[at + 1], source[at + 2], source[at + 3]
        row4, row5, row6, row7 = source[at + 4], source[at + 5], source[at + 6], source[at + 7]
        for i in range(source.shape[1]):
            line = lines[i * width + x : i * width + x + 8]
            line[0], line[1], line[2], line[3] = row0[i], row1[i], row2[i], row3[i]
            line[4], line[5], line[6], line[7] = row4[i], row5[i], row6[i], row7[i]
    for x in range(whole, width):
        for i in range(source.shape[1]):
            lines[i * width + x] = source[start + x, i]


@compiled
def from_columns(lines: Array, width: int, target: Array, start: int) -> None:
    """The reverse of `to_columns`."""
    whole = width // 8 * 8
    for x in range(0, whole, 8):
        at = start + x
        row0, row1, row2, row3 = target[at], target[at + 1], target[at + 2], target[at + 3]
        row4, row5, row6, row7 = target[at + 4], target[at + 5], target[at + 6], target[at + 7]
        for i in range(target.shape[1]):
            line = lines[i * width + x : i * width + x + 8]
            row0[i], row1[i], row2[i], row3[i] = line[0], line[1], line[2], line[3]
            row4[i], row5[i], row6[i], row7[i] = line[4], line[5], line[6], line[7]
    for x in range(whole, width):
        for i in range(target.shape[1]):
            target[start + x, i] = lines[i * width + x]

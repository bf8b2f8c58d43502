"""Rows of an array to columns and back, for recursive filters: many rows are filtered at once, side by side."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from .jit import compiled

Array = npt.NDArray[Any]


@compiled
def to_columns(source: Array, start: int, width: int, lines: Array) -> None:
    """`width` rows of (rows, length) from `start` on become columns of flat `lines` (length, width).

    Eight rows go together, so that writes to a line are next to each other.
    """
    whole = width // 8 * 8
    for x in range(0, whole, 8):
        row0, row1, row2, row3 = source[start + x], source[start + x + 1], source[start + x + 2], source[start + x + 3]
        row4, row5, row6, row7 = source[start + x + 4], source[start + x + 5], source[start + x + 6], source[start + x + 7]
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
        row0, row1, row2, row3 = target[start + x], target[start + x + 1], target[start + x + 2], target[start + x + 3]
        row4, row5, row6, row7 = target[start + x + 4], target[start + x + 5], target[start + x + 6], target[start + x + 7]
        for i in range(target.shape[1]):
            line = lines[i * width + x : i * width + x + 8]
            row0[i], row1[i], row2[i], row3[i] = line[0], line[1], line[2], line[3]
            row4[i], row5[i], row6[i], row7[i] = line[4], line[5], line[6], line[7]
    for x in range(whole, width):
        for i in range(target.shape[1]):
            target[start + x, i] = lines[i * width + x]

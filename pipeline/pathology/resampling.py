"""Kernels that turn the pixels of a level into a picture at the working resolution.

The rule is one: every output pixel is the mean over the area that it covers, rounded half up. The two commonest cases,
a level that is read as it is and one of half the pixel size, are computed in whole numbers: the same bytes, sooner.
"""

from __future__ import annotations

import math
import sys

import numpy as np
import numpy.typing as npt

from ..jit import compiled

_RED_BLUE = 0x00FF00FF
_LOW_BYTE = 0xFF


def resample(source: npt.NDArray[np.uint8], left: float, top: float, scale: float, out: npt.NDArray[np.uint8]) -> None:
    """Fill `out` (y, x, 3) from `source` (y, x, 4, contiguous): see `average_area`, which it equals byte for byte."""
    x, y, side = int(left), int(top), int(scale)
    whole = (x, y, side) == (left, top, scale) and side in (1, 2) and sys.byteorder == "little"
    if whole and y + out.shape[0] * side <= source.shape[0] and x + out.shape[1] * side <= source.shape[1]:
        words = source.view(np.uint32)[y:, x:, 0]
        if side == 1:
            _copy(words, out)
        else:
            _average_fours(words, out)
    else:
        average_area(source, left, top, scale, out)


@compiled
def _copy(source: npt.NDArray[np.uint32], out: npt.NDArray[np.uint8]) -> None:
    """Pixels of four bytes (y, x) as (y, x, 3)."""
    for i in range(out.shape[0]):
        row, line = source[i], out[i]
        for j in range(out.shape[1]):
            pixel = row[j]
            line[j, 0] = pixel & np.uint32(_LOW_BYTE)
            line[j, 1] = (pixel >> np.uint32(8)) & np.uint32(_LOW_BYTE)
            line[j, 2] = (pixel >> np.uint32(16)) & np.uint32(_LOW_BYTE)


@compiled
def _average_fours(source: npt.NDArray[np.uint32], out: npt.NDArray[np.uint8]) -> None:
    """Means of squares of two by two pixels of four bytes (y, x), as (y, x, 3).

    Red and blue are summed in one number, sixteen bits apart.
    """
    pair, low = np.uint32(_RED_BLUE), np.uint32(_LOW_BYTE)
    for i in range(out.shape[0]):
        upper, lower, line = source[2 * i], source[2 * i + 1], out[i]
        for j in range(out.shape[1]):
            a, b, c, d = upper[2 * j], upper[2 * j + 1], lower[2 * j], lower[2 * j + 1]
            red_blue = (a & pair) + (b & pair) + (c & pair) + (d & pair) + np.uint32(0x00020002)
            a, b, c, d = a >> np.uint32(8), b >> np.uint32(8), c >> np.uint32(8), d >> np.uint32(8)
            green = (a & low) + (b & low) + (c & low) + (d & low) + np.uint32(2)
            line[j, 0] = (red_blue >> np.uint32(2)) & low
            line[j, 1] = green >> np.uint32(2)
            line[j, 2] = red_blue >> np.uint32(18)


@compiled
def average_area(
    source: npt.NDArray[np.uint8], left: float, top: float, scale: float, out: npt.NDArray[np.uint8]
) -> None:
    """Area average: pixel (i, j) of `out` is the mean of `source` over a square of side `scale`.

    Args:
        source: (y, x, 4); the fourth channel is left out.
        left: x of the left edge of `out`, in px of `source`.
        top: y of its top edge.
        scale: side of one pixel of `out`, in px of `source`; below 1 pixels are repeated in part (no smoothing).
        out: (y, x, 3), filled with values rounded half up.
    """
    height, width = source.shape[:2]
    first, last, head, tail = _spans(out.shape[1], left, scale, width)
    line = np.empty(width * 4, np.float32)
    for i in range(out.shape[0]):
        y_low, y_high = top + i * scale, top + (i + 1) * scale
        line[:] = 0.0
        for y in range(min(int(y_low), height - 1), min(math.ceil(y_high), height)):
            share = np.float32(min(y + 1.0, y_high) - max(float(y), y_low))
            row = source[y].reshape(-1)
            for k in range(width * 4):
                line[k] += share * np.float32(row[k])
        factor = np.float32(1 / (scale * scale))
        for j in range(out.shape[1]):
            low, high = first[j], last[j]
            red = head[j] * line[low] + tail[j] * line[high]
            green = head[j] * line[low + 1] + tail[j] * line[high + 1]
            blue = head[j] * line[low + 2] + tail[j] * line[high + 2]
            for k in range(low + 4, high, 4):
                red += line[k]
                green += line[k + 1]
                blue += line[k + 2]
            out[i, j, 0] = np.uint8(min(red * factor + np.float32(0.5), np.float32(255)))
            out[i, j, 1] = np.uint8(min(green * factor + np.float32(0.5), np.float32(255)))
            out[i, j, 2] = np.uint8(min(blue * factor + np.float32(0.5), np.float32(255)))


@compiled
def _spans(
    count: int, left: float, scale: float, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """For each of `count` output columns: places of the first and last pixel under it in a row of RGBA, and how
    much of these two it covers; of a single pixel the first share is all."""
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    head, tail = np.empty(count, np.float32), np.empty(count, np.float32)
    for j in range(count):
        x_low, x_high = left + j * scale, left + (j + 1) * scale
        low = min(int(x_low), width - 1)
        high = max(min(math.ceil(x_high), width) - 1, low)
        first[j], last[j] = 4 * low, 4 * high
        head[j] = np.float32(min(low + 1.0, x_high) - x_low)
        tail[j] = np.float32(x_high - high if high > low else 0.0)
    return first, last, head, tail


@compiled
def lay_on_background(
    rgba: npt.NDArray[np.uint8], background: tuple[int, int, int], opaque: npt.NDArray[np.uint8]
) -> bool:
    """Lay a picture (y, x, 4) over a colour, into `opaque` (y, x, 4), rounded half up.

    Returns whether any of it was transparent; where not, `opaque` is left as it was.
    """
    height, width = rgba.shape[:2]
    transparent = False
    for y in range(height):
        for x in range(width):
            transparent |= rgba[y, x, 3] != 255
    if transparent:
        for y in range(height):
            for x in range(width):
                alpha = np.uint32(rgba[y, x, 3])
                for channel in range(3):
                    mixed = rgba[y, x, channel] * alpha + np.uint32(background[channel]) * (np.uint32(255) - alpha)
                    opaque[y, x, channel] = (mixed + np.uint32(127)) // np.uint32(255)
                opaque[y, x, 3] = 255
    return transparent

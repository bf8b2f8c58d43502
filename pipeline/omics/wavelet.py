"""Stationary wavelet transform (one step, undecimated) of a box of an image, with the numbers of PyWavelets.

Each step filters along the axes in turn with the low-pass and the high-pass filter, periodic at the borders:
out(o) = Σⱼ filter(j) · in(o + F/2 − j). Sub-bands of a flat image are 0 but for rounding, and 0 is an edge between grey
levels, so sums are formed term by term in PyWavelets' order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pywt

from ..jit import compiled

Array = npt.NDArray[Any]
Box = tuple[slice, slice, slice]


def sub_bands(image: Array, box: Box, wavelet: str, axes: Sequence[int], levels: int, first_level: int) -> list[Array]:
    """Sub-bands of `image` (z, y, x) inside `box`.

    Args:
        image: Integers or float64, transformed in float64, or float32, transformed in float32.
        box: The part that is wanted.
        wavelet: PyWavelets' name of a discrete wavelet.
        axes: Axes to transform, in order.
        levels: How many levels are returned.
        first_level: Levels that come before them; only their approximation is used.

    Returns:
        For each level the 2ⁿ sub-bands of n axes, from all low-pass to all high-pass, the first axis changing slowest.
        Each level starts from the approximation of the one before; filters are not spread. Axes of odd length are
        made even by repeating their first plane at the end.
    """
    dtype = np.float32 if image.dtype == np.float32 else np.float64
    taps = _taps(wavelet, dtype is np.float32)
    number = len(taps[0])
    lengths = tuple(size + size % 2 for size in image.shape)
    total = first_level + levels
    if any(lengths[axis] < number * 2 for axis in axes):
        return _by_pywavelets(image, box, wavelet, axes, levels, first_level)
    # A value depends on F/2 − 1 values before it and F/2 after it along each axis, at each level.
    before, after = number // 2 - 1, number // 2
    starts = [part.start - total * before * (axis in axes) for axis, part in enumerate(box)]
    stops = [part.stop + total * after * (axis in axes) for axis, part in enumerate(box)]
    data = _periodic(image, lengths, starts, stops).astype(dtype)
    results: list[Array] = []
    for level in range(total):
        bands = [data]
        for axis in axes:
            bands = [half for band in bands for half in _split(band, axis, taps, starts[axis], lengths[axis])]
        for axis in axes:
            starts[axis] += before
        data = bands[0]
        if level >= first_level:
            rest = total - level - 1
            inside = tuple(
                slice(rest * before, size - rest * after) if axis in axes else slice(None)
                for axis, size in enumerate(data.shape)
            )
            results += [band[inside] for band in bands]
    return results


def _periodic(image: Array, lengths: Sequence[int], starts: Sequence[int], stops: Sequence[int]) -> Array:
    """The image from `starts` to `stops`, continued periodically; an odd axis has its first plane again at its end."""
    if all(start >= 0 and stop <= size for start, stop, size in zip(starts, stops, image.shape, strict=True)):
        return image[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))]
    places = []
    for start, stop, size, length in zip(starts, stops, image.shape, lengths, strict=True):
        place = np.arange(start, stop) % length
        place[place == size] = 0
        places.append(place)
    return np.asarray(image[np.ix_(*places)])


@functools.lru_cache(maxsize=16)
def _taps(wavelet: str, single: bool) -> tuple[Array, Array]:
    """Low-pass and high-pass taps as PyWavelets holds them in this precision: its response to an impulse."""
    number = pywt.Wavelet(wavelet).dec_len
    impulse = np.zeros(2 * number + 2 - number % 2, np.float32 if single else np.float64)
    impulse[number] = 1
    low, high = pywt.swt(impulse, wavelet, level=1)[0]
    first = number - number // 2
    return low[first : first + number].copy(), high[first : first + number].copy()


def _split(data: Array, axis: int, taps: tuple[Array, Array], start: int, length: int) -> list[Array]:
    """Low-pass and high-pass halves along an axis, shorter by F − 1; `start` is the place of data[0] in its period."""
    number = len(taps[0])
    shape = list(data.shape)
    shape[axis] -= number - 1
    rows, inner = int(np.prod(shape[:axis])), int(np.prod(shape[axis + 1 :]))
    # The first output stands F/2 − 1 places after the first input. PyWavelets begins the sums near the end of the
    # period with the terms that wrap around it, nearest to the end first: how many there are, for each output.
    places = (start + number // 2 - 1 + np.arange(shape[axis])) % length
    wrapped = np.maximum(places + number // 2 - length + 1, 0)
    block = np.ascontiguousarray(data).reshape(rows, -1, inner)
    halves = []
    for filter_taps in taps:
        half = np.zeros((rows, shape[axis], inner), data.dtype)
        if inner == 1:
            _along_rows(block.reshape(rows, -1), filter_taps, wrapped, half.reshape(rows, -1))
        else:
            _across_rows(block, filter_taps, wrapped, half)
        halves.append(half.reshape(shape))
    return halves


@compiled
def _along_rows(data: Array, taps: Array, wrapped: npt.NDArray[np.int64], half: Array) -> None:
    last = len(taps) - 1
    around = np.flatnonzero(wrapped)
    for row in range(data.shape[0]):
        source, target = data[row], half[row]
        for j in range(len(taps)):
            tap, shifted = taps[j], source[last - j :]
            for o in range(len(target)):
                target[o] += tap * shifted[o]
        for o in around:  # type: ignore[assignment]  # numba has one integer type for both
            total = target[o] - target[o]
            for n in range(len(taps)):
                at = int(wrapped[o]) - 1 - n if n < wrapped[o] else n
                total += taps[at] * source[o + last - at]
            target[o] = total


@compiled
def _across_rows(data: Array, taps: Array, wrapped: npt.NDArray[np.int64], half: Array) -> None:
    last = len(taps) - 1
    for row in range(data.shape[0]):
        for o in range(half.shape[1]):
            target = half[row, o]
            for n in range(len(taps)):
                j = int(wrapped[o]) - 1 - n if n < wrapped[o] else n
                tap = taps[j]
                source = data[row, o + last - j]
                for x in range(len(target)):
                    target[x] += tap * source[x]


def _by_pywavelets(
    image: Array, box: Box, wavelet: str, axes: Sequence[int], levels: int, first_level: int
) -> list[Array]:
    """The same by PyWavelets itself, for axes shorter than two filters, where periods wrap more than once."""
    data = np.pad(image, [(0, size % 2) for size in image.shape], "wrap")
    results: list[Array] = []
    for level in range(first_level + levels):
        bands = pywt.swtn(data, wavelet, level=1, start_level=0, axes=tuple(axes))[0]
        data = bands["a" * len(axes)]
        if level >= first_level:
            results += [np.asarray(band[box]) for _, band in sorted(bands.items())]
    return results

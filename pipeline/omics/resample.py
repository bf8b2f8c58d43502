"""Cubic B-spline resampling of a region onto a regular grid, with the numbers of ITK's ResampleImageFilter.

ITK turns the whole image into spline coefficients first. A coefficient forgets its neighbours by |√3 − 2| = 0.27 a
voxel, so those of the region and MARGIN voxels around it give the same numbers to the last bit, or nearly.
Prefilter and weights: M. Unser, "Splines: a perfect fit for signal and image processing", IEEE Signal Processing
Magazine 16(6):22–38, 1999.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ..jit import compiled
from .columns import from_columns, to_columns

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

MARGIN = 50
"""Voxels around the region that enter the prefilter; with 48 rounding errors were the same in every trial."""
_POLE = math.sqrt(3.0) - 2.0
_TOLERANCE = 1e-10


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a resampled image lie in the original one."""

    places: tuple[Floats, Floats, Floats]
    """Continuous index along z, y, x of the original; its voxel i reaches from i − 0.5 to i + 0.5."""
    spacing_mm: tuple[float, float, float]
    """Size of a new voxel along x, y, z."""
    origin_mm: tuple[float, float, float]
    """Centre of the first new voxel along x, y, z; that of the original is 0."""


def make_grid(
    spacing_mm: tuple[float, float, float],
    new_spacing_mm: tuple[float, float, float],
    origin_index: tuple[float, float, float],
    size: tuple[int, int, int],
) -> Grid:
    """A grid of `size` voxels of `new_spacing_mm` whose first voxel has its centre at `origin_index` of the original.

    All are along x, y, z. Places are rounded as ITK rounds them: through points in mm, and along x between both ends.
    """
    old = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    old.SetSpacing(spacing_mm)
    new = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    new.SetSpacing(new_spacing_mm)
    new.SetOrigin(old.TransformContinuousIndexToPhysicalPoint(origin_index))

    def place(axis: int, index: int) -> float:
        at = [0, 0, 0]
        at[axis] = index
        point = new.TransformIndexToPhysicalPoint(at)
        return float(old.TransformPhysicalPointToContinuousIndex(point)[axis])

    start = place(0, 0)
    along_x = start + np.arange(size[0]) / float(size[0]) * (place(0, size[0]) - start)
    along_y, along_z = (np.array([place(axis, index) for index in range(size[axis])]) for axis in (1, 2))
    return Grid((along_z, along_y, along_x), new_spacing_mm, new.GetOrigin())


def nearest(mask: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    """The mask (z, y, x) on the grid, by nearest neighbour; outside the original there is no region."""
    indices = [np.floor(places + 0.5).astype(np.int64) for places in grid.places]
    inside = [_inside(places, size) for places, size in zip(grid.places, mask.shape, strict=True)]
    chosen = mask[np.ix_(*(np.where(ok, index, 0) for ok, index in zip(inside, indices, strict=True)))]
    return np.asarray(chosen & inside[0][:, None, None] & inside[1][:, None] & inside[2])


def needed(grid: Grid, shape: tuple[int, ...]) -> tuple[slice, slice, slice]:
    """The part of an image of `shape` (z, y, x) that `cubic` must be given for the grid."""
    parts = []
    for places, size in zip(grid.places, shape, strict=True):
        low = max(math.floor(places.min()) - 1 - MARGIN, 0)
        high = min(math.floor(places.max()) + 3 + MARGIN, size)
        parts.append(slice(min(low, max(size - 1, 0)), max(high, 1)))
    return parts[0], parts[1], parts[2]


def cubic(
    samples: Floats, box: tuple[slice, slice, slice], shape: tuple[int, ...], grid: Grid, dtype: npt.DTypeLike
) -> npt.NDArray[Any]:
    """The image on the grid, by cubic B-splines.

    Args:
        samples: What `needed` names of the image; overwritten.
        box: Where it lies in the image.
        shape: Size of the image (z, y, x).
        grid: The grid; 0 where it leaves the image.
        dtype: Type of the image, and of the result. Integers are cut, not rounded, and held inside their type's
            range, as ITK does.
    """
    taps = [_taps(places, cut, size) for places, cut, size in zip(grid.places, box, shape, strict=True)]
    coefficients = samples
    # After the filter along an axis, its margins are of no more use.
    for axis in (2, 1, 0):
        if shape[axis] > 1:
            _prefilter_axis(coefficients, axis)
        at, _ = taps[axis]
        first, last = int(at.min()), int(at.max())
        at -= first
        kept = [slice(None)] * 3
        kept[axis] = slice(first, last + 1)
        coefficients = np.ascontiguousarray(coefficients[tuple(kept)])
    (at_z, weight_z), (at_y, weight_y), (at_x, weight_x) = taps
    gathered = np.take(coefficients, at_x, axis=2)  # (z, y, tap, x), contiguous as an index would not leave it
    values = np.empty([len(places) for places in grid.places])
    _interpolate(gathered, at_z, at_y, weight_z, weight_y, weight_x, values)
    for axis, (places, size) in enumerate(zip(grid.places, shape, strict=True)):
        inside = _inside(places, size)
        if not inside.all():
            np.moveaxis(values, axis, 0)[~inside] = 0
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(np.dtype(dtype))
        return np.trunc(np.clip(values, limits.min, limits.max)).astype(dtype)
    return values.astype(dtype)


def _prefilter_axis(samples: Floats, axis: int) -> None:
    z, y, x = samples.shape
    if axis == 2:
        _prefilter_rows(samples.reshape(z * y, x), _POLE)
    else:
        _prefilter(samples if axis == 1 else samples.reshape(1, z, y * x), _POLE)


def _inside(places: Floats, size: int) -> npt.NDArray[np.bool_]:
    return np.asarray((places >= -0.5) & (places < size - 0.5))


def _taps(places: Floats, cut: slice, size: int) -> tuple[Whole, Floats]:
    """Indices inside the part, and weights, both (4, n), of the coefficients around each place.

    Coefficients beyond the image's ends are mirrored.
    """
    # ITK finds the voxel in single precision.
    base = np.floor(places.astype(np.float32)).astype(np.int64)
    w = places - base
    w3 = (1.0 / 6.0) * w * w * w
    w0 = (1.0 / 6.0) + 0.5 * w * (w - 1.0) - w3
    w2 = w + w0 - 2.0 * w3
    w1 = 1.0 - w0 - w2 - w3
    at = base - 1 + np.arange(4)[:, None]
    if size == 1:
        at = np.zeros_like(at)
    at = np.where(at < 0, -at, at)
    at = np.where(at >= size - 1, 2 * (size - 1) - at, at)
    # In an axis of two voxels one more reflection is needed. ITK leaves it out and reads beyond the image.
    at = np.where(_inside(places, size), np.abs(at), cut.start)
    return at - cut.start, np.stack([w0, w1, w2, w3])


_BLOCK = 64
"""Lines filtered at once."""


@compiled
def _prefilter_rows(data: Floats, pole: float) -> None:
    """Samples to spline coefficients along the rows of (rows, length), in place."""
    length = data.shape[1]
    for start in range(0, data.shape[0], _BLOCK):
        width = min(_BLOCK, data.shape[0] - start)
        lines = np.empty(length * width)
        to_columns(data, start, width, lines)
        _prefilter(lines.reshape(1, length, width), pole)
        from_columns(lines, width, data, start)


@compiled
def _prefilter(data: Floats, pole: float) -> None:
    """Samples to spline coefficients down the middle axis of (outer, length, lines), in place; mirrored at the ends."""
    gain = 1.0 * (1.0 - pole) * (1.0 - 1.0 / pole)
    for block in data:
        length, width = block.shape
        for i in range(length):
            for x in range(width):
                block[i, x] *= gain
        _start(block, pole)
        for i in range(1, length):
            before, here = block[i - 1], block[i]
            for x in range(width):
                here[x] += pole * before[x]
        last, second = block[length - 1], block[length - 2]
        for x in range(width):
            last[x] = (pole / (pole * pole - 1.0)) * (pole * second[x] + last[x])
        for i in range(length - 2, -1, -1):
            after, here = block[i + 1], block[i]
            for x in range(width):
                here[x] = pole * (after[x] - here[x])


@compiled
def _start(data: Floats, pole: float) -> None:
    """First value of the causal recursion: the infinite sum over the mirrored line, cut where it no longer matters."""
    length, width = data.shape
    horizon = math.ceil(math.log(_TOLERANCE) / math.log(abs(pole)))
    power = pole
    first = data[0]
    if horizon < length:
        for n in range(1, horizon):
            term = data[n]
            for x in range(width):
                first[x] += power * term[x]
            power *= pole
        return
    mirrored = pole ** (length - 1.0)
    for x in range(width):
        first[x] += mirrored * data[length - 1, x]
    mirrored *= mirrored * (1.0 / pole)
    for n in range(1, length - 1):
        for x in range(width):
            first[x] += (power + mirrored) * data[n, x]
        power *= pole
        mirrored *= 1.0 / pole
    for x in range(width):
        first[x] /= 1.0 - power * power


@compiled
def _interpolate(
    gathered: Floats, at_z: Whole, at_y: Whole, weight_z: Floats, weight_y: Floats, weight_x: Floats, values: Floats
) -> None:
    width = values.shape[2]
    weights = np.empty((4, 4, width))
    for y in range(values.shape[1]):
        for j in range(4):
            for i in range(4):
                for x in range(width):
                    weights[j, i, x] = weight_x[i, x] * weight_y[j, y]
        for z in range(values.shape[0]):
            target = values[z, y]
            target[:] = 0.0
            for k in range(4):
                by_z = weight_z[k, z]
                for j in range(4):
                    w0, w1, w2, w3 = weights[j, 0], weights[j, 1], weights[j, 2], weights[j, 3]
                    taps = gathered[at_z[k, z], at_y[j, y]]
                    s0, s1, s2, s3 = taps[0], taps[1], taps[2], taps[3]
                    for x in range(width):
                        total = target[x] + w0[x] * by_z * s0[x]
                        total += w1[x] * by_z * s1[x]
                        total += w2[x] * by_z * s2[x]
                        target[x] = total + w3[x] * by_z * s3[x]


def by_itk(
    image: npt.NDArray[Any], spacing_mm: tuple[float, float, float], interpolator: str, grid: Grid
) -> npt.NDArray[Any]:
    """The image (z, y, x) on the grid by ITK itself, for any interpolator by its SimpleITK name."""
    source = sitk.GetImageFromArray(image)
    source.SetSpacing(spacing_mm)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([len(places) for places in reversed(grid.places)])
    resampler.SetOutputSpacing(grid.spacing_mm)
    resampler.SetOutputOrigin(grid.origin_mm)
    resampler.SetOutputPixelType(source.GetPixelID())
    resampler.SetInterpolator(getattr(sitk, interpolator))
    return np.asarray(sitk.GetArrayFromImage(resampler.Execute(source)))

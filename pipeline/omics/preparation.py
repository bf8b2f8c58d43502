"""From an image and a mask to what filters and textures see: normalisation, resampling, cropping, re-segmentation.

The steps, their order and their exceptions are PyRadiomics'. Each looks only at the part of the image that the region
needs; what is left out has no influence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ...errors import RegionError
from ..jit import compiled
from . import resample

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Region:
    """An image with a region in it."""

    image: Array
    """Intensities (z, y, x)."""
    mask: Mask
    """Where the region is, of the same shape."""
    spacing_mm: tuple[float, float, float]
    """Size of a voxel along x, y, z."""
    box: Box
    """Smallest box around the region."""

    @property
    def crop(self) -> Mask:
        """The mask inside the box."""
        return self.mask[self.box]


@dataclass(frozen=True)
class Prepared:
    """What features are computed of."""

    texture: Region
    """For intensities and texture."""
    shape: Region
    """For shape: the mask before re-segmentation, unless `resegmentShape` is set."""


def prepare(image: Array, mask: Mask, spacing_mm: tuple[float, float, float], settings: Mapping[str, Any]) -> Prepared:
    """Normalise, resample or crop, check and re-segment, as `settings` (PyRadiomics' `setting`) say.

    Raises:
        RegionError: the region is empty, too small, or has too few dimensions.
    """
    region = Region(image, mask, spacing_mm, bounding_box(mask))
    rescale = _normalisation(image, settings)
    interpolator = settings.get("interpolator", "sitkBSpline")
    if interpolator is not None and settings.get("resampledPixelSpacing") is not None:
        region = _resampled(region, rescale, interpolator, settings)
    elif settings.get("preCrop", False):
        _check(region, settings)
        region = _cropped(region, settings.get("padDistance", 5))
        region = replace(region, image=rescale(region.image))
    else:
        region = replace(region, image=rescale(region.image))
    _check(region, settings)
    if settings.get("resegmentRange") is None:
        return Prepared(region, region)
    texture = _resegmented(region, settings)
    _check(texture, settings)
    if settings.get("resegmentShape", False):
        return Prepared(texture, texture)
    return Prepared(texture, replace(region, box=texture.box))


def bounding_box(mask: Mask) -> Box:
    """Smallest box (z, y, x) around the region; RegionError when it is empty."""
    limits = _limits(mask)
    if limits[1, 0] == 0:
        raise RegionError("the mask is empty")
    (z0, y0, x0), (z1, y1, x1) = limits.tolist()
    return slice(z0, z1), slice(y0, y1), slice(x0, x1)


@compiled
def _limits(mask: Mask) -> npt.NDArray[np.int64]:
    """First and one after the last index of the region, as (2, 3)."""
    low = np.array([mask.shape[0], mask.shape[1], mask.shape[2]])
    high = np.zeros(3, np.int64)
    for z in range(mask.shape[0]):
        for y in range(mask.shape[1]):
            row = mask[z, y]
            if not row.any():
                continue
            first = 0
            while not row[first]:
                first += 1
            last = mask.shape[2]
            while not row[last - 1]:
                last -= 1
            low[0], low[1], low[2] = min(low[0], z), min(low[1], y), min(low[2], first)
            high[0], high[1], high[2] = max(high[0], z + 1), max(high[1], y + 1), max(high[2], last)
    return np.stack((low, high))


def _sizes(box: Box) -> tuple[int, int, int]:
    z, y, x = (part.stop - part.start for part in box)
    return z, y, x


def _check(region: Region, settings: Mapping[str, Any]) -> None:
    dimensions = sum(size > 1 for size in _sizes(region.box))
    least = settings.get("minimumROIDimensions", 2)
    if dimensions == 0:
        raise RegionError("the mask has only one voxel")
    if dimensions < least:
        raise RegionError(f"the mask has too few dimensions: {dimensions}, at least {least} (minimumROIDimensions)")
    smallest = settings.get("minimumROISize")
    if smallest is not None:
        voxels = int(np.count_nonzero(region.crop))
        if voxels <= smallest:
            raise RegionError(f"the mask has {voxels} voxels, more than {smallest} are needed (minimumROISize)")


def _cropped(region: Region, margin: int) -> Region:
    """The region with so many voxels around it, as far as the image goes."""
    cuts = [
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, size in zip(region.box, region.mask.shape, strict=True)
    ]
    z, y, x = (slice(part.start - cut.start, part.stop - cut.start) for part, cut in zip(region.box, cuts, strict=True))
    around = tuple(cuts)
    return replace(region, image=region.image[around], mask=region.mask[around], box=(z, y, x))


# --- normalisation ----------------------------------------------------------------------------------------------
class _Unchanged:
    def __call__(self, image: Array) -> Array:
        return image


@dataclass(frozen=True)
class _Rescaled:
    """(value − mean) / standard deviation, cut at ± outliers, times scale."""

    mean: float
    deviation: float
    outliers: float | None
    scale: float

    def __call__(self, image: Array) -> Array:
        values = np.array(image, np.float64, order="C")
        limit = np.inf if self.outliers is None else float(self.outliers)
        _rescale(values.ravel(), self.mean, 1.0 / self.deviation, limit, float(self.scale))
        return values


def _normalisation(image: Array, settings: Mapping[str, Any]) -> _Unchanged | _Rescaled:
    """How intensities are changed; mean and deviation are those of the whole image."""
    if not settings.get("normalize", False):
        return _Unchanged()
    if np.issubdtype(image.dtype, np.integer) and image.dtype.itemsize <= 2:
        number = image.size
        total, squares = _integer_sums(image.ravel())
        mean = total / number
        variance = (float(squares) - float(total) * float(total) / number) / (number - 1.0)
        deviation = float(np.sqrt(variance))
    else:
        statistics = sitk.StatisticsImageFilter()
        statistics.Execute(sitk.GetImageFromArray(image))
        mean, deviation = statistics.GetMean(), statistics.GetSigma()
    if deviation == 0:
        raise RegionError("the image cannot be normalised: all its voxels are the same")
    return _Rescaled(mean, deviation, settings.get("removeOutliers"), settings.get("normalizeScale", 1))


@compiled
def _rescale(values: npt.NDArray[np.float64], mean: float, factor: float, limit: float, scale: float) -> None:
    for i in range(len(values)):
        values[i] = min(max((values[i] - mean) * factor, -limit), limit) * scale


@compiled
def _integer_sums(values: Array) -> tuple[int, int]:
    total, squares = 0, 0
    for i in range(len(values)):
        whole = int(values[i])
        total += whole
        squares += whole * whole
    return total, squares


# --- resampling -------------------------------------------------------------------------------------------------
def _resampled(
    region: Region, rescale: _Unchanged | _Rescaled, interpolator: str, settings: Mapping[str, Any]
) -> Region:
    """The region and its surroundings on a grid of `resampledPixelSpacing`, whose borders are the image's own."""
    old = np.array(region.spacing_mm)
    new = np.array(settings["resampledPixelSpacing"], np.float64)
    size = np.array(region.mask.shape[::-1])
    start = np.array([part.start for part in region.box[::-1]])
    length = np.array(_sizes(region.box)[::-1])
    new = np.where((new == 0) | (length == 1), old, new)
    margin = settings.get("padDistance", 5)
    if np.allclose(old, new):
        region = _cropped(region, margin)
        return replace(region, image=rescale(region.image))
    ratio = old / new
    low = np.maximum(np.floor((start - 0.5) * ratio - margin), 0)
    high = np.minimum(np.ceil((start + length - 0.5) * ratio + margin), np.ceil(size * ratio) - 1)
    grid = resample.make_grid(
        region.spacing_mm,
        _triple(new),
        _triple(0.5 * (new - old) / old + low / ratio),
        tuple(int(n) for n in high - low + 1),  # type: ignore[arg-type]
    )
    mask = resample.nearest(region.mask, grid)
    image = _interpolated(region, rescale, interpolator, grid)
    return Region(image, mask, grid.spacing_mm, bounding_box(mask))


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _interpolated(region: Region, rescale: _Unchanged | _Rescaled, interpolator: str, grid: resample.Grid) -> Array:
    shape = region.image.shape
    if interpolator == "sitkBSpline":
        box = resample.needed(grid, shape)
        part = rescale(region.image[box])
        return resample.cubic(np.array(part, np.float64, order="C"), box, shape, grid, part.dtype)
    return resample.by_itk(rescale(region.image), region.spacing_mm, interpolator, grid)


# --- re-segmentation --------------------------------------------------------------------------------------------
def _resegmented(region: Region, settings: Mapping[str, Any]) -> Region:
    """The region less voxels outside `resegmentRange`: as they are, as shares of the maximum, or in sigmas."""
    limits = sorted(settings["resegmentRange"])
    mode = settings.get("resegmentMode", "absolute")
    crop = region.crop
    values = region.image[region.box][crop]
    if mode == "relative":
        limits = [values.max() * limit for limit in limits]
    elif mode == "sigma":
        mean, deviation = np.mean(values), np.std(values)
        limits = [mean + deviation * limit for limit in limits]
    kept = values >= limits[0]
    if len(limits) == 2:
        kept &= values <= limits[1]
    voxels = int(np.count_nonzero(kept))
    if voxels <= 1:
        raise RegionError(f"re-segmentation leaves {voxels} of {len(values)} voxels")
    inside = crop.copy()
    inside[crop] = kept
    mask = np.zeros_like(region.mask)
    mask[region.box] = inside
    return replace(region, mask=mask, box=bounding_box(mask))

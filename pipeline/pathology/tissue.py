"""Tissue: which pixels of a slide are tissue, found on a thumbnail by saturation.

Haematoxylin and eosin are colours, glass has none: Otsu's threshold on HSV saturation parts the two. A gentler one,
half-way between glass and Otsu's, then tells tissue pixels from glass within a bag: pale stroma counts there, so
that the spread of tissue's colours is not cut off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from skimage.filters import threshold_otsu

from ...config import TissueSettings
from ..jit import compiled
from .slides import RgbImage, SlideReader

_GLASS_FACTOR = 2.0
_WHITE_SHARE = 0.05
_MIN_SEEN_SHARE = 0.01
_LEAST_SPREAD = 12.0
_FOLD_SATURATION = 0.6
_FOLD_BRIGHTNESS = 0.6


class RuleTables(NamedTuple):
    """A `TissueRule` for whole numbers: what a pixel's maximum of R, G, B asks of its maximum − minimum."""

    difference: npt.NDArray[np.uint8]
    """(256,): least difference that makes tissue."""
    slope: npt.NDArray[np.float32]
    """(256,): the weight is slope × difference + offset, held within 0–1."""
    offset: npt.NDArray[np.float32]
    """(256,)."""
    least: int
    """Least maximum that makes tissue."""


@dataclass(frozen=True)
class TissueRule:
    """When a pixel is tissue: coloured enough, and not black.

    Beside this yes or no a pixel has a weight, by which it takes part in a change of colours: 1 from the least
    saturation of tissue on, 0 up to half of it, in proportion between. Glass has 0.
    """

    min_saturation: float
    """Lowest HSV saturation, 0–1."""
    min_brightness: float
    """Lowest HSV value, 0–1."""

    def tables(self) -> RuleTables:
        """The rule for whole numbers 0–255."""
        enough = self.min_saturation * np.arange(256)
        difference = np.ceil(np.maximum(enough - 1e-9, 0.0)).astype(np.uint8)
        slope = np.divide(2.0, enough, out=np.zeros(256), where=enough > 0).astype(np.float32)
        offset = np.full(256, -1.0 if self.min_saturation > 0 else 1.0, np.float32)
        return RuleTables(difference, slope, offset, math.ceil(self.min_brightness * 255 - 1e-9))


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a whole slide."""

    pixels: RgbImage
    """(y, x, 3)."""
    mpp: float
    """µm/px."""
    step_level0: float
    """Side of one of its pixels, px of level 0."""


@dataclass(frozen=True)
class TissueMask:
    """Tissue of a whole slide. As regions, everything in it has class 1."""

    mask: npt.NDArray[np.bool_]
    """(y, x), pixels of the thumbnail."""
    step_level0: float
    """Side of one of its pixels, px of level 0."""
    rule: TissueRule
    """The rule behind it, for the pixels of bags."""

    @property
    def bounds_level0(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom of the tissue, px of level 0; none without tissue."""
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        if not len(rows):
            return None
        corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        left, top, right, bottom = (float(corner) * self.step_level0 for corner in corners)
        return left, top, right, bottom

    def class_map(
        self, x_level0: float, y_level0: float, step_level0: float, shape: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """1 where there is tissue, 0 elsewhere, at the centres of a grid of `shape` squares of side `step_level0`
        whose upper left corner is (x_level0, y_level0)."""
        rows, columns = (
            np.floor((start + (np.arange(count) + 0.5) * step_level0) / self.step_level0).astype(np.int64)
            for start, count in ((y_level0, shape[0]), (x_level0, shape[1]))
        )
        inside_rows = (rows >= 0) & (rows < self.mask.shape[0])
        inside_columns = (columns >= 0) & (columns < self.mask.shape[1])
        classes = np.zeros(shape, np.uint8)
        classes[np.ix_(inside_rows, inside_columns)] = self.mask[np.ix_(rows[inside_rows], columns[inside_columns])]
        return classes


def read_thumbnail(reader: SlideReader, settings: TissueSettings) -> Thumbnail:
    """The whole slide at `thumbnail_mpp`, or coarser where it would have more than `max_thumbnail_px` pixels.

    Raises:
        SlideError: the slide cannot be read.
    """
    width, height = reader.size_level0
    mpp = max(settings.thumbnail_mpp, reader.mpp_level0)
    mpp = max(mpp, reader.mpp_level0 * math.sqrt(width * height / settings.max_thumbnail_px))
    step = mpp / reader.mpp_level0
    shape = math.ceil(height / step), math.ceil(width / step)
    return Thumbnail(reader.read(0, 0, shape, mpp), mpp, step)


def find_tissue(thumbnail: Thumbnail, settings: TissueSettings) -> TissueMask:
    """Tissue on a thumbnail: Otsu's threshold on saturation; pen marks, folds and small pieces dropped, small holes
    filled.

    The threshold is never below `min_saturation`. Where what lies under Otsu's threshold is too coloured for glass
    (on average twice `min_saturation`), the picture shows tissue only, Otsu has parted tissue from tissue, and
    `min_saturation` is the threshold. The rule for single pixels takes the middle between glass and the threshold.
    """
    glass, threshold = _otsu(saturation_of(thumbnail.pixels), settings.min_saturation)
    mask = tissue_pixels(thumbnail.pixels, TissueRule(threshold, settings.min_brightness))
    ink = ink_pixels(thumbnail.pixels, settings)
    min_px = settings.min_area_um2 / thumbnail.mpp**2
    mask = _without_small_pieces(mask & ~ink, min_px)
    mask = ~_without_small_pieces(~mask, min_px) & ~ink
    mask &= ~_folds(thumbnail.pixels, mask, settings.fold_contrast)
    rule = TissueRule(max((glass + threshold) / 2, settings.min_saturation), settings.min_brightness)
    return TissueMask(mask, thumbnail.step_level0, rule)


def saturation_of(pixels: RgbImage) -> npt.NDArray[np.uint8]:
    """HSV saturation of each pixel, (max − min) / max, as 0–255 rounded half up; 0 for black. (y, x) uint8."""
    largest = pixels.max(axis=-1)
    difference = (largest - pixels.min(axis=-1)).astype(np.uint32)
    divisor = np.maximum(largest, 1).astype(np.uint32)
    saturation: npt.NDArray[np.uint8] = ((difference * 510 + divisor) // (2 * divisor)).astype(np.uint8)
    return saturation


def tissue_pixels(pixels: RgbImage, rule: TissueRule) -> npt.NDArray[np.bool_]:
    """Which pixels of a picture (y, x, 3) are tissue, (y, x) bool."""
    mask = np.empty(pixels.shape[:2], np.bool_)
    tables = rule.tables()
    _mark_tissue(pixels, tables.difference, tables.least, mask)
    return mask


def ink_pixels(pixels: RgbImage, settings: TissueSettings) -> npt.NDArray[np.bool_]:
    """Which pixels of a picture (y, x, 3) are blue or green ink, with the rim of two pixels where it fades; (y, x).

    Black has no colour to go by and is none.
    """
    ink = (pixels[..., 1] > pixels[..., 0]) & (saturation_of(pixels) > settings.max_ink_saturation * 255)
    ink &= pixels.max(axis=-1) >= settings.min_brightness * 255
    return np.asarray(ndimage.binary_dilation(ink, iterations=2), np.bool_) if ink.any() else ink


def _folds(pixels: RgbImage, mask: npt.NDArray[np.bool_], contrast: float) -> npt.NDArray[np.bool_]:
    """Where tissue lies double: darker and more saturated than the rest (after Bautista and Yagi, 2010), (y, x).

    The scale is the median absolute deviation, but at least what makes a clear difference to the eye, so that even
    tissue has no folds. Beside that a fold is dark and saturated in itself: crowded nuclei in pale stroma are not.
    """
    if not mask.any():
        return mask
    saturation, brightness = saturation_of(pixels).astype(np.int16), pixels.max(axis=-1)
    difference = saturation - brightness
    middle = np.median(difference[mask])
    spread = max(1.4826 * float(np.median(np.abs(difference[mask] - middle))), _LEAST_SPREAD)
    dark = (saturation >= _FOLD_SATURATION * 255) & (brightness <= _FOLD_BRIGHTNESS * 255)
    return np.asarray(mask & dark & (difference > middle + contrast * spread), np.bool_)


def white_of(thumbnail: Thumbnail, settings: TissueSettings) -> tuple[float, float, float] | None:
    """Colour of the light on the slide: the median colour of the brightest 5 % of the thumbnail (a white patch).

    Brightness is R + G + B. Pure white is left out, for scanners fill with it what they did not scan. None where
    hardly anything else is left, and where the colour is too saturated to be that of glass.
    """
    pixels = thumbnail.pixels.reshape(-1, 3)
    pixels = pixels[(pixels != 255).any(axis=1)]
    if len(pixels) < _MIN_SEEN_SHARE * thumbnail.pixels.shape[0] * thumbnail.pixels.shape[1]:
        return None
    brightness = pixels.sum(axis=1, dtype=np.uint16)
    brightest = pixels[brightness >= np.quantile(brightness, 1 - _WHITE_SHARE)]
    red, green, blue = (float(value) for value in np.median(brightest, axis=0))
    largest = max(red, green, blue, 1.0)
    return (red, green, blue) if largest - min(red, green, blue) <= settings.max_white_saturation * largest else None


@compiled
def _mark_tissue(
    pixels: npt.NDArray[np.uint8], difference: npt.NDArray[np.uint8], least: int, mask: npt.NDArray[np.bool_]
) -> None:
    for y in range(pixels.shape[0]):
        for x in range(pixels.shape[1]):
            red, green, blue = pixels[y, x, 0], pixels[y, x, 1], pixels[y, x, 2]
            largest = max(red, green, blue)
            mask[y, x] = largest >= least and largest - min(red, green, blue) >= difference[largest]


def _otsu(saturation: npt.NDArray[np.uint8], floor: float) -> tuple[float, float]:
    """Mean saturation of glass, and the least of tissue (0–1), not below `floor`, by Otsu's method."""
    counts = np.bincount(saturation.reshape(-1), minlength=256)
    if np.count_nonzero(counts) < 2:
        return 0.0, floor
    values = np.arange(256) / 255
    # What equals skimage's threshold belongs to the lower class.
    lower = int(threshold_otsu(hist=(counts, np.arange(256)))) + 1  # type: ignore[no-untyped-call]
    glass = float(np.average(values[:lower], weights=counts[:lower]))
    if glass >= _GLASS_FACTOR * floor:
        return 0.0, floor
    return glass, max(lower / 255, floor)


def _without_small_pieces(mask: npt.NDArray[np.bool_], min_px: float) -> npt.NDArray[np.bool_]:
    """The mask without its connected pieces (edge to edge) of fewer than `min_px` pixels."""
    pieces, count = ndimage.label(mask, output=np.int32)
    if not count:
        return mask
    large = np.bincount(pieces.reshape(-1), minlength=count + 1) >= min_px
    large[0] = False
    kept: npt.NDArray[np.bool_] = large[pieces]
    return kept

"""Tissue on thumbnails, and the rule for single pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage.color import rgb2hsv

from mumo.config import TissueSettings
from mumo.pipeline.pathology.slides import Resolution, SlideReader
from mumo.pipeline.pathology.tissue import (
    Thumbnail,
    TissueMask,
    TissueRule,
    find_tissue,
    read_thumbnail,
    saturation_of,
    tissue_pixels,
    white_of,
)

GLASS = (241, 240, 242)
STROMA = (226, 160, 190)
NUCLEI = (90, 60, 130)


def picture(height: int = 100, width: int = 120, colour: tuple[int, int, int] = GLASS) -> npt.NDArray[np.uint8]:
    """A plain picture with the noise of a camera."""
    noise = np.random.default_rng(0).integers(-2, 3, (height, width, 1))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def thumbnail(pixels: npt.NDArray[np.uint8], mpp: float = 8.0) -> Thumbnail:
    return Thumbnail(pixels, mpp, mpp / 0.5)


class PlainSlide:
    """A slide of one colour of any size, without memory of its own."""

    def __init__(self, width: int, height: int) -> None:
        self.level_dimensions: Sequence[tuple[int, int]] = [(width, height)]
        self.level_downsamples: Sequence[float] = [1.0]
        self.properties: Mapping[str, str] = {}

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        return Image.new("RGBA", size, (*STROMA, 255))

    def close(self) -> None: ...


def test_find_tissue__finds_the_tissue_and_not_the_glass() -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    pixels[40:50, 40:60] = picture(10, 20, NUCLEI)
    mask = find_tissue(thumbnail(pixels), TissueSettings()).mask
    expected = np.zeros((100, 120), bool)
    expected[20:70, 30:90] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("ink", [(20, 110, 60), (30, 60, 160), (10, 120, 130)])
def test_find_tissue__blue_and_green_ink_is_none(ink: tuple[int, int, int]) -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    pixels[10:80, 50:54] = ink
    mask = find_tissue(thumbnail(pixels), TissueSettings()).mask
    assert not mask[10:80, 50:54].any()
    assert mask[20:70, 30:48].all()
    assert mask[20:70, 56:90].all()


def test_find_tissue__haematoxylin_alone_is_tissue() -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, (150, 165, 205))
    assert find_tissue(thumbnail(pixels), TissueSettings()).mask[20:70, 30:90].all()


def test_find_tissue__folds_go_and_crowded_nuclei_stay() -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    pixels[40:50, 40:60] = picture(10, 20, NUCLEI)
    pixels[20:70, 70:74] = (120, 35, 80)
    mask = find_tissue(thumbnail(pixels), TissueSettings()).mask
    assert not mask[20:70, 70:74].any()
    assert mask[20:70, 30:70].all()
    assert find_tissue(thumbnail(pixels), TissueSettings(fold_contrast=100.0)).mask[20:70, 30:90].all()


def test_find_tissue__small_pieces_and_holes_go() -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    pixels[30:34, 40:44] = GLASS
    pixels[5:9, 5:9] = STROMA
    settings = TissueSettings(min_area_um2=17 * 64)
    mask = find_tissue(thumbnail(pixels), settings).mask
    assert mask[30:34, 40:44].all()
    assert not mask[5:9, 5:9].any()
    smaller = find_tissue(thumbnail(pixels), TissueSettings(min_area_um2=16 * 64)).mask
    assert not smaller[30:34, 40:44].any()
    assert smaller[5:9, 5:9].all()


def test_find_tissue__empty_glass_has_none() -> None:
    found = find_tissue(thumbnail(picture()), TissueSettings())
    assert not found.mask.any()
    assert found.bounds_level0 is None


def test_find_tissue__tissue_from_edge_to_edge_is_all_tissue() -> None:
    pixels = picture(colour=STROMA)
    pixels[:50] = picture(50, 120, NUCLEI)
    found = find_tissue(thumbnail(pixels), TissueSettings())
    assert found.mask.all()
    assert found.rule.min_saturation == 0.05


def test_find_tissue__black_surroundings_are_none() -> None:
    pixels = np.random.default_rng(0).integers(0, 6, (100, 120, 3), dtype=np.uint8)
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    mask = find_tissue(thumbnail(pixels), TissueSettings()).mask
    assert mask[20:70, 30:90].all()
    assert mask.sum() == 50 * 60


def test_find_tissue__rule_for_pixels_is_gentler_than_the_mask_but_not_below_the_floor() -> None:
    pixels = picture()
    pixels[20:70, 30:90] = picture(50, 60, NUCLEI)
    saturation = saturation_of(pixels) / 255
    rule = find_tissue(thumbnail(pixels), TissueSettings()).rule
    assert saturation[0, 0] < rule.min_saturation < saturation[40, 50]
    assert find_tissue(thumbnail(pixels), TissueSettings(min_saturation=0.5)).rule.min_saturation >= 0.5


def test_saturation__equals_skimages_hsv() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pixels[0, :3] = [(0, 0, 0), (255, 255, 255), (7, 7, 7)]
    assert np.abs(saturation_of(pixels) / 255 - rgb2hsv(pixels)[..., 1]).max() <= 0.5 / 255 + 1e-6


def test_tissue_pixels__follow_the_rule_in_hsv() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    largest = pixels.max(axis=-1).astype(float)
    saturation = (largest - pixels.min(axis=-1)) / np.maximum(largest, 1)
    for rule in (TissueRule(0.1, 0.15), TissueRule(0.5, 0.6), TissueRule(1.0, 0.0)):
        expected = (saturation >= rule.min_saturation) & (largest / 255 >= rule.min_brightness)
        np.testing.assert_array_equal(tissue_pixels(pixels, rule), expected)
    assert tissue_pixels(pixels, TissueRule(0.0, 0.0)).all()


def test_white__is_the_colour_of_the_glass() -> None:
    pixels = picture(colour=(240, 225, 200))
    pixels[20:70, 30:90] = picture(50, 60, STROMA)
    # What the scanner left out is filled with white.
    pixels[80:] = 255
    assert white_of(thumbnail(pixels), TissueSettings()) == pytest.approx((241, 226, 201), abs=1.5)


def test_white__is_unknown_without_glass() -> None:
    assert white_of(thumbnail(np.full((50, 50, 3), 255, np.uint8)), TissueSettings()) is None
    stroma = thumbnail(picture(colour=STROMA))
    assert white_of(stroma, TissueSettings(max_white_saturation=0.25)) is None
    assert white_of(stroma, TissueSettings()) == pytest.approx(STROMA, abs=3)


def test_thumbnail__covers_the_slide_at_its_resolution() -> None:
    reader = SlideReader(PlainSlide(1000, 501), "S1", Resolution(0.5, "file"))
    found = read_thumbnail(reader, TissueSettings())
    assert found.pixels.shape == (32, 63, 3)
    assert (found.mpp, found.step_level0) == (8.0, 16.0)
    np.testing.assert_array_equal(found.pixels[:31, :62], np.broadcast_to(STROMA, (31, 62, 3)))


def test_thumbnail__of_a_huge_slide_is_coarser() -> None:
    reader = SlideReader(PlainSlide(4000, 2000), "S1", Resolution(0.5, "file"))
    found = read_thumbnail(reader, TissueSettings(thumbnail_mpp=1.0, max_thumbnail_px=5000))
    assert found.pixels.shape[0] * found.pixels.shape[1] <= 5000 * 1.05
    assert found.mpp == pytest.approx(20.0)


def test_class_map__looks_up_the_pixel_under_each_centre() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2:4] = True
    tissue = TissueMask(mask, 16.0, TissueRule(0.1, 0.1))
    assert tissue.bounds_level0 == (32, 16, 64, 32)
    np.testing.assert_array_equal(tissue.class_map(0, 0, 16, (4, 5)), mask)
    fine = tissue.class_map(-16, -16, 8, (12, 14))
    np.testing.assert_array_equal(fine[2:10, 2:12], mask.repeat(2, axis=0).repeat(2, axis=1))
    assert fine.sum() == 8

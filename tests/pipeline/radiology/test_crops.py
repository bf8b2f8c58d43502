"""Crops: the slice, the frame, the views; against scikit-image where it does the same."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import resize

from mumo.config import RoisSettings
from mumo.pipeline.radiology.crops import (
    Frame,
    View,
    crop_frame,
    crop_planes,
    draw_view,
    neighbouring_slices,
    widest_slice,
    windowed,
)
from mumo.pipeline.radiology.lesions import IndexBox

SQUARE = (1.0, 1.0)


def smooth_planes(height: int = 60, width: int = 80) -> np.ndarray:
    """Three different planes without noise, 0–255."""
    y, x = np.mgrid[:height, :width] / 10.0
    planes = [np.sin(y + k) * np.cos(x - k) + 0.3 * np.sin(0.4 * x * (k + 1)) for k in range(3)]
    stack = np.stack(planes)
    return ((stack - stack.min()) / np.ptp(stack) * 255).astype(np.float32)


def whole(planes: np.ndarray, spacing: tuple[float, float] = SQUARE) -> Frame:
    height, width = planes.shape[1:]
    return Frame(((height - 1) / 2, (width - 1) / 2), (height * spacing[0], width * spacing[1]))


def test_widest_slice__has_the_largest_area_nearest_to_the_middle() -> None:
    mask = np.zeros((6, 5, 5), np.uint8)
    for z, area in enumerate((1, 4, 9, 4, 9, 1)):
        mask[z].ravel()[:area] = 1
    assert widest_slice(mask) == 2
    mask[3].ravel()[:9] = 1
    assert widest_slice(mask) == 3
    assert widest_slice(np.ones((7, 2, 2), np.uint8)) == 3, "the middle of a box"


@pytest.mark.parametrize(
    ("z", "count", "expected"),
    [(3, 9, ((2, 3, 4), False)), (0, 9, ((0, 0, 1), True)), (8, 9, ((7, 8, 8), True)), (1, 2, ((0, 1, 1), True))],
)
def test_neighbouring_slices__repeats_the_slice_at_an_edge(z: int, count: int, expected: Any) -> None:
    assert neighbouring_slices(z, count) == expected


def test_crop_frame__is_the_box_with_its_margin_in_mm() -> None:
    box = IndexBox((0, 20, 30), (1, 30, 50))
    frame = crop_frame(box, (0.5, 2.0), (100, 100), RoisSettings(margin_mm=3))
    assert frame == Frame((24.5, 39.5), (10 * 0.5 + 6, 20 * 2.0 + 6))


def test_crop_frame__is_cut_to_the_plane() -> None:
    box = IndexBox((0, 2, 90), (1, 30, 99))
    frame = crop_frame(box, SQUARE, (100, 100), RoisSettings(margin_mm=10))
    assert frame == Frame(((-0.5 + 39.5) / 2, (79.5 + 99.5) / 2), (40.0, 20.0))


@pytest.mark.parametrize("spacing", [SQUARE, (0.5, 2.0), (2.0, 0.8)])
@pytest.mark.parametrize("corner", [(0, 0), (40, 40), (78, 5), (5, 85)])
def test_crop_frame__keeps_the_aspect_in_mm_inside_the_plane(
    spacing: tuple[float, float], corner: tuple[int, int]
) -> None:
    box = IndexBox((0, *corner), (1, corner[0] + 20, corner[1] + 10))
    frame = crop_frame(box, spacing, (100, 100), RoisSettings(margin_mm=4, keep_aspect=True))
    assert frame.size_yx_mm[0] == pytest.approx(frame.size_yx_mm[1])
    for centre, size, step in zip(frame.centre_yx, frame.size_yx_mm, spacing, strict=True):
        assert centre - size / step / 2 >= -0.5 - 1e-9
        assert centre + size / step / 2 <= 99.5 + 1e-9


def test_crop_frame__wider_than_the_plane_is_centred_and_filled_with_black() -> None:
    box = IndexBox((0, 0, 0), (1, 10, 40))
    frame = crop_frame(box, SQUARE, (10, 40), RoisSettings(margin_mm=0, keep_aspect=True))
    assert frame == Frame((4.5, 19.5), (40.0, 40.0))
    crop = crop_planes(np.full((3, 10, 40), 200, np.float32), frame, View(), SQUARE, 40)
    assert (crop[:, 15:25] == 200).all()
    assert (crop[:, :15] == 0).all()
    assert (crop[:, 25:] == 0).all()


@pytest.mark.parametrize(("side", "height", "width"), [(224, 60, 80), (100, 33, 91), (64, 64, 64)])
def test_crop_planes__enlarges_like_scikit_image(side: int, height: int, width: int) -> None:
    planes = smooth_planes(height, width)
    found = crop_planes(planes, whole(planes), View(), SQUARE, side)
    for plane, crop in zip(planes, found, strict=True):
        expected = resize(plane, (side, side), order=1, mode="edge", anti_aliasing=False, preserve_range=True)
        np.testing.assert_allclose(crop, expected, atol=0.51)


@pytest.mark.parametrize("side", [30, 20, 9])
def test_crop_planes__shrinks_like_scikit_image(side: int) -> None:
    planes = np.random.default_rng(0).uniform(0, 255, (3, 90, 120)).astype(np.float32)
    found = crop_planes(planes, whole(planes), View(), SQUARE, side)
    for plane, crop in zip(planes, found, strict=True):
        expected = resize(plane, (side, side), order=1, mode="edge", anti_aliasing=True, preserve_range=True)
        np.testing.assert_allclose(crop, expected, atol=0.6)


def test_crop_planes__mirrors_left_and_right() -> None:
    planes = smooth_planes()
    plain = crop_planes(planes, whole(planes), View(), SQUARE, 50)
    np.testing.assert_array_equal(
        crop_planes(planes, whole(planes), View(mirrored=True), SQUARE, 50), plain[:, :, ::-1]
    )


def test_crop_planes__turns_by_the_angle() -> None:
    planes = smooth_planes(61, 61)
    plain = crop_planes(planes, whole(planes), View(), SQUARE, 61)
    turned = crop_planes(planes, whole(planes), View(rotation_deg=90), SQUARE, 61)
    np.testing.assert_array_equal(turned, np.rot90(plain, axes=(1, 2)))


def test_crop_planes__turns_in_mm_whatever_the_voxels() -> None:
    """A disc stays a disc when voxels are twice as high as wide and the frame is square in mm."""
    y, x = np.mgrid[:40, :80]
    disc = (((y - 19.5) * 2.0) ** 2 + (x - 39.5) ** 2 <= 25**2).astype(np.float32) * 255
    planes = np.stack([disc] * 3)
    frame = whole(planes, (2.0, 1.0))
    plain = crop_planes(planes, frame, View(), (2.0, 1.0), 80)
    turned = crop_planes(planes, frame, View(rotation_deg=30), (2.0, 1.0), 80)
    assert np.abs(plain.astype(int) - turned).mean() < 5, "only the jagged edge differs"
    bar = np.zeros_like(planes)
    bar[:, :, 30:50] = 255
    turned = crop_planes(bar, frame, View(rotation_deg=90), (2.0, 1.0), 80)
    assert (turned[:, 32:48] > 250).all()
    assert (turned[:, :28] < 5).all()


def test_crop_planes__sees_real_tissue_in_the_corners_of_a_turned_view() -> None:
    planes = smooth_planes(100, 100) * 0.5 + 100
    frame = Frame((49.5, 49.5), (40.0, 40.0))
    turned = crop_planes(planes, frame, View(rotation_deg=30), SQUARE, 64)
    assert turned.min() >= 99
    angle = np.radians(30)
    share = 0.5 / 64 - 0.5  # the first pixel
    y = 49.5 + 40 * share * (np.cos(angle) + np.sin(angle))
    x = 49.5 + 40 * share * (np.cos(angle) - np.sin(angle))
    nearest = planes[:, round(y), round(x)]
    np.testing.assert_allclose(turned[:, 0, 0], nearest, atol=6)


def test_crop_planes__sees_the_part_that_scale_and_shift_name() -> None:
    planes = smooth_planes(80, 80)
    part = crop_planes(planes, whole(planes), View(scale=0.5, shift_yx=(-0.25, 0.25)), SQUARE, 40)
    expected = crop_planes(planes[:, :40, 40:], whole(planes[:, :40, 40:]), View(), SQUARE, 40)
    np.testing.assert_allclose(part.astype(int), expected, atol=1)


def test_windowed__clips_and_scales() -> None:
    found = windowed(np.array([-500, 0, 50, 100, 900], np.int16), 0, 100)
    np.testing.assert_allclose(found, [0, 0, 127.5, 255, 255])
    assert found.dtype == np.float32


@given(seed=st.integers(0, 99), view=st.integers(1, 99), scale=st.floats(0.1, 1), turn=st.floats(0, 180))
def test_draw_view__stays_within_its_limits(seed: int, view: int, scale: float, turn: float) -> None:
    settings = RoisSettings(seed=seed, min_crop_scale=scale, max_rotation_deg=turn)
    drawn = draw_view("P1", "L1", view, settings)
    assert scale - 1e-12 <= drawn.scale <= 1
    assert abs(drawn.rotation_deg) <= turn
    assert max(map(abs, drawn.shift_yx)) <= (1 - drawn.scale) / 2 + 1e-12


def test_draw_view__depends_on_seed_patient_lesion_and_view_alone() -> None:
    settings = RoisSettings()
    keys = [("P1", "L1", 1), ("P2", "L1", 1), ("P1", "L2", 1), ("P1", "L1", 2), ("P", "1L1", 1)]
    drawn = [draw_view(*key, settings) for key in keys] + [draw_view("P1", "L1", 1, RoisSettings(seed=1))]
    assert len(set(drawn)) == len(drawn)
    assert draw_view("P1", "L1", 0, settings) == View()
    code = (
        "from mumo.config import RoisSettings; from mumo.pipeline.radiology.crops import draw_view; "
        "print(repr(draw_view('P1', 'L1', 1, RoisSettings())))"
    )
    environment = {"PYTHONHASHSEED": "1", "PATH": ""}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == repr(drawn[0])


def test_draw_view__mirrors_about_half_and_turns_both_ways() -> None:
    drawn = [draw_view("P1", "L1", view, RoisSettings()) for view in range(1, 401)]
    assert 160 < sum(view.mirrored for view in drawn) < 240
    assert 160 < sum(view.rotation_deg > 0 for view in drawn) < 240

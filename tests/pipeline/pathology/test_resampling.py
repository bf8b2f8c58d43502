"""Averaging over areas: the whole-number kernels give the bytes of the general rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mumo.pipeline.pathology import resampling


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5)])
def test_resample__whole_numbers_equal_the_general_rule(side: int, corner: tuple[int, int]) -> None:
    source = picture(70, 90)
    found, expected = np.zeros((2, 30, 40, 3), np.uint8)
    resampling.resample(source, *corner, float(side), found)
    resampling.average_area(source, *corner, float(side), expected)
    np.testing.assert_array_equal(found, expected)


def test_resample__rounds_half_up() -> None:
    sums = np.arange(4 * 255 + 1)
    source = np.zeros((2, 2 * len(sums), 4), np.uint8)
    for number, cell in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        source[cell[0], cell[1] :: 2, :3] = np.clip(sums - 255 * number, 0, 255)[:, None]
    out = np.zeros((1, len(sums), 3), np.uint8)
    resampling.resample(source, 0.0, 0.0, 2.0, out)
    np.testing.assert_array_equal(out[0], np.repeat((2 * sums + 4)[:, None] // 8, 3, axis=1))


def test_resample__takes_the_general_rule_where_the_last_squares_hang_over() -> None:
    source = picture(9, 9)
    found, expected = np.zeros((2, 5, 5, 3), np.uint8)
    resampling.resample(source, 0.0, 0.0, 2.0, found)
    resampling.average_area(source, 0.0, 0.0, 2.0, expected)
    np.testing.assert_array_equal(found, expected)


def test_resample__fills_a_part_of_a_larger_picture() -> None:
    source, large = picture(40, 40), np.zeros((60, 60, 3), np.uint8)
    resampling.resample(source, 0.0, 0.0, 2.0, large[10:30, 5:25])
    expected = np.zeros((20, 20, 3), np.uint8)
    resampling.average_area(source, 0.0, 0.0, 2.0, expected)
    np.testing.assert_array_equal(large[10:30, 5:25], expected)
    assert not large[:10].any() and not large[:, :5].any()

"""B-spline resampling against ITK, as PyRadiomics calls it, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import imageoperations

from mumo.pipeline.omics import resample
from mumo.pipeline.omics.preparation import prepare


@given(
    shape=st.tuples(*[st.integers(3, 150)] * 3).filter(lambda shape: np.prod(shape) < 150_000),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.5703125, 0.78125, 1.0, 3.0, 6.5])] * 3),
    new=st.tuples(*[st.sampled_from([0.7, 1.0, 2.0, 3.0, 0.0])] * 3),
    kind=st.sampled_from(["float64", "float32", "int16", "uint8", "flat"]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=40)
def test_prepare__resamples_as_itk_to_the_last_bit(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    new: tuple[float, float, float],
    kind: str,
    seed: int,
) -> None:
    """`flat`: rounding errors decide on which side of a whole number a value is cut."""
    rng = np.random.default_rng(seed)
    image: np.ndarray = {
        "float64": lambda: rng.normal(100, 60, shape),
        "float32": lambda: rng.normal(100, 60, shape).astype(np.float32),
        "int16": lambda: rng.integers(-1000, 1000, shape, dtype=np.int16),
        "uint8": lambda: rng.integers(0, 256, shape, dtype=np.uint8),
        "flat": lambda: np.full(shape, -77, np.int16),
    }[kind]()
    mask = np.zeros(shape, bool)
    mask[tuple(slice(start, start + 9) for start in (rng.integers(0, size - 1) for size in shape))] = True
    setting = {"resampledPixelSpacing": list(new), "interpolator": "sitkBSpline", "padDistance": 4}
    voxels, labels = sitk.GetImageFromArray(image), sitk.GetImageFromArray(mask.astype(np.uint8))
    voxels.SetSpacing(spacing)
    labels.SetSpacing(spacing)
    expected, region = imageoperations.resampleImage(voxels, labels, **setting)
    if np.count_nonzero(sitk.GetArrayFromImage(region)) < 2:  # refused, as PyRadiomics refuses it
        return
    found = prepare(image, mask, spacing, {**setting, "minimumROIDimensions": 0}).texture
    np.testing.assert_array_equal(found.image, sitk.GetArrayFromImage(expected))
    np.testing.assert_array_equal(found.mask, sitk.GetArrayFromImage(region) != 0)
    assert found.spacing_mm == expected.GetSpacing()
    assert found.image.dtype == image.dtype


@pytest.mark.parametrize("interpolator", ["sitkLinear", "sitkNearestNeighbor", "sitkGaussian"])
def test_prepare__leaves_other_interpolators_to_itk(interpolator: str) -> None:
    image = np.random.default_rng(0).normal(0, 50, (8, 20, 22))
    mask = np.zeros(image.shape, bool)
    mask[2:6, 4:15, 6:12] = True
    setting = {"resampledPixelSpacing": [1.5, 1.5, 2.0], "interpolator": interpolator, "padDistance": 3}
    voxels, labels = sitk.GetImageFromArray(image), sitk.GetImageFromArray(mask.astype(np.uint8))
    expected, region = imageoperations.resampleImage(voxels, labels, **setting)
    found = prepare(image, mask, (1.0, 1.0, 1.0), setting).texture
    np.testing.assert_array_equal(found.image, sitk.GetArrayFromImage(expected))
    np.testing.assert_array_equal(found.mask, sitk.GetArrayFromImage(region) != 0)


def test_cubic__an_axis_of_two_voxels_is_mirrored() -> None:
    """ITK reads beyond the image there, so that its values differ from run to run: this has no reference but itself.

    Mirrored at both ends, two voxels are a cosine of period 2: 10 + 4 cos(π x) at the voxels, between them as the
    spline of 6, 14, 6, 14, … has it.
    """
    image = np.broadcast_to(np.array([14.0, 6.0]), (4, 4, 2)).copy()
    grid = resample.make_grid((1.0, 1.0, 1.0), (0.25, 1.0, 1.0), (0.0, 0.0, 0.0), (5, 4, 4))
    box = resample.needed(grid, image.shape)
    found = resample.cubic(image[box].copy(), box, image.shape, grid, np.float64)
    long = np.broadcast_to(np.tile([14.0, 6.0], 20), (4, 4, 40)).copy()
    grid = resample.make_grid((1.0, 1.0, 1.0), (0.25, 1.0, 1.0), (20.0, 0.0, 0.0), (5, 4, 4))
    box = resample.needed(grid, long.shape)
    expected = resample.cubic(long[box].copy(), box, long.shape, grid, np.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_cubic__margins_around_the_region_change_nothing() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(0, 100, (6, 200, 300))
    grid = resample.make_grid((1.0, 1.0, 1.0), (0.8, 0.9, 1.0), (140.3, 90.2, 1.0), (20, 20, 3))
    box = resample.needed(grid, image.shape)
    assert image[box].size < image.size / 3
    whole = (slice(0, 6), slice(0, 200), slice(0, 300))
    part = resample.cubic(image[box].copy(), box, image.shape, grid, np.float64)
    np.testing.assert_array_equal(part, resample.cubic(image.copy(), whole, image.shape, grid, np.float64))

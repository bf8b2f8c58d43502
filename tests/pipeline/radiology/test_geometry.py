"""Grids: LPS order, points, comparison; against SimpleITK."""

from __future__ import annotations

import pickle
from dataclasses import replace
from itertools import permutations, product

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk

from mumo.pipeline.radiology.geometry import Geometry, ImageError, check_same_geometry, lps_axes

GRID = Geometry((40, 36, 14), (0.8, 0.9, 2.5), (-20.0, 11.0, -105.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))


def geometry_of(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def orientations() -> list[np.ndarray]:
    """All 48 signed permutations, each turned by 11° so that nothing is exact."""
    angle = np.radians(11)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    matrices = []
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[order, range(3)] = signs
        matrices.append(turn @ matrix)
    return matrices


@pytest.mark.parametrize("direction", orientations())
def test_to_lps__is_what_dicom_orient_makes(direction: np.ndarray) -> None:
    array = np.random.default_rng(1).integers(0, 9999, (3, 4, 5)).astype(np.int16)
    image = ct_files.image_of(array)
    image.SetDirection(direction.ravel().tolist())
    expected = sitk.DICOMOrient(image, "LPS")
    found = geometry_of(image).to_lps()
    assert found.size_xyz == expected.GetSize()
    np.testing.assert_allclose(found.spacing_mm, expected.GetSpacing())
    np.testing.assert_allclose(found.origin_mm, expected.GetOrigin())
    np.testing.assert_allclose(found.direction, expected.GetDirection(), atol=1e-12)
    np.testing.assert_array_equal(lps_axes(image.GetDirection()).apply(array), sitk.GetArrayFromImage(expected))


@pytest.mark.parametrize("direction", orientations()[5:8])
def test_geometry__points_agree_with_simpleitk(direction: np.ndarray) -> None:
    image = ct_files.image_of(np.zeros((3, 4, 5), np.int16))
    image.SetDirection(direction.ravel().tolist())
    index = [(0.0, 0.0, 0.0), (4.0, 3.0, 2.0), (-0.5, 2.25, 1.5)]
    points = [image.TransformContinuousIndexToPhysicalPoint(i) for i in index]
    np.testing.assert_allclose(geometry_of(image).to_mm(index), points, atol=1e-9)
    np.testing.assert_allclose(geometry_of(image).to_index(points), index, atol=1e-9)


def test_check_same_geometry__takes_rounding_of_formats() -> None:
    rounded = replace(GRID, spacing_mm=(0.800001, 0.9, 2.5), origin_mm=(-20.003, 11.0, -105.0))
    check_same_geometry(GRID, rounded, 0.01)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(GRID, size_xyz=(40, 36, 13)), "size (40, 36, 13); expected size (40, 36, 14)"),
        (replace(GRID, spacing_mm=(0.8, 0.9, 2.6)), "(0.8, 0.9, 2.6); expected spacing in mm (0.8, 0.9, 2.5)"),
        (replace(GRID, origin_mm=(-20.0, 11.0, -104.9)), "origin in mm (-20.0, 11.0, -104.9)"),
        (
            replace(GRID, direction=(0.9998, -0.02, 0, 0.02, 0.9998, 0, 0, 0, 1)),
            "direction (0.9998, -0.02, 0.0, 0.02, 0.9998, 0.0, 0.0, 0.0, 1.0)",
        ),
        (replace(GRID, spacing_mm=(0.8005, 0.9, 2.5)), "direction"),
    ],
)
def test_check_same_geometry__says_what_differs(other: Geometry, words: str) -> None:
    with pytest.raises(ImageError, match="another grid") as caught:
        check_same_geometry(GRID, other, 0.01, name="lesion L1, mask")
    assert words in str(caught.value)
    assert str(caught.value).startswith("lesion L1, mask: found")


def test_image_error__survives_pickling_and_becomes_a_problem() -> None:
    error = ImageError("mask", "nothing", "something", "Look again.")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.expected) == (str(error), "something")
    assert str(again.problem("lesions", "C1", "mask")) == (
        "lesions, row C1, column 'mask': found nothing; expected something. Look again."
    )

"""Image types against PyRadiomics' own generators, which use PyWavelets, ITK and scikit-image, bit by bit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import imageoperations

from mumo.pipeline.omics import gaussian, wavelet
from mumo.pipeline.omics.filters import FILTERS, image_types

SPACING = (0.7, 0.9, 2.5)


def image_of(kind: str, shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return {
        "float64": lambda: rng.normal(20, 90, shape),
        "float32": lambda: rng.normal(20, 90, shape).astype(np.float32),
        "int16": lambda: rng.integers(-900, 900, shape, dtype=np.int16),
        "flat": lambda: np.full(shape, 239.7),
    }[kind]()


def whole(image: np.ndarray) -> tuple[slice, slice, slice]:
    z, y, x = image.shape
    return slice(0, z), slice(0, y), slice(0, x)


def by_pyradiomics(image: np.ndarray, kind: str, setting: dict[str, Any]) -> dict[str, np.ndarray]:
    voxels = sitk.GetImageFromArray(image)
    voxels.SetSpacing(SPACING)
    mask = sitk.Cast(voxels == voxels, sitk.sitkUInt8)
    generator = getattr(imageoperations, f"get{kind}Image")
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return {name: sitk.GetArrayFromImage(found) for found, name, _ in generator(voxels, mask, **setting)}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("Original", {}),
    ("Square", {}),
    ("SquareRoot", {}),
    ("Logarithm", {}),
    ("Exponential", {}),
    ("Gradient", {}),
    ("Gradient", {"gradientUseSpacing": False}),
    ("LoG", {"sigma": [1.0, 2.5]}),
    ("Wavelet", {}),
    ("Wavelet", {"force2D": True}),
    ("Wavelet", {"force2D": True, "force2Ddimension": 2}),
    ("Wavelet", {"level": 2, "wavelet": "haar"}),
    ("Wavelet", {"start_level": 1}),
    ("LBP2D", {"force2D": True}),
    ("LBP2D", {"force2D": True, "force2Ddimension": 1, "lbp2DRadius": 2, "lbp2DSamples": 12, "lbp2DMethod": "default"}),
]


@pytest.mark.parametrize("kind", ["float64", "float32", "int16", "flat"])
@pytest.mark.parametrize(("image_type", "setting"), CASES)
def test_image_types__are_those_of_pyradiomics(image_type: str, setting: dict[str, Any], kind: str) -> None:
    image = image_of(kind, (12, 17, 20))
    expected = by_pyradiomics(image, image_type, setting)
    for box in (whole(image), (slice(2, 7), slice(5, 16), slice(0, 9))):
        found = list(image_types(image, box, SPACING, setting, {image_type: {}}))
        assert [name for name, _, _ in found] == list(expected)
        for name, values, _ in found:
            assert values.dtype == expected[name].dtype
            np.testing.assert_array_equal(values, expected[name][box], err_msg=name)


def test_image_types__settings_of_a_type_go_before_the_common_ones() -> None:
    image = image_of("float64", (6, 8, 8))
    own = {"Gradient": {"gradientUseSpacing": False, "binWidth": 3}}
    ((_, found, chosen),) = image_types(image, whole(image), SPACING, {"binWidth": 25, "distances": [2]}, own)
    assert chosen == {"binWidth": 3, "distances": [2], "gradientUseSpacing": False}
    np.testing.assert_array_equal(found, by_pyradiomics(image, "Gradient", {"gradientUseSpacing": False})["gradient"])


@pytest.mark.parametrize("setting", [{"sigma": [2.0]}, {"sigma": [-1.0, 0.0]}, {}])
def test_image_types__log_gives_nothing_where_pyradiomics_gives_nothing(setting: dict[str, Any]) -> None:
    image = image_of("float64", (3, 20, 20) if setting.get("sigma") == [2.0] else (8, 20, 20))
    assert list(image_types(image, whole(image), SPACING, setting, {"LoG": {}})) == []
    assert by_pyradiomics(image, "LoG", setting) == {}


def test_filters__cover_all_of_pyradiomics_but_lbp_3d() -> None:
    known = {name[3:-5] for name in dir(imageoperations) if name.startswith("get") and name.endswith("Image")}
    assert set(FILTERS) == known - {"LBP3D"}


# --- wavelet --------------------------------------------------------------------------------------------------
@given(
    shape=st.tuples(*[st.integers(1, 33)] * 3),
    corners=st.tuples(*[st.floats(0, 1)] * 6),
    kind=st.sampled_from(["float64", "float32", "int16", "flat"]),
    name=st.sampled_from(["coif1", "haar", "db4", "bior2.2", "sym5"]),
    axes=st.sampled_from([(2, 1), (2, 1, 0), (1, 0), (2,)]),
    levels=st.integers(1, 2),
    first_level=st.integers(0, 1),
)
@settings(deadline=None, max_examples=60)
def test_sub_bands__equal_pywavelets_to_the_last_bit(
    shape: tuple[int, int, int],
    corners: tuple[float, ...],
    kind: str,
    name: str,
    axes: tuple[int, ...],
    levels: int,
    first_level: int,
) -> None:
    """Any box of any size, where periods wrap around its sides or more than once."""
    import pywt

    image = image_of(kind, shape, 3)
    starts = [int(share * (size - 1)) for share, size in zip(corners[:3], shape, strict=True)]
    stops = [
        start + 1 + int(share * (size - start - 1))
        for share, start, size in zip(corners[3:], starts, shape, strict=True)
    ]
    z, y, x = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    found = wavelet.sub_bands(image, (z, y, x), name, axes, levels, first_level)
    data = np.pad(image, [(0, size % 2) for size in shape], "wrap")
    expected = []
    for level in range(first_level + levels):
        bands = pywt.swtn(data, name, level=1, axes=axes)[0]
        data = bands["a" * len(axes)]
        expected += [bands[key][z, y, x] for key in sorted(bands)] if level >= first_level else []
    assert len(found) == len(expected)
    for values, right in zip(found, expected, strict=True):
        assert values.dtype == right.dtype
        np.testing.assert_array_equal(values, right)


# --- Laplacian of Gaussian --------------------------------------------------------------------------------------
@given(
    shape=st.tuples(*[st.integers(4, 24)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 0.78125, 1.0, 5.0])] * 3),
    sigma=st.sampled_from([0.5, 1.0, 3.0]),
    kind=st.sampled_from(["float64", "float32", "int16"]),
)
@settings(deadline=None, max_examples=40)
def test_laplacian__equals_itk_to_the_last_bit(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], sigma: float, kind: str
) -> None:
    image = image_of(kind, shape, 4)
    voxels = sitk.GetImageFromArray(image)
    voxels.SetSpacing(spacing)
    laplacian = sitk.LaplacianRecursiveGaussianImageFilter()
    laplacian.SetNormalizeAcrossScale(True)
    laplacian.SetSigma(sigma)
    expected = sitk.GetArrayFromImage(laplacian.Execute(voxels))
    np.testing.assert_array_equal(gaussian.laplacian(image, spacing, sigma), expected)


def test_laplacian__of_a_wide_gaussian_is_its_second_derivative() -> None:
    """At the centre of a Gaussian of variance s², smoothing by σ² leaves −3 σ² / (s² + σ²) of its height there.

    Deriche's filters are approximations, good to a hundredth here.
    """
    sigma, own = 2.0, 5.0
    grid = np.indices((61, 61, 61)) - 30
    image = np.exp(-(grid**2).sum(axis=0) / (2 * own**2))
    height = (own**2 / (own**2 + sigma**2)) ** 1.5
    found = gaussian.laplacian(image, (1.0, 1.0, 1.0), sigma)[30, 30, 30]
    assert found == pytest.approx(-3 * sigma**2 * height / (own**2 + sigma**2), rel=0.02)

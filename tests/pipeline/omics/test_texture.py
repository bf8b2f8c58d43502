"""Grey levels, matrices and their features against PyRadiomics' C code, NumPy, and values by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import cMatrices, imageoperations

from mumo.pipeline.omics.texture import discretise, firstorder, glcm, gldm, glrlm, glszm, matrices, ngtdm
from mumo.pipeline.omics.texture.classes import NoNeighboursError, Textures
from mumo.pipeline.omics.texture.discretise import Levels
from mumo.pipeline.omics.texture.offsets import half_offsets, weights


def levels_of(grey: np.ndarray, distances: tuple[int, ...] = (1,), flat: bool = False) -> Levels:
    """Whole grey levels from 1 (z, y, x) as they are; 0 is outside the region."""
    edges = np.arange(1.0, grey.max() + 2)
    return discretise.to_levels(grey.astype(np.float64), grey > 0, edges, distances, flat)


@st.composite
def regions(draw: st.DrawFn) -> tuple[np.ndarray, bool]:
    """Small regions in grey levels: holes, several parts, one row, few levels, borders; and whether in slices."""
    shape = tuple(draw(st.integers(1, 7)) for _ in range(3))
    flat = draw(st.booleans())
    highest = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grey = rng.integers(1, highest + 1, shape) * (rng.random(shape) < draw(st.sampled_from([0.2, 0.6, 0.9, 1.0])))
    if not grey.any():
        grey[0, 0, 0] = 1
    return grey, flat


def has_neighbours(grey: np.ndarray, flat: bool) -> bool:
    return max(grey.shape[1:] if flat else grey.shape) > 1


# --- offsets ------------------------------------------------------------------------------------------------
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3),
    distances=st.lists(st.integers(1, 4), min_size=1, max_size=3, unique=True),
    flat=st.booleans(),
)
def test_half_offsets__are_those_of_pyradiomics(shape: tuple[int, ...], distances: list[int], flat: bool) -> None:
    found = half_offsets(shape, distances, flat)
    try:
        expected = cMatrices.generate_angles(np.array(shape), np.array(distances), 0, flat, 0)
    except RuntimeError:  # PyRadiomics cannot give an empty list
        expected = np.zeros((0, 3), np.int64)
    np.testing.assert_array_equal(found, expected)


def test_weights__are_lengths_by_each_norm() -> None:
    offsets = np.array([[1, -2, 3]])
    spacing = (2.0, 1.0, 0.5)
    assert weights(offsets, spacing, "manhattan") == [5.5]
    assert weights(offsets, spacing, "euclidean") == pytest.approx([np.sqrt(4 + 4 + 2.25)])
    assert weights(offsets, spacing, "infinity") == [2.0]
    assert weights(offsets, spacing, "no_weighting") == [1.0]


# --- discretisation -----------------------------------------------------------------------------------------
@given(
    kind=st.sampled_from(["float64", "float32", "int16", "edges", "noise around edges"]),
    setting=st.sampled_from([{}, {"binWidth": 5}, {"binWidth": 0.3}, {"binWidth": 3.7}, {"binCount": 7}]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_to_levels__equals_pyradiomics(kind: str, setting: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    image: np.ndarray = {
        "float64": rng.normal(20, 40, (2, 9, 9)),
        "float32": rng.normal(-20, 40, (2, 9, 9)).astype(np.float32),
        "int16": rng.integers(-300, 300, (2, 9, 9), dtype=np.int16),
        "edges": rng.integers(-5, 6, (2, 9, 9)) * 25.0,
        "noise around edges": rng.integers(-5, 6, (2, 9, 9)) * 0.3 + rng.choice([-1e-15, 0, 1e-15], (2, 9, 9)),
    }[kind]
    mask = rng.random(image.shape) < 0.7
    mask[0, 0, 0] = True
    inside = image[mask]
    edges = discretise.bin_edges(inside.min(), inside.max(), inside, setting)
    levels = discretise.to_levels(image.astype(np.float64), mask, edges, (1,), flat=True)
    expected, _ = imageoperations.binImage(image, mask, **setting)
    np.testing.assert_array_equal(levels.true[:, 1:-1, 1:-1], expected)
    present, counts = np.unique(expected[mask], return_counts=True)
    np.testing.assert_array_equal(levels.values, present)
    np.testing.assert_array_equal(levels.counts, counts)
    np.testing.assert_array_equal(np.append(0, levels.values)[levels.ranks], levels.true)


def test_bin_edges__narrow_integers_do_not_overflow_as_in_pyradiomics() -> None:
    image = np.array([[[0, 120, 255]]], np.uint8)
    mask = np.ones(image.shape, bool)
    with np.errstate(all="ignore"):
        wrong, _ = imageoperations.binImage(image, mask)
    right, _ = imageoperations.binImage(image.astype(np.int64), mask)
    assert wrong.max() < right.max()
    edges = discretise.bin_edges(np.uint8(0), np.uint8(255), image, {})
    levels = discretise.to_levels(image.astype(np.float64), mask, edges, (1,), flat=True)
    np.testing.assert_array_equal(levels.true[0, 1, 1:-1], right[0, 0])


def test_to_levels__refuses_more_levels_than_kernels_take() -> None:
    with pytest.raises(discretise.LevelsError, match="70001 grey levels, at most 65535"):
        discretise.to_levels(np.zeros((1, 1, 2)), np.ones((1, 1, 2), bool), np.arange(70_001.0), (1,), flat=True)


# --- matrices -----------------------------------------------------------------------------------------------
@given(region=regions(), distances=st.sampled_from([(1,), (2,), (1, 2), (3, 1)]))
@settings(deadline=None)
def test_cooccurrence__equals_pyradiomics(region: tuple[np.ndarray, bool], distances: tuple[int, ...]) -> None:
    grey, flat = region
    levels = levels_of(grey, distances, flat)
    offsets = half_offsets(levels.box, distances, flat)
    if len(offsets) == 0:
        return
    table, _ = cMatrices.calculate_glcm(grey, grey > 0, np.array(distances), levels.highest, flat, 0)
    present = levels.values - 1
    expected = table[0][present][:, present].transpose(2, 0, 1)
    np.testing.assert_array_equal(matrices.cooccurrence(levels, offsets), expected)


@given(region=regions())
@settings(deadline=None)
def test_run_lengths__equal_pyradiomics(region: tuple[np.ndarray, bool]) -> None:
    grey, flat = region
    if not has_neighbours(grey, flat):
        return
    levels = levels_of(grey, flat=flat)
    runs, paired = matrices.run_lengths(levels, half_offsets(levels.box, (1,), flat))
    table, _ = cMatrices.calculate_glrlm(grey, grey > 0, levels.highest, max(grey.shape), flat, 0)
    expected = table[0][levels.values - 1].transpose(2, 0, 1)
    np.testing.assert_array_equal(runs * paired[:, None, None], expected[:, :, : runs.shape[2]])
    assert not expected[:, :, runs.shape[2] :].any()


@given(region=regions())
@settings(deadline=None)
def test_zones__equal_pyradiomics(region: tuple[np.ndarray, bool]) -> None:
    grey, flat = region
    if not has_neighbours(grey, flat):
        return
    levels = levels_of(grey, flat=flat)
    rank, size, number = matrices.zones(levels, half_offsets(levels.box, (1,), flat))
    table = cMatrices.calculate_glszm(grey, grey > 0, levels.highest, int((grey > 0).sum()), flat, 0)[0]
    found = np.zeros_like(table[levels.values - 1])
    found[rank, size - 1] = number
    np.testing.assert_array_equal(found, table[levels.values - 1])


@given(region=regions(), distances=st.sampled_from([(1,), (2, 1)]), tolerance=st.integers(0, 3))
@settings(deadline=None)
def test_neighbourhoods__equal_pyradiomics(
    region: tuple[np.ndarray, bool], distances: tuple[int, ...], tolerance: int
) -> None:
    grey, flat = region
    levels = levels_of(grey, distances, flat)
    offsets = half_offsets(levels.box, distances, flat)
    if len(offsets) == 0:
        return
    dependent, differences = matrices.neighbourhoods(levels, offsets, tolerance)
    arguments = (grey, grey > 0, np.array(distances), levels.highest)
    expected = cMatrices.calculate_gldm(*arguments, tolerance, flat, 0)[0][levels.values - 1]
    np.testing.assert_array_equal(dependent, expected[:, : dependent.shape[1]])
    tones = cMatrices.calculate_ngtdm(*arguments, flat, 0)[0][levels.values - 1]
    np.testing.assert_allclose(differences, tones[:, 1], rtol=1e-12, atol=1e-12)


def test_zones__large_ones_are_counted_too() -> None:
    """Beyond the table of small sizes: two halves of 200 voxels, and one voxel between them."""
    grey = np.ones((1, 1, 401), int)
    grey[0, 0, 200] = 3
    rank, size, number = matrices.zones(levels_of(grey, flat=True), half_offsets(grey.shape, (1,), flat=True))
    assert sorted(zip(rank.tolist(), size.tolist(), number.tolist(), strict=True)) == [(0, 200, 2), (1, 1, 1)]


def test_zones__a_spiral_is_one_zone() -> None:
    """Its arms get labels of their own that are joined late."""
    grey = np.full((1, 9, 9), 2)
    path = "1111111111111.1000000010000.1.1.1111.1.1.1..1.1.1.1.....1.1.1.1111111.1.1........1"
    for n, mark in enumerate(path[:81]):
        grey[0, n // 9, n % 9] = 1 if mark == "1" else 2
    levels = levels_of(grey, flat=True)
    rank, size, number = matrices.zones(levels, half_offsets(grey.shape, (1,), flat=True))
    expected = cMatrices.calculate_glszm(grey, grey > 0, 2, 81, True, 0)[0]
    assert {(int(r), int(s) - 1): int(n) for r, s, n in zip(rank, size, number, strict=True)} == {
        (int(r), int(s)): int(expected[r, s]) for r, s in np.argwhere(expected)
    }


# --- features by hand -----------------------------------------------------------------------------------------
CHESS = np.array([[[1, 2], [2, 1]]])


def textures(grey: np.ndarray, flat: bool = True) -> Textures:
    return Textures(levels_of(grey, flat=flat), (1,), glcm.Merging(), 0)


def test_glcm__of_a_chess_board_of_four() -> None:
    """Rows and columns change, diagonals do not: contrast 1, 1, 0, 0, and correlation −1, −1, 1, 1."""
    values = textures(CHESS).features("glcm", ("Contrast", "Correlation", "JointEnergy", "Idm", "MCC", "SumAverage"))
    # One diagonal has the level 1 only, the other 2 only: their correlation is 1 by convention, their energy 1, and Q
    # has no second eigenvalue.
    expected = {"Contrast": 0.5, "Correlation": 0.0, "JointEnergy": 0.75, "Idm": 0.75, "MCC": 0.5, "SumAverage": 3.0}
    assert values == pytest.approx(expected)


def test_glrlm__of_a_chess_board_of_four() -> None:
    """Four runs of one along rows and columns, three along diagonals."""
    values = textures(CHESS).features("glrlm", ("LongRunEmphasis", "RunPercentage"))
    assert values == pytest.approx({"LongRunEmphasis": (1 + 1 + 2 + 2) / 4, "RunPercentage": (1 + 1 + 0.75 + 0.75) / 4})


def test_glszm_gldm_ngtdm__of_a_chess_board_of_four() -> None:
    regions_of = textures(CHESS)
    assert regions_of.features("glszm", ("LargeAreaEmphasis", "ZonePercentage")) == {
        "LargeAreaEmphasis": 4.0,
        "ZonePercentage": 0.5,
    }
    assert regions_of.features("gldm", ("LargeDependenceEmphasis",)) == {"LargeDependenceEmphasis": 4.0}
    # Each voxel has three neighbours: of level 1 they are 2, 2, 1, mean 5/3.
    assert regions_of.features("ngtdm", ("Coarseness",))["Coarseness"] == pytest.approx(1 / (4 / 3))


def test_textures__says_where_there_are_no_neighbours() -> None:
    column = Textures(levels_of(np.ones((5, 1, 1), int), flat=True), (1,), glcm.Merging(), 0)
    with pytest.raises(NoNeighboursError, match=r"box of \(5, 1, 1\) voxels .* no neighbours at distance 1"):
        column.features("glszm", glszm.FEATURES)


def test_features__of_a_region_of_one_level() -> None:
    flat = textures(np.ones((1, 4, 4), int))
    assert flat.features("glcm", ("Imc1", "Imc2", "MCC", "Correlation")) == {
        "Imc1": 0.0,
        "Imc2": 0.0,
        "MCC": 1.0,
        "Correlation": 1.0,
    }
    assert flat.features("ngtdm", ngtdm.FEATURES) == {
        "Busyness": 0.0,
        "Coarseness": 1e6,
        "Complexity": 0.0,
        "Contrast": 0.0,
        "Strength": 0.0,
    }


def test_features__undefined_where_voxels_have_no_neighbours() -> None:
    apart = np.zeros((1, 5, 5), int)
    apart[0, 0, 0], apart[0, 2, 4] = 1, 2
    values = textures(apart)
    assert all(np.isnan(value) for value in values.features("glcm", glcm.FEATURES).values())
    assert all(np.isnan(value) for value in values.features("glrlm", glrlm.FEATURES).values())
    assert np.isfinite(list(values.features("gldm", gldm.FEATURES).values())).all()


# --- first order --------------------------------------------------------------------------------------------
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 9000), kind=st.sampled_from(["normal", "peaked", "whole"]))
@settings(deadline=None, max_examples=60)
def test_percentiles__equal_numpy(seed: int, size: int, kind: str) -> None:
    """`peaked`: nearly all values in one bucket of the selection, next to far outliers."""
    rng = np.random.default_rng(seed)
    values: np.ndarray = {
        "normal": rng.normal(0, 30, size),
        "peaked": rng.standard_cauchy(size) ** 3,
        "whole": rng.integers(0, 4, size).astype(np.float64),
    }[kind]
    found = firstorder.percentiles(values, (10.0, 25.0, 50.0, 75.0, 90.0))
    np.testing.assert_array_equal(found, np.percentile(values, [10, 25, 50, 75, 90]))


def test_firstorder__of_one_intensity_has_no_skewness() -> None:
    """PyRadiomics divides rounding errors of 0.1 by each other here."""
    values = np.full(7, 0.1)
    levels = levels_of(np.ones((1, 1, 7), int), flat=True)
    found = firstorder.features(values, levels, 0.0, 1.0, ("Skewness", "Kurtosis", "Variance", "Mean"))
    assert found == {"Skewness": 0.0, "Kurtosis": 0.0, "Variance": 0.0, "Mean": 0.1}


def test_firstorder__formulas() -> None:
    values = np.array([1.0, 2.0, 2.0, 3.0, 12.0])
    grey = np.array([[[1, 2, 2, 3, 12]]])
    wanted = (*firstorder.FEATURES, *firstorder.ON_REQUEST)
    found = firstorder.features(values, levels_of(grey, flat=True), 1.0, 2.0, wanted)
    mean = values.mean()
    moments = [((values - mean) ** power).mean() for power in (2, 3, 4)]
    assert found["Energy"] == ((values + 1) ** 2).sum()
    assert found["TotalEnergy"] == 2 * found["Energy"]
    assert found["RootMeanSquared"] == pytest.approx(np.sqrt(found["Energy"] / 5))
    assert found["Skewness"] == pytest.approx(moments[1] / moments[0] ** 1.5)
    assert found["Kurtosis"] == pytest.approx(moments[2] / moments[0] ** 2)
    assert found["StandardDeviation"] == pytest.approx(values.std())
    assert found["MeanAbsoluteDeviation"] == pytest.approx(np.abs(values - mean).mean())
    inner = values[(values >= np.percentile(values, 10)) & (values <= np.percentile(values, 90))]
    assert found["RobustMeanAbsoluteDeviation"] == pytest.approx(np.abs(inner - inner.mean()).mean())
    assert found["Uniformity"] == pytest.approx((1 + 4 + 1 + 1) / 25)
    assert found["Entropy"] == pytest.approx(-(3 * 0.2 * np.log2(0.2) + 0.4 * np.log2(0.4)))

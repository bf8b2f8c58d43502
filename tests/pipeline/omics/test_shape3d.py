"""Shape features against PyRadiomics' own, and what can be known by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from radiomics import cShape

from mumo.pipeline.omics import shape3d


@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 3.3])] * 3),
    share=st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(deadline=None)
def test_surface_volume_and_diameters__equal_pyradiomics(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], share: float, seed: int
) -> None:
    """Scattered voxels too, around which PyRadiomics' mesh has gaps."""
    mask = np.random.default_rng(seed).random(shape) < share
    mask[0, 0, 0] = True
    padded = np.pad(mask, 1)
    area, volume, diameters = cShape.calculate_coefficients(padded, np.array(spacing))
    found = shape3d.surface_and_volume(padded, spacing)
    assert found == (pytest.approx(area, rel=1e-9), pytest.approx(volume, rel=1e-9, abs=1e-9))
    assert shape3d.diameters(padded, spacing) == pytest.approx(tuple(diameters), rel=1e-12)


def test_surface_and_volume__of_a_cube() -> None:
    """The mesh cuts the corners: a bevelled cube with the faces of n − 1 voxels."""
    n = 10
    padded = np.pad(np.ones((n, n, n), bool), 1)
    area, volume = shape3d.surface_and_volume(padded, (1.0, 1.0, 1.0))
    edges, corners = 12 * (n - 1) * math.sqrt(0.5), 8 * math.sqrt(3) / 8
    assert area == pytest.approx(6 * (n - 1) ** 2 + edges + corners)
    assert volume == pytest.approx((n - 1) ** 3 + 6 * (n - 1) ** 2 / 2 + 12 * (n - 1) / 8 + 8 / 48)


def test_features__of_a_box() -> None:
    mask, spacing = np.ones((4, 6, 8), bool), (2.0, 1.0, 0.5)
    found = shape3d.features(mask, spacing, (*shape3d.FEATURES, *shape3d.ON_REQUEST))
    variances = sorted((size**2 - 1) / 12 * step**2 for size, step in zip(mask.shape, spacing, strict=True))
    assert found["VoxelVolume"] == mask.size * 1.0
    assert found["MajorAxisLength"] == pytest.approx(4 * math.sqrt(variances[2]))
    assert found["LeastAxisLength"] == pytest.approx(4 * math.sqrt(variances[0]))
    assert found["Elongation"] == pytest.approx(math.sqrt(variances[1] / variances[2]))
    assert found["Flatness"] == pytest.approx(math.sqrt(variances[0] / variances[2]))
    assert found["Maximum3DDiameter"] == pytest.approx(math.sqrt(8**2 + 5**2 + 3.5**2))
    assert found["Compactness2"] == pytest.approx(found["Sphericity"] ** 3)
    assert found["SphericalDisproportion"] == pytest.approx(1 / found["Sphericity"])
    assert found["Compactness1"] == pytest.approx(math.sqrt(found["Compactness2"]) / (6 * math.pi))


def test_features__volume_ratio_is_nan_where_the_mesh_encloses_nothing() -> None:
    """Two voxels that meet at an edge, where the mesh of PyRadiomics may have the volume 0."""
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 0] = True
    found = shape3d.features(mask, (1.0, 1.0, 1.0), ("MeshVolume", "SurfaceVolumeRatio"))
    assert math.isnan(found["SurfaceVolumeRatio"]) == (found["MeshVolume"] == 0)

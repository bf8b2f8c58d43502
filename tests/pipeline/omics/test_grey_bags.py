"""Grey levels of bags by optical density and by stain; luma and averaging are tested with the `radiomics` stage."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.color import rgb2hed

from mumo.pipeline.omics.grey_bags import Grey, grey_bag


def colours(side: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_grey_bag__od_is_the_mean_optical_density_in_hundredths() -> None:
    rgb = colours()
    expected = -100 * np.log10((rgb + 1.0) / 256).mean(axis=2)
    np.testing.assert_allclose(grey_bag(rgb, 16, "od"), expected, rtol=1e-12)


@pytest.mark.parametrize("grey", ["od", "hematoxylin"])
def test_grey_bag__white_is_0(grey: Grey) -> None:
    assert not grey_bag(np.full((4, 4, 3), 255, np.uint8), 4, grey).any()


def test_grey_bag__hematoxylin_is_the_stain_after_deconvolution() -> None:
    """scikit-image has the same stains; it takes densities of RGB in 0–1 and cuts them at 1e-6."""
    rgb = np.full((1, 1, 3), (95, 55, 125), np.uint8)
    found = grey_bag(rgb, 1, "hematoxylin")[0, 0]
    own = np.log10(256 / (rgb + 1.0))  # density as defined here
    theirs = rgb2hed(10.0**-own)[0, 0, 0] * np.log(1e6) / np.log(10)
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    assert found == pytest.approx(100 * theirs * np.linalg.norm(stains[0]), rel=1e-6)


def test_grey_bag__eosin_and_negative_amounts_count_as_nothing() -> None:
    green_free = np.full((2, 2, 3), (255, 20, 255), np.uint8)
    assert not grey_bag(green_free, 2, "hematoxylin").any()


@pytest.mark.parametrize("grey", ["od", "hematoxylin"])
@pytest.mark.parametrize("size", [8, 5])
def test_grey_bag__averages_densities_not_colours(grey: Grey, size: int) -> None:
    rgb = colours()
    fine, coarse = grey_bag(rgb, 16, grey), grey_bag(rgb, size, grey)
    assert coarse.shape == (size, size)
    assert coarse.mean() == pytest.approx(fine.mean(), rel=1e-12)

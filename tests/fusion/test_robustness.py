"""The spread of predictions over annotators."""

from __future__ import annotations

import numpy as np
import pytest

from mumo.fusion.robustness import intraclass_correlation

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
"""Six targets, four judges: table 2 of Shrout and Fleiss, Psychological Bulletin 86:420, 1979."""


def test_intraclass_correlation__is_the_published_one() -> None:
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(0.29, abs=0.005)


def test_intraclass_correlation__one_where_annotators_agree() -> None:
    risk = np.random.default_rng(0).normal(size=30)
    assert intraclass_correlation(np.stack([risk] * 4, axis=1)) == pytest.approx(1)


def test_intraclass_correlation__estimates_the_share_of_variance_between_patients() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 2, (4000, 1)) + rng.normal(0, 1, (4000, 5))
    assert intraclass_correlation(values) == pytest.approx(4 / 5, abs=0.01)


@pytest.mark.parametrize("values", [np.ones((5, 3)), np.arange(3.0)[None], np.arange(3.0)[:, None]])
def test_intraclass_correlation__undefined_is_nan(values: np.ndarray) -> None:
    assert np.isnan(intraclass_correlation(values))

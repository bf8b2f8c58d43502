"""The spread of predictions over annotators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from quick_fits import quick_settings, write_quick_store

from mumo.fusion import crossfit, seeds
from mumo.fusion.robustness import AS_DRAWN, assess, intraclass_correlation
from mumo.fusion.runfiles import read_run

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


@pytest.mark.parametrize("folds", [0, 2])
def test_assess__calls_as_drawn_are_those_of_the_run(tmp_path: Path, folds: int) -> None:
    store, run = write_quick_store(tmp_path), tmp_path / "run"
    how: dict[str, Any] = {"device": "cpu", "workers": 1}
    if folds:
        crossfit.fit_folds(store, run, quick_settings(), folds=folds, seeds=3, **how)
    else:
        seeds.fit_seeds(store, run, quick_settings(seed=3, learning_rate=0.02), seeds=3, **how)
    assess(run, {AS_DRAWN: store, "again": store}, touched=frozenset(), facts={}, device="cpu")
    found = pd.read_csv(run / "robustness" / "patients.csv").query("annotator == @AS_DRAWN")
    files = read_run(run)
    assert dict(zip(found["patient"], found["call"], strict=True)) == dict(
        zip(files.predictions["patient"], files.calls, strict=True)
    )

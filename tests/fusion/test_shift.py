"""Shifts of inputs and predictions between cohorts, against scipy and a planted shift."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from packs import make_packed
from scipy import stats

from mumo.fusion.dataset import fit_scalers
from mumo.fusion.shift import omics_shift, omics_summary, predicted_shift

PACKED = make_packed(40, seed=2)


def test_predicted_shift__equals_scipys_test_and_cohens_d() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, 80), rng.normal(0.7, 1.5, 60)
    (found,) = predicted_shift({"risk": first}, {"risk": second})
    test = stats.ks_2samp(first, second)
    assert (found.distance, found.p) == pytest.approx((test.statistic, test.pvalue))
    pooled = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    assert found.smd == pytest.approx((second.mean() - first.mean()) / pooled)
    assert found.external == pytest.approx(tuple(np.quantile(second, (0.25, 0.5, 0.75))))


def test_omics_shift__is_none_among_the_patients_of_the_statistics() -> None:
    scalers = fit_scalers(PACKED, np.arange(40), 10.0)
    table = omics_shift(PACKED, scalers, np.ones(40, dtype=bool))
    np.testing.assert_allclose(table["median"], 0, atol=1e-6)
    np.testing.assert_allclose(table["spread"], 1, atol=1e-5)
    assert list(table.groupby("modality").size()) == [6, 6]
    missing = np.isnan(PACKED.units["pathology"].omics).mean()
    assert table[table["modality"] == "pathology"]["missing"].mean() == pytest.approx(missing)


def test_omics_shift__finds_a_planted_shift_in_the_patients_looked_at_alone() -> None:
    scalers = fit_scalers(PACKED, np.arange(40), 10.0)
    units = PACKED.units["radiology"]
    omics = np.array(units.omics)
    chosen = np.arange(40) < 20
    inside = np.repeat(chosen, units.counts)
    omics[inside, 2] += 2 * scalers["radiology"].scale[2]
    omics[~inside, 3] += 1e6
    changed = dataclasses.replace(units, omics=omics)
    packed = dataclasses.replace(PACKED, units={**PACKED.units, "radiology": changed})
    before = omics_shift(PACKED, scalers, chosen).set_index(["modality", "feature"])["median"]
    after = omics_shift(packed, scalers, chosen).set_index(["modality", "feature"])["median"]
    moved = after - before
    assert moved["radiology", units.omics_columns[2]] == pytest.approx(2)
    assert moved.drop(("radiology", units.omics_columns[2])).abs().max() < 1e-9
    assert omics_shift(packed, scalers, chosen)["units"].max() < len(units.omics)


def test_omics_shift__of_a_cohort_without_images_is_empty() -> None:
    scalers = fit_scalers(PACKED, np.arange(40), 10.0)
    table = omics_shift(PACKED, scalers, np.zeros(40, dtype=bool))
    assert table.empty
    assert omics_summary(table) == []


def test_omics_summary__names_what_moved_furthest_first() -> None:
    medians = [0.1, -3.0, 0.6, np.nan, 0.0]
    same = {"modality": "ct", "units": 7, "spread": 1.0, "missing": 0.2, "cut": 0.1}
    table = pd.DataFrame({"feature": list("abcde"), "median": medians, **same})
    (found,) = omics_summary(table)
    assert found["furthest"] == [("b", -3.0), ("c", 0.6)]
    assert (found["features"], found["units"], found["shifted"]) == (5, 7, 2)
    assert found["median"] == pytest.approx(0.1)

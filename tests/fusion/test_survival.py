"""Survival of risk groups against formulas written out, scipy and a published example."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar

from mumo.fusion import survival

# Remission times in weeks of 42 children with leukaemia: Freireich et al., Blood 21:699 (1963), as in Cox, J R Stat Soc
# B 34:187 (1972). 6-mercaptopurine, then placebo.
TREATED = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
TREATED_EVENT = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
WEEKS = np.array(TREATED + PLACEBO, dtype=float)
RELAPSED = np.array(TREATED_EVENT + [1] * len(PLACEBO), dtype=bool)
ON_PLACEBO = np.repeat([False, True], 21)


def naive_kaplan_meier(days: np.ndarray, events: np.ndarray, at: float) -> float:
    share = 1.0
    for day in sorted(set(days[events])):
        if day <= at:
            share *= 1 - np.sum(days[events] == day) / np.sum(days >= day)
    return share


def drawn(size: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    high = generator.random(size) < 0.5
    days = np.ceil(generator.exponential(np.where(high, 20.0, 40.0)))  # whole days: ties
    return days, generator.random(size) < 0.7, high


def test_kaplan_meier__equals_product_limit_written_out() -> None:
    days, events, _ = drawn(50, 0)
    curve = survival.kaplan_meier(days, events)
    expected = [naive_kaplan_meier(days, events, day) for day in curve.days]
    np.testing.assert_allclose(curve.survival, expected, atol=1e-12)
    assert (curve.days[0], curve.survival[0]) == (0, 1)


def test_kaplan_meier__equals_the_published_example() -> None:
    # the usual table of the 6-MP arm: S(6) = 0.857, S(10) = 0.753, S(23) = 0.448; median 23 weeks
    curve = survival.kaplan_meier(WEEKS[~ON_PLACEBO], RELAPSED[~ON_PLACEBO])
    at = dict(zip(curve.days, curve.survival, strict=True))
    assert [round(at[week], 3) for week in (6.0, 10.0, 23.0)] == [0.857, 0.753, 0.448]
    assert curve.median_days == 23
    assert survival.kaplan_meier(WEEKS[ON_PLACEBO], RELAPSED[ON_PLACEBO]).median_days == 8


def test_kaplan_meier__interval_equals_log_minus_log_formula() -> None:
    days, events, _ = drawn(50, 1)
    curve = survival.kaplan_meier(days, events)
    for day, share, low, high in zip(curve.days, curve.survival, curve.low, curve.high, strict=True):
        if not 0 < share < 1:
            continue
        deaths = [(np.sum(days[events] == t), np.sum(days >= t)) for t in sorted(set(days[events])) if t <= day]
        spread = math.sqrt(sum(d / (n * (n - d)) for d, n in deaths)) / math.log(share)
        ends = sorted(share ** math.exp(sign * stats.norm.ppf(0.975) * spread) for sign in (-1, 1))
        assert (low, high) == pytest.approx(tuple(ends), abs=1e-9)


def test_kaplan_meier__gives_marks_of_censored_patients_on_the_curve() -> None:
    curve = survival.kaplan_meier(np.array([5.0, 3.0, 8.0, 8.0]), np.array([False, True, False, True]))
    assert curve.censored_days.tolist() == [5, 8]
    assert curve.censored_survival.tolist() == pytest.approx([0.75, 0.375])


@pytest.mark.parametrize(("days", "events"), [([4.0], [True]), ([4.0], [False]), ([0.0, 9.0], [False, True])])
def test_kaplan_meier__has_finite_bounds_for_tiny_groups(days: list[float], events: list[bool]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = survival.kaplan_meier(np.array(days), np.array(events))
    assert np.isfinite(curve.low).all()
    assert np.isfinite(curve.high).all()


def test_kaplan_meier__has_no_median_where_it_is_not_reached() -> None:
    assert math.isnan(survival.kaplan_meier(np.array([1.0, 2.0, 3.0]), np.array([True, False, False])).median_days)


def test_at_risk__counts_who_leaves_that_day() -> None:
    assert survival.at_risk(np.array([5.0, 5.0, 9.0]), np.array([0.0, 5.0, 6.0, 10.0])).tolist() == [3, 3, 1, 0]


def test_at_risk__equals_lifelines_event_table() -> None:
    from lifelines import KaplanMeierFitter

    days, events, _ = drawn(40, 2)
    table = KaplanMeierFitter().fit(days, events).event_table["at_risk"]
    assert survival.at_risk(days, table.index.to_numpy()[1:]).tolist() == table.to_list()[1:]


def naive_log_rank(days: np.ndarray, events: np.ndarray, high: np.ndarray) -> float:
    """p of Mantel's statistic, summed over the days with an event."""
    surplus = variance = 0.0
    for day in sorted(set(days[events])):
        n, n1 = np.sum(days >= day), np.sum(days[high] >= day)
        d, d1 = np.sum(days[events] == day), np.sum(days[events & high] == day)
        surplus += d1 - d * n1 / n
        if n > 1:
            variance += d * n1 * (n - n1) * (n - d) / (n**2 * (n - 1))
    return float(stats.chi2.sf(surplus**2 / variance, 1))


@pytest.mark.parametrize("seed", range(4))
def test_log_rank__equals_mantels_formula_and_scipy(seed: int) -> None:
    days, events, high = drawn(60, seed)
    found = survival.log_rank(days, events, high).value
    groups = [stats.CensoredData.right_censored(days[g], ~events[g]) for g in (high, ~high)]
    assert found == pytest.approx(naive_log_rank(days, events, high), rel=1e-9)
    assert found == pytest.approx(stats.logrank(*groups).pvalue, rel=1e-9)


def test_log_rank__equals_the_published_example() -> None:
    found = survival.log_rank(WEEKS, RELAPSED, ON_PLACEBO).value
    assert stats.chi2.isf(found, 1) == pytest.approx(16.79, abs=0.005)  # the published χ²


def test_hazard_ratio__equals_the_published_example() -> None:
    # the coefficient of this data set with Efron's ties is 1.572, standard error 0.412 (survival, Therneau)
    found = survival.hazard_ratio(WEEKS, RELAPSED, ON_PLACEBO)
    assert math.log(found.value) == pytest.approx(1.572, abs=0.001)
    assert (math.log(found.high) - math.log(found.low)) / (2 * 1.959964) == pytest.approx(0.412, abs=0.001)


def test_hazard_ratio__maximises_efrons_partial_likelihood_written_out() -> None:
    days, events, high = drawn(60, 3)

    def negative_log_likelihood(beta: float) -> float:
        weight, total = np.exp(beta * high), 0.0
        for day in set(days[events]):
            failing = events & (days == day)
            d = int(failing.sum())
            total += beta * high[failing].sum()
            total -= sum(math.log(weight[days >= day].sum() - k / d * weight[failing].sum()) for k in range(d))
        return -total

    best = minimize_scalar(negative_log_likelihood, bounds=(-5, 5), method="bounded", options={"xatol": 1e-8}).x
    assert survival.hazard_ratio(days, events, high).value == pytest.approx(math.exp(best), rel=1e-5)


@pytest.mark.parametrize(
    ("events", "high", "reason"),
    [
        ([0, 0, 0, 0], [0, 0, 1, 1], "no events"),
        ([1, 1, 1, 1], [1, 1, 1, 1], "nobody is in the low-risk group"),
        ([1, 1, 1, 1], [0, 0, 0, 0], "nobody is in the high-risk group"),
        ([1, 1, 0, 0], [1, 1, 0, 0], "no events in the low-risk group"),
        ([0, 0, 1, 1], [1, 1, 0, 0], "no events in the high-risk group"),
        ([1, 1, 1, 1], [1, 1, 0, 0], "do not overlap in time"),
    ],
)
def test_hazard_ratio__says_why_it_is_undefined(events: list[int], high: list[int], reason: str) -> None:
    days = np.array([1.0, 2.0, 3.0, 4.0])
    found = survival.hazard_ratio(days, np.array(events, dtype=bool), np.array(high, dtype=bool))
    assert math.isnan(found.value)
    assert reason in found.reason


@pytest.mark.parametrize(
    ("days", "events"),
    [
        ([1.0, 2.0, 3.0], [False, True, True]),  # events only after the high-risk group has left
        ([4.0, 4.0, 4.0], [True, True, True]),  # everyone at once
    ],
)
def test_log_rank__says_why_it_is_undefined(days: list[float], events: list[bool]) -> None:
    found = survival.log_rank(np.array(days), np.array(events), np.array([True, False, False]))
    assert math.isnan(found.value)
    assert "while both groups are under observation" in found.reason


def test_compare_groups__counts_groups_and_leaves_out_unknown_times() -> None:
    days, events = np.array([10.0, 20, math.nan, 30, 40]), np.array([1.0, 1, 1, math.nan, 0])
    found = survival.compare_groups(days, events, np.array([True, False, True, True, False]))
    assert (found["patients"], found["events"]) == (3, 2)
    assert found["groups"]["low"] == {"patients": 2, "events": 1, "median_days": 20.0}
    assert found["groups"]["high"] == {"patients": 1, "events": 1, "median_days": 10.0}


@pytest.mark.parametrize("unknown", [[], [math.nan]])
def test_compare_groups__survives_nobody(unknown: list[float]) -> None:
    found = survival.compare_groups(np.array(unknown), np.array(unknown), np.array(unknown))
    assert found["log_rank_p"]["reason"] == ("there is no threshold" if unknown else "no known time")
    json.dumps(found, allow_nan=False)


def test_compare_groups__leaves_out_who_has_no_threshold() -> None:
    days, events, high = np.array([10.0, 20, 30, 40]), np.ones(4), np.array([1.0, 0, 0, math.nan])
    found = survival.compare_groups(days, events, high)
    assert (found["patients"], found["events"]) == (4, 4)
    assert [found["groups"][name]["patients"] for name in ("low", "high")] == [2, 1]
    assert found["log_rank_p"] == survival.log_rank(days[:3], events[:3] == 1, high[:3] == 1).as_json()


@pytest.mark.parametrize("count", [2, 3])
def test_log_rank_of_groups__equals_lifelines_and_for_two_the_test_of_risk_groups(count: int) -> None:
    from lifelines.statistics import multivariate_logrank_test

    rng = np.random.default_rng(count)
    days, events, group = rng.integers(1, 60, 40).astype(float), rng.random(40) < 0.7, rng.integers(0, count + 1, 40)
    groups = [group == number for number in range(count)]  # the last group stands aside
    found = survival.log_rank_of_groups(days, events, groups).value
    there = group < count
    assert found == pytest.approx(multivariate_logrank_test(days[there], group[there], events[there]).p_value)
    if count == 2:
        high = group[there] == 0
        assert found == pytest.approx(survival.log_rank(days[there], events[there], high).value)


@pytest.mark.parametrize(
    ("days", "events", "reason"),
    [
        ([10.0, 11, 1, 2], [1, 1, 0, 0], "while both groups are under observation"),
        ([10.0, 11, 1, 2], [0, 0, 0, 0], "no event"),
    ],
)
def test_log_rank_of_groups__says_why_it_is_undefined(days: list[float], events: list[int], reason: str) -> None:
    first = np.array([True, True, False, False])
    found = survival.log_rank_of_groups(np.array(days), np.array(events) == 1, [first, ~first])
    assert math.isnan(found.value)
    assert reason in found.reason
    assert "fewer than two" in survival.log_rank_of_groups(np.array(days), np.array(events) == 1, [first]).reason

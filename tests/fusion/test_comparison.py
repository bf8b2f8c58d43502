"""Comparisons of predictors against naive loops, scipy, published examples and simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mumo.errors import FitError
from mumo.fusion.comparison import independent_delong, levene, mcnemar, paired_delong
from mumo.fusion.estimates import Estimate, independent_difference
from mumo.fusion.metrics import auc_delong


def drawn(size: int, seed: int, shifts: tuple[float, float] = (1.0, 0.6)) -> tuple[np.ndarray, ...]:
    """Labels and two correlated scores, rounded so that there are ties."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(size) < 0.4).astype(float)
    shared = generator.normal(0, 1, size)
    scores = [np.round(shift * labels + 0.7 * shared + 0.7 * generator.normal(0, 1, size), 1) for shift in shifts]
    return labels, *scores


def naive_delong(labels: np.ndarray, *scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and their covariance by the double loop of DeLong et al. 1988, equations 4 and 5."""
    positive, negative = [np.flatnonzero(labels == label) for label in (1, 0)]
    m, n = len(positive), len(negative)
    psi = np.empty((len(scores), m, n))
    for k, score in enumerate(scores):
        for i, x in enumerate(positive):
            for j, y in enumerate(negative):
                psi[k, i, j] = 1.0 if score[x] > score[y] else 0.5 if score[x] == score[y] else 0.0
    areas = psi.mean(axis=(1, 2))
    v10, v01 = psi.mean(axis=2), psi.mean(axis=1)
    s10 = (v10 - areas[:, None]) @ (v10 - areas[:, None]).T / (m - 1)
    s01 = (v01 - areas[:, None]) @ (v01 - areas[:, None]).T / (n - 1)
    return areas, s10 / m + s01 / n


@pytest.mark.parametrize("seed", range(5))
def test_paired_delong__equals_the_naive_double_loop(seed: int) -> None:
    labels, first, second = drawn(40, seed)
    areas, covariance = naive_delong(labels, first, second)
    error = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = paired_delong(labels, first, second)
    assert found.difference.value == pytest.approx(areas[0] - areas[1])
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(areas[0] - areas[1]) / error))
    assert found.difference.high - found.difference.value == pytest.approx(stats.norm.ppf(0.975) * error)


def test_paired_delong__is_the_single_interval_against_a_useless_score() -> None:
    labels, first, _ = drawn(60, 0)
    alone, found = auc_delong(labels, first), paired_delong(labels, first, np.zeros(60))
    assert found.difference.low == pytest.approx(alone.low - 0.5)
    assert found.difference.high == pytest.approx(alone.high - 0.5)


def test_paired_delong__rejects_equal_predictors_as_often_as_it_says() -> None:
    p = [paired_delong(*drawn(80, seed, (0.8, 0.8))).p for seed in range(400)]
    assert 8 <= sum(value < 0.05 for value in p) <= 34  # 20 expected; 3 standard deviations are 13


def test_paired_delong__does_not_depend_on_scale_or_unlabelled_patients() -> None:
    labels, first, second = drawn(50, 3)
    expected = paired_delong(labels, first, second)
    found = paired_delong([*labels, None], [*np.exp(first), 99.0], [*(5 * second - 3), -99.0])
    assert found == expected


@pytest.mark.parametrize(
    ("labels", "first", "second", "reason"),
    [
        ([1, 1], [0.1, 0.2], [0.2, 0.1], "only responders"),
        ([1, 0, 0], [0.1, 0.2, 0.3], [0.2, 0.1, 0.3], "one patient in a class"),
        ([1, 1, 0, 0], [4, 3, 2, 1], [9, 7, 5, 1], "both rank every pair the same"),
        ([1, 1, 0, 0], [4, 3, 2, 1], [1, 2, 3, 4], "the difference has no variance"),
    ],
)
def test_paired_delong__says_why_there_is_no_test(
    labels: list[int], first: list[float], second: list[float], reason: str
) -> None:
    found = paired_delong(labels, first, second)
    assert math.isnan(found.p)
    assert reason in found.difference.reason


def test_paired_delong__refuses_arrays_of_different_lengths() -> None:
    with pytest.raises(FitError, match="equally many labels and scores, found 2, 2, 1"):
        paired_delong([0, 1], [0, 1], [0])


def test_mcnemar__equals_the_binomial_test_and_newcombes_published_example() -> None:
    # Newcombe 1998, Stat Med 17:2635, table II: a 36, b 12, c 2, d 0 of 50; method 10: 0.0569 to 0.3404
    first = [1] * 36 + [1] * 12 + [0] * 2
    second = [1] * 36 + [0] * 12 + [1] * 2
    found = mcnemar(first, second)
    assert found.difference.value == pytest.approx(0.2)
    assert found.difference.low == pytest.approx(0.0569, abs=5e-4)
    assert found.difference.high == pytest.approx(0.3404, abs=5e-4)
    assert found.p == pytest.approx(stats.binomtest(12, 14).pvalue)


def test_mcnemar__leaves_out_who_was_not_judged_by_both() -> None:
    found = mcnemar([1, 0, None, 1], [1, 1, 1, None])
    assert found.difference.value == -0.5
    assert mcnemar([1, 0], [1, 0]).p == 1.0
    assert "no patient" in mcnemar([None], [1]).difference.reason


def test_levene__equals_scipy_and_sees_a_wider_spread() -> None:
    generator = np.random.default_rng(0)
    narrow, wide = generator.normal(0, 1, 300), generator.normal(0, 2, 300)
    assert levene([narrow, wide]).value == pytest.approx(stats.levene(narrow, wide, center="median").pvalue)
    assert levene([narrow, wide]).value < 1e-6


def test_levene__says_why_there_is_no_test() -> None:
    assert "at least two" in levene([np.ones(3)]).reason
    assert "no replicate differs" in levene([np.ones(3), np.ones(3)]).reason


@pytest.mark.parametrize("seed", range(3))
def test_independent_delong__equals_the_naive_double_loop(seed: int) -> None:
    (labels, first, _), (others, second, _) = drawn(40, seed), drawn(55, seed + 10)
    (one,), own = naive_delong(labels, first)
    (two,), other = naive_delong(others, second)
    error = math.sqrt(own[0, 0] + other[0, 0])
    found = independent_delong((labels, first), (others, second))
    assert found.difference.value == pytest.approx(one - two)
    assert found.difference.high - found.difference.value == pytest.approx(stats.norm.ppf(0.975) * error)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(one - two) / error))


@pytest.mark.slow
def test_independent_delong__covers_the_truth_in_simulations() -> None:
    truth = stats.norm.cdf(1 / math.sqrt(2)) - stats.norm.cdf(0.4 / math.sqrt(2))
    rng, inside = np.random.default_rng(0), 0
    for _ in range(600):
        groups = []
        for size, shift in ((80, 1.0), (120, 0.4)):
            labels = np.arange(size) % 2
            groups.append((labels, rng.normal(shift * labels, 1)))
        found = independent_delong(groups[0], groups[1]).difference
        inside += found.low <= truth <= found.high
    assert 0.92 <= inside / 600 <= 0.98


def test_independent_delong__says_why_it_is_undefined() -> None:
    good = ([0, 1, 0, 1], [0.1, 0.7, 0.8, 0.9])
    one_class = independent_delong(good, ([1, 1], [0.1, 0.2]))
    assert one_class.difference.reason == "only responders among the labelled patients"
    assert math.isnan(one_class.p)
    few = independent_delong(good, ([1, 0], [0.4, 0.2]))
    assert few.difference.reason == "one patient in a class gives no interval"
    assert few.difference.value == pytest.approx(-0.25)
    apart = ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    for pair in ((apart, apart), (apart, good), (good, apart)):
        found = independent_delong(*pair)
        assert found.difference.reason == "DeLong's variance of one of the two AUCs is 0"
        assert math.isnan(found.p)
        assert math.isnan(found.difference.low)


def test_independent_difference__of_symmetric_intervals_is_the_normal_one() -> None:
    first, second = Estimate(3.0, 2.0, 4.0), Estimate(1.0, 0.5, 1.5)
    found = independent_difference(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((2, 2 - math.sqrt(1.25), 2 + math.sqrt(1.25)))
    unknown = independent_difference(first, Estimate(1.0, reason="no spread"))
    assert (unknown.value, unknown.reason) == (2.0, "no spread")
    assert math.isnan(unknown.low)
    assert math.isnan(independent_difference(Estimate(reason="nobody"), first).value)

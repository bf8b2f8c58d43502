"""Calibration against scikit-learn, scipy and figures counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from mumo.fusion.calibration import calibration, net_benefit, reliability


def drawn(size: int = 400, seed: int = 0, slope: float = 1.0, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose log odds are shift + slope · logit(probability)."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.2, size)
    labels = (generator.random(size) < 1 / (1 + np.exp(-(shift + slope * logits)))).astype(float)
    return labels, 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("seed", range(3))
def test_calibration__slope_equals_scikit_learns_regression_without_penalty(seed: int) -> None:
    labels, probability = drawn(seed=seed)
    logits = np.log(probability / (1 - probability))[:, None]
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, labels)
    assert calibration(labels, probability)["calibration_slope"].value == pytest.approx(fitted.coef_[0, 0], abs=1e-6)


def test_calibration__intercept_maximises_the_likelihood_with_the_logits_as_offset() -> None:
    labels, probability = drawn(shift=0.7)
    logits = np.log(probability / (1 - probability))

    def loss(a: np.ndarray) -> float:
        return float(np.sum(np.logaddexp(0, -(2 * labels - 1) * (a[0] + logits))))

    found = minimize(loss, [0.0], tol=1e-12)
    assert calibration(labels, probability)["calibration_intercept"].value == pytest.approx(found.x[0], abs=1e-5)


def test_calibration__intervals_cover_the_true_values_as_often_as_they_say() -> None:
    hits = {"calibration_slope": 0, "calibration_intercept": 0, "expected_observed": 0}
    for seed in range(300):
        labels, probability = drawn(150, seed)
        for name, true in (("calibration_slope", 1.0), ("calibration_intercept", 0.0), ("expected_observed", 1.0)):
            estimate = calibration(labels, probability)[name]
            hits[name] += estimate.low <= true <= estimate.high
    assert all(275 <= count <= 299 for count in hits.values()), hits


def test_calibration__slope_below_1_says_that_probabilities_are_too_extreme() -> None:
    labels, probability = drawn(2000, slope=0.5)
    found = calibration(labels, probability)["calibration_slope"]
    assert found.low < 0.5 < found.high < 1


@pytest.mark.parametrize(
    ("labels", "probability", "name", "reason"),
    [
        ([1, 1, None], [0.2, 0.8, 0.5], "calibration_slope", "needs labelled patients of both classes"),
        ([], [], "expected_observed", "needs labelled patients of both classes"),
        ([0, 1, 1], [0.5, 0.5, 0.5], "calibration_slope", "every patient has the same probability"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], "calibration_slope", "no maximum"),
    ],
)
def test_calibration__says_why_something_is_undefined(
    labels: list[float | None], probability: list[float], name: str, reason: str
) -> None:
    found = calibration(labels, probability)[name]
    assert math.isnan(found.value)
    assert reason in found.reason


def test_calibration__takes_probabilities_of_0_and_1() -> None:
    found = calibration([0, 1, 1, 0, 1], [0.0, 1.0, 0.3, 0.6, 0.7])
    assert all(math.isfinite(found[name].value) for name in ("calibration_intercept", "calibration_slope"))


def test_reliability__equals_scikit_learns_quantile_curve() -> None:
    labels, probability = drawn(100)
    observed, predicted = calibration_curve(labels, probability, n_bins=10, strategy="quantile")
    bins = reliability(labels, probability)
    assert [b.patients for b in bins] == [10] * 10
    assert [b.predicted for b in bins] == pytest.approx(list(predicted))
    assert [b.observed.value for b in bins] == pytest.approx(list(observed))


def test_reliability__keeps_equal_probabilities_together_and_counts_everyone() -> None:
    labels = np.array([0.0, 1.0] * 30 + [np.nan])
    bins = reliability(labels, np.r_[np.full(40, 0.3), np.linspace(0.4, 0.9, 20), 0.5])
    assert sum(b.patients for b in bins) == 60
    assert bins[0].patients >= 40


def test_reliability__has_no_groups_of_few_patients() -> None:
    assert reliability([0, 1, 1], [0.1, 0.4, 0.6]) == []


def test_net_benefit__equals_the_count_by_hand() -> None:
    labels, probability = [1, 1, 0, 0, None], [0.9, 0.3, 0.6, 0.1, 0.9]
    model, everyone = net_benefit(labels, probability, np.array([0.2, 0.5]))
    assert model == pytest.approx([2 / 4 - 1 / 4 * 0.25, 1 / 4 - 1 / 4])
    assert everyone == pytest.approx([0.5 - 0.5 * 0.25, 0.0])


def test_net_benefit__is_unknown_without_labels() -> None:
    assert np.isnan(net_benefit([None], [0.5], np.array([0.5]))[0]).all()

"""Uno's C against scikit-survival and a naive loop; BCa of Harrell's C against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sksurv.metrics import concordance_index_ipcw
from sksurv.util import Surv

from mumo.fusion.concordance import concordance, concordance_bootstrap, uno


def drawn(size: int, seed: int, *, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    risk = np.round(generator.normal(0, 1, size), 1)
    event_at, censored_at = generator.exponential(300 * np.exp(-risk)), generator.exponential(400, size)
    days = np.minimum(event_at, censored_at)
    return np.ceil(days / 60) if whole else days, event_at <= censored_at, risk


def naive_uno(days: np.ndarray, events: np.ndarray, risk: np.ndarray) -> float:
    """Equation 6 of Uno et al. 2011, patient by patient, with the censoring curve written out as a product."""

    def uncensored(time: float) -> float:
        product = 1.0
        for at in sorted(set(days[~events])):
            if at <= time:
                watched = np.sum(days >= at) - np.sum((days == at) & events)
                product *= 1 - np.sum((days == at) & ~events) / watched
        return product

    agreed = compared = 0.0
    for i in range(len(days)):
        if not events[i] or uncensored(days[i]) == 0:
            continue
        weight = uncensored(days[i]) ** -2
        for j in range(len(days)):
            if days[i] < days[j] or (days[i] == days[j] and not events[j]):
                compared += weight
                agreed += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    return agreed / compared


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_uno__equals_the_naive_loop(seed: int, whole: bool) -> None:
    days, events, risk = drawn(40, seed, whole=whole)
    assert uno(days, events, risk, replicates=10, seed=0).value == pytest.approx(naive_uno(days, events, risk))


@pytest.mark.parametrize("seed", range(4))
def test_uno__equals_scikit_survival(seed: int) -> None:
    days, events, risk = drawn(80, seed, whole=False)
    last = int(np.argmax(days))
    events[last] = True  # scikit-survival refuses an event after the last censoring only where G is 0
    known = Surv.from_arrays(events, days)
    expected = concordance_index_ipcw(known, known, risk)[0]
    assert uno(days, events, risk, replicates=10, seed=0).value == pytest.approx(expected)


def test_uno__is_harrells_without_censoring() -> None:
    days, _, risk = drawn(50, 1, whole=False)
    events = np.ones(50, dtype=bool)
    assert uno(days, events, risk, replicates=10, seed=0).value == pytest.approx(concordance(days, events, risk))


def test_uno__replicates_are_those_of_resampled_patients() -> None:
    days, events, risk = drawn(30, 2, whole=True)
    generator = np.random.default_rng(5)
    counts = generator.multinomial(30, np.full(30, 1 / 30), size=200)
    again = [naive_uno(*(np.repeat(x, count) for x in (days, events, risk))) for count in counts]
    found = uno(days, events, risk, replicates=200, seed=5)
    assert [found.low, found.high] == pytest.approx(np.quantile(again, [0.025, 0.975]))


@pytest.mark.parametrize(
    ("days", "events", "reason"),
    [([None], [None], "no known time"), ([5, 9], [0, 0], "no events"), ([5], [1], "no two patients to compare")],
)
def test_uno__says_why_it_is_undefined(days: list[float | None], events: list[int | None], reason: str) -> None:
    found = uno(days, events, [0.0] * len(days), replicates=10, seed=0)
    assert math.isnan(found.value)
    assert found.reason == reason


@pytest.mark.slow
def test_concordance_bootstrap__agrees_with_scipy_bca() -> None:
    days, events, risk = drawn(60, 3, whole=True)
    expected = stats.bootstrap(
        (days, events, risk), concordance, paired=True, vectorized=False, n_resamples=2000, method="BCa", rng=0
    ).confidence_interval
    found = concordance_bootstrap(days, events, risk, replicates=4000, seed=0)
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.012)

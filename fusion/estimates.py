"""A value with its interval, and the bootstrap and binomial intervals that metrics share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
"""Coverage of every interval."""

Numbers = NDArray[np.float64]

_NO_SPREAD = 1e-12
"""Replicates that differ by no more are the same but for rounding."""


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; what is undefined is NaN, and `reason` says why."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    method: str = ""
    """How the interval was computed."""
    reason: str = ""
    """Why the value, or an end of its interval, is NaN; empty when all is there."""

    def as_json(self) -> dict[str, Any]:
        """The same as JSON takes it: `null` for NaN."""
        values = {"value": self.value, "low": self.low, "high": self.high}
        finite: dict[str, Any] = {key: number if math.isfinite(number) else None for key, number in values.items()}
        return finite | {"method": self.method, "reason": self.reason}


_SAME = "no spread: every replicate has the same value"


def numbers(values: ArrayLike | Iterable[Any]) -> Numbers:
    """Values as float64, unknown ones (None, NaN, `pandas.NA`) as NaN; true and false become 1 and 0."""
    import pandas as pd

    plain: Iterable[Any] = np.asarray(values, dtype=object).ravel()
    return np.array([math.nan if pd.isna(value) else float(value) for value in plain], dtype=np.float64)


# --- bootstrap --------------------------------------------------------------------------------------------


def resamples(size: int, replicates: int, seed: int) -> Numbers:
    """[replicate, patient] how often each patient is drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(size, np.full(size, 1 / size), size=replicates).astype(np.float64)


def bca(value: float, drawn: Numbers, influence: Sequence[Numbers]) -> tuple[float, float]:
    """BCa interval of a statistic; NaN where the replicates or the influences have no spread.

    Bias and acceleration after Efron, J Am Stat Assoc 82:171 (1987); for several samples after Davison & Hinkley,
    Bootstrap Methods and their Application (1997), §5.3.2.

    Args:
        value: the statistic of all patients.
        drawn: [replicate] the statistic of each replicate.
        influence: for each sample that was drawn from separately, [patient] how much a patient moves the statistic.
    """
    below = float(np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    spread = sum(float(np.sum(part**2)) / len(part) ** 2 for part in influence)
    if not 0 < below < 1 or spread == 0 or np.ptp(drawn) < _NO_SPREAD:
        return math.nan, math.nan
    bias = normal_quantile(below)
    skew = sum(float(np.sum(part**3)) / len(part) ** 3 for part in influence)
    acceleration = skew / (6 * spread**1.5)
    ends = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        shifted = bias + normal_quantile(tail)
        share = _normal_share(bias + shifted / (1 - acceleration * shifted))
        ends.append(float(np.quantile(drawn, share)))
    return ends[0], ends[1]


def bca_estimate(value: float, drawn: Numbers, influence: Sequence[Numbers], method: str) -> Estimate:
    """The estimate with its BCa interval, or with the reason why it has none."""
    low, high = bca(value, drawn, influence)
    if math.isnan(low):
        return Estimate(value, method=method, reason=_SAME)
    return Estimate(value, low, high, method)


def percentile_estimate(value: float, drawn: Numbers, method: str) -> Estimate:
    """The estimate with its percentile interval, or with the reason why it has none; NaN replicates do not count."""
    known = drawn[~np.isnan(drawn)]
    if not len(known) or np.ptp(known) < _NO_SPREAD:
        return Estimate(value, method=method, reason=_SAME)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), method)


def jackknife_influence(without: Numbers) -> Numbers:
    """[patient] influences from the statistic's values [patient] without each patient in turn (Efron 1987, §7)."""
    influence: Numbers = (len(without) - 1) * (without.mean() - without)
    return influence


# --- shares -----------------------------------------------------------------------------------------------


def proportion(successes: int, total: int, nobody: str) -> Estimate:
    """A share with its Wilson interval; `nobody` is the reason when `total` is 0."""
    from scipy.stats import binomtest

    if not total:
        return Estimate(method="Wilson", reason=nobody)
    interval = binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / total, float(interval.low), float(interval.high), "Wilson")


def rate_difference(first: Estimate, second: Estimate) -> Estimate:
    """Difference of two independent shares; Newcombe's hybrid score interval (Stat Med 17:873, 1998, method 10)."""
    return independent_difference(first, second, method="Newcombe")


def independent_difference(first: Estimate, second: Estimate, *, method: str = "from both intervals") -> Estimate:
    """first − second of two figures of different patients, its interval recovered from theirs.

    Zou and Donner, Stat Med 27:1693 (2008): the distances to the two intervals' ends are added as squares. It needs no
    symmetry, so it serves shares, C-indices and bootstrap intervals alike; of Wilson intervals it is Newcombe's.
    """
    if math.isnan(first.value) or math.isnan(second.value):
        return Estimate(method=method, reason=first.reason or second.reason)
    value = first.value - second.value
    if any(math.isnan(end) for end in (first.low, first.high, second.low, second.high)):
        return Estimate(value, method=method, reason=first.reason or second.reason)
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, method)


def normal_quantile(share: float) -> float:
    """Quantile of the standard normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(share))


def _normal_share(quantile: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(quantile))

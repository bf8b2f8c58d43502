"""Do predicted probabilities mean what they say? Recalibration, reliability table and decision curve.

Probabilities of exactly 0 or 1 have no logit; they are moved inwards by 1e-6 for the recalibration alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .estimates import CONFIDENCE, Estimate, Numbers, normal_quantile, numbers, proportion

_CLOSEST = 1e-6
_STEPS = 50

MOST_BINS = 10
"""Groups of the reliability table at most."""

PATIENTS_A_BIN = 8
"""The table has fewer groups where they would hold fewer labelled patients than this."""


@dataclass(frozen=True)
class Bin:
    """Labelled patients with neighbouring probabilities."""

    patients: int
    predicted: float
    """Mean probability."""
    observed: Estimate
    """Share of responders."""


def calibration(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, Estimate]:
    """Calibration of the labelled patients.

    Returns:
        `calibration_intercept`: a of logit(response) = a + logit(probability); 0 is best, above 0 too few responses are
        predicted. `calibration_slope`: b of logit(response) = a + b · logit(probability); 1 is best, below 1 the
        probabilities are too extreme. Both with Wald intervals (Van Calster et al., BMC Med 17:230, 2019).
        `expected_observed`: predicted responses / observed responses.
    """
    known, logits, kept = _known(labels, probabilities)
    reason = "" if len(set(known)) > 1 else "needs labelled patients of both classes"
    if reason:
        return dict.fromkeys(
            ("calibration_intercept", "calibration_slope", "expected_observed"), Estimate(reason=reason)
        )
    ones = np.ones((len(known), 1))
    if np.ptp(logits) == 0:
        slope = Estimate(method="logistic recalibration, Wald", reason="every patient has the same probability")
    else:
        slope = _logistic(known, np.column_stack([logits, ones]), np.zeros(len(known)))
    return {
        "calibration_intercept": _logistic(known, ones, logits),
        "calibration_slope": slope,
        "expected_observed": _ratio(known, kept),
    }


def reliability(labels: ArrayLike, probabilities: ArrayLike) -> list[Bin]:
    """Groups of equally many labelled patients by probability, with the share that responded.

    Patients with the same probability stay together, so groups can differ in size; there are at most `MOST_BINS`.
    """
    known, _, kept = _known(labels, probabilities)
    count = min(MOST_BINS, len(kept) // PATIENTS_A_BIN)
    if count < 2:
        return []
    edges = np.quantile(kept, np.linspace(0, 1, count + 1)[1:-1])
    places = np.searchsorted(edges, kept, side="left")
    return [
        Bin(
            int(chosen.sum()),
            float(kept[chosen].mean()),
            proportion(int(known[chosen].sum()), int(chosen.sum()), "nobody"),
        )
        for place in range(count)
        for chosen in [places == place]
        if chosen.any()
    ]


def net_benefit(labels: ArrayLike, probabilities: ArrayLike, thresholds: Numbers) -> tuple[Numbers, Numbers]:
    """Net benefit of treating by the prediction, and of treating everyone, at each threshold probability.

    Net benefit = share of true positives − share of false positives · threshold / (1 − threshold); treating nobody has
    0 (Vickers & Elkin, Med Decis Making 26:565, 2006).

    Args:
        labels: [patient] 1 responder, 0 non-responder, unknown ones are left out.
        probabilities: [patient].
        thresholds: [threshold] above 0 and below 1.

    Returns:
        [threshold] by prediction and [threshold] for everyone; NaN without labelled patients.
    """
    known, _, kept = _known(labels, probabilities)
    if not len(known):
        nothing = np.full(len(thresholds), math.nan)
        return nothing, nothing.copy()
    called = (kept[None, :] >= thresholds[:, None]).astype(np.float64)
    price = thresholds / (1 - thresholds)
    hits, alarms = called @ (known == 1) / len(known), called @ (known == 0) / len(known)
    share = float(np.mean(known == 1))
    return hits - alarms * price, share - (1 - share) * price


def _known(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    """Labels, logits and probabilities of the labelled patients."""
    every, given = numbers(labels), numbers(probabilities)
    chosen = ~np.isnan(every)
    known, kept = every[chosen], given[chosen]
    inside = np.clip(kept, _CLOSEST, 1 - _CLOSEST)
    return known, np.log(inside) - np.log1p(-inside), kept


def _logistic(known: Numbers, columns: Numbers, offset: Numbers) -> Estimate:
    """First coefficient of a logistic regression without penalty, by Newton's method, with its Wald interval."""
    method = "logistic recalibration, Wald"
    weights = np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        probability = 1 / (1 + np.exp(-np.clip(columns @ weights + offset, -500, 500)))
        information = (columns * (probability * (1 - probability))[:, None]).T @ columns
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
            break
        step = np.linalg.solve(information, columns.T @ (known - probability))
        weights = weights + step
        if np.max(np.abs(step)) < 1e-10:
            error = math.sqrt(np.linalg.inv(information)[0, 0])
            half = normal_quantile(0.5 + CONFIDENCE / 2) * error
            return Estimate(float(weights[0]), float(weights[0]) - half, float(weights[0]) + half, method)
    return Estimate(method=method, reason="no maximum: the probabilities separate the classes")


def _ratio(known: Numbers, kept: Numbers) -> Estimate:
    """Expected / observed responses; the interval treats observed responses as binomial (log scale, delta method)."""
    observed = float(known.mean())
    value = float(kept.mean()) / observed
    half = normal_quantile(0.5 + CONFIDENCE / 2) * math.sqrt((1 - observed) / (len(known) * observed))
    method = "observed responses binomial, log scale"
    return Estimate(value, value * math.exp(-half), value * math.exp(half), method)

"""C-indices: how often the patient with the higher predicted risk has the event first.

Which pairs can be compared does not depend on a bootstrap's draw: a replicate only weighs the matrix of pairs, so all
replicates are a few matrix products; work and memory grow with the square of the number of patients.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FitError
from .estimates import Estimate, Numbers, bca_estimate, jackknife_influence, numbers, percentile_estimate, resamples

Flags = NDArray[np.bool_]


def concordance(days: ArrayLike, events: ArrayLike, risk: ArrayLike) -> float:
    """Harrell's C-index (lifelines) of the patients with a known time; NaN when no two patients can be compared.

    Args:
        days: [patient] follow-up time; NaN or None unknown.
        events: [patient] 1 event observed, 0 censored.
        risk: [patient] higher means an earlier event.
    """
    from lifelines.utils import concordance_index

    time, event, score = _followed(days, events, risk)
    if not _comparable(time, event).any():
        return math.nan
    return float(concordance_index(time, -score, event))


def concordance_bootstrap(
    days: ArrayLike, events: ArrayLike, risk: ArrayLike, *, replicates: int, seed: int
) -> Estimate:
    """Harrell's C-index with the BCa interval of a bootstrap over patients."""
    method = f"bootstrap, BCa, {replicates} replicates"
    time, event, score = _followed(days, events, risk)
    pairs = _comparable(time, event).astype(np.float64)  # [earlier, later]
    if reason := _why_undefined(time, event):
        return Estimate(method=method, reason=reason)
    right = pairs * (0.5 + 0.5 * np.sign(score[:, None] - score[None, :]))  # a tie counts half
    drawn = resamples(len(time), replicates, seed)
    compared = ((drawn @ pairs) * drawn).sum(axis=1)
    agreed = ((drawn @ right) * drawn).sum(axis=1)
    usable = compared > 0
    fewer = pairs.sum() - pairs.sum(axis=0) - pairs.sum(axis=1)  # [patient] pairs without this one
    value = float(right.sum() / pairs.sum())
    if not (fewer > 0).all():
        return Estimate(value, method=method, reason="one patient is part of every pair")
    influence = jackknife_influence((right.sum() - right.sum(axis=0) - right.sum(axis=1)) / fewer)
    return bca_estimate(value, agreed[usable] / compared[usable], [influence], method)


def uno(days: ArrayLike, events: ArrayLike, risk: ArrayLike, *, replicates: int, seed: int) -> Estimate:
    """Uno's C-index with the percentile interval of a bootstrap over patients.

    Pairs are weighed by 1 / G(t)², where t is the time of the earlier event and G the Kaplan–Meier estimate of staying
    uncensored, from the same patients (Uno et al., Stat Med 30:1105, 2011); so the value does not depend on how
    patients were censored, if that is independent of their risk. Each replicate estimates its own G. Events where G
    is 0 are left out: nobody could have been seen longer.
    """
    method = f"bootstrap, percentile, {replicates} replicates"
    time, event, score = _followed(days, events, risk)
    if reason := _why_undefined(time, event):
        return Estimate(method=method, reason=reason)
    pairs = _comparable(time, event).astype(np.float64)
    right = pairs * (0.5 + 0.5 * np.sign(score[:, None] - score[None, :]))
    everyone = np.ones((1, len(time)))
    value = float(_weighed(everyone, time, event, pairs, right)[0])
    if math.isnan(value):
        return Estimate(method=method, reason="no event has a positive chance of being observed")
    drawn = _weighed(resamples(len(time), replicates, seed), time, event, pairs, right)
    return percentile_estimate(value, drawn, method)


def _weighed(drawn: Numbers, time: Numbers, event: Flags, pairs: Numbers, right: Numbers) -> Numbers:
    """[replicate] Uno's C; NaN where a replicate has no pair."""
    weights = drawn * event * _inverse_uncensored(drawn, time, event) ** 2
    compared = ((weights @ pairs) * drawn).sum(axis=1)
    agreed = ((weights @ right) * drawn).sum(axis=1)
    found: Numbers = np.divide(agreed, compared, out=np.full(len(drawn), np.nan), where=compared > 0)
    return found


def _inverse_uncensored(drawn: Numbers, time: Numbers, event: Flags) -> Numbers:
    """[replicate, patient] 1 / G at the patient's time; 0 where G is 0. Events come before censoring on one day."""
    at, place = np.unique(time, return_inverse=True)
    one_hot = np.equal(place[:, None], np.arange(len(at))).astype(np.float64)  # [patient, time]
    leaving = drawn @ one_hot
    censored = drawn @ (one_hot * ~event[:, None])
    under_observation = np.cumsum(leaving[:, ::-1], axis=1)[:, ::-1] - (leaving - censored)
    stays = 1 - np.divide(censored, under_observation, out=np.zeros_like(censored), where=under_observation > 0)
    uncensored = np.cumprod(stays, axis=1)
    inverse = np.divide(1.0, uncensored, out=np.zeros_like(uncensored), where=uncensored > 0)
    found: Numbers = inverse[:, place]
    return found


def _followed(days: ArrayLike, events: ArrayLike, risk: ArrayLike) -> tuple[Numbers, Flags, Numbers]:
    time, event, score = numbers(days), numbers(events), numbers(risk)
    if not len(time) == len(event) == len(score):
        raise FitError(
            f"metrics: expected equally many days, events and risks, found {len(time)}, {len(event)}, {len(score)}"
        )
    chosen = ~(np.isnan(time) | np.isnan(event))
    return time[chosen], event[chosen] == 1, score[chosen]


def _comparable(time: Numbers, event: Flags) -> Flags:
    # [i, j]: i is known to have had the event before j; who is censored on the day of an event lived longer
    later = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
    pairs: Flags = event[:, None] & later
    return pairs


def _why_undefined(time: Numbers, event: Flags) -> str:
    if _comparable(time, event).any():
        return ""
    return "no known time" if not len(time) else "no events" if not event.any() else "no two patients to compare"

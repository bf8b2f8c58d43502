"""Survival of two risk groups: Kaplan–Meier curves, numbers at risk, log-rank test, Cox hazard ratio.

All of it by lifelines, which is imported inside the functions because it takes a second.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .estimates import CONFIDENCE, Estimate, Numbers

_NEVER_TOGETHER = "no event happens while both groups are under observation"


@dataclass(frozen=True)
class Curve:
    """A Kaplan–Meier curve as a step function that starts at day 0 with 1; all arrays [step]."""

    days: Numbers
    survival: Numbers
    """Share without an event from this day on."""
    low: Numbers
    """Lower end of the 95 % interval (log(−log) transform)."""
    high: Numbers
    censored_days: Numbers
    """[patient] times of the censored patients, in order."""
    censored_survival: Numbers
    """[patient] the curve's height there."""
    median_days: float
    """First day on which the curve is at or below one half; NaN when it never is."""


def kaplan_meier(days: Numbers, events: NDArray[np.bool_]) -> Curve:
    """Kaplan–Meier estimate of patients with known times; there must be at least one patient."""
    from lifelines import KaplanMeierFitter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lifelines divides 0 by 0 where the curve is 1 or 0; such bounds are set below
        fitter = KaplanMeierFitter(alpha=1 - CONFIDENCE).fit(days, events)
    table = fitter.confidence_interval_survival_function_
    survival = fitter.survival_function_.to_numpy()[:, 0]
    bounds = table.to_numpy()
    # no event yet: nothing to spread around; at 0 the transform is undefined, and lifelines has NaN there
    low, high = (np.where(np.isnan(bounds[:, i]), survival, bounds[:, i]) for i in (0, 1))
    median = float(fitter.median_survival_time_)
    censored = np.sort(days[~events])
    return Curve(
        days=table.index.to_numpy(dtype=np.float64),
        survival=survival,
        low=low,
        high=high,
        censored_days=censored,
        censored_survival=np.asarray(fitter.predict(censored), dtype=np.float64).reshape(-1),
        median_days=median if math.isfinite(median) else math.nan,
    )


def at_risk(days: Numbers, at_days: Numbers) -> NDArray[np.int64]:
    """[time] patients whose follow-up reaches each time: who has the event or is censored that day still counts."""
    counts: NDArray[np.int64] = np.count_nonzero(days[None, :] >= at_days[:, None], axis=1)
    return counts


def log_rank(days: Numbers, events: NDArray[np.bool_], high_risk: NDArray[np.bool_]) -> Estimate:
    """p of the two-sided log-rank test between the two groups; no interval."""
    from lifelines.statistics import logrank_test

    if reason := _why_undefined(events, high_risk):
        return Estimate(method="log-rank test", reason=reason)
    if not _variance_exists(days, events, high_risk):  # lifelines gives p = 1 here
        return Estimate(method="log-rank test", reason=_NEVER_TOGETHER)
    result = logrank_test(days[high_risk], days[~high_risk], events[high_risk], events[~high_risk])
    return Estimate(float(result.p_value), method="log-rank test")


def hazard_ratio(days: Numbers, events: NDArray[np.bool_], high_risk: NDArray[np.bool_]) -> Estimate:
    """Hazard ratio of the high-risk group (Cox, Efron's ties) with its Wald interval."""
    import pandas as pd
    from lifelines import CoxPHFitter
    from lifelines.exceptions import ConvergenceError, ConvergenceWarning

    method = "Cox, Wald"
    if reason := _why_undefined(events, high_risk):
        return Estimate(method=method, reason=reason)
    for group, name in ((high_risk, "high-risk"), (~high_risk, "low-risk")):
        if not events[group].any():
            return Estimate(method=method, reason=f"no events in the {name} group")
    separated = Estimate(method=method, reason="the groups' events do not overlap in time, so the ratio has no maximum")
    table = pd.DataFrame({"days": days, "event": events, "high_risk": high_risk.astype(float)})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", ConvergenceWarning)
            fitter = CoxPHFitter(alpha=1 - CONFIDENCE).fit(table, "days", "event")
    except (ConvergenceError, ConvergenceWarning):
        return separated
    row = fitter.summary.loc["high_risk"]
    low, high = (float(row[f"exp(coef) {side} {100 * CONFIDENCE:g}%"]) for side in ("lower", "upper"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return separated
    return Estimate(float(row["exp(coef)"]), low, high, method)


def compare_groups(days: Numbers, events: Numbers, high_risk: Numbers) -> dict[str, Any]:
    """Survival of the risk groups, as JSON takes it.

    Args:
        days: [patient] follow-up; NaN unknown, such patients are left out.
        events: [patient] 1 event, 0 censored.
        high_risk: [patient] 1 or 0; NaN for who has no threshold, and is in no group.

    Returns:
        `patients`, `events` (counts with a known time), `log_rank_p`, `hazard_ratio` (estimates) and `groups`:
        `low` and `high` → `patients`, `events`, `median_days` (null when not reached).
    """
    known = ~(np.isnan(days) | np.isnan(events))
    time, event = days[known], events[known] == 1
    found: dict[str, Any] = {"patients": len(time), "events": int(event.sum()), "groups": {}}
    grouped = ~np.isnan(high_risk[known])
    if len(high_risk) and np.isnan(high_risk).all():
        nothing = Estimate(reason="there is no threshold").as_json()
        return found | {"log_rank_p": nothing, "hazard_ratio": nothing}
    time, event, high = time[grouped], event[grouped], high_risk[known][grouped] == 1
    for name, group in (("low", ~high), ("high", high)):
        median = kaplan_meier(time[group], event[group]).median_days if group.any() else math.nan
        found["groups"][name] = {
            "patients": int(group.sum()),
            "events": int(event[group].sum()),
            "median_days": median if math.isfinite(median) else None,
        }
    return found | {
        "log_rank_p": log_rank(time, event, high).as_json(),
        "hazard_ratio": hazard_ratio(time, event, high).as_json(),
    }


def log_rank_of_groups(days: Numbers, events: NDArray[np.bool_], groups: Sequence[NDArray[np.bool_]]) -> Estimate:
    """p of the log-rank test between any number of groups, which must not overlap; no interval."""
    from lifelines.statistics import multivariate_logrank_test

    there = [rows for rows in groups if rows.any()]
    everyone = np.any(there, axis=0) if there else np.zeros(len(days), dtype=bool)
    if len(there) < 2 or not events[everyone].any():
        return Estimate(method="log-rank", reason="fewer than two groups, or no event")
    if not any(_variance_exists(days[everyone], events[everyone], rows[everyone]) for rows in there):
        return Estimate(method="log-rank", reason=_NEVER_TOGETHER)
    group = np.argmax(np.stack(there), axis=0)
    result = multivariate_logrank_test(days[everyone], group[everyone], events[everyone])
    return Estimate(float(result.p_value), method="log-rank")


def _variance_exists(days: Numbers, events: NDArray[np.bool_], group: NDArray[np.bool_]) -> bool:
    # an event day tells a group from the others when both are at risk and not everyone has the event at once
    at = np.unique(days[events])
    own, others = at_risk(days[group], at), at_risk(days[~group], at)
    fallen = np.count_nonzero(days[events][None, :] == at[:, None], axis=1)
    return bool(np.any((own > 0) & (others > 0) & (fallen < own + others)))


def _why_undefined(events: NDArray[np.bool_], high_risk: NDArray[np.bool_]) -> str:
    if not len(events):
        return "no known time"
    if not events.any():
        return "no events"
    if not high_risk.any():
        return "nobody is in the high-risk group"
    if high_risk.all():
        return "nobody is in the low-risk group"
    return ""

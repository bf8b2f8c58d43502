"""Two predictors of the same patients against each other.

Differences are first − second, so that a positive one speaks for the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FitError
from .concordance import concordance_bootstrap
from .estimates import CONFIDENCE, Estimate, Numbers, normal_quantile, numbers
from .metrics import auc_bootstrap, auc_replicates, placements, why_undefined

if TYPE_CHECKING:
    import pandas as pd

MODEL = "mumo"
"""Name of the run's own model in comparisons."""


@dataclass(frozen=True)
class Test:
    """A difference with its interval, and the two-sided p of there being none."""

    difference: Estimate
    p: float
    """NaN where undefined; `difference.reason` says why."""

    def as_json(self) -> dict[str, Any]:
        """The same as JSON takes it: `null` for NaN."""
        return {"difference": self.difference.as_json(), "p": self.p if math.isfinite(self.p) else None}


def paired_delong(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> Test:
    """Difference of the AUCs of two scores of the same patients (DeLong et al., Biometrics 44:837, 1988).

    Args:
        labels: [patient] 1 responder, 0 non-responder, NaN or None unknown (left out).
        first, second: [patient] scores, higher means response; they may be on different scales, or calls of 0 and 1.
    """
    method = "paired DeLong"
    known, one, other = _labelled(labels, first, second)
    if reason := why_undefined(known):
        return Test(Estimate(method=method, reason=reason), math.nan)
    parts = [a - b for a, b in zip(placements(known, one), placements(known, other), strict=True)]
    value = float(parts[0].mean())
    if min(map(len, parts)) < 2:
        return Test(Estimate(value, method=method, reason="one patient in a class gives no interval"), math.nan)
    # the variance of a difference of placements holds both variances and twice the covariance
    error = math.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    if error < 1e-12:
        reason = "both rank every pair the same" if abs(value) < 1e-12 else "the difference has no variance"
        return Test(Estimate(value, method=method, reason=reason), math.nan)
    half = normal_quantile(0.5 + CONFIDENCE / 2) * error
    return Test(Estimate(value, value - half, value + half, method), _two_sided(value / error))


def independent_delong(first: tuple[ArrayLike, ArrayLike], second: tuple[ArrayLike, ArrayLike]) -> Test:
    """Difference of the AUCs in two groups of different patients, with DeLong's variance of each.

    Args:
        first, second: labels (1 responder, 0 non-responder, NaN or None unknown) and scores of each group.
    """
    method = "DeLong, independent groups"
    value, variance, reason = 0.0, 0.0, ""
    for sign, (labels, scores) in ((1, first), (-1, second)):
        known, kept, _ = _labelled(labels, scores, scores)
        if undefined := why_undefined(known):
            return Test(Estimate(method=method, reason=undefined), math.nan)
        parts = placements(known, kept)
        value += sign * float(parts[0].mean())
        own = sum(part.var(ddof=1) / len(part) if len(part) > 1 else math.nan for part in parts)
        if math.isnan(own):
            reason = reason or "one patient in a class gives no interval"
        elif own < 1e-24:  # an AUC of 0 or 1 is not known without error
            reason = reason or "DeLong's variance of one of the two AUCs is 0"
        variance += own
    if reason:
        return Test(Estimate(value, method=method, reason=reason), math.nan)
    half = normal_quantile(0.5 + CONFIDENCE / 2) * math.sqrt(variance)
    return Test(Estimate(value, value - half, value + half, method), _two_sided(value / math.sqrt(variance)))


def mcnemar(first: ArrayLike, second: ArrayLike) -> Test:
    """Difference of two shares of the same patients, with McNemar's exact test.

    Args:
        first, second: [patient] 1 where right, 0 where wrong; patients with an unknown one are left out.

    The interval is Newcombe's for paired shares (Stat Med 17:2635, 1998, method 10).
    """
    from scipy.stats import binomtest

    method = "McNemar exact; Newcombe's interval for pairs"
    one, other = numbers(first), numbers(second)
    if len(one) != len(other):
        raise FitError(f"comparison: expected as many second calls as first ({len(one)}), found {len(other)}")
    both_known = ~(np.isnan(one) | np.isnan(other))
    one, other = one[both_known] == 1, other[both_known] == 1
    if not len(one):
        return Test(Estimate(method=method, reason="no patient was judged by both"), math.nan)
    table = np.array([[np.sum(one & other), np.sum(one & ~other)], [np.sum(~one & other), np.sum(~one & ~other)]])
    only_first, only_second = int(table[0, 1]), int(table[1, 0])
    low, high = _newcombe_pairs(table)
    value = (only_first - only_second) / len(one)
    discordant = only_first + only_second
    p = float(binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    return Test(Estimate(value, low, high, method), p)


def levene(replicates: Sequence[Numbers]) -> Estimate:
    """p of Levene's test (about the median) that bootstrap replicates of several predictors spread equally.

    It compares how stable predictors are, as the method's authors did. The p counts replicates, not patients: with
    2,000 of them even a difference of no consequence is far below 0.05, so read it beside the standard deviations.
    """
    from scipy.stats import levene as test

    method = "Levene's test about the median, on bootstrap replicates"
    if len(replicates) < 2:
        return Estimate(method=method, reason="needs at least two predictors")
    if all(np.ptp(values) == 0 for values in replicates):
        return Estimate(method=method, reason="no replicate differs from the others")
    return Estimate(float(test(*replicates, center="median").pvalue), method=method)


def compare_predictors(frames: Mapping[str, pd.DataFrame], *, replicates: int, seed: int) -> pd.DataFrame:
    """A row a predictor and held-out part, the model first.

    Columns: `part`, `predictor`, `labelled`, `auc` and `pfs_c_index`, `os_c_index` with `_low` and `_high`,
    `auc_spread` (standard deviation of the bootstrap replicates), `levene_p` (its difference to the model's), and
    `difference` with `_low` and `_high` (model − predictor) and `p` of the paired DeLong test. NaN where undefined, the
    reason in `reason`.
    """
    import pandas as pd

    model = frames[MODEL].set_index("patient")
    rows = []
    for part in [part for part in ("test", "validation", "train") if (model["part"] == part).any()]:
        chosen = model[model["part"] == part]
        spreads: dict[str, Numbers] = {}
        for name, frame in frames.items():
            other = frame.set_index("patient").loc[chosen.index]
            row: dict[str, Any] = {"part": part, "predictor": name}
            row |= _figures(other, replicates, seed, spreads, name)
            if name != MODEL:
                test = paired_delong(chosen["label"], chosen["probability"], other["probability"])
                row |= {"difference": test.difference.value, "difference_low": test.difference.low}
                row |= {"difference_high": test.difference.high, "p": test.p}
                row["reason"] = row["reason"] or test.difference.reason
                if len(spreads) > 1 and name in spreads:
                    row["levene_p"] = levene([spreads[MODEL], spreads[name]]).value
            rows.append(row)
    return pd.DataFrame(rows)


def _figures(rows: pd.DataFrame, replicates: int, seed: int, spreads: dict[str, Numbers], name: str) -> dict[str, Any]:
    again = {"replicates": replicates, "seed": seed}
    labels = numbers(rows["label"])
    area = auc_bootstrap(labels, rows["probability"], **again)
    found: dict[str, Any] = {"labelled": int(np.sum(~np.isnan(labels)))}
    estimates = {"auc": area}
    for endpoint in ("pfs", "os"):
        days, events = rows[f"{endpoint}_days"], rows[f"{endpoint}_event"]
        estimates[f"{endpoint}_c_index"] = concordance_bootstrap(days, events, rows["risk"], **again)
    for key, estimate in estimates.items():
        found |= {key: estimate.value, f"{key}_low": estimate.low, f"{key}_high": estimate.high}
    if math.isfinite(area.value):
        spreads[name] = auc_replicates(labels, rows["probability"], **again)
        found["auc_spread"] = float(spreads[name].std(ddof=1))
    return found | {"reason": area.reason}


def _two_sided(z: float) -> float:
    from scipy.special import ndtr

    return float(2 * ndtr(-abs(z)))


def _newcombe_pairs(table: Numbers) -> tuple[float, float]:
    """Interval of the difference of two paired shares from the counts [first right, wrong][second right, wrong]."""
    from scipy.stats import binomtest

    total = int(table.sum())
    sides = []
    for hits in (int(table[0].sum()), int(table[:, 0].sum())):
        interval = binomtest(hits, total).proportion_ci(CONFIDENCE, method="wilson")
        sides.append((hits / total, float(interval.low), float(interval.high)))
    (p1, low1, high1), (p2, low2, high2) = sides
    margins = math.prod((*map(float, table.sum(axis=1)), *map(float, table.sum(axis=0))))
    product = float(table[0, 0] * table[1, 1] - table[0, 1] * table[1, 0])
    if product > 0:  # continuity correction of method 10
        product = max(product - total / 2, 0.0)
    phi = product / math.sqrt(margins) if margins else 0.0
    down = (p1 - low1) ** 2 - 2 * phi * (p1 - low1) * (high2 - p2) + (high2 - p2) ** 2
    up = (high1 - p1) ** 2 - 2 * phi * (high1 - p1) * (p2 - low2) + (p2 - low2) ** 2
    return p1 - p2 - math.sqrt(down), p1 - p2 + math.sqrt(up)


def _labelled(labels: ArrayLike, first: ArrayLike, second: ArrayLike) -> tuple[Numbers, Numbers, Numbers]:
    known, one, other = numbers(labels), numbers(first), numbers(second)
    if not len(known) == len(one) == len(other):
        raise FitError(
            f"comparison: expected equally many labels and scores, found {len(known)}, {len(one)}, {len(other)}"
        )
    chosen = ~np.isnan(known)
    return known[chosen], one[chosen], other[chosen]

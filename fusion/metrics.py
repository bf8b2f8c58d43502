"""How good predictions are: discrimination, operating point and survival, each with its interval.

An undefined value is NaN with a reason, `null` with a reason in JSON. Patients with an unknown label are left out of
everything that needs the label and kept for survival. Response is predicted where probability ≥ threshold; predicted
non-responders are the high-risk group.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FitError

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
"""Coverage of every interval."""

Numbers = NDArray[np.float64]


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
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        finite: dict[str, Any] = {key: number if math.isfinite(number) else None for key, number in numbers.items()}
        return finite | {"method": self.method, "reason": self.reason}


def numbers(values: ArrayLike | Iterable[Any]) -> Numbers:
    """Values as float64, unknown ones (None, NaN, `pandas.NA`) as NaN; true and false become 1 and 0."""
    import pandas as pd

    plain: Iterable[Any] = np.asarray(values, dtype=object).ravel()
    return np.array([math.nan if pd.isna(value) else float(value) for value in plain], dtype=np.float64)


# --- response ---------------------------------------------------------------------------------------------


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve of the patients with a known label; NaN when one class is missing.

    Args:
        labels: [patient] 1 responder, 0 non-responder, NaN or None unknown.
        scores: [patient] higher means response.
    """
    from sklearn.metrics import roc_auc_score

    known, kept = _labelled(labels, scores)
    if why_undefined(known):
        return math.nan
    return float(roc_auc_score(known, kept))


def auc_bootstrap(labels: ArrayLike, scores: ArrayLike, *, replicates: int, seed: int) -> Estimate:
    """AUC with the BCa interval of a bootstrap that draws responders and non-responders separately.

    A replicate draws how often each distinct score occurs in either class, so all replicates are a few array
    operations of [replicate, distinct score]. Bias and acceleration after Efron, J Am Stat Assoc 82:171 (1987), for
    two samples after Davison & Hinkley, Bootstrap Methods and their Application (1997), §5.3.2.
    """
    method = f"stratified bootstrap, BCa, {replicates} replicates"
    known, kept = _labelled(labels, scores)
    if reason := why_undefined(known):
        return Estimate(method=method, reason=reason)
    pairs = int(np.sum(known == 1)) * int(np.sum(known == 0))
    # a whole number of half pairs, so that a replicate equal to it compares as equal
    value = round(2 * auc(known, kept) * pairs) / 2 / pairs
    if reason := _too_few(known):
        return Estimate(value, method=method, reason=reason)
    distinct, place = np.unique(kept, return_inverse=True)
    shares, sizes = [], []
    for label in (1, 0):
        counts = np.bincount(place[known == label], minlength=len(distinct))
        shares.append(counts / counts.sum())
        sizes.append(int(counts.sum()))
    generator = np.random.default_rng(seed)
    drawn = np.empty(replicates)
    step = max(1, 4_000_000 // len(distinct))  # bounds memory, about 100 MB whatever the cohort's size
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        positive = generator.multinomial(sizes[0], shares[0], size=count)  # [replicate, distinct score]
        negative = generator.multinomial(sizes[1], shares[1], size=count)
        below = np.cumsum(negative, axis=1) - 0.5 * negative  # a tie counts half
        drawn[start : start + count] = (positive * below).sum(axis=1) / pairs
    low, high = _bca(value, drawn, [part - value for part in placements(known, kept)])
    if math.isnan(low):
        return Estimate(value, method=method, reason="no spread: every replicate has the same AUC")
    return Estimate(value, low, high, method)


def auc_delong(labels: ArrayLike, scores: ArrayLike) -> Estimate:
    """AUC with DeLong's interval (Biometrics 44:837, 1988), cut to 0–1."""
    known, kept = _labelled(labels, scores)
    if reason := why_undefined(known):
        return Estimate(method="DeLong", reason=reason)
    positive, negative = placements(known, kept)
    value = float(positive.mean())
    if reason := _too_few(known):
        return Estimate(value, method="DeLong", reason=reason)
    variance = positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative)
    if variance == 0:
        return Estimate(value, method="DeLong", reason="the scores separate the classes, so DeLong's variance is 0")
    half = _normal_quantile(0.5 + CONFIDENCE / 2) * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), "DeLong")


def placements(labels: Numbers, scores: Numbers) -> tuple[Numbers, Numbers]:
    """Placement values of known labels: shares of the other class on the right side of each patient, ties half.

    Returns:
        [responder] share of non-responders scored lower, and [non-responder] share of responders scored higher. The
        mean of either is the AUC; computed from ranks (Sun & Xu, IEEE Signal Process Lett 21:1389, 2014).
    """
    from scipy.stats import rankdata

    positive, negative = scores[labels == 1], scores[labels == 0]
    together = rankdata(np.concatenate([positive, negative]))  # ties get their mean rank
    lower = (together[: len(positive)] - rankdata(positive)) / len(negative)
    higher = 1 - (together[len(positive) :] - rankdata(negative)) / len(positive)
    return lower, higher


def youden_threshold(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Threshold with the highest sensitivity + specificity − 1; NaN when one class is missing.

    The threshold lies half-way between two neighbouring probabilities. Of equally good ones, the one whose sensitivity
    and specificity differ least is taken, and of those the highest.
    """
    known, kept = _labelled(labels, probabilities)
    if why_undefined(known):
        return math.nan
    distinct = np.unique(kept)  # increasing
    positive, negative = np.sort(kept[known == 1]), np.sort(kept[known == 0])
    hits = len(positive) - np.searchsorted(positive, distinct)  # [distinct] responders at or above it
    alarms = len(negative) - np.searchsorted(negative, distinct)
    # whole numbers, so that equally good thresholds compare as equal
    youden = hits * len(negative) - alarms * len(positive)
    imbalance = np.abs(hits * len(negative) - (len(negative) - alarms) * len(positive))
    best = max(range(len(distinct)), key=lambda i: (youden[i], -imbalance[i], i))
    if best == 0:
        return float(distinct[0])
    middle = distinct[best - 1] + (distinct[best] - distinct[best - 1]) / 2
    return float(middle if middle > distinct[best - 1] else distinct[best])


def brier(labels: ArrayLike, probabilities: ArrayLike, *, replicates: int, seed: int) -> Estimate:
    """Mean squared difference of probability and label, with the percentile bootstrap interval."""
    method = f"bootstrap, percentile, {replicates} replicates"
    known, kept = _labelled(labels, probabilities)
    if not len(known):
        return Estimate(method=method, reason=why_undefined(known))
    squares = (kept - known) ** 2
    value = float(squares.mean())
    if len(known) < 2:
        return Estimate(value, method=method, reason="one labelled patient gives no interval")
    low, high = _percentiles(_resamples(len(known), replicates, seed) @ squares / len(known))
    return Estimate(value, low, high, method)


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, int]:
    """Counts of labelled patients: true_positive, false_positive, true_negative, false_negative."""
    known, kept = _labelled(labels, probabilities)
    called = kept >= threshold
    return {
        "true_positive": int(np.sum(called & (known == 1))),
        "false_positive": int(np.sum(called & (known == 0))),
        "true_negative": int(np.sum(~called & (known == 0))),
        "false_negative": int(np.sum(~called & (known == 1))),
    }


def proportion(successes: int, total: int, nobody: str) -> Estimate:
    """A share with its Wilson interval; `nobody` is the reason when `total` is 0."""
    from scipy.stats import binomtest

    if not total:
        return Estimate(method="Wilson", reason=nobody)
    interval = binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / total, float(interval.low), float(interval.high), "Wilson")


def rate_difference(first: Estimate, second: Estimate) -> Estimate:
    """Difference of two independent shares; Newcombe's hybrid score interval (Stat Med 17:873, 1998, method 10)."""
    if reason := first.reason or second.reason:
        return Estimate(method="Newcombe", reason=reason)
    value = first.value - second.value
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, "Newcombe")


def number_needed_to_treat(difference: Estimate) -> Estimate:
    """1 / (response rate in predicted responders − response rate in predicted non-responders).

    How many patients must be treated by the prediction for one response more; its interval is the inverted interval of
    the difference. It has no upper end where the difference's interval reaches 0 (Altman, BMJ 317:1309, 1998).
    """
    method = "inverse of the difference's interval"
    if difference.reason:
        return Estimate(method=method, reason=difference.reason)
    if difference.value <= 0:
        return Estimate(method=method, reason="predicted responders do not respond more often than the others")
    low = 1 / difference.high
    if difference.low <= 0:
        return Estimate(1 / difference.value, low, method=method, reason="no upper end: the difference may be 0")
    return Estimate(1 / difference.value, low, 1 / difference.low, method)


def operating_point(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> dict[str, Estimate]:
    """Sensitivity, specificity, ppv, npv, response_difference and number_needed_to_treat at a threshold."""
    names = ("sensitivity", "specificity", "ppv", "npv", "response_difference", "number_needed_to_treat")
    if not math.isfinite(threshold):
        return dict.fromkeys(names, Estimate(reason="there is no threshold"))
    counts = confusion(labels, probabilities, threshold)
    hits, misses = counts["true_positive"], counts["false_negative"]
    passes, alarms = counts["true_negative"], counts["false_positive"]
    no_call, call = "no labelled patient is predicted not to respond", "no labelled patient is predicted to respond"
    shares = {
        "sensitivity": proportion(hits, hits + misses, "no responder among the labelled patients"),
        "specificity": proportion(passes, passes + alarms, "no non-responder among the labelled patients"),
        "ppv": proportion(hits, hits + alarms, call),
        "npv": proportion(passes, passes + misses, no_call),
    }
    difference = rate_difference(shares["ppv"], proportion(misses, passes + misses, no_call))
    return shares | {
        "response_difference": difference,
        "number_needed_to_treat": number_needed_to_treat(difference),
    }


# --- survival ---------------------------------------------------------------------------------------------


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
    """Harrell's C-index with the percentile interval of a bootstrap over patients.

    Which pairs can be compared does not depend on the draw: a replicate only weighs the matrix of pairs, so all of them
    are two matrix products; work and memory grow with the square of the number of patients.
    """
    method = f"bootstrap, percentile, {replicates} replicates"
    time, event, score = _followed(days, events, risk)
    pairs = _comparable(time, event).astype(np.float64)  # [earlier, later]
    if not pairs.any():
        reason = "no known time" if not len(time) else "no events" if not event.any() else "no two patients to compare"
        return Estimate(method=method, reason=reason)
    right = pairs * (0.5 + 0.5 * np.sign(score[:, None] - score[None, :]))  # a tie counts half
    drawn = _resamples(len(time), replicates, seed)
    compared = ((drawn @ pairs) * drawn).sum(axis=1)
    agreed = ((drawn @ right) * drawn).sum(axis=1)
    usable = compared > 0
    low, high = _percentiles(agreed[usable] / compared[usable])
    return Estimate(concordance(time, event, score), low, high, method)


# --- a table of predictions -------------------------------------------------------------------------------


def evaluate(predictions: pd.DataFrame, *, threshold: float, replicates: int, seed: int) -> dict[str, Any]:
    """Every metric of every part of a table of predictions, as JSON takes it.

    Args:
        predictions: columns of `specs.PREDICTIONS`.
        threshold: frozen threshold of the probability, chosen on other patients; NaN when there is none.
        replicates: bootstrap replicates.
        seed: seed of the bootstraps.

    Returns:
        `threshold`, `confidence`, `replicates`, `seed`, and `parts`: part → `patients`, `labelled`, `responders`
        (counts), `confusion`, estimates (`auc`, `auc_delong`, `brier`, `sensitivity`, `specificity`, `ppv`, `npv`,
        `response_difference`, `number_needed_to_treat`; each value, low, high, method, reason), `pfs` and `os` (see
        `survival.compare_groups`, with `c_index`), and `modalities`: pattern → counts and `auc`.

    Raises:
        FitError: a column is missing, a patient stands twice, or a value is not what its column promises.
    """
    check_predictions(predictions)
    parts = {
        str(part): _evaluate_part(rows, threshold, replicates, seed)
        for part, rows in predictions.groupby("part", sort=False)
    }
    return {
        "threshold": threshold if math.isfinite(threshold) else None,
        "confidence": CONFIDENCE,
        "replicates": replicates,
        "seed": seed,
        "parts": parts,
    }


def check_predictions(predictions: pd.DataFrame) -> None:
    """Raise FitError where a table of predictions is not what `specs.PREDICTIONS` promises."""
    from ..stores.specs import PREDICTIONS

    if missing := [column.name for column in PREDICTIONS.columns if column.name not in predictions.columns]:
        raise FitError(f"predictions: expected the columns of a run's predictions, found none named {missing}")
    twice = predictions["patient"][predictions["patient"].duplicated()].unique()
    if len(twice):
        raise FitError(f"predictions: expected one row a patient, found several for {list(map(str, twice[:5]))}")
    for column, allowed in {"probability": "0 to 1", "risk": "a finite number"}.items():
        values = numbers(predictions[column])
        good = np.isfinite(values) & ((column == "risk") | ((values >= 0) & (values <= 1)))
        if not good.all():
            row = int(np.argmin(good))
            raise FitError(
                f"predictions: patient {predictions['patient'].iloc[row]}: column {column}: expected {allowed}, "
                f"found {values[row]}; training may have diverged"
            )
    labels = numbers(predictions["label"])
    if not np.isin(labels[~np.isnan(labels)], (0, 1)).all():
        raise FitError("predictions: column label: expected 0, 1 or unknown, found another number")


def _evaluate_part(rows: pd.DataFrame, threshold: float, replicates: int, seed: int) -> dict[str, Any]:
    from .survival import compare_groups

    labels, probability = numbers(rows["label"]), numbers(rows["probability"])
    risk = numbers(rows["risk"])
    again = {"replicates": replicates, "seed": seed}
    high_risk = probability < threshold
    found: dict[str, Any] = _counts(labels)
    finite = math.isfinite(threshold)
    found["confusion"] = confusion(labels, probability, threshold) if finite else None
    estimates = {
        "auc": auc_bootstrap(labels, probability, **again),
        "auc_delong": auc_delong(labels, probability),
        "brier": brier(labels, probability, **again),
    } | operating_point(labels, probability, threshold)
    found |= {name: estimate.as_json() for name, estimate in estimates.items()}
    for endpoint in ("pfs", "os"):
        days, events = numbers(rows[f"{endpoint}_days"]), numbers(rows[f"{endpoint}_event"])
        c_index = concordance_bootstrap(days, events, risk, **again)
        groups = compare_groups(days, events, high_risk if finite else None)
        found[endpoint] = {"c_index": c_index.as_json()} | groups
    found["modalities"] = {
        str(pattern): _counts(labels[chosen])
        | {"auc": auc_bootstrap(labels[chosen], probability[chosen], **again).as_json()}
        for pattern in sorted(set(rows["modalities"]))
        for chosen in [(rows["modalities"] == pattern).to_numpy()]
    }
    return found


def _counts(labels: Numbers) -> dict[str, Any]:
    return {
        "patients": len(labels),
        "labelled": int(np.sum(~np.isnan(labels))),
        "responders": int(np.sum(labels == 1)),
    }


# --- shared -----------------------------------------------------------------------------------------------


def why_undefined(labels: Numbers) -> str:
    """Why nothing can be discriminated among these known labels; empty when it can."""
    if not len(labels):
        return "no labelled patients"
    if not (labels == 0).any():
        return "only responders among the labelled patients"
    if not (labels == 1).any():
        return "only non-responders among the labelled patients"
    return ""


def _too_few(labels: Numbers) -> str:
    smaller = min(np.sum(labels == 1), np.sum(labels == 0))
    return "" if smaller > 1 else "one patient in a class gives no interval"


def _labelled(labels: ArrayLike, scores: ArrayLike) -> tuple[Numbers, Numbers]:
    known, kept = numbers(labels), numbers(scores)
    if len(known) != len(kept):
        raise FitError(f"metrics: expected a score for each of {len(known)} labels, found {len(kept)}")
    chosen = ~np.isnan(known)
    return known[chosen], kept[chosen]


def _followed(days: ArrayLike, events: ArrayLike, risk: ArrayLike) -> tuple[Numbers, NDArray[np.bool_], Numbers]:
    time, event, score = numbers(days), numbers(events), numbers(risk)
    if not len(time) == len(event) == len(score):
        raise FitError(
            f"metrics: expected equally many days, events and risks, found {len(time)}, {len(event)}, {len(score)}"
        )
    chosen = ~(np.isnan(time) | np.isnan(event))
    return time[chosen], event[chosen] == 1, score[chosen]


def _comparable(time: Numbers, event: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # [i, j]: i is known to have had the event before j; who is censored on the day of an event lived longer
    later = (time[:, None] < time[None, :]) | ((time[:, None] == time[None, :]) & ~event[None, :])
    pairs: NDArray[np.bool_] = event[:, None] & later
    return pairs


def _resamples(size: int, replicates: int, seed: int) -> Numbers:
    """[replicate, patient] how often each patient is drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(size, np.full(size, 1 / size), size=replicates).astype(np.float64)


def _percentiles(drawn: Numbers) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _bca(value: float, drawn: Numbers, influence: list[Numbers]) -> tuple[float, float]:
    """BCa interval from the replicates and, for each sample, the influence of its patients; NaN without spread."""
    below = float(np.mean(drawn < value) + np.mean(drawn <= value)) / 2
    spread = sum(float(np.sum(part**2)) / len(part) ** 2 for part in influence)
    if not 0 < below < 1 or spread == 0:
        return math.nan, math.nan
    bias = _normal_quantile(below)
    skew = sum(float(np.sum(part**3)) / len(part) ** 3 for part in influence)
    acceleration = skew / (6 * spread**1.5)
    ends = []
    for tail in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2):
        shifted = bias + _normal_quantile(tail)
        share = _normal_share(bias + shifted / (1 - acceleration * shifted))
        ends.append(float(np.quantile(drawn, share)))
    return ends[0], ends[1]


def _normal_quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))


def _normal_share(quantile: float) -> float:
    from scipy.special import ndtr

    return float(ndtr(quantile))

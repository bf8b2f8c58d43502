"""How good predictions are: discrimination, operating point and survival, each with its interval.

An undefined value is NaN with a reason, `null` with a reason in JSON. Patients with an unknown label are left out of
everything that needs the label and kept for survival. Response is predicted where probability ≥ threshold; predicted
non-responders are the high-risk group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FitError
from .concordance import concordance as concordance  # noqa: PLC0414, part of this module's interface
from .concordance import concordance_bootstrap, uno
from .estimates import (
    CONFIDENCE,
    Estimate,
    Numbers,
    bca_estimate,
    jackknife_influence,
    normal_quantile,
    numbers,
    proportion,
    rate_difference,
    resamples,
)

if TYPE_CHECKING:
    import pandas as pd

HEADLINES = ("test", "external")
"""Parts that were held out from training and every choice; the first that there is has the figures that count."""


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
    """AUC with the BCa interval of a bootstrap that draws responders and non-responders separately."""
    method = f"stratified bootstrap, BCa, {replicates} replicates"
    known, kept = _labelled(labels, scores)
    if reason := why_undefined(known):
        return Estimate(method=method, reason=reason)
    pairs = int(np.sum(known == 1)) * int(np.sum(known == 0))
    # a whole number of half pairs, so that a replicate equal to it compares as equal
    value = round(2 * auc(known, kept) * pairs) / 2 / pairs
    if reason := _too_few(known):
        return Estimate(value, method=method, reason=reason)
    drawn = auc_replicates(known, kept, replicates=replicates, seed=seed)
    return bca_estimate(value, drawn, [part - value for part in placements(known, kept)], method)


def auc_replicates(labels: ArrayLike, scores: ArrayLike, *, replicates: int, seed: int) -> Numbers:
    """[replicate] AUC of each replicate of `auc_bootstrap`; both classes must be there."""
    known, kept = _labelled(labels, scores)
    draws = _stratified_draws(known, kept, replicates, seed)
    return np.concatenate([_area(positive, negative) for positive, negative in draws])


def average_precision(labels: ArrayLike, scores: ArrayLike, *, replicates: int, seed: int) -> Estimate:
    """Average precision (scikit-learn's definition) with the BCa interval of the stratified bootstrap.

    Its value without any skill is the share of responders, which the bootstrap keeps as it is.
    """
    from sklearn.metrics import average_precision_score

    method = f"stratified bootstrap, BCa, {replicates} replicates"
    known, kept = _labelled(labels, scores)
    if reason := why_undefined(known):
        return Estimate(method=method, reason=reason)
    value = float(average_precision_score(known, kept))
    if reason := _too_few(known):
        return Estimate(value, method=method, reason=reason)
    draws = _stratified_draws(known, kept, replicates, seed)
    drawn = np.concatenate([_precision(positive, negative) for positive, negative in draws])
    distinct, place = np.unique(kept, return_inverse=True)
    counts = {label: np.bincount(place[known == label], minlength=len(distinct)).astype(float) for label in (1, 0)}
    influence = []
    for label in (1, 0):
        gone = np.equal(place[known == label][:, None], np.arange(len(distinct)))  # [patient left out, distinct score]
        left = {own: np.tile(values, (len(gone), 1)) - (own == label) * gone for own, values in counts.items()}
        influence.append(jackknife_influence(_precision(left[1], left[0])))
    return bca_estimate(value, drawn, influence, method)


def _stratified_draws(known: Numbers, kept: Numbers, replicates: int, seed: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Replicates of the stratified bootstrap, some at a time: how often each distinct score occurs in either class.

    Both arrays are [replicate, distinct score], the scores in increasing order.
    """
    distinct, place = np.unique(kept, return_inverse=True)
    shares, sizes = [], []
    for label in (1, 0):
        counts = np.bincount(place[known == label], minlength=len(distinct))
        shares.append(counts / counts.sum())
        sizes.append(int(counts.sum()))
    generator = np.random.default_rng(seed)
    step = max(1, 4_000_000 // len(distinct))  # bounds memory, about 100 MB whatever the cohort's size
    for start in range(0, replicates, step):
        count = min(step, replicates - start)
        positive = generator.multinomial(sizes[0], shares[0], size=count)
        negative = generator.multinomial(sizes[1], shares[1], size=count)
        yield positive.astype(np.float64), negative.astype(np.float64)


def _area(positive: Numbers, negative: Numbers) -> Numbers:
    """[replicate] AUC of counts [replicate, distinct score]; a tie counts half."""
    below = np.cumsum(negative, axis=1) - 0.5 * negative
    pairs = positive[0].sum() * negative[0].sum()  # the same in every replicate
    area: Numbers = (positive * below).sum(axis=1) / pairs
    return area


def _precision(positive: Numbers, negative: Numbers) -> Numbers:
    """[replicate] average precision of counts [replicate, distinct score]."""
    hits = np.cumsum(positive[:, ::-1], axis=1)
    called = hits + np.cumsum(negative[:, ::-1], axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    average: Numbers = (positive[:, ::-1] * precision).sum(axis=1) / positive.sum(axis=1)
    return average


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
        why = "all patients have the same score" if np.ptp(kept) == 0 else "the scores separate the classes"
        return Estimate(value, method="DeLong", reason=f"{why}, so DeLong's variance is 0")
    half = normal_quantile(0.5 + CONFIDENCE / 2) * math.sqrt(variance)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), "DeLong")


def auc_within(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike) -> Estimate:
    """AUC over the pairs of a responder and a non-responder of the same group, with the interval after DeLong.

    For predictions out of fold: each fold has a model of its own, and only pairs within a fold are ranked by one. Pairs
    across folds are ranked by two models, each trained on the other's patient, which without any signal pulls the
    pooled AUC below 0.5 (Airola et al., Comput Stat Data Anal 55:1828, 2011).

    Args:
        labels: [patient] 1 responder, 0 non-responder, NaN or None unknown (left out).
        scores: [patient] higher means response.
        groups: [patient] name of the group; groups with one class only have no pairs.
    """
    method = "mean over groups by number of pairs, DeLong"
    known, kept = _labelled(labels, scores)
    own = np.asarray(groups)[~np.isnan(numbers(labels))]
    pairs, areas, variances = [], [], []
    for group in np.unique(own):
        here = own == group
        if why_undefined(known[here]) or _too_few(known[here]):
            continue
        positive, negative = placements(known[here], kept[here])
        pairs.append(len(positive) * len(negative))
        areas.append(positive.mean())
        variances.append(positive.var(ddof=1) / len(positive) + negative.var(ddof=1) / len(negative))
    if not pairs:
        return Estimate(method=method, reason="no group has two labelled patients of each class")
    shares = np.array(pairs) / sum(pairs)
    value, error = float(shares @ areas), math.sqrt(float(shares**2 @ variances))
    if error == 0:
        return Estimate(value, method=method, reason="DeLong's variance is 0 in every group")
    half = normal_quantile(0.5 + CONFIDENCE / 2) * error
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), method)


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
    """Mean squared difference of probability and label, with the BCa interval of a bootstrap over patients."""
    method = f"bootstrap, BCa, {replicates} replicates"
    known, kept = _labelled(labels, probabilities)
    if not len(known):
        return Estimate(method=method, reason=why_undefined(known))
    squares = (kept - known) ** 2
    value = float(squares.mean())
    if len(known) < 2:
        return Estimate(value, method=method, reason="one labelled patient gives no interval")
    drawn = resamples(len(known), replicates, seed) @ squares / len(known)
    return bca_estimate(value, drawn, [squares - value], method)


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


# --- a table of predictions -------------------------------------------------------------------------------


def evaluate(predictions: pd.DataFrame, *, threshold: ArrayLike, replicates: int, seed: int) -> dict[str, Any]:
    """Every metric of every part of a table of predictions, as JSON takes it.

    Args:
        predictions: columns of `specs.PREDICTIONS`.
        threshold: frozen threshold of the probability, chosen on other patients: one, or [patient] each one's own; NaN
            where there is none.
        replicates: bootstrap replicates.
        seed: seed of the bootstraps.

    Returns:
        `threshold` (null where there is none or several), `headline` (the part that was held out from everything, null
        without one), `confidence`, `replicates`, `seed`, and `parts`: part → `patients`, `labelled`, `responders`
        (counts), `confusion`, estimates (`auc`, `auc_delong`, `average_precision`, `brier`, those of
        `calibration.calibration` and of `operating_point`; each value, low, high, method, reason), `pfs` and `os` (see
        `survival.compare_groups`, with `c_index` and `uno_c`), and by `modalities` (pattern of imaging) and `centres`
        the counts and main estimates of each group.

    Raises:
        FitError: a column is missing, a patient stands twice, or a value is not what its column promises.
    """
    check_predictions(predictions)
    own = np.broadcast_to(np.asarray(threshold, dtype=np.float64), len(predictions))
    calls = calls_at(predictions["probability"], own)
    parts = {
        str(part): _evaluate_part(rows, calls[(predictions["part"] == part).to_numpy(dtype=bool)], replicates, seed)
        for part, rows in predictions.groupby("part", sort=False)
    }
    one = len(own) > 0 and np.ptp(own) == 0
    return {
        "threshold": float(own[0]) if one else None,
        "headline": next((part for part in HEADLINES if part in parts), None),
        "confidence": CONFIDENCE,
        "replicates": replicates,
        "seed": seed,
        "parts": parts,
    }


def calls_at(probabilities: ArrayLike, thresholds: ArrayLike) -> Numbers:
    """[patient] 1 where response is predicted, 0 where not, NaN where the patient has no threshold."""
    own = np.asarray(thresholds, dtype=np.float64)
    return np.where(np.isnan(own), np.nan, numbers(probabilities) >= own)


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


def _evaluate_part(rows: pd.DataFrame, calls: Numbers, replicates: int, seed: int) -> dict[str, Any]:
    from .calibration import calibration
    from .survival import compare_groups

    labels, probability = numbers(rows["label"]), numbers(rows["probability"])
    risk = numbers(rows["risk"])
    again = {"replicates": replicates, "seed": seed}
    found: dict[str, Any] = _counts(labels)
    has_call = ~np.isnan(calls)
    found["confusion"] = confusion(labels[has_call], calls[has_call], 0.5) if has_call.any() else None
    estimates = {
        "auc": auc_bootstrap(labels, probability, **again),
        "auc_delong": auc_delong(labels, probability),
        "average_precision": average_precision(labels, probability, **again),
        "brier": brier(labels, probability, **again),
    }
    estimates |= calibration(labels, probability) | _point(labels, calls)
    found |= {name: estimate.as_json() for name, estimate in estimates.items()}
    for endpoint in ("pfs", "os"):
        days, events = numbers(rows[f"{endpoint}_days"]), numbers(rows[f"{endpoint}_event"])
        c_index = concordance_bootstrap(days, events, risk, **again)
        groups = compare_groups(days, events, 1 - calls)
        unos = uno(days, events, risk, **again)
        found[endpoint] = {"c_index": c_index.as_json(), "uno_c": unos.as_json()} | groups
    for key, column in (("modalities", "modalities"), ("centres", "centre")):
        found[key] = by_group(rows, calls, rows[column], **again)
    return found


def by_group(
    rows: pd.DataFrame, calls: Numbers, groups: ArrayLike, *, replicates: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Counts and the main figures of each group of patients of a part, by name.

    Args:
        rows: predictions of the part.
        calls: [patient] as `calls_at` gives them.
        groups: [patient] name of the group.
    """
    names = np.asarray(groups).astype(str)
    again = {"replicates": replicates, "seed": seed}
    return {name: _group(rows[names == name], calls[names == name], again) for name in np.unique(names)}


def _group(rows: pd.DataFrame, calls: Numbers, again: dict[str, int]) -> dict[str, Any]:
    labels, probability = numbers(rows["label"]), numbers(rows["probability"])
    point = _point(labels, calls)
    estimates = {
        "auc": auc_bootstrap(labels, probability, **again),
        "brier": brier(labels, probability, **again),
        "sensitivity": point["sensitivity"],
        "specificity": point["specificity"],
    }
    for endpoint in ("pfs", "os"):
        days, events = rows[f"{endpoint}_days"], rows[f"{endpoint}_event"]
        estimates[f"{endpoint}_c_index"] = concordance_bootstrap(days, events, rows["risk"], **again)
    return _counts(labels) | {name: estimate.as_json() for name, estimate in estimates.items()}


def _point(labels: Numbers, calls: Numbers) -> dict[str, Estimate]:
    """`operating_point` of the patients with a call."""
    has_call = ~np.isnan(calls)
    return operating_point(labels[has_call], calls[has_call], 0.5 if has_call.any() else math.nan)


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

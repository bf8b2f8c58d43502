"""Metrics against scikit-learn, lifelines, scipy, published examples and naive loops."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from mumo.errors import FitError
from mumo.fusion import concordance, metrics
from mumo.fusion.metrics import Estimate

labelled_scores = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.integers(0, 6)), min_size=2, max_size=30).filter(
    lambda rows: {label for label, _ in rows} == {0.0, 1.0}
)
"""Few distinct scores, so that ties are the rule."""

times = st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.integers(0, 4)), min_size=2, max_size=25)


def draw(size: int, seed: int, shift: float = 1.0, decimals: int = 2) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = (np.arange(size) % 3 == 0).astype(float)
    return labels, np.round(1 / (1 + np.exp(-generator.normal(shift * labels, 1))), decimals)


def predictions(size: int = 40, seed: int = 0, **columns: Any) -> pd.DataFrame:
    labels, probability = draw(size, seed)
    generator = np.random.default_rng(seed)
    table = {
        "patient": [f"p{i:03d}" for i in range(size)],
        "centre": ["A"] * size,
        "part": ["train" if i < size // 2 else "validation" for i in range(size)],
        "modalities": [("both", "pathology", "radiology")[i % 7 % 3] for i in range(size)],
        "probability": probability,
        "risk": 1 - probability,
        "label": labels,
        "pfs_days": generator.integers(10, 900, size).astype(float),
        "pfs_event": generator.random(size) < 0.6,
        "os_days": generator.integers(50, 1500, size).astype(float),
        "os_event": generator.random(size) < 0.5,
    }
    return pd.DataFrame(table | columns)


# --- AUC --------------------------------------------------------------------------------------------------


def naive_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    wins = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[labels == 1]
        for negative in scores[labels == 0]
    ]
    return sum(wins) / len(wins)


def naive_delong(labels: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """AUC and its variance from DeLong's structural components, by the double sum of the paper."""
    positive, negative = scores[labels == 1], scores[labels == 0]

    def kernel(x: float, y: float) -> float:
        return 1.0 if y < x else 0.5 if y == x else 0.0

    v10 = [sum(kernel(x, y) for y in negative) / len(negative) for x in positive]
    v01 = [sum(kernel(x, y) for x in positive) / len(positive) for y in negative]
    area = sum(v10) / len(v10)
    s10 = sum((v - area) ** 2 for v in v10) / (len(v10) - 1)
    s01 = sum((v - area) ** 2 for v in v01) / (len(v01) - 1)
    return area, s10 / len(v10) + s01 / len(v01)


@given(labelled_scores)
def test_auc__equals_naive_count_of_pairs(rows: list[tuple[float, int]]) -> None:
    labels, scores = np.array(rows, dtype=float).T
    assert metrics.auc(labels, scores) == pytest.approx(naive_auc(labels, scores), abs=1e-12)


def test_auc__leaves_out_unknown_labels() -> None:
    assert metrics.auc([1, None, 0, math.nan, pd.NA], [0.3, 0.9, 0.2, 0.0, 0.1]) == 1.0


@pytest.mark.parametrize("labels", [[], [None], [1, 1], [0, 0, None]])
def test_auc__is_nan_without_both_classes(labels: list[Any]) -> None:
    assert math.isnan(metrics.auc(labels, [0.5] * len(labels)))


def test_auc__refuses_arrays_of_different_lengths() -> None:
    with pytest.raises(FitError, match="score for each of 2 labels, found 3"):
        metrics.auc([0, 1], [0.1, 0.2, 0.3])


@given(labelled_scores)
def test_placements__equal_naive_shares(rows: list[tuple[float, int]]) -> None:
    labels, scores = np.array(rows, dtype=float).T
    lower, higher = metrics.placements(labels, scores)
    positive, negative = scores[labels == 1], scores[labels == 0]
    np.testing.assert_allclose(lower, [np.mean((negative < x) + 0.5 * (negative == x)) for x in positive], atol=1e-12)
    np.testing.assert_allclose(higher, [np.mean((positive > y) + 0.5 * (positive == y)) for y in negative], atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_auc_delong__equals_naive_double_loop(seed: int) -> None:
    labels, scores = draw(37, seed, decimals=1)
    area, variance = naive_delong(labels, scores)
    found = metrics.auc_delong(labels, scores)
    half = stats.norm.ppf(0.975) * math.sqrt(variance)
    assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.low == pytest.approx(max(0, area - half), abs=1e-12)
    assert found.high == pytest.approx(min(1, area + half), abs=1e-12)


def test_auc_delong__has_no_interval_where_scores_separate_the_classes() -> None:
    found = metrics.auc_delong([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9])
    assert found.value == 1.0
    assert math.isnan(found.low)
    assert "separate" in found.reason


def test_auc_delong__covers_the_true_area_as_often_as_it_says() -> None:
    true_area = stats.norm.cdf(1 / math.sqrt(2))  # two normal distributions, one standard deviation apart
    generator = np.random.default_rng(0)
    labels = np.repeat([0.0, 1.0], 60)
    found = [metrics.auc_delong(labels, generator.normal(labels, 1)) for _ in range(400)]
    covered = np.mean([estimate.low <= true_area <= estimate.high for estimate in found])
    assert 0.92 < covered < 0.98


def scipy_bootstrap(labels: np.ndarray, scores: np.ndarray, replicates: int) -> tuple[float, float]:
    """BCa of two independent samples by scipy, the statistic being the naive count of pairs."""

    def area(positive: np.ndarray, negative: np.ndarray, axis: int = -1) -> np.ndarray:
        above = (positive[..., :, None] > negative[..., None, :]) + 0.5 * (
            positive[..., :, None] == negative[..., None, :]
        )
        return np.asarray(above.mean(axis=(-2, -1)))

    found = stats.bootstrap(
        (scores[labels == 1], scores[labels == 0]),
        area,
        n_resamples=replicates,
        batch=500,
        method="BCa",
        rng=np.random.default_rng(1),
    )
    return found.confidence_interval


@pytest.mark.parametrize("shift", [0.3, 1.5])
def test_auc_bootstrap__agrees_with_scipy_bca(shift: float) -> None:
    labels, scores = draw(60, 5, shift)
    low, high = scipy_bootstrap(labels, scores, 20_000)
    found = metrics.auc_bootstrap(labels, scores, replicates=20_000, seed=0)
    assert found.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    # two independent sets of 20,000 draws: the ends scatter by a few thousandths
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)


def test_auc_bootstrap__is_the_same_for_one_seed_and_differs_for_another() -> None:
    labels, scores = draw(50, 2)
    first, again, other = (metrics.auc_bootstrap(labels, scores, replicates=500, seed=s) for s in (7, 7, 8))
    assert first == again
    assert first.low != other.low


def test_auc_bootstrap__does_not_depend_on_how_replicates_are_chunked() -> None:
    labels, scores = draw(3_000, 2, decimals=12)  # 3,000 distinct scores: replicates come in two chunks
    found = metrics.auc_bootstrap(labels, scores, replicates=2_000, seed=0)
    normal = metrics.auc_delong(labels, scores)
    assert found.low == pytest.approx(normal.low, abs=0.003)
    assert found.high == pytest.approx(normal.high, abs=0.003)


@pytest.mark.parametrize(
    ("labels", "scores", "value", "reason"),
    [
        ([], [], math.nan, "no labelled patients"),
        ([1, 1], [0.1, 0.2], math.nan, "only responders"),
        ([0, None], [0.1, 0.2], math.nan, "only non-responders"),
        ([0, 0, 1], [0.1, 0.3, 0.2], 0.5, "one patient in a class"),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 1.0, "no spread"),
        ([0, 0, 1, 1], [0.5] * 4, 0.5, "no spread"),
    ],
)
def test_auc_bootstrap__says_why_something_is_undefined(
    labels: list[Any], scores: list[float], value: float, reason: str
) -> None:
    found = metrics.auc_bootstrap(labels, scores, replicates=100, seed=0)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert reason in found.reason


# --- threshold and operating point ------------------------------------------------------------------------


@given(labelled_scores)
def test_youden_threshold__reaches_the_best_point_of_the_roc_curve(rows: list[tuple[float, int]]) -> None:
    labels, scores = np.array(rows, dtype=float).T
    threshold = metrics.youden_threshold(labels, scores)
    called = scores >= threshold
    reached = called[labels == 1].mean() - called[labels == 0].mean()
    false_alarms, hits, _ = roc_curve(labels, scores)
    assert reached == pytest.approx(max(hits - false_alarms), abs=1e-12)


def test_youden_threshold__lies_half_way_between_the_classes() -> None:
    assert metrics.youden_threshold([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == pytest.approx(0.5)


def test_youden_threshold__prefers_balance_among_equally_good_ones() -> None:
    # sensitivity and specificity: 1/3 and 1 above 0.85; 2/3 and 2/3 above 0.65; 1 and 1/3 above 0.35
    labels, probability = [1, 0, 1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6, 0.4, 0.3]
    assert metrics.youden_threshold(labels, probability) == pytest.approx(0.65)


def test_youden_threshold__parts_neighbouring_floats() -> None:
    high = np.nextafter(0.5, 1)
    assert metrics.youden_threshold([0, 1], [0.5, high]) == high


def test_youden_threshold__is_nan_without_both_classes() -> None:
    assert math.isnan(metrics.youden_threshold([1, None], [0.2, 0.3]))


def test_confusion__counts_the_threshold_itself_as_response() -> None:
    assert metrics.confusion([1, 0, 1, 0, None], [0.5, 0.5, 0.4, 0.1, 0.9], 0.5) == {
        "true_positive": 1,
        "false_positive": 1,
        "true_negative": 1,
        "false_negative": 1,
    }


@pytest.mark.parametrize(("successes", "total"), [(0, 5), (3, 7), (7, 7), (81, 263)])
def test_proportion__equals_wilsons_formula(successes: int, total: int) -> None:
    z, share = stats.norm.ppf(0.975), successes / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    found = metrics.proportion(successes, total, "nobody")
    assert found.value == pytest.approx(share)
    assert found.low == pytest.approx(middle - half, abs=1e-9)
    assert found.high == pytest.approx(middle + half, abs=1e-9)


def test_proportion__equals_newcombes_published_example() -> None:
    # Newcombe, Stat Med 17:857 (1998), table I, method 3: 81 of 263
    found = metrics.proportion(81, 263, "nobody")
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


def test_rate_difference__equals_newcombes_published_example() -> None:
    # Newcombe, Stat Med 17:873 (1998), table II, method 10: 56 of 70 against 48 of 80
    found = metrics.rate_difference(metrics.proportion(56, 70, ""), metrics.proportion(48, 80, ""))
    assert round(found.value, 4) == 0.2
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_number_needed_to_treat__inverts_the_difference_and_its_interval() -> None:
    found = metrics.number_needed_to_treat(Estimate(0.5, 0.25, 0.8, "Newcombe"))
    assert (found.value, found.low, found.high, found.reason) == (2.0, 1.25, 4.0, "")


def test_number_needed_to_treat__has_no_upper_end_where_the_difference_may_be_0() -> None:
    found = metrics.number_needed_to_treat(Estimate(0.5, -0.1, 0.8, "Newcombe"))
    assert (found.value, found.low) == (2.0, 1.25)
    assert math.isnan(found.high)
    assert "no upper end" in found.reason


def test_number_needed_to_treat__is_undefined_where_the_prediction_is_of_no_use() -> None:
    found = metrics.number_needed_to_treat(Estimate(-0.2, -0.5, 0.1, "Newcombe"))
    assert math.isnan(found.value)
    assert "do not respond more often" in found.reason


def test_operating_point__equals_rates_counted_by_hand() -> None:
    labels = [1, 1, 1, 0, 0, 0, 0, None]
    found = metrics.operating_point(labels, [0.9, 0.8, 0.2, 0.7, 0.3, 0.2, 0.1, 0.9], 0.5)
    values = {name: estimate.value for name, estimate in found.items()}
    assert values == pytest.approx(
        {
            "sensitivity": 2 / 3,
            "specificity": 3 / 4,
            "ppv": 2 / 3,
            "npv": 3 / 4,
            "response_difference": 2 / 3 - 1 / 4,
            "number_needed_to_treat": 1 / (2 / 3 - 1 / 4),
        }
    )


def test_operating_point__says_why_nobody_counts() -> None:
    found = metrics.operating_point([1, 1], [0.1, 0.2], 0.5)
    assert found["sensitivity"].value == 0
    assert found["specificity"].reason == "no non-responder among the labelled patients"
    assert found["ppv"].reason == "no labelled patient is predicted to respond"
    assert found["number_needed_to_treat"].reason == found["ppv"].reason


def test_operating_point__is_undefined_without_a_threshold() -> None:
    found = metrics.operating_point([0, 1], [0.1, 0.2], math.nan)
    assert {estimate.reason for estimate in found.values()} == {"there is no threshold"}


def test_brier__equals_scikit_learn_and_its_interval_matches_the_normal_one() -> None:
    labels, probability = draw(400, 3)
    found = metrics.brier(labels, probability, replicates=4_000, seed=0)
    assert found.value == pytest.approx(brier_score_loss(labels, probability))
    half = 1.96 * stats.sem((labels - probability) ** 2)
    assert found.low == pytest.approx(found.value - half, abs=0.003)
    assert found.high == pytest.approx(found.value + half, abs=0.003)


@pytest.mark.parametrize(("labels", "reason"), [([None], "no labelled patients"), ([1, None], "one labelled patient")])
def test_brier__says_why_something_is_undefined(labels: list[Any], reason: str) -> None:
    found = metrics.brier(labels, [0.5] * len(labels), replicates=10, seed=0)
    assert math.isnan(found.low)
    assert reason in found.reason


# --- C-index ----------------------------------------------------------------------------------------------


def naive_concordance(days: list[int], events: list[bool], risk: list[int]) -> float | None:
    agreed, compared = 0.0, 0
    for i in range(len(days)):
        for j in range(len(days)):
            if events[i] and (days[i] < days[j] or (days[i] == days[j] and not events[j])):
                compared += 1
                agreed += 1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0
    return agreed / compared if compared else None


@given(times)
@settings(deadline=None)  # the first call imports lifelines
def test_concordance__equals_naive_count_of_pairs(rows: list[tuple[int, bool, int]]) -> None:
    days, events, risk = (list(column) for column in zip(*rows, strict=True))
    expected = naive_concordance(days, events, risk)
    found = metrics.concordance(days, events, risk)
    assert found == pytest.approx(math.nan if expected is None else expected, nan_ok=True)


def test_concordance__leaves_out_unknown_times() -> None:
    assert metrics.concordance([10, None, 20, 30], [1, 1, None, 0], [2, 9, 0, 1]) == 1.0


def test_concordance__is_nan_without_events() -> None:
    assert math.isnan(metrics.concordance([10, 20], [0, 0], [1, 2]))


def test_concordance_bootstrap__replicates_equal_resampled_patients() -> None:
    generator = np.random.default_rng(0)
    days, events, risk = generator.integers(1, 40, 60), generator.random(60) < 0.6, generator.normal(size=60)
    risk = risk - days / 30
    found = metrics.concordance_bootstrap(days, events, risk, replicates=2_000, seed=0)
    chosen = [generator.integers(0, 60, 60) for _ in range(600)]
    drawn = [metrics.concordance(days[rows], events[rows], risk[rows]) for rows in chosen]
    assert found.value == metrics.concordance(days, events, risk)
    assert found.low == pytest.approx(np.quantile(drawn, 0.025), abs=0.015)
    assert found.high == pytest.approx(np.quantile(drawn, 0.975), abs=0.015)


@pytest.mark.parametrize(
    ("days", "events", "reason"),
    [
        ([], [], "no known time"),
        ([None, 5], [1, None], "no known time"),
        ([1, 2], [0, 0], "no events"),
        ([1, 2], [0, 1], "no two patients to compare"),
    ],
)
def test_concordance_bootstrap__says_why_it_is_undefined(days: list[Any], events: list[Any], reason: str) -> None:
    found = metrics.concordance_bootstrap(days, events, [1.0] * len(days), replicates=10, seed=0)
    assert math.isnan(found.value)
    assert found.reason == reason


# --- the whole table --------------------------------------------------------------------------------------


def test_evaluate__gives_each_part_its_own_figures() -> None:
    table = predictions()
    found = metrics.evaluate(table, threshold=0.5, replicates=200, seed=0)
    rows = table[table["part"] == "validation"]
    part = found["parts"]["validation"]
    assert list(found["parts"]) == ["train", "validation"]
    assert (part["patients"], part["labelled"], part["responders"]) == (20, 20, int(rows["label"].sum()))
    assert part["auc"]["value"] == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    assert part["os"]["c_index"]["value"] == metrics.concordance(rows["os_days"], rows["os_event"], rows["risk"])
    assert part["pfs"]["groups"]["high"]["patients"] == int((rows["probability"] < 0.5).sum())
    both = rows[rows["modalities"] == "both"]
    assert part["modalities"]["both"]["auc"]["value"] == pytest.approx(metrics.auc(both["label"], both["probability"]))
    json.dumps(found, allow_nan=False)


def test_evaluate__calls_each_patient_at_the_own_threshold() -> None:
    table = predictions()
    own = np.where(np.arange(len(table)) % 2, 0.3, 0.7)
    part = metrics.evaluate(table, threshold=own, replicates=20, seed=0)["parts"]["validation"]
    rows = (table["part"] == "validation").to_numpy()
    called = (table["probability"].to_numpy() >= own)[rows]
    labels = table["label"][rows].astype(float).to_numpy()
    assert part["confusion"]["true_positive"] == int((called & (labels == 1)).sum())
    assert part["sensitivity"]["value"] == pytest.approx(called[labels == 1].mean())
    assert part["pfs"]["groups"]["high"]["patients"] == int((~called).sum())
    same = metrics.evaluate(table, threshold=np.full(len(table), 0.5), replicates=20, seed=0)
    assert same == metrics.evaluate(table, threshold=0.5, replicates=20, seed=0)


def test_evaluate__names_the_part_that_was_held_out_from_everything() -> None:
    table = predictions()
    assert metrics.evaluate(table, threshold=0.5, replicates=10, seed=0)["headline"] is None
    for part in ("external", "test"):
        table["part"] = np.where(table["part"] == "train", part, table["part"])
        assert metrics.evaluate(table, threshold=0.5, replicates=10, seed=0)["headline"] == part
        table["part"] = np.where(table["part"] == part, "train", table["part"])


def test_auc_delong__of_one_score_for_all_says_so() -> None:
    found = metrics.auc_delong([1, 1, 0, 0], [0.4] * 4)
    assert (found.value, found.reason) == (0.5, "all patients have the same score, so DeLong's variance is 0")


def test_auc_within__is_that_of_the_pairs_of_one_group() -> None:
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, 2, 60).astype(float), rng.integers(0, 3, 60)
    labels[:5] = math.nan
    scores = rng.normal(size=60) + groups + 0.5 * (labels == 1)
    wins = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero((labels == 0) & (groups == groups[i])):
            wins, pairs = wins + (scores[i] > scores[j]), pairs + 1
    found = metrics.auc_within(labels, scores, groups)
    assert found.value == pytest.approx(wins / pairs)
    whole, one = metrics.auc_delong(labels, scores), metrics.auc_within(labels, scores, np.zeros(60))
    assert (one.value, one.low, one.high) == pytest.approx((whole.value, whole.low, whole.high))
    assert found.low < found.value < found.high


def test_auc_within__of_groups_of_one_class_is_undefined() -> None:
    found = metrics.auc_within([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], ["a", "a", "b", "b"])
    assert math.isnan(found.value)
    assert "two labelled patients of each class" in found.reason


def test_auc_within__of_folds_without_signal_is_a_half_where_the_pooled_one_is_below() -> None:
    # each patient's score is the response rate of the other folds: all that such folds say is the patient's own label
    pooled, within = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels, folds = rng.integers(0, 2, 100).astype(float), rng.permutation(np.arange(100) % 5)
        cells = rng.integers(0, 3, 100)
        scores = np.array([labels[(folds != f) & (cells == c)].mean() for f, c in zip(folds, cells, strict=True)])
        pooled.append(metrics.auc(labels, scores))
        within.append(metrics.auc_within(labels, scores, folds).value)
    error = np.std(within, ddof=1) / 200**0.5
    assert abs(np.mean(within) - 0.5) < 2.5 * error
    assert np.mean(pooled) < 0.5 - 4 * np.std(pooled, ddof=1) / 200**0.5


def test_evaluate__keeps_unlabelled_patients_for_survival_only() -> None:
    table = predictions(label=[None] * 20 + [1.0, 0.0] * 10)
    found = metrics.evaluate(table, threshold=0.5, replicates=50, seed=0)["parts"]["train"]
    assert (found["patients"], found["labelled"]) == (20, 0)
    assert found["auc"] == {
        "value": None,
        "low": None,
        "high": None,
        "method": "stratified bootstrap, BCa, 50 replicates",
        "reason": "no labelled patients",
    }
    assert found["pfs"]["c_index"]["value"] is not None


def test_evaluate__survives_one_patient_without_anything_known() -> None:
    nothing = {name: [None] for name in ("label", "pfs_days", "pfs_event", "os_days", "os_event")}
    table = predictions(1, **nothing)
    found = metrics.evaluate(table, threshold=math.nan, replicates=10, seed=0)
    part = found["parts"]["validation"]
    assert found["threshold"] is None
    assert part["confusion"] is None
    assert part["os"]["log_rank_p"]["reason"] == "there is no threshold"
    assert part["os"]["patients"] == 0
    json.dumps(found, allow_nan=False)


def test_evaluate__takes_types_of_parquet_and_of_nullable_pandas() -> None:
    plain = predictions()
    nullable = plain.astype({"label": "Int8", "pfs_event": "boolean", "os_days": "Float64"})
    first, second = (metrics.evaluate(t, threshold=0.5, replicates=20, seed=0) for t in (plain, nullable))
    assert first == second


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"probability": [0.5] * 39 + [math.nan]}, "patient p039: column probability: expected 0 to 1, found nan"),
        ({"probability": [1.5] + [0.5] * 39}, "patient p000: column probability"),
        ({"risk": [math.inf] + [0.0] * 39}, "patient p000: column risk: expected a finite number"),
        ({"label": [2.0] + [0.0] * 39}, "column label: expected 0, 1 or unknown"),
        ({"patient": ["p1"] * 2 + [f"q{i}" for i in range(38)]}, r"several for \['p1'\]"),
    ],
)
def test_evaluate__refuses_predictions_that_are_not_as_declared(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(FitError, match=message):
        metrics.evaluate(predictions(**columns), threshold=0.5, replicates=10, seed=0)


def test_evaluate__names_missing_columns() -> None:
    with pytest.raises(FitError, match="'risk'"):
        metrics.evaluate(predictions().drop(columns="risk"), threshold=0.5, replicates=10, seed=0)


def test_metrics__imports_no_heavy_library() -> None:
    code = "import sys, mumo.fusion.metrics; print([m for m in ('scipy', 'sklearn', 'lifelines') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- average precision ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_average_precision__agrees_with_scipys_stratified_bca() -> None:
    labels, scores = draw(60, 1)
    positive, negative = scores[labels == 1], scores[labels == 0]

    def statistic(drawn: np.ndarray, others: np.ndarray) -> float:
        known = np.r_[np.ones(len(drawn)), np.zeros(len(others))]
        return float(average_precision_score(known, np.r_[drawn, others]))

    expected = stats.bootstrap(
        (positive, negative), statistic, vectorized=False, n_resamples=2000, method="BCa", rng=0
    ).confidence_interval
    found = metrics.average_precision(labels, scores, replicates=4000, seed=0)
    assert found.value == pytest.approx(average_precision_score(labels, scores))
    assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.02)


@given(labelled_scores)
def test_average_precision__of_counts_equals_scikit_learn(rows: list[tuple[float, int]]) -> None:
    labels, scores = np.array(rows).T
    found = metrics.average_precision(labels, scores, replicates=20, seed=0)
    assert found.value == pytest.approx(average_precision_score(labels, scores))
    assert math.isnan(found.low) or 0 <= found.low <= found.high <= 1


def test_average_precision__is_undefined_without_both_classes() -> None:
    assert "only responders" in metrics.average_precision([1, 1], [0.1, 0.2], replicates=10, seed=0).reason


def test_evaluate__gives_each_centre_and_pattern_the_figures_of_its_patients() -> None:
    table = predictions(80, centre=["A" if i % 4 else "B" for i in range(80)])
    found = metrics.evaluate(table, threshold=0.6, replicates=50, seed=0)["parts"]["validation"]
    part = table[table["part"] == "validation"]
    for key, column in (("centres", "centre"), ("modalities", "modalities")):
        assert set(found[key]) == set(part[column])
        for name, group in part.groupby(column):
            values = found[key][name]
            assert values["patients"] == len(group)
            assert values["auc"]["value"] == pytest.approx(roc_auc_score(group["label"], group["probability"]))
            assert values["brier"]["value"] == pytest.approx(brier_score_loss(group["label"], group["probability"]))
            point = metrics.operating_point(group["label"], group["probability"], 0.6)
            assert values["sensitivity"] == point["sensitivity"].as_json()
            expected = metrics.concordance(group["os_days"], group["os_event"], group["risk"])
            assert values["os_c_index"]["value"] == pytest.approx(expected)


def test_intervals__are_none_where_every_replicate_is_the_same() -> None:
    labels, same = np.arange(20) % 2, np.full(20, 0.3)
    days = np.arange(1.0, 21.0)
    found = [
        metrics.average_precision(labels, same, replicates=50, seed=0),
        concordance.concordance_bootstrap(days, labels, same, replicates=50, seed=0),
        concordance.uno(days, labels, same, replicates=50, seed=0),
    ]
    assert [estimate.value for estimate in found] == pytest.approx([0.5] * 3)
    for estimate in found:
        assert math.isnan(estimate.low)
        assert "every replicate has the same value" in estimate.reason


def test_auc_within__has_no_interval_where_every_group_is_separated() -> None:
    found = metrics.auc_within([0, 0, 1, 1] * 2, [0.1, 0.2, 0.8, 0.9] * 2, ["a"] * 4 + ["b"] * 4)
    assert found.value == 1
    assert math.isnan(found.low)
    assert "variance is 0" in found.reason

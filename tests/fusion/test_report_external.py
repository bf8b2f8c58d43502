"""The page of an external validation: its figures against scikit-learn, lifelines and formulas written out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from externals import external_rows, write_external
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from report_pages import Page, page_of
from runs import rows_of, write_run
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, confusion_matrix, roc_auc_score

from mumo.fusion import report, tripod
from mumo.fusion.runfiles import read_run
from mumo.stores import tables
from mumo.stores.specs import CLINICAL


def known_of(rows: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the labelled patients."""
    known = [row for row in rows if row["label"] is not None]
    return np.array([row["label"] for row in known]), np.array([row["probability"] for row in known])


def table_of(page: Page, corner: str, second: str) -> dict[str, list[str]]:
    """The table with these first two cells: first cell of a row → the others."""
    for table in page.tables:
        head = [" ".join(cell.split()) for cell in table[0]]
        if head[0].startswith(corner) and head[1].startswith(second):
            return {" ".join(row[0].split()): [" ".join(cell.split()) for cell in row[1:]] for row in table[1:]}
    raise AssertionError(f"no table {corner!r}, {second!r}")


# --- the numbers ------------------------------------------------------------------------------------------


def test_page__discrimination_and_calibration_equal_scikit_learns(tmp_path: Path) -> None:
    rows = external_rows(120)
    page = page_of(write_external(tmp_path / "out", rows))
    labels, probability = known_of(rows)
    metrics = page.table("Metric (95 % interval)")
    assert metrics["AUC"][0].startswith(f"{roc_auc_score(labels, probability):.3f} (")
    assert metrics["Brier score"][0].startswith(f"{brier_score_loss(labels, probability):.3f} (")
    logits = np.log(probability / (1 - probability))
    slope = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], labels).coef_[0, 0]
    assert metrics["Calibration slope (best: 1)"][0].startswith(f"{slope:.2f} (")
    # in the large: the shift of all logits after which as many responses are predicted as there are
    low, high = -20.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-logits - middle))).sum() < labels.sum() else (low, middle)
    name = "Calibration in the large: intercept at slope 1 (best: 0)"
    assert metrics[name][0].startswith(f"{middle:.2f}".replace("-", "−"))
    assert f"slope {slope:.2f} (" in page.text


def test_page__operating_point_has_its_counts(tmp_path: Path) -> None:
    rows = external_rows(120)
    page = page_of(write_external(tmp_path / "out", rows, threshold=0.4))
    labels, probability = known_of(rows)
    (passes, alarms), (misses, hits) = confusion_matrix(labels, probability >= 0.4)
    calls = page.table("Predicted")
    assert calls["response"] == [str(hits), str(alarms)]
    assert calls["no response"] == [str(misses), str(passes)]
    shares = page.table("Share")
    for name, part, whole in (
        ("Sensitivity of responders, predicted to respond", hits, hits + misses),
        ("Specificity of non-responders, predicted not to respond", passes, passes + alarms),
        ("Positive predictive value of those predicted to respond, responders", hits, hits + alarms),
        ("Negative predictive value of those predicted not to, non-responders", passes, passes + misses),
    ):
        interval = stats.binomtest(int(part), int(whole)).proportion_ci(method="wilson")
        assert shares[name] == [
            f"{part} of {whole}", f"{part / whole:.3f} ({interval.low:.3f}–{interval.high:.3f})",
        ]  # fmt: skip


def test_page__survival_of_frozen_risk_groups_equals_lifelines(tmp_path: Path) -> None:
    rows = external_rows(120)
    out = write_external(tmp_path / "out", rows, threshold=0.6)
    page = page_of(out)
    frame = pd.DataFrame(rows)
    high = frame["probability"] < 0.6
    groups = [frame[high], frame[~high]]
    p = logrank_test(*(g["os_days"] for g in groups), *(g["os_event"] for g in groups)).p_value
    cox = CoxPHFitter().fit(
        frame.assign(high=high.astype(float))[["os_days", "os_event", "high"]], "os_days", "os_event"
    )
    c_index = concordance_index(frame["os_days"], -frame["risk"], frame["os_event"])
    caption = page.text[page.text.index("Overall survival of the external patients") :]
    assert f"Hazard ratio high : low {math.exp(cox.params_['high']):.2f} (" in caption
    assert f"log-rank p {p:.3f}" in caption
    assert f"C-index of the risk {c_index:.3f} (" in caption
    curve = pd.read_csv(out / "report" / "survival-external-os.csv")
    fitter = KaplanMeierFitter().fit(groups[0]["os_days"], groups[0]["os_event"])
    drawn = curve[curve["risk"] == "high"]
    np.testing.assert_allclose(drawn["survival"], fitter.predict(drawn["days"]).to_numpy())
    assert drawn["at_risk"].iloc[0] == high.sum()


def test_page__sets_internal_and_external_figures_against_each_other(tmp_path: Path) -> None:
    own, rows = rows_of(150), external_rows(120)
    out = write_external(tmp_path / "out", rows, own=own)
    page = page_of(out)
    table = table_of(page, "Metric", "internal, test")
    areas, variances = [], []
    for people in ([row for row in own if row["part"] == "test"], rows):
        labels, probability = known_of(people)
        wins = (probability[labels == 1][:, None] > probability[labels == 0][None, :]).astype(float)
        areas.append(wins.mean())
        variances.append(wins.mean(1).var(ddof=1) / len(wins) + wins.mean(0).var(ddof=1) / wins.shape[1])
    gap, error = areas[1] - areas[0], math.sqrt(sum(variances))
    shown = f"{gap:.3f} ({gap - 1.959964 * error:.3f} to {gap + 1.959964 * error:.3f})"
    assert table["AUC"][2] == shown.replace("-", "−")
    assert table["AUC"][3] == f"{2 * stats.norm.sf(abs(gap / error)):.3f}"
    csv = pd.read_csv(out / "report" / "comparison.csv").set_index("metric")
    assert csv.loc["AUC", "difference"] == pytest.approx(gap)
    for name in ("Sensitivity", "C-index, OS"):
        row = csv.loc[name]
        low = row["difference"] - math.hypot(
            row["external"] - row["external_low"], row["internal_high"] - row["internal"]
        )
        assert row["difference_low"] == pytest.approx(low)
    assert f"AUC here minus AUC of the run’s test patients: {shown.rstrip(')')}".replace("-", "−") in page.text


def test_page__shift_of_predictions_equals_scipys(tmp_path: Path) -> None:
    own, rows = rows_of(150), external_rows(120, probability=lambda i: min(0.999, 0.3 + i / 150))
    page = page_of(write_external(tmp_path / "out", rows, own=own))
    table = table_of(page, "Median (quartiles)", "internal, test")
    first = np.array([row["probability"] for row in own if row["part"] == "test"])
    second = np.array([row["probability"] for row in rows])
    test = stats.ks_2samp(first, second)
    smd = (second.mean() - first.mean()) / math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    quartiles = np.quantile(second, (0.5, 0.25, 0.75))
    found = table["probability of response"]
    assert found[1] == "{:.2f} ({:.2f} to {:.2f})".format(*quartiles)
    assert found[2:4] == [f"{smd:.2f}", f"{test.statistic:.2f}"]
    assert found[4] == ("< 0.001" if test.pvalue < 0.001 else f"{test.pvalue:.3f}")


def clinical(rows: list[Any], male: int) -> list[dict[str, Any]]:
    """Sex of every patient, of whom the first `male` are men, and ages."""
    made = []
    for i, row in enumerate(rows):
        sex = {"item": "sex", "classes": ["male", "female"], "code": [float(i < male), float(i >= male)], "value": None}
        age = {"item": "age", "classes": [], "code": [], "value": 40.0 + i % 30}
        made.append({"patient": row["patient"], "group": "patient_information", "unit": "", **sex})
        made.append({"patient": row["patient"], "group": "measures", "unit": "years", **age})
    return made


def test_page__table_one_has_both_cohorts_with_standardised_differences(tmp_path: Path) -> None:
    own, rows = rows_of(90), external_rows(60)
    out = write_external(tmp_path / "out", rows, own=own)
    tables.write_table(out / "clinical.parquet", clinical(rows, 45), CLINICAL)
    tables.write_table(out / "development" / "clinical.parquet", clinical(own, 45), CLINICAL)
    page = page_of(out)
    table = next(t for t in page.tables if t[0][0] == "Item")
    assert [" ".join(cell.split()) for cell in table[0]] == [
        "Item",
        "development n = 90",
        "external n = 60",
        "SMD",
        "p",
    ]
    lines = {" ".join(row[0].split()): [" ".join(cell.split()) for cell in row[1:]] for row in table}
    assert lines["male"][:2] == ["45 (50 %)", "45 (75 %)"]
    first, second = np.repeat([0, 1], 45), np.repeat([0, 1], [45, 15])  # women
    smd = (second.mean() - first.mean()) / math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    p = stats.chi2_contingency([[45, 45], [45, 15]], correction=False).pvalue
    assert lines["sex"][2:] == [f"{smd:.2f}".replace("-", "−"), f"{p:.3f}"]
    events = sum(row["os_event"] for row in rows)
    assert lines["events"][1] == f"{events} of 60"  # the last of two endpoints
    reverse = KaplanMeierFitter().fit([r["os_days"] for r in rows], [not r["os_event"] for r in rows])
    assert lines["median follow-up, months"][1] == f"{reverse.median_survival_time_ / (365.25 / 12):.1f}"
    assert "SMD: standardised difference" in page.text
    missing = pd.read_csv(out / "report" / "missingness.csv")
    assert len(missing) == 60
    part = page.table("Part")
    assert part["development made the model"][0] == "90"
    assert part["external"][0] == "60"


def test_page__has_metrics_by_pattern_and_centre_and_every_patient(tmp_path: Path) -> None:
    rows = external_rows(120)
    out = write_external(tmp_path / "out", rows)
    page = page_of(out)
    found = json.loads((out / "metrics.json").read_text())["parts"]["external"]
    centres = next(t for t in page.tables if t[0][0] == "Centre" and "AUC" in t[0])
    for row in centres[1:]:
        assert " ".join(row[2].split()).startswith(f"{found['centres'][row[0]]['auc']['value']:.3f} ")
    assert [row[0] for row in centres[1:]] == ["Leiden", "Porto"]
    patients = next(t for t in page.tables if t[0][0] == "Patient")
    assert {row[0] for row in patients[1:]} == {row["patient"] for row in rows}
    assert "train" not in {row[0] for table in page.tables for row in table}


# --- what the page says -----------------------------------------------------------------------------------


def test_page__says_which_model_and_what_was_frozen(tmp_path: Path) -> None:
    page = page_of(write_external(tmp_path / "second-hospital", threshold=0.5))
    assert "External validation “second-hospital”" in page.text
    assert "The frozen model of the run “run-a” on another cohort" in page.text
    assert "Cohort: “second-hospital”" in page.text
    assert "the threshold of the probability (0.500, chosen on validation patients of the run)" in page.text
    assert "Probabilities are as the model gives them, without recalibration" in page.text
    assert "weights abababababab" in page.text
    assert "training" not in page.ids
    assert "is not externally validated" not in page.text
    assert "checked by id, follow-up and items alone" in page.text


def test_page__warns_where_inputs_differ_and_where_the_run_held_nobody_out(tmp_path: Path) -> None:
    own = rows_of(60, parts=("train", "validation"))
    out = write_external(tmp_path / "out", own=own, other_extraction=["rois ct: views is 4, the model's 2"])
    text = page_of(out).text
    assert "extracted otherwise than the model's: rois ct: views is 4" in text
    assert "extracted with the settings of the model's store" not in text
    assert "Nobody of the run was held out from everything: its validation patients chose the weights" in text


@pytest.mark.filterwarnings("error")
def test_page__without_any_outcome_describes_and_does_not_judge(tmp_path: Path) -> None:
    unknown = dict.fromkeys(("label", "pfs_days", "pfs_event", "os_days", "os_event"))
    out = write_external(tmp_path / "out", external_rows(40, **unknown))
    page = page_of(out)
    drawn = {path.stem for path in (out / "report").glob("*.svg")}
    assert not drawn & {"roc", "stability", "calibration", "decision"}
    assert {"shift", "probability"} <= drawn
    assert "Nobody’s response, progression or survival is known here" in page.text
    assert "Shift of predictions" in page.text
    assert "external minus internal" not in page.text
    assert not [table for table in page.tables if table[0][0].startswith("Metric")]
    assert "nan" not in page.text.lower().split()
    assert {row[0] for t in page.tables if t[0][0] == "Patient" for row in t[1:]} == {f"E{i:03d}" for i in range(40)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("label", [0, 1])
def test_page__of_one_class_says_why_there_is_no_auc(tmp_path: Path, label: int) -> None:
    page = page_of(write_external(tmp_path / "out", external_rows(40, label=label)))
    which = "responders" if label else "non-responders"
    assert f"only {which} among the labelled patients" in page.text
    table = table_of(page, "Metric", "internal, test")
    assert table["AUC"][1] == f"– only {which} among the labelled patients"
    assert table["AUC"][2].startswith("–")
    assert "Overall survival of the external patients by risk group (high: predicted non-responders)" in page.text
    share = "Sensitivity" if label else "Specificity"
    assert any(name.startswith(share) and cells[0].endswith("of 40") for name, cells in page.table("Share").items())


@pytest.mark.filterwarnings("error")
def test_page__of_few_patients_and_survival_alone(tmp_path: Path) -> None:
    assert "no labelled patients" in page_of(write_external(tmp_path / "a", external_rows(20, label=None))).text
    assert "E000" in page_of(write_external(tmp_path / "b", external_rows(1))).text


def test_page__without_a_threshold_calls_nobody(tmp_path: Path) -> None:
    page = page_of(write_external(tmp_path / "out", threshold=math.nan))
    assert "There is no threshold of the probability" in page.text
    assert not [table for table in page.tables if table[0][0] == "Share"]


def test_page__is_one_self_contained_document(tmp_path: Path) -> None:
    out = write_external(tmp_path / "out")
    text = report.write_report(out).read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "href" and value and value[0] == "#"}
    assert targets <= set(page.ids)
    drawn = {path.stem for path in (out / "report").glob("*.svg")}
    assert drawn <= {path.stem for path in (out / "report").glob("*.csv")}
    assert {"roc", "shift", "calibration", "decision", "survival-external-os", "stability"} <= drawn
    assert set(pd.read_csv(out / "report" / "roc.csv")["part"]) == {"test", "external"}
    assert read_run(out).development is not None


# --- the checklist ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("external", [True, False])
def test_checklist__names_every_item_and_sections_that_the_page_has(tmp_path: Path, external: bool) -> None:
    page = page_of(write_external(tmp_path / "out") if external else write_run(tmp_path / "out"))
    items = tripod.checklist(external=external)
    assert sorted({int("".join(filter(str.isdigit, item.number[:2]))) for item in items}) == list(range(1, 28))
    assert {item.section for item in items if item.section} <= set(page.ids)
    shown = page.table("TRIPOD+AI")
    assert [item.number for item in items] == list(shown)[1:]
    assert (shown["20c"][1].lower() == "comparisons") == external


def test_page__claims_of_whom_it_is_no_more_than_was_checked(tmp_path: Path) -> None:
    text = page_of(write_external(tmp_path / "out", external_rows(label=None))).text
    assert "of which no patient was used" not in text
    assert "that nobody is in both is checked by id, follow-up and items alone" in text
    assert "All patients of the cohort who are new to the model." in text
    assert "censored before the cut-off" not in text
    assert "Youden index on other patients of the run" in text


@pytest.mark.parametrize("external", [True, False])
def test_methods__stand_in_the_order_of_the_checklist(tmp_path: Path, external: bool) -> None:
    page = page_of(write_external(tmp_path / "out") if external else write_run(tmp_path / "out"))
    rows = next(t for t in page.tables if "Data" in t[0][0] and "5a" in t[0][0])
    numbers = " ".join(" ".join(row[0].split()).split(" ")[0].rstrip(",") for row in rows)
    assert numbers == "5a 6a 7 8a 9 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16"

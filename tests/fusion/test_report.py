"""The report of run folders, ordinary and degenerate, read back with an HTML parser."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_pages import Page, page_of
from runs import rows_of, write_run
from scipy import stats
from sklearn.metrics import roc_auc_score

from mumo.config import Settings
from mumo.errors import FitError
from mumo.fusion import checkpoint, crossfit, ensembles, report
from mumo.fusion.runfiles import read_run
from mumo.pages import rendering
from mumo.stores import tables
from mumo.stores.specs import CLINICAL, PREDICTIONS

SECTIONS = {
    "summary", "methods", "patients", "response", "survival", "metrics", "groups", "comparisons", "training", "each",
    "limits", "origin",
}  # fmt: skip


def sections(page: Page) -> set[str]:
    return SECTIONS & set(page.ids)


# --- the page as a document -------------------------------------------------------------------------------


def test_write_report__is_self_contained(tmp_path: Path) -> None:
    text = report.write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("http-equiv", "")
    assert not page.tags & {"img", "iframe", "object", "form", "base"}
    assert page.scripts == [rendering.SORTING]
    references = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert references
    assert all(value == "data:," or (value or "").startswith("#") for value in references)
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


def test_write_report__ids_are_unique_and_links_lead_somewhere(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert len(page.ids) == len(set(page.ids))
    targets = {value[1:] for _, name, value in page.attributes if name == "href" and value and value[0] == "#"}
    assert targets <= set(page.ids)
    assert sections(page) == SECTIONS


def test_write_report__is_the_same_for_the_same_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = report.write_report(run).read_bytes()
    assert report.write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report", "report.html"]


@pytest.mark.parametrize(("finished", "said"), [("2026-03-09T23:59:00+00:00", True), ("soon", False), (None, False)])
def test_write_report__says_when_the_run_was_finished(tmp_path: Path, finished: str | None, said: bool) -> None:
    page = page_of(write_run(tmp_path / "run", run={"status": "finished", "finished": finished}))
    assert ("Finished 9 March 2026." in page.text) is said
    assert ("Finished" in page.text) is said


def test_write_report__escapes_everything(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><b>"
    rows = rows_of(centre=evil, modalities=evil, patient=lambda i: f"{evil}{i}")
    facts = {evil: evil, "warnings": [evil], "deep": {evil: [evil]}}
    run = write_run(tmp_path / "run", rows, run=facts, config={evil: {evil: evil}}, split=None)
    text = report.write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert page.scripts == [rendering.SORTING]
    assert "b" not in page.tags
    assert f"{evil}2" in page.table("Patient")
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/someone/cohort/weights.safetensors", "…/weights.safetensors"),
        (r"C:\Users\someone\my weights.pth", "…/my weights.pth"),
        ("../someone/split.csv", "…/split.csv"),
        ("s3://someone/weights/", "…/weights"),
        ("anti-HER2+immunotherapy", "anti-HER2+immunotherapy"),
        ("3/40 slides have no tissue", "3/40 slides have no tissue"),
    ],
)
def test_write_report__shows_no_folders_of_source_files(tmp_path: Path, value: str, shown: str) -> None:
    page = page_of(write_run(tmp_path / "run", run={"weights": value}))
    assert page.table("weights")["weights"] == [shown]


def test_write_report__keeps_the_old_page_when_it_fails(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    before = report.write_report(run).read_bytes()
    (run / "metrics.json").write_text("{")
    with pytest.raises(FitError, match=r"metrics.json: expected JSON"):
        report.write_report(run)
    assert (run / "report.html").read_bytes() == before


# --- the numbers ------------------------------------------------------------------------------------------


def test_write_report__metrics_equal_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_of(120))
    parts = json.loads((run / "metrics.json").read_text())["parts"]
    table = page_of(run).table("Metric")
    assert table["Metric (95 % interval)"] == ["test", "validation chose weights and threshold", "train fitted"]
    for column, part in enumerate(("test", "validation", "train")):
        auc, ratio, p = parts[part]["auc"], parts[part]["os"]["hazard_ratio"], parts[part]["os"]["log_rank_p"]
        assert table["AUC"][column] == f"{auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})"
        expected = f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
        assert table["Hazard ratio high : low risk, OS"][column] == expected
        assert table["Log-rank p, OS"][column] == ("< 0.001" if p["value"] < 0.001 else f"{p['value']:.3f}")


def test_write_report__auc_equals_scikit_learn(tmp_path: Path) -> None:
    rows = [row for row in rows_of() if row["part"] == "test" and row["label"] is not None]
    expected = roc_auc_score([row["label"] for row in rows], [row["probability"] for row in rows])
    assert page_of(write_run(tmp_path / "run")).table("Metric")["AUC"][0].startswith(f"{expected:.3f} ")


def test_write_report__counts_patients_as_the_predictions_do(tmp_path: Path) -> None:
    rows = rows_of()
    table = page_of(write_run(tmp_path / "run", rows)).table("Part")
    chosen = [row for row in rows if row["part"] == "test"]
    events = sum(row["pfs_event"] for row in chosen)
    expected = [
        len(chosen),
        *(sum(row["label"] == label for row in chosen) for label in (1, 0, None)),
        *(sum(row["modalities"] == m for row in chosen) for m in ("both", "pathology", "radiology", "none")),
    ]
    assert table["test"][:8] == [str(count) for count in expected]
    assert table["test"][8] == f"{events} / {len(chosen)}"
    assert table["all"][0] == "24"


def test_write_report__lists_each_patient_of_the_predictions(tmp_path: Path) -> None:
    rows = rows_of()
    page = page_of(write_run(tmp_path / "run", rows))
    shown: dict[str, list[str]] = {}
    for table in page.tables:
        if table[0][0] == "Patient":
            shown |= {row[0]: row[1:] for row in table[1:]}
    names = {"both": "slides and CT", "pathology": "slides only", "radiology": "CT only", "none": "no imaging"}
    assert len(shown) == 24
    for row in rows:
        cells = shown[row["patient"]]
        assert cells[:3] == [row["centre"], names[row["modalities"]], f"{row['probability']:.3f}"]
        assert cells[3].split(" ×")[0] == ("response" if row["probability"] >= 0.5 else "no response")
        assert cells[4] == {1: "responder", 0: "non-responder", None: "unknown"}[row["label"]]
        wrong = row["label"] is not None and (row["probability"] >= 0.5) != bool(row["label"])
        assert cells[3].endswith("×") == wrong
        assert cells[6] == f"{row['pfs_days']:.0f}" + ("" if row["pfs_event"] else "+")


def test_write_report__marks_settings_that_are_not_at_their_default(tmp_path: Path) -> None:
    config = Settings().model_dump(mode="json")
    config["fit"]["epochs"] = 7
    text = page_of(write_run(tmp_path / "run", config=config)).text
    assert "Settings: fit (1 not at the default)" in text
    assert "Settings: model (" not in text


def test_write_report__shows_every_fact_of_the_run(tmp_path: Path) -> None:
    dropped = [f"column_{i}" for i in range(20)]
    facts = {"seed": 3, "omics_dropped": {"pathology": dropped, "radiology": []}, "empty": None, "many": {}}
    facts["codes"] = [{"name": f"item{i}", "classes": ["a", "b"]} for i in range(15)]
    page = page_of(write_run(tmp_path / "run", run=facts))
    table = page.table("seed")
    assert table["seed"] == ["3"]
    assert table["omics_dropped.radiology"] == ["none"]
    assert table["empty"] == ["none"]
    assert "20 values" in table["omics_dropped.pathology"][0]
    assert all(name in page.text for name in dropped)
    assert page.table("codes.0.name")["codes.14.classes"] == ["a, b"]


def test_write_report__every_figure_is_a_file_with_its_numbers(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_of(120))
    (run / "report").mkdir()
    (run / "report" / "old.svg").write_text("of an earlier report")
    text = report.write_report(run).read_text(encoding="utf-8")
    names = {path.stem for path in (run / "report").glob("*.svg")}
    assert names == {path.stem for path in (run / "report").glob("*.csv")}
    assert names >= {"roc", "calibration", "decision", "stability", "probability", "survival-test-os", "learning-loss"}
    assert "old" not in names
    for name in names:
        assert (run / "report" / f"{name}.svg").read_text(encoding="utf-8") in text


def test_write_report__numbers_of_the_figures_are_those_of_the_run(tmp_path: Path) -> None:
    rows = rows_of(120)
    run = write_run(tmp_path / "run", rows)
    report.write_report(run)
    known = [row for row in rows if row["part"] == "test" and row["label"] is not None]
    roc = pd.read_csv(run / "report" / "roc.csv").query("part == 'test'")
    area = np.trapezoid(roc["sensitivity"], 1 - roc["specificity"])
    assert area == pytest.approx(roc_auc_score([r["label"] for r in known], [r["probability"] for r in known]))
    bins = pd.read_csv(run / "report" / "calibration.csv")
    assert bins["patients"].sum() == len(known)
    assert (bins["observed"] * bins["patients"]).sum() == pytest.approx(sum(r["label"] for r in known))
    curve = pd.read_csv(run / "report" / "survival-test-os.csv")
    assert curve.groupby("risk")["at_risk"].first().sum() == sum(r["part"] == "test" for r in rows)


def test_write_report__metrics_by_centre_equal_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", rows_of(120))
    found = json.loads((run / "metrics.json").read_text())["parts"]["test"]["centres"]
    rows = next(t for t in page_of(run).tables if t[0][0] == "Centre" and "AUC" in t[0])
    assert [row[0] for row in rows[1:]] == ["north", "south"]
    for row in rows[1:]:
        assert " ".join(row[2].split()).startswith(f"{found[row[0]]['auc']['value']:.3f} ")


def clinical_rows(rows: list[Any]) -> list[dict[str, Any]]:
    """Sex, ages and a report item of every other patient."""
    made = []
    for i, row in enumerate(rows):
        for group, item, classes, code, value in (
            ("patient_information", "sex", ["male", "female"], [float(i % 3 == 0), float(i % 3 != 0)], None),
            ("radiology_report", "peritoneal_metastasis", ["no", "yes"], [float(i % 2), 0.0], None),
            ("measures", "age", [], [], 40.0 + i),
        ):
            made.append({"patient": row["patient"], "group": group, "item": item, "classes": classes, "code": code})
            made[-1] |= {"unit": "years" if value else "", "value": value}
    return made


def test_write_report__describes_patients_and_risk_groups_by_what_is_known(tmp_path: Path) -> None:
    rows = rows_of(60)
    run = write_run(tmp_path / "run", rows)
    tables.write_table(run / "clinical.parquet", clinical_rows(rows), CLINICAL)
    page = page_of(run)
    parts, groups = (t for t in page.tables if t[0][0] == "Item")
    assert [" ".join(cell.split()) for cell in parts[0]][1:3] == ["all n = 60", "test n = 20"]
    lines = {" ".join(row[0].split()): row[1:] for row in parts}
    assert lines["male"][0] == "20 (33 %)"
    assert lines["peritoneal metastasis"][0] == "0 (0 %)"
    names = [" ".join(row[0].split()) for row in parts]
    assert parts[names.index("peritoneal metastasis") + 1][:2] == ["unknown", "30"]
    ages = np.array([40.0 + i for i, row in enumerate(rows) if row["part"] == "test"])
    middle = np.median(ages)
    assert lines["age, years: median (quartiles)"][1].startswith(f"{middle:.0f} (")
    high_risk = np.array([row["probability"] < 0.5 for row in rows if row["part"] == "test"])
    expected = stats.mannwhitneyu(ages[~high_risk], ages[high_risk]).pvalue
    found = {" ".join(row[0].split()): row[-1] for row in groups}
    assert found["age, years: median (quartiles)"].strip() == f"{expected:.3f}"
    missing = pd.read_csv(run / "report" / "missingness.csv")
    assert missing["peritoneal_metastasis"].sum() == 30
    assert "age" not in missing


def test_write_report__shows_baselines_and_leaves_out_those_of_another_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run")
    area = json.loads((run / "metrics.json").read_text())["parts"]["test"]["auc"]["value"]
    (run / "baselines").mkdir()
    row = {"part": "test", "auc_low": 0.1, "auc_high": 0.9, "auc_spread": 0.05}
    rows = [row | {"predictor": "mumo", "auc": area}, row | {"predictor": "late-fusion", "auc": 0.5, "p": 0.0421}]
    (run / "baselines" / "comparison.json").write_text(json.dumps(rows))
    table = page_of(run).table("Predictor")
    assert table["late-fusion"][0] == "0.500 (0.100–0.900)"
    assert table["late-fusion"][4] == "0.042"
    rows[0]["auc"] = area + 0.1
    (run / "baselines" / "comparison.json").write_text(json.dumps(rows))
    assert "late-fusion" not in page_of(run).text
    assert "run `mumo baselines` again" in caplog.text


# --- what is held out -------------------------------------------------------------------------------------


def test_write_report__takes_the_test_part_as_held_out(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run")).text
    assert "those of the test patients" in text
    assert "optimistic" not in text
    assert "Youden index on the validation patients, then frozen" in text


def test_write_report__says_that_validation_chose_the_weights(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", rows_of(parts=("train", "validation")))).text
    assert "Nobody was held out from everything. The figures below are those of the validation patients" in text
    assert "figures that count" not in text
    assert "figures are optimistic" in text
    assert "Youden index on the training patients, then frozen" in text


def test_write_report__works_for_external_predictions_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "out", rows_of(parts=("external",)), config=None, run=None, history=None, split=None)
    text = page_of(run).text
    assert "those of the external patients" in text
    assert "does not say how it was made" in text
    assert "no record of epochs" in text


def folds_run(folder: Path) -> Path:
    """A run over two folds, whose thresholds part the patients differently."""
    rows = rows_of(40, parts=("test",))
    fold_of = {row["patient"]: "ab"[i % 3 == 0] for i, row in enumerate(rows)}
    info = {"status": "finished", "kind": "ensemble", "folds": 2, "seeds": 1, "members": ["fold-1", "fold-2"]}
    run = write_run(folder, rows, run=info, split=None)
    frame = tables.read_table(run / "predictions.parquet", PREDICTIONS).to_pandas()
    found = crossfit.evaluate_pooled(frame, {"a": 0.2, "b": 0.8}, fold_of, Settings())
    areas = {"0": 0.7, "1": 0.8}
    found["spread"] = {"part": "test", "auc_of_seeds": areas, "seeds": ensembles.summary(list(areas.values()))}
    checkpoint.write_json(run / "metrics.json", found)
    lines = [f"{patient},{fold}" for patient, fold in fold_of.items()]
    (run / "folds.csv").write_text("\n".join(["patient,fold", *lines]) + "\n")
    (run / "history.jsonl").unlink()
    for name, areas in (("fold-1", (0.5, 0.7, 0.6)), ("fold-2", (0.6, 0.9))):  # the second one stopped early
        (run / "members" / name).mkdir(parents=True)
        history = [{"epoch": e, "train": {"loss": 3.0 - e}, "validation": {"auc": a}} for e, a in enumerate(areas, 1)]
        text = "".join(json.dumps(line) + "\n" for line in history)
        (run / "members" / name / "history.jsonl").write_text(text)
    return run


def test_write_report__of_folds_uses_the_threshold_of_each_fold(tmp_path: Path) -> None:
    run = folds_run(tmp_path / "run")
    page = page_of(run)
    assert "2 folds by patient, 1 training(s) each" in page.text
    assert "each fold’s own threshold" in page.text
    assert "lack one of the two labels" not in page.text
    files = read_run(run)
    frame = files.predictions
    fold_of = pd.read_csv(run / "folds.csv").set_index("patient")["fold"]
    own = frame["patient"].map(fold_of).map({"a": 0.2, "b": 0.8})
    assert files.calls.tolist() == (frame["probability"] >= own).astype(float).tolist()
    curve = pd.read_csv(run / "report" / "survival-test-os.csv")
    high = (files.calls == 0).sum()
    assert curve[curve["risk"] == "high"]["at_risk"].iloc[0] == high
    assert json.loads((run / "metrics.json").read_text())["parts"]["test"]["os"]["groups"]["high"]["patients"] == high
    assert (run / "report" / "calibration.svg").exists()


def test_write_report__of_folds_shows_each_fold_and_the_spread_between_seeds(tmp_path: Path) -> None:
    text = page_of(folds_run(tmp_path / "run")).text
    assert "AUC of pairs within a fold" in text
    assert "Spread of the AUC, test patients" in text
    assert "0.750" in text  # mean of the seeds
    assert "By imaging and centre and fold, test patients" in text
    assert "every patient, predicted out of fold" in text
    assert "its own folder below members" in text
    assert "pulls the pooled AUC down" in text


def test_write_report__of_an_ensemble_has_learning_curves_of_its_members(tmp_path: Path) -> None:
    run = folds_run(tmp_path / "run")
    assert "Means over 2 trainings; bands: lowest to highest." in page_of(run).text
    found = pd.read_csv(run / "report" / "learning-validation.csv").set_index("epoch")
    assert found["AUC"].tolist() == pytest.approx([0.55, 0.8, 0.6])
    assert found["AUC, lowest"].tolist() == pytest.approx([0.5, 0.7, 0.6])
    assert found["AUC, highest"].tolist() == pytest.approx([0.6, 0.9, 0.6])


def test_write_report__of_folds_without_everybodys_fold_is_refused(tmp_path: Path) -> None:
    run = folds_run(tmp_path / "run")
    (run / "folds.csv").write_text("patient,fold\nP000,a\n")
    with pytest.raises(FitError, match=r"expected the fold of every patient, found none for \['P001'"):
        report.write_report(run)


def test_write_report__of_one_model_says_nothing_of_folds_and_seeds(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run")).text
    assert "within a fold" not in text
    assert "Spread of the AUC" not in text


# --- ablations --------------------------------------------------------------------------------------------


def write_ablations(folder: Path, digest: str, split: dict[str, str]) -> Path:
    rows = [
        {"ablation": "full", "part": "test", "patients": 8, "labelled": 7, "auc": 0.71, "auc_low": 0.5, "auc_high": 0.9,
         "auc_seeds_sd": 0.02, "c_index": 0.612, "difference": None, "difference_low": None, "difference_high": None,
         "p": None},
        {"ablation": "no-reports", "part": "test", "patients": 8, "labelled": 7, "auc": 0.66, "auc_low": 0.4,
         "auc_high": 0.8, "auc_seeds_sd": 0.03, "c_index": 0.587, "difference": -0.05, "difference_low": -0.2,
         "difference_high": 0.1, "p": 0.43},
    ]  # fmt: skip
    member = folder / "members" / "full-seed-0"
    member.mkdir(parents=True)
    (folder / "ablations.json").write_text(json.dumps(rows))
    info = {"store_digest": digest, "members": ["full-seed-0", "full-seed-1", "no-reports-seed-0"]}
    (folder / "run.json").write_text(json.dumps(info))
    (member / "split.csv").write_text("\n".join(["patient,part", *(f"{p},{part}" for p, part in split.items())]) + "\n")
    return folder


def test_write_report__shows_ablations_of_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run={"status": "finished", "store_digest": "d"})
    split = read_run(run).split
    write_ablations(run / "ablations", "d", split)
    text = page_of(run).text
    assert "Ablations, test patients" in text
    assert "2 trainings, predictions averaged, 7 labelled of 8 patients, the split of this run" in text
    assert "no reports 0.660 (0.400–0.800) 0.030 0.587 −0.050 (−0.200 to 0.100) 0.430" in text


def test_write_report__says_when_ablations_were_trained_with_other_settings(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run={"status": "finished", "store_digest": "d"})
    folder = write_ablations(run / "ablations", "d", read_run(run).split)
    config = Settings().model_dump(mode="json")
    for epochs, bootstrap, said in ((100, 200, False), (4, 2000, True)):
        config["fit"] |= {"epochs": epochs, "bootstrap": bootstrap, "survival_endpoint": "os"}
        (folder / "members" / "full-seed-0" / "config.json").write_text(json.dumps(config))
        page = page_of(run)
        assert ("the split of this run, but other settings, so compare rows with each other" in page.text) is said
        assert page.table("Model")["Model"][2] == "C-index, OS"


def test_write_report__shows_ablations_of_a_folder_and_says_that_the_split_is_another(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run={"status": "finished", "store_digest": "d"})
    folder = write_ablations(tmp_path / "apart", "d", {"P000": "train"})
    text = page_of(run, folder).text
    assert "Ablations, test patients" in text
    assert "on a split of their own" in text


def test_write_report__refuses_a_folder_of_ablations_of_another_store(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", run={"status": "finished", "store_digest": "d"})
    folder = write_ablations(tmp_path / "apart", "e", {})
    with pytest.raises(FitError, match="ablations are of another store than the run"):
        report.write_report(run, folder)
    with pytest.raises(FitError, match=r"expected ablations\.json, found none"):
        report.write_report(run, tmp_path)


def test_write_report__leaves_out_ablations_of_an_earlier_store(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(tmp_path / "run", run={"status": "finished", "store_digest": "d"})
    write_ablations(run / "ablations", "e", {})
    assert "Ablations, test patients" not in page_of(run).text
    assert "ablations are of another store and left out" in caplog.text


# --- other annotators -------------------------------------------------------------------------------------


def write_robustness(run: Path, rows: list[Any], *, weights: bytes = b"weights") -> dict[str, Any]:
    """What `mumo robustness` leaves: three annotators, of whom the second moves the first test patient's call."""
    (run / "model.safetensors").write_bytes(b"weights")
    (run / "robustness").mkdir()
    test = [row for row in rows if row["part"] == "test"]
    estimate = {"value": 0.7, "low": 0.5, "high": 0.85, "method": "bootstrap", "reason": ""}
    summary = {
        "seed": 0, "share": 0.05, "slides_moved": 11, "lesions_moved": 7, "left_as_drawn": 3, "parts": ["test"],
        "models": [hashlib.sha256(weights).hexdigest()], "patients": len(test), "labelled": 6, "touched": 2,
        "calls_changed": 1, "risk_icc": 0.91, "risk_sd": {"median": 0.021, "most": 0.34},
        "probability_sd": {"median": 0.012, "most": 0.056},
        "auc": {name: {**estimate, "value": value} for name, value in (("as drawn", 0.7), ("annotator-1", 0.65))},
    }  # fmt: skip
    (run / "robustness" / "summary.json").write_text(json.dumps(summary))
    table = [
        {"patient": row["patient"], "annotator": name, "part": row["part"], "touched": i < 2, "label": row["label"],
         "probability": row["probability"] / (1 + number), "risk": row["risk"], "call": 1.0}
        for i, row in enumerate([*test, *(row for row in rows if row["part"] == "train")])
        for number, name in enumerate(("as drawn", "annotator-1", "annotator-2"))
    ]  # fmt: skip
    pd.DataFrame(table).to_csv(run / "robustness" / "patients.csv", index=False)
    return summary


def test_write_report__shows_how_much_predictions_depend_on_the_annotator(tmp_path: Path) -> None:
    rows = rows_of(60)
    run = write_run(tmp_path / "run", rows)
    summary = write_robustness(run, rows)
    page = page_of(run)
    text = page.text
    assert "Other annotators, test patients" in text
    assert "Outlines of 11 slides and boxes of 7 lesions were moved at random, by 5 % of their size" in text
    assert f"2 of {summary['patients']} patients are touched; 3 masks and label images were left as drawn" in text
    assert "probability varies by 0.012 (median standard deviation; most 0.056), the risk by 0.021 (most 0.340)" in text
    assert "intraclass correlation of the risk 0.91" in text
    assert "The call changes in 1 of them" in text
    table = page.table("Annotator")
    assert table["Annotator"] == ["AUC of 6 labelled"]
    assert table["as drawn"] == ["0.700 (0.500–0.850)"]
    assert table["annotator-1"] == ["0.650 (0.500–0.850)"]
    assert "Nothing to compare with yet" not in text


def test_write_report__the_annotators_figure_has_the_touched_patients_that_count(tmp_path: Path) -> None:
    rows = rows_of(60)
    run = write_run(tmp_path / "run", rows)
    write_robustness(run, rows)
    text = report.write_report(run).read_text(encoding="utf-8")
    assert (run / "report" / "annotators.svg").read_text(encoding="utf-8") in text
    numbers = pd.read_csv(run / "report" / "annotators.csv")
    touched = [row for row in rows if row["part"] == "test"][:2]
    assert list(numbers.columns) == ["patient", "as drawn", "annotator-1", "annotator-2"]
    assert set(numbers["patient"]) == {row["patient"] for row in touched}
    assert numbers["as drawn"].is_monotonic_increasing
    own = numbers.set_index("patient")
    for row in touched:
        assert own.loc[row["patient"]].tolist() == pytest.approx([row["probability"] / n for n in (1, 2, 3)])


def test_write_report__leaves_out_annotators_of_an_earlier_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = rows_of(60)
    run = write_run(tmp_path / "run", rows)
    write_robustness(run, rows, weights=b"other weights")
    assert "Other annotators" not in page_of(run).text
    assert "robustness/summary.json is of another run and left out" in caplog.text


def test_write_report__names_only_predictors_that_somebody_has(tmp_path: Path) -> None:
    assert "Deep features of slides and CT" in page_of(write_run(tmp_path / "both")).text
    assert "Deep features of CT," in page_of(write_run(tmp_path / "ct", rows_of(modalities="radiology"))).text
    assert "Deep features" not in page_of(write_run(tmp_path / "none", rows_of(modalities="none"))).text


def test_write_report__says_that_nobody_was_held_out(tmp_path: Path) -> None:
    assert "No part was held out" in page_of(write_run(tmp_path / "run", rows_of(parts=("train",)))).text


def test_write_report__says_on_how_many_held_out_patients_windows_were_fitted(tmp_path: Path) -> None:
    said = "windows of the CT were fitted on lesions of 5 of the test patients, too"
    facts = {"status": "finished", "windows_fitted_on": {"train": 7, "test": 5}}
    assert said in page_of(write_run(tmp_path / "run", run=facts)).text
    for fitted in ({"train": 7}, {}):
        run = write_run(tmp_path / f"other{len(fitted)}", run={"status": "finished", "windows_fitted_on": fitted})
        assert "windows of the CT were fitted" not in page_of(run).text


def test_methods__say_what_was_done_and_not_what_was_asked_for(tmp_path: Path) -> None:
    config = Settings().model_dump(mode="json")
    config["fit"]["split"]["file"] = "/data/someone/by-year.csv"
    rows = rows_of()
    run = write_run(tmp_path / "run", rows, config=config, run={"epochs": 12, "selected_epochs": [3, 1]})
    evaluated = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").write_text(json.dumps(evaluated | {"chosen_on": {"threshold": "validation"}}))
    page = page_of(run)
    assert "By patient, as the file …/by-year.csv says." in page.text
    assert "stratified by label" not in page.text
    assert "someone" not in page.text
    assert "12 epochs of Adam" in page.text
    assert "the weights of the 2 epochs with the highest AUC (then the lowest loss)" in page.text
    assert "Threshold of the call: Youden index on the validation patients, then frozen" in page.text
    none = page_of(write_run(tmp_path / "none", threshold=math.nan)).text
    assert "No call: the patients who choose the threshold lack one of the two labels." in none
    assert "Threshold of the call" not in none


def test_methods__count_events_as_the_table_of_patients_does(tmp_path: Path) -> None:
    rows = rows_of(pfs_event=True, pfs_days=lambda i: None if i % 2 else 10.0 + i, os_event=True)
    page = page_of(write_run(tmp_path / "run", rows))
    assert page.table("Part")["all"][-2:] == ["12 / 12", "24 / 24"]
    assert "12 events of progression-free survival; 24 events of overall survival" in page.text


def test_write_report__marks_small_counts_of_single_classes(tmp_path: Path) -> None:
    rows = rows_of(120)
    run = write_run(tmp_path / "run", rows)
    sites = [
        {"patient": row["patient"], "group": "patient_information", "item": "disease_sites", "unit": "", "value": None,
         "classes": ["many", "others", "few"], "code": [float(i % 2), float(i % 2 == 0), float(i % 40 == 0)]}
        for i, row in enumerate(rows)
    ]  # fmt: skip
    tables.write_table(run / "clinical.parquet", sites, CLINICAL)
    parts = next(t for t in page_of(run).tables if t[0][0] == "Item")
    p = {" ".join(row[0].split()): row[-1].strip() for row in parts}
    assert p["few"].endswith("*")
    assert not p["many"].endswith("*")


# --- degenerate runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (rows_of(label=1), "only responders among the labelled patients"),
        (rows_of(label=None), "no labelled patients"),
        (rows_of(pfs_event=False, os_event=False), "no events"),
        (rows_of(pfs_days=None, pfs_event=None), "no known time"),
        (rows_of(probability=0.9), "nobody is in the high-risk group"),
        (rows_of(probability=0.9), "Nobody at high risk."),
        (rows_of(1, parts=("test",)), "P000"),
        (rows_of(3), "P002"),
        (rows_of(modalities="both+genes"), "both+genes"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_write_report__survives_degenerate_predictions(tmp_path: Path, rows: list[Any], says: str) -> None:
    page = page_of(write_run(tmp_path / "run", rows))
    assert says in page.text
    assert sections(page) == SECTIONS
    assert "nan" not in page.text.lower().split()


def test_write_report__survives_a_missing_threshold(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", threshold=math.nan))
    assert "There is no threshold" in page.text
    assert page.table("Metric")["Sensitivity"] == ["– there is no threshold"] * 3


def test_write_report__survives_empty_history_and_unknown_facts(tmp_path: Path) -> None:
    nothing = [{"epoch": 1, "train": None, "validation": {"loss": None}}]
    page = page_of(write_run(tmp_path / "run", history=nothing, run={"selected_epochs": None, "new": [1.5, None]}))
    assert "no record of epochs" in page.text
    assert page.table("selected_epochs")["new"] == ["1.5, none"]


def test_write_report__names_patients_of_the_split_without_predictions(tmp_path: Path) -> None:
    split = {row["patient"]: row["part"] for row in rows_of()} | {"P999": "train"}
    assert "1 patients of the split have no prediction: P999" in page_of(write_run(tmp_path / "run", split=split)).text


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["predictions.parquet", "metrics.json"])
def test_read_run__names_a_missing_file(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).unlink()
    with pytest.raises(FitError, match=f"expected {name}, found none"):
        read_run(run)


@pytest.mark.parametrize("status", ["running", "failed"])
def test_read_run__refuses_an_unfinished_run(tmp_path: Path, status: str) -> None:
    with pytest.raises(FitError, match=f"expected a finished run, run.json says '{status}'"):
        read_run(write_run(tmp_path / "run", run={"status": status}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.json", "[1]", "expected a JSON object, found list"),
        ("metrics.json", "{}", r"expected \['confidence', 'parts', 'threshold'\]"),
        ("history.jsonl", '{"epoch": 1}\n{"epo', "history.jsonl: line 2: expected JSON"),
        ("history.jsonl", "[]\n", "history.jsonl: line 1: expected an object"),
        ("split.csv", "id,fold\n", "expected columns patient and part"),
        ("split.csv", "", "split.csv: cannot be read"),
    ],
)
def test_read_run__names_a_broken_file(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = write_run(tmp_path / "run")
    (run / name).write_text(content)
    with pytest.raises(FitError, match=message):
        read_run(run)


def test_read_run__refuses_metrics_of_another_run(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other", rows_of(probability=lambda i: i / 24))
    (run / "metrics.json").write_bytes((other / "metrics.json").read_bytes())
    with pytest.raises(FitError, match="files are of different runs"):
        read_run(run)


def test_read_run__refuses_metrics_of_other_parts(tmp_path: Path) -> None:
    run, other = write_run(tmp_path / "run"), write_run(tmp_path / "other", rows_of(parts=("train", "validation")))
    (run / "metrics.json").write_bytes((other / "metrics.json").read_bytes())
    with pytest.raises(FitError, match=r"metrics.json has the parts \['train', 'validation'\]"):
        read_run(run)


def test_read_run__refuses_a_split_of_another_run(tmp_path: Path) -> None:
    split = {row["patient"]: "train" for row in rows_of()}
    with pytest.raises(FitError, match=r"patient P001 is in train by split.csv and in validation by predictions"):
        read_run(write_run(tmp_path / "run", split=split))


def test_write_report__names_a_metric_that_is_not_in_the_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    content = json.loads((run / "metrics.json").read_text())
    del content["parts"]["test"]["pfs"]["c_index"]
    (run / "metrics.json").write_text(json.dumps(content))
    with pytest.raises(FitError, match=r"expected pfs.c_index in each part"):
        report.write_report(run)


@pytest.mark.parametrize(("weights", "said"), [("random:0", True), ("imagenet", False), ("random.safetensors", False)])
def test_write_report__says_where_the_network_has_learnt_nothing(tmp_path: Path, weights: str, said: bool) -> None:
    text = page_of(write_run(tmp_path / "run", run={"status": "finished", "weights": weights})).text
    assert ("A trial: the network behind the deep features of slides and CT" in text) is said
    assert ("had its weights drawn at random (setting embed.weights)" in text) is said

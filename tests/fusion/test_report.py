"""The report of run folders, ordinary and degenerate, read back with an HTML parser."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mumo.config import Settings
from mumo.errors import FitError
from mumo.fusion import metrics, report
from mumo.fusion.runfiles import read_run
from mumo.stores import tables
from mumo.stores.specs import PREDICTIONS

VOID = {"meta", "link", "br", "wbr", "hr", "img", "input"}


class Page(HTMLParser):
    """Text, tables, ids, attributes and unbalanced tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tags: set[str] = set()
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "br":
            self.handle_data(" ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if {"td", "th"} & set(self.open) and "tr" in self.open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def table(self, corner: str) -> dict[str, list[str]]:
        """Rows of the first table with this first cell: first cell → the others."""
        rows = next(t for t in self.tables if " ".join(t[0][0].split()).startswith(corner))
        return {" ".join(row[0].split()): [" ".join(cell.split()) for cell in row[1:]] for row in rows}


def rows_of(size: int = 24, parts: tuple[str, ...] = ("train", "validation", "test"), **columns: Any) -> list[Any]:
    generator = np.random.default_rng(0)
    rows = []
    for i in range(size):
        probability = float(generator.random())
        row = {
            "patient": f"P{i:03d}",
            "centre": ("north", "south")[i % 2],
            "part": parts[i % len(parts)],
            "modalities": ("both", "pathology", "radiology", "none")[i % 4],
            "probability": probability,
            "risk": float(-probability + 0.3 * generator.normal()),
            "label": None if i % 8 == 7 else int(probability + 0.4 * generator.normal() > 0.5),
            "pfs_days": float(generator.integers(20, 800)),
            "pfs_event": bool(generator.random() < 0.7),
            "os_days": float(generator.integers(100, 1500)),
            "os_event": bool(generator.random() < 0.5),
        }
        rows.append(row | {name: value(i) if callable(value) else value for name, value in columns.items()})
    return rows


def write_run(folder: Path, /, rows: list[Any] | None = None, *, threshold: float = 0.5, **files: Any) -> Path:
    """A run folder; `files` replaces the content of a file (by its stem), None leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of() if rows is None else rows
    tables.write_table(folder / "predictions.parquet", rows, PREDICTIONS)
    frame = tables.read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas()
    epoch = {"seconds": 0.1, "lambda": 0.1, "validation": {"loss": 2.0, "auc": 0.6, "c_index": 0.55}}
    terms = {"loss": 2.5, "response": 0.2, "survival": 2.2, "alignment": None, "auxiliary": 1.0}
    content: dict[str, Any] = {
        "metrics": metrics.evaluate(frame, threshold=threshold, replicates=100, seed=0),
        "config": Settings().model_dump(mode="json"),
        "run": {"status": "finished", "mumo_version": "0.1.0", "device": "cpu", "selected_epochs": [2, 3]},
        "history": [epoch | {"epoch": e, "train": terms} for e in (1, 2, 3)],
        "split": {row["patient"]: row["part"] for row in rows},
    } | files
    for stem in ("metrics", "config", "run"):
        if content[stem] is not None:
            (folder / f"{stem}.json").write_text(json.dumps(content[stem], allow_nan=False))
    if content["history"] is not None:
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content["history"]))
    if content["split"] is not None:
        lines = [f"{patient},{part}" for patient, part in content["split"].items()]
        (folder / "split.csv").write_text("\n".join(["patient,part", *lines]) + "\n")
    return folder


def page_of(run: Path) -> Page:
    return Page(report.write_report(run).read_text(encoding="utf-8"))


def sections(page: Page) -> set[str]:
    return {"summary", "patients", "response", "survival", "metrics", "training", "each", "origin"} & set(page.ids)


# --- the page as a document -------------------------------------------------------------------------------


def test_write_report__is_self_contained(tmp_path: Path) -> None:
    text = report.write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    page = Page(text)
    assert "http" not in re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text).replace("http-equiv", "")
    assert not page.tags & {"script", "img", "iframe", "object", "form", "base"}
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
    assert len(sections(page)) == 8


def test_write_report__is_the_same_for_the_same_files(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    first = report.write_report(run).read_bytes()
    assert report.write_report(run).read_bytes() == first
    assert sorted(path.name for path in run.iterdir() if "report" in path.name) == ["report.html"]


def test_write_report__escapes_everything(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'><b>"
    rows = rows_of(centre=evil, modalities=evil, patient=lambda i: f"{evil}{i}")
    facts = {evil: evil, "warnings": [evil], "deep": {evil: [evil]}}
    run = write_run(tmp_path / "run", rows, run=facts, config={evil: {evil: evil}}, split=None)
    text = report.write_report(run).read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "b"}
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


# --- what is held out -------------------------------------------------------------------------------------


def test_write_report__takes_the_test_part_as_held_out(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run")).text
    assert "those of the test patients" in text
    assert "optimistic" not in text
    assert "Youden index on the validation patients, then frozen" in text


def test_write_report__says_that_validation_chose_the_weights(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "run", rows_of(parts=("train", "validation")))).text
    assert "those of the validation patients" in text
    assert "figures are optimistic" in text
    assert "Youden index on the training patients, then frozen" in text


def test_write_report__works_for_external_predictions_alone(tmp_path: Path) -> None:
    run = write_run(tmp_path / "out", rows_of(parts=("external",)), config=None, run=None, history=None, split=None)
    text = page_of(run).text
    assert "those of the external patients" in text
    assert "does not say how it was made" in text
    assert "no record of epochs" in text


def test_write_report__says_that_nobody_was_held_out(tmp_path: Path) -> None:
    assert "No part was held out" in page_of(write_run(tmp_path / "run", rows_of(parts=("train",)))).text


# --- degenerate runs --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (rows_of(label=1), "only responders among the labelled patients"),
        (rows_of(label=None), "no labelled patients"),
        (rows_of(pfs_event=False, os_event=False), "no events"),
        (rows_of(pfs_days=None, pfs_event=None), "no known time"),
        (rows_of(probability=0.9), "nobody is in the high-risk group"),
        (rows_of(1, parts=("test",)), "P000"),
        (rows_of(3), "P002"),
        (rows_of(modalities="both+genes"), "both+genes"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_write_report__survives_degenerate_predictions(tmp_path: Path, rows: list[Any], says: str) -> None:
    page = page_of(write_run(tmp_path / "run", rows))
    assert says in page.text
    assert len(sections(page)) == 8
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

"""Readers against a run: counts by hand, and each way in which a table can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mumo.errors import FitError
from mumo.fusion import metrics
from mumo.fusion.comparison import paired_delong
from mumo.fusion.readers import compare_readers
from mumo.stores import tables
from mumo.stores.specs import PREDICTIONS

LABELS = [1, 1, 1, 0, 0, 0, 1, 0, None, 1]
PROBABILITY = [0.9, 0.8, 0.4, 0.3, 0.6, 0.1, 0.7, 0.2, 0.5, 0.55]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Ten test patients, T0 to T9, the last but one without a label, and one training patient."""
    rows: list[dict[str, Any]] = []
    for number, (label, probability) in enumerate(zip([*LABELS, 1], [*PROBABILITY, 0.9], strict=True)):
        row: dict[str, Any] = dict.fromkeys(("pfs_days", "pfs_event", "os_days", "os_event"))
        row |= {"patient": f"T{number}", "centre": "A", "part": "test" if number < 10 else "train", "label": label}
        rows.append(row | {"modalities": "both", "probability": probability, "risk": -probability})
    folder = tmp_path / "run"
    folder.mkdir()
    tables.write_table(folder / "predictions.parquet", rows, PREDICTIONS)
    frame = tables.read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas()
    evaluated = metrics.evaluate(frame, threshold=0.5, replicates=200, seed=0)
    (folder / "metrics.json").write_text(json.dumps(evaluated))
    return folder


def write(folder: Path, *lines: str, head: str = "patient,reader,call") -> Path:
    file = folder / "table.csv"
    file.write_text("\n".join([head, *lines]) + "\n")
    return file


def test_compare_readers__calls_equal_counts_by_hand(run: Path, tmp_path: Path) -> None:
    calls = [1, 0, 0, 0, 0, 1, 1, 0, 1, 1]  # two of five responders missed, one of four others called
    table = write(tmp_path, *(f"T{i},Ann,{call}" for i, call in enumerate(calls)))
    (ann,) = compare_readers(run, table, tmp_path / "out")
    found = ann["calls"]
    assert (ann["patients"], ann["responders"], ann["kind"]) == (9, 5, "call")
    assert found["sensitivity"]["reader"]["value"] == pytest.approx(3 / 5)
    assert found["specificity"]["reader"]["value"] == pytest.approx(3 / 4)
    assert found["sensitivity"]["model"]["value"] == pytest.approx(4 / 5)
    assert found["sensitivity"]["mcnemar"]["difference"]["value"] == pytest.approx(1 / 5)
    assert found["sensitivity"]["mcnemar"]["p"] == 1.0  # one discordant patient
    known = [i for i in range(10) if LABELS[i] is not None]
    expected = roc_auc_score([LABELS[i] for i in known], [calls[i] for i in known])
    assert ann["auc"]["value"] == pytest.approx(expected)
    assert ann["delong"] == paired_delong(LABELS, PROBABILITY, calls).as_json()
    assert set(ann["auc_spread"]) == {"reader", "model"}
    assert ann["levene_p"]["value"] is not None


def test_compare_readers__is_on_the_patients_that_each_judged(run: Path, tmp_path: Path) -> None:
    lines = [
        "T0,Ann,yes",
        "T1,Ann,no",
        "T3,Ann,no",
        "T4,Ann,no",
        "T10,Ann,yes",
        "T0,Ben,response",
        "T8,Ben,no response",
    ]
    ann, ben = compare_readers(run, write(tmp_path, *lines), tmp_path / "out")
    assert (ann["patients"], ann["responders"]) == (4, 2)  # T10 is a training patient
    assert ann["model_auc"]["value"] == 1.0
    assert (ben["patients"], ben["auc"]["value"]) == (1, None)
    assert "only responders" in ben["auc"]["reason"]


def test_compare_readers__scores_are_compared_by_rank(run: Path, tmp_path: Path) -> None:
    scores = np.arange(10)
    table = write(tmp_path, *(f"T{i},Ann,{score}" for i, score in enumerate(scores)), head="patient,reader,score")
    (ann,) = compare_readers(run, table, tmp_path / "out")
    assert ann["kind"] == "score"
    assert "calls" not in ann
    assert ann["delong"] == paired_delong(LABELS, PROBABILITY, scores).as_json()


def test_compare_readers__writes_a_table_and_a_figure(run: Path, tmp_path: Path) -> None:
    compare_readers(run, write(tmp_path, *(f"T{i},Ann,{i % 2}" for i in range(10))), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "readers.csv")
    assert table["reader"].tolist() == ["Ann"]
    assert {"auc", "delong_p", "levene_p", "reader_sensitivity", "sensitivity_mcnemar_p"} <= set(table.columns)
    assert "Ann" in (tmp_path / "out" / "roc.svg").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "out" / "readers.json").read_text())
    assert content["part"] == "test"
    assert not math.isnan(content["readers"][0]["auc"]["value"])


@pytest.mark.parametrize(
    ("lines", "head", "message"),
    [
        (["T0,Ann,maybe"], "patient,reader,call", r"row 2: column call: expected 1 or 0, yes or no.*found 'maybe'"),
        (["T0,Ann,high"], "patient,reader,score", r"column score: expected a number, found 'high'"),
        (["T0,Ann,inf"], "patient,reader,score", r"expected a number, found 'inf'"),
        (["X9,Ann,1"], "patient,reader,call", r"expected patients of the run, found \['X9'\]"),
        (["T0,Ann,1", "T0,Ann,0"], "patient,reader,call", "Ann judges patient T0 more than once"),
        (["T10,Ann,1"], "patient,reader,call", "Ann judges no patient of the held-out part"),
        (["T0,1"], "patient,call", "expected the columns patient, reader, and call or score"),
    ],
)
def test_compare_readers__names_what_is_wrong_with_a_table(
    run: Path, tmp_path: Path, lines: list[str], head: str, message: str
) -> None:
    with pytest.raises(FitError, match=message):
        compare_readers(run, write(tmp_path, *lines, head=head), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compare_readers__needs_the_table(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match=r"none.csv: cannot be read"):
        compare_readers(run, tmp_path / "none.csv", tmp_path / "out")

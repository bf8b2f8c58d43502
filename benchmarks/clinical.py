"""The published clinical table without images: MuMo against logistic regression and gradient boosting, out of fold.

`MUMO_DATA` names the folder of shared data; the table is its `tables/anti-her2.csv`, read by
`examples/mumo-2024/cohort.toml`. Five folds with five seeds each, all settings at their defaults. The runs stay in the
folder that `MUMO_OUT` names, where set, and are gone on with there when the command was stopped.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import torch

from mumo.config import Settings
from mumo.fusion import baselines, comparison, metrics
from mumo.fusion.crossfit import fit_folds
from mumo.fusion.estimates import Estimate
from mumo.fusion.predict import read_predictions
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.extract import Choice, extract
from mumo.pipeline.running.execute import make_executor
from mumo.pipeline.stages import stage_names
from mumo.stores.records import Store
from mumo.terminal import progress_bars

COHORT = Path(__file__).parents[1] / "examples" / "mumo-2024" / "cohort.toml"
FOLDS = SEEDS = 5
REPLICATES = 2000
TEAM = {comparison.MODEL: "MuMo", "clinical-logistic": "logistic regression", "clinical-boosting": "gradient boosting"}
"""Predictor → how the table calls it."""


def extract_table(table: Path, store: Path, settings: Settings) -> None:
    """The clinical stage of the table's patients into a store."""
    cohort = load_cohort(COHORT, table, settings.clinical)
    with make_executor(1, None, settings) as executor, progress_bars() as bars:
        extract(cohort, Store.create(store), settings, Choice(stage_names("clinical")), executor, bars)


def rows_of(run: Path) -> list[dict[str, str]]:
    """A row a predictor: figures of the patients out of fold."""
    fold_of = pd.read_csv(run / "folds.csv", dtype=str).set_index("patient")["fold"]
    model = read_predictions(run / "predictions.parquet")
    rows = []
    for name, shown in TEAM.items():
        frame = model if name == comparison.MODEL else read_predictions(run / "baselines" / f"{name}.parquet")
        labels, probability = frame["label"], frame["probability"]
        again = {"replicates": REPLICATES, "seed": 0}
        row = {
            "predictor": shown,
            "AUC, pooled": interval(metrics.auc_bootstrap(labels, probability, **again)),
            "AUC, within folds": interval(metrics.auc_within(labels, probability, frame["patient"].map(fold_of))),
        }
        for endpoint in ("pfs", "os"):
            days, events = frame[f"{endpoint}_days"], frame[f"{endpoint}_event"]
            found = metrics.concordance_bootstrap(days, events, frame["risk"], **again)
            row[f"C-index, {endpoint.upper()}"] = interval(found)
        test = comparison.paired_delong(model["label"], model["probability"], probability)
        row["p of AUC (DeLong)"] = "" if name == comparison.MODEL else f"{test.p:.2f}"
        rows.append(row)
    return rows


def interval(found: Estimate) -> str:
    """Value with its 95 % interval."""
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"


def main() -> None:
    """Print the table in Markdown."""
    data = os.environ.get("MUMO_DATA")
    if not data:
        print("clinical: set MUMO_DATA to the folder of shared data; nothing was measured")
        return
    torch.set_num_threads(1)  # the model is small: a second thread costs more than it gives
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(os.environ.get("MUMO_OUT", temporary))
        store, run, settings = out / "store", out / "run", Settings()
        extract_table(Path(data) / "tables", store, settings)
        fit_folds(store, run, settings, folds=FOLDS, seeds=SEEDS, device="cpu", workers=1, resume=True, done=say)
        baselines.baselines(store, run)
        table = pd.DataFrame(rows_of(run))
        pooled = read_predictions(run / "predictions.parquet")
    for line in [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]:
        print("| " + " | ".join(line) + " |")
    print(
        f"{len(pooled)} patients, {pooled['label'].notna().sum()} labelled, {int(pooled['label'].sum())} responders; "
        f"{FOLDS} folds × {SEEDS} seeds; {time.perf_counter() - began:.0f} s on one core"
    )


def say(done: int, total: int, name: str) -> None:
    """Progress."""
    print(f"{done} of {total}: {name}")

"""The published clinical table without images: MuMo against logistic regression and gradient boosting, out of fold.

`MUMO_DATA` names the folder of shared data; the table is its `tables/anti-her2.csv`, read by
`examples/mumo-2024/cohort.toml`. Five folds with five seeds each, all settings at their defaults; then five other draws
of the folds with one seed each, to see how much the figures hang on the draw. The runs stay in the folder that
`MUMO_OUT` names, where set, and are gone on with there when the command was stopped.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mumo.commands.terminal import progress_bars
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

COHORT = Path(__file__).parents[1] / "examples" / "mumo-2024" / "cohort.toml"
FOLDS = SEEDS = DRAWS = 5
REPLICATES = 2000
TEAM = {comparison.MODEL: "MuMo", "clinical-logistic": "logistic regression", "clinical-boosting": "gradient boosting"}
"""Predictor → how the table calls it."""


def extract_table(table: Path, store: Path, settings: Settings) -> None:
    """The clinical stage of the table's patients into a store."""
    cohort = load_cohort(COHORT, table, settings.clinical)
    with make_executor(1, None, settings) as executor, progress_bars() as bars:
        extract(cohort, Store.create(store), settings, Choice(stage_names("clinical")), executor, bars)


def train(store: Path, run: Path, settings: Settings, seeds: int) -> None:
    """MuMo and the simpler predictors on the same folds."""
    fit_folds(store, run, settings, folds=FOLDS, seeds=seeds, device="cpu", workers=1, resume=True, done=say)
    baselines.baselines(store, run)


def predictions(run: Path) -> dict[str, pd.DataFrame]:
    """Predictor, as the table calls it → its predictions out of fold, with a column `fold`."""
    fold_of = pd.read_csv(run / "folds.csv", dtype=str).set_index("patient")["fold"]
    frames = {}
    for name, shown in TEAM.items():
        file = run / "predictions.parquet" if name == comparison.MODEL else run / "baselines" / f"{name}.parquet"
        frame = read_predictions(file)
        frames[shown] = frame.assign(fold=frame["patient"].map(fold_of))
    return frames


def figures(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a predictor: figures of the patients out of fold."""
    model = frames[TEAM[comparison.MODEL]]
    rows = []
    for shown, frame in frames.items():
        labels, probability = frame["label"], frame["probability"]
        again = {"replicates": REPLICATES, "seed": 0}
        row = {
            "predictor": shown,
            "AUC, pooled": interval(metrics.auc_bootstrap(labels, probability, **again)),
            "AUC, within folds": interval(metrics.auc_within(labels, probability, frame["fold"])),
        }
        for endpoint in ("pfs", "os"):
            days, events = frame[f"{endpoint}_days"], frame[f"{endpoint}_event"]
            found = metrics.concordance_bootstrap(days, events, frame["risk"], **again)
            row[f"C-index, {endpoint.upper()}"] = interval(found)
        test = comparison.paired_delong(model["label"], model["probability"], probability)
        row["p of AUC (DeLong)"] = "" if frame is model else f"{test.p:.2f}"
        rows.append(row)
    return pd.DataFrame(rows)


def over_draws(draws: list[dict[str, pd.DataFrame]]) -> pd.DataFrame:
    """A row a predictor: mean and range of its figures over draws of the folds."""
    rows = []
    for shown in draws[0]:
        found: dict[str, list[float]] = {}
        for frames in draws:
            frame = frames[shown]
            labels, probability = frame["label"], frame["probability"]
            found.setdefault("AUC, pooled", []).append(metrics.auc(labels, probability))
            within = metrics.auc_within(labels, probability, frame["fold"]).value
            found.setdefault("AUC, within folds", []).append(within)
            for endpoint in ("pfs", "os"):
                value = metrics.concordance(frame[f"{endpoint}_days"], frame[f"{endpoint}_event"], frame["risk"])
                found.setdefault(f"C-index, {endpoint.upper()}", []).append(value)
        rows.append(
            {"predictor": shown}
            | {name: f"{np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for name, v in found.items()}
        )
    return pd.DataFrame(rows)


def print_table(table: pd.DataFrame) -> None:
    """The table in Markdown."""
    for line in [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]:
        print("| " + " | ".join(line) + " |")


def interval(found: Estimate) -> str:
    """Value with its 95 % interval."""
    return f"{found.value:.3f} ({found.low:.3f}–{found.high:.3f})"


def main() -> None:
    """Print the tables."""
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
        train(store, run, settings, SEEDS)
        frames = predictions(run)
        draws = []
        for draw in range(1, DRAWS + 1):
            split = settings.fit.split.model_copy(update={"seed": draw})
            fit = settings.fit.model_copy(update={"split": split})
            train(store, out / f"draw-{draw}", settings.model_copy(update={"fit": fit}), 1)
            draws.append(predictions(out / f"draw-{draw}"))
    labels = frames[TEAM[comparison.MODEL]]["label"]
    print(f"{len(labels)} patients, {labels.notna().sum()} labelled, {int(labels.sum())} responders")
    print(f"{FOLDS} folds × {SEEDS} seeds, with 95 % intervals:")
    print_table(figures(frames))
    print(f"{DRAWS} other draws of {FOLDS} folds × 1 seed, mean and range:")
    print_table(over_draws(draws))
    print(f"{time.perf_counter() - began:.0f} s on one core")


def say(done: int, total: int, name: str) -> None:
    """Progress."""
    print(f"{done} of {total}: {name}")

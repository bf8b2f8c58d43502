"""What the report reads of a run folder, checked for telling of one and the same run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from ..stores import tables
from ..stores.specs import PREDICTIONS
from .metrics import Numbers, auc, check_predictions, numbers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds; optional files are empty when they are missing."""

    predictions: pd.DataFrame
    metrics: dict[str, Any]
    config: dict[str, Any]
    run: dict[str, Any]
    split: dict[str, str]
    """Patient → part."""
    history: list[dict[str, Any]]

    def rows(self, part: str) -> pd.DataFrame:
        """Predictions of one part."""
        return self.predictions[self.predictions["part"] == part]

    def labels(self, part: str) -> tuple[Numbers, Numbers]:
        """Labels (NaN unknown) and probabilities of one part."""
        rows = self.rows(part)
        return numbers(rows["label"]), numbers(rows["probability"])


def read_run(run: Path) -> RunFiles:
    """Read the files of a run folder and check that they belong together.

    Raises:
        FitError: a file is missing or broken, or files contradict each other.
        StoreError: the table of predictions cannot be read.
    """
    for needed in ("predictions.parquet", "metrics.json"):
        if not (run / needed).is_file():
            raise FitError(f"run folder {run}: expected {needed}, found none; finish `mumo fit` first")
    files = RunFiles(
        predictions=tables.read_table(run / "predictions.parquet", PREDICTIONS).to_pandas(),
        metrics=_read_json(run / "metrics.json"),
        config=_read_json(run / "config.json"),
        run=_read_json(run / "run.json"),
        split=_read_split(run / "split.csv"),
        history=_read_history(run / "history.jsonl"),
    )
    _check(files)
    return files


def finite(value: Any) -> float:
    """A number of a JSON file; NaN where it is null or no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FitError(f"run folder: {path.name}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise FitError(f"run folder: {path.name}: expected a JSON object, found {type(content).__name__}")
    return content


def _read_split(path: Path) -> dict[str, str]:
    import pandas as pd

    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise FitError(f"run folder: split.csv: cannot be read: {error}") from error
    if not {"patient", "part"} <= set(table.columns):
        raise FitError(f"run folder: split.csv: expected columns patient and part, found {list(table.columns)}")
    return dict(zip(table["patient"], table["part"], strict=True))


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    epochs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            epoch = json.loads(line)
        except json.JSONDecodeError as error:
            raise FitError(f"run folder: history.jsonl: line {number}: expected JSON, found {error}") from error
        if not isinstance(epoch, dict):
            raise FitError(f"run folder: history.jsonl: line {number}: expected an object, found {line[:40]!r}")
        epochs.append(epoch)
    return epochs


def _check(files: RunFiles) -> None:
    """Raise FitError where the run is not finished, or its files do not tell of the same run."""
    status = files.run.get("status", "finished")
    if status != "finished":
        raise FitError(f"run folder: expected a finished run, run.json says {status!r}; train again, then report")
    check_predictions(files.predictions)
    if missing := {"parts", "threshold", "confidence"} - set(files.metrics):
        raise FitError(f"run folder: metrics.json: expected {sorted(missing)}, found {sorted(files.metrics)}")
    for patient, part in zip(files.predictions["patient"], files.predictions["part"], strict=True):
        if files.split.get(patient, part) != part:
            raise FitError(
                f"run folder: patient {patient} is in {files.split[patient]} by split.csv and in {part} by "
                "predictions.parquet; the files are of different runs"
            )
    parts = files.metrics["parts"]
    if set(parts) != set(files.predictions["part"]):
        raise FitError(
            f"run folder: metrics.json has the parts {sorted(parts)}, predictions.parquet has "
            f"{sorted(set(files.predictions['part']))}; the files are of different runs"
        )
    for part, metrics in parts.items():
        labels, probability = files.labels(part)
        computed = auc(labels, probability)
        stated = finite(metrics["auc"]["value"])
        if metrics["patients"] != len(labels) or not np.isclose(computed, stated, atol=1e-9, equal_nan=True):
            raise FitError(
                f"run folder: part {part}: metrics.json has {metrics['patients']} patients and AUC {stated}, the "
                f"predictions give {len(labels)} and {computed}; the files are of different runs"
            )

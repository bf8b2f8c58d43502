"""What the report reads of a run folder, checked for telling of one and the same run."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from ..stores import tables
from ..stores.specs import PREDICTIONS
from .characteristics import Characteristic, read_clinical
from .comparison import MODEL
from .estimates import Numbers, numbers
from .metrics import auc, check_predictions

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


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
    items: list[Characteristic]
    """What is known of the patients, in the order of the predictions."""
    comparison: list[dict[str, Any]]
    """Rows of `baselines/comparison.json`."""
    readers: dict[str, Any]
    """Content of `readers/readers.json`."""

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
    predictions = tables.read_table(run / "predictions.parquet", PREDICTIONS).to_pandas()
    evaluated = _read_json(run / "metrics.json")
    files = RunFiles(
        predictions=predictions,
        metrics=evaluated,
        config=_read_json(run / "config.json"),
        run=_read_json(run / "run.json"),
        split=_read_split(run / "split.csv"),
        history=_read_history(run / "history.jsonl"),
        items=read_clinical(_clinical_file(run), list(predictions["patient"])),
        comparison=_of_this_run(_read_rows(run / "baselines" / "comparison.json"), evaluated),
        readers=_readers_of_this_run(_read_json(run / "readers" / "readers.json"), evaluated),
    )
    _check(files)
    return files


def _clinical_file(run: Path) -> Path:
    """The run's own, or of a run over folds that of its first member: all members have the same patients."""
    own = run / "clinical.parquet"
    return own if own.is_file() else next(iter(sorted((run / "members").glob("*/clinical.parquet"))), own)


def finite(value: Any) -> float:
    """A number of a JSON file; NaN where it is null or no number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def _of_this_run(rows: list[dict[str, Any]], evaluated: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparison with baselines, unless it was made for an earlier run in this folder."""
    for row in rows:
        part = evaluated.get("parts", {}).get(row.get("part"))
        if part is None or (row["predictor"] == MODEL and not _same(row.get("auc"), part["auc"]["value"])):
            _log.warning("baselines/comparison.json is of another run and left out; run `mumo baselines` again")
            return []
    return rows


def _readers_of_this_run(content: dict[str, Any], evaluated: dict[str, Any]) -> dict[str, Any]:
    part = evaluated.get("parts", {}).get(content.get("part"))
    if content and (part is None or not _same(content.get("auc"), part["auc"]["value"])):
        _log.warning("readers/readers.json is of another run and left out; run `mumo readers` again")
        return {}
    return content


def _same(first: Any, second: Any) -> bool:
    return bool(np.isclose(finite(first), finite(second), atol=1e-9, equal_nan=True))


def _read_rows(path: Path) -> list[dict[str, Any]]:
    content = _load(path) if path.is_file() else []
    if not isinstance(content, list):
        raise FitError(f"run folder: {path.name}: expected a JSON list, found {type(content).__name__}")
    return content


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FitError(f"run folder: {path.name}: expected JSON, found {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = _load(path)
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

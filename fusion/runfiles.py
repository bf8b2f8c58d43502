"""What the report reads of a run folder, checked for telling of one and the same run."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from ..stores import tables
from ..stores.specs import PREDICTIONS
from .characteristics import Characteristic, read_clinical
from .checkpoint import member_folders
from .comparison import MODEL
from .estimates import Numbers, numbers
from .explained import read_explained, weights_digest
from .feature_space import read_distances
from .flow import read_flow
from .metrics import auc, calls_at, check_predictions

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

_BESIDE_TRAINING = ("split", "seed", "bootstrap", "trackers", "checkpoint_seconds")
"""Settings of the section `fit` that a comparison of trainings looks at elsewhere, or that change no weights."""


@dataclass(frozen=True)
class Ablations:
    """What `mumo ablate` found."""

    rows: list[dict[str, Any]]
    """Rows of `ablations.json`, the full model first."""
    same_split: bool
    """Whether the held-out patients are those of the run."""
    seeds: int
    """Trainings of each."""
    same_settings: bool
    """Whether the full model was trained with the settings of the run."""
    endpoint: str
    """Of the C-index: `pfs` or `os`; empty where the folder does not say."""


@dataclass(frozen=True)
class Robustness:
    """What `mumo robustness` found."""

    summary: dict[str, Any]
    patients: pd.DataFrame
    """A row a patient and annotator."""


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
    """Lines of `history.jsonl`, one an epoch."""
    member_histories: list[list[dict[str, Any]]]
    """Of an ensemble, those of each member."""
    items: list[Characteristic]
    """What is known of the patients, in the order of the predictions."""
    comparison: list[dict[str, Any]]
    """Rows of `baselines/comparison.json`."""
    readers: dict[str, Any]
    """Content of `readers/readers.json`."""
    ablations: Ablations | None
    """The ablations of the same store."""
    flow: dict[str, Any]
    """What `flow.json` says."""
    explained: dict[str, Any]
    """What `mumo explain` left in `RUN/explain`."""
    robustness: Robustness | None
    """How much predictions depend on the annotator."""
    thresholds: Numbers
    """[prediction] threshold of each patient's call: the run's, or that of the fold; NaN where there is none."""
    development: RunFiles | None = None
    """Of an external validation, what the run says of the patients that the model was made on."""
    shift: pd.DataFrame | None = None
    """Of an external validation, the omics features in the scale of the training patients."""
    distances: pd.DataFrame | None = None
    """How far patients' deep features lie from the training patients', see `feature_space`; none in old runs."""

    @property
    def calls(self) -> Numbers:
        """[prediction] 1 where response is predicted, 0 where not, NaN without a threshold."""
        return calls_at(self.predictions["probability"], self.thresholds)

    @property
    def called(self) -> bool:
        """Whether anybody has a threshold."""
        return bool(np.isfinite(self.thresholds).any())

    def rows(self, part: str) -> pd.DataFrame:
        """Predictions of one part."""
        return self.predictions[self.chosen(part)]

    def chosen(self, part: str) -> npt.NDArray[np.bool_]:
        """[prediction] whether the patient is of a part."""
        return (self.predictions["part"] == part).to_numpy(dtype=np.bool_)

    def labels(self, part: str) -> tuple[Numbers, Numbers]:
        """Labels (NaN unknown) and probabilities of one part."""
        rows = self.rows(part)
        return numbers(rows["label"]), numbers(rows["probability"])


def read_run(run: Path, ablations: Path | None = None) -> RunFiles:
    """Read the files of a run folder and check that they belong together.

    Args:
        run: the folder.
        ablations: folder of a `mumo ablate`; default RUN/ablations, where there is one.

    Raises:
        FitError: a file is missing or broken, files contradict each other, or `ablations` is of another store.
        StoreError: the table of predictions cannot be read.
    """
    for needed in ("predictions.parquet", "metrics.json"):
        if not (run / needed).is_file():
            raise FitError(f"run folder {run}: expected {needed}, found none; finish `mumo fit` first")
    predictions = tables.read_table(run / "predictions.parquet", PREDICTIONS).to_pandas()
    evaluated, info = _read_json(run / "metrics.json"), _read_json(run / "run.json")
    if (status := info.get("status", "finished")) != "finished":
        again = "predict" if info.get("kind") == "external" else "train"
        raise FitError(f"run folder: expected a finished run, run.json says {status!r}; {again} again, then report")
    files = RunFiles(
        predictions=predictions,
        metrics=evaluated,
        config=_read_json(run / "config.json"),
        run=info,
        split=_read_split(run / "split.csv"),
        history=_read_history(run / "history.jsonl"),
        member_histories=[
            history
            for name in (info.get("members") or () if info.get("kind") == "ensemble" else ())
            if (history := _read_history(run / "members" / str(name) / "history.jsonl"))
        ],
        items=read_clinical(clinical_file(run), list(predictions["patient"])),
        comparison=_of_this_run(_read_rows(run / "baselines" / "comparison.json"), evaluated),
        readers=_readers_of_this_run(_read_json(run / "readers" / "readers.json"), evaluated),
        ablations=_read_ablations(run, ablations, info),
        flow=read_flow(run),
        explained=read_explained(run),
        robustness=_read_robustness(run),
        thresholds=_thresholds(run, list(predictions["patient"]), evaluated),
        development=read_run(run / "development") if info.get("kind") == "external" else None,
        shift=_read_shift(run / "shift.csv"),
        distances=read_distances(run),
    )
    _check(files)
    return files


def clinical_file(run: Path) -> Path:
    """The run's own, or of a run over folds that of its first member: all members have the same patients."""
    own = run / "clinical.parquet"
    return own if own.is_file() else next(iter(sorted((run / "members").glob("*/clinical.parquet"))), own)


def _read_shift(path: Path) -> pd.DataFrame | None:
    import pandas as pd

    return pd.read_csv(path) if path.is_file() else None


def _thresholds(run: Path, patients: list[str], evaluated: dict[str, Any]) -> Numbers:
    """[patient] the one threshold, or that of each one's fold."""
    of_folds = evaluated.get("thresholds")
    if not of_folds:
        return np.full(len(patients), finite(evaluated.get("threshold")))
    fold_of = read_columns(run / "folds.csv", "patient", "fold")
    if without := [patient for patient in patients if fold_of.get(patient) not in of_folds]:
        raise FitError(f"run folder: folds.csv: expected the fold of every patient, found none for {without[:5]}")
    return np.array([finite(of_folds[fold_of[patient]]) for patient in patients])


def _read_ablations(run: Path, given: Path | None, info: dict[str, Any]) -> Ablations | None:
    """The ablations in a folder; of another store they are refused where they were asked for, else left out."""
    folder = given or run / "ablations"
    rows, about = _read_rows(folder / "ablations.json"), _read_json(folder / "run.json")
    if not rows:
        if given:
            raise FitError(f"{given}: expected ablations.json, found none; give the folder of a finished `mumo ablate`")
        return None
    if about.get("store_digest") != info.get("store_digest"):
        if given:
            raise FitError(f"{given}: its ablations are of another store than the run; ablate that one")
        _log.warning("ablations are of another store and left out; run `mumo ablate` again")
        return None
    members = [str(name) for name in about.get("members", ())]
    split = _read_split(folder / "members" / members[0] / "split.csv") if members else {}
    seeds = sum(name.startswith(f"{rows[0]['ablation']}-seed-") for name in members)
    own = _read_json(folder / "members" / members[0] / "config.json") if members else {}
    endpoint = own.get("fit", {}).get("survival_endpoint", "")
    return Ablations(
        rows,
        bool(split) and split == _read_split(run / "split.csv"),
        seeds,
        not own or _trained_by(own) == _trained_by(_read_json(run / "config.json")),
        "os" if endpoint == "none" else endpoint,
    )


def _trained_by(config: dict[str, Any]) -> dict[str, Any]:
    """Settings that shape a trained model, of a run's config.json."""
    fit = {key: value for key, value in config.get("fit", {}).items() if key not in _BESIDE_TRAINING}
    return {"model": config.get("model"), "fit": fit}


def _read_robustness(run: Path) -> Robustness | None:
    """What `mumo robustness` found, unless it was of an earlier run in this folder."""
    import pandas as pd

    summary, file = _read_json(run / "robustness" / "summary.json"), run / "robustness" / "patients.csv"
    if not summary or not file.is_file():
        return None
    if summary.get("models") != [weights_digest(folder) for folder in member_folders(run)]:
        _log.warning("robustness/summary.json is of another run and left out; run `mumo robustness` again")
        return None
    return Robustness(summary, pd.read_csv(file, dtype={"patient": str}))


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
    return read_columns(path, "patient", "part")


def read_columns(path: Path, key: str, value: str) -> dict[str, str]:
    """Two columns of a CSV as a mapping; nothing where the file is missing."""
    import pandas as pd

    if not path.is_file():
        return {}
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise FitError(f"run folder: {path.name}: cannot be read: {error}") from error
    if not {key, value} <= set(table.columns):
        raise FitError(f"run folder: {path.name}: expected columns {key} and {value}, found {list(table.columns)}")
    return dict(zip(table[key], table[value], strict=True))


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
    """Raise FitError where the files do not tell of the same run."""
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

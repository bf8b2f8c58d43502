"""Predictions of a trained model, for the cohort that it was trained on or another."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ..errors import FitError
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from ..stores.specs import PREDICTIONS
from ..stores.tables import read_rows, write_table
from . import metrics
from .checkpoint import LoadedRun, ensemble_threshold, load_run, member_folders, write_atomically, write_json
from .dataset import INFORMATION, Dataset, report_group
from .model import MuMo
from .tabular import add_tables

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of patients, in the order asked for."""

    logits: npt.NDArray[np.float64]
    """[patient, class of response]."""
    risk: npt.NDArray[np.float64]
    """[patient] log relative hazard."""

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """[patient] probability of response: softmax, the sum of all classes but class 0."""
        response: npt.NDArray[np.float64] = np.logaddexp.reduce(self.logits[:, 1:], axis=1)
        return np.exp(-np.logaddexp(0.0, self.logits[:, 0] - response))


def resolve_device(name: str) -> torch.device:
    """The device for `auto`, `cpu`, `cuda` or `cuda:N`; FitError when there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise FitError(f"device {name}: there is no CUDA device here; use --device cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise FitError(f"device {name!r}: expected auto, cpu or cuda") from error


@torch.no_grad()
def score(
    model: MuMo, dataset: Dataset, patients: npt.NDArray[np.int64], *, device: torch.device, size: int = 32
) -> Scores:
    """Logits and risk of `patients` (indices in the pack) from all their bags and lesions, without dropout."""
    model.eval()
    place = np.empty(len(dataset.labels), dtype=np.int64)
    place[patients] = np.arange(len(patients))
    logits, risk = np.empty((len(patients), model.classifier.out_features)), np.empty(len(patients))
    for batch in dataset.evaluation_batches(patients, size=size):
        output = model(batch.to(device))
        rows = place[batch.patients.numpy()]
        logits[rows] = output.logits.double().cpu().numpy()
        risk[rows] = output.risk.double().cpu().numpy()
    return Scores(logits, risk)


def prediction_rows(packed: Packed, scores: Scores, parts: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of `specs.PREDICTIONS` for all patients of a pack, None where an outcome is unknown."""

    def known(value: float, *, unknown: bool) -> Any:
        return None if unknown else value

    rows = []
    probability = scores.probability
    for p, patient in enumerate(packed.patients):
        row: dict[str, Any] = {
            "patient": patient,
            "centre": packed.centres[p],
            "part": parts[p],
            "modalities": packed.modalities[p],
            "probability": float(probability[p]),
            "risk": float(scores.risk[p]),
            "label": known(int(packed.labels[p] > 0), unknown=packed.labels[p] < 0),
        }
        for endpoint in ("pfs", "os"):
            days, event = float(packed.days[endpoint][p]), int(packed.events[endpoint][p])
            row[f"{endpoint}_days"] = known(days, unknown=bool(np.isnan(days)))
            row[f"{endpoint}_event"] = known(bool(event), unknown=event < 0)
        rows.append(row)
    return rows


def prediction_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The rows as a frame with nullable columns."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=[column.name for column in PREDICTIONS.columns])
    kinds = {
        "label": "Int8",
        "pfs_event": "boolean",
        "os_event": "boolean",
        "pfs_days": "float64",
        "os_days": "float64",
    }
    return frame.astype(kinds)


def save_predictions(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of `specs.PREDICTIONS` as Parquet."""
    write_atomically(file, lambda temporary: write_table(temporary, rows, PREDICTIONS))


def prediction_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a `prediction_frame`."""
    known = frame.astype(object).where(frame.notna(), None)
    return [{str(name): value for name, value in row.items()} for row in known.to_dict("records")]


def read_predictions(file: Path) -> pd.DataFrame:
    """A run's predictions.parquet as a `prediction_frame`."""
    return prediction_frame(read_rows(file, PREDICTIONS))


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a finished run says of the patients of a store."""

    packed: Packed
    frame: pd.DataFrame
    """Of every patient; see `prediction_frame`."""
    threshold: float
    """The frozen one; NaN where the run has none."""
    first: LoadedRun
    """The run, or the first member of an ensemble."""

    def evaluate(self, frame: pd.DataFrame) -> dict[str, Any]:
        """`metrics.evaluate` of some of the patients at the frozen threshold."""
        fit = self.first.fit
        evaluated = metrics.evaluate(frame, threshold=self.threshold, replicates=fit.bootstrap, seed=fit.seed)
        evaluated["chosen_on"] = self.first.info["chosen_on"]
        return evaluated


def predict(
    run: Path,
    store: Place,
    out: Path,
    *,
    device: str = "auto",
    tables: Mapping[str, Path] | None = None,
    allow_other_windows: bool = False,
) -> pd.DataFrame:
    """Predictions of a finished run for every patient of a store.

    Needs the run folder and the store (and the tables of further modalities), nothing else. Writes `out`
    (`specs.PREDICTIONS`), as text where its name ends in .csv, else as Parquet, and, beside it, `<out>.metrics.json`
    with the metrics at the run's frozen threshold.

    Raises:
        FitError, StoreError: see `predict_store`; `out` is a folder.
    """
    if out.is_dir():
        raise FitError(f"{out}: is a folder; name the file to write, for example {out / 'predictions.parquet'}")
    found = predict_store(run, store, device=device, tables=tables, allow_other_windows=allow_other_windows)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix.lower() == ".csv":
        write_atomically(out, lambda temporary: found.frame.to_csv(temporary, index=False))
    else:
        save_predictions(out, prediction_records(found.frame))
    write_json(out.with_name(f"{out.name}.metrics.json"), found.evaluate(found.frame))
    return found.frame


def predict_store(
    run: Path,
    store: Place,
    *,
    device: str = "auto",
    tables: Mapping[str, Path] | None = None,
    allow_other_windows: bool = False,
) -> Predicted:
    """What a finished run says of every patient of a store.

    Patients that are in the run's split keep their part, all others are `external`. The predictions of an ensemble are
    the means over its members. Of several seeds on one split, the threshold is the ensemble's. Of a run over folds, it
    is the mean of the members', and patients of its cohort are `train`, as most members were trained on each.

    Raises:
        FitError: no finished run, or a store whose features or codes are not those that the model was trained on.
        StoreError: the store cannot be packed.
    """
    target = resolve_device(device)
    folders = member_folders(run)
    packed = add_tables(pack(Store.open(store)), tables or {})
    everyone = np.arange(len(packed.patients))
    runs: list[LoadedRun] = []
    said: list[Scores] = []
    thresholds: list[float] = []
    for folder in folders:
        loaded = load_run(folder)
        check_matches(loaded, packed, allow_other_windows=allow_other_windows)
        dataset = Dataset(packed, loaded.layout, loaded.scalers, loaded.fit.survival_endpoint)
        runs.append(loaded)
        said.append(score(loaded.model.to(target), dataset, everyone, device=target, size=loaded.fit.batch_patients))
        found = loaded.info.get("threshold")
        thresholds.append(float("nan") if found is None else found)
    split = runs[0].split.parts
    if not (run / "split.csv").exists():  # folds
        split = dict.fromkeys(split, "train")
    own = ensemble_threshold(run)
    parts = [split.get(patient, "external") for patient in packed.patients]
    frame = prediction_frame(prediction_rows(packed, said[0], parts))
    frame["probability"] = np.mean([scores.probability for scores in said], axis=0)
    frame["risk"] = np.mean([scores.risk for scores in said], axis=0)
    return Predicted(packed, frame, float(np.mean(thresholds)) if own is None else own, runs[0])


# --- does the store fit the model? ------------------------------------------------------------------------


def check_matches(loaded: LoadedRun, packed: Packed, *, allow_other_windows: bool = False) -> None:
    """Refuse, naming every difference, a store that is not what the model was trained on.

    Parts that the store lacks altogether (no slides, no omics) are missing parts and no mismatch.
    """
    problems: list[str] = []
    without = [m.name for m in loaded.layout.modalities if m.name not in packed.units]
    if without:
        names = ", ".join(f"--table {name}=FILE" for name in without)
        raise FitError(f"the model reads further tables, which are not given: {names}")
    read_images = False
    for modality in loaded.layout.modalities:
        units, scaler = packed.units[modality.name], loaded.scalers[modality.name]
        width = units.features.shape[2]
        if len(units.features) and width and not modality.feature_width:
            _log.warning("the model was trained without images of %s; those of the store are not used", modality.name)
        elif len(units.features) and width:
            read_images = True
            if width != modality.feature_width:
                problems.append(f"{modality.name}: deep features of width {width}, expected {modality.feature_width}")
        if modality.omics_width and units.omics_columns and units.omics_columns != scaler.columns:
            problems.append(_omics_difference(modality.name, scaler.columns, units.omics_columns))
    trained = loaded.info["weights_sha256"]
    if read_images and packed.weights_sha256 != trained:
        problems.append(
            f"deep features come from the weights {packed.weights} ({packed.weights_sha256[:12]}), "
            f"expected {loaded.info['weights']} ({trained[:12]})"
        )
    windows, fitted = packed.windows_digest, loaded.info["windows_digest"]
    ct = any(m.name == "radiology" and m.feature_width for m in loaded.layout.modalities)
    other_windows = ct and bool(windows) and windows != fitted
    if other_windows and not allow_other_windows:
        problems.append(
            f"windows: the CT went through grey-level windows {windows[:12]}, expected {fitted[:12] or 'none'}; "
            "extract with those of the training store, "
            "--set windows.table=STORE/windows/items/cohort/…/windows.parquet, or allow it with --allow-other-windows"
        )
    problems += _code_differences(loaded, packed)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise FitError(
            f"the store does not fit the model:\n{lines}\n"
            "extract it with the settings and weights of the training store"
        )
    if other_windows:
        _log.warning("the CT of this store went through other grey-level windows than the training store's")


def _omics_difference(modality: str, expected: Sequence[str], found: Sequence[str]) -> str:
    odd = sorted(set(expected) ^ set(found))
    what = f"for example {odd[0]}" if odd else "in another order"
    return f"{modality}: {len(found)} omics columns, expected {len(expected)} ({what})"


def _code_differences(loaded: LoadedRun, packed: Packed) -> list[str]:
    groups = {report_group(m.name) for m in loaded.layout.modalities if m.report_widths}
    if loaded.layout.information_widths:
        groups.add(INFORMATION)
    problems = []
    for group in sorted(groups):
        expected = loaded.codes[group]
        codes = packed.codes.get(group)
        found = {item.name: item.classes for item in codes.items} if codes else {}
        for name in sorted(expected.keys() | found.keys()):
            if expected.get(name) != found.get(name):
                there, wanted = found.get(name, "missing"), expected.get(name, "no such item")
                problems.append(f"{group}/{name}: classes {there}, expected {wanted}")
        if found == expected and list(found) != list(expected):
            problems.append(f"{group}: items in the order {list(found)}, expected {list(expected)}")
    return problems

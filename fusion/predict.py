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
from ..stores.records import Store
from ..stores.specs import PREDICTIONS
from ..stores.tables import write_table
from . import metrics
from .checkpoint import LoadedRun, load_run, write_atomically, write_json
from .dataset import INFORMATION, Dataset, report_group
from .model import MuMo

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of patients, in the order asked for."""

    logits: npt.NDArray[np.float64]
    """[patient, 2]."""
    risk: npt.NDArray[np.float64]
    """[patient] log relative hazard."""

    @property
    def probability(self) -> npt.NDArray[np.float64]:
        """[patient] probability of response: softmax over two."""
        difference = self.logits[:, 0] - self.logits[:, 1]
        return np.exp(-np.logaddexp(0.0, difference))


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
    logits, risk = np.empty((len(patients), 2)), np.empty(len(patients))
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
            "label": known(int(packed.labels[p]), unknown=packed.labels[p] < 0),
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


def predict(run: Path, store: Path, out: Path, *, device: str = "auto") -> pd.DataFrame:
    """Predictions of a finished run for every patient of a store.

    Needs the run folder and the store, nothing else. Writes the Parquet file `out` (`specs.PREDICTIONS`) and, beside
    it, `<out>.metrics.json` with the metrics at the run's frozen threshold. Patients that are in the run's split keep
    their part, all others are `external`.

    Raises:
        FitError: no finished run, or a store whose features or codes are not those that the model was trained on.
        StoreError: the store cannot be packed.
    """
    target = resolve_device(device)
    if out.is_dir():
        raise FitError(f"{out}: is a folder; name the Parquet file to write, for example {out / 'predictions.parquet'}")
    loaded = load_run(run)
    packed = pack(Store.open(store))
    check_matches(loaded, packed)
    dataset = Dataset(packed, loaded.layout, loaded.scalers, loaded.fit.survival_endpoint)
    everyone = np.arange(len(packed.patients))
    scores = score(loaded.model.to(target), dataset, everyone, device=target, size=loaded.fit.batch_patients)
    rows = prediction_rows(packed, scores, [loaded.split.parts.get(p, "external") for p in packed.patients])
    frame = prediction_frame(rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_predictions(out, rows)
    threshold = loaded.info.get("threshold")
    evaluated = metrics.evaluate(
        frame,
        threshold=float("nan") if threshold is None else threshold,
        replicates=loaded.fit.bootstrap,
        seed=loaded.fit.seed,
    )
    write_json(out.with_name(f"{out.name}.metrics.json"), evaluated)
    return frame


# --- does the store fit the model? ------------------------------------------------------------------------


def check_matches(loaded: LoadedRun, packed: Packed) -> None:
    """Refuse, naming every difference, a store that is not what the model was trained on.

    Parts that the store lacks altogether (no slides, no omics) are missing parts and no mismatch.
    """
    problems: list[str] = []
    read_images = False
    for modality in loaded.layout.modalities:
        units, scaler = packed.units[modality.name], loaded.scalers[modality.name]
        width = units.features.shape[2]
        if len(units.features) and not modality.feature_width:
            _log.warning("the model was trained without images of %s; those of the store are not used", modality.name)
        elif len(units.features):
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
    problems += _code_differences(loaded, packed)
    if problems:
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise FitError(
            f"the store does not fit the model:\n{lines}\n"
            "extract it with the settings and weights of the training store"
        )
    if read_images and packed.windows_digest and packed.windows_digest != loaded.info["windows_digest"]:
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

"""How much predictions depend on who drew the outlines and boxes: one model, several annotators.

The annotators may be simulated (`mumo robustness`) or real: all that is needed is a store for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import FitSettings
from ..errors import FitError
from ..stores.pack import pack
from ..stores.places import Place
from ..stores.records import Store
from . import metrics
from .checkpoint import (
    ensemble_threshold,
    json_able,
    load_run,
    member_folders,
    read_metrics,
    write_atomically,
    write_json,
)
from .dataset import Dataset
from .estimates import Numbers, numbers
from .explained import weights_digest
from .predict import check_matches, resolve_device, score
from .runfiles import finite, read_columns
from .splits import held_out, least_seen
from .tabular import add_tables

if TYPE_CHECKING:
    import pandas as pd

AS_DRAWN = "as drawn"
"""The annotator whose work the store was made from."""


def assess(
    run: Path,
    stores: Mapping[str, Place],
    *,
    touched: frozenset[str],
    facts: Mapping[str, Any],
    device: str = "auto",
    tables: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """The spread of risk, calls and AUC over annotators; written to RUN/robustness.

    `summary.json` has for each annotator the AUC, over the touched patients the intraclass correlation of the risk
    and the standard deviation of a patient's risk and probability over annotators, and how many patients' call
    changes; `patients.csv` has every prediction. Each patient is predicted by the models that have seen least of it.

    Args:
        stores: annotator → store; the first is what the others are compared with.
        touched: patients whose outlines or boxes differ between annotators.
        facts: how the annotators were made, kept in the summary.

    Raises:
        FitError: no finished run, a store that does not fit it, or stores of different patients.
    """
    frames = {name: _predictions(run, store, device, tables or {}) for name, store in stores.items()}
    first = next(iter(frames.values()))
    for name, frame in frames.items():
        if list(frame["patient"]) != list(first["patient"]):
            raise FitError(f"{name}: its store has other patients than the first; extract the same cohort")
    models = [weights_digest(folder) for folder in member_folders(run)]
    summary = {**facts, "models": models, **_summary(frames, touched, load_run(member_folders(run)[0]).fit)}
    folder = run / "robustness"
    folder.mkdir(exist_ok=True)
    write_atomically(folder / "patients.csv", lambda file: _table(frames, touched).to_csv(file, index=False))
    write_json(folder / "summary.json", summary)
    found: dict[str, Any] = json_able(summary)
    return found


def _summary(frames: Mapping[str, pd.DataFrame], touched: frozenset[str], fit: FitSettings) -> dict[str, Any]:
    """AUC under each annotator, and the spread over annotators of the touched patients of the part that counts."""
    first = next(iter(frames.values()))
    part = held_out(set(first["part"]))
    asked = first["part"].isin(part).to_numpy(dtype=bool)
    changed = first["patient"].isin(touched).to_numpy(dtype=bool) & asked
    risk, probability, call = (
        np.stack([frame[column].to_numpy(dtype=np.float64) for frame in frames.values()], axis=1)
        for column in ("risk", "probability", "call")
    )
    labels = first["label"].to_numpy(dtype=np.float64)
    return {
        "parts": list(part),
        "patients": int(asked.sum()),
        "labelled": int((asked & ~np.isnan(labels)).sum()),
        "touched": int(changed.sum()),
        "auc": {
            name: metrics.auc_bootstrap(
                labels[asked], frame["probability"][asked], replicates=fit.bootstrap, seed=fit.seed
            ).as_json()
            for name, frame in frames.items()
        },
        "risk_icc": intraclass_correlation(risk[changed]),
        "risk_sd": _quartiles(risk[changed].std(axis=1, ddof=1)),
        "probability_sd": _quartiles(probability[changed].std(axis=1, ddof=1)),
        "calls_changed": int((np.nanmax(call[changed], axis=1) != np.nanmin(call[changed], axis=1)).sum())
        if np.isfinite(call[changed]).all()
        else None,
    }


def intraclass_correlation(values: npt.NDArray[np.float64]) -> float:
    """Absolute agreement of single annotators, two-way random effects: ICC(2,1) of Shrout and Fleiss (1979).

    Args:
        values: [patient, annotator].

    Returns:
        At most 1, which is reached where annotators agree on everyone; NaN below two patients or annotators, or
        where all values are one.
    """
    n, k = values.shape
    if n < 2 or k < 2 or np.ptp(values) == 0:
        return float("nan")
    mean = values.mean()
    rows = k * ((values.mean(axis=1) - mean) ** 2).sum() / (n - 1)
    columns = n * ((values.mean(axis=0) - mean) ** 2).sum() / (k - 1)
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + mean
    error = (rest**2).sum() / ((n - 1) * (k - 1))
    return float((rows - error) / (rows + (k - 1) * error + k * (columns - error) / n))


def _predictions(run: Path, store: Place, device: str, tables: Mapping[str, Path]) -> pd.DataFrame:
    """A row a patient: label, means of the models that have seen least of it, and the call at the run's threshold."""
    import pandas as pd

    target = resolve_device(device)
    packed = add_tables(pack(Store.open(store)), tables)
    everyone = np.arange(len(packed.patients))
    splits, said = [], []
    for folder in member_folders(run):
        loaded = load_run(folder)
        check_matches(loaded, packed)
        dataset = Dataset(packed, loaded.layout, loaded.scalers, loaded.fit.survival_endpoint)
        found = score(loaded.model.to(target), dataset, everyone, device=target, size=loaded.fit.batch_patients)
        threshold = loaded.info.get("threshold")
        splits.append(loaded.split)
        said.append(np.stack([found.risk, found.probability, np.full(len(everyone), numbers([threshold])[0])]))
    chosen = [least_seen(splits, patient) for patient in packed.patients]
    values = np.stack(said)  # (member, [risk, probability, threshold], patient)
    means = np.stack([values[members, :, patient].mean(axis=0) for patient, (members, _) in enumerate(chosen)])
    risk, probability, thresholds = means.T
    return pd.DataFrame(
        {
            "patient": packed.patients,
            "part": [part for _, part in chosen],
            "label": np.where(packed.labels < 0, np.nan, packed.labels > 0),
            "risk": risk,
            "probability": probability,
            "call": metrics.calls_at(probability, _frozen(run, packed.patients, thresholds)),
        }
    )


def _frozen(run: Path, patients: Sequence[str], means: Numbers) -> Numbers:
    """[patient] the threshold of the run's own calls: one, or that of the patient's fold.

    Patients whom no fold held out, as those of another cohort, get `means`, the mean of their models' thresholds.
    """
    if (one := ensemble_threshold(run)) is not None:
        return np.full(len(patients), one)
    of_folds = read_metrics(run).get("thresholds") or {}
    fold_of = read_columns(run / "folds.csv", "patient", "fold")
    return np.array(
        [
            finite(of_folds[fold_of[patient]]) if fold_of.get(patient) in of_folds else mean
            for patient, mean in zip(patients, means, strict=True)
        ],
        dtype=np.float64,
    )


def _table(frames: Mapping[str, pd.DataFrame], touched: frozenset[str]) -> pd.DataFrame:
    import pandas as pd

    table = pd.concat([frame.assign(annotator=name) for name, frame in frames.items()])
    table["touched"] = table["patient"].isin(touched)
    return table[["patient", "annotator", "part", "touched", "label", "probability", "risk", "call"]]


def _quartiles(values: npt.NDArray[np.float64]) -> dict[str, float | None]:
    if not len(values):
        return {"median": None, "low": None, "high": None, "most": None}
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high), "most": float(values.max())}

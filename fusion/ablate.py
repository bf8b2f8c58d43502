"""The paper's ablations: the model with one part taken away or replaced, on the same held-out patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..config import ModelSettings, Settings
from ..errors import FitError
from ..stores.places import Place
from . import checkpoint
from .comparison import paired_delong
from .concordance import concordance
from .ensembles import mean_of, open_pack, over_seeds, predictions_of, run_info
from .members import Member, Training, train_members
from .metrics import auc_bootstrap
from .splits import split_for

if TYPE_CHECKING:
    import pandas as pd

ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "radiology-only": {"modalities": ("radiology",)},
    "pathology-only": {"modalities": ("pathology",)},
    "no-images": {"modalities": ()},
    "images-only": {"reports": False, "patient_information": False},
    "product": {"inter_fusion": "product"},
    "sum": {"inter_fusion": "sum"},
    "concatenation": {"inter_fusion": "concatenation"},
    "no-alignment": {"alignment": False},
    "no-reports": {"reports": False},
    "no-patient-information": {"patient_information": False},
    "no-omics": {"omics": False},
}
"""Name → what changes in the settings' section `model`."""


def ablate(
    store: Place,
    run: Path,
    settings: Settings,
    *,
    names: Sequence[str] = (),
    seeds: int = 1,
    force: bool = False,
    **training: Unpack[Training],
) -> pd.DataFrame:
    """Train every ablation with every seed on one split, and set each against the full model.

    Writes RUN/ablations.parquet, RUN/ablations.json and a run for each training in RUN/members.

    Args:
        store: folder of the store.
        run: folder to write.
        settings: sections `model` and `fit` of the full model.
        names: some of `ABLATIONS`; the full model is always there; default all.
        seeds: trainings of each, whose predictions are averaged.
        force: take the folder whatever it holds.
        training: see `members.Training`.

    Returns:
        A row an ablation: `ablation`, `patients`, `labelled`, `auc`, `auc_low`, `auc_high` (BCa), `auc_seeds_sd`,
        `c_index`, `difference` to the full model with `difference_low`, `difference_high` and `p` (paired DeLong).

    Raises:
        FitError: an unknown name, or as for `train.fit`.
    """
    chosen = _chosen(names)
    resume = training.get("resume", False)
    packed = open_pack(store, run, settings, force=force, resume=resume)
    split = split_for(packed, settings.fit.split)
    ablations = {name: over_seeds(_changed(settings, ABLATIONS[name]), split, seeds, f"{name}-") for name in chosen}
    members = [member for own in ablations.values() for member in own]
    info = run_info("ablations", packed, settings, members)
    with checkpoint.taking(run, info, ("store_digest", "tables"), force=force, resume=resume):
        train_members(store, run, members, **training)
        table = compare(run, ablations)
        checkpoint.write_atomically(run / "ablations.parquet", lambda file: table.to_parquet(file, index=False))
        checkpoint.write_json(run / "ablations.json", table.to_dict("records"))
    return table


def compare(run: Path, ablations: Mapping[str, Sequence[Member]]) -> pd.DataFrame:
    """The table from the predictions of the members of each ablation; the first is what the others are set against."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    full: pd.DataFrame | None = None
    for name, members in ablations.items():
        frames = [predictions_of(run, member) for member in members]
        held_out = "test" if (frames[0]["part"] == "test").any() else "validation"
        frames = [frame[frame["part"] == held_out] for frame in frames]
        mean = mean_of(frames)
        fit = members[0].settings.fit
        again = {"replicates": fit.bootstrap, "seed": fit.seed}
        area = auc_bootstrap(mean["label"], mean["probability"], **again)
        apart = [auc_bootstrap(f["label"], f["probability"], replicates=1, seed=0).value for f in frames]
        endpoint = "os" if fit.survival_endpoint == "none" else fit.survival_endpoint
        row = {
            "ablation": name,
            "part": held_out,
            "patients": len(mean),
            "labelled": int(mean["label"].notna().sum()),
            "auc": area.value,
            "auc_low": area.low,
            "auc_high": area.high,
            "auc_seeds_sd": float(np.std(apart, ddof=1)) if len(apart) > 1 else float("nan"),
            "c_index": concordance(mean[f"{endpoint}_days"], mean[f"{endpoint}_event"], mean["risk"]),
        }
        if full is None:
            full = mean
            row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p"), float("nan"))
        else:
            test = paired_delong(mean["label"], mean["probability"], full["probability"])
            found = test.difference
            row |= {"difference": found.value, "difference_low": found.low, "difference_high": found.high, "p": test.p}
        rows.append(row)
    return pd.DataFrame(rows)


def table_lines(table: pd.DataFrame) -> list[str]:
    """The table as lines for a terminal."""
    lines = [f"{'ablation':<24} {'AUC (95 % CI)':<22} {'C-index':>7}   {'difference to full (95 % CI)':<30} {'p':>6}"]
    for row in table.to_dict("records"):
        area, gap = _interval(row, "auc"), _interval(row, "difference")
        c_index, p = (_number(row[name]) for name in ("c_index", "p"))
        lines.append(f"{row['ablation']:<24} {area:<22} {c_index:>7}   {gap:<30} {p:>6}")
    part = table["part"].iloc[0]
    role = ", who also chose the weights: optimistic" if part == "validation" else ""
    return [*lines, f"{table['labelled'].iloc[0]} labelled of {table['patients'].iloc[0]} {part} patients{role}"]


def _interval(row: Mapping[Any, Any], name: str) -> str:
    value, low, high = (_number(row[part]) for part in (name, f"{name}_low", f"{name}_high"))
    return value if low == "–" else f"{value} ({low} to {high})"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def _chosen(names: Sequence[str]) -> list[str]:
    unknown = sorted(set(names) - ABLATIONS.keys())
    if unknown:
        raise FitError(f"ablations {unknown}: expected some of {', '.join(ABLATIONS)}")
    return [name for name in ABLATIONS if not names or name in names or name == "full"]


def _changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    model = ModelSettings.model_validate({**settings.model.model_dump(), **changes})
    return settings.model_copy(update={"model": model})

"""What runs of many trainings share: members of several seeds, how such a run begins, and means over its members.

`crossfit` has folds and seeds, `seeds` one split, `ablate` other models on one split.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..config import Settings
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from . import checkpoint
from .members import Member
from .origin import versions
from .predict import read_predictions
from .splits import Split
from .tabular import add_tables, table_digests

if TYPE_CHECKING:
    import pandas as pd


def over_seeds(settings: Settings, split: Split, seeds: int, prefix: str = "") -> list[Member]:
    """Trainings of one split that differ by their seed, which counts from `fit.seed`: `<prefix>seed-<seed>`."""
    members = []
    for seed in range(settings.fit.seed, settings.fit.seed + seeds):
        fit = settings.fit.model_copy(update={"seed": seed})
        members.append(Member(f"{prefix}seed-{seed}", settings.model_copy(update={"fit": fit}), split))
    return members


def open_pack(store: Place, run: Path, settings: Settings, *, force: bool, resume: bool) -> Packed:
    """The pack to train on, with the tables of the settings, once the folder is free.

    Raises:
        FitError: the folder holds something else (unless `force`), or a table cannot be read.
        StoreError: the store cannot be packed.
    """
    if not resume:
        checkpoint.check_free(run, force=force)
    return add_tables(pack(Store.open(store)), settings.fit.tables)


def run_info(kind: str, packed: Packed, settings: Settings, members: Sequence[Member], **facts: Any) -> dict[str, Any]:
    """What run.json says of a run of many trainings: `kind`, what it read, `facts`, and its members."""
    return {
        "kind": kind,
        "versions": versions(),
        "store_digest": packed.key,
        "weights": packed.weights,
        "weights_sha256": packed.weights_sha256,
        "tables": table_digests(settings.fit.tables),
        **facts,
        "members": [member.name for member in members],
    }


def predictions_of(run: Path, member: Member) -> pd.DataFrame:
    """The predictions of a member."""
    return read_predictions(run / "members" / member.name / "predictions.parquet")


def mean_of(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One table of predictions from several of the same patients: means of probability and risk."""
    mean = frames[0].copy()
    for column in ("probability", "risk"):
        mean[column] = np.mean([frame[column].to_numpy() for frame in frames], axis=0)
    return mean


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean, standard deviation (n − 1), lowest and highest of those that are defined."""
    known: npt.NDArray[np.float64] = np.array([value for value in values if np.isfinite(value)])
    if not len(known):
        return {"mean": float("nan"), "sd": float("nan"), "low": float("nan"), "high": float("nan")}
    deviation = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return {"mean": float(known.mean()), "sd": deviation, "low": float(known.min()), "high": float(known.max())}

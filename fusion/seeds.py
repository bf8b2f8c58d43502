"""Several seeds on one split: an ensemble, and how much its members differ.

    RUN/
      run.json             status, kind `ensemble`, members, threshold
      split.csv            patient, part
      predictions.parquet  every patient, mean over seeds
      metrics.json         metrics of the mean, and the spread between seeds
      members/seed-<s>/    a run each

As in a single run, validation chooses each member's weights and the threshold, which is that of the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config import Settings
from ..stores.pack import pack
from ..stores.places import Place
from ..stores.records import Store
from . import checkpoint, metrics
from .crossfit import fit_folds, mean_of, summary
from .members import Done, Member, train_members
from .predict import prediction_records, read_predictions, save_predictions
from .splits import split_for
from .tabular import add_tables, table_digests
from .train import chosen_on, threshold_part

if TYPE_CHECKING:
    import pandas as pd


def fit_many(
    store: Place,
    run: Path,
    settings: Settings,
    *,
    folds: int = 0,
    seeds: int = 1,
    by_centre: bool = False,
    device: str = "auto",
    workers: int | None = None,
    force: bool = False,
    resume: bool = False,
    done: Done | None = None,
    pool: Executor | None = None,
) -> dict[str, Any]:
    """Train an ensemble: `crossfit.fit_folds` where there are folds, seeds on the one split otherwise.

    Args:
        store: folder of the store.
        run: folder to write; see above.
        settings: sections `model` and `fit`; seeds count from `fit.seed`.
        folds, by_centre: see `crossfit.fit_folds`.
        seeds: trainings, or trainings a fold.
        device, workers, resume, done, pool: see `members.train_members`.
        force: take the folder whatever it holds.

    Returns:
        What metrics.json says: that of `metrics.evaluate` on the mean over seeds, and `spread`.

    Raises:
        FitError, StoreError: as for `train.fit`.
    """
    if folds or by_centre:
        return fit_folds(
            store, run, settings, folds=folds, seeds=seeds, by_centre=by_centre, device=device, workers=workers,
            force=force, resume=resume, done=done, pool=pool,
        )  # fmt: skip
    if not resume:
        checkpoint.check_free(run, force=force)
    packed = add_tables(pack(Store.open(store)), settings.fit.tables)
    split = split_for(packed, settings.fit.split)
    members = []
    for seed in range(settings.fit.seed, settings.fit.seed + seeds):
        fit = settings.fit.model_copy(update={"seed": seed})
        members.append(Member(f"seed-{seed}", settings.model_copy(update={"fit": fit}), split))
    info = {
        "kind": "ensemble",
        "versions": {"mumo": __version__},
        "store_digest": packed.key,
        "tables": table_digests(settings.fit.tables),
        "seeds": seeds,
        "members": [member.name for member in members],
    }
    with checkpoint.taking(run, info, ("store_digest", "tables", "members"), force=force, resume=resume) as found:
        checkpoint.save_split(run, split)
        checkpoint.save_config(run, settings.model, settings.fit)
        train_members(store, run, members, device=device, workers=workers, resume=resume, done=done, pool=pool)
        evaluated = _evaluate(run, members, settings)
        found["threshold"] = evaluated["threshold"]
    return evaluated


def _evaluate(run: Path, members: Sequence[Member], settings: Settings) -> dict[str, Any]:
    """Mean predictions, their threshold, metrics and spread; the files are written."""
    frames = {
        member.settings.fit.seed: read_predictions(run / "members" / member.name / "predictions.parquet")
        for member in members
    }
    mean = mean_of(list(frames.values()))
    chooser = threshold_part(mean["part"])
    chosen = mean[mean["part"] == chooser]
    threshold = metrics.youden_threshold(chosen["label"], chosen["probability"])
    save_predictions(run / "predictions.parquet", prediction_records(mean))
    fit = settings.fit
    evaluated = metrics.evaluate(mean, threshold=threshold, replicates=fit.bootstrap, seed=fit.seed)
    evaluated |= {"chosen_on": chosen_on(chooser), "spread": spread(frames, evaluated["headline"] or "validation")}
    checkpoint.write_json(run / "metrics.json", evaluated)
    return evaluated


def spread(frames: Mapping[int, pd.DataFrame], part: str) -> dict[str, Any]:
    """How much the AUC of a part differs between seeds: `part`, `auc_of_seeds`, and their summary `seeds`."""
    own = {}
    for seed, frame in frames.items():
        rows = frame[frame["part"] == part]
        own[str(seed)] = metrics.auc(rows["label"], rows["probability"])
    return {"part": part, "auc_of_seeds": own, "seeds": summary(list(own.values()))}

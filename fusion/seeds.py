"""Several seeds on one split: an ensemble, and how much its members differ.

    RUN/
      run.json             status, kind `ensemble`, members, threshold
      split.csv            patient, part
      predictions.parquet  every patient, mean over seeds
      metrics.json         metrics of the mean, and the spread between seeds
      MODEL_CARD.md
      members/seed-<s>/    a run each

As in a single run, validation chooses each member's weights and the threshold, which is that of the mean over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ..config import Settings
from ..stores.places import Place
from . import checkpoint, metrics
from .card import write_ensemble_card
from .crossfit import fit_folds
from .ensembles import mean_of, open_pack, over_seeds, predictions_of, run_info, summary
from .members import Member, Training, train_members
from .origin import extraction_settings, windows_fitted_on
from .predict import prediction_records, save_predictions
from .splits import split_for
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
    force: bool = False,
    **training: Unpack[Training],
) -> dict[str, Any]:
    """Train an ensemble: `crossfit.fit_folds` where there are folds or centres to leave out, else `fit_seeds`."""
    if folds or by_centre:
        return fit_folds(store, run, settings, folds=folds, seeds=seeds, by_centre=by_centre, force=force, **training)
    return fit_seeds(store, run, settings, seeds=seeds, force=force, **training)


def fit_seeds(
    store: Place, run: Path, settings: Settings, *, seeds: int, force: bool = False, **training: Unpack[Training]
) -> dict[str, Any]:
    """Train several seeds on one split and average what they say.

    Arguments and errors as for `crossfit.fit_folds`, `seeds` being the number of trainings.

    Returns:
        What metrics.json says: that of `metrics.evaluate` on the mean over seeds, and `spread`.
    """
    resume = training.get("resume", False)
    packed = open_pack(store, run, settings, force=force, resume=resume)
    split = split_for(packed, settings.fit.split)
    members = over_seeds(settings, split, seeds)
    facts = {
        "extraction": extraction_settings(store),
        "windows_fitted_on": windows_fitted_on(store, packed, split.parts),
    }
    info = run_info("ensemble", packed, settings, members, seeds=seeds, **facts)
    with checkpoint.taking(run, info, ("store_digest", "tables", "members"), force=force, resume=resume) as found:
        checkpoint.save_split(run, split)
        checkpoint.save_config(run, settings.model, settings.fit)
        train_members(store, run, members, **training)
        evaluated = _evaluate(run, members, settings)
        found["threshold"] = evaluated["threshold"]
        write_ensemble_card(run, info["members"], info, settings, checkpoint.read_metrics(run))
    return evaluated


def _evaluate(run: Path, members: Sequence[Member], settings: Settings) -> dict[str, Any]:
    """Mean predictions, their threshold, metrics and spread; the files are written."""
    frames = {member.settings.fit.seed: predictions_of(run, member) for member in members}
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

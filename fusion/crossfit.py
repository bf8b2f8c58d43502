"""Folds and seeds in one run: every patient is predicted by models that have not seen it.

    RUN/
      run.json             status, kind `ensemble`, members, threshold of each fold
      folds.csv            patient, fold
      predictions.parquet  every patient, out of fold, mean over seeds
      metrics.json         metrics of all patients out of fold, and the spread between seeds and folds
      MODEL_CARD.md
      members/fold-<k>-seed-<s>/   a run each

Everything that is chosen (best epochs, threshold) is chosen inside the training folds: of the patients outside the
fold, a share validates, and the fold's threshold is that of the mean over seeds on those.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..config import Settings
from ..errors import FitError
from ..stores.packed import Packed
from ..stores.places import Place
from . import checkpoint, metrics, train
from .card import write_ensemble_card
from .ensembles import mean_of, open_pack, over_seeds, predictions_of, run_info, summary
from .members import Member, Training, train_members
from .origin import extraction_settings, windows_fitted_on
from .predict import prediction_records, save_predictions
from .splits import centre_folds, draw_folds, fold_split, strata_of

if TYPE_CHECKING:
    import pandas as pd

HELD_OUT = "test"


def fit_folds(
    store: Place,
    run: Path,
    settings: Settings,
    *,
    folds: int,
    seeds: int,
    by_centre: bool = False,
    force: bool = False,
    **training: Unpack[Training],
) -> dict[str, Any]:
    """Train folds × seeds members and pool what they say of patients that they have not seen.

    Args:
        store: folder of the store.
        run: folder to write; see above.
        settings: sections `model` and `fit`; seeds count from `fit.seed`.
        folds: number of stratified folds, two or more.
        seeds: trainings a fold.
        by_centre: one fold a centre in place of `folds`.
        force: take the folder whatever it holds.
        training: see `members.Training`.

    Returns:
        What metrics.json says: that of `metrics.evaluate` on the pooled predictions, with the operating point at each
        fold's own threshold, and `spread`.

    Raises:
        FitError, StoreError: as for `train.fit`.
    """
    resume = training.get("resume", False)
    packed = open_pack(store, run, settings, force=force, resume=resume)
    members, fold_of = _members(packed, settings, folds, seeds, by_centre)
    facts = {
        "folds": len(set(fold_of.values())),
        "by_centre": by_centre,
        "seeds": seeds,
        "extraction": extraction_settings(store),
        "windows_fitted_on": windows_fitted_on(store, packed, dict.fromkeys(fold_of, HELD_OUT)),
    }
    info = run_info("ensemble", packed, settings, members, **facts)
    with checkpoint.taking(run, info, ("store_digest", "tables", "members"), force=force, resume=resume) as found:
        checkpoint.write_atomically(run / "folds.csv", lambda file: _write_folds(file, fold_of))
        checkpoint.save_config(run, settings.model, settings.fit)
        train_members(store, run, members, **training)
        evaluated, found["thresholds"] = _evaluate(run, members, fold_of, settings)
        write_ensemble_card(run, info["members"], info, settings, checkpoint.read_metrics(run))
    return evaluated


def _evaluate(
    run: Path, members: Sequence[Member], fold_of: Mapping[str, str], settings: Settings
) -> tuple[dict[str, Any], dict[str, float]]:
    """Metrics of the pooled predictions and each fold's threshold; the files are written."""
    pooled, thresholds, seeds_apart = pool_predictions(run, members, fold_of)
    evaluated = evaluate_pooled(pooled, thresholds, fold_of, settings)
    evaluated["spread"] = spread(seeds_apart, fold_of)
    save_predictions(run / "predictions.parquet", prediction_records(pooled))
    checkpoint.write_json(run / "metrics.json", evaluated)
    return evaluated, thresholds


def _members(
    packed: Packed, settings: Settings, folds: int, seeds: int, by_centre: bool
) -> tuple[list[Member], dict[str, str]]:
    """The trainings, and the fold of each patient that is held out in one."""
    strata = strata_of(packed)
    own = settings.fit.split
    if by_centre:
        fold_of = centre_folds(packed.patients, packed.centres)
    elif folds >= 2:
        fold_of = draw_folds(packed.patients, strata, folds, own.seed)
    else:
        raise FitError(f"folds: expected two or more, found {folds}; or leave one centre out")
    members = []
    for number, fold in enumerate(dict.fromkeys(sorted(fold_of.values())), start=1):
        split = fold_split(packed.patients, strata, {p for p, f in fold_of.items() if f == fold}, own)
        members += over_seeds(settings, split, seeds, f"fold-{number}-")
    return members, fold_of


def pool_predictions(
    run: Path, members: Sequence[Member], fold_of: Mapping[str, str]
) -> tuple[pd.DataFrame, dict[str, float], dict[int, pd.DataFrame]]:
    """Predictions of held-out patients as means over seeds, each fold's threshold, and the predictions of each seed."""
    import pandas as pd

    order = {patient: number for number, patient in enumerate(fold_of)}
    by_fold: dict[str, list[pd.DataFrame]] = {}
    seeds: dict[int, list[pd.DataFrame]] = {}
    for member in members:
        frame = predictions_of(run, member)
        held_out = frame[frame["part"] == HELD_OUT]
        by_fold.setdefault(fold_of[held_out["patient"].iloc[0]], []).append(frame)
        seeds.setdefault(member.settings.fit.seed, []).append(held_out)
    thresholds, pooled = {}, []
    for fold, frames in by_fold.items():
        mean = mean_of(frames)
        chosen = mean[mean["part"] == "validation"]
        thresholds[fold] = metrics.youden_threshold(chosen["label"], chosen["probability"])
        pooled.append(mean[mean["part"] == HELD_OUT])
    whole = pd.concat(pooled, ignore_index=True)
    whole = whole.sort_values("patient", key=lambda names: names.map(order), ignore_index=True)
    if whole["patient"].duplicated().any():
        raise FitError("folds: a patient is held out in two folds; start again with --force")
    return whole, thresholds, {seed: pd.concat(frames, ignore_index=True) for seed, frames in seeds.items()}


def evaluate_pooled(
    pooled: pd.DataFrame, thresholds: Mapping[str, float], fold_of: Mapping[str, str], settings: Settings
) -> dict[str, Any]:
    """`metrics.evaluate` of the pooled predictions, each patient called at the threshold of the own fold.

    Further: `auc_within_folds` (see `metrics.auc_within`) and, by `folds`, the counts and main figures of each.
    """
    again = {"replicates": settings.fit.bootstrap, "seed": settings.fit.seed}
    folds = pooled["patient"].map(fold_of)
    own = folds.map(thresholds).to_numpy(dtype=np.float64)
    evaluated = metrics.evaluate(pooled, threshold=own, **again)
    calls = metrics.calls_at(pooled["probability"], own)
    evaluated["parts"][HELD_OUT] |= {
        "auc_within_folds": metrics.auc_within(pooled["label"], pooled["probability"], folds).as_json(),
        "folds": metrics.by_group(pooled, calls, folds, **again),
    }
    return evaluated | {"threshold": None, "thresholds": dict(thresholds), "chosen_on": train.chosen_on("validation")}


def spread(seeds: Mapping[int, pd.DataFrame], fold_of: Mapping[str, str]) -> dict[str, Any]:
    """How much the AUC differs between seeds (all folds pooled) and between folds (mean over seeds)."""
    own = {str(seed): metrics.auc(frame["label"], frame["probability"]) for seed, frame in seeds.items()}
    mean = mean_of([frame.sort_values("patient") for frame in seeds.values()])
    fold = np.array([fold_of[patient] for patient in mean["patient"]])
    folds = {
        str(name): metrics.auc(mean["label"][fold == name], mean["probability"][fold == name])
        for name in dict.fromkeys(sorted(fold))
    }
    return {
        "part": HELD_OUT,
        "auc_of_seeds": own,
        "auc_of_folds": folds,
        "seeds": summary(list(own.values())),
        "folds": summary(list(folds.values())),
    }


def _write_folds(file: Path, fold_of: Mapping[str, str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("patient", "fold"))
        writer.writerows(fold_of.items())

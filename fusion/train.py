"""Training: one visible loop over packed features."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import FitSettings, Settings
from ..errors import FitError
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from . import checkpoint, losses, metrics, trackers
from .card import write_card
from .characteristics import save_clinical
from .dataset import Batch, Dataset, Layout, OmicsScaler, fit_scalers, layout_of
from .epochs import BestEpochs, Checkpoint, Means, step_size
from .feature_space import save_spaces
from .flow import save_flow
from .model import MuMo
from .origin import extraction_settings, versions, windows_fitted_on
from .predict import Scores, prediction_frame, prediction_rows, resolve_device, save_predictions, score
from .splits import PARTS, Split, split_for
from .tabular import add_tables, table_digests

Progress = Callable[[int, int, dict[str, Any]], None]
"""Called after each epoch with its number (from 1), the number of epochs, and its line of the history."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pack ready for training."""

    packed: Packed
    split: Split
    scalers: dict[str, OmicsScaler]
    layout: Layout
    dataset: Dataset

    def patients(self, part: str) -> npt.NDArray[np.int64]:
        """Indices of the patients of a part."""
        return self.split.indices(self.packed.patients, part)


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of the loop."""

    model: MuMo
    """With the averaged weights."""
    selected: tuple[int, ...]
    """Epochs (from 1) whose weights were averaged, best first."""
    epochs: int
    """Epochs that were trained; fewer than asked for after an early stop."""
    averaged: dict[str, float]
    """Loss, AUC and C-index of the averaged weights on validation."""


def fit(
    store: Place,
    run: Path,
    settings: Settings,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Train MuMo on a store and write everything about it into the folder `run` (see `checkpoint`).

    The same store, settings and seed give the same weights on a CPU with the same number of threads, also when the
    training was killed and resumed.

    Args:
        store: folder of a store that `mumo extract` has filled.
        run: a new or empty folder, or one that holds a finished or failed run, which is replaced.
        settings: sections `model` and `fit` are used.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: called after each epoch.
        force: take the folder whatever it holds; files that are none of a run's are left alone.
        resume: go on with a run that was killed or failed; of a finished one, return its metrics.

    Returns:
        What metrics.json says (see `metrics.evaluate`).

    Raises:
        StoreError: the store is not there, is stale or contradicts itself.
        FitError: the folder is taken, nobody to train on or only one class, a split that cannot be used, a run to
            resume that has another store, settings or split, or a loss that is no longer finite.
    """
    target = resolve_device(device)
    if not resume:
        checkpoint.check_free(run, force=force)
    packed = add_tables(pack(Store.open(store)), settings.fit.tables)
    return fit_packed(packed, store, run, settings, device=target, progress=progress, force=force, resume=resume)


def fit_packed(
    packed: Packed,
    store: Place,
    run: Path,
    settings: Settings,
    *,
    device: torch.device,
    split: Split | None = None,
    progress: Progress | None = None,
    force: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """The same on the pack of a store, with a split of its patients in place of the settings'."""
    started = time.perf_counter()
    prepared = prepare(packed, settings, split)
    info = _facts(prepared, settings, device) | {
        "extraction": extraction_settings(store),
        "windows_fitted_on": windows_fitted_on(store, packed, prepared.split.parts),
    }
    found = checkpoint.check_resumable(run, info, settings, prepared.split) if resume else "new"
    if found == "finished":
        return checkpoint.read_metrics(run)
    keeper = Checkpoint(run / "checkpoint")
    if found == "new":
        checkpoint.begin(run, info, force=force or resume)
    else:
        checkpoint.mark_running(run, info)
    try:
        if found == "new":
            checkpoint.save_config(run, settings.model, settings.fit)
            checkpoint.save_inputs(run, prepared.layout, prepared.packed.codes)
            checkpoint.save_split(run, prepared.split)
            checkpoint.save_scalers(run, prepared.scalers)
            save_clinical(run / "clinical.parquet", packed, store)
            save_flow(run / "flow.json", packed, store)
        with (
            checkpoint.History(run / "history.jsonl") as history,
            trackers.opened(settings.fit.trackers, run, settings) as tracked,
        ):
            record = _recorder(history, [*tracked, *([progress] if progress else [])])
            trained = train(prepared, settings, device=device, progress=record, keeper=keeper, resumed=history.keep)
        checkpoint.save_weights(run, trained.model.state_dict())
        threshold, evaluated = _evaluate(run, prepared, trained.model, settings.fit, device)
        deep = [modality.name for modality in prepared.layout.modalities if modality.feature_width]
        save_spaces(run, packed, prepared.split, deep)
        info |= {
            "selected_epochs": list(trained.selected),
            "epochs": trained.epochs,
            "averaged": trained.averaged,
            "threshold": threshold,
            "chosen_on": evaluated["chosen_on"],
            "seconds": round(time.perf_counter() - started, 3),
        }
        write_card(run / "MODEL_CARD.md", info, settings, evaluated)
        checkpoint.finish(run, info)
        keeper.remove()
    except BaseException as error:
        checkpoint.fail(run, info, error)
        raise
    return evaluated


def prepare(packed: Packed, settings: Settings, split: Split | None = None) -> Prepared:
    """Split, omics statistics of the training patients, and what the model will read.

    Raises:
        FitError: no training patient with a label, one class only, or a split that cannot be used.
    """
    if not packed.patients:
        raise FitError("the store has no patients; check the cohort's patient table and run `mumo extract clinical`")
    split = split or split_for(packed, settings.fit.split)
    train_patients = split.indices(packed.patients, "train")
    labels = packed.labels[train_patients]
    found = sorted({int(label) for label in labels if label >= 0})
    if len(found) < 2:
        what = "no known label" if not found else f"only label {found[0]}"
        raise FitError(
            f"the {len(labels)} training patients have {what}; response cannot be learnt from fewer than two classes. "
            "Check RECIST, PFS and labels.cutoff_days in the cohort file"
        )
    if packed.labels.max() >= settings.model.classes:
        raise FitError(
            f"the store has labels up to {packed.labels.max()}, the model {settings.model.classes} classes; "
            "set model.classes"
        )
    scalers = fit_scalers(packed, train_patients, settings.fit.omics_limit)
    layout = layout_of(packed, scalers, settings.model)
    for name in settings.model.modalities:
        if not packed.units[name].counts.any():
            _log.warning("nobody has images of %s: the model gets no branch for them", name)
    return Prepared(packed, split, scalers, layout, Dataset(packed, layout, scalers, settings.fit.survival_endpoint))


def train(
    prepared: Prepared,
    settings: Settings,
    *,
    device: torch.device,
    progress: Progress | None = None,
    keeper: Checkpoint | None = None,
    resumed: Callable[[int], object] = lambda epochs: None,
) -> Trained:
    """The loop: Adam over random draws of bags and lesions; the best epochs on validation are averaged.

    Epochs are ranked by AUC on validation, then by loss, then the later first.

    Args:
        prepared: what to train on.
        settings: sections `model` and `fit`.
        device: where.
        progress: called after each epoch.
        keeper: checkpoint to go on from, and to write after each epoch.
        resumed: called once with the number of epochs that the checkpoint holds.
    """
    fit, dataset = settings.fit, prepared.dataset
    patients, validation = prepared.patients("train"), prepared.patients("validation")
    best = BestEpochs(fit.average_best)
    with _seeded(fit.seed, device):
        model = MuMo(prepared.layout, settings.model).to(device)
        stepper = Stepper(model, prepared, settings, device)
        done = keeper.load(model, stepper.optimiser, stepper.scaler, best) if keeper else 0
        resumed(done)
        while done < fit.epochs and not _stopped(best, done, fit.patience):
            started = time.perf_counter()
            rng = np.random.default_rng([fit.seed, done])
            torch.manual_seed(int(rng.integers(2**63)))  # dropout; an epoch does not depend on how many came before
            means = Means()
            model.train()
            batches = dataset.training_batches(
                patients, size=fit.batch_patients, bags=fit.bags_per_patient, lesions=fit.lesions_per_patient, rng=rng
            )
            for number, batch in enumerate(batches):
                means.add(stepper.step(batch.to(device), done, number))
            scores = validate(model, dataset, validation, fit, device)
            done += 1
            best.offer(done, scores, model.state_dict())
            if keeper is not None and keeper.due(fit.checkpoint_seconds):
                keeper.save(done, model, stepper.optimiser, stepper.scaler, best)
            if progress is not None:
                line = {"epoch": done, "train": means.values(), "validation": scores}
                progress(done, fit.epochs, {**line, "seconds": round(time.perf_counter() - started, 4)})
        model.load_state_dict(best.average())
        averaged = validate(model, dataset, validation, fit, device)
    return Trained(model.eval(), best.epochs, done, averaged)


def _stopped(best: BestEpochs, done: int, patience: int) -> bool:
    return bool(patience and done and done - best.epochs[0] >= patience)


class Stepper:
    """One step of the optimiser after another."""

    def __init__(self, model: MuMo, prepared: Prepared, settings: Settings, device: torch.device) -> None:
        fit = settings.fit
        if fit.precision == "float16" and device.type == "cpu":
            raise FitError("fit.precision = float16 needs CUDA; use bfloat16 or float32 on a CPU")
        self.model, self.fit = model, fit
        self.align = settings.model.alignment
        patients = prepared.patients("train")
        weights = losses.class_weights(prepared.dataset.labels[patients], fit, settings.model.classes)
        self.weights = None if weights is None else weights.to(device)
        self.steps = -(-len(patients) // fit.batch_patients)
        self.optimiser = torch.optim.Adam(
            model.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=fit.precision == "float16")
        self.autocast = torch.autocast(
            device.type, getattr(torch, fit.precision), enabled=fit.precision != "float32", cache_enabled=False
        )

    def step(self, batch: Batch, epoch: int, number: int) -> dict[str, float | None]:
        """Step `number` of an epoch (both from 0); the terms of its loss, nothing when no term was there."""
        fit = self.fit
        with self.autocast:
            output = self.model(batch)
        auxiliary = fit.auxiliary_weight * losses.fade(epoch, fit.epochs)
        terms = losses.terms(output.float(), batch, fit, align=self.align, weights=self.weights)
        loss = terms.total(fit, auxiliary)
        if loss is None:
            return {}
        value = _finite(loss, epoch)
        for group in self.optimiser.param_groups:
            group["lr"] = step_size(epoch + (number + 1) / self.steps, fit)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), fit.max_gradient_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return {"loss": value, **terms.values()}


def validate(
    model: MuMo, dataset: Dataset, patients: npt.NDArray[np.int64], fit: FitSettings, device: torch.device
) -> dict[str, float]:
    """Loss (response + weighted survival), AUC and C-index of some patients; NaN where undefined."""
    scores = score(model, dataset, patients, device=device, size=fit.batch_patients)
    labels, days, events = dataset.labels[patients], dataset.days[patients], dataset.events[patients]
    return {
        "loss": _loss(scores, labels, days, events, fit),
        "auc": metrics.auc(np.where(labels < 0, np.nan, labels > 0), scores.probability),
        "c_index": metrics.concordance(days, np.where(np.isnan(days), np.nan, events), scores.risk),
    }


def _loss(
    scores: Scores,
    labels: npt.NDArray[np.int64],
    days: npt.NDArray[np.float64],
    events: npt.NDArray[np.bool_],
    fit: FitSettings,
) -> float:
    response = losses.focal(torch.from_numpy(scores.logits), torch.from_numpy(labels), fit.focal_gamma)
    survival = losses.cox(torch.from_numpy(scores.risk), torch.from_numpy(days), torch.from_numpy(events))
    parts = [(1.0, response), (fit.survival_weight, survival)]
    found = [weight * float(term) for weight, term in parts if term is not None and weight > 0]
    return sum(found) if found else math.nan


def _finite(loss: Tensor, epoch: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FitError(
            f"epoch {epoch + 1}: the loss is {value}, expected a finite number; lower fit.learning_rate, "
            "and if that does not help look for features in the store that are not finite"
        )
    return value


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, and give the caller's back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _recorder(history: checkpoint.History, listeners: Sequence[Progress]) -> Progress:
    """Progress that writes each epoch's line of the history, then tells the listeners."""

    def record(epoch: int, epochs: int, line: dict[str, Any]) -> None:
        line = checkpoint.json_able(line)
        history.add(line)
        for listener in listeners:
            listener(epoch, epochs, line)

    return record


def _evaluate(
    run: Path, prepared: Prepared, model: MuMo, fit: FitSettings, device: torch.device
) -> tuple[float, dict[str, Any]]:
    """Predictions of everyone, the frozen threshold, and the metrics of every part; the files are written.

    The threshold is chosen on validation, or on training patients where there is no test part.
    """
    packed = prepared.packed
    scores = score(model, prepared.dataset, np.arange(len(packed.patients)), device=device, size=fit.batch_patients)
    parts = [prepared.split.parts[patient] for patient in packed.patients]
    chooser = threshold_part(parts)
    chosen = prepared.patients(chooser)
    labels = np.where(packed.labels[chosen] < 0, np.nan, packed.labels[chosen] > 0)
    threshold = metrics.youden_threshold(labels, scores.probability[chosen])
    rows = prediction_rows(packed, scores, parts)
    save_predictions(run / "predictions.parquet", rows)
    evaluated = metrics.evaluate(prediction_frame(rows), threshold=threshold, replicates=fit.bootstrap, seed=fit.seed)
    evaluated["chosen_on"] = chosen_on(chooser)
    checkpoint.write_json(run / "metrics.json", evaluated)
    return threshold, evaluated


def threshold_part(parts: Iterable[str]) -> str:
    """The part that chooses the threshold: validation, or train where validation is all that is held out."""
    return "validation" if "test" in set(parts) else "train"


def chosen_on(threshold: str) -> dict[str, str]:
    """Which part chose what, for metrics.json: figures of these parts are optimistic."""
    return {"weights": "validation", "threshold": threshold}


def _facts(prepared: Prepared, settings: Settings, device: torch.device) -> dict[str, Any]:
    """What run.json says before training starts."""
    packed, split = prepared.packed, prepared.split
    parts = {part: split.indices(packed.patients, part) for part in PARTS}
    return {
        "versions": versions(),
        "seed": settings.fit.seed,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "store_digest": packed.key,
        "weights": packed.weights,
        "weights_sha256": packed.weights_sha256,
        "windows_digest": packed.windows_digest,
        "tables": table_digests(settings.fit.tables),
        "words": {name: units.features.shape[1] for name, units in packed.units.items() if units.has_words},
        "patients": {
            part: {
                "patients": len(chosen),
                "responders": int((packed.labels[chosen] > 0).sum()),
                "non_responders": int((packed.labels[chosen] == 0).sum()),
                "unlabelled": int((packed.labels[chosen] < 0).sum()),
            }
            for part, chosen in parts.items()
        },
        "omics_dropped": {name: scaler.dropped for name, scaler in prepared.scalers.items()},
        "warnings": list(packed.warnings),
    }

"""Training: one visible loop over packed features."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .. import __version__
from ..config import FitSettings, Settings
from ..errors import FitError
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.records import Store
from . import checkpoint, losses, metrics
from .dataset import Dataset, Layout, OmicsScaler, fit_scalers, layout_of
from .model import MuMo
from .predict import Scores, prediction_frame, prediction_rows, resolve_device, save_predictions, score
from .splits import PARTS, Split, split_for

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


def fit(
    store: Path,
    run: Path,
    settings: Settings,
    *,
    device: str = "auto",
    progress: Progress | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Train MuMo on a store and write everything about it into the folder `run` (see `checkpoint`).

    The same store, settings and seed give the same weights on a CPU with the same number of threads.

    Args:
        store: folder of a store that `mumo extract` has filled.
        run: a new or empty folder, or one that holds a finished or failed run, which is replaced.
        settings: sections `model` and `fit` are used.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        progress: called after each epoch.
        force: take the folder whatever it holds; files that are none of a run's are left alone.

    Returns:
        What metrics.json says (see `metrics.evaluate`).

    Raises:
        StoreError: the store is not there, is stale or contradicts itself.
        FitError: the folder is taken, nobody to train on or only one class, a split that cannot be used, or a loss
            that is no longer finite.
    """
    started = time.perf_counter()
    target = resolve_device(device)
    checkpoint.check_free(run, force=force)
    prepared = prepare(pack(Store.open(store)), settings)
    info = _facts(prepared, settings, target)
    checkpoint.begin(run, info, force=force)
    try:
        checkpoint.save_config(run, settings.model, settings.fit)
        checkpoint.save_inputs(run, prepared.layout, prepared.packed.codes)
        checkpoint.save_split(run, prepared.split)
        checkpoint.save_scalers(run, prepared.scalers)
        with (run / "history.jsonl").open("w", encoding="utf-8") as history:
            trained = train(
                prepared, settings, device=target, progress=_recorder(history.write, history.flush, progress)
            )
        checkpoint.save_weights(run, trained.model.state_dict())
        threshold, evaluated = _evaluate(run, prepared, trained.model, settings.fit, target)
        info |= {
            "selected_epochs": list(trained.selected),
            "threshold": threshold,
            "seconds": round(time.perf_counter() - started, 3),
        }
        checkpoint.finish(run, info)
    except BaseException as error:
        checkpoint.fail(run, info, error)
        raise
    return evaluated


def prepare(packed: Packed, settings: Settings) -> Prepared:
    """Split, omics statistics of the training patients, and what the model will read.

    Raises:
        FitError: no training patient with a label, one class only, or a split that cannot be used.
    """
    if not packed.patients:
        raise FitError("the store has no patients; check the cohort's patient table and run `mumo extract clinical`")
    split = split_for(packed, settings.fit.split)
    train_patients = split.indices(packed.patients, "train")
    labels = packed.labels[train_patients]
    found = sorted({int(label) for label in labels if label >= 0})
    if len(found) < 2:
        what = "no known label" if not found else f"only label {found[0]}"
        raise FitError(
            f"the {len(labels)} training patients have {what}; response cannot be learnt from fewer than two classes. "
            "Check RECIST, PFS and labels.cutoff_days in the cohort file"
        )
    scalers = fit_scalers(packed, train_patients, settings.fit.omics_limit)
    layout = layout_of(packed, scalers, settings.model)
    for name in settings.model.modalities:
        if not packed.units[name].counts.any():
            _log.warning("nobody has images of %s: the model gets no branch for them", name)
    return Prepared(packed, split, scalers, layout, Dataset(packed, layout, scalers, settings.fit.survival_endpoint))


def train(prepared: Prepared, settings: Settings, *, device: torch.device, progress: Progress | None = None) -> Trained:
    """The loop: Adam over random draws of bags and lesions; the best epochs on validation are averaged.

    Epochs are ranked by AUC on validation, then by loss, then the later first.
    """
    fit, dataset = settings.fit, prepared.dataset
    patients, validation = prepared.patients("train"), prepared.patients("validation")
    best = BestEpochs(fit.average_best)
    with _seeded(fit.seed, device):
        model = MuMo(prepared.layout, settings.model).to(device)
        optimiser = torch.optim.Adam(
            model.parameters(), lr=fit.learning_rate, weight_decay=fit.weight_decay, fused=True
        )
        for epoch in range(fit.epochs):
            started = time.perf_counter()
            rng = np.random.default_rng([fit.seed, epoch])
            torch.manual_seed(int(rng.integers(2**63)))  # dropout; an epoch does not depend on how many came before
            auxiliary = fit.auxiliary_weight * losses.fade(epoch, fit.epochs)
            means = Means()
            model.train()
            for batch_on_host in dataset.training_batches(
                patients, size=fit.batch_patients, bags=fit.bags_per_patient, lesions=fit.lesions_per_patient, rng=rng
            ):
                batch = batch_on_host.to(device)
                terms = losses.terms(model(batch), batch, fit, align=settings.model.alignment)
                loss = terms.total(fit, auxiliary)
                if loss is None:
                    continue
                value = _finite(loss, epoch)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(model.parameters(), fit.max_gradient_norm)
                optimiser.step()
                means.add({"loss": value, **terms.values()})
            scores = validate(model, dataset, validation, fit, device)
            line = {"epoch": epoch + 1, "train": means.values(), "validation": scores}
            best.offer(epoch + 1, scores, model.state_dict())
            if progress is not None:
                progress(epoch + 1, fit.epochs, {**line, "seconds": round(time.perf_counter() - started, 4)})
        model.load_state_dict(best.average())
    return Trained(model.eval(), best.epochs)


def validate(
    model: MuMo, dataset: Dataset, patients: npt.NDArray[np.int64], fit: FitSettings, device: torch.device
) -> dict[str, float]:
    """Loss (response + weighted survival), AUC and C-index of some patients; NaN where undefined."""
    scores = score(model, dataset, patients, device=device, size=fit.batch_patients)
    labels, days, events = dataset.labels[patients], dataset.days[patients], dataset.events[patients]
    return {
        "loss": _loss(scores, labels, days, events, fit),
        "auc": metrics.auc(np.where(labels < 0, np.nan, labels), scores.probability),
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


class Means:
    """Running means of named numbers; None does not count, and what was always None stays so."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float | None]) -> None:
        """Count one more of each."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + (value or 0.0)
            self._counts[name] = self._counts.get(name, 0) + (value is not None)

    def values(self) -> dict[str, float | None]:
        """The means."""
        return {name: self._sums[name] / count if count else None for name, count in self._counts.items()}


class BestEpochs:
    """The weights of the best epochs on validation, and their average."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[tuple[float, float, int], dict[str, Tensor]]] = []

    def offer(self, epoch: int, scores: Mapping[str, float], state: Mapping[str, Tensor]) -> None:
        """Keep a copy of an epoch's weights if it is among the best so far."""
        auc, loss = scores["auc"], scores["loss"]
        rank = (-math.inf if math.isnan(auc) else auc, -math.inf if math.isnan(loss) else -loss, epoch)
        if len(self._kept) == self._count and rank < self._kept[-1][0]:
            return
        self._kept.append((rank, {name: tensor.detach().clone() for name, tensor in state.items()}))
        self._kept.sort(key=lambda kept: kept[0], reverse=True)
        del self._kept[self._count :]

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that are kept, best first."""
        return tuple(rank[2] for rank, _ in self._kept)

    def average(self) -> dict[str, Tensor]:
        """The mean of each weight; what is no floating-point number (a counter) comes from the best epoch."""
        states = [state for _, state in self._kept]
        return {
            name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in states[0].items()
        }


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators, and give the caller's back afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _recorder(write: Callable[[str], object], flush: Callable[[], object], progress: Progress | None) -> Progress:
    """Progress that also writes each epoch's line of the history."""

    def record(epoch: int, epochs: int, line: dict[str, Any]) -> None:
        line = checkpoint.json_able(line)
        write(json.dumps(line, allow_nan=False) + "\n")
        flush()
        if progress is not None:
            progress(epoch, epochs, line)

    return record


def _evaluate(
    run: Path, prepared: Prepared, model: MuMo, fit: FitSettings, device: torch.device
) -> tuple[float, dict[str, Any]]:
    """Predictions of everyone, the frozen threshold, and the metrics of every part; the files are written.

    The threshold is chosen on validation, or on training patients where validation is the held-out part.
    """
    packed = prepared.packed
    scores = score(model, prepared.dataset, np.arange(len(packed.patients)), device=device, size=fit.batch_patients)
    parts = [prepared.split.parts[patient] for patient in packed.patients]
    chosen = prepared.patients("validation" if "test" in parts else "train")
    labels = np.where(packed.labels[chosen] < 0, np.nan, packed.labels[chosen])
    threshold = metrics.youden_threshold(labels, scores.probability[chosen])
    rows = prediction_rows(packed, scores, parts)
    save_predictions(run / "predictions.parquet", rows)
    evaluated = metrics.evaluate(prediction_frame(rows), threshold=threshold, replicates=fit.bootstrap, seed=fit.seed)
    checkpoint.write_json(run / "metrics.json", evaluated)
    return threshold, evaluated


def _facts(prepared: Prepared, settings: Settings, device: torch.device) -> dict[str, Any]:
    """What run.json says before training starts."""
    packed, split = prepared.packed, prepared.split
    parts = {part: split.indices(packed.patients, part) for part in PARTS}
    return {
        "versions": {
            "mumo": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "seed": settings.fit.seed,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "store_digest": packed.key,
        "weights": packed.weights,
        "weights_sha256": packed.weights_sha256,
        "windows_digest": packed.windows_digest,
        "patients": {
            part: {
                "patients": len(chosen),
                "responders": int((packed.labels[chosen] == 1).sum()),
                "non_responders": int((packed.labels[chosen] == 0).sum()),
                "unlabelled": int((packed.labels[chosen] < 0).sum()),
            }
            for part, chosen in parts.items()
        },
        "omics_dropped": {name: scaler.dropped for name, scaler in prepared.scalers.items()},
        "warnings": list(packed.warnings),
    }

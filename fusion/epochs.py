"""What training keeps from epoch to epoch: means, step size, the best weights, and the checkpoint to go on from."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import FitSettings
from ..errors import FitError
from .checkpoint import write_atomically
from .model import MuMo

Rank = tuple[float, float, int]
"""AUC, minus loss, epoch: the larger the better; −∞ where undefined."""


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


def step_size(done: float, settings: FitSettings) -> float:
    """Adam's step size after `done` epochs (with a fraction): warm-up, then `fit.schedule`.

    It rises in a straight line over the warm-up, and falls as (1 + cos π x) / 2 over the share x of what is left.
    """
    warm = settings.warmup_epochs
    if done < warm:
        return settings.learning_rate * done / warm
    if settings.schedule == "constant":
        return settings.learning_rate
    share = min(1.0, (done - warm) / max(1e-9, settings.epochs - warm))
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


class BestEpochs:
    """The weights of the best epochs on validation, and their average."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.kept: list[tuple[Rank, dict[str, Tensor]]] = []
        """Rank and weights, best first."""

    def offer(self, epoch: int, scores: Mapping[str, float], state: Mapping[str, Tensor]) -> None:
        """Keep a copy of an epoch's weights if it is among the best so far."""
        auc, loss = scores["auc"], scores["loss"]
        rank = (-math.inf if math.isnan(auc) else auc, -math.inf if math.isnan(loss) else -loss, epoch)
        if len(self.kept) == self._count and rank < self.kept[-1][0]:
            return
        self.kept.append((rank, {name: tensor.detach().clone() for name, tensor in state.items()}))
        self.kept.sort(key=lambda kept: kept[0], reverse=True)
        del self.kept[self._count :]

    @property
    def epochs(self) -> tuple[int, ...]:
        """The epochs that are kept, best first."""
        return tuple(rank[2] for rank, _ in self.kept)

    def average(self) -> dict[str, Tensor]:
        """The mean of each weight; what is no floating-point number (a counter) comes from the best epoch."""
        states = [state for _, state in self.kept]
        return {
            name: torch.stack([state[name].double() for state in states]).mean(dim=0).to(tensor.dtype)
            if tensor.is_floating_point()
            else tensor
            for name, tensor in states[0].items()
        }


# --- the checkpoint of a training that is going on --------------------------------------------------------


class Checkpoint:
    """A folder from which training goes on after a kill to the same final weights.

    `state.safetensors` holds model and optimiser after the last whole epoch, `best-<epoch>.safetensors` the weights
    of the best epochs. Random numbers need no state: each epoch seeds its own. Files of best epochs are written
    before the state that names them, and deleted after the one that does not, so the state is whole at any moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved = time.monotonic()

    def due(self, seconds: float) -> bool:
        """Whether as much time has passed since the last one, or since the start."""
        return time.monotonic() - self._saved >= seconds

    def save(
        self, epoch: int, model: MuMo, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, best: BestEpochs
    ) -> None:
        """Write the state after `epoch` (from 1)."""
        self.folder.mkdir(exist_ok=True)
        for rank, state in best.kept:
            file = self._best(rank[2])
            if not file.exists():
                _write(file, state, {})
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for number, entry in optimiser.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": tensor for name, tensor in entry.items()}
        facts = {"epoch": epoch, "best": [rank for rank, _ in best.kept], "scaler": scaler.state_dict()}
        _write(self.folder / "state.safetensors", tensors, facts)
        self._saved = time.monotonic()
        for file in set(self.folder.glob("best-*.safetensors")) - {self._best(epoch) for epoch in best.epochs}:
            file.unlink()

    def load(
        self, model: MuMo, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, best: BestEpochs
    ) -> int:
        """Fill all four from the folder; returns how many epochs are done, 0 without a checkpoint.

        Raises:
            FitError: a checkpoint that cannot be read or is that of another model.
        """
        if not (self.folder / "state.safetensors").exists():
            return 0
        try:
            tensors, facts = _read(self.folder / "state.safetensors")
            model.load_state_dict(_below(tensors, "model."))
            state: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _below(tensors, "adam.").items():
                number, entry = name.split(".", 1)
                state.setdefault(int(number), {})[entry] = tensor
            optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
            scaler.load_state_dict(facts["scaler"])
            device = next(model.parameters()).device
            for auc, loss, epoch in facts["best"]:
                kept = {name: tensor.to(device) for name, tensor in _read(self._best(epoch))[0].items()}
                best.kept.append(((auc, loss, epoch), kept))
        except (OSError, SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise FitError(f"{self.folder}: cannot be gone on from: {error}; start again with --force") from error
        return int(facts["epoch"])

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _best(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:05d}.safetensors"


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _write(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(facts)}
    write_atomically(file, lambda temporary: save_file(plain, temporary, metadata=metadata))


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no mapping
        return tensors, json.loads((opened.metadata() or {}).get("facts", "{}"))

"""Attention-based multiple-instance learning on one modality: a baseline without fusion.

Gated attention pooling over a patient's bags (mean of their words) or lesions, and a linear classifier (Ilse et al.,
ICML 2018). Inputs are standardised with the training patients' units.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..stores.packed import Units
from .estimates import Numbers
from .pooling import unit_features

WIDTH = 64
"""Width of the hidden layer and of the attention."""

EPOCHS = 60
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-3
BATCH = 16


class GatedAttention(nn.Module):
    """Units to one log odds a patient."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Dropout(0.4))
        self.value = nn.Linear(WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.score = nn.Linear(WIDTH, 1)
        self.out = nn.Linear(WIDTH, 1)

    def forward(self, units: Tensor, mask: Tensor) -> Tensor:
        """Log odds [patient] of `units` [patient, unit, feature]; `mask` [patient, unit] is true where there is one."""
        hidden = self.hidden(units)
        scores = self.score(torch.tanh(self.value(hidden)) * torch.sigmoid(self.gate(hidden))).squeeze(-1)
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=1)
        odds: Tensor = self.out((weights[..., None] * hidden).sum(dim=1)).squeeze(-1)
        return odds


def train(
    units: Units,
    labels: npt.NDArray[np.int8],
    patients: npt.NDArray[np.int64],
    validation: npt.NDArray[np.int64],
    *,
    seed: int,
) -> Numbers:
    """Train on some patients and predict everyone.

    Args:
        units: bags or lesions of the pack.
        labels: [patient] 1 responder, 0 non-responder, −1 unknown.
        patients: indices of the training patients; all have a label and units.
        validation: indices of patients with labels and units, whose loss chooses the epoch; without any, the last.
        seed: seed of initial weights, order and dropout.

    Returns:
        [patient] probability of response; NaN for patients without units.
    """
    features = unit_features(units)
    rows = np.concatenate([features[units.offsets[p] : units.offsets[p + 1]] for p in patients])
    spread = rows.std(axis=0)
    scaled = torch.from_numpy((features - rows.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).float()
    truth = torch.from_numpy(labels.astype(np.float32))
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = GatedAttention(scaled.shape[1])
        optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        best, kept = math.inf, model.state_dict()
        for _ in range(EPOCHS):
            model.train()
            order = rng.permutation(patients)
            for start in range(0, len(order), BATCH):
                chosen = order[start : start + BATCH]
                loss = _loss(model, scaled, units, chosen, truth)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            model.eval()
            with torch.no_grad():
                reached = float(_loss(model, scaled, units, validation, truth)) if len(validation) else -math.inf
            if reached < best or not len(validation):
                best, kept = reached, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(kept)
    return _everyone(model.eval(), scaled, units)


@torch.no_grad()
def _everyone(model: GatedAttention, scaled: Tensor, units: Units) -> Numbers:
    out = np.full(len(units.counts), np.nan)
    for patient in np.flatnonzero(units.counts):
        out[patient] = torch.sigmoid(model(*_padded(scaled, units, np.array([patient])))).item()
    return out


def _loss(
    model: GatedAttention, scaled: Tensor, units: Units, patients: npt.NDArray[np.int64], truth: Tensor
) -> Tensor:
    odds = model(*_padded(scaled, units, patients))
    return nn.functional.binary_cross_entropy_with_logits(odds, truth[torch.from_numpy(patients)])


def _padded(scaled: Tensor, units: Units, patients: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """[patient, unit, feature] with zeros behind each patient's last unit, and the mask [patient, unit]."""
    counts = torch.from_numpy(units.counts[patients])
    parts = [scaled[units.offsets[p] : units.offsets[p + 1]] for p in patients]
    mask = torch.arange(int(counts.max()))[None, :] < counts[:, None]
    return nn.utils.rnn.pad_sequence(parts, batch_first=True), mask

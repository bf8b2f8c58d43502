"""The terms of the loss, each a pure function; a term with nothing to average over is absent (None), never NaN."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from ..config import FitSettings
from ..errors import FitError
from .dataset import Batch
from .model import Output

Ties = Literal["efron", "breslow"]


def focal(logits: Tensor, targets: Tensor, gamma: float, weights: Tensor | None = None) -> Tensor | None:
    """Mean of −(1 − p)^γ · log p, p the probability of the true class (Lin et al., arXiv:1708.02002).

    Args:
        logits: [..., class].
        targets: [...] int64; what is negative is unknown and left out.
        gamma: focusing exponent; 0 gives the cross-entropy.
        weights: [class] how much each class counts in the mean; all the same by default.
    """
    known = targets >= 0
    if not bool(known.any()):
        return None
    log_p = functional.log_softmax(logits[known], dim=-1).gather(-1, targets[known][:, None])[:, 0]  # (known,)
    # 1 − p as −expm1(log p) keeps its digits, and its gradient, where p is close to 1
    loss = -((-torch.expm1(log_p)).clamp(min=1e-12) ** gamma) * log_p
    if weights is None:
        return loss.mean()
    own = weights[targets[known]]  # (known,)
    return (own * loss).sum() / own.sum()


def class_weights(labels: npt.NDArray[np.int64], settings: FitSettings, classes: int) -> Tensor | None:
    """[class] weights of the response loss after `fit.class_weights`, with the mean 1 over the known labels.

    Raises:
        FitError: another number of weights than of classes.
    """
    chosen = settings.class_weights
    if chosen == "none":
        return None
    counts = np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
    if chosen == "balanced":
        weights = np.divide(1.0, counts, out=np.zeros(classes), where=counts > 0)
    elif len(chosen) == classes:
        weights = np.array(chosen, dtype=np.float64)
    else:
        raise FitError(f"fit.class_weights: {len(chosen)} weights for {classes} classes; give one a class")
    mean = (weights * counts).sum() / max(1.0, counts.sum())
    return torch.tensor(weights / mean if mean else weights, dtype=torch.float32)


def cox(risk: Tensor, days: Tensor, events: Tensor, ties: Ties = "efron") -> Tensor | None:
    """Negative logarithm of Cox's partial likelihood, divided by the number of events.

    Efron's or Breslow's way with tied event times (Efron, J Am Stat Assoc 72:557, 1977).

    Args:
        risk: [patient] log relative hazard.
        days: [patient] time of event or censoring; NaN unknown, and the patient is left out.
        events: [patient] bool: event observed.
        ties: how tied event times are treated.
    """
    known = ~torch.isnan(days)
    risk, days, events = risk[known], days[known], events[known]
    if not bool(events.any()):
        return None
    at_risk = days[None] >= days[events][:, None]  # (event, patient)
    lowest = torch.finfo(risk.dtype).min
    log_sum = torch.logsumexp(risk[None].masked_fill(~at_risk, lowest), dim=1)  # (event,)
    if ties == "efron":
        event_days, event_risk = days[events], risk[events]
        tied = event_days[None] == event_days[:, None]  # (event, event)
        log_tied = torch.logsumexp(event_risk[None].masked_fill(~tied, lowest), dim=1)
        # the k-th of m tied events (k from 0) sees the risk set less k/m of the tied ones
        rank = tied.tril(diagonal=-1).sum(dim=1)
        share = rank.to(risk.dtype) / tied.sum(dim=1)
        log_sum = log_sum + torch.log1p(-share * torch.exp(log_tied - log_sum))
    return (log_sum - risk[events]).mean()


def alignment(first: Tensor, second: Tensor, temperature: float) -> Tensor | None:
    """NT-Xent over pairs of vectors (SimCLR; Chen et al., arXiv:2002.05709), both directions.

    Of the 2N vectors, each has its partner as the positive and the 2N − 2 of other patients, of both modalities, as
    negatives; similarity is the cosine over the temperature. With fewer than two pairs there is no negative.

    Args:
        first, second: [pair, d] agnostic parts of one modality and the other.
        temperature: divides the cosine.
    """
    pairs = len(first)
    if pairs < 2:
        return None
    vectors = functional.normalize(torch.cat([first, second]), dim=1)  # (2N, d)
    similarity = vectors @ vectors.t() / temperature  # (2N, 2N)
    itself = torch.eye(2 * pairs, dtype=torch.bool, device=first.device)
    partner = torch.arange(2 * pairs, device=first.device).roll(pairs)
    return functional.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def fade(epoch: int, epochs: int) -> float:
    """1 − exp(−5 (1 − e/E)²): how strong the auxiliary losses are in epoch e (from 0) of E."""
    return 1.0 - math.exp(-5.0 * (1.0 - epoch / epochs) ** 2)


@dataclass(frozen=True)
class Terms:
    """Terms of one step's loss before weighting; what is absent is None."""

    response: Tensor | None
    survival: Tensor | None
    alignment: Tensor | None
    word: Tensor | None
    bag: Tensor | None
    lesion: Tensor | None

    def total(self, settings: FitSettings, auxiliary_weight: float) -> Tensor | None:
        """The weighted sum of the terms that are there; None when none is."""
        weighted = [
            (1.0, self.response),
            (settings.survival_weight, self.survival),
            (settings.alignment_weight, self.alignment),
            *((auxiliary_weight, term) for term in (self.word, self.bag, self.lesion)),
        ]
        present = [weight * term for weight, term in weighted if term is not None and weight > 0]
        return torch.stack(present).sum() if present else None

    def values(self) -> dict[str, float | None]:
        """The terms as numbers, and the sum of the auxiliary ones, for logs."""
        numbers = {name: None if term is None else float(term.detach()) for name, term in vars(self).items()}
        heads = [numbers[name] for name in ("word", "bag", "lesion")]
        known = [number for number in heads if number is not None]
        return {**numbers, "auxiliary": sum(known) if known else None}


def terms(output: Output, batch: Batch, settings: FitSettings, *, align: bool, weights: Tensor | None = None) -> Terms:
    """Every term for a batch; `align` = whether the contrastive term is wanted, `weights` those of the classes."""
    bags, lesions = batch.imaging.get("pathology"), batch.imaging.get("radiology")
    gamma = settings.focal_gamma
    return Terms(
        response=focal(output.logits, batch.labels, gamma, weights),
        survival=cox(output.risk, batch.days, batch.events),
        alignment=_alignment_of_pairs(output, settings.alignment_temperature) if align else None,
        word=focal(output.auxiliary["word"], bags.word_classes, gamma) if bags else None,
        bag=focal(output.auxiliary["bag"], bags.classes, gamma) if bags else None,
        lesion=focal(output.auxiliary["lesion"], lesions.classes, gamma) if lesions else None,
    )


def _alignment_of_pairs(output: Output, temperature: float) -> Tensor | None:
    """Mean over the pairs of modalities of the alignment over the patients that have both."""
    if output.agnostic is None:
        return None
    found = []
    count = output.present.shape[1]
    for first in range(count):
        for second in range(first + 1, count):
            both = output.present[:, first] & output.present[:, second]
            term = alignment(output.agnostic[both, first], output.agnostic[both, second], temperature)
            if term is not None:
                found.append(term)
    return torch.stack(found).mean() if found else None

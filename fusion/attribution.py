"""What a trained model's prediction for one patient rests on: bags, words, lesions, items, omics features.

Two measures stand side by side, because they answer different questions. The *weight* says how much was looked at a
part (attention and pooling weights, with a sum of 1). The *effect* says by how much the output that is explained (the
risk, or the response) is higher with the part than without it: the part is left out, and the model is asked again
(occlusion; Zeiler and Fergus, 2014), for bags and lesions beside all or some of the others. A part may be looked at a
lot and change nothing.

Omics features get integrated gradients (Sundararajan et al., 2017) from the training patients' median, where all
standardised features are 0; attributions of all features sum to the difference of the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import FitError
from ..stores.packed import MODALITIES
from .dataset import Batch, ImagingBatch
from .model import MuMo, Output, PathologyBranch

Floats = npt.NDArray[np.float64]

Target = Literal["risk", "response"]
"""The output that is explained: the log relative hazard, or the log odds of response."""

CHUNK_UNITS = 20_000
"""Units of all copies of a patient that are before the model at a time."""

IG_STEPS = 50
"""Points of the path of integrated gradients (Gauss–Legendre)."""


EXACT_UNITS = 6
"""Bags or lesions of which all sets are asked, 64 at most."""

MIN_ORDERS, MAX_ORDERS, ORDERS_UNITS = 4, 64, 400_000
"""Orders in which more of them join, drawn; as many as cost about that number of units before the model."""


@dataclass(frozen=True, eq=False)
class Parts:
    """Weights and effects of parts of a patient, in the order of the pack."""

    weight: Floats
    """Sums to 1 where there are any."""
    effect: Floats
    """Of the part on the output, log hazard for the risk and log odds for the response: of words and items, output with
    it less output without it; of bags, lesions and rows, Shapley values."""


@dataclass(frozen=True, eq=False)
class OmicsAttribution:
    """Integrated gradients of the omics features."""

    values: dict[str, Floats]
    """Modality → [unit, column], log hazard or log odds."""
    difference: float
    """Output as it is less output with all features at the training patients' median."""

    @property
    def gap(self) -> float:
        """Sum of all attributions less `difference`: 0 but for numerical integration."""
        return sum(float(values.sum()) for values in self.values.values()) - self.difference


class Probe:
    """One patient before a model.

    What words and lesions become before they attend to each other is computed once; what comes after it is asked again
    for many copies of the patient that differ in what is left out.
    """

    def __init__(self, model: MuMo, batch: Batch, target: Target = "risk") -> None:
        if len(batch.labels) != 1:
            raise FitError(f"a probe takes one patient, found {len(batch.labels)}")
        self.model, self.batch, self.target = model.eval(), batch, target
        self._branches: dict[str, Any] = {
            layout.name: getattr(modality, "branch")  # noqa: B009, nn.ModuleList forgets what its modules are
            for layout, modality in zip(model.layout.modalities, model.modalities, strict=True)
            if layout.feature_width
        }
        with torch.no_grad():
            self.output: Output = model(batch)
            self.tokens: dict[str, Tensor] = {
                name: branch.tokens(batch.imaging[name]) for name, branch in self._branches.items()
            }

    @property
    def value(self) -> float:
        """The output that is explained, of the patient as it is."""
        return float(target_of(self.output, self.target)[0])

    def units(self, modality: str) -> int:
        """Number of bags, lesions or rows of a table."""
        imaging = self.batch.imaging.get(modality)
        return 0 if imaging is None else int(imaging.mask.sum())

    def weights(self, name: str) -> Floats:
        """Weights of the patient as it is, see `Output.weights`: [unit, word] for `<modality>/words`, else [part]."""
        values = self.output.weights[name].double().cpu().numpy()
        return values if name.endswith("/words") else values[0]

    # --- copies of the patient ----------------------------------------------------------------------------

    def without_units(self, modality: str, kept: Tensor) -> Floats:
        """Output [copy] where the units that `kept` [copy, unit] bool does not name are left out, omics and all."""
        copies = []
        for part in torch.split(kept, self._chunk()):
            tokens = {name: known.repeat(len(part), 1) for name, known in self.tokens.items()}
            copies.append(self._ask(self._copies(len(part), tokens, {modality: part})))
        return np.concatenate(copies) if copies else np.zeros(0)

    def with_tokens(self, modality: str, tokens: Tensor) -> Floats:
        """Output [copy] where the units of a modality have `tokens` [copy, unit, d] in place of their own."""
        copies = []
        for part in torch.split(tokens, self._chunk()):
            given = {name: known.repeat(len(part), 1) for name, known in self.tokens.items()}
            copies.append(self._ask(self._copies(len(part), given | {modality: part.flatten(0, 1)}, {})))
        return np.concatenate(copies) if copies else np.zeros(0)

    def without_words(self, kept: Tensor) -> Floats:
        """Output [copy] where the words of bags that `kept` [copy, bag, word] bool does not name are left out.

        A bag that has lost all its words is left out with its omics.
        """
        branch, imaging = self._branches["pathology"], self.batch.imaging["pathology"]
        found = []
        for words in kept:
            left = words.any(dim=1)
            with torch.no_grad():
                # a bag without words has no softmax; its token is not read
                tokens = branch.tokens(imaging, words | ~left[:, None])
            copy = self._copies(1, self.tokens | {"pathology": tokens}, {"pathology": left[None]})
            found.append(self._ask(copy))
        return np.concatenate(found) if found else np.zeros(0)

    def without_items(self, group: str) -> Floats:
        """Output [item] where one item of a report or of patient information is unknown; as it is where it was so."""
        known = self.batch.known[group][0]
        kept = ~torch.eye(len(known), dtype=torch.bool, device=known.device)
        copies = self._copies(len(known), {n: t.repeat(len(known), 1) for n, t in self.tokens.items()}, {})
        return self._ask(replace(copies, known=copies.known | {group: kept & known}))

    def with_omics(self, omics: Mapping[str, Tensor]) -> Tensor:
        """Output [copy] with other omics features: modality → [copy, unit, column]. It has a gradient."""
        count = len(next(iter(omics.values())))
        tokens = {name: known.repeat(count, 1) for name, known in self.tokens.items()}
        copies = self._copies(count, tokens, {})
        imaging = {
            name: replace(entry, omics=omics[name]) if name in omics else entry
            for name, entry in copies.imaging.items()
        }
        return target_of(self.model(replace(copies, imaging=imaging)), self.target)

    def with_features(self, modality: str, features: Tensor) -> Tensor:
        """Output [copy] with other deep features of lesions: [copy, lesion, width]. It has a gradient."""
        count, branch, imaging = len(features), self._branches[modality], self.batch.imaging[modality]
        changed = replace(imaging, features=features.flatten(0, 1)[:, None], owner=imaging.owner.repeat(count))
        tokens = {name: known.repeat(count, 1) for name, known in self.tokens.items()}
        copies = self._copies(count, tokens | {modality: branch.tokens(changed)}, {})
        return target_of(self.model(copies), self.target)

    def _chunk(self) -> int:
        most = max((entry.mask.shape[1] for entry in self.batch.imaging.values()), default=1)
        return max(1, CHUNK_UNITS // most)

    def _copies(self, count: int, tokens: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Batch:
        """The patient `count` times; `kept` [count, unit] bool says which units of a modality are there."""
        batch = self.batch
        imaging = {
            name: _copied(entry, count, tokens.get(name), kept.get(name)) for name, entry in batch.imaging.items()
        }
        return Batch(
            patients=batch.patients.expand(count),
            imaging=imaging,
            codes={group: codes.expand(count, -1) for group, codes in batch.codes.items()},
            known={group: known.expand(count, -1) for group, known in batch.known.items()},
            labels=batch.labels.expand(count),
            days=batch.days.expand(count),
            events=batch.events.expand(count),
        )

    @torch.no_grad()
    def _ask(self, batch: Batch) -> Floats:
        return np.asarray(target_of(self.model(batch), self.target).double().cpu().numpy())


def target_of(output: Output, target: Target) -> Tensor:
    """[B] log relative hazard, or log odds of response: of any class but the first, the non-responders."""
    if target == "risk":
        return output.risk
    return output.logits[:, 1:].logsumexp(dim=1) - output.logits[:, 0]


def _copied(entry: ImagingBatch, count: int, tokens: Tensor | None, kept: Tensor | None) -> ImagingBatch:
    most = entry.mask.shape[1]
    mask = entry.mask.expand(count, -1)
    if kept is not None:
        # units stand at the front of their row, padding after them
        there = torch.zeros_like(entry.mask).expand(count, -1).clone()
        there[:, : kept.shape[1]] = kept
        mask = mask & there
    offsets = most * torch.arange(count, device=entry.slots.device)[:, None]
    return ImagingBatch(
        features=entry.features[:0],
        rows=None,
        owner=entry.owner[:0],
        slots=(offsets + entry.slots).flatten(),
        mask=mask,
        time=entry.time.expand(count, -1),
        omics=entry.omics.expand(count, -1, -1),
        omics_mask=entry.omics_mask & mask,
        classes=entry.classes.repeat(count),
        word_classes=entry.word_classes.repeat(count, 1),
        tokens=tokens,
    )


# --- parts ------------------------------------------------------------------------------------------------


def unit_parts(probe: Probe, modality: str) -> Parts:
    """Bags, lesions or rows of a table: weights of the pooling, and effects [unit].

    Effects are Shapley values: by how much the unit moves the output when it joins some of the others, as a mean over
    all orders in which they may join (Shapley, 1953; Štrumbelj and Kononenko, 2014). They sum to the output less that
    without any of them. Leaving out one unit alone would not do: of two bags that say the same, neither is missed.
    Exact for at most `EXACT_UNITS`, else over drawn orders, always the same.
    """
    count = probe.units(modality)
    weight = probe.weights(f"{modality}/units")[:count]
    device = probe.batch.labels.device

    def ask(kept: npt.NDArray[np.bool_]) -> Floats:
        return probe.without_units(modality, torch.from_numpy(kept).to(device))

    return Parts(weight, _shapley_exact(ask, count) if count <= EXACT_UNITS else _shapley_drawn(ask, count))


def _shapley_exact(ask: Callable[[npt.NDArray[np.bool_]], Floats], count: int) -> Floats:
    """Shapley values [unit] from the outputs of all sets of units."""
    sets = (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1  # (set, unit), the n-th set in binary
    outputs, sizes = ask(sets), sets.sum(axis=1)
    values = np.empty(count)
    for unit in range(count):
        without = np.flatnonzero(~sets[:, unit])
        share = [1 / (count * math.comb(count - 1, size)) for size in sizes[without]]
        values[unit] = share @ (outputs[without + 2**unit] - outputs[without])
    return values


def _shapley_drawn(ask: Callable[[npt.NDArray[np.bool_]], Floats], count: int) -> Floats:
    """Shapley values [unit] over drawn orders, each with its reverse (Mitchell et al., 2022)."""
    rng, values = np.random.default_rng(0), np.zeros(count)
    pairs = int(np.clip(ORDERS_UNITS // (2 * count**2), MIN_ORDERS // 2, MAX_ORDERS // 2))
    for _ in range(pairs):
        drawn = rng.permutation(count)
        for order in (drawn, drawn[::-1]):
            place = np.argsort(order)
            outputs = ask(place < np.arange(count + 1)[:, None])  # (number that have joined, unit)
            values[order] += np.diff(outputs)
    return values / (2 * pairs)


def word_parts(probe: Probe) -> Parts:
    """Words of all bags [bag, word]: weight within the bag times the bag's, and effects of leaving out one.

    An effect is exact up to the bag's token and of first order from there on: gradient of the output · change of the
    token.
    """
    bags = probe.units("pathology")
    branch = probe._branches["pathology"]
    imaging = probe.batch.imaging["pathology"]
    weight = probe.weights("pathology/words") * probe.weights("pathology/units")[:bags, None]
    slope = _token_gradient(probe, "pathology")  # (bag, d)
    effect = np.zeros_like(weight)
    for bag in range(bags):
        effect[bag] = _without_one_word(branch, imaging, bag, probe.tokens["pathology"][bag], slope[bag])
    return Parts(weight, effect)


@torch.no_grad()
def _without_one_word(branch: PathologyBranch, imaging: ImagingBatch, bag: int, token: Tensor, slope: Tensor) -> Floats:
    gated = branch.gate(imaging.features[bag : bag + 1], imaging.time[imaging.owner[bag : bag + 1]])  # (1, word, d)
    words = gated.shape[1]
    if words == 1:
        return np.zeros(1)  # the bag's only word is the bag
    kept = ~torch.eye(words, dtype=torch.bool, device=gated.device)
    mixed = branch.attend(gated.expand(words, -1, -1), kept)  # (copy, word, d)
    without = branch.feed_forward(branch.pool(mixed, kept)[0])  # (copy, d)
    return np.asarray(((token - without) @ slope).double().cpu().numpy())


def _token_gradient(probe: Probe, modality: str) -> Tensor:
    """Gradient of the output by the units' tokens [unit, d]."""
    tokens = {name: known.clone() for name, known in probe.tokens.items()}
    asked = tokens[modality].requires_grad_()
    output = target_of(probe.model(probe._copies(1, tokens, {})), probe.target)
    slope: Tensor = torch.autograd.grad(output.sum(), asked)[0]
    return slope


def item_parts(probe: Probe, group: str, weights_name: str) -> Parts:
    """Items of a report or of patient information [item]; 0 where an item is unknown."""
    known = probe.batch.known[group][0].cpu().numpy()
    effect = np.where(known, probe.value - probe.without_items(group), 0.0)
    return Parts(probe.weights(weights_name), effect)


def feature_gradients(probe: Probe, average: Floats, steps: int = IG_STEPS) -> Floats:
    """Gradient of the output by the deep features of the patient's lesions [lesion, width], for Grad-CAM.

    It is the mean over the straight path from lesions of `average` [width] features to the patient's own, as of
    integrated gradients: (features − average) · gradient, summed over lesions, is the difference of the outputs. The
    gradient at the patient alone would not do: behind layer normalisation and gates, more of what a lesion already has
    changes little.
    """
    from captum.attr import IntegratedGradients

    dtype = probe.tokens["radiology"].dtype
    given = probe.batch.imaging["radiology"].features[None, :, 0].to(dtype)  # (1, lesion, width)
    start = torch.as_tensor(average, dtype=dtype, device=given.device).expand_as(given)
    mean_gradient = IntegratedGradients(partial(probe.with_features, "radiology"), multiply_by_inputs=False)
    found = mean_gradient.attribute(given, start, n_steps=steps, method="gausslegendre", internal_batch_size=steps)
    return np.asarray(found[0].double().cpu().numpy())


def omics_attribution(probe: Probe, steps: int = IG_STEPS) -> OmicsAttribution | None:
    """Integrated gradients of the features of all units that have some; none where no unit has."""
    from captum.attr import IntegratedGradients

    imaging = probe.batch.imaging
    widths = {modality.name: modality.omics_width for modality in probe.model.layout.modalities}
    # rows of a table are their numbers; bags and lesions may be without omics features
    there = {name: entry.omics_mask if name in MODALITIES else entry.mask for name, entry in imaging.items()}
    names = [name for name, mask in there.items() if widths[name] and bool(mask.any())]
    if not names:
        return None

    def output(*omics: Tensor) -> Tensor:
        return probe.with_omics(dict(zip(names, omics, strict=True)))

    given = tuple(imaging[name].omics for name in names)
    medians = tuple(torch.zeros_like(values) for values in given)
    found = IntegratedGradients(output).attribute(
        given, medians, n_steps=steps, method="gausslegendre", internal_batch_size=min(steps, probe._chunk())
    )
    with torch.no_grad():
        difference = float((output(*given) - output(*medians))[0])
    values = {
        name: np.asarray(part[0, : probe.units(name)].detach().double().cpu().numpy())
        for name, part in zip(names, found, strict=True)
    }
    return OmicsAttribution(values, difference)

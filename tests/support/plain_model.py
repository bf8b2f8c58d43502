"""MuMo of one patient in plain NumPy, from the tensors of a checkpoint and the arrays of a pack: an oracle for tests.

It shares no code with the model, holds one patient without padding or masks, and leaves out by building the patient
without the part. Written from the equations (parallel intra-modal and full inter-modal fusion only).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import erf

from mumo.stores.packed import Packed

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlainModality:
    """Images, omics and report of one modality."""

    features: Array
    """[unit, word, width]"""
    time: Array
    omics: Array
    """[unit, column], standardised"""
    omics_known: npt.NDArray[np.bool_]
    report: tuple[Array, ...]
    """The code of each item; all zero: unknown."""

    def without(self, unit: int) -> PlainModality:
        """The same without one unit."""
        kept = np.arange(len(self.features)) != unit
        return self.of(kept)

    def of(self, kept: npt.NDArray[np.bool_]) -> PlainModality:
        """The same with some of the units."""
        return replace(self, features=self.features[kept], omics=self.omics[kept], omics_known=self.omics_known[kept])


Patient = dict[str, PlainModality]
"""Modality → its parts, in the order of the model."""


@dataclass(frozen=True)
class Said:
    """What the oracle says of a patient."""

    risk: float
    logits: Array
    """[class], non-responder first."""
    weights: dict[str, Array]
    """`<modality>/units`, `<modality>/report`, `patient_information`."""

    def output(self, target: str) -> float:
        """`risk`, or for `response` the log odds of any class but the first."""
        return self.risk if target == "risk" else float(np.log(np.exp(self.logits[1:]).sum()) - self.logits[0])


def patient_of(packed: Packed, number: int, limit: float = 10.0) -> tuple[Patient, tuple[Array, ...]]:
    """A patient of a pack, standardised with the statistics of all its units, and the codes of its information."""
    patient = {}
    for name, units in packed.units.items():
        rows = slice(int(units.offsets[number]), int(units.offsets[number + 1]))
        omics = np.asarray(units.omics, dtype=np.float64)
        low, median, high = np.nanpercentile(omics, (25, 50, 75), axis=0)
        scaled = np.nan_to_num(np.clip((omics[rows] - median) / (high - low), -limit, limit))
        features = np.asarray(units.features[rows], dtype=np.float64)
        patient[name] = PlainModality(
            features if name == "pathology" else features[:, :1],  # the plain view of a lesion
            packed.times[name][number].astype(np.float64),
            scaled,
            np.asarray(units.omics_known[rows]),
            _codes(packed, f"{name}_report", number),
        )
    return patient, _codes(packed, "patient_information", number)


def _codes(packed: Packed, group: str, number: int) -> tuple[Array, ...]:
    codes = packed.codes[group]
    values = codes.values[number].astype(np.float64)
    return tuple(np.split(values, np.cumsum(codes.widths)[:-1]))


def softmax(scores: Array) -> Array:
    """Over the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


class PlainModel:
    """The tensors of a checkpoint, and what they make of a patient."""

    def __init__(self, state: Mapping[str, npt.ArrayLike], heads: int) -> None:
        self.p = {name: np.asarray(values, dtype=np.float64) for name, values in state.items()}
        self.heads = heads
        self.width = self.p["risk.weight"].shape[1]

    def linear(self, name: str, x: Array) -> Array:
        """x · Wᵀ + b."""
        return np.asarray(x @ self.p[f"{name}.weight"].T + self.p.get(f"{name}.bias", 0.0))

    def norm(self, name: str, x: Array) -> Array:
        """Layer normalisation."""
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        return np.asarray(centred / spread * self.p[f"{name}.weight"] + self.p[f"{name}.bias"])

    def attention(self, name: str, queries: Array, tokens: Array) -> tuple[Array, Array]:
        """Multi-head attention [query, d] and its weights [query, token], means over heads; zeros over nothing."""
        if not len(tokens):
            return np.zeros_like(queries), np.zeros((len(queries), 0))
        query, both = self.linear(f"{name}.query", queries), self.linear(f"{name}.key_value", tokens)
        key, value = both[:, : self.width], both[:, self.width :]
        size = self.width // self.heads
        cuts = [slice(head * size, (head + 1) * size) for head in range(self.heads)]
        weights = [softmax(query[:, cut] @ key[:, cut].T / np.sqrt(size)) for cut in cuts]
        mixed = np.concatenate([w @ value[:, cut] for w, cut in zip(weights, cuts, strict=True)], axis=1)
        return self.linear(f"{name}.out", mixed), np.mean(weights, axis=0)

    def self_attention(self, name: str, tokens: Array) -> Array:
        """Tokens attend to each other."""
        normed = self.norm(f"{name}.norm", tokens)
        return tokens + self.attention(f"{name}.attention", normed, normed)[0]

    def pool(self, name: str, tokens: Array) -> tuple[Array, Array]:
        """Softmax-weighted sum [d] and its weights [token]."""
        weights = softmax(self.linear(f"{name}.score", tokens)[:, 0])
        return np.asarray(weights @ tokens), weights

    def feed_forward(self, name: str, x: Array) -> Array:
        """The residual block, with the exact GELU."""
        hidden = self.linear(f"{name}.block.1", self.norm(f"{name}.block.0", x))
        return x + self.linear(f"{name}.block.3", hidden * (1 + erf(hidden / np.sqrt(2))) / 2)

    def gated(self, place: int, features: Array, time: Array) -> Array:
        """Features [word, width] through the gate of a modality: [word, d]."""
        name = f"modalities.{place}.branch.gate"
        with_time = np.concatenate([features, np.tile(time, (len(features), 1))], axis=1)
        gate = 1 / (1 + np.exp(-self.linear(f"{name}.gate", with_time)))
        return self.linear(f"{name}.project", gate * features)

    def bag(self, features: Array, time: Array) -> tuple[Array, Array]:
        """Token [d] of a bag [word, width], and the weights of its words."""
        words = self.self_attention("modalities.0.branch.attend", self.gated(0, features, time))
        pooled, weights = self.pool("modalities.0.branch.pool", words)
        return self.feed_forward("modalities.0.branch.feed_forward", pooled), weights

    def tokens(self, patient: Patient) -> dict[str, Array]:
        """Modality → tokens of its units [unit, d]."""
        bags, lesions = patient["pathology"], patient["radiology"]
        return {
            "pathology": np.array([self.bag(words, bags.time)[0] for words in bags.features]),
            "radiology": np.array([self.gated(1, lesion, lesions.time)[0] for lesion in lesions.features]),
        }

    def __call__(
        self, patient: Patient, information: Sequence[Array], tokens: Mapping[str, Array] | None = None
    ) -> Said:
        """Risk, logits and weights; `tokens` stand in the place of those of the features."""
        tokens = self.tokens(patient) if tokens is None else tokens
        weights: dict[str, Array] = {}
        entered: list[Array | None] = []
        for place, (name, parts) in enumerate(patient.items()):
            prefix = f"modalities.{place}"
            query = self.p[f"{prefix}.no_images"]
            if len(parts.features):
                attended = self.self_attention(f"{prefix}.branch.units.attend", tokens[name])
                pooled, weights[f"{name}/units"] = self.pool(f"{prefix}.branch.units.pool", attended)
                query = self.feed_forward(f"{prefix}.branch.units.feed_forward", pooled)
            omics = self.linear(f"{prefix}.omics_tokens", parts.omics[parts.omics_known])
            seen, _ = self.attention(f"{prefix}.omics_attention", query[None], omics)
            read, weights[f"{name}/report"] = self._items(prefix + ".report", query, parts.report)
            there = len(parts.features) > 0 or any(code.any() for code in parts.report)
            entered.append(self.linear(f"inter.enter.{place}", query + seen[0] + read) if there else None)
        fused = self._fuse(entered)
        read, weights["patient_information"] = self._items("information", fused, information)
        final = fused + read
        return Said(float(self.linear("risk", final)[0]), self.linear("classifier", final), weights)

    def _items(self, name: str, query: Array, codes: Sequence[Array]) -> tuple[Array, Array]:
        known = [number for number, code in enumerate(codes) if code.any()]
        tokens = [self.linear(f"{name}_tokens.maps.{number}", codes[number]) for number in known]
        seen, looked = self.attention(f"{name}_attention", query[None], np.array(tokens).reshape(-1, self.width))
        weights = np.zeros(len(codes))
        weights[known] = looked[0]
        return seen[0], weights

    def _fuse(self, entered: Sequence[Array | None]) -> Array:
        specific = [
            self.p["inter.no_specific"][place] if vector is None else self.linear(f"inter.specific.{place}", vector)
            for place, vector in enumerate(entered)
        ]
        agnostic = [
            self.linear(f"inter.agnostic.{place}", vector) for place, vector in enumerate(entered) if vector is not None
        ]
        mean = np.mean(agnostic, axis=0) if agnostic else self.p["inter.no_agnostic"]
        return self.linear("inter.leave", np.concatenate([*specific, mean]))

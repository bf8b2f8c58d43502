"""Explanations of a run's predictions, as arrays: over the members of an ensemble, patient by patient, with checks.

Of a run over folds and seeds, each patient is explained by the members that did not have it: weights and effects are
means over them. Where every member was trained on the patient, all of them explain it, and the part says so.
Pictures and pages are made elsewhere, from what stands here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..errors import FitError
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from . import deletion
from .attribution import (
    Floats,
    OmicsAttribution,
    Parts,
    Probe,
    Target,
    feature_gradients,
    item_parts,
    omics_attribution,
    unit_parts,
    word_parts,
)
from .checkpoint import LoadedRun, load_run, member_folders
from .dataset import INFORMATION, Dataset, report_group
from .explained import WORDING, Wording, weights_digest
from .predict import check_matches, resolve_device
from .splits import held_out, least_seen
from .tabular import add_tables

DRAWS = 10
"""Random draws a patient and count of the deletion curve."""

MOST_CHECKED = 100
"""Patients that the checks are computed over at most; of more, a fixed draw."""

RANDOM_MODELS = 3
"""Models with weights drawn anew in the check by randomisation."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What the prediction for one patient rests on; means over `models` members."""

    patient: str
    target: Target
    """The output that effects, attributions and gradients are of."""
    centre: str
    part: str
    modalities: str
    models: int
    risk: float
    probability: float
    label: int | None
    units: dict[str, Parts]
    """Modality → bags, lesions or rows [unit]."""
    sources: dict[str, list[tuple[str, str]]]
    """Modality → item of the store and name of each unit."""
    words: Parts | None
    """[bag, word]; none without slides."""
    items: dict[str, Parts]
    """Group of codes → [item]."""
    omics: dict[str, Floats]
    """Modality → [unit, column of the pack] integrated gradients; 0 for columns that are not read."""
    completeness: tuple[float, float]
    """Largest |sum of the attributions less the difference of outputs| of any member, and the mean |difference|."""
    lesion_slopes: Floats | None
    """[lesion, width] mean gradient by deep features, see `feature_gradients`; none without CT."""

    @property
    def wording(self) -> Wording:
        """How pages call the output that is explained."""
        return WORDING[self.target]


@dataclass(frozen=True, eq=False)
class Member:
    """One model of the run, and the patients of the store as it reads them."""

    run: LoadedRun
    dataset: Dataset
    digest: str
    """SHA-256 of the file of its weights."""


@dataclass(frozen=True, eq=False)
class Checks:
    """Whether the importances mean something, over held-out patients."""

    patients: list[str]
    part: str
    curves: list[deletion.Curve]
    likeness: dict[str, dict[str, Floats]]
    """Level → measure → [patient] |rank correlation| with the maps of models with random weights, mean over those;
    `shuffled` in place of a measure: of maps in random order."""


class Explainer:
    """The models of a run before the patients of a store.

    Raises:
        FitError: no finished run, or a store whose features or codes are not those that the models were trained on.
        StoreError: the store cannot be packed.
    """

    def __init__(
        self,
        run: Path,
        store: Place,
        *,
        device: str = "auto",
        tables: Mapping[str, Path] | None = None,
        allow_other_windows: bool = False,
        target: Target = "risk",
    ) -> None:
        self.device, self.target = resolve_device(device), target
        self.packed: Packed = add_tables(pack(Store.open(store)), tables or {})
        self.members: list[Member] = []
        for folder in member_folders(run):
            loaded = load_run(folder)
            check_matches(loaded, self.packed, allow_other_windows=allow_other_windows)
            dataset = Dataset(self.packed, loaded.layout, loaded.scalers, loaded.fit.survival_endpoint)
            loaded.model.to(self.device)
            self.members.append(Member(loaded, dataset, weights_digest(folder)))
        self._place = {patient: number for number, patient in enumerate(self.packed.patients)}

    @property
    def digests(self) -> list[str]:
        """SHA-256 of each member's weights: what the explanations are of."""
        return [member.digest for member in self.members]

    def part(self, patient: str) -> str:
        """The part that the patient has in the members that explain it."""
        return self._members(patient)[1]

    def find(self, patients: Sequence[str], *, only_held_out: bool = False) -> list[str]:
        """These patients in the order of the pack, all where none is named; FitError where one is not there.

        `only_held_out`: of these only patients of the parts that the run's figures are of.
        """
        strangers = sorted(set(patients) - set(self._place))
        if strangers:
            known = ", ".join(self.packed.patients[:3])
            raise FitError(f"--only: {strangers[0]} is no patient of the store; its patients are {known}, …")
        found = [patient for patient in self.packed.patients if not patients or patient in patients]
        if not only_held_out:
            return found
        parts = held_out({self.part(patient) for patient in self.packed.patients})
        kept = [patient for patient in found if self.part(patient) in parts]
        if not kept:
            raise FitError(f"--held-out: none of the patients that --only names is of the {' or '.join(parts)} part")
        return kept

    def explain(self, patient: str) -> Explained:
        """Everything about one patient."""
        members, part = self._members(patient)
        place = self._place[patient]
        average = self.average_lesion
        found = [_explain(self._probe(member, place), member, self.packed, average) for member in members]
        label = int(self.packed.labels[place])
        return Explained(
            patient=patient,
            target=self.target,
            centre=self.packed.centres[place],
            part=part,
            modalities=self.packed.modalities[place],
            models=len(found),
            risk=_mean([one.risk for one in found]),
            probability=_mean([one.probability for one in found]),
            label=label if label >= 0 else None,
            units={name: _mean_parts([one.units[name] for one in found]) for name in found[0].units},
            sources=self._sources(place, found[0].units),
            words=None if found[0].words is None else _mean_parts([one.words for one in found if one.words]),
            items={group: _mean_parts([one.items[group] for one in found]) for group in found[0].items},
            omics={n: np.mean([one.omics[n] for one in found], axis=0) for n in found[0].omics},
            completeness=(max(one.gap for one in found), _mean([one.difference for one in found])),
            lesion_slopes=_mean_slopes([one.slopes for one in found if one.slopes is not None]),
        )

    def check(self, *, draws: int = DRAWS, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Checks:
        """Deletion and randomisation over the held-out patients with slides.

        Those are the test patients and those that the run has never seen, where there are none the validation
        patients, and else all. A patient of an ensemble is asked of its first member.
        """
        chosen, part = self._held_out(seed)
        moves: dict[str, list[list[deletion.Move]]] = {level: [] for level in deletion.COUNTS}
        likeness: dict[str, dict[str, list[float]]] = {level: {} for level in deletion.COUNTS}
        random_models: dict[str, list[Member]] = {}
        for number, patient in enumerate(chosen):
            member = self._members(patient)[0][0]
            place = self._place[patient]
            maps = _maps(self._probe(member, place))
            others = random_models.setdefault(member.digest, self._randomised(member))
            strange = [_maps(self._probe(other, place)) for other in others]
            rng = np.random.default_rng([seed, number])
            probe = self._probe(member, place)
            for level, measures in maps.items():
                importances = {"weight": measures["weight"], "effect": deletion.one_way(measures["effect"])}
                moves[level].append(deletion.deletion(probe, level, importances, draws=draws, rng=rng))
                for name, values in measures.items():
                    found = [deletion.likeness(values, other[level][name]) for other in strange]
                    likeness[level].setdefault(name, []).append(float(np.mean(found)))
                chance = deletion.likeness_by_chance(measures["weight"].size, draws=draws, rng=rng)
                likeness[level].setdefault("shuffled", []).append(chance)
            if progress is not None:
                progress(number + 1, len(chosen))
        rows = [row for level, own in moves.items() for row in deletion.curves(level, own)]
        arrays = {level: {n: np.array(v) for n, v in own.items()} for level, own in likeness.items()}
        return Checks(chosen, part, rows, arrays)

    @functools.cached_property
    def average_lesion(self) -> Floats:
        """[width] mean deep features of the plain views of all lesions of the store; 0 where there are none."""
        features = self.packed.units["radiology"].features  # (lesion, view, width); without CT (0, 0, 0)
        if not len(features):
            return np.zeros(features.shape[-1])
        return np.asarray(features[:, 0].mean(axis=0, dtype=np.float64))

    def _held_out(self, seed: int) -> tuple[list[str], str]:
        slides = self.packed.units["pathology"].counts > 0
        if not any(m.name == "pathology" and m.feature_width for m in self.members[0].run.layout.modalities):
            return [], ""
        parts = {p: self.part(p) for p, there in zip(self.packed.patients, slides, strict=True) if there}
        wanted = held_out(set(parts.values()))
        chosen = [patient for patient, part in parts.items() if part in wanted]
        if len(chosen) > MOST_CHECKED:
            drawn = np.random.default_rng(seed).choice(len(chosen), MOST_CHECKED, replace=False)
            chosen = [chosen[n] for n in sorted(drawn)]
        return chosen, " and ".join(part for part in wanted if part in {parts[p] for p in chosen})

    def _members(self, patient: str) -> tuple[list[Member], str]:
        """The members that explain a patient, and its part in them."""
        numbers, part = least_seen([member.run.split for member in self.members], patient)
        return [self.members[number] for number in numbers], part

    def _probe(self, member: Member, place: int) -> Probe:
        batch = member.dataset.whole(np.array([place]))
        return Probe(member.run.model, batch.to(self.device), self.target)

    def _randomised(self, member: Member) -> list[Member]:
        run = member.run
        others = []
        for number in range(RANDOM_MODELS):
            model = deletion.randomised(run.layout, run.settings, number).to(self.device)
            others.append(Member(replace(run, model=model), member.dataset, ""))
        return others

    def _sources(self, place: int, units: Mapping[str, Parts]) -> dict[str, list[tuple[str, str]]]:
        found = {}
        for name in units:
            own = self.packed.units[name]
            rows = slice(int(own.offsets[place]), int(own.offsets[place + 1]))
            found[name] = list(zip(own.sources[rows].tolist(), own.names[rows].tolist(), strict=True))
        return found


# --- one model, one patient -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _One:
    risk: float
    probability: float
    units: dict[str, Parts]
    words: Parts | None
    items: dict[str, Parts]
    omics: dict[str, Floats]
    gap: float
    difference: float
    slopes: Floats | None


def _explain(probe: Probe, member: Member, packed: Packed, average_lesion: Floats) -> _One:
    layout = member.run.layout
    units = {name: unit_parts(probe, name) for name in probe.batch.imaging if probe.units(name)}
    items = {}
    for modality in layout.modalities:
        if modality.report_widths:
            group = report_group(modality.name)
            items[group] = item_parts(probe, group, f"{modality.name}/report")
    if layout.information_widths:
        items[INFORMATION] = item_parts(probe, INFORMATION, INFORMATION)
    found = omics_attribution(probe)
    logits = probe.output.logits[0].double()
    return _One(
        risk=float(probe.output.risk[0]),
        probability=float(1 - torch.softmax(logits, dim=0)[0]),
        units=units,
        words=word_parts(probe) if "pathology" in units else None,
        items=items,
        omics=_over_all_columns(found, member, packed),
        gap=0.0 if found is None else abs(found.gap),
        difference=0.0 if found is None else abs(found.difference),
        slopes=feature_gradients(probe, average_lesion) if "radiology" in units else None,
    )


def _over_all_columns(found: OmicsAttribution | None, member: Member, packed: Packed) -> dict[str, Floats]:
    """[unit, column of the pack], as members may read different columns."""
    out = {}
    for name, values in ({} if found is None else found.values).items():
        out[name] = np.zeros((len(values), len(packed.units[name].omics_columns)))
        out[name][:, member.run.scalers[name].kept] = values
    return out


def _maps(probe: Probe) -> dict[str, dict[str, Floats]]:
    """Level → measure → [bag] or [bag, word]."""
    bags, words = unit_parts(probe, "pathology"), word_parts(probe)
    return {
        "bags": {"weight": bags.weight, "effect": bags.effect},
        "words": {"weight": words.weight, "effect": words.effect},
    }


def _mean_parts(parts: Sequence[Parts]) -> Parts:
    return Parts(np.mean([p.weight for p in parts], axis=0), np.mean([p.effect for p in parts], axis=0))


def _mean_slopes(slopes: Sequence[Floats]) -> Floats | None:
    return np.asarray(np.mean(slopes, axis=0)) if slopes else None


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))

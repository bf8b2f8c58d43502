"""From a pack to batches: the layout of the model's inputs, omics standardisation, draws, and padding with masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import LESION_TYPES, REGION_CLASSES, ModelSettings
from ..errors import FitError
from ..stores.packed import MODALITIES, Packed, Units

AUXILIARY_LESION_TYPES = ("lymph node", "stomach", "liver", "peritoneum", "other")
"""Classes of the auxiliary head on lesions; every other type counts as `other`."""

INFORMATION = "patient_information"
"""Group of the codes that belongs to no modality."""

_OMICS_ROWS = 100_000

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


def report_group(modality: str) -> str:
    """Group of the codes that is the report of a modality."""
    return f"{modality}_report"


# --- layout -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModalityLayout:
    """Widths of what the model reads of one modality; 0 and () stand for parts that it does not read."""

    name: str
    feature_width: int
    """Numbers in a deep feature vector; 0: no images."""
    omics_width: int
    report_widths: tuple[int, ...]
    """Classes of each item of the report."""

    @property
    def is_table(self) -> bool:
        """Whether it comes from a table: its numbers stand where omics features do, and there are no images."""
        return self.name not in MODALITIES

    @property
    def has_units(self) -> bool:
        """Whether there is a branch: images, or the rows of a table."""
        return self.feature_width > 0 or (self.is_table and self.omics_width > 0)


@dataclass(frozen=True)
class Layout:
    """Widths of everything that the model reads."""

    modalities: tuple[ModalityLayout, ...]
    information_widths: tuple[int, ...]
    """Classes of each item of patient information."""


def layout_of(packed: Packed, scalers: Mapping[str, OmicsScaler], settings: ModelSettings) -> Layout:
    """What a model under `settings` reads of a pack.

    Ablated parts are left out, and so are modalities of which the pack has neither images nor a report.
    """

    def modality(name: str) -> ModalityLayout:
        units, report = packed.units[name], packed.codes.get(report_group(name))
        return ModalityLayout(
            name,
            feature_width=units.features.shape[2],
            omics_width=scalers[name].width if settings.omics or name not in MODALITIES else 0,
            report_widths=report.widths if report is not None and settings.reports else (),
        )

    strangers = [name for name in settings.modalities if name not in packed.units]
    if strangers:
        raise FitError(
            f"model.modalities: {strangers} are unknown, expected some of {sorted(packed.units)}; "
            "name the file of a further one in fit.tables"
        )
    information = packed.codes.get(INFORMATION)
    modalities = (modality(name) for name in packed.units if name in settings.modalities)
    return Layout(
        tuple(entry for entry in modalities if entry.has_units or entry.report_widths),
        information.widths if information is not None and settings.patient_information else (),
    )


# --- omics ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OmicsScaler:
    """Robust standardisation of omics columns with the training patients' statistics.

    A kept column becomes (x − median) / scale, cut to ± `limit`; scale is the interquartile range, or the standard
    deviation where that is 0 (a column that is mostly one value). Missing values become 0, the median.
    """

    columns: tuple[str, ...]
    """Names of all columns, in the order of the pack."""
    kept: npt.NDArray[np.bool_]
    """[column] whether the model reads it."""
    median: npt.NDArray[np.float64]
    """[column]; 0 where not kept."""
    scale: npt.NDArray[np.float64]
    """[column]; 1 where not kept."""
    missing: npt.NDArray[np.bool_]
    """[column] dropped because no training patient has a value; other dropped columns are constant."""
    limit: float

    @property
    def width(self) -> int:
        """Number of columns that are kept."""
        return int(self.kept.sum())

    @property
    def dropped(self) -> dict[str, list[str]]:
        """Columns that the model does not read: those that are `missing` and those that are `constant`."""
        names = np.array(self.columns, dtype=str)
        return {"missing": names[self.missing].tolist(), "constant": names[~self.kept & ~self.missing].tolist()}

    @classmethod
    def fit(cls, columns: Sequence[str], values: Floats, limit: float) -> OmicsScaler:
        """Statistics of `values` [unit, column] of training patients; NaN is missing."""
        width = len(columns)
        rows = np.asarray(values, dtype=np.float64)
        if not rows.size:
            everything = np.ones(width, dtype=np.bool_)
            return cls(tuple(columns), ~everything, np.zeros(width), np.ones(width), everything, limit)
        missing = np.asarray(np.isnan(rows).all(axis=0), dtype=np.bool_)
        rows = np.where(missing, 0.0, rows)
        low, median, high = np.nanpercentile(rows, (25, 50, 75), axis=0)
        deviation = np.nanstd(rows, axis=0)
        spread = np.nanmax(rows, axis=0) - np.nanmin(rows, axis=0)
        # float32 keeps seven digits: what varies less than that is rounding, not signal
        kept = ~missing & (spread > 1e-6 * np.abs(median))
        scale = np.where(high - low > 1e-6 * np.abs(median), high - low, deviation)
        return cls(tuple(columns), kept, np.where(kept, median, 0.0), np.where(kept, scale, 1.0), missing, limit)

    def __call__(self, values: Floats) -> npt.NDArray[np.float32]:
        """[unit, kept column] float32 of `values` [unit, column]."""
        kept = self.kept
        scaled = (np.asarray(values[:, kept], dtype=np.float64) - self.median[kept]) / self.scale[kept]
        return np.nan_to_num(np.clip(scaled, -self.limit, self.limit), copy=False, nan=0.0).astype(np.float32)


def fit_scalers(packed: Packed, train: Indices, limit: float) -> dict[str, OmicsScaler]:
    """A scaler for each modality from the units of the patients `train` (indices).

    Of more than 100,000 units, every k-th is taken.
    """
    chosen = np.zeros(len(packed.patients), dtype=bool)
    chosen[train] = True
    scalers = {}
    for name, units in packed.units.items():
        rows = np.flatnonzero(np.repeat(chosen, units.counts))
        rows = rows[:: max(1, -(-len(rows) // _OMICS_ROWS))]
        scalers[name] = OmicsScaler.fit(units.omics_columns, units.omics[rows], limit)
    return scalers


# --- batches ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImagingBatch:
    """Bags or lesions of a batch of patients, one after another, without padding; `slots` says whose they are."""

    features: Tensor
    """[row, word, width] float16: the distinct units; a lesion has one "word"."""
    rows: Tensor | None
    """[unit] int64: row of `features` of each unit, as a draw with replacement holds some twice; None: its own."""
    owner: Tensor
    """[row] int64: the patient of each row of `features`."""
    slots: Tensor
    """[unit] int64: patient · S + position, where S = `mask.shape[1]`, the largest number of units of a patient."""
    mask: Tensor
    """[patient, S] bool: whether there is a unit."""
    time: Tensor
    """[patient, 3] float32: one-hot acquisition time, zeros when unknown."""
    omics: Tensor
    """[patient, S, column] float32, standardised."""
    omics_mask: Tensor
    """[patient, S] bool: whether the unit has omics features."""
    classes: Tensor
    """[unit] int64: region class of a bag, −1 unknown; auxiliary type of a lesion."""
    word_classes: Tensor
    """[unit, word] int64: −1 unknown; [unit, 0] for lesions."""
    tokens: Tensor | None = None
    """[unit, d] what the model makes of each unit alone, where that is known already; `features` are then not read."""


@dataclass(frozen=True)
class Batch:
    """Everything that the model and the losses read of some patients."""

    patients: Tensor
    """[patient] int64: index in the pack."""
    imaging: dict[str, ImagingBatch]
    codes: dict[str, Tensor]
    """Group → [patient, classes of all items] float32."""
    known: dict[str, Tensor]
    """Group → [patient, item] bool: whether the item is known."""
    labels: Tensor
    """[patient] int64: 1 responder, 0 non-responder, −1 unknown."""
    days: Tensor
    """[patient] float64: time of the survival endpoint, NaN unknown."""
    events: Tensor
    """[patient] bool: event observed."""

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        moved: Batch = _to(self, device)
        return moved


def _to(value: Any, device: torch.device) -> Any:
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _to(item, device) for name, item in value.items()}
    return replace(value, **{field.name: _to(getattr(value, field.name), device) for field in fields(value)})


class Dataset:
    """Batches of a pack under a layout. Reads the memory-mapped arrays; holds nothing but small tables."""

    def __init__(self, packed: Packed, layout: Layout, scalers: Mapping[str, OmicsScaler], endpoint: str) -> None:
        self.packed = packed
        self.layout = layout
        self.scalers = scalers
        self.labels = packed.labels.astype(np.int64)
        if endpoint == "none":
            self.days = np.full(len(self.labels), np.nan)
            self.events = np.zeros(len(self.labels), dtype=bool)
        else:
            known = packed.events[endpoint] >= 0
            self.days = np.where(known, packed.days[endpoint], np.nan)
            self.events = packed.events[endpoint] == 1
        self._codes: dict[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]] = {}
        groups = {report_group(modality.name): modality.report_widths for modality in layout.modalities}
        for group, widths in {**groups, INFORMATION: layout.information_widths}.items():
            if widths:
                values = np.ascontiguousarray(packed.codes[group].values)
                self._codes[group] = (values, known_items(values, widths))

    def training_batches(
        self, patients: Indices, *, size: int, bags: int, lesions: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """The patients in random order; of each `bags` bags and `lesions` lesions (a random view each), drawn with
        replacement. Of tables, all rows."""
        order = rng.permutation(patients)
        draws = {"pathology": bags, "radiology": lesions}
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            yield self._batch(
                chosen,
                {
                    modality.name: _all(self.packed.units[modality.name], chosen)
                    if modality.is_table
                    else _draw(self.packed.units[modality.name], chosen, draws[modality.name], rng)
                    for modality in self.layout.modalities
                },
            )

    def evaluation_batches(self, patients: Indices, *, size: int, max_units: int = 512) -> Iterator[Batch]:
        """All units of the patients (lesions in their plain view), at most `size` patients a batch.

        Patients with similar numbers of bags share a batch, and a batch is closed before it holds more than
        `max_units` units with padding, unless one patient alone has more.
        """
        load = np.ones(len(self.packed.patients), dtype=np.int64)
        for modality in self.layout.modalities:
            load = np.maximum(load, self.packed.units[modality.name].counts)
        order = patients[np.argsort(load[patients], kind="stable")]
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and stop - start < size and load[order[stop]] * (stop + 1 - start) <= max_units:
                stop += 1
            yield self.whole(order[start:stop])
            start = stop

    def whole(self, patients: Indices) -> Batch:
        """One batch of all units of the patients."""
        return self._batch(
            patients,
            {modality.name: _all(self.packed.units[modality.name], patients) for modality in self.layout.modalities},
        )

    def _batch(self, patients: Indices, drawn: Mapping[str, _Drawn]) -> Batch:
        return Batch(
            patients=torch.from_numpy(patients.astype(np.int64)),
            imaging={
                modality.name: self._imaging(modality, patients, drawn[modality.name])
                for modality in self.layout.modalities
                if modality.has_units
            },
            codes={group: torch.from_numpy(values[patients]) for group, (values, _) in self._codes.items()},
            known={group: torch.from_numpy(known[patients]) for group, (_, known) in self._codes.items()},
            labels=torch.from_numpy(self.labels[patients]),
            days=torch.from_numpy(self.days[patients]),
            events=torch.from_numpy(self.events[patients]),
        )

    def _imaging(self, modality: ModalityLayout, patients: Indices, drawn: _Drawn) -> ImagingBatch:
        units = self.packed.units[modality.name]
        most = int(drawn.position.max(initial=0)) + 1  # at least one place, so that no array is without columns
        mask = np.zeros((len(patients), most), dtype=bool)
        mask[drawn.patient, drawn.position] = True
        omics = np.zeros((len(patients), most, modality.omics_width), dtype=np.float32)
        omics_mask = np.zeros((len(patients), most), dtype=bool)
        if modality.omics_width and units.omics_columns:
            omics[drawn.patient, drawn.position] = self.scalers[modality.name](units.omics[drawn.unit])
            omics_mask[drawn.patient, drawn.position] = units.omics_known[drawn.unit]
        classes = units.classes[drawn.unit].astype(np.int64)
        if modality.name == "radiology":
            classes = _AUXILIARY_TYPE[classes]
        features, rows, owner = _gather(units, drawn, modality.feature_width)
        return ImagingBatch(
            features=features,
            rows=rows,
            owner=owner,
            slots=torch.from_numpy(drawn.patient * most + drawn.position),
            mask=torch.from_numpy(mask),
            time=torch.from_numpy(self.packed.times[modality.name][patients]),
            omics=torch.from_numpy(omics),
            omics_mask=torch.from_numpy(omics_mask),
            classes=torch.from_numpy(classes),
            word_classes=torch.from_numpy(units.word_classes[drawn.unit].astype(np.int64)),
        )


_AUXILIARY_TYPE = np.array(
    [AUXILIARY_LESION_TYPES.index(name if name in AUXILIARY_LESION_TYPES else "other") for name in LESION_TYPES],
    dtype=np.int64,
)


def auxiliary_classes(modality: str) -> int:
    """Number of classes of the auxiliary head on a modality's units."""
    return REGION_CLASSES if modality == "pathology" else len(AUXILIARY_LESION_TYPES)


def known_items(values: Floats, widths: Sequence[int]) -> npt.NDArray[np.bool_]:
    """[patient, item] whether an item of [patient, classes of all items] has any number that is not 0."""
    if sum(widths) != values.shape[1]:
        raise FitError(f"codes: expected {sum(widths)} classes in all, found {values.shape[1]}")
    parts = np.split(values, np.cumsum(widths)[:-1], axis=1)
    return np.stack([(part != 0).any(axis=1) for part in parts], axis=1)


# --- draws ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """Units of a batch: which one of the pack, whose (row of the batch), at which position, in which view."""

    unit: Indices
    patient: Indices
    position: Indices
    view: Indices


def _draw(units: Units, patients: Indices, count: int, rng: np.random.Generator) -> _Drawn:
    present = np.flatnonzero(units.counts[patients])
    first, available = units.offsets[patients[present]], units.counts[patients[present]]
    picked = rng.integers(0, available[:, None], size=(len(present), count))
    picked.sort(axis=1)  # neighbours in the file are read together; the model does not see the order
    views = 1 if units.has_words else max(1, units.features.shape[1])
    return _Drawn(
        (first[:, None] + picked).ravel(),
        np.repeat(present, count),
        np.tile(np.arange(count), len(present)),
        rng.integers(0, views, size=len(present) * count),
    )


def _all(units: Units, patients: Indices) -> _Drawn:
    counts = units.counts[patients]
    patient = np.repeat(np.arange(len(patients)), counts)
    position = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Drawn(units.offsets[patients[patient]] + position, patient, position, np.zeros_like(position))


def _gather(units: Units, drawn: _Drawn, feature_width: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Deep features [row, word, width] of the distinct units, the row of each unit, and each row's patient.

    Rows are copied from the memory map straight into a new tensor, in the order of the file.
    """
    if not len(drawn.unit) or not feature_width:
        return torch.empty((0, 1, feature_width), dtype=torch.float16), None, torch.empty(0, dtype=torch.int64)
    number, middle, width = units.features.shape
    if units.has_words:
        table, places = units.features, drawn.unit
    else:
        # lesions: (lesion, view, width) → (lesion · view, 1, width), one row a view
        table, places = units.features.reshape(number * middle, 1, width), drawn.unit * middle + drawn.view
    distinct, first, rows = np.unique(places, return_index=True, return_inverse=True)
    again = len(distinct) < len(places)
    if not again:
        distinct, first = places, np.arange(len(places))
    out = torch.empty((len(distinct), *table.shape[1:]), dtype=torch.float16)
    np.take(table, distinct, axis=0, out=out.numpy(), mode="clip")
    return out, torch.from_numpy(rows) if again else None, torch.from_numpy(drawn.patient[first])

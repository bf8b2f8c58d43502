"""What is known of the patients apart from images: the run's `clinical.parquet`, and columns made of it.

A code is described by its classes; a measure (age in years) by its numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..stores import tables
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from ..stores.specs import CLINICAL, MEASURES, PATIENTS
from .estimates import Numbers

MEASURED = "measures"
"""Group of what is a number."""

THERAPY = "treatment"
"""Group of the treatment, which sets the cut-off of the label and is nothing that a model reads."""

GROUPS = ("patient_information", MEASURED, THERAPY, "pathology_report", "radiology_report")
"""Groups in the order of tables; others follow."""

NOT_READ = (MEASURED, THERAPY)
"""Groups that describe patients beside the codes that a model reads."""

MOST_CLASSES = 3
"""Classes of a code that is shown although its number is."""


@dataclass(frozen=True, eq=False)
class Characteristic:
    """One item of all patients."""

    group: str
    name: str
    kind: Literal["number", "one-hot", "multi-hot", "shares"]
    unit: str
    classes: tuple[str, ...]
    values: Numbers
    """[patient, class] the code, or [patient, 1] the number; NaN where the item is unknown."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """[patient]."""
        return np.asarray(~np.isnan(self.values).all(axis=1), dtype=np.bool_)


def save_clinical(file: Path, packed: Packed, store: Place, *, without: Collection[str] = frozenset()) -> None:
    """Write a run's `clinical.parquet` from the codes of its pack and, where the store has them, the measures.

    Args:
        file: the Parquet file to write (`specs.CLINICAL`).
        packed: pack of the store.
        store: folder of the store.
        without: patients to leave out.
    """
    rows = [row for row in clinical_rows(packed, store) if row["patient"] not in without]
    tables.write_table(file, rows, CLINICAL)


def clinical_rows(packed: Packed, store: Place) -> list[dict[str, Any]]:
    """Rows of `specs.CLINICAL` for every patient of a pack."""
    rows: list[dict[str, Any]] = []
    for group, codes in packed.codes.items():
        parts = np.split(codes.values, np.cumsum(codes.widths)[:-1], axis=1)
        for item, values in zip(codes.items, parts, strict=True):
            shared = {"group": group, "item": item.name, "unit": "", "classes": list(item.classes), "value": None}
            rows += [
                {"patient": patient, "code": code.tolist(), **shared}
                for patient, code in zip(packed.patients, values, strict=True)
            ]
    opened = Store.open(store)
    record = opened.record("clinical", "cohort")
    if record is not None and "measures.parquet" in record.parts:
        patients = set(packed.patients)
        for row in tables.read_rows(opened.part("clinical", "cohort", "measures.parquet"), MEASURES):
            if row["patient"] in patients:
                rows.append({**row, "group": MEASURED, "classes": [], "code": []})
    return [*rows, *_treatments(packed, opened)]


def _treatments(packed: Packed, store: Store) -> list[dict[str, Any]]:
    """The treatment group of every patient as a code with a class a group."""
    record = store.record("clinical", "cohort")
    if record is None or "patients.parquet" not in record.parts:
        return []
    rows = tables.read_rows(store.part("clinical", "cohort", "patients.parquet"), PATIENTS)
    found = {row["patient"]: row["treatment_group"] for row in rows}
    classes = sorted({found[patient] for patient in packed.patients})
    shared = {"group": THERAPY, "item": "treatment_group", "unit": "", "classes": classes, "value": None}
    return [
        {"patient": patient, "code": [float(found[patient] == name) for name in classes], **shared}
        for patient in packed.patients
    ]


def read_clinical(file: Path, patients: Sequence[str]) -> list[Characteristic]:
    """The characteristics of `patients`, in their order; none where there is no file.

    Raises:
        StoreError: the file cannot be read.
    """
    return characteristics(tables.read_rows(file, CLINICAL), patients) if file.is_file() else []


def characteristics(rows: Iterable[Mapping[str, Any]], patients: Sequence[str]) -> list[Characteristic]:
    """The characteristics of `patients`, in their order, from rows of `specs.CLINICAL`."""
    place = {patient: number for number, patient in enumerate(patients)}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["patient"] not in place:
            continue
        entry = found.setdefault(
            (row["group"], row["item"]),
            {
                "unit": row["unit"],
                "classes": row["classes"],
                "values": np.full((len(patients), max(1, len(row["classes"]))), np.nan),
            },
        )
        if row["value"] is not None:
            entry["values"][place[row["patient"]], 0] = row["value"]
        elif any(row["code"]):
            entry["values"][place[row["patient"]]] = row["code"]
    made = [
        Characteristic(
            group, item, _kind(group, entry["values"]), entry["unit"], tuple(entry["classes"]), entry["values"]
        )
        for (group, item), entry in found.items()
    ]
    return sorted(made, key=lambda item: GROUPS.index(item.group) if item.group in GROUPS else len(GROUPS))


def joined(first: Sequence[Characteristic], second: Sequence[Characteristic]) -> list[Characteristic]:
    """The characteristics of two cohorts' patients, those of the first before those of the second.

    What only one cohort has, or has in other classes, is left out; treatments get the classes of both.
    """
    others = {(item.group, item.name): item for item in second}
    made = []
    for item in first:
        other = others.get((item.group, item.name))
        if other is None or other.unit != item.unit:
            continue
        if item.group == THERAPY:
            classes = tuple(dict.fromkeys([*item.classes, *other.classes]))
            one, two = _widened(item, classes), _widened(other, classes)
        else:
            one, two = item, other
        if one.classes == two.classes:
            values = np.concatenate([one.values, two.values])
            made.append(replace(one, values=values, kind=_kind(one.group, values)))
    return made


def _widened(item: Characteristic, classes: tuple[str, ...]) -> Characteristic:
    """The item with more classes, which nobody has."""
    values = np.where(item.known[:, None], 0.0, np.full((len(item.values), len(classes)), np.nan))
    values[:, [classes.index(name) for name in item.classes]] = item.values
    return replace(item, classes=classes, values=values)


def described(items: Sequence[Characteristic]) -> list[Characteristic]:
    """The items as a table of the cohort shows them: numbers beside the code of the same name, or in its place.

    A number stands in the group of its code; a code with more than `MOST_CLASSES` classes is left out where there is
    the number.
    """
    coded = {item.name: item for item in items if item.group != MEASURED}
    measured = {item.name: item for item in items if item.group == MEASURED}
    found: list[Characteristic] = []
    for item in items:
        if item.group == MEASURED:
            if item.name not in coded:
                found.append(item)
            continue
        number = measured.get(item.name)
        if number is not None:
            found.append(replace(number, group=item.group))
        if number is None or len(item.classes) <= MOST_CLASSES:
            found.append(item)
    return found


def _kind(group: str, values: Numbers) -> Literal["number", "one-hot", "multi-hot", "shares"]:
    if group == MEASURED:
        return "number"
    known = values[~np.isnan(values)]
    if not np.isin(known, (0, 1)).all():
        return "shares"
    return "multi-hot" if (np.nansum(values, axis=1) > 1).any() else "one-hot"

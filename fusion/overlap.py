"""Whether patients of another cohort are those that a model was made on: by id, and by what is known of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from .characteristics import NOT_READ, Characteristic
from .estimates import numbers

if TYPE_CHECKING:
    import pandas as pd

OUTCOMES = ("pfs_days", "pfs_event", "os_days", "os_event")

_NAMED = 5


@dataclass(frozen=True)
class People:
    """Patients with their outcomes and codes."""

    outcomes: Mapping[str, tuple[float, ...]]
    """Patient → `OUTCOMES`, NaN unknown."""
    codes: Mapping[str, tuple[tuple[str, str, tuple[float, ...]], ...]]
    """Patient → group, item and code of each item that is known, sorted."""


@dataclass(frozen=True)
class Shared:
    """A patient of the other cohort who is, or may be, one of the model's own."""

    patient: str
    own: str
    """Id in the model's cohort."""
    part: str
    """Part of the run in which the model had that patient."""
    same_data: bool
    """Whether outcomes that both cohorts know are the same, and there are some."""

    @property
    def by_id(self) -> bool:
        """Whether the ids are the same."""
        return self.patient == self.own


def people(frame: pd.DataFrame, items: Sequence[Characteristic]) -> People:
    """What identifies the patients of a table of predictions, whose characteristics are in the same order."""
    columns = [numbers(frame[name]) for name in OUTCOMES]
    patients = [str(patient) for patient in frame["patient"]]
    outcomes = {patient: tuple(float(c[i]) for c in columns) for i, patient in enumerate(patients)}
    coded = sorted((item for item in items if item.group not in NOT_READ), key=lambda item: (item.group, item.name))
    codes = {
        patient: tuple(
            (item.group, item.name, tuple(np.round(item.values[i], 5).tolist())) for item in coded if item.known[i]
        )
        for i, patient in enumerate(patients)
    }
    return People(outcomes, codes)


def find_shared(own: People, parts: Mapping[str, str], others: People) -> list[Shared]:
    """Patients of `others` who are in `own` by id, or under another id with the same outcomes and codes.

    Under another id, both times, both events and every code must be the same, and at least one code known: less is met
    by chance.

    Args:
        own: the model's cohort.
        parts: patient of that cohort → part.
        others: the other cohort.
    """
    looks: dict[Any, list[str]] = {}
    for patient in own.outcomes:
        if look := _look(own, patient):
            looks.setdefault(look, []).append(patient)

    def found() -> Iterator[Shared]:
        for patient, outcomes in others.outcomes.items():
            if patient in own.outcomes:
                same = _agree(own.outcomes[patient], outcomes)
                yield Shared(patient, patient, parts[patient], same)
            elif twins := looks.get(_look(others, patient)):
                yield Shared(patient, twins[0], parts[twins[0]], same_data=True)

    return list(found())


def left_out(shared: Sequence[Shared], *, new_patients: bool) -> frozenset[str]:
    """Whom to leave out of an external validation: everybody who has the id of one of the model's own patients.

    Args:
        shared: what `find_shared` found.
        new_patients: the user says that equal ids are chance; refused where outcomes are the same too.

    Raises:
        FitError: `new_patients` although somebody is the same patient by id and outcomes.
    """
    same = [one for one in shared if one.by_id and (one.same_data or not new_patients)]
    if new_patients and same:
        names = ", ".join(one.patient for one in same[:_NAMED]) + ("" if len(same) <= _NAMED else ", …")
        raise FitError(
            f"--new-patients: {len(same)} patients have the id and the follow-up of patients of the run ({names}); "
            "they are the same people: predict without --new-patients, which leaves out who is shared, or rename them"
        )
    return frozenset(one.patient for one in same)


def _look(of: People, patient: str) -> Any:
    """Outcomes and codes of a patient of whom enough is known; None otherwise."""
    outcomes, codes = of.outcomes[patient], of.codes[patient]
    return (outcomes, codes) if codes and not np.isnan(outcomes).any() else None


def _agree(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether two lines of outcomes are the same where both are known, and a time is."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if not (np.isnan(a) or np.isnan(b))]
    times = any(not (np.isnan(first[i]) or np.isnan(second[i])) for i in (0, 2))
    return times and all(a == b for a, b in pairs)

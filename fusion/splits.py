"""Which patients train, which choose the weights, which are held out. A patient is in exactly one part."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..config import SplitSettings
from ..errors import FitError
from ..stores.packed import Packed

PARTS = ("train", "validation", "test")
"""Parts of a split."""

EXTERNAL = "external"
"""Part of a patient whom a split does not name."""

LEAST_SEEN_FIRST = ("test", EXTERNAL, "validation", "train")
"""All parts of patients, those first that a model knows least: what is said of them says most of new patients."""

_HELD_OUT = (("test", EXTERNAL), ("validation",), ("train",))

_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Split:
    """A part for each patient."""

    parts: Mapping[str, str]
    """Patient → one of `PARTS`."""

    def part(self, patient: str) -> str:
        """The part of any patient."""
        return self.parts.get(patient, EXTERNAL)

    def indices(self, patients: Sequence[str], part: str) -> npt.NDArray[np.int64]:
        """Positions in `patients` of those in a part, increasing."""
        return np.flatnonzero([self.parts.get(patient) == part for patient in patients])


def least_seen(splits: Sequence[Split], patient: str) -> tuple[list[int], str]:
    """Which models of a run speak of a patient: those that have seen least of it, and its part in these.

    Args:
        splits: [model] what each was trained on.
    """
    parts = [split.part(patient) for split in splits]
    part = min(parts, key=LEAST_SEEN_FIRST.index)
    return [number for number, own in enumerate(parts) if own == part], part


def held_out(there: Collection[str]) -> tuple[str, ...]:
    """The parts that figures are of, among those that `there` are patients of: held out from everything if possible."""
    return next((found for parts in _HELD_OUT if (found := tuple(part for part in parts if part in there))), ())


def split_for(packed: Packed, settings: SplitSettings) -> Split:
    """The split of a pack's patients: the one in `settings.file`, or a new stratified draw.

    Raises:
        FitError: the file cannot be used (see `read_split`) or leaves patients out, or a part that is needed is empty.
    """
    if settings.file is None:
        split = draw_split(packed.patients, strata_of(packed), settings)
    else:
        split = _match(read_split(settings.file), packed.patients)
    for part in PARTS[:2]:
        if part not in split.parts.values():
            raise FitError(
                f"the split leaves no patient for {part} ({len(packed.patients)} patients in all); "
                "raise fit.split.validation or give a file with fit.split.file"
            )
    return split


def strata_of(packed: Packed) -> list[tuple[object, ...]]:
    """[patient] stratum of a pack's patients: the label, and nothing that a model can read.

    Equal shares in every cell of label × imaging (or × centre) would give training and held-out patients the same
    response rate by pattern of imaging, with whatever this cohort has of it by chance. A model that learns that chance
    is then right about the held-out patients too: of 1,000 patients without any signal, the training patients' response
    rate by pattern alone reaches a mean AUC of 0.525, of 271 patients 0.546, where strata of the label give 0.5.
    """
    return [(label,) for label in packed.labels.tolist()]


def draw_split(patients: Sequence[str], strata: Sequence[tuple[object, ...]], settings: SplitSettings) -> Split:
    """A random split with the same shares in every stratum, as far as whole patients allow.

    Patients are put in a row, stratum after stratum and at random within one, and every 1/share-th is taken. So every
    stratum, and every group of strata that share their first fields, gets its share to within one patient.

    Args:
        patients: ids, each once.
        strata: [patient] fields of a patient's stratum, the most important first.
        settings: shares and seed.
    """
    if len(set(patients)) != len(patients):
        raise FitError("split: a patient stands twice in the store's clinical table; extract it again")
    if settings.validation + settings.test >= 1:
        raise FitError(
            f"fit.split: validation {settings.validation} and test {settings.test} leave nobody to train on; "
            "their sum must be below 1"
        )
    rng = np.random.default_rng(settings.seed)
    ties = rng.random(len(patients))
    row = sorted(range(len(patients)), key=lambda p: (*map(str, strata[p]), ties[p]))
    test = set(_every(row, settings.test, rng.random()))
    rest = [patient for patient in row if patient not in test]
    validation = set(_every(rest, settings.validation / (1 - settings.test), rng.random()))

    def part(patient: int) -> str:
        return "test" if patient in test else "validation" if patient in validation else "train"

    return Split({name: part(number) for number, name in enumerate(patients)})


def draw_folds(patients: Sequence[str], strata: Sequence[tuple[object, ...]], folds: int, seed: int) -> dict[str, str]:
    """Patient → fold `1` … `folds`, at random, with the same share of every stratum in each as far as possible.

    Patients are put in a row as for `draw_split` and dealt out in turn.

    Raises:
        FitError: a patient stands twice, or there are fewer patients than folds.
    """
    if len(set(patients)) != len(patients):
        raise FitError("split: a patient stands twice in the store's clinical table; extract it again")
    if not 2 <= folds <= len(patients):
        raise FitError(f"folds: expected 2 to {len(patients)} (the number of patients), found {folds}")
    ties = np.random.default_rng(seed).random(len(patients))
    row = sorted(range(len(patients)), key=lambda p: (*map(str, strata[p]), ties[p]))
    dealt = {patients[p]: str(place % folds + 1) for place, p in enumerate(row)}
    return {patient: dealt[patient] for patient in patients}


def centre_folds(patients: Sequence[str], centres: Sequence[str]) -> dict[str, str]:
    """Patient → centre: one fold a centre.

    Raises:
        FitError: there is only one centre.
    """
    if len(set(centres)) < 2:
        raise FitError(f"folds by centre: all {len(patients)} patients are of one centre; use folds instead")
    return dict(zip(patients, centres, strict=True))


def fold_split(
    patients: Sequence[str], strata: Sequence[tuple[object, ...]], held_out: Collection[str], settings: SplitSettings
) -> Split:
    """The split of one fold: `held_out` tests; of the others `settings.validation` validates, stratified."""
    rest = [p for p, patient in enumerate(patients) if patient not in held_out]
    inner = draw_split(
        [patients[p] for p in rest], [strata[p] for p in rest], settings.model_copy(update={"test": 0.0})
    )
    return Split({patient: inner.parts.get(patient, "test") for patient in patients})


def _every(row: Sequence[int], share: float, offset: float) -> list[int]:
    """Every 1/share-th of a row, starting at a random place."""
    return [p for k, p in enumerate(row) if math.floor((k + 1) * share + offset) > math.floor(k * share + offset)]


def read_split(file: Path) -> Split:
    """A split from a CSV with columns `patient` and `part`.

    Raises:
        FitError: the file cannot be read, a part is unknown, or a patient stands in it twice.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FitError(f"split {file.name}: cannot be read: {error}") from error
    if not {"patient", "part"} <= set(columns):
        raise FitError(f"split {file.name}: expected columns patient and part, found {columns}")
    parts: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        patient, part = (row["patient"] or "").strip(), (row["part"] or "").strip()
        if part not in PARTS:
            raise FitError(f"split {file.name}, line {line}: part {part!r}, expected one of {', '.join(PARTS)}")
        if patient in parts:
            raise FitError(
                f"split {file.name}, line {line}: patient {patient} stands there twice "
                f"({parts[patient]} and {part}); a patient belongs to exactly one part"
            )
        parts[patient] = part
    return Split(parts)


def write_split(split: Split, file: Path) -> None:
    """The split as a CSV with columns `patient` and `part`."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("patient", "part"))
        writer.writerows(split.parts.items())


def _match(split: Split, patients: Sequence[str]) -> Split:
    """The split of exactly these patients."""
    without = [patient for patient in patients if patient not in split.parts]
    if without:
        raise FitError(
            f"split: {len(without)} patient(s) of the store have no part: {_some(without)}; "
            "add them to the file of fit.split.file"
        )
    strangers = sorted(set(split.parts) - set(patients))
    if strangers:
        _log.warning("split: %d patient(s) are not in the store: %s", len(strangers), _some(strangers))
    return Split({patient: split.parts[patient] for patient in patients})


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

"""The table of patients among the tables of a folder: the one with a column whose cells stand in paths of files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cohort_file import TableFormat
from ..source_tables import read_lines
from ..spreadsheets import TableError, sheet_names
from .naming import ByIds, NoPatient, can_be_looked_for

_LOOKED_AT = 20
"""First rows among which the header is."""

_MIN_PATIENTS = 2
"""Patients with files that a column of ids must have."""

_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


@dataclass(frozen=True)
class PatientsTable:
    """A table with a row a patient."""

    path: Path
    """From the data folder."""
    how: TableFormat
    decimal_comma: bool
    """Whether a cell holds a number with a comma."""
    header: tuple[str, ...]
    column: str
    """The column of ids."""
    ids: tuple[str, ...]
    """Its cells, each once."""
    with_files: int
    """How many of them stand in paths of files."""
    repeated: tuple[str, ...] = ()
    """Those that stand in several of its cells."""


def find_patients_tables(folder: Path, tables: Sequence[Path], files: Sequence[Path]) -> list[PatientsTable]:
    """The tables and sheets with a column of ids that stand in paths of `files`, the one with most such ids first."""
    found = [one for table in tables for how in _formats(folder / table) if (one := _ids_in(folder, table, how, files))]
    return sorted(found, key=lambda one: -one.with_files)


def further_tables(found: Sequence[PatientsTable]) -> list[PatientsTable]:
    """Those after the first that have rows of its patients, one a patient."""
    return [one for one in found[1:] if not one.repeated and len(set(one.ids) & set(found[0].ids)) >= _MIN_PATIENTS]


def _formats(path: Path) -> Iterable[TableFormat]:
    """The ways in which a table file can be read: its sheets; of a text file the one that gives most columns."""
    if path.suffix.lower() in (".xlsx", ".xls", ".ods"):
        try:
            names = sheet_names(path)
        except TableError:
            return []
        return [TableFormat(sheet=name if number else None) for number, name in enumerate(names)]
    if path.suffix.lower() != ".csv":
        return [TableFormat()]
    ways = []
    for encoding in ("utf-8", "cp1252"):
        for separator in (None, ";"):
            how = TableFormat.model_validate({"separator": separator, "encoding": encoding})
            try:
                widths = {len(cells) for _, cells in read_lines(path, how)}
            except TableError:
                continue
            # with the wrong separator, rows have as many cells as they happen to have commas
            ways.append((len(widths) == 1, max(widths, default=0), how))
        if ways:
            break
    return [max(ways, key=lambda way: way[:2])[2]] if ways else []


def _ids_in(folder: Path, table: Path, how: TableFormat, files: Sequence[Path]) -> PatientsTable | None:
    try:
        lines = [(line, cells) for line, cells in read_lines(folder / table, how) if any(cells)]
    except TableError:
        return None
    if not lines:
        return None
    filled = [sum(map(bool, cells)) for _, cells in lines[:_LOOKED_AT]]
    place = next(number for number, count in enumerate(filled) if 2 * count >= max(filled))
    header_line, header = lines[place]
    best, best_count = -1, _MIN_PATIENTS - 1
    best_ids: Counter[str] = Counter()
    for column in range(len(header)):
        ids = Counter(cells[column] for _, cells in lines[place + 1 :] if column < len(cells) and cells[column])
        count = _with_files(tuple(ids), files) if header[column] else 0
        if count > best_count:
            best, best_count, best_ids = column, count, ids
    if best < 0:
        return None
    return PatientsTable(
        path=table,
        how=how.model_copy(update={"header_row": header_line if place else None}),
        decimal_comma=any(_DECIMAL_COMMA.fullmatch(cell) for _, cells in lines[place + 1 :] for cell in cells),
        header=tuple(" ".join(name.split()) for name in header),
        column=" ".join(header[best].split()),
        ids=tuple(best_ids),
        with_files=best_count,
        repeated=tuple(one for one, cells in best_ids.items() if cells > 1),
    )


def _with_files(ids: Sequence[str], files: Sequence[Path]) -> int:
    """How many of the ids are the one patient that a path names."""
    if not any(can_be_looked_for(one) for one in ids):
        return 0
    naming = ByIds(ids)
    found = set()
    for file in files:
        try:
            found.add(naming.patient_of(file))
        except NoPatient:
            continue
    return len(found)

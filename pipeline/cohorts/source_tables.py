"""The user's tables: CSV, TSV, Parquet and spreadsheets as text cells, then as mumo's fields.

Whatever the format, a cell is first text, so that one column means the same however it was saved.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import Problem
from ...stores.records import is_safe_id
from .cells import CellReader, IntervalReader, Reader, cell_text, section_key
from .cohort_file import TableFormat, TableSection, near_match, shorten
from .fields import CellError, FieldSpec
from .spreadsheets import MAX_CELLS, TableError, read_sheet

MAX_TABLE_BYTES = 128 << 20
"""Largest table file."""

_HEADER_WITHIN = 20
"""Rows below the first in which a header is looked for, to say where it is."""

_SHOWN_COLUMNS = 30
"""Columns that are named where one was not found."""

_SPREADSHEETS = (".xlsx", ".xls", ".ods")


@dataclass(frozen=True)
class RawTable:
    """A table as text."""

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Line (CSV) or row number in the file, from 1, and the cells, as many as the header has; no blank rows."""
    ragged: tuple[tuple[int, int], ...] = ()
    """Line and number of cells of the rows that had more or fewer."""
    header_line: int = 1
    """Line or row number of the header."""
    above: tuple[tuple[int, tuple[str, ...]], ...] = ()
    """Line or row number and cells of what stands above the header."""


@dataclass(frozen=True)
class Row:
    """One row in mumo's fields; a field that is unknown, or whose cell is a problem, is `None`."""

    line: int
    key: str
    """The row's own id; empty where there is none."""
    values: dict[str, Any]
    bad: frozenset[str] = frozenset()
    """Fields whose cell or column is a problem already, so that nothing further is said of their being unknown."""
    last_resorts: frozenset[str] = frozenset()
    """Fields of days that end with the last of several columns of dates, because the ones before it are unknown."""

    @property
    def place(self) -> str:
        """The row for messages. An id that is not acceptable may be anything, a name too, so the line stands for it."""
        return f"{self.key} (line {self.line})" if is_safe_id(self.key) else f"line {self.line}"


@dataclass(frozen=True)
class TableRows:
    """A mapped table."""

    table: str
    """Its name in the cohort file."""
    columns: Mapping[str, str]
    """mumo's field → the user's column, for the columns that were found."""
    rows: tuple[Row, ...]
    readable: bool
    """Whether the rows could be read; without them nothing can be said of ids that refer to them."""

    def problem(
        self,
        row: Row | None,
        field: str,
        *,
        found: str,
        expected: str,
        remedy: str,
        severity: Literal["error", "warning"] = "error",
    ) -> Problem:
        """A problem with a row (none: the table) and field (empty: the whole row)."""
        place = row.place if row else ""
        return Problem(self.table, place, self.columns.get(field, field), found, expected, remedy, severity)


def read_cells(path: Path, how: TableFormat | None = None) -> RawTable:
    """The cells of a table file as text; `how` to read it (none: the defaults).

    Raises:
        TableError: no such file, another format, over the limits, or no header.
    """
    how = how or TableFormat()
    return _as_table(path, read_lines(path, how), how.header_row)


def read_lines(path: Path, how: TableFormat) -> Iterator[tuple[int, list[str]]]:
    """Line or row number, from 1, and cells as text of every line of a table file, blank ones and the header too.

    Raises:
        TableError: as `read_cells`, while the lines are taken.
    """
    cells_read = 0
    for line, values in _lines(path, how):
        cells_read += len(values)
        if cells_read > MAX_CELLS:
            raise TableError(path, expected=f"at most {MAX_CELLS} cells", found="more")
        yield line, [cell_text(value) for value in values]


def _lines(path: Path, how: TableFormat) -> Iterable[tuple[int, list[Any]]]:
    suffix = path.suffix.lower()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no such file"
        raise TableError(path, expected="a table file", found=found)
    if (size := path.stat().st_size) > MAX_TABLE_BYTES:
        raise TableError(path, expected=f"at most {MAX_TABLE_BYTES} bytes", found=f"{size}")
    if how.sheet is not None and suffix not in _SPREADSHEETS:
        raise TableError(path, expected="no `sheet` for this format", found=repr(how.sheet))
    if suffix in (".csv", ".tsv"):
        separator = how.separator or ("," if suffix == ".csv" else "\t")
        return _read_delimited(path, separator, how.encoding)
    if suffix == ".parquet":
        return _read_parquet(path)
    if suffix in _SPREADSHEETS:
        return enumerate(read_sheet(path, how.sheet), start=1)
    raise TableError(path, expected=".csv, .tsv, .parquet, .xlsx, .xls or .ods", found=repr(suffix))


def read_fields(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec], path: Path
) -> tuple[TableRows, list[Problem]]:
    """The table of `section`, at `path`, in the fields `specs`, of which the first is the id; and every problem."""
    problems = _check_names(name, section, specs)
    try:
        raw = read_cells(path, section)
    except TableError as error:
        remedy = error.remedy or _where_else(path, section.table)
        found = f"{error.found}: {shorten(section.table)}" if not path.exists() else f"{path.name}: {error.found}"
        return TableRows(name, {}, (), False), [*problems, Problem(name, "", "", found, error.expected, remedy)]
    columns, readers, missing = _make_readers(name, section, specs, raw)
    constants, bad = _constants(name, section, specs)
    problems += missing + bad + _ragged_rows(name, raw)
    for reader in readers.values():
        problems += reader.check_targets()
    lost = {field for field in section.given if field in specs} - columns.keys()
    lost -= {field for field, value in constants.items() if value is not None}
    rows = []
    for line, cells in raw.rows:
        row, wrong = _read_row(line, cells, readers, specs, lost)
        rows.append(replace(row, values={**row.values, **constants}))
        problems += wrong
    for reader in readers.values():
        problems += reader.ambiguous()
    readable = all(field in columns or field in constants for field, spec in specs.items() if spec.required)
    return TableRows(name, columns, tuple(rows), readable), problems


def read_word(section: TableSection, spec: FieldSpec, text: str) -> Any:
    """The value of a word from elsewhere that means what it would mean in a cell; none where it is no word."""
    word = CellReader("lesions", "", section, spec).word([cell_text(text)])
    try:
        return None if word is None else spec.parse(word)
    except CellError:
        return None


def _read_row(
    line: int, cells: Sequence[str], readers: Mapping[str, Reader], specs: Iterable[str], lost: set[str]
) -> tuple[Row, list[Problem]]:
    key_field = next(iter(specs))
    key = readers[key_field].word(cells) if key_field in readers else None
    row = Row(line, key or "", dict.fromkeys(specs))
    bad = set(lost)
    problems = []
    for field, reader in readers.items():
        row.values[field], wrong = reader.read(row.place, cells)
        if wrong:
            problems.append(wrong)
        if wrong or (row.values[field] is None and reader.word(cells) is not None):
            bad.add(field)
    last = {field for field, reader in readers.items() if isinstance(reader, IntervalReader) and reader.is_last(cells)}
    return replace(row, bad=frozenset(bad), last_resorts=frozenset(last)), problems


def _check_names(name: str, section: TableSection, specs: Mapping[str, FieldSpec]) -> list[Problem]:
    """Fields that do not exist, are given twice, or whose words are mapped without a column."""
    problems = []
    for part in ("columns", "constants", "values", "intervals", "units"):
        for field in getattr(section, part):
            if field not in specs:
                expected = f"one of: {', '.join(specs)}"
                remedy = f"{near_match(field, specs)}Rename or remove it."
                problems.append(
                    Problem(name, "", f"{part}.{field}", f"the unknown field {shorten(field)}", expected, remedy)
                )
    for field in sorted(section.given):
        parts = [part for part in ("columns", "constants", "intervals") if field in getattr(section, part)]
        if len(parts) > 1:
            found = f"the field in {' and in '.join(parts)}"
            problems.append(Problem(name, "", field, found, "one of them", "Remove it from the others."))
    for part in ("intervals", "units"):
        for field in getattr(section, part):
            if field in specs and specs[field].unit != "days":
                expected = f"one of: {', '.join(f for f, spec in specs.items() if spec.unit == 'days')}"
                problems.append(Problem(name, "", f"{part}.{field}", "a field that is no time", expected, "Remove it."))
    for field in (section.values.keys() & specs.keys()) - section.columns.keys():
        problems.append(
            Problem(name, "", f"values.{field}", "no column", "a column of this field", "Add it to columns.")
        )
    for field, spec in specs.items():
        if spec.required and field not in section.given:
            remedy = f"Name your column for it: {field} = ..."
            problems.append(Problem(name, "", f"columns.{field}", "nothing", spec.expected, remedy))
    return problems


def _make_readers(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec], raw: RawTable
) -> tuple[dict[str, str], dict[str, Reader], list[Problem]]:
    """Field → the user's column, and its reader; columns that are not there are problems."""
    wanted: dict[str, tuple[str, ...]] = {
        field: (column,) for field, column in section.columns.items() if field in specs
    }
    wanted |= {field: pair for field, pair in section.intervals.items() if field in specs}
    columns: dict[str, str] = {}
    readers: dict[str, Reader] = {}
    problems: list[Problem] = []
    for field, names in wanted.items():
        places = []
        for column in names:
            try:
                places.append(_place(column, raw.header))
            except LookupError as error:
                near = near_match(_column_name(column), [header for header in raw.header if header])
                there = "" if near or problems else _what_is_there(raw, wanted)
                remedy = f"{near}{there}Correct [{section_key(name)}], or the table's header."
                problems.append(Problem(name, "", column, str(error), f"one column for {field}", remedy))
        if len(places) < len(names):
            continue
        columns[field] = " – ".join(names)
        if field in section.intervals:
            readers[field] = IntervalReader(name, names, section, specs[field], places)
        else:
            readers[field] = CellReader(name, names[0], section, specs[field], places[0])
    return columns, readers, problems


def _place(column: str, header: Sequence[str]) -> int:
    """Place of a column in the header; LookupError where it is not there, or several times."""
    wanted = _column_name(column)
    count = header.count(wanted)
    if count != 1:
        raise LookupError(f"{count} columns of this name" if count else "no such column")
    return header.index(wanted)


def _what_is_there(raw: RawTable, wanted: Mapping[str, Sequence[str]]) -> str:
    """A sentence with the row that could be the header, or with the columns that there are."""
    names = {_column_name(column) for columns in wanted.values() for column in columns}
    for line, cells in (*raw.above, *raw.rows[:_HEADER_WITHIN]):
        if 2 * len(names & {_column_name(cell) for cell in cells}) > len(names):
            return f"Row {line} has them: set header_row = {line}. "
    shown = ", ".join(shorten(header, 40) for header in raw.header[:_SHOWN_COLUMNS] if header)
    more = f" and {len(raw.header) - _SHOWN_COLUMNS} more" if len(raw.header) > _SHOWN_COLUMNS else ""
    return f"The header, row {raw.header_line}, has {shown}{more}. "


def _constants(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec]
) -> tuple[dict[str, Any], list[Problem]]:
    values: dict[str, Any] = {}
    problems = []
    for field, constant in section.constants.items():
        if field not in specs:
            continue
        text = cell_text(constant)
        values[field] = None
        if not text and not specs[field].required:
            continue
        try:
            values[field] = specs[field].parse(text)
        except CellError as error:
            remedy = f"{error.hint}Correct [{section_key(name)}.constants]."
            problems.append(Problem(name, "", f"constants.{field}", shorten(text), error.expected, remedy))
    return values, problems


def _where_else(path: Path, table: str) -> str:
    """What to do about a table that is not there, or that cannot be read."""
    remedy = "Correct `table` (and `sheet`) or `data` in the cohort file, or the table file."
    if path.exists():
        return remedy
    parts = len(Path(table).parts)
    folder = path.parents[min(parts, len(path.parents)) - 1]
    places = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())] if folder.is_dir() else []
    for place in places:
        if (place / path.name).is_file():
            elsewhere = (place / path.name).relative_to(folder).as_posix()
            return f"The data folder has {shorten(elsewhere)}. {remedy}"
    names = sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []
    return f"{near_match(path.name, names)}Paths start from the data folder. {remedy}"


def _ragged_rows(name: str, raw: RawTable) -> list[Problem]:
    expected = f"{len(raw.header)} cells, as in the header"
    remedy = "Quote cells that hold the separator, and complete rows that are cut off."
    return [Problem(name, f"line {line}", "", f"{count} cells", expected, remedy) for line, count in raw.ragged]


def _as_table(path: Path, lines: Iterable[tuple[int, list[str]]], header_row: int | None) -> RawTable:
    header: tuple[str, ...] = ()
    header_line = 0
    rows: list[tuple[int, tuple[str, ...]]] = []
    ragged = []
    above = []
    for line, cells in lines:
        if not any(cells):
            continue
        if header_row is not None and line < header_row:
            above.append((line, tuple(cells)))
            continue
        if not header:
            header, header_line = tuple(_column_name(cell) for cell in cells), line
            continue
        if len(cells) != len(header):
            ragged.append((line, len(cells)))
        whole = (*cells, *[""] * len(header))[: len(header)]
        rows.append((line, whole))
    if not header:
        raise TableError(path, expected="a header and rows", found="an empty table")
    if len(header) == 1 and ";" in header[0]:
        remedy = (
            'Set separator = ";" in the table\'s section of the cohort file (and decimal = "," where numbers have '
            "commas), or name the spreadsheet itself."
        )
        expected = "commas (.csv) or tabs (.tsv) between columns"
        raise TableError(path, expected=expected, found="semicolons", remedy=remedy)
    return RawTable(header, tuple(rows), tuple(ragged), header_line, tuple(above))


def _column_name(text: str) -> str:
    """A column name as it is compared: line breaks and runs of blanks inside it count as one blank."""
    return " ".join(text.split())


def _read_delimited(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[int, list[Any]]]:
    try:
        with path.open(encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            while (cells := next(reader, None)) is not None:
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        remedy = (
            "Save it as CSV UTF-8, name the spreadsheet itself, or set `encoding` in its section (cp1252 for files of "
            "a Western Windows)."
        )
        found = "bytes in another encoding"
        raise TableError(path, expected=f"{encoding.upper()} text", found=found, remedy=remedy) from error
    except csv.Error as error:
        raise TableError(path, expected="well-formed rows", found=str(error)) from error


def _read_parquet(path: Path) -> Iterator[tuple[int, list[Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        extent = file.metadata.num_rows * file.metadata.num_columns
        if extent > MAX_CELLS:
            raise TableError(path, expected=f"at most {MAX_CELLS} cells", found=f"{extent}")
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise TableError(path, expected="a Parquet table", found=f"a file that cannot be read: {error}") from error
    columns = []
    for column in table.columns:
        values = column.to_pylist()
        # a 32-bit 0.7 must read 0.7 again, and not 0.699999988
        kind = {pa.float32(): np.float32, pa.float16(): np.float16}.get(column.type)
        columns.append([None if value is None else kind(value) for value in values] if kind else values)
    yield 1, list(table.column_names)
    for number, cells in enumerate(zip(*columns, strict=True), start=2):
        yield number, list(cells)

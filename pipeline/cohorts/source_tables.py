"""The user's tables: CSV, TSV, Parquet and spreadsheets as text cells, then as mumo's fields.

Whatever the format, a cell is first text, so that one column means the same however it was saved.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import Problem
from ...stores.records import is_safe_id
from .cohort_file import TableSection, near_match, shorten
from .fields import CellError, FieldSpec
from .spreadsheets import MAX_CELLS, TableError, read_sheet

MAX_TABLE_BYTES = 128 << 20
"""Largest table file."""

_WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
_SPREADSHEETS = (".xlsx", ".xls", ".ods")


@dataclass(frozen=True)
class RawTable:
    """A table as text."""

    header: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]
    """Line (CSV) or row number in the file, from 1, and the cells, as many as the header has; no blank rows."""
    ragged: tuple[tuple[int, int], ...] = ()
    """Line and number of cells of the rows that had more or fewer."""


@dataclass(frozen=True)
class Row:
    """One row in mumo's fields; a field that is unknown, or whose cell is a problem, is `None`."""

    line: int
    key: str
    """The row's own id; empty where there is none."""
    values: dict[str, Any]
    bad: frozenset[str] = frozenset()
    """Fields whose cell or column is a problem already, so that nothing further is said of their being unknown."""

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


def cell_text(value: object) -> str:
    """A cell as text: blank for nothing and NaN, `12` for 12.0 and "12.0", ISO for dates, no blanks around it.

    >>> cell_text(12.0), cell_text(" 12.0 "), cell_text(0.7), cell_text(None)
    ('12', '12', '0.7', '')
    """
    if value is None or value != value:  # noqa: PLR0124 (NaN and NaT are the values unequal to themselves)
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    text = str(value).replace("\ufeff", "").strip()
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def read_cells(path: Path, sheet: str | None = None) -> RawTable:
    """The cells of a table file as text; `sheet` names the sheet of a spreadsheet.

    Raises:
        TableError: no such file, another format, over the limits, or no header.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise TableError(path, expected="a table file", found="no such file")
    if (size := path.stat().st_size) > MAX_TABLE_BYTES:
        raise TableError(path, expected=f"at most {MAX_TABLE_BYTES} bytes", found=f"{size}")
    if sheet is not None and suffix not in _SPREADSHEETS:
        raise TableError(path, expected="no `sheet` for this format", found=repr(sheet))
    if suffix in (".csv", ".tsv"):
        return _as_table(path, _read_delimited(path, "," if suffix == ".csv" else "\t"))
    if suffix == ".parquet":
        return _as_table(path, _read_parquet(path))
    if suffix in _SPREADSHEETS:
        return _as_table(path, enumerate(read_sheet(path, sheet), start=1))
    raise TableError(path, expected=".csv, .tsv, .parquet, .xlsx, .xls or .ods", found=repr(suffix))


def read_fields(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec], path: Path
) -> tuple[TableRows, list[Problem]]:
    """The table of `section`, at `path`, in the fields `specs`, of which the first is the id; and every problem."""
    problems = _check_names(name, section, specs)
    try:
        raw = read_cells(path, section.sheet)
    except TableError as error:
        near = near_match(path.name, _neighbours(path)) if not path.exists() else ""
        remedy = error.remedy or f"{near}Correct `table` (and `sheet`) or `data` in the cohort file, or the table file."
        found = f"{path.name}: {error.found}"
        return TableRows(name, {}, (), False), [*problems, Problem(name, "", "", found, error.expected, remedy)]
    columns, places, missing = _find_columns(name, section, specs, raw)
    constants, bad = _constants(name, section, specs)
    problems += missing + bad + _ragged_rows(name, raw)
    readers = {field: _CellReader(name, columns[field], section, specs[field]) for field in columns}
    for reader in readers.values():
        problems += reader.check_targets()
    lost = {field for field in section.columns.keys() | section.constants.keys() if field in specs} - columns.keys()
    lost -= {field for field, value in constants.items() if value is not None}
    rows = []
    for line, cells in raw.rows:
        row, wrong = _read_row(line, {field: cells[place] for field, place in places.items()}, readers, specs, lost)
        rows.append(replace(row, values={**row.values, **constants}))
        problems += wrong
    for reader in readers.values():
        problems += reader.ambiguous()
    readable = all(field in columns or field in constants for field, spec in specs.items() if spec.required)
    return TableRows(name, columns, tuple(rows), readable), problems


def read_word(section: TableSection, spec: FieldSpec, text: str) -> Any:
    """The value of a word from elsewhere that means what it would mean in a cell; none where it is no word."""
    word = _CellReader("lesions", "", section, spec).word(cell_text(text))
    try:
        return None if word is None else spec.parse(word)
    except CellError:
        return None


def _read_row(
    line: int, cells: Mapping[str, str], readers: Mapping[str, _CellReader], specs: Iterable[str], lost: set[str]
) -> tuple[Row, list[Problem]]:
    key_field = next(iter(specs))
    key = readers[key_field].word(cells[key_field]) if key_field in readers else None
    row = Row(line, key or "", dict.fromkeys(specs))
    bad = set(lost)
    problems = []
    for field, reader in readers.items():
        row.values[field], wrong = reader.read(row.place, cells[field])
        if wrong:
            problems.append(wrong)
        if wrong or (row.values[field] is None and reader.word(cells[field]) is not None):
            bad.add(field)
    return replace(row, bad=frozenset(bad)), problems


class _CellReader:
    """Reads the cells of one column: the user's words, then unknown, then patterns, then mumo's own words."""

    def __init__(self, table: str, column: str, section: TableSection, spec: FieldSpec) -> None:
        self._table, self._column, self._spec = table, column, spec
        self._values = f"[{section_key(table)}.values.{spec.name}]"
        self._unknown = {cell_text(word) for word in section.unknown} | {""}
        own = {word.casefold() for word in spec.words}
        self._unknown_folded = {word.casefold() for word in self._unknown} - own
        self._unclear = {word for word in self._unknown if word.casefold() in own}
        self._unclear_cells = 0
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        self._refused: set[str] = set()
        for key, word in section.values.get(spec.name, {}).items():
            if "*" in key:
                pattern = ".*".join(re.escape(part) for part in cell_text(key).split("*"))
                self._patterns.append((re.compile(pattern, re.DOTALL), cell_text(word)))
            else:
                self._exact[cell_text(key)] = cell_text(word)

    def word(self, cell: str) -> str | None:
        """The cell in the words that the field's parser takes, or none where it means unknown."""
        if cell in self._exact:
            return self._known(self._exact[cell])
        if cell in self._unknown or cell.casefold() in self._unknown_folded:
            return None
        for pattern, word in self._patterns:
            if pattern.fullmatch(cell):
                return self._known(word)
        return cell

    def read(self, place: str, cell: str) -> tuple[Any, Problem | None]:
        """The value of a cell, and what is wrong with it."""
        self._unclear_cells += cell in self._unclear and cell not in self._exact
        word = self.word(cell)
        if word is None:
            if not self._spec.required:
                return None, None
            remedy = "Fill in the cell, or remove the row."
            return None, self._problem(place, shorten(cell), self._spec.expected, remedy)
        if word in self._refused:
            return None, None
        try:
            return self._spec.parse(word), None
        except CellError as error:
            how = f"Correct the cell, or map its word in {self._values}."
            if error.severity == "warning":
                how = "It counts as unknown."
            return None, self._problem(place, shorten(cell), error.expected, error.hint + how, error.severity)

    def check_targets(self) -> list[Problem]:
        """Words of the cohort file that the field does not take; their cells are not reported again."""
        problems = []
        for word in dict.fromkeys([*self._exact.values(), *(word for _, word in self._patterns)]):
            if self._known(word) is None:
                continue
            try:
                self._spec.parse(word)
            except CellError as error:
                self._refused.add(word)
                where = f"the mapped word {shorten(word)}"
                remedy = f"{error.hint}Correct {self._values}."
                problems.append(self._problem("", where, error.expected, remedy))
        return problems

    def ambiguous(self) -> list[Problem]:
        """A word for unknown that is, but for its case, one of the field's own words."""
        if not self._unclear_cells:
            return []
        words = ", ".join(sorted(map(repr, self._unclear)))
        return [
            self._problem(
                "",
                f"{words} in {self._unclear_cells} row(s)",
                f"a word that does not also mean unknown, or {self._spec.expected}",
                f"It counts as unknown. Map it in {self._values} if it does not mean that.",
                "warning",
            )
        ]

    def _known(self, word: str) -> str | None:
        return None if word in self._unknown else word

    def _problem(
        self, place: str, found: str, expected: str, remedy: str, severity: Literal["error", "warning"] = "error"
    ) -> Problem:
        return Problem(self._table, place, self._column, found, expected, remedy, severity)


def section_key(table: str) -> str:
    """Key of a table's section in the cohort file: `reports` for `reports 2`."""
    return table.split(maxsplit=1)[0]


def _check_names(name: str, section: TableSection, specs: Mapping[str, FieldSpec]) -> list[Problem]:
    """Fields that do not exist, are given twice, or whose words are mapped without a column."""
    problems = []
    for part in ("columns", "constants", "values"):
        for field in getattr(section, part):
            if field not in specs:
                expected = f"one of: {', '.join(specs)}"
                remedy = f"{near_match(field, specs)}Rename or remove it."
                problems.append(
                    Problem(name, "", f"{part}.{field}", f"the unknown field {shorten(field)}", expected, remedy)
                )
    for field in section.columns.keys() & section.constants.keys():
        problems.append(
            Problem(name, "", field, "a column and a constant", "one of them", "Remove it from columns or constants.")
        )
    for field in (section.values.keys() & specs.keys()) - section.columns.keys():
        problems.append(
            Problem(name, "", f"values.{field}", "no column", "a column of this field", "Add it to columns.")
        )
    for field, spec in specs.items():
        if spec.required and field not in section.columns and field not in section.constants:
            remedy = f"Name your column for it: {field} = ..."
            problems.append(Problem(name, "", f"columns.{field}", "nothing", spec.expected, remedy))
    return problems


def _find_columns(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec], raw: RawTable
) -> tuple[dict[str, str], dict[str, int], list[Problem]]:
    """Field → the user's column, and its place in the header; columns that are not there are problems."""
    columns, places, problems = {}, {}, []
    for field, column in section.columns.items():
        if field not in specs:
            continue
        wanted = _column_name(column)
        count = raw.header.count(wanted)
        if count == 1:
            columns[field], places[field] = column, raw.header.index(wanted)
            continue
        found = f"{count} columns of this name" if count else "no such column"
        near = near_match(wanted, [header for header in raw.header if header])
        remedy = f"{near}Correct [{section_key(name)}.columns], or the table's header."
        problems.append(Problem(name, "", column, found, f"one column for {field}", remedy))
    return columns, places, problems


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


def _neighbours(path: Path) -> list[str]:
    """Names of the files where a table was looked for."""
    return sorted(file.name for file in path.parent.iterdir()) if path.parent.is_dir() else []


def _ragged_rows(name: str, raw: RawTable) -> list[Problem]:
    expected = f"{len(raw.header)} cells, as in the header"
    remedy = "Quote cells that hold the separator, and complete rows that are cut off."
    return [Problem(name, f"line {line}", "", f"{count} cells", expected, remedy) for line, count in raw.ragged]


def _as_table(path: Path, lines: Iterable[tuple[int, list[Any]]]) -> RawTable:
    header: tuple[str, ...] = ()
    rows: list[tuple[int, tuple[str, ...]]] = []
    ragged = []
    cells_read = 0
    for line, values in lines:
        cells = [cell_text(value) for value in values]
        cells_read += len(cells)
        if cells_read > MAX_CELLS:
            raise TableError(path, expected=f"at most {MAX_CELLS} cells", found="more")
        if not any(cells):
            continue
        if not header:
            header = tuple(_column_name(cell) for cell in cells)
            continue
        if len(cells) != len(header):
            ragged.append((line, len(cells)))
            cells += [""] * len(header)
        rows.append((line, tuple(cells[: len(header)])))
    if not header:
        raise TableError(path, expected="a header and rows", found="an empty table")
    if len(header) == 1 and ";" in header[0]:
        remedy = "Save it with commas, or name the spreadsheet itself, which also keeps numbers and dates as such."
        expected = "commas (.csv) or tabs (.tsv) between columns"
        raise TableError(path, expected=expected, found="semicolons", remedy=remedy)
    return RawTable(header, tuple(rows), tuple(ragged))


def _column_name(text: str) -> str:
    """A column name as it is compared: line breaks and runs of blanks inside it count as one blank."""
    return " ".join(text.split())


def _read_delimited(path: Path, delimiter: str) -> Iterator[tuple[int, list[Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            while (cells := next(reader, None)) is not None:
                yield reader.line_num, cells
    except UnicodeDecodeError as error:
        remedy = "Save it as CSV UTF-8, or name the spreadsheet itself."
        found = "bytes in another encoding"
        raise TableError(path, expected="UTF-8 text", found=found, remedy=remedy) from error
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

"""Spreadsheets (.xlsx, strict OOXML included, .xls, .ods) as rows of plain Python values, within limits.

The reader lays a sheet out densely, from its first to its last cell, so one far cell of a small file could ask
for hundreds of gigabytes. The extent of the sheets is therefore measured before anything is laid out.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import defusedxml.ElementTree
from defusedxml import DefusedXmlException
from python_calamine import CalamineError, CalamineWorkbook

from ...errors import InputError


class TableError(InputError):
    """A table file cannot be read: says which file, what was expected, and what was found."""

    def __init__(self, file: Path, *, expected: str, found: str, remedy: str = "") -> None:
        super().__init__(f"{file.name}: expected {expected}, found {found}")
        self.file, self.expected, self.found = file, expected, found
        self.remedy = remedy
        """What the user can do, where that is known."""

    def __reduce__(self) -> tuple[Callable[..., TableError], tuple[Path, str, str, str]]:
        return (_table_error, (self.file, self.expected, self.found, self.remedy))


MAX_CELLS = 5_000_000
"""Largest extent of a sheet, rows × columns."""

MAX_UNPACKED_BYTES = 256 << 20
"""Largest size of a workbook's files once unpacked."""

_ATTRIBUTES = rb"""((?:[^<>"']|"[^"<]*"|'[^'<]*')*)"""
_ROW_OR_CELL = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?(row|c)(?=[\s/>])" + _ATTRIBUTES + rb">")
_REFERENCE = re.compile(rb"""\sr\s*=\s*["']([A-Z]{0,3})([0-9]{0,7})["']""")
_ODS_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_ODS_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"


def read_sheet(file: Path, sheet: str | None = None) -> list[list[Any]]:
    """Rows of a sheet (none: the first) from the top left corner on; blank cells are empty strings.

    Raises:
        TableError: not a workbook of this format, no such sheet, or larger than the limits.
    """
    if file.suffix.lower() != ".xls":
        _check_archive(file)
    try:
        workbook = CalamineWorkbook.from_path(str(file))
        names = workbook.sheet_names
        wanted = names[0] if sheet is None and names else sheet
        if wanted not in names:
            raise TableError(file, expected=f"a sheet {sheet or ''!r}", found=", ".join(map(repr, names)) or "no sheet")
        return workbook.get_sheet_by_name(wanted).to_python(skip_empty_area=False)
    except (CalamineError, OSError, ValueError) as error:
        raise TableError(file, expected="a spreadsheet", found=f"a file that cannot be read: {error}") from error


def sheet_names(file: Path) -> list[str]:
    """Names of the sheets of a workbook, in order.

    Raises:
        TableError: not a workbook of this format, or larger than the limits.
    """
    if file.suffix.lower() != ".xls":
        _check_archive(file)
    try:
        return list(CalamineWorkbook.from_path(str(file)).sheet_names)
    except (CalamineError, OSError, ValueError) as error:
        raise TableError(file, expected="a spreadsheet", found=f"a file that cannot be read: {error}") from error


def _check_archive(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > MAX_UNPACKED_BYTES:
                raise TableError(file, expected=f"at most {MAX_UNPACKED_BYTES} bytes unpacked", found=f"{unpacked}")
            for name in archive.namelist():
                with archive.open(name) as stream:
                    if file.suffix.lower() == ".ods":
                        extent = _extent_ods(stream) if name == "content.xml" else (0, 0)
                    else:
                        # a worksheet may have any name, so every member is looked at
                        extent = _extent_xlsx(stream.read())
                _check_extent(file, *extent)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise TableError(file, expected="a spreadsheet", found=f"a file that cannot be read: {error}") from error
    except (defusedxml.ElementTree.ParseError, DefusedXmlException) as error:
        raise TableError(file, expected="a spreadsheet", found=f"XML that is not accepted: {error}") from error


def _check_extent(file: Path, rows: int, columns: int) -> None:
    if rows * columns > MAX_CELLS:
        expected = f"sheets of at most {MAX_CELLS} cells (delete what stands far from the table)"
        raise TableError(file, expected=expected, found=f"one that reaches over {rows} rows × {columns} columns")


def _extent_xlsx(text: bytes) -> tuple[int, int]:
    """Highest row and column of a worksheet; rows and cells without a reference follow the one before."""
    rows = columns = row = column = 0
    for match in _ROW_OR_CELL.finditer(text):
        reference = _REFERENCE.search(match[2])
        letters, digits = (reference[1], reference[2]) if reference else (b"", b"")
        if match[1] == b"row":
            row = int(digits) if digits else row + 1
            column = 0
        else:
            row = int(digits) if digits else row
            column = _column_number(letters) if letters else column + 1
        rows, columns = max(rows, row), max(columns, column)
    return rows, columns


def _column_number(letters: bytes) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + letter - ord("A") + 1
    return number


def _extent_ods(stream: IO[bytes]) -> tuple[int, int]:
    """Rows up to the last one with content, and the longest row, of the largest table of an OpenDocument file."""
    largest = (0, 0)
    rows = filled = width = columns = length = 0
    for _, element in defusedxml.ElementTree.iterparse(stream, events=("end",), forbid_dtd=True):
        if element.tag in {f"{_ODS_TABLE}table-cell", f"{_ODS_TABLE}covered-table-cell"}:
            length += _repeats(element, "columns")
            if len(element) or any(key.startswith(_ODS_OFFICE) for key in element.attrib):
                columns = length
        elif element.tag == f"{_ODS_TABLE}table-row":
            rows += _repeats(element, "rows")
            if columns:
                filled, width = rows, max(width, columns)
            columns = length = 0
            element.clear()
        elif element.tag == f"{_ODS_TABLE}table":
            largest = max(largest, (filled, width), key=lambda extent: extent[0] * extent[1])
            rows = filled = width = 0
            element.clear()
    return largest


def _repeats(element: Any, what: str) -> int:
    text = element.get(f"{_ODS_TABLE}number-{what}-repeated", "1")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 1 << 30


def _table_error(file: Path, expected: str, found: str, remedy: str) -> TableError:
    return TableError(file, expected=expected, found=found, remedy=remedy)

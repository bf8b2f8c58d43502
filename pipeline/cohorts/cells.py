"""A cell of the user's tables, first text, then a value in mumo's words and units, or a problem."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np

from ...errors import Problem
from .cohort_file import DateOrder, TableSection, shorten
from .fields import CellError, FieldSpec, normal, parse_number

DAYS_IN = {"days": 1.0, "weeks": 7.0, "months": 365.25 / 12, "years": 365.25}
"""Length of the units in which a table may give times, days."""

_WHOLE = re.compile(r"([+-]?[0-9]+)\.0+")
_ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:[ T].*)?")
_OTHER_DATE = re.compile(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})")


class Reader(Protocol):
    """Reads one field of the rows of a table."""

    def word(self, cells: Sequence[str]) -> str | None:
        """What stands in the row's cells, in words that the field's parser takes; none where unknown."""

    def read(self, place: str, cells: Sequence[str]) -> tuple[Any, Problem | None]:
        """The field's value in a row, and what is wrong with it."""

    def check_targets(self) -> list[Problem]:
        """What is wrong with the section of the cohort file, whatever the rows hold."""

    def ambiguous(self) -> list[Problem]:
        """What is doubtful, known once all rows are read."""


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


def section_key(table: str) -> str:
    """Key of a table's section in the cohort file: `reports` for `reports 2`."""
    return table.split(maxsplit=1)[0]


class CellReader:
    """Reads the cells of one column: the user's words, then unknown, then patterns, then mumo's own words."""

    def __init__(self, table: str, column: str, section: TableSection, spec: FieldSpec, place: int = 0) -> None:
        self._table, self._column, self._spec, self._place = table, column, spec, place
        self._decimal = section.decimal
        self._days = DAYS_IN[section.units[spec.name]] if spec.name in section.units and spec.unit == "days" else None
        self._values = f"[{section_key(table)}.values.{spec.name}]"
        self._unknown = {cell_text(word) for word in section.unknown} | {""}
        own = {word.casefold() for word in spec.words}
        self._unknown_folded = {word.casefold() for word in self._unknown} - own
        self._unclear = {word for word in self._unknown if word.casefold() in own}
        self._unclear_cells = 0
        self._exact: dict[str, str] = {}
        self._folded: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        self._refused: set[str] = set()
        for key, word in section.values.get(spec.name, {}).items():
            if "*" in key:
                pattern = ".*".join(re.escape(part) for part in cell_text(key).split("*"))
                self._patterns.append((re.compile(pattern, re.DOTALL), cell_text(word)))
            else:
                self._exact[cell_text(key)] = cell_text(word)
                self._folded.setdefault(normal(key), cell_text(word))

    def word(self, cells: Sequence[str]) -> str | None:
        """The cell in the words that the field's parser takes, or none where it means unknown.

        A word of the cohort file in another case counts where the cell is not named as it stands.
        """
        return self._word(cells[self._place])

    def _word(self, cell: str) -> str | None:
        if cell in self._exact:
            return self._known(self._exact[cell])
        if cell and normal(cell) in self._folded:
            return self._known(self._folded[normal(cell)])
        if cell in self._unknown or cell.casefold() in self._unknown_folded:
            return None
        for pattern, word in self._patterns:
            if pattern.fullmatch(cell):
                return self._known(word)
        return cell

    def read(self, place: str, cells: Sequence[str]) -> tuple[Any, Problem | None]:
        """The value of a cell, and what is wrong with it."""
        cell = cells[self._place]
        self._unclear_cells += cell in self._unclear and cell not in self._exact
        word = self._word(cell)
        if word is None:
            if not self._spec.required:
                return None, None
            remedy = "Fill in the cell, or remove the row."
            return None, self._problem(place, shorten(cell), self._spec.expected, remedy)
        if word in self._refused:
            return None, None
        try:
            return self._spec.parse(self._in_own_units(word)), None
        except CellError as error:
            how = f"Correct the cell, or map its word in {self._values}."
            if error.severity == "warning":
                how = "It counts as unknown."
            problem = self._problem(place, shorten(cell), error.expected, error.hint + how, error.severity)
            return None, replace(problem, field=self._spec.name, word=cell) if self._spec.words else problem

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

    def _in_own_units(self, word: str) -> str:
        """A number as the field's parser takes it: with a decimal point, in the field's own unit."""
        if self._decimal == "," and self._spec.unit:
            word = word.replace(",", ".", 1)
        number = parse_number(word) if self._days is not None else None
        return word if number is None or self._days is None else repr(number * self._days)

    def _known(self, word: str) -> str | None:
        return None if word in self._unknown else word

    def _problem(
        self, place: str, found: str, expected: str, remedy: str, severity: Literal["error", "warning"] = "error"
    ) -> Problem:
        return Problem(self._table, place, self._column, found, expected, remedy, severity)


class IntervalReader:
    """Reads a field of days from columns of dates: from the first to the first of the others that a row has."""

    def __init__(
        self, table: str, columns: Sequence[str], section: TableSection, spec: FieldSpec, places: Sequence[int]
    ) -> None:
        self._table, self._columns, self._spec, self._places = table, tuple(columns), spec, tuple(places)
        self._order: DateOrder | None = section.date_order
        self._unknown = {cell_text(word).casefold() for word in section.unknown} | {""}

    def word(self, cells: Sequence[str]) -> str | None:
        """Both dates as they stand, or none where one of them is unknown."""
        ends = self._ends(cells)
        return " – ".join(cells[self._places[index]] for index in ends) if ends else None

    def is_last(self, cells: Sequence[str]) -> bool:
        """Whether the last date is from the last of several columns, because those before it have none."""
        last = len(self._columns) - 1
        return last > 1 and self._ends(cells) == (0, last)

    def _ends(self, cells: Sequence[str]) -> tuple[int, int] | None:
        """Which of the columns have the first and the last date."""
        known = [index for index, place in enumerate(self._places) if cells[place].casefold() not in self._unknown]
        return (0, known[1]) if known[:1] == [0] and len(known) > 1 else None

    def read(self, place: str, cells: Sequence[str]) -> tuple[Any, Problem | None]:
        """The days between the two dates, and what is wrong with them."""
        ends = self._ends(cells)
        if ends is None:
            return None, None
        dates = []
        for column, cell in ((self._columns[index], cells[self._places[index]]) for index in ends):
            try:
                dates.append(parse_date(cell, self._order))
            except CellError as error:
                remedy = f"{error.hint}Correct the cell, or list its word in `unknown`."
                return None, Problem(self._table, place, column, shorten(cell), error.expected, remedy)
        days = (dates[1] - dates[0]).days
        try:
            return self._spec.parse(str(days)), None
        except CellError:
            found = f"{dates[1]}, {days} days after {self._columns[0]!r}"
            remedy = "Correct the dates, or the order of the two columns."
            return None, Problem(self._table, place, self._columns[ends[1]], found, self._spec.expected, remedy)

    def check_targets(self) -> list[Problem]:
        """Nothing: there are no words."""
        return []

    def ambiguous(self) -> list[Problem]:
        """Nothing: a date that could be read in two ways is an error of its row."""
        return []


def parse_date(text: str, order: DateOrder | None = None) -> datetime.date:
    """The date of `2020-12-31`, with a time or without, of `31.12.2020`, and of `31/12/2020` or `12/31/2020`.

    With slashes or hyphens, `order` says which of day and month comes first; it is not needed where one is above 12.

    Raises:
        CellError: no such date, or one that could be read in two ways.

    >>> parse_date("31.12.2020"), parse_date("3/4/2020", "day-month")
    (datetime.date(2020, 12, 31), datetime.date(2020, 4, 3))
    """
    expected = "a date (2020-12-31, 31.12.2020)"
    if iso := _ISO_DATE.fullmatch(text):
        year, month, day = (int(part) for part in iso.groups())
    elif other := _OTHER_DATE.fullmatch(text):
        first, second, year = int(other[1]), int(other[3]), int(other[4])
        if other[2] == "." or order == "day-month" or first > 12:
            day, month = first, second
        elif order == "month-day" or second > 12:
            day, month = second, first
        elif first == second:
            day = month = first
        else:
            hint = 'Day and month could be either way round: set date_order = "day-month" or "month-day". '
            raise CellError(expected, hint)
    else:
        raise CellError(expected)
    try:
        return datetime.date(year, month, day)
    except ValueError as error:
        raise CellError(expected) from error

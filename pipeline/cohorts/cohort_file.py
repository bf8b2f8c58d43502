"""The schema of `cohort.toml`: frozen models, and every mistake in the file as a `Problem`."""

from __future__ import annotations

import datetime
import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ...config import REGION_CLASSES, PositiveFloat, Section
from ...errors import Problem

DEFAULT_UNKNOWN = ("", "NA", "N/A", "nan", "None", "unknown")
"""Words that mean unknown in a table whose section does not say otherwise."""

DEFAULT_CUTOFF_DAYS = {"anti-HER2": 240.0, "anti-HER2+immunotherapy": 300.0}
"""PFS cut-offs of the label rule: 8 and 10 months (Chen et al. 2024)."""

_MAX_FILE_BYTES = 1 << 20
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

Scalar = str | bool | int | float | datetime.date
Text = Annotated[str, Field(min_length=1)]
DateOrder = Literal["day-month", "month-day"]


class TableFormat(Section):
    """How the file of a table is read."""

    sheet: str | None = None
    """Sheet of a spreadsheet; none: the first."""
    header_row: Annotated[int, Field(ge=1)] | None = None
    """Row of the header, counted from 1; none: the first that is not blank. What stands above is not read."""
    separator: Literal[",", ";", "\t", "|"] | None = None
    """What stands between the columns of a text file; none: commas in a .csv, tabs in a .tsv."""
    encoding: Literal["utf-8", "utf-16", "cp1252", "iso-8859-15", "mac-roman", "gb18030", "shift_jis"] = "utf-8"
    """Encoding of a text file; `cp1252` is what a Western Windows writes."""


class TableSection(TableFormat):
    """A table and how its columns and words become mumo's."""

    table: Text
    """The table's file, from the data folder: .csv, .tsv, .parquet, .xlsx, .xls or .ods."""
    decimal: Literal[".", ","] = "."
    """Sign before the decimals of numbers that are text; with a comma, a point is accepted too."""
    date_order: DateOrder | None = None
    """Which of day and month comes first in dates with slashes; `31.12.2020` and `2020-12-31` are clear without."""
    unknown: tuple[str, ...] = DEFAULT_UNKNOWN
    """Words that mean unknown."""
    columns: dict[str, str]
    """mumo's field = the user's column; columns that are not named here are not read."""
    constants: dict[str, Scalar] = Field(default_factory=dict)
    """mumo's field = the value of every row."""
    intervals: dict[str, Annotated[tuple[str, ...], Field(min_length=2)]] = Field(default_factory=dict)
    """mumo's field of days = your columns of the first and the last date; of several last ones (progression, then last
    contact) the first that a row has counts."""
    units: dict[str, Literal["days", "weeks", "months", "years"]] = Field(default_factory=dict)
    """mumo's field of days = the unit in which your column has it; a month is 365.25 / 12 days."""
    values: dict[str, dict[str, Scalar]] = Field(default_factory=dict)
    """Field → the user's word, or a pattern with `*` = mumo's word; "" = unknown. Case matters only where the file
    maps both cases."""

    @property
    def given(self) -> frozenset[str]:
        """Fields that the table gives, by a column, a constant or columns of dates."""
        return frozenset((*self.columns, *self.constants, *self.intervals))


class SlidesSection(TableSection):
    """The table of slides."""

    region_classes: dict[str, Annotated[int, Field(ge=0, lt=REGION_CLASSES)]] = Field(default_factory=dict)
    """Annotation group = region class 0–3."""


class LesionsSection(TableSection):
    """The table of CT lesions."""

    box_unit: Literal["voxel", "mm"] = "voxel"
    """Boxes are voxel indices of the stored image, or millimetres in the patient (LPS)."""


class LabelsSection(Section):
    """How response labels are made."""

    cutoff_days: Annotated[dict[Text, PositiveFloat], Field(min_length=1)] = Field(
        default_factory=lambda: dict(DEFAULT_CUTOFF_DAYS)
    )
    """Treatment group = PFS above which a patient without a decisive RECIST response is a responder, days."""


class CohortFile(Section):
    """A cohort file."""

    format_version: Literal[1]
    name: Text
    data: str = "."
    """Folder that relative paths start from, itself relative to the cohort file; `${VAR}` is expanded."""
    patients: TableSection
    reports: tuple[TableSection, ...] = ()
    """Further tables with one row a patient."""
    labels: LabelsSection = LabelsSection()
    slides: SlidesSection | None = None
    ct: TableSection | None = None
    lesions: LesionsSection | None = None


def read_cohort_file(file: Path) -> tuple[CohortFile | None, list[Problem]]:
    """The content of a cohort file, or none where it cannot be used, and every problem with it.

    Unknown keys are problems, but the rest is still read, so that the tables can be checked in the same run.
    """
    try:
        size = file.stat().st_size
        if size > _MAX_FILE_BYTES:
            return None, [
                _file_problem(file, f"{size} bytes", f"a cohort file (TOML) of at most {_MAX_FILE_BYTES} bytes")
            ]
        values = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found = "a folder" if file.is_dir() else error.strerror or type(error).__name__
        return None, [_file_problem(file, found, "a cohort file (TOML); `mumo init` drafts one")]
    except UnicodeDecodeError:
        return None, [_file_problem(file, "bytes that are not UTF-8", "a cohort file (TOML) in UTF-8")]
    except tomllib.TOMLDecodeError as error:
        return None, [_file_problem(file, f"no valid TOML: {error}", "a cohort file (TOML)")]
    return _validate(file, values)


def expand_variables(text: str, environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """`text` with each `${NAME}` replaced from `environment`, and the names that are not set there.

    >>> expand_variables("${ROOT}/tables", {"ROOT": "/data"})
    ('/data/tables', ())
    """
    unset = tuple(name for name in _VARIABLE.findall(text) if name not in environment)
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), text), unset


def near_match(word: str, candidates: Collection[str]) -> str:
    """A sentence that suggests the candidate most like `word`, ending in a blank; empty when none is alike."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    found = difflib.get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    return f"Did you mean {folded[found[0]]!r}? " if found else ""


def shorten(text: str, limit: int = 80) -> str:
    """`text` in quotes, cut to about `limit` characters: cells may hold anything."""
    return repr(text if len(text) <= limit else f"{text[:limit]}…")


def _validate(file: Path, values: dict[str, Any]) -> tuple[CohortFile | None, list[Problem]]:
    try:
        return CohortFile.model_validate(values), []
    except ValidationError as error:
        details = error.errors()
    problems = [_schema_problem(file, detail) for detail in details]
    if any(detail["type"] != "extra_forbidden" for detail in details):
        return None, problems
    for detail in details:
        node: Any = values
        for key in detail["loc"][:-1]:
            node = node[key]
        del node[detail["loc"][-1]]
    return CohortFile.model_validate(values), problems


def _schema_problem(file: Path, detail: Any) -> Problem:
    """A problem from one of pydantic's error details; `loc` is the path of keys from the top of the file."""
    *path, key = (str(part) for part in detail["loc"])
    # a union of accepted types adds its members to the path; they mean nothing to the user
    column = ".".join([*path[1:], key]) if path else key
    table = path[0] if path else file.name
    if detail["type"] == "extra_forbidden":
        known = _known_keys(path)
        return Problem(
            table=table,
            row="",
            column=column,
            found=f"the unknown key {shorten(key)}",
            expected=f"one of: {', '.join(known)}",
            remedy=f"{near_match(key, known)}Rename or remove the key in {file.name}.",
        )
    found = "nothing" if detail["type"] == "missing" else shorten(str(detail["input"]))
    expected = "a value" if detail["type"] == "missing" else detail["msg"].removeprefix("Input should be ")
    return Problem(table, "", column, found, expected, f"Correct it in {file.name}.")


def _known_keys(path: list[str]) -> tuple[str, ...]:
    """Keys that the section at `path` may have."""
    sections: dict[str, type[BaseModel]] = {
        "patients": TableSection,
        "reports": TableSection,
        "labels": LabelsSection,
        "slides": SlidesSection,
        "ct": TableSection,
        "lesions": LesionsSection,
    }
    model: type[BaseModel] = sections[path[0]] if path else CohortFile
    return tuple(model.model_fields)


def _file_problem(file: Path, found: str, expected: str) -> Problem:
    return Problem(file.name or str(file), "", "", found, expected, "Correct the cohort file and run again.")

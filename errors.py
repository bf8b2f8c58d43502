"""The one family of errors that mumo raises on purpose.

A message says which item, what was expected, what was found, and what to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal


class MumoError(Exception):
    """Base of every error that mumo raises on purpose."""


class ConfigError(MumoError):
    """A setting is unknown, of the wrong type, or outside its limits."""


class StoreError(MumoError):
    """A store cannot be read: wrong format version, missing part, or content that contradicts its record."""


class InputError(MumoError):
    """A source file (slide, volume, annotation, table, weights) cannot be used; the item that needs it fails."""


class RegionError(InputError):
    """A bag or lesion has no radiomics features; the message is the reason."""


class FitError(MumoError):
    """Training or prediction cannot start or go on: no labelled patients, widths that do not match, ..."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a cohort, located as precisely as possible."""

    table: str
    """Which table or file of the cohort, by its name in the cohort file (`patients`, `slides`, ...)."""
    row: str
    """Id or line of the row; empty when the problem concerns the whole table."""
    column: str
    """Column name as it stands in the user's table; empty when it concerns the whole row."""
    found: str
    """What stands there."""
    expected: str
    """What is accepted."""
    remedy: str
    """What the user can do."""
    severity: Literal["error", "warning"] = "error"
    """An error stops everything; a warning is reported and the value is treated as said in `remedy`."""
    field: str = ""
    """mumo's field, where the cell is a word that the cohort file could map."""
    word: str = ""
    """That word, as it stands in the cell."""
    groups: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    """Groups of annotations that the cohort file could map, with the slides that have each."""

    def __str__(self) -> str:
        place = ", ".join(
            part
            for part in (
                self.table,
                f"row {self.row}" if self.row else "",
                f"column {self.column!r}" if self.column else "",
            )
            if part
        )
        return f"{place}: found {self.found}; expected {self.expected}. {self.remedy}"


SHOWN_EXAMPLES = 6
"""How many different cells are quoted where many rows have the same problem."""


def problem_lines(problems: Sequence[Problem]) -> list[tuple[str, str]]:
    """Severity and sentence of each kind of problem: rows that lack the same thing in one column share a sentence."""
    kinds: dict[tuple[str, ...], list[Problem]] = {}
    for p in problems:
        kinds.setdefault((p.severity, p.table, p.column, p.expected, p.remedy), []).append(p)
    lines: list[tuple[str, str]] = []
    for alike in kinds.values():
        first = alike[0]
        if len(alike) > 1:
            found = list(dict.fromkeys(p.found for p in alike))
            more = f" and {len(found) - SHOWN_EXAMPLES} more" if len(found) > SHOWN_EXAMPLES else ""
            row = f"{first.row} and {len(alike) - 1} more"
            first = replace(first, row=row, found=", ".join(found[:SHOWN_EXAMPLES]) + more)
        lines.append((first.severity, str(first)))
    return lines


class CohortError(MumoError):
    """The cohort cannot be used; carries every problem at once, never only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        lines = "\n".join(f"  - {line}" for _, line in problem_lines(self.problems))
        super().__init__(f"the cohort has {len(self.problems)} problem(s):\n{lines}")

    def __reduce__(self) -> tuple[type[CohortError], tuple[tuple[Problem, ...]]]:
        return (CohortError, (self.problems,))

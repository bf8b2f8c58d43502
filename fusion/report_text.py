"""Numbers and facts of a run as the text of its report."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import FitError


@dataclass(frozen=True)
class Cell:
    """One figure of a table as text."""

    value: str
    interval: str = ""
    reason: str = ""


def number(value: float | None, form: str) -> str:
    """A number as text: `0.00` says how many digits, `p` is a p; an en dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if form == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    digits = len(form) - 2
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")  # + 0.0 takes the sign off a zero


def cell(estimate: Mapping[str, Any], form: str) -> Cell:
    """An estimate of `metrics.json` as text."""
    low, high = estimate["low"], estimate["high"]
    interval = ""
    if low is not None:
        end = "∞" if high is None else number(high, form)
        # a dash between numbers that may be negative would read as a minus
        interval = f"{number(low, form)} to {end}" if low < 0 else f"{number(low, form)}–{end}"
    return Cell(number(estimate["value"], form), interval, estimate["reason"])


def at(metrics: Mapping[str, Any], place: Iterable[str]) -> Mapping[str, Any]:
    """What stands at a place of a part's metrics; FitError where there is nothing."""
    found = metrics
    for key in place:
        if key not in found:
            raise FitError(f"run folder: metrics.json: expected {'.'.join(place)} in each part, found {sorted(found)}")
        found = found[key]
    return found


def flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, list[str]]]:
    """Nested mappings as (name, values) with the path in the name; a list of plain values gives several values."""
    rows: list[tuple[str, list[str]]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            rows += flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            rows += flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, list):
            rows.append((name, [plain(item) for item in value]))
        else:
            rows.append((name, [plain(value)]))
    return rows


def plain(value: Any) -> str:
    """A value of JSON as text; of a path only the last part, because folders' names may say more than they should."""
    if not isinstance(value, str):
        return "none" if value is None else json.dumps(value, ensure_ascii=False)
    rooted = re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|[A-Za-z0-9+]+://", value)
    if rooted or (re.search(r"[/\\]", value) and not re.search(r"\s", value)):
        return "…/" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value

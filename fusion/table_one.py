"""Table 1 of the report, and its other tables that set groups of patients against each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import subgroups
from .characteristics import GROUPS, MEASURED, THERAPY, Characteristic, described, joined
from .estimates import numbers
from .figures import DAYS_PER_MONTH
from .report_text import number
from .runfiles import RunFiles
from .subgroups import Block, Flags, Line
from .survival import kaplan_meier, log_rank_of_groups

if TYPE_CHECKING:
    import pandas as pd

OUTCOME = "outcome"
"""Group of what the predictions' table says of patients: response, imaging, follow-up."""

GROUP_NAMES = {
    "patient_information": "Patient information",
    MEASURED: "Numbers",
    THERAPY: "Treatment",
    "pathology_report": "Pathology report",
    "radiology_report": "Radiology report",
    OUTCOME: "Images, outcome and follow-up",
}
"""Groups of items and how the page calls them."""

NAMES = {
    "tils": "TILs",
    "her2_heterogeneity": "HER2, share of area",
    "lauren": "Lauren classification",
    "line": "line of therapy",
    "start": "start of therapy",
    "site": "site of the tumour",
    "primary_present": "primary present",
    "metastatic_lesions": "number of metastatic lesions",
    "multiple_metastases": "multiple metastases in liver or lung",
}
"""Items whose name alone would not say what they are."""

PATTERNS = {"both": "slides and CT", "pathology": "slides only", "radiology": "CT only", "none": "no imaging"}
"""Patterns of imaging modalities present and how the page calls them."""

ALPHA = 0.05


def table_one(files: RunFiles, present: Sequence[str]) -> dict[str, Any] | None:
    """The patients of each part, or of an external validation those of both cohorts, by all that is known of them."""
    frame, items, groups = files.predictions, files.items, {name: files.chosen(name) for name in present}
    if (own := files.development) is not None:
        import pandas as pd

        frame = pd.concat([own.predictions, frame], ignore_index=True)
        items = joined(own.items, items)
        first = np.arange(len(frame)) < len(own.predictions)
        groups = {"development": first, "external": ~first}
    return _compared(
        [*described(items), *outcome_items(frame)],
        groups,
        further=lambda chosen: follow_up(frame, chosen),
        everyone=files.development is None,
        smd=files.development is not None,
    )


def risk_groups(files: RunFiles, part: str | None) -> dict[str, Any] | None:
    """The two risk groups of one part by what is known of them."""
    if part is None or not files.called:
        return None
    chosen, calls = files.chosen(part), files.calls
    return _compared(described(files.items), {"low risk": chosen & (calls == 1), "high risk": chosen & (calls == 0)})


def outcome_items(frame: pd.DataFrame) -> list[Characteristic]:
    """Imaging and response of the patients of a table of predictions."""
    patterns = frame["modalities"].to_numpy(dtype=str)
    words = {**PATTERNS, **{pattern: pattern for pattern in sorted(set(patterns) - set(PATTERNS))}}
    imaging = np.equal(patterns[:, None], np.array(list(words))).astype(np.float64)
    labels = numbers(frame["label"])
    response = np.stack([1 - labels, labels], axis=1)  # NaN where unknown
    return [
        Characteristic(OUTCOME, "imaging", "one-hot", "", tuple(words.values()), imaging),
        Characteristic(OUTCOME, "response", "one-hot", "", ("no", "yes"), response),
    ]


def follow_up(frame: pd.DataFrame, groups: Mapping[str, Flags]) -> list[Block]:
    """Events, median survival and median follow-up of each group, by Kaplan–Meier.

    The median follow-up is that of the reverse Kaplan–Meier curve, in which censoring is the event (Schemper and Smith,
    Control Clin Trials 17:343, 1996). p: log-rank test.
    """
    blocks = []
    for endpoint, name in (("pfs", "progression-free survival"), ("os", "overall survival")):
        days, events = numbers(frame[f"{endpoint}_days"]), numbers(frame[f"{endpoint}_event"])
        known = ~(np.isnan(days) | np.isnan(events))
        chosen = [group & known for group in groups.values()]
        if not known.any():
            continue
        event = events == 1
        lines = [
            Line("events", tuple(f"{int(event[rows].sum())} of {int(rows.sum())}" for rows in chosen)),
            Line("median, months", tuple(_median(days[rows], event[rows]) for rows in chosen)),
        ]
        if endpoint == "os":
            cells = tuple(_median(days[rows], ~event[rows]) for rows in chosen)
            lines.append(Line("median follow-up, months", cells))
        unknown = tuple(int(np.sum(group & ~known)) for group in groups.values())
        blocks.append(Block(OUTCOME, name, tuple(lines), unknown, log_rank_of_groups(days, event, chosen)))
    return blocks


def _median(days: Any, events: Any) -> str:
    if not len(days):
        return "–"
    median = kaplan_meier(days, events).median_days
    return "not reached" if math.isnan(median) else number(median / DAYS_PER_MONTH, "0.0")


# --- as the page shows it ---------------------------------------------------------------------------------


def _compared(
    items: Sequence[Characteristic],
    groups: Mapping[str, Flags],
    *,
    further: Callable[[Mapping[str, Flags]], list[Block]] = lambda groups: [],
    everyone: bool = False,
    smd: bool = False,
) -> dict[str, Any] | None:
    blocks = [*subgroups.compare(items, groups), *further(groups)]
    if not blocks:
        return None
    heads = [(name, int(group.sum())) for name, group in groups.items()]
    total: dict[str, Block] = {}
    if everyone and len(groups) > 1:
        union = np.any(list(groups.values()), axis=0)
        heads.insert(0, ("all", int(union.sum())))
        whole = {"all": union}
        total = {(b.group + b.name): b for b in [*subgroups.compare(items, whole), *further(whole)]}
    sections: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        sections.setdefault(block.group, []).append(_shown(block, total.get(block.group + block.name)))
    order = [group for group in GROUPS if group in sections] + [group for group in sections if group not in GROUPS]
    methods = sorted({b.test.method.partition(",")[0] for b in blocks if b.test.method})
    return {
        "heads": heads,
        "sections": [(GROUP_NAMES.get(group, group), sections[group]) for group in order],
        "tested": len(groups) > 1,
        "smd": smd,
        "methods": methods,
        "multiplicity": _multiplicity(blocks),
    }


def _multiplicity(blocks: Sequence[Block]) -> str:
    """How many tests a table has, how many are below 0.05, and which of them still are after Holm's correction."""
    named = [(called(block.name), block.test.value) for block in blocks]
    named += [(f"{called(block.name)}: {line.text}", line.p) for block in blocks for line in block.lines]
    named = [(name, p) for name, p in named if math.isfinite(p)]
    if not named:
        return ""
    low = sum(p < ALPHA for _, p in named)
    kept = [name for (name, _), p in zip(named, subgroups.holm([p for _, p in named]), strict=True) if p < ALPHA]
    expected = number(ALPHA * len(named), "0.0")
    return (
        f"{len(named)} tests, of which {expected} would be below {ALPHA:g} by chance alone; {low} are, and after "
        f"Holm’s correction {', '.join(kept) if kept else 'none'}."
    )


def _shown(block: Block, total: Block | None) -> dict[str, Any]:
    lines = []
    for place, line in enumerate(block.lines):
        first = [total.lines[place].cells[0]] if total else []
        p, smd = _filled(line.p, "p"), _filled(line.smd, "0.00")
        lines.append((line.text, [*first, *line.cells], smd, p, line.small))
    texts = [text for text, *_ in lines]
    name = called(block.name)
    head: list[str] = []
    if len(lines) == 1 or texts == ["no", "yes"]:  # one line says it all
        name, head = name if texts == ["no", "yes"] else f"{name}: {texts[0]}", lines[-1][1]
        lines = []
    unknown = [sum(total.unknown)] if total else []
    unknown += block.unknown
    return {
        "name": name,
        "head": head,
        "lines": lines,
        "unknown": unknown if any(block.unknown) else [],
        "p": _filled(block.test.value, "p"),
        "smd": _filled(block.smd, "0.00"),
        "small": block.small,
    }


def _filled(value: float, form: str) -> str:
    return number(value, form) if math.isfinite(value) else ""


def called(name: str) -> str:
    """An item's name as the page writes it."""
    if name == "age":  # the code; the number is called "age, years"
        return "age group"
    first, comma, rest = name.partition(",")
    return NAMES.get(first, first.replace("_", " ")) + comma + rest

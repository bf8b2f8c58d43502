"""What `mumo explain` leaves for the report: `explain.json` with the checks, and how their curves are drawn."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .attribution import Target
from .checkpoint import json_able, member_folders, run_facts
from .deletion import Curve
from .figures import BLUE, GREY, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .explain import Checks

FILE = "explain.json"
"""Written last: a folder without it holds no finished explanations."""

FOLDER = "explain"
"""Folder of a run in which the report looks for explanations."""

VERSION = 2


@dataclass(frozen=True)
class Wording:
    """How pages and figures call the output that is explained."""

    noun: str
    """After an article."""
    unit: str


WORDING: Mapping[Target, Wording] = {
    "risk": Wording("risk", "log hazard"),
    "response": Wording("chance of response", "log odds"),
}

ROUNDING = 1e-5
"""Effects below this, log hazard or log odds, are taken for rounding: a prediction is computed in single precision."""

LOOKS: Mapping[str, tuple[str, str, str]] = {
    "effect": ("largest effects", VERMILLION, "o"),
    "weight": ("largest weights", BLUE, "s"),
    "random": ("at random", GREY, "^"),
}
"""Legend, colour and marker of each way to choose what is left out."""

_log = logging.getLogger(__name__)


def weights_digest(run: Path) -> str:
    """SHA-256 of the weights of one model."""
    with (run / "model.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def checks_as_json(checks: Checks) -> dict[str, Any]:
    """The checks as plain values, NaN as null."""
    likeness = {
        level: {measure: _summary(values) for measure, values in own.items()} for level, own in checks.likeness.items()
    }
    curves = [asdict(curve) for curve in checks.curves]
    plain: dict[str, Any] = json_able(
        {"patients": len(checks.patients), "part": checks.part, "curves": curves, "likeness": likeness}
    )
    return plain


def _summary(values: Any) -> dict[str, float]:
    known = np.asarray(values)[np.isfinite(values)]
    if not len(known):
        return {"patients": 0, "mean": math.nan, "low": math.nan, "high": math.nan}
    return {
        "patients": len(known),
        "mean": float(known.mean()),
        "low": float(np.quantile(known, 0.05)),
        "high": float(np.quantile(known, 0.95)),
    }


def read_explained(run: Path) -> dict[str, Any]:
    """`explain.json` of `RUN/explain`; empty where there is none, or where it is of other weights than the run's."""
    file = run / FOLDER / FILE
    if not file.is_file():
        return {}
    about = run_facts(run)
    if about.get("kind") == "external":
        digests = about["model"]["models"]
    else:
        digests = [weights_digest(folder) for folder in member_folders(run)]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("version") != VERSION or content.get("weights") != digests:
        _log.warning("%s/%s is of another run and left out; run `mumo explain` again", FOLDER, FILE)
        return {}
    return content


def curves_of(content: Mapping[str, Any]) -> list[Curve]:
    """The deletion curves of an `explain.json`."""
    rows = (content.get("checks") or {}).get("curves", ())
    return [Curve(**{**row, "wins": math.nan if row["wins"] is None else row["wins"]}) for row in rows]


def draw_curves(figure: Figure, curves: Sequence[Curve], wording: Wording) -> None:
    """Deletion curves, a panel for bags and one for words; random parts with their standard deviation over draws."""
    levels = list(dict.fromkeys(curve.level for curve in curves))
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for axes, level in zip(panels, levels, strict=True):
        for by, (text, colour, marker) in LOOKS.items():
            rows = [curve for curve in curves if curve.level == level and curve.by == by]
            counts, moved = [row.count for row in rows], np.array([row.moved for row in rows])
            axes.plot(counts, moved, marker=marker, markersize=4.5, color=colour, label=text)
            if by == "random":
                spread = np.array([row.spread for row in rows])
                axes.fill_between(counts, moved - spread, moved + spread, color=colour, alpha=0.2, linewidth=0)
        shown = [curve.count for curve in curves if curve.level == level and curve.by == "random"]
        axes.set_xscale("log", base=2)
        axes.set_xticks(shown, labels=[str(count) for count in shown])
        axes.minorticks_off()
        axes.set(xlabel=f"{level} left out", ylim=(0, None))
    panels[0].set_ylabel(f"|change of the {wording.noun}|, {wording.unit}")
    # above the axes, where no curve can run through it
    legend = panels[0].legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), ncols=3, columnspacing=1.2)
    legend.set_in_layout(False)  # it reaches over the second panel and must not push it away
    figure.tight_layout(pad=0.5, rect=(0, 0, 1, 0.92))


def wording_of(content: Mapping[str, Any]) -> Wording:
    """Of the output that an `explain.json` is about."""
    target: Target = content["of"]
    return WORDING[target]


def says(content: Mapping[str, Any]) -> list[str]:
    """What the checks of an `explain.json` say, with their figures, in plain words; nothing without checks."""
    return sentences(content["checks"], wording_of(content)) if content.get("checks") else []


def sentences(checks: Mapping[str, Any], wording: Wording) -> list[str]:
    """What checks say, with their figures, in plain words."""
    said = []
    for level in ("bags", "words"):
        rows = {(row["count"], row["by"]): row for row in checks["curves"] if row["level"] == level}
        counts = sorted({count for count, _ in rows})
        if not counts:
            continue
        count = counts[len(counts) // 2]  # of a single part, its effect is the very change that is asked for here
        chance = rows[count, "random"]
        name = level if count > 1 else level.removesuffix("s")
        if all(row["moved"] < ROUNDING for (parts, _), row in rows.items() if parts <= count):
            said.append(
                f"Leaving out {count} {name} does not move the {wording.noun} beyond rounding, in the mean of "
                f"{_patients(chance['patients'])}: the maps of {level} show nothing here."
            )
            continue
        ways = " and ".join(f"by {rows[count, by]['moved']:.3f} for the {LOOKS[by][0]}" for by in ("effect", "weight"))
        said.append(
            f"Leaving out {count} {name} moves the {wording.noun} {ways}, against {chance['moved']:.3f} "
            f"(± {chance['spread']:.3f}) at random; mean of {_patients(chance['patients'])}."
        )
        found = checks["likeness"][level]
        usable = {measure: own for measure, own in found.items() if own["patients"]}
        shuffled = usable.pop("shuffled", None)
        if usable and shuffled:
            ways = " and ".join(f"{own['mean']:.2f} for {measure}s" for measure, own in usable.items())
            said.append(
                f"Likeness of the maps of {level} to those of models with random weights (|rank correlation|; 1: the "
                f"same map, or its reverse): {ways}, against {shuffled['mean']:.2f} for shuffled maps."
            )
    return said


def _patients(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"

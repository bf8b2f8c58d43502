"""What `mumo explain` leaves for the report: `explain.json` with the checks, and how their curves are drawn."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .checkpoint import json_able, member_folders
from .deletion import Curve
from .figures import BLUE, GREY, VERMILLION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .explain import Checks

FILE = "explain.json"
"""Written last: a folder without it holds no finished explanations."""

FOLDER = "explain"
"""Folder of a run in which the report looks for explanations."""

VERSION = 1

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
    correlation = {
        level: {measure: _summary(values) for measure, values in own.items()}
        for level, own in checks.correlation.items()
    }
    curves = [asdict(curve) for curve in checks.curves]
    plain: dict[str, Any] = json_able(
        {"patients": len(checks.patients), "part": checks.part, "curves": curves, "rank_correlation": correlation}
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


def draw_curves(figure: Figure, curves: Sequence[Curve]) -> None:
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
    panels[0].set_ylabel("|change of the risk|, log hazard")
    # above the axes, where no curve can run through it
    legend = panels[0].legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), ncols=3, columnspacing=1.2)
    legend.set_in_layout(False)  # it reaches over the second panel and must not push it away
    figure.tight_layout(pad=0.5, rect=(0, 0, 1, 0.92))


def sentences(checks: Mapping[str, Any]) -> list[str]:
    """What the checks say, with their figures, in plain words."""
    said = []
    for level in ("bags", "words"):
        rows = {(row["count"], row["by"]): row for row in checks["curves"] if row["level"] == level}
        counts = sorted({count for count, _ in rows})
        if not counts:
            continue
        count = counts[0] if level == "bags" else counts[len(counts) // 2]
        chance = rows[count, "random"]
        name = level if count > 1 else level.removesuffix("s")
        ways = " and ".join(f"by {rows[count, by]['moved']:.3f} for the {LOOKS[by][0]}" for by in ("effect", "weight"))
        said.append(
            f"Leaving out {count} {name} moves the risk {ways}, against {chance['moved']:.3f} "
            f"(± {chance['spread']:.3f}) at random; mean of {chance['patients']} patients."
        )
        found = checks["rank_correlation"][level]
        usable = {measure: own for measure, own in found.items() if own["patients"]}
        if usable:
            ways = " and ".join(
                f"{own['mean']:.2f}".replace("-", "−") + f" for {measure}s" for measure, own in usable.items()
            )
            said.append(
                f"Rank correlation of the maps of {level} with those of models with random weights: {ways} "
                "(1: the same map)."
            )
    return said

"""The picture of the fitted windows: histograms of the lesions, with the windows drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_BINS = 80
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
_SHADE = "#bbbbbb"

Row = Mapping[str, Any]


def write_picture(file: Path, histograms: Sequence[Row], windows: Sequence[Row]) -> None:
    """Write a PNG with one panel for the cohort and one for each lesion type.

    Lines are shares of voxels a centre; the grey band is the window of the cohort or type, which centres without one of
    their own fall back to; dashed lines are the ends of a centre's own window, in its colour.

    Args:
        histograms: rows of `HISTOGRAMS`, at least one.
        windows: rows of `WINDOWS`.
    """
    types = sorted({row["lesion_type"] for row in histograms})
    centres = sorted({row["centre"] for row in histograms})
    figure = Figure(figsize=(8, 2.2 * (1 + len(types))), dpi=100, layout="constrained")
    panels = figure.subplots(1 + len(types), 1, squeeze=False)[:, 0]
    for axes, lesion_type in zip(panels, ["", *types], strict=True):
        members = [row for row in histograms if lesion_type in ("", row["lesion_type"])]
        own = [row for row in windows if row["lesion_type"] == lesion_type]
        _panel(axes, lesion_type, members, own, centres)
        if not own and (cohort := [row for row in windows if row["level"] == "cohort"]):
            axes.axvspan(cohort[0]["low_hu"], cohort[0]["high_hu"], color=_SHADE, alpha=0.35)
    panels[-1].set_xlabel("intensity, HU")
    FigureCanvasAgg(figure)
    # without the version of matplotlib, so that equal stores have equal files
    figure.savefig(file, format="png", metadata={"Software": None})


def _panel(axes: Axes, lesion_type: str, rows: Sequence[Row], windows: Sequence[Row], centres: Sequence[str]) -> None:
    colours = {centre: _COLOURS[number % len(_COLOURS)] for number, centre in enumerate(centres)}
    ends = [_range(rows), *((row["low_hu"], row["high_hu"]) for row in windows)]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    edges = np.linspace(low - 0.05 * (high - low) - 1, high + 0.05 * (high - low) + 1, _BINS + 1)
    for centre in centres:
        members = [row for row in rows if row["centre"] == centre]
        if members:
            label = f"{centre}: {len(members)} lesion{'s' * (len(members) > 1)}"
            axes.stairs(_shares(members, edges), edges, color=colours[centre], label=label)
    fallback = "no window of its own: the cohort's"
    for window in windows:
        if window["level"] == "pair":
            for end in ("low_hu", "high_hu"):
                axes.axvline(window[end], color=colours.get(window["centre"], _SHADE), linestyle="--", linewidth=1)
        else:
            axes.axvspan(window["low_hu"], window["high_hu"], color=_SHADE, alpha=0.35)
            fallback = f"{window['low_hu']:.0f} to {window['high_hu']:.0f} HU"
    axes.set_title(f"{lesion_type or 'all lesions'} ({fallback})", fontsize=10, loc="left")
    axes.set_ylabel("share of voxels", fontsize=8)
    axes.set_xlim(edges[0], edges[-1])
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, frameon=False, loc="upper right")


def _range(rows: Sequence[Row]) -> tuple[float, float]:
    """Where nearly all voxels are: a single one far out would squeeze the rest."""
    hu = np.concatenate([np.asarray(row["hu"], float) for row in rows])
    voxels = np.concatenate([np.asarray(row["voxels"], float) for row in rows])
    order = np.argsort(hu)
    share = np.cumsum(voxels[order]) / voxels.sum()
    low, high = np.searchsorted(share, (0.001, 0.999))
    return float(hu[order][low]), float(hu[order][min(high, hu.size - 1)])


def _shares(rows: Sequence[Row], edges: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    counts = sum(np.histogram(row["hu"], edges, weights=np.asarray(row["voxels"], float))[0] for row in rows)
    total = sum(float(np.sum(row["voxels"])) for row in rows)
    return np.asarray(counts / total, dtype=np.float64)

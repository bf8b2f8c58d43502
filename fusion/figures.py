"""Figures of the report as SVG text that can stand inside a page.

Small panels (about 9 cm wide), so that their text stays readable when a phone scales them. Colours are Okabe & Ito's,
which colour-blind readers tell apart; lines also differ in style, for print in grey. The same input gives the same
bytes.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .estimates import Numbers
from .survival import at_risk, kaplan_meier

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAYS_PER_MONTH = 365.25 / 12

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#8A8A8A"
PART_LOOKS = {
    "train": (GREY, (0, (1, 1))),
    "validation": (BLUE, "-"),
    "test": (VERMILLION, "-"),
    "external": (GREEN, (0, (5, 1.5))),
}
"""Colour and line style of each part, the same in every figure."""

STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mumo",
    "text.parse_math": False,
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.6,
}
"""matplotlib's settings for every figure."""


def roc(
    parts: Mapping[str, tuple[Numbers, Numbers]],
    legends: Mapping[str, str],
    points: Mapping[str, Mapping[str, Any]],
) -> str:
    """ROC curves of the parts, training patients faint, with the operating point of the frozen threshold.

    Args:
        parts: part → known labels and probabilities, both classes being there.
        legends: part → its line in the legend.
        points: part → its metrics, of which `sensitivity` and `specificity` give the point and its intervals.
    """
    from sklearn.metrics import roc_curve

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.12, 0.84, 0.84))
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
        for part, (labels, probability) in parts.items():
            colour, dashes = PART_LOOKS.get(part, (PURPLE, "-"))
            alarms, hits, _ = roc_curve(labels, probability, drop_intermediate=False)
            width = 1.1 if part == "train" else 1.8
            axes.plot(alarms, hits, color=colour, linestyle=dashes, linewidth=width, label=legends[part])
            if part != "train":
                _operating_point(axes, points[part], colour)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        if parts:
            axes.legend(loc="lower right", frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)

    return svg((3.7, 3.7), "roc", "ROC curves: " + "; ".join(legends[part] for part in parts), draw)


def probabilities(labels: Numbers, probability: Numbers, threshold: float | None, name: str) -> str:
    """Predicted probability of each patient of one part, in one row a label, with the threshold."""
    rows = [
        ("responders", labels == 1, BLUE, "o"),
        ("non-responders", labels == 0, VERMILLION, "s"),
        ("label unknown", np.isnan(labels), GREY, "^"),
    ]
    rows = [row for row in rows if row[1].any()]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.04, 0.16, 0.92, 0.80))
        for place, (text, chosen, colour, marker) in enumerate(reversed(rows)):
            values = np.sort(probability[chosen])
            # a fixed up-and-down order keeps neighbours apart and needs no random numbers
            heights = place + 0.09 * ((np.arange(len(values)) % 5) - 2) - 0.12
            axes.plot(values, heights, marker, color=colour, markersize=4.2, alpha=0.65, markeredgewidth=0)
            axes.text(0, place + 0.3, f"{text} ({len(values)})", color="#333333")
        if threshold is not None:
            side = "right" if threshold > 0.6 else "left"
            axes.axvline(threshold, color="#333333", linewidth=0.9, linestyle=(0, (4, 2)))
            axes.annotate(
                f"threshold {threshold:.3f}", (threshold, len(rows) - 0.3), ha=side,
                xytext=(-4 if side == "right" else 4, 0), textcoords="offset points",
            )  # fmt: skip
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.5, len(rows) - 0.1), yticks=[])
        axes.set(xlabel="predicted probability of response")
        axes.spines["left"].set_visible(False)

    return svg((3.7, 0.7 + 0.9 * len(rows)), "probability", f"Predicted probabilities of the {name} patients", draw)


def survival_curves(
    days: Numbers, events: NDArray[np.bool_], high_risk: NDArray[np.bool_], *, name: str, outcome: str, note: str
) -> str:
    """Kaplan–Meier curves of the two risk groups with 95 % bands, censoring marks and numbers at risk.

    Args:
        days, events, high_risk: [patient] known times, whether the event was observed, and the group.
        name: part and endpoint, for ids and the description.
        outcome: label of the vertical axis.
        note: stands in the plot, for example the log-rank p.
    """
    groups = [("low", ~high_risk, BLUE, "-"), ("high", high_risk, VERMILLION, (0, (5, 1.5)))]

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.15, 0.31, 0.81, 0.57))
        last = float(days.max()) / DAYS_PER_MONTH
        step = next((s for s in (1, 2, 3, 6, 12, 24, 60, 120) if last / s <= 7), 240)
        ticks = np.arange(0, max(last, step) + 1e-9, step)
        for row, (group, chosen, colour, dashes) in enumerate(groups):
            height = -0.37 - 0.085 * row
            axes.text(-0.04, height, group, color=colour, transform=axes.transAxes, ha="right", va="center")
            for tick, count in zip(ticks, at_risk(days[chosen], ticks * DAYS_PER_MONTH), strict=True):
                axes.text(tick, height, str(count), transform=axes.get_xaxis_transform(), ha="center", va="center")
            if chosen.any():
                label = f"{group} risk ({int(chosen.sum())})"
                _curve(axes, days[chosen], events[chosen], colour, dashes, label)
        axes.text(-0.15, -0.285, "Patients at risk", transform=axes.transAxes, va="center", color="#333333")
        axes.set(ylim=(0, 1.03), xlim=(0, max(last, step) * 1.02), xticks=ticks)
        axes.set(xlabel="months", ylabel=outcome)
        axes.text(0, 1.13, note, transform=axes.transAxes, color="#333333", fontsize=8.5)
        # above the axes, where no curve can run through it
        axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 0.99), ncols=2, handlelength=2.4)

    counts = ", ".join(f"{int(chosen.sum())} patients at {group} risk" for group, chosen, _, _ in groups)
    description = f"Kaplan–Meier curves, {name.replace('-', ' ')}: {counts}. {note}".rstrip(" .")
    return svg((3.7, 3.9), f"survival-{name}", description, draw)


def learning(
    epochs: Sequence[float],
    curves: Mapping[str, Numbers | Sequence[float]],
    *,
    bands: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    averaged: Sequence[float],
    name: str,
    label: str,
) -> str:
    """Curves over the epochs; the averaged epochs are marked along the bottom.

    Args:
        epochs: [epoch] numbers of the epochs.
        curves: legend → [epoch] values, NaN where there is none; curves of NaN only are left out.
        bands: legend → [epoch] lowest and highest of several trainings, for those curves that are their mean.
        averaged: numbers of the epochs whose weights were averaged.
        name, label: of the figure, and of the vertical axis.
    """
    colours = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, "#56B4E9", GREY)
    dashes = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1, 1)))
    shown = {key: values for key, values in curves.items() if np.isfinite(np.asarray(values, dtype=float)).any()}

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.15, 0.16, 0.82, 0.63))
        marker = "." if len(epochs) < 4 else ""
        for number, (key, values) in enumerate(shown.items()):
            (line,) = axes.plot(epochs, values, color=colours[number % len(colours)], marker=marker, label=key)
            line.set(linestyle=dashes[number % len(dashes)], linewidth=1.3)
            if bands and key in bands:
                axes.fill_between(epochs, *bands[key], color=line.get_color(), alpha=0.15, linewidth=0)
        if averaged:
            axes.plot(
                averaged,
                [0.015] * len(averaged),
                "^",
                transform=axes.get_xaxis_transform(),
                color="#333333",
                markersize=4,
                label="averaged",
                clip_on=False,
            )
        axes.set(xlabel="epoch", ylabel=label)
        # above the axes, where no curve can run through it
        axes.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=3, columnspacing=1, handlelength=1.8)

    return svg((3.7, 2.9), name, f"Learning curves: {', '.join(shown)} over {len(epochs)} epochs", draw)


def _operating_point(axes: Axes, metrics: Mapping[str, Any], colour: str) -> None:
    sensitivity, specificity = metrics["sensitivity"], metrics["specificity"]
    if sensitivity["value"] is None or specificity["value"] is None:
        return
    x, y = 1 - specificity["value"], sensitivity["value"]
    axes.plot([1 - specificity["low"], 1 - specificity["high"]], [y, y], color=colour, linewidth=0.8)
    axes.plot([x, x], [sensitivity["low"], sensitivity["high"]], color=colour, linewidth=0.8)
    axes.plot([x], [y], "o", color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.8)


def _curve(axes: Axes, days: Numbers, events: NDArray[np.bool_], colour: str, dashes: Any, label: str) -> None:
    curve = kaplan_meier(days, events)
    months = curve.days / DAYS_PER_MONTH
    axes.step(months, curve.survival, where="post", color=colour, linestyle=dashes, label=label)
    axes.fill_between(months, curve.low, curve.high, step="post", color=colour, alpha=0.13, linewidth=0)
    axes.plot(curve.censored_days / DAYS_PER_MONTH, curve.censored_survival, "|", color=colour, markersize=5)


def svg(inches: tuple[float, float], name: str, description: str, draw: Any) -> str:
    """Draw on a new figure and return an <svg> element with ids of its own, without metadata or date."""
    import matplotlib.style
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=inches)
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # several drawings share one page, so their ids must differ
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)

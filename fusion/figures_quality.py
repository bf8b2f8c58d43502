"""Further figures of the report: calibration, decision curve, stability, missingness, readers. Made as in `figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .calibration import Bin
from .estimates import Numbers
from .figures import BLUE, GREEN, GREY, ORANGE, PART_LOOKS, PURPLE, VERMILLION, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (VERMILLION, GREEN, ORANGE, PURPLE, GREY)
_MARKERS = "osD^vP*X"


def calibration(bins: Sequence[Bin], probability: Numbers, name: str) -> str:
    """Observed share of responders against mean probability, with intervals, over a strip of all probabilities.

    Args:
        bins: the reliability table.
        probability: [patient] probabilities of the labelled patients.
        name: the part.
    """
    predicted = np.array([b.predicted for b in bins])
    observed = np.array([b.observed.value for b in bins])
    ends = np.array([[b.observed.value - b.observed.low, b.observed.high - b.observed.value] for b in bins]).T
    ends = np.clip(ends, 0, None)  # rounding leaves −1e-17 where the share is 0 or 1

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.28, 0.84, 0.68))
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
        axes.errorbar(
            predicted, observed, yerr=ends, fmt="o", color=BLUE, markersize=5, elinewidth=0.9, markeredgecolor="white"
        )
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticklabels=[], ylabel="share that responded")
        strip = figure.add_axes((0.13, 0.12, 0.84, 0.12))
        strip.hist(probability, bins=np.linspace(0, 1, 26).tolist(), color=GREY)
        strip.set(xlim=(-0.02, 1.02), yticks=[], xlabel="predicted probability of response")
        strip.spines["left"].set_visible(False)

    return svg((3.7, 3.9), "calibration", f"Calibration of the {name} patients in {len(bins)} groups", draw)


def decision(thresholds: Numbers, model: Numbers, everyone: Numbers, threshold: float | None, name: str) -> str:
    """Decision curve: net benefit [threshold] of treating by the prediction, everyone, or nobody."""

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.15, 0.14, 0.82, 0.74))
        axes.axhline(0, color="#333333", linewidth=0.8, label="nobody")
        axes.plot(thresholds, everyone, color=GREY, linestyle=(0, (5, 1.5)), label="everyone")
        axes.plot(thresholds, model, color=BLUE, label="by prediction")
        if threshold is not None:
            axes.axvline(threshold, color="#333333", linewidth=0.8, linestyle=(0, (1, 1.5)))
        top = max(float(np.nanmax(model)), float(everyone[0]), 0.05)
        axes.set(xlim=(0, 1), ylim=(-0.15 * top - 0.05, 1.08 * top))
        axes.set(xlabel="threshold probability", ylabel="net benefit of treating")
        axes.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=3, columnspacing=1, handlelength=1.8)

    return svg((3.7, 3.1), "decision", f"Decision curve of the {name} patients", draw)


def stability(replicates: Mapping[str, Numbers], values: Mapping[str, float]) -> str:
    """How the AUC spreads over bootstrap replicates, a shape a predictor or part, with the AUC itself as a line."""
    names = list(replicates)

    def draw(figure: Figure) -> None:
        height = 0.5 * len(names)
        axes = figure.add_axes((0.27, 0.42 / (height + 0.6), 0.70, height / (height + 0.6)))
        for row, name in enumerate(reversed(names)):
            colour = PART_LOOKS[name][0] if name in PART_LOOKS else _COLOURS[row % len(_COLOURS)]
            counts, edges = np.histogram(replicates[name], bins=40)
            shape = 0.8 * counts / counts.max()
            axes.fill_between(edges, row, row + np.append(shape, shape[-1]), step="post", color=colour, alpha=0.45)
            axes.plot([values[name]] * 2, [row, row + 0.85], color=colour, linewidth=1.4)
        lowest = min(float(drawn.min()) for drawn in replicates.values())
        axes.set(ylim=(-0.1, len(names)), xlim=(max(0.0, lowest - 0.02), 1.01), xlabel="AUC")
        axes.set_yticks(np.arange(len(names)) + 0.35, list(reversed(names)))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    return svg((3.7, 0.6 + 0.5 * len(names)), "stability", f"Bootstrap replicates of the AUC: {', '.join(names)}", draw)


def missingness(present: NDArray[np.bool_], names: Sequence[str]) -> str:
    """Which items are there: a row an item, a column a patient, dark where present.

    Args:
        present: [item, patient], patients in the order of drawing.
        names: [item].
    """
    items, patients = present.shape

    def draw(figure: Figure) -> None:
        height = 0.17 * items
        axes = figure.add_axes((0.42, 0.45 / (height + 0.5), 0.49, height / (height + 0.5)))
        axes.set_facecolor("#EFEFF2")
        for row, there in enumerate(present):
            # runs of patients who have it, so that the drawing stays small
            edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]]).astype(int)))
            runs = [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
            axes.broken_barh(runs, (items - 1 - row + 0.1, 0.8), facecolors=BLUE, linewidth=0)
            share = f"{100 * there.mean():.0f} %"
            axes.text(1.02, items - 0.5 - row, share, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
        axes.set(xlim=(0, patients), ylim=(0, items), xlabel="patients, sorted")
        axes.set_yticks(np.arange(items) + 0.5, list(reversed(names)), fontsize=7.5)
        axes.tick_params(axis="y", length=0)
        for side in axes.spines.values():
            side.set_visible(False)

    return svg((5.0, 0.5 + 0.17 * items), "missingness", f"Presence of {items} items in {patients} patients", draw)


def distributions(
    name: str, panels: Mapping[str, Mapping[str, Numbers]], lines: Mapping[str, float | None] = MappingProxyType({})
) -> str:
    """Histograms of one or two numbers in two cohorts, as shares of each, one above the other.

    Args:
        name: of the figure.
        panels: what the number is → cohort → [patient] values.
        lines: what the number is → where to mark a threshold.
    """

    sizes = [[len(values) for values in cohorts.values()] for cohorts in panels.values()]

    def draw(figure: Figure) -> None:
        for number, (what, cohorts) in enumerate(panels.items()):
            axes = figure.add_axes((0.11 + 0.49 * number, 0.16, 0.38, 0.68))
            together = np.concatenate(list(cohorts.values()))
            edges = np.linspace(float(together.min()), float(together.max()) + 1e-9, 16)
            for cohort, values in cohorts.items():
                colour, dashes = PART_LOOKS.get(cohort, (GREY, "-"))
                counts, _ = np.histogram(values, bins=edges)
                shares = counts / max(1, len(values))
                axes.stairs(
                    shares, edges, color=colour, linestyle=dashes, linewidth=1.5, label=f"{cohort} ({len(values)})"
                )
                axes.stairs(shares, edges, color=colour, fill=True, alpha=0.12)
            if (mark := lines.get(what)) is not None:
                axes.axvline(mark, color="#333333", linewidth=0.8, linestyle=(0, (1, 1.5)))
            axes.set(xlabel=what, ylabel="share of patients" if not number else "", ylim=(0, None))
            if not number or sizes[number] != sizes[0]:
                axes.legend(loc="lower left", bbox_to_anchor=(-0.04, 1.0), ncols=2, columnspacing=1, handlelength=1.8)

    cohorts = next(iter(panels.values()))
    described = ", ".join(f"{len(values)} {name} patients" for name, values in cohorts.items())
    return svg((5.8, 2.7), name, f"Distributions of {' and '.join(panels)}: {described}", draw)


def annotators(probability: Numbers, labels: Numbers, threshold: float | None) -> str:
    """How far each patient's probability moves between annotators: a line from lowest to highest, as drawn a dot.

    Args:
        probability: [patient, annotator], the first as drawn; patients in the order of drawing.
        labels: [patient] 1 responder, 0 non-responder, NaN unknown.
        threshold: of the call, where there is one for all.
    """
    places = np.arange(len(probability))

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.11, 0.15, 0.86, 0.72))
        axes.vlines(places, probability.min(axis=1), probability.max(axis=1), color="#9A9AA2", linewidth=1.6)
        groups = (("responder", labels == 1, BLUE), ("non-responder", labels == 0, ORANGE))
        for name, chosen, colour in (*groups, ("unknown", np.isnan(labels), "#6E6E76")):
            if chosen.any():
                axes.plot(places[chosen], probability[chosen, 0], "o", color=colour, markersize=4.2, label=name)
        if threshold is not None:
            axes.axhline(threshold, color="#1D1D1F", linewidth=0.9, linestyle=(0, (4, 3)), label="threshold")
        axes.set(xlabel="patients, sorted by the probability as drawn", ylabel="probability of response")
        axes.set_xticks([])
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, columnspacing=1, handlelength=1.4)

    return svg((5.6, 2.9), "annotators", f"Probability of {len(places)} patients under all annotators", draw)


def readers(labels: Numbers, probability: Numbers, points: Sequence[tuple[str, Mapping[str, Any]]], name: str) -> str:
    """ROC curve of the model with each reader's calls as a point.

    Args:
        labels, probability: [patient] known labels and probabilities.
        points: name and calls of each reader (see `readers`).
        name: the curve's name in the legend.
    """
    from sklearn.metrics import roc_curve

    alarms, hits, _ = roc_curve(labels, probability, drop_intermediate=False)

    def draw(figure: Figure) -> None:
        axes = figure.add_axes((0.13, 0.12, 0.84, 0.84))
        axes.plot([0, 1], [0, 1], color="#BBBBBB", linewidth=0.8)
        shown = {name: axes.plot(alarms, hits, color=BLUE, linewidth=1.8)[0]}
        for number, (reader, calls) in enumerate(points):
            sensitivity, specificity = calls["sensitivity"]["reader"], calls["specificity"]["reader"]
            if sensitivity["value"] is None or specificity["value"] is None:
                continue
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            x, y = 1 - specificity["value"], sensitivity["value"]
            axes.plot([1 - specificity["low"], 1 - specificity["high"]], [y, y], color=colour, linewidth=0.6)
            axes.plot([x, x], [sensitivity["low"], sensitivity["high"]], color=colour, linewidth=0.6)
            (shown[reader],) = axes.plot([x], [y], marker, color=colour, markersize=5.5, markeredgecolor="white")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="1 − specificity", ylabel="sensitivity")
        # names are given here, because matplotlib hides a label that begins with an underscore
        axes.legend(
            list(shown.values()), list(shown), loc="lower right", frameon=True, facecolor="white", edgecolor="none",
            framealpha=0.85,
        )  # fmt: skip

    return svg((3.7, 3.7), "readers", f"ROC curve and {len(points)} readers", draw)

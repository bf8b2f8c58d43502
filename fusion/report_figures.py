"""The figures of the report, each with its numbers: as SVG text for the page, and as files beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import figures, figures_quality
from .calibration import net_benefit, reliability
from .characteristics import NOT_READ, Characteristic
from .estimates import Numbers, numbers
from .explained import curves_of, draw_curves, wording_of
from .metrics import auc_replicates, why_undefined
from .report_text import cell
from .runfiles import RunFiles, finite
from .survival import at_risk, kaplan_meier
from .table_one import called

if TYPE_CHECKING:
    import pandas as pd

ENDPOINTS = {"pfs": "progression-free survival", "os": "overall survival"}

TERMS = ("response", "survival", "alignment", "auxiliary", "word", "bag", "lesion")
"""Terms of the loss in the order of the figure; others follow."""

THRESHOLDS = np.linspace(0.01, 0.99, 99)
"""Threshold probabilities of the decision curve."""


@dataclass
class Drawings:
    """Figures that were made, as SVG, with the numbers behind each as CSV."""

    svg: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, svg: str, table: Mapping[str, Sequence[Any]] | pd.DataFrame) -> str:
        """Remember a figure and its table, and return the figure."""
        self.svg[name] = svg
        self.table(name, table)
        return svg

    def table(self, name: str, table: Mapping[str, Sequence[Any]] | pd.DataFrame) -> None:
        """Remember the numbers of a table of the page."""
        import pandas as pd

        self.numbers[name] = pd.DataFrame(table).to_csv(index=False, lineterminator="\n")

    def write(self, folder: Path) -> None:
        """Write NAME.svg and NAME.csv into a folder, in place of those of an earlier report."""
        folder.mkdir(exist_ok=True)
        for old in [*folder.glob("*.svg"), *folder.glob("*.csv")]:
            old.unlink()
        for name, text in self.svg.items():
            (folder / f"{name}.svg").write_text(text, encoding="utf-8")
        for name, text in self.numbers.items():
            (folder / f"{name}.csv").write_text(text, encoding="utf-8")


# --- response ---------------------------------------------------------------------------------------------


def roc(files: RunFiles, present: Sequence[str], made: Drawings) -> str | None:
    """ROC curves of every part that has both labels."""
    from sklearn.metrics import roc_curve

    parts, legends, rows, points = {}, {}, [], {}
    for source, part in reversed(_shown(files, present)):  # training patients first, so that the others lie on top
        labels, probability = _labelled(source, part)
        if why_undefined(labels):
            continue
        points[part] = source.metrics["parts"][part]
        text = cell(points[part]["auc"], "0.00")
        parts[part] = (labels, probability)
        legends[part] = f"{part} {text.value}" + (f" ({text.interval})" if text.interval else "")
        curve = zip(*roc_curve(labels, probability, drop_intermediate=False), strict=True)
        rows += [
            {"part": part, "threshold": threshold, "sensitivity": hits, "specificity": 1 - alarms}
            for alarms, hits, threshold in curve
        ]
    if not parts:
        return None
    return made.keep("roc", figures.roc(parts, legends, points), table_columns(rows))


def probabilities(files: RunFiles, part: str, made: Drawings) -> str:
    """Probabilities of one part's patients by label."""
    rows = files.rows(part)
    drawn = figures.probabilities(*files.labels(part), files.metrics["threshold"], part)
    table = rows.sort_values(["probability", "patient"])[["patient", "label", "probability"]]
    return made.keep("probability", drawn, table)


def calibration(files: RunFiles, part: str, made: Drawings) -> str | None:
    """Calibration of one part; none where there are too few labelled patients."""
    labels, probability = _labelled(files, part)
    bins = reliability(labels, probability)
    if not bins:
        return None
    table = [
        {
            "patients": b.patients,
            "predicted": b.predicted,
            "observed": b.observed.value,
            "observed_low": b.observed.low,
            "observed_high": b.observed.high,
        }
        for b in bins
    ]
    return made.keep("calibration", figures_quality.calibration(bins, probability, part), table_columns(table))


def decision(files: RunFiles, part: str, made: Drawings) -> str | None:
    """Decision curve of one part; none without both labels."""
    labels, probability = _labelled(files, part)
    if why_undefined(labels):
        return None
    model, everyone = net_benefit(labels, probability, THRESHOLDS)
    drawn = figures_quality.decision(THRESHOLDS, model, everyone, files.metrics["threshold"], part)
    table = {"threshold": THRESHOLDS.round(2), "prediction": model, "everyone": everyone}
    return made.keep("decision", drawn, {key: values.tolist() for key, values in table.items()})


def stability(files: RunFiles, present: Sequence[str], made: Drawings) -> str | None:
    """Bootstrap replicates of the AUC in each part, drawn as for its interval."""
    drawn: dict[str, Numbers] = {}
    values: dict[str, float] = {}
    for source, part in _shown(files, present):
        labels, probability = _labelled(source, part)
        value = finite(source.metrics["parts"][part]["auc"]["value"])
        if math.isfinite(value):
            again = {"replicates": int(source.metrics["replicates"]), "seed": int(source.metrics["seed"])}
            drawn[part], values[part] = auc_replicates(labels, probability, **again), value
    if not drawn:
        return None
    longest = max(map(len, drawn.values()))
    table = {part: [*map(float, values), *[math.nan] * (longest - len(values))] for part, values in drawn.items()}
    return made.keep("stability", figures_quality.stability(drawn, values), table)


# --- survival, training, patients -------------------------------------------------------------------------


def survival(files: RunFiles, part: str, endpoint: str, note: str, made: Drawings) -> str | None:
    """Kaplan–Meier curves of one part's risk groups; none without known times or without a threshold."""
    rows, low_risk = files.rows(part), files.calls[files.chosen(part)]
    days, events = numbers(rows[f"{endpoint}_days"]), numbers(rows[f"{endpoint}_event"])
    known = ~(np.isnan(days) | np.isnan(events) | np.isnan(low_risk))
    if not known.any():
        return None
    high_risk = low_risk[known] == 0
    time, event, name = days[known], events[known] == 1, f"{part}-{endpoint}"
    drawn = figures.survival_curves(time, event, high_risk, name=name, outcome=ENDPOINTS[endpoint], note=note)
    table: dict[str, list[Any]] = {key: [] for key in ("risk", "days", "survival", "low", "high", "at_risk")}
    for risk, group in (("low", ~high_risk), ("high", high_risk)):
        if group.any():
            curve = kaplan_meier(time[group], event[group])
            table["risk"] += [risk] * len(curve.days)
            for key, values in (("days", curve.days), ("survival", curve.survival)):
                table[key] += values.tolist()
            table["low"] += curve.low.tolist()
            table["high"] += curve.high.tolist()
            table["at_risk"] += at_risk(time[group], curve.days).tolist()
    return made.keep(f"survival-{name}", drawn, table)


def learning(files: RunFiles, made: Drawings) -> list[tuple[str, str]]:
    """Panels of learning curves with what they show, leaving out those without any value.

    Of an ensemble, the mean over the members that have reached an epoch, and their range.
    """
    histories = [files.history] if files.history else files.member_histories
    if not histories:
        return []
    epochs = sorted({finite(epoch.get("epoch")) for history in histories for epoch in history})
    many = "" if len(histories) == 1 else f" Means over {len(histories)} trainings; bands: lowest to highest."
    selected = files.run.get("selected_epochs") or []
    averaged = [number for number in map(finite, selected) if math.isfinite(number)]

    def curve(part: str, key: str) -> Numbers:
        """[training, epoch]."""
        values = np.full((len(histories), len(epochs)), math.nan)
        for row, history in zip(values, histories, strict=True):
            for epoch in history:
                row[epochs.index(finite(epoch.get("epoch")))] = finite((epoch.get(part) or {}).get(key))
        return values

    terms = {key for history in histories for epoch in history for key in epoch.get("train") or {}} - {"loss"}
    order = [key for key in TERMS if key in terms] + sorted(terms - set(TERMS))
    panels = {
        "loss": (
            "loss",
            "Loss over the epochs, one epoch being one pass over the training patients; lower is better.",
            {part: curve(part, "loss") for part in ("train", "validation")},
        ),
        "terms": (
            "terms of the training loss",
            "Terms of the loss of the training patients, without their weights.",
            {key: curve("train", key) for key in order},
        ),
        "validation": (
            "validation patients",
            "AUC and C-index of the validation patients; higher is better.",
            {"AUC": curve("validation", "auc"), "C-index": curve("validation", "c_index")},
        ),
    }
    return [
        (_learning_panel(f"learning-{name}", label, epochs, curves, averaged, made), words + many)
        for name, (label, words, curves) in panels.items()
        if any(np.isfinite(values).any() for values in curves.values())
    ]


def _learning_panel(
    name: str, label: str, epochs: list[float], curves: Mapping[str, Numbers], averaged: list[float], made: Drawings
) -> str:
    """One panel of curves [training, epoch]."""
    means, bands, table = {}, {}, {"epoch": epochs}
    for key, values in curves.items():
        known = np.ma.masked_invalid(values)
        means[key], low, high = (
            found.filled(math.nan) for found in (known.mean(axis=0), known.min(axis=0), known.max(axis=0))
        )
        table[key] = means[key].tolist()
        if len(values) > 1:
            bands[key] = (low, high)
            table |= {f"{key}, lowest": low.tolist(), f"{key}, highest": high.tolist()}
    drawn = figures.learning(epochs, means, bands=bands, averaged=averaged, name=name, label=label)
    return made.keep(name, drawn, table)


def missingness(files: RunFiles, items: Sequence[Characteristic], made: Drawings) -> str | None:
    """Which images and items each patient has; none where the run does not say anything of items."""
    items = [item for item in items if item.group not in NOT_READ]  # a number is known where its code is
    if not items:
        return None
    pattern = files.predictions["modalities"].to_numpy(dtype=str)
    names = ["slides", "CT", *(item.name for item in items)]
    present = np.array(
        [np.isin(pattern, ("both", "pathology")), np.isin(pattern, ("both", "radiology")), *(i.known for i in items)]
    )
    order = np.lexsort(~present[::-1])  # by the first row, within it by the second, and so on; present first
    drawn = figures_quality.missingness(present[:, order], [called(name) for name in names])
    patients = files.predictions["patient"].to_numpy()[order]
    table = {"patient": patients.tolist()} | {
        name: row[order].astype(int).tolist() for name, row in zip(names, present, strict=True)
    }
    return made.keep("missingness", drawn, table)


def deletion(files: RunFiles, made: Drawings) -> str | None:
    """How far the prediction moves when important parts of slides are left out; none without explanations."""
    curves = curves_of(files.explained)
    if not curves:
        return None
    levels = len({curve.level for curve in curves})
    wording = wording_of(files.explained)
    description = f"Change of the {wording.noun} when important and when random parts of slides are left out"
    drawn = figures.svg(
        (3.4 * levels, 2.9), "deletion", description, lambda figure: draw_curves(figure, curves, wording)
    )
    return made.keep("deletion", drawn, table_columns([asdict(curve) for curve in curves]))


def robustness(files: RunFiles, made: Drawings) -> str | None:
    """Each touched patient's probabilities under all annotators."""
    if files.robustness is None:
        return None
    table = files.robustness.patients
    table = table[table["touched"] & table["part"].isin(files.robustness.summary["parts"])]
    if table.empty:
        return None
    wide = table.pivot_table(index="patient", columns="annotator", values="probability", sort=False)
    wide = wide.sort_values(wide.columns[0])
    labels = table.groupby("patient")["label"].first().loc[wide.index].to_numpy(dtype=float)
    threshold = files.metrics["threshold"]
    drawn = figures_quality.annotators(wide.to_numpy(), labels, None if threshold is None else float(threshold))
    return made.keep("annotators", drawn, wide.reset_index())


def readers(files: RunFiles, made: Drawings) -> str | None:
    """The readers' calls on the ROC curve of the part that they judged."""
    found = files.readers
    points = [(row["reader"], row["calls"]) for row in found.get("readers", ()) if "calls" in row]
    if not points:
        return None
    labels, probability = _labelled(files, found["part"])
    if why_undefined(labels):
        return None
    drawn = figures_quality.readers(labels, probability, points, name=f"model, {found['part']} patients")
    table = [
        {"reader": reader}
        | {f"{name}{end}": calls[name]["reader"][key] for name in ("sensitivity", "specificity") for end, key in _ENDS}
        for reader, calls in points
    ]
    return made.keep("readers", drawn, table_columns(table))


_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))


def _shown(files: RunFiles, present: Sequence[str]) -> list[tuple[RunFiles, str]]:
    """The parts of a run; beside those of an external validation also the run's part that was held out from everything.

    That part stands for comparison, so it is left out where nothing can be compared with it.
    """
    shown = [(files, part) for part in present]
    own = files.development
    ranked = any(math.isfinite(finite(files.metrics["parts"][part]["auc"]["value"])) for part in present)
    if own is not None and ranked and (headline := own.metrics["headline"]):
        shown.append((own, headline))
    return shown


def _labelled(files: RunFiles, part: str) -> tuple[Numbers, Numbers]:
    labels, probability = files.labels(part)
    known = ~np.isnan(labels)
    return labels[known], probability[known]


def table_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows of one kind as columns."""
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}

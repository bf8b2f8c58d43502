"""One self-contained HTML page about a run: who was trained on, how good the predictions are, and how it was made.

Every number on the page comes from the files of the run folder; nothing is fetched, and the same folder gives the same
page.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..config import Settings
from ..errors import FitError
from . import figures
from .metrics import numbers, why_undefined
from .runfiles import RunFiles, finite, read_run

if TYPE_CHECKING:
    pass

PARTS = ("test", "external", "validation", "train")
"""Parts in the order of the report: what counts most comes first."""

MODALITIES = {"both": "slides and CT", "pathology": "slides only", "radiology": "CT only", "none": "no imaging"}
"""Patterns of imaging modalities present and how the page calls them."""

ENDPOINTS = {"pfs": "progression-free survival", "os": "overall survival"}

TERMS = ("response", "survival", "alignment", "auxiliary", "word", "bag", "lesion")
"""Terms of the loss in the order of the figure; others follow."""

MOST_ROWS = 12
"""Parts of run.json with more rows than this are folded away."""

ROWS = (
    ("AUC", ("auc",), "0.000"),
    ("AUC, DeLong’s interval", ("auc_delong",), "0.000"),
    ("Brier score", ("brier",), "0.000"),
    ("Sensitivity", ("sensitivity",), "0.000"),
    ("Specificity", ("specificity",), "0.000"),
    ("Positive predictive value", ("ppv",), "0.000"),
    ("Negative predictive value", ("npv",), "0.000"),
    ("Difference of response rates", ("response_difference",), "0.000"),
    ("Number needed to treat", ("number_needed_to_treat",), "0.00"),
    ("C-index, PFS", ("pfs", "c_index"), "0.000"),
    ("C-index, OS", ("os", "c_index"), "0.000"),
    ("Hazard ratio high : low risk, PFS", ("pfs", "hazard_ratio"), "0.00"),
    ("Hazard ratio high : low risk, OS", ("os", "hazard_ratio"), "0.00"),
    ("Log-rank p, PFS", ("pfs", "log_rank_p"), "p"),
    ("Log-rank p, OS", ("os", "log_rank_p"), "p"),
)
"""Rows of the table of metrics: name, place in `metrics.json`, format."""


@dataclass(frozen=True)
class Cell:
    """One figure of a table as text."""

    value: str
    interval: str = ""
    reason: str = ""


def write_report(run: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Needs `predictions.parquet` and `metrics.json`; `config.json`, `run.json`, `split.csv` and `history.jsonl` add their
    sections.

    Raises:
        FitError: a file is missing or broken, or files contradict each other.
        StoreError: the table of predictions cannot be read.
    """
    files = read_run(run)
    page = run / "report.html"
    aside = page.with_suffix(".html.part")
    aside.write_text(render(files, name=run.resolve().name), encoding="utf-8")
    aside.replace(page)  # an old report stays until the new one is whole
    return page


def render(files: RunFiles, *, name: str) -> str:
    """The page as HTML text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    present = [part for part in PARTS if part in files.metrics["parts"]]
    present += [part for part in files.metrics["parts"] if part not in PARTS]
    main = next((part for part in present if part in ("test", "external", "validation")), None)
    template = environment.get_template("report.html.jinja")
    return template.render(
        name=name,
        version=__version__,
        main=main,
        parts=present,
        metrics=files.metrics["parts"],
        threshold=files.metrics["threshold"],
        confidence=f"{100 * files.metrics['confidence']:g}",
        key_figures=_key_figures(files.metrics["parts"][main]) if main else [],
        cohort=_cohort(files, present),
        pattern_names=list(_all_patterns(files).values()),
        centres=_centres(files, present),
        missing_predictions=sorted(set(files.split) - set(files.predictions["patient"])),
        metric_rows=_metric_rows(files.metrics["parts"], present),
        methods=_methods(files.metrics["parts"], present),
        patterns=_patterns(files, present),
        roc=_roc(files, present),
        probability=_probability(files, main),
        survival=[_survival(files, part) for part in present if part != "train"],
        learning=_learning(files),
        averaged=bool(files.run.get("selected_epochs")),
        patients=[(part, _patients(files, part)) for part in present],
        warnings=[_plain(warning) for warning in files.run.get("warnings") or []],
        provenance=_provenance(files.run),
        settings=_settings(files.config),
        days_per_month=f"{figures.DAYS_PER_MONTH:.2f}",
    )


# --- numbers as text --------------------------------------------------------------------------------------


def _number(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    if form == "p":
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return f"{value:.{len(form) - 2}f}".replace("-", "−")


def _cell(estimate: Mapping[str, Any], form: str) -> Cell:
    low, high = estimate["low"], estimate["high"]
    interval = ""
    if low is not None:
        end = "∞" if high is None else _number(high, form)
        # a dash between numbers that may be negative would read as a minus
        interval = f"{_number(low, form)} to {end}" if low < 0 else f"{_number(low, form)}–{end}"
    return Cell(_number(estimate["value"], form), interval, estimate["reason"])


def _at(metrics: Mapping[str, Any], place: Iterable[str]) -> Mapping[str, Any]:
    found = metrics
    for key in place:
        if key not in found:
            raise FitError(f"run folder: metrics.json: expected {'.'.join(place)} in each part, found {sorted(found)}")
        found = found[key]
    return found


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, list[str]]]:
    """Nested mappings as (name, values) with the path in the name; a list of plain values gives several values."""
    rows: list[tuple[str, list[str]]] = []
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            rows += _flat(value, f"{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            rows += _flat({str(number): item for number, item in enumerate(value)}, f"{name}.")
        elif isinstance(value, list):
            rows.append((name, [_plain(item) for item in value]))
        else:
            rows.append((name, [_plain(value)]))
    return rows


def _plain(value: Any) -> str:
    """A value of JSON as text; of a path only the last part, because folders' names may say more than they should."""
    if not isinstance(value, str):
        return "none" if value is None else json.dumps(value, ensure_ascii=False)
    rooted = re.match(r"[/~\\]|\.{1,2}[/\\]|[A-Za-z]:[/\\]|[A-Za-z0-9+]+://", value)
    if rooted or (re.search(r"[/\\]", value) and not re.search(r"\s", value)):
        return "…/" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


# --- sections ---------------------------------------------------------------------------------------------


def _key_figures(metrics: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    places = (
        ("AUC", ("auc",), "0.000"),
        ("sensitivity", ("sensitivity",), "0.00"),
        ("specificity", ("specificity",), "0.00"),
        ("C-index, PFS", ("pfs", "c_index"), "0.000"),
        ("C-index, OS", ("os", "c_index"), "0.000"),
    )
    return [(text, _cell(_at(metrics, place), form)) for text, place, form in places]


def _cohort(files: RunFiles, present: list[str]) -> list[dict[str, Any]]:
    """Counts by part, and of all patients."""
    table = []
    for part in [*present, "all"]:
        rows = files.predictions if part == "all" else files.rows(part)
        labels = numbers(rows["label"])
        counts: dict[str, Any] = {"part": part, "patients": len(rows)}
        counts |= {"responders": int(np.sum(labels == 1)), "others": int(np.sum(labels == 0))}
        counts |= {"unknown": int(np.sum(np.isnan(labels)))}
        counts["patterns"] = [int(np.sum(rows["modalities"] == pattern)) for pattern in _all_patterns(files)]
        for endpoint in ENDPOINTS:
            known = ~np.isnan(numbers(rows[f"{endpoint}_days"])) & ~np.isnan(numbers(rows[f"{endpoint}_event"]))
            counts[f"{endpoint}_known"] = int(known.sum())
            counts[f"{endpoint}_events"] = int(np.sum(known & (numbers(rows[f"{endpoint}_event"]) == 1)))
        table.append(counts)
    return table


def _centres(files: RunFiles, present: list[str]) -> list[tuple[str, list[int]]]:
    """Patients of each centre by part; nothing where there is one centre only."""
    names = sorted(set(files.predictions["centre"]))
    if len(names) < 2:
        return []
    return [(name, [int(np.sum(files.rows(part)["centre"] == name)) for part in present]) for name in names]


def _all_patterns(files: RunFiles) -> dict[str, str]:
    """The usual patterns, and after them whatever else the predictions have, with their names."""
    others = sorted(set(files.predictions["modalities"]) - set(MODALITIES))
    return MODALITIES | {pattern: pattern for pattern in others}


def _patterns(files: RunFiles, present: list[str]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """AUC by imaging modalities present: pattern → for each part its counts and AUC."""
    table = []
    for pattern, text in _all_patterns(files).items():
        found = [files.metrics["parts"][part]["modalities"].get(pattern) for part in present]
        if any(found):
            table.append((text, [item and {**item, "cell": _cell(item["auc"], "0.000")} for item in found]))
    return table


def _metric_rows(parts: Mapping[str, Any], present: list[str]) -> list[tuple[str, list[Cell]]]:
    return [(text, [_cell(_at(parts[part], place), form) for part in present]) for text, place, form in ROWS]


def _methods(parts: Mapping[str, Any], present: list[str]) -> list[tuple[str, str]]:
    """Metric → how its interval was computed, as `metrics.json` says."""
    found = {}
    for text, place, _ in ROWS:
        methods = [method for part in present if (method := _at(parts[part], place)["method"])]
        if methods:
            found[text] = methods[0]
    return list(found.items())


def _roc(files: RunFiles, present: list[str]) -> str | None:
    parts, legends = {}, {}
    for part in reversed(present):  # training patients first, so that the others lie on top
        labels, probability = files.labels(part)
        known = ~np.isnan(labels)
        if why_undefined(labels[known]):
            continue
        cell = _cell(files.metrics["parts"][part]["auc"], "0.00")
        parts[part] = (labels[known], probability[known])
        legends[part] = f"{part} {cell.value}" + (f" ({cell.interval})" if cell.interval else "")
    return figures.roc(parts, legends, files.metrics["parts"]) if parts else None


def _probability(files: RunFiles, main: str | None) -> str | None:
    if main is None:
        return None
    return figures.probabilities(*files.labels(main), files.metrics["threshold"], main)


def _survival(files: RunFiles, part: str) -> dict[str, Any]:
    """Figures and group tables of one held-out part."""
    rows, threshold = files.rows(part), files.metrics["threshold"]
    high_risk = numbers(rows["probability"]) < (math.nan if threshold is None else threshold)
    panels = []
    for endpoint, outcome in ENDPOINTS.items():
        metrics = files.metrics["parts"][part][endpoint]
        days, events = numbers(rows[f"{endpoint}_days"]), numbers(rows[f"{endpoint}_event"])
        known = ~(np.isnan(days) | np.isnan(events))
        p_value = _cell(metrics["log_rank_p"], "p")
        note = f"log-rank p {p_value.value if p_value.value[0] == '<' else '= ' + p_value.value}"
        drawn = None
        if known.any() and threshold is not None:
            drawn = figures.survival_curves(
                days[known],
                events[known] == 1,
                high_risk[known],
                name=f"{part}-{endpoint}",
                outcome=outcome,
                note="" if p_value.reason else note,
            )
        panels.append(
            {
                "outcome": outcome,
                "figure": drawn,
                "p": p_value,
                "hazard_ratio": _cell(metrics["hazard_ratio"], "0.00"),
                "patients": metrics["patients"],
                "events": metrics["events"],
                "groups": [(name, group, _months(group["median_days"])) for name, group in metrics["groups"].items()],
            }
        )
    return {"part": part, "panels": panels}


def _months(days: float | None) -> str:
    return "not reached" if days is None else f"{days / figures.DAYS_PER_MONTH:.1f} months"


def _learning(files: RunFiles) -> list[str]:
    """Panels of learning curves, leaving out those without any value."""
    if not files.history:
        return []
    epochs = [finite(epoch.get("epoch")) for epoch in files.history]
    selected = files.run.get("selected_epochs") or []
    averaged = [number for number in map(finite, selected) if math.isfinite(number)]

    def curve(part: str, key: str) -> list[float]:
        return [finite((epoch.get(part) or {}).get(key)) for epoch in files.history]

    terms = {key for epoch in files.history for key in epoch.get("train") or {}} - {"loss"}
    order = [key for key in TERMS if key in terms] + sorted(terms - set(TERMS))
    panels = {
        "loss": ("loss", {part: curve(part, "loss") for part in ("train", "validation")}),
        "terms": ("terms of the training loss", {key: curve("train", key) for key in order}),
        "validation": (
            "validation patients",
            {"AUC": curve("validation", "auc"), "C-index": curve("validation", "c_index")},
        ),
    }
    return [
        figures.learning(epochs, curves, averaged=averaged, name=name, label=label)
        for name, (label, curves) in panels.items()
        if any(math.isfinite(value) for values in curves.values() for value in values)
    ]


def _patients(files: RunFiles, part: str) -> list[dict[str, Any]]:
    """Rows of the table of patients, most likely responders first."""
    threshold, names = files.metrics["threshold"], _all_patterns(files)
    rows = []
    for row in files.rows(part).sort_values(["probability", "patient"], ascending=[False, True]).to_dict("records"):
        label = numbers([row["label"]])[0]
        call = "–" if threshold is None else "response" if row["probability"] >= threshold else "no response"
        rows.append(
            {
                "patient": row["patient"],
                "centre": row["centre"],
                "modalities": names[row["modalities"]],
                "probability": _number(row["probability"], "0.000"),
                "call": call,
                "risk": _number(row["risk"], "0.00"),
                "label": "unknown" if math.isnan(label) else "responder" if label else "non-responder",
                "wrong": threshold is not None and not math.isnan(label) and (call == "response") != bool(label),
            }
            | {endpoint: _time(row[f"{endpoint}_days"], row[f"{endpoint}_event"]) for endpoint in ENDPOINTS}
        )
    return rows


def _time(days: Any, event: Any) -> str:
    """Days with `+` where the patient was censored."""
    time, happened = numbers([days, event])
    if math.isnan(time) or math.isnan(happened):
        return "–"
    return f"{time:.0f}" + ("" if happened else "+")


def _provenance(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """What run.json says, warnings aside: first what is short, under no name, then each long part under its own."""
    parts = [(key, _flat({key: value})) for key, value in run.items() if key != "warnings"]
    short = [row for _, rows in parts if len(rows) <= MOST_ROWS for row in rows]
    return [("", short)] + [(key, rows) for key, rows in parts if len(rows) > MOST_ROWS]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, list[str], bool]]]]:
    """Settings by section: name, values, and whether they differ from the defaults."""
    defaults = dict(_flat(Settings().model_dump(mode="json")))
    sections = []
    for section, content in config.items():
        rows = _flat(content, f"{section}.") if isinstance(content, dict) else [(section, [_plain(content)])]
        sections.append((section, [(name, values, defaults.get(name) != values) for name, values in rows]))
    return sections

"""One self-contained HTML page about a run: who was trained on, how good the predictions are, and how it was made.

Every number on the page comes from the files of the run folder; nothing is fetched, and the same folder gives the same
page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..config import Settings
from ..pages import rendering, terms
from . import (
    explained,
    figures,
    flow,
    report_external,
    report_figures,
    report_methods,
    report_sections,
    table_one,
    tripod,
)
from .estimates import numbers
from .report_figures import ENDPOINTS, Drawings
from .report_text import Cell, at, cell, flat, number, plain
from .runfiles import RunFiles, read_run
from .splits import LEAST_SEEN_FIRST

MOST_ROWS = 12
"""Parts of run.json with more rows than this are folded away."""

ROWS = (
    ("AUC", ("auc",), "0.000"),
    ("AUC, DeLong’s interval", ("auc_delong",), "0.000"),
    ("AUC of pairs within a fold", ("auc_within_folds",), "0.000"),
    ("Average precision", ("average_precision",), "0.000"),
    ("Brier score", ("brier",), "0.000"),
    ("Calibration in the large: intercept at slope 1 (best: 0)", ("calibration_intercept",), "0.00"),
    ("Calibration slope (best: 1)", ("calibration_slope",), "0.00"),
    ("Expected : observed responses", ("expected_observed",), "0.00"),
    ("Sensitivity", ("sensitivity",), "0.000"),
    ("Specificity", ("specificity",), "0.000"),
    ("Positive predictive value", ("ppv",), "0.000"),
    ("Negative predictive value", ("npv",), "0.000"),
    ("Difference of response rates", ("response_difference",), "0.000"),
    ("Number needed to treat", ("number_needed_to_treat",), "0.00"),
    ("C-index, PFS", ("pfs", "c_index"), "0.000"),
    ("C-index, OS", ("os", "c_index"), "0.000"),
    ("Uno’s C, PFS", ("pfs", "uno_c"), "0.000"),
    ("Uno’s C, OS", ("os", "uno_c"), "0.000"),
    ("Hazard ratio high : low risk, PFS", ("pfs", "hazard_ratio"), "0.00"),
    ("Hazard ratio high : low risk, OS", ("os", "hazard_ratio"), "0.00"),
    ("Log-rank p, PFS", ("pfs", "log_rank_p"), "p"),
    ("Log-rank p, OS", ("os", "log_rank_p"), "p"),
)
"""Rows of the table of metrics: name, place in `metrics.json`, format."""

OF_FOLDS = ("auc_within_folds",)
"""A place that only runs over folds have."""


def write_report(run: Path, ablations: Path | None = None) -> Path:
    """Write `report.html` into a run folder, with every figure as `report/NAME.svg` and its numbers as `NAME.csv`.

    Needs `predictions.parquet` and `metrics.json`; `config.json`, `run.json`, `split.csv`, `history.jsonl`,
    `clinical.parquet`, `baselines/comparison.json`, `readers/readers.json` and `ablations/ablations.json` add their
    sections; of an ensemble, `folds.csv` says whose threshold is whose. An external validation (`external.validate`)
    is reported beside the patients that its model was made on.

    Args:
        run: the folder.
        ablations: folder of a `mumo ablate` of the same store, in place of RUN/ablations.

    Returns:
        The page's path.

    Raises:
        FitError: a file is missing or broken, or files contradict each other.
        StoreError: a table cannot be read.
    """
    files = read_run(run, ablations)
    page, drawings = run / "report.html", Drawings()
    text = render(files, drawings, name=run.resolve().name)
    aside = page.with_suffix(".html.part")
    aside.write_text(text, encoding="utf-8")
    drawings.write(run / "report")
    aside.replace(page)  # an old report stays until the new one is whole
    return page


def render(files: RunFiles, drawings: Drawings, *, name: str) -> str:
    """The page as HTML text; its figures are added to `drawings`."""
    present = [part for part in LEAST_SEEN_FIRST if part in files.metrics["parts"]]
    present += [part for part in files.metrics["parts"] if part not in LEAST_SEEN_FIRST]
    main = next((part for part in present if part in ("test", "external", "validation")), None)
    return rendering.render(
        __package__,
        "report.html.jinja",
        scripts=[rendering.SORTING],
        name=name,
        external=report_external.context(files, drawings),
        assessed=_assessed(files),
        checklist=tripod.checklist(external=files.development is not None),
        terms=terms.PERFORMANCE,
        finished=_finished(files.run),
        main=main,
        parts=present,
        metrics=files.metrics["parts"],
        threshold=files.metrics["threshold"],
        called=files.called,
        ensemble=files.run.get("kind") == "ensemble",
        folds=files.run.get("folds"),
        confidence=f"{100 * files.metrics['confidence']:g}",
        days_per_month=f"{figures.DAYS_PER_MONTH:.2f}",
        averaged=bool(files.run.get("selected_epochs")),
        warnings=[plain(warning) for warning in files.run.get("warnings") or []],
        provenance=_provenance(files.run),
        settings=_settings(files.config),
        **_people(files, drawings, present, main),
        **_performance(files, drawings, present, main),
    )


def _people(files: RunFiles, drawings: Drawings, present: list[str], main: str | None) -> dict[str, Any]:
    """What the page says of methods and patients."""
    return {
        "steps": report_methods.methods(files, present),
        "limits": report_methods.limits(files, present, main),
        "drawn_weights": report_methods.drawn_at_random(files.run),
        "flow": flow.sentences(files.flow),
        "cohort": _cohort(files, present),
        "pattern_names": list(_all_patterns(files).values()),
        "centres": _centres(files, present),
        "missing_predictions": sorted(set(files.split) - set(files.predictions["patient"])),
        "table_one": table_one.table_one(files, present),
        "missingness": report_figures.missingness(files, files.items, drawings),
        "patients": [(part, _patients(files, part)) for part in present],
    }


def _performance(files: RunFiles, drawings: Drawings, present: list[str], main: str | None) -> dict[str, Any]:
    """What the page says of how good the predictions are."""
    parts = files.metrics["parts"]
    response = {
        "probability": report_figures.probabilities,
        "calibration": report_figures.calibration,
        "decision": report_figures.decision,
    }
    return {
        "key_figures": _key_figures(parts[main]) if main else [],
        "within_folds": cell(parts[main][OF_FOLDS[0]], "0.000") if main and OF_FOLDS[0] in parts[main] else None,
        "metric_rows": _metric_rows(parts, present),
        "methods": _methods(parts, present),
        "patterns": _patterns(files, present),
        "operating": report_sections.operating(parts.get(main)),
        "by_group": report_sections.by_group(parts[main], _all_patterns(files)) if main else [],
        "small_columns": [text for text, _, _ in report_sections.SMALL_COLUMNS],
        "roc": report_figures.roc(files, present, drawings),
        **{name: draw(files, main, drawings) if main else None for name, draw in response.items()},
        "calibration_says": _calibration_says(parts[main]) if main else "",
        "stability": report_figures.stability(files, present, drawings),
        "survival": [_survival(files, part, drawings) for part in present if part != "train"],
        "risk_groups": table_one.risk_groups(files, main),
        "spread": report_sections.spread(files),
        "ablations": report_sections.ablations(files),
        "robustness": report_sections.robustness(files),
        "robustness_figure": report_figures.robustness(files, drawings),
        "deletion": report_figures.deletion(files, drawings),
        "explained": files.explained,
        "explained_says": explained.says(files.explained),
        "baselines": report_sections.baselines(files),
        "readers": report_sections.readers(files),
        "readers_part": files.readers.get("part"),
        "readers_figure": report_figures.readers(files, drawings),
        "learning": report_figures.learning(files, drawings),
    }


# --- sections ---------------------------------------------------------------------------------------------


def _key_figures(metrics: Mapping[str, Any]) -> list[tuple[str, Cell]]:
    places = (
        ("AUC", ("auc",), "0.000"),
        ("sensitivity", ("sensitivity",), "0.00"),
        ("specificity", ("specificity",), "0.00"),
        ("C-index, PFS", ("pfs", "c_index"), "0.000"),
        ("C-index, OS", ("os", "c_index"), "0.000"),
    )
    return [(text, cell(at(metrics, place), form)) for text, place, form in places]


def _calibration_says(metrics: Mapping[str, Any]) -> str:
    """The figures of calibration as the end of a caption."""
    places = {
        "Calibration in the large (intercept at slope 1)": ("calibration_intercept", "0.00"),
        "slope": ("calibration_slope", "0.00"),
        "expected : observed": ("expected_observed", "0.00"),
        "Brier score": ("brier", "0.000"),
    }
    found = {name: cell(at(metrics, (key,)), form) for name, (key, form) in places.items()}
    said = [
        f"{name} {c.value}" + (f" ({c.interval})" if c.interval else "") for name, c in found.items() if c.value != "–"
    ]
    return "; ".join(said) + "." if said else ""


def _assessed(files: RunFiles) -> bool:
    """Whether anybody has a known response, or a known time of an endpoint: else there is nothing to judge by."""
    frame = files.predictions
    known = [frame["label"].notna(), *(frame[f"{e}_days"].notna() & frame[f"{e}_event"].notna() for e in ENDPOINTS)]
    return bool(np.any(known))


def _cohort(files: RunFiles, present: list[str]) -> list[dict[str, Any]]:
    """Counts by part, and of all patients; of an external validation also of those that the model was made on."""
    own = files.development
    groups = [(part, files.rows(part)) for part in present]
    groups.append(("all", files.predictions) if own is None else ("development", own.predictions))
    table = []
    for part, rows in groups:
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
    others = sorted(set(files.predictions["modalities"]) - set(table_one.PATTERNS))
    return table_one.PATTERNS | {pattern: pattern for pattern in others}


def _patterns(files: RunFiles, present: list[str]) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """AUC by imaging modalities present: pattern → for each part its counts and AUC."""
    table = []
    for pattern, text in _all_patterns(files).items():
        found = [files.metrics["parts"][part]["modalities"].get(pattern) for part in present]
        if any(found):
            table.append((text, [item and {**item, "cell": cell(item["auc"], "0.000")} for item in found]))
    return table


def _metric_rows(parts: Mapping[str, Any], present: list[str]) -> list[tuple[str, list[Cell]]]:
    return [(text, [cell(at(parts[part], place), form) for part in present]) for text, place, form in _rows(parts)]


def _rows(parts: Mapping[str, Any]) -> list[tuple[str, tuple[str, ...], str]]:
    """`ROWS` without those that only runs over folds have, where this is none."""
    folds = all(OF_FOLDS[0] in metrics for metrics in parts.values())
    return [row for row in ROWS if folds or row[1] != OF_FOLDS]


def _methods(parts: Mapping[str, Any], present: list[str]) -> list[tuple[str, str]]:
    """Metric → how its interval was computed, as `metrics.json` says."""
    found = {}
    for text, place, _ in _rows(parts):
        methods = [method for part in present if (method := at(parts[part], place)["method"])]
        if methods:
            found[text] = methods[0]
    return list(found.items())


def _survival(files: RunFiles, part: str, drawings: Drawings) -> dict[str, Any]:
    """Figures and group tables of one held-out part."""
    panels = []
    for endpoint, outcome in ENDPOINTS.items():
        metrics = files.metrics["parts"][part][endpoint]
        p_value = cell(metrics["log_rank_p"], "p")
        note = f"log-rank p {p_value.value if p_value.value[0] == '<' else '= ' + p_value.value}"
        panels.append(
            {
                "outcome": outcome,
                "figure": report_figures.survival(files, part, endpoint, "" if p_value.reason else note, drawings),
                "p": p_value,
                "hazard_ratio": cell(metrics["hazard_ratio"], "0.00"),
                "c_index": cell(metrics["c_index"], "0.000"),
                "patients": metrics["patients"],
                "events": metrics["events"],
                "groups": [(name, group, _months(group["median_days"])) for name, group in metrics["groups"].items()],
            }
        )
    return {"part": part, "panels": panels}


def _months(days: float | None) -> str:
    return "not reached" if days is None else f"{days / figures.DAYS_PER_MONTH:.1f} months"


def _patients(files: RunFiles, part: str) -> list[dict[str, Any]]:
    """Rows of the table of patients, most likely responders first."""
    names, words = _all_patterns(files), {1.0: "response", 0.0: "no response"}
    table = files.predictions.assign(call=files.calls)[files.chosen(part)]
    rows = []
    for row in table.sort_values(["probability", "patient"], ascending=[False, True]).to_dict("records"):
        label = numbers([row["label"]])[0]
        call = words.get(row["call"], "–")
        rows.append(
            {
                "patient": row["patient"],
                "centre": row["centre"],
                "modalities": names[row["modalities"]],
                "probability": number(row["probability"], "0.000"),
                "sort": {key: _sortable(row[key]) for key in ("probability", "risk", "pfs_days", "os_days")},
                "call": call,
                "risk": number(row["risk"], "0.00"),
                "label": "unknown" if math.isnan(label) else "responder" if label else "non-responder",
                "wrong": call in words.values() and not math.isnan(label) and (call == "response") != bool(label),
            }
            | {endpoint: _time(row[f"{endpoint}_days"], row[f"{endpoint}_event"]) for endpoint in ENDPOINTS}
        )
    return rows


def _sortable(value: Any) -> str:
    found = numbers([value])[0]
    return "" if math.isnan(found) else repr(float(found))


def _time(days: Any, event: Any) -> str:
    """Days with `+` where the patient was censored."""
    time, happened = numbers([days, event])
    if math.isnan(time) or math.isnan(happened):
        return "–"
    return f"{time:.0f}" + ("" if happened else "+")


def _finished(run: Mapping[str, Any]) -> datetime | None:
    """When the run was finished; none where run.json does not say, as of older runs."""
    try:
        return datetime.fromisoformat(run["finished"])
    except (KeyError, TypeError, ValueError):
        return None


def _provenance(run: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """What run.json says, warnings aside: first what is short, under no name, then each long part under its own."""
    parts = [(key, flat({key: _rounded(value)})) for key, value in run.items() if key != "warnings"]
    short = [row for _, rows in parts if len(rows) <= MOST_ROWS for row in rows]
    return [("", short)] + [(key, rows) for key, rows in parts if len(rows) > MOST_ROWS]


def _rounded(value: Any) -> Any:
    """JSON with numbers of at most six digits, as many as say anything."""
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _settings(config: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, list[str], bool]]]]:
    """Settings by section: name, values, and whether they differ from the defaults."""
    defaults = dict(flat(Settings().model_dump(mode="json")))
    sections = []
    for section, content in config.items():
        rows = flat(content, f"{section}.") if isinstance(content, dict) else [(section, [plain(content)])]
        sections.append((section, [(name, values, defaults.get(name) != values) for name, values in rows]))
    return sections

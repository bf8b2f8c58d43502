"""Tables of the report on performance and comparisons, as plain text for the template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .comparison import MODEL
from .report_text import Cell, cell, number
from .runfiles import RunFiles, finite

SMALL_COLUMNS = (
    ("AUC", "auc", "0.000"),
    ("Brier score", "brier", "0.000"),
    ("Sensitivity", "sensitivity", "0.00"),
    ("Specificity", "specificity", "0.00"),
    ("C-index, PFS", "pfs_c_index", "0.000"),
    ("C-index, OS", "os_c_index", "0.000"),
)
"""Columns of the table by pattern and centre: name, key in `metrics.json`, format."""


def by_group(metrics: Mapping[str, Any], patterns: Mapping[str, str]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Metrics of one part by pattern of imaging and, where there are several, by centre."""
    sections = [("Imaging", metrics["modalities"], patterns)]
    if len(metrics.get("centres", {})) > 1:
        sections.append(("Centre", metrics["centres"], {}))
    if "folds" in metrics:
        sections.append(("Fold", metrics["folds"], {}))
    table = []
    for title, found, names in sections:
        keys = [key for key in names if key in found] or sorted(found)
        rows = [
            {
                "name": names.get(key, key),
                "patients": found[key]["patients"],
                "labelled": found[key]["labelled"],
                "responders": found[key]["responders"],
                "cells": [cell(found[key][place], form) for _, place, form in SMALL_COLUMNS if place in found[key]],
            }
            for key in keys
        ]
        table.append((title, rows))
    return table


def operating(metrics: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The frozen threshold's calls against the labels of one part: four counts, and the shares with what they count."""
    counts = (metrics or {}).get("confusion")
    if metrics is None or not counts or not metrics["labelled"]:
        return None
    hits, misses = counts["true_positive"], counts["false_negative"]
    passes, alarms = counts["true_negative"], counts["false_positive"]
    rows = (
        ("Sensitivity", "of responders, predicted to respond", "sensitivity", hits, hits + misses),
        ("Specificity", "of non-responders, predicted not to respond", "specificity", passes, passes + alarms),
        ("Positive predictive value", "of those predicted to respond, responders", "ppv", hits, hits + alarms),
        ("Negative predictive value", "of those predicted not to, non-responders", "npv", passes, passes + misses),
    )
    return {
        "calls": [("response", hits, alarms), ("no response", misses, passes)],
        "shares": [
            (name, what, f"{part} of {whole}", cell(metrics[key], "0.000")) for name, what, key, part, whole in rows
        ],
    }


# --- ensembles and ablations ------------------------------------------------------------------------------


def spread(files: RunFiles) -> dict[str, Any] | None:
    """How much the AUC of an ensemble differs between seeds and between folds; none for a single model."""
    found = files.metrics.get("spread")
    if not found:
        return None
    rows = []
    for what, name in (("seeds", "seeds"), ("folds", "folds, mean over seeds")):
        if what in found:
            values = found[f"auc_of_{what}"]
            figures = [number(finite(found[what][key]), "0.000") for key in ("mean", "sd", "low", "high")]
            each = [f"{key}: {number(finite(value), '0.000')}" for key, value in values.items()]
            rows.append((name, len(values), figures, each))
    return {"part": found["part"], "rows": rows}


def ablations(files: RunFiles) -> dict[str, Any] | None:
    """What the model is without one of its parts, set against the full model; none where nothing was ablated."""
    found = files.ablations
    if found is None:
        return None
    rows = [
        {
            "name": row["ablation"].replace("-", " "),
            "own": place == 0,
            "auc": _estimate(row, "auc"),
            "sd": number(finite(row.get("auc_seeds_sd")), "0.000"),
            "c_index": number(finite(row.get("c_index")), "0.000"),
            "difference": _estimate(row, "difference"),
            "p": number(finite(row.get("p")), "p"),
        }
        for place, row in enumerate(found.rows)
    ]
    full = found.rows[0]
    return {"part": full["part"], "labelled": full["labelled"], "patients": full["patients"], "rows": rows} | {
        "same_split": found.same_split,
        "same_settings": found.same_settings,
        "endpoint": found.endpoint.upper(),
        "seeds": found.seeds,
    }


def robustness(files: RunFiles) -> dict[str, Any] | None:
    """AUC under each annotator, and how far risk and calls move; none where nobody asked."""
    if files.robustness is None:
        return None
    found = files.robustness.summary
    keys = (
        "seed",
        "slides_moved",
        "lesions_moved",
        "left_as_drawn",
        "patients",
        "labelled",
        "touched",
        "calls_changed",
    )
    return {key: found[key] for key in keys} | {
        "parts": " and ".join(found["parts"]),
        "share": f"{100 * found['share']:g}",
        "rows": [(name, cell(value, "0.000")) for name, value in found["auc"].items()],
        "icc": number(finite(found["risk_icc"]), "0.00"),
        "risk_sd": [number(finite(found["risk_sd"][key]), "0.000") for key in ("median", "most")],
        "probability_sd": [number(finite(found["probability_sd"][key]), "0.000") for key in ("median", "most")],
    }


# --- other predictors -------------------------------------------------------------------------------------


def baselines(files: RunFiles) -> list[tuple[str, list[dict[str, Any]]]]:
    """Rows of the comparison with simpler predictors, by held-out part."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for row in files.comparison:
        if row["part"] == "train":
            continue
        p, levene = finite(row.get("p")), finite(row.get("levene_p"))
        parts.setdefault(row["part"], []).append(
            {
                "name": row["predictor"],
                "own": row["predictor"] == MODEL,
                "cells": [_estimate(row, key) for key in ("auc", "pfs_c_index", "os_c_index", "difference")],
                "p": number(p, "p"),
                "spread": number(finite(row.get("auc_spread")), "0.000"),
                "levene": number(levene, "p"),
            }
        )
    return list(parts.items())


def readers(files: RunFiles) -> list[dict[str, Any]]:
    """Rows of the comparison with human readers."""
    rows = []
    for row in files.readers.get("readers", ()):
        calls = row.get("calls", {})
        shares = [
            (cell(calls[name]["reader"], "0.00"), number(calls[name]["mcnemar"]["p"], "p")) if name in calls else None
            for name in ("sensitivity", "specificity", "accuracy")
        ]
        rows.append(
            {
                "name": row["reader"],
                "patients": row["patients"],
                "auc": cell(row["auc"], "0.000"),
                "model": cell(row["model_auc"], "0.000"),
                "p": number(row["delong"]["p"], "p"),
                "levene": number(row["levene_p"]["value"], "p"),
                "shares": shares,
            }
        )
    return rows


def _estimate(row: Mapping[str, Any], key: str) -> Cell:
    estimate = {name: row.get(key + end) for name, end in (("value", ""), ("low", "_low"), ("high", "_high"))}
    return cell(estimate | {"reason": ""}, "0.000")

"""What the report of an external validation says beyond that of a run: both cohorts set against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from . import external, figures_quality, shift
from .comparison import Test, independent_delong
from .estimates import Estimate, independent_difference, numbers
from .report_figures import Drawings, table_columns
from .report_methods import frozen
from .report_text import at, cell, number
from .runfiles import RunFiles, finite
from .splits import held_out

ROWS = (
    ("AUC", ("auc",), "0.000"),
    ("Average precision", ("average_precision",), "0.000"),
    ("Brier score", ("brier",), "0.000"),
    ("Calibration in the large (best: 0)", ("calibration_intercept",), "0.00"),
    ("Calibration slope (best: 1)", ("calibration_slope",), "0.00"),
    ("Sensitivity", ("sensitivity",), "0.00"),
    ("Specificity", ("specificity",), "0.00"),
    ("Positive predictive value", ("ppv",), "0.00"),
    ("Negative predictive value", ("npv",), "0.00"),
    ("C-index, PFS", ("pfs", "c_index"), "0.000"),
    ("C-index, OS", ("os", "c_index"), "0.000"),
)
"""Rows of the comparison of both cohorts: name, place in `metrics.json`, format."""

MODALITIES = {"pathology": "slides", "radiology": "CT"}

PREDICTED = {"probability": "probability of response", "risk": "risk, log hazard"}


def context(files: RunFiles, drawings: Drawings) -> dict[str, Any] | None:
    """What the template shows of an external validation; none where this is a run."""
    own = files.development
    if own is None:
        return None
    part = own.metrics["headline"] or ("validation" if "validation" in own.metrics["parts"] else "train")
    compared = compare(files, own, part)
    drawings.table("comparison", table_columns([row["numbers"] for row in compared]))
    return {
        "run": files.run["model"]["run"],
        "weights": [digest[:12] for digest in files.run["model"]["models"]],
        "frozen": frozen(files),
        "cautions": external.cautions(files.run),
        "part": part,
        "optimistic": own.metrics["headline"] is None,
        "folds": bool(own.run.get("folds")),
        "development": _counts(own, part),
        "rows": compared,
        "auc_says": _auc_says(compared[0], part),
        "predicted": predicted(files, own, part, drawings),
        "omics": omics(files, drawings),
        "deep": deep(files, own, drawings),
    }


def compare(files: RunFiles, own: RunFiles, part: str) -> list[dict[str, Any]]:
    """Figures of the run's held-out patients and of the external ones, with their differences, external − internal.

    The difference of AUCs is tested after DeLong; all other intervals are recovered from those of the two figures.
    """
    internal, outer = own.metrics["parts"][part], files.metrics["parts"]["external"]
    rows = []
    for name, place, form in ROWS:
        first, second = at(internal, place), at(outer, place)
        if place == ("auc",):
            test = independent_delong(files.labels("external"), own.labels(part))
        else:
            test = Test(independent_difference(_estimate(second), _estimate(first)), float("nan"))
        gap = test.difference.as_json()
        rows.append(
            {
                "name": name,
                "cells": [cell(first, form), cell(second, form), cell(gap, form)],
                "p": number(test.p, "p"),
                "method": gap["method"],
                "numbers": _flat(name, first, second, gap) | {"p": test.p},
            }
        )
    return rows


def predicted(files: RunFiles, own: RunFiles, part: str, drawings: Drawings) -> dict[str, Any]:
    """How the distributions of probability and risk differ between the run's held-out patients and external ones."""
    rows, frames = own.rows(part), {part: own.rows(part), "external": files.predictions}
    found = shift.predicted_shift(
        {key: rows[key] for key in PREDICTED}, {key: files.predictions[key] for key in PREDICTED}
    )
    values = {key: {name: numbers(frame[key]) for name, frame in frames.items()} for key in PREDICTED}
    table = [
        {"cohort": name, "patient": patient, **{key: values[key][name][i] for key in PREDICTED}}
        for name, frame in frames.items()
        for i, patient in enumerate(frame["patient"])
    ]
    drawn = figures_quality.distributions(
        "shift",
        {PREDICTED[key]: cohorts for key, cohorts in values.items()},
        {PREDICTED["probability"]: None if files.metrics["threshold"] is None else float(files.metrics["threshold"])},
    )
    shown = [
        {
            "name": PREDICTED[one.name],
            "quartiles": [_quartiles(one.development), _quartiles(one.external)],
            "smd": number(one.smd, "0.00"),
            "distance": number(one.distance, "0.00"),
            "p": number(one.p, "p"),
        }
        for one in found
    ]
    return {"rows": shown, "figure": drawings.keep("shift", drawn, table_columns(table))}


def omics(files: RunFiles, drawings: Drawings) -> list[dict[str, Any]]:
    """Omics features by modality: how many have moved, and which furthest."""
    if files.shift is None or files.shift.empty:
        return []
    drawings.table("shift-omics", files.shift)
    return [
        {
            "modality": row["modality"],
            "features": row["features"],
            "units": row["units"],
            "shifted": row["shifted"],
            "median": number(row["median"], "0.00"),
            "missing": f"{100 * row['missing']:.1f} %",
            "cut": f"{100 * row['cut']:.1f} %",
            "furthest": [f"{name} ({number(moved, '0.0')})" for name, moved in row["furthest"]],
        }
        for row in shift.omics_summary(files.shift)
    ]


def deep(files: RunFiles, own: RunFiles, drawings: Drawings) -> dict[str, Any] | None:
    """How far the deep features of both cohorts' patients lie from those of the training patients; none in old runs."""
    import pandas as pd

    if files.distances is None or own.distances is None:
        return None
    parts = held_out(set(own.distances["part"]))
    inner = own.distances[own.distances["part"].isin(parts)]
    found = shift.deep_shift(inner, files.distances)
    if not found:
        return None
    part = " and ".join(parts)
    tables = {part: inner, "external": files.distances}
    panels = {
        f"distance, {MODALITIES[one.modality]}": {
            name: numbers(table.loc[table["modality"] == one.modality, "distance"]) for name, table in tables.items()
        }
        for one in found
    }
    rows = [
        {
            "modality": MODALITIES[one.modality],
            "patients": one.patients,
            "quartiles": [_quartiles(one.development), _quartiles(one.external)],
            "distance": number(one.distance, "0.00"),
            "p": number(one.p, "p"),
            "beyond": f"{100 * one.beyond:.0f} %",
        }
        for one in found
    ]
    kept = pd.concat(tables.values(), ignore_index=True)
    drawn = figures_quality.distributions("shift-deep", panels)
    return {"rows": rows, "part": part, "figure": drawings.keep("shift-deep", drawn, kept)}


def _counts(own: RunFiles, part: str) -> dict[str, int]:
    rows = own.rows(part)
    labels = numbers(rows["label"])
    return {
        "all": len(own.predictions),
        "patients": len(rows),
        "labelled": int(np.sum(~np.isnan(labels))),
        "responders": int(np.sum(labels == 1)),
    }


def _auc_says(row: Mapping[str, Any], part: str) -> str:
    gap = row["cells"][2]
    if gap.value == "–":
        return ""
    test = f" ({gap.interval}; p {'' if row['p'][0] == '<' else '= '}{row['p']}, DeLong)" if gap.interval else ""
    return f"AUC here minus AUC of the run’s {part} patients: {gap.value}{test}."


def _estimate(found: Mapping[str, Any]) -> Estimate:
    value, low, high = (finite(found[key]) for key in ("value", "low", "high"))
    return Estimate(value, low, high, found["method"], found["reason"])


def _flat(name: str, first: Mapping[str, Any], second: Mapping[str, Any], gap: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"metric": name}
    for prefix, found in (("internal", first), ("external", second), ("difference", gap)):
        row |= {prefix: found["value"], f"{prefix}_low": found["low"], f"{prefix}_high": found["high"]}
    return row | {"method": gap["method"]}


def _quartiles(values: tuple[float, float, float]) -> str:
    low, middle, high = (number(value, "0.00") for value in values)
    return f"{middle} ({low} to {high})"

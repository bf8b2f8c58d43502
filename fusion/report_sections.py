"""Tables of the report that describe patients, methods and comparisons, as plain text for the template."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import subgroups
from .characteristics import GROUPS, MEASURED, Characteristic, described
from .comparison import MODEL
from .report_text import Cell, cell, number
from .runfiles import RunFiles, finite
from .subgroups import Block

GROUP_NAMES = {
    "patient_information": "Patient information",
    MEASURED: "Numbers",
    "pathology_report": "Pathology report",
    "radiology_report": "Radiology report",
}
"""Groups of items and how the page calls them."""

NAMES = {
    "tils": "TILs",
    "her2_heterogeneity": "HER2, share of area",
    "lauren": "Lauren classification",
    "line": "line of therapy",
    "start": "start of therapy",
    "site": "site of the tumour",
    "primary_present": "primary present",
    "metastatic_lesions": "number of metastatic lesions",
    "multiple_metastases": "multiple metastases in liver or lung",
}
"""Items whose name alone would not say what they are."""

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


# --- what is known of the patients ------------------------------------------------------------------------


def table_one(files: RunFiles, items: Sequence[Characteristic], present: Sequence[str]) -> dict[str, Any] | None:
    """The patients of each part by what is known of them; none where the run says nothing."""
    part = files.predictions["part"].to_numpy(dtype=str)
    return _compared(items, {name: part == name for name in present}, everyone=True)


def risk_groups(files: RunFiles, items: Sequence[Characteristic], part: str | None) -> dict[str, Any] | None:
    """The two risk groups of one part by what is known of them."""
    if part is None or not files.called:
        return None
    chosen, calls = files.chosen(part), files.calls
    return _compared(items, {"low risk": chosen & (calls == 1), "high risk": chosen & (calls == 0)}, everyone=False)


def _compared(
    items: Sequence[Characteristic], groups: Mapping[str, subgroups.Flags], *, everyone: bool
) -> dict[str, Any] | None:
    items = described(items)
    blocks = subgroups.compare(items, groups)
    if not blocks:
        return None
    heads = [(name, int(group.sum())) for name, group in groups.items()]
    total: dict[str, Block] = {}
    if everyone and len(groups) > 1:
        union = np.any(list(groups.values()), axis=0)
        heads.insert(0, ("all", int(union.sum())))
        total = {(b.group + b.name): b for b in subgroups.compare(items, {"all": union})}
    sections: dict[str, list[dict[str, Any]]] = {}
    for block in blocks:
        sections.setdefault(block.group, []).append(_shown(block, total.get(block.group + block.name)))
    order = [group for group in GROUPS if group in sections] + [group for group in sections if group not in GROUPS]
    methods = sorted({b.test.method.partition(",")[0] for b in blocks if b.test.method})
    return {
        "heads": heads,
        "sections": [(GROUP_NAMES.get(group, group), sections[group]) for group in order],
        "tested": len(groups) > 1,
        "methods": methods,
    }


def _shown(block: Block, total: Block | None) -> dict[str, Any]:
    lines = []
    for place, line in enumerate(block.lines):
        first = [total.lines[place].cells[0]] if total else []
        lines.append((line.text, [*first, *line.cells], number(line.p, "p") if math.isfinite(line.p) else ""))
    texts = [text for text, _, _ in lines]
    name = called(block.name)
    head: list[str] = []
    if len(lines) == 1 or texts == ["no", "yes"]:  # one line says it all
        name, head = name if texts == ["no", "yes"] else f"{name}: {texts[0]}", lines[-1][1]
        lines = []
    unknown = [sum(total.unknown)] if total else []
    unknown += block.unknown
    p = block.test.value
    return {
        "name": name,
        "head": head,
        "lines": lines,
        "unknown": unknown if any(unknown) else [],
        "p": number(p, "p") if math.isfinite(p) else "",
        "small": "below 5" in block.test.method,
    }


def called(name: str) -> str:
    """An item's name as the page writes it."""
    if name == "age":  # the code; the number is called "age, years"
        return "age group"
    first, comma, rest = name.partition(",")
    return NAMES.get(first, first.replace("_", " ")) + comma + rest


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


# --- methods and limits -----------------------------------------------------------------------------------


def methods(files: RunFiles, present: Sequence[str], items: Sequence[Characteristic]) -> list[tuple[str, str]]:
    """What was done, in the order of TRIPOD+AI (Collins et al., BMJ 385:e078378, 2024), as far as the run says."""
    model, fit = files.config.get("model", {}), files.config.get("fit", {})
    split = fit.get("split", {})
    frame = files.predictions
    labelled = int(frame["label"].notna().sum())
    unlabelled = len(frame) - labelled
    centres = "one centre" if frame["centre"].nunique() == 1 else f"{frame['centre'].nunique()} centres"
    rows = [
        ("Data", "Patients of the cohort that was extracted into the store, collected before this model was made."),
        (
            "Participants",
            f"{len(frame)} patients of {centres}; {labelled} with a known response, "
            f"{unlabelled} censored before the cut-off or without follow-up, kept for survival only.",
        ),
        (
            "Outcome",
            "Response: best RECIST response CR or PR against PD; otherwise progression-free survival above the "
            "cut-off of the treatment group. Risk: progression-free and overall survival.",
        ),
        ("Predictors", _predictors(model, items, set(frame["modalities"]))),
        (
            "Sample size",
            "All patients of the cohort; no calculation beforehand. "
            + "; ".join(f"{part}: {int((frame['part'] == part).sum())}" for part in present)
            + ".",
        ),
        (
            "Missing data",
            "Nothing is imputed in the codes: an unknown item is left out of attention, and a missing modality has a "
            "learnt placeholder. Missing omics values count as the training median.",
        ),
    ]
    if fit:
        rows.append(
            (
                "Model building",
                f"{fit.get('epochs')} epochs of Adam, learning rate {fit.get('learning_rate')}, batches of "
                f"{fit.get('batch_patients')} patients; the weights of the {fit.get('average_best')} epochs with the "
                f"highest validation AUC were averaged. Inter-modal fusion: {model.get('inter_fusion')}.",
            )
        )
        rows.append(("Data split", _split(split, fit, files.run)))
    rows += [
        (
            "Threshold",
            "Youden index, chosen on patients that the figures are not of, then frozen; patients below it are the "
            "high-risk group.",
        ),
        (
            "Performance",
            f"Discrimination (AUC, average precision, C-index), calibration, net benefit, each with "
            f"{100 * files.metrics['confidence']:g} % intervals; {files.metrics['replicates']} bootstrap replicates.",
        ),
        ("Fairness", "Figures by centre and by pattern of imaging; risk groups by clinical item."),
    ]
    return rows


def _predictors(model: Mapping[str, Any], items: Sequence[Characteristic], patterns: set[str]) -> str:
    images = {"pathology": "slides", "radiology": "CT"}
    # a modality that nobody has is no predictor; one that is no imaging shows in no pattern
    there = {name for name in images if patterns & {name, "both"}}
    used = [images.get(name, name) for name in model.get("modalities", ()) if name in there or name not in images]
    parts = [f"Deep features of {' and '.join(used)}"] if used else []
    if model.get("omics") and used:
        parts.append("omics features")
    codes = [item for item in items if item.group != MEASURED]
    reports = [item for item in codes if item.group.endswith("_report")]
    if model.get("reports") and reports:
        parts.append(f"{len(reports)} report items")
    if model.get("patient_information") and len(codes) > len(reports):
        parts.append(f"{len(codes) - len(reports)} items of patient information")
    return (", ".join(parts) or "As the settings below say") + ". All from before treatment."


def _split(split: Mapping[str, Any], fit: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if run.get("folds"):
        unit = "centre" if run.get("by_centre") else "patient"
        return (
            f"{run['folds']} folds by {unit}, {run.get('seeds')} training(s) each; a share of each fold's training "
            "patients chose its weights and threshold."
        )
    ensemble = f" {run['seeds']} trainings on the one split, predictions averaged." if "seeds" in run else ""
    shares = f"validation {split.get('validation')}, test {split.get('test')}"
    return f"By patient, stratified by label: {shares}; seed {split.get('seed', fit.get('seed'))}.{ensemble}"


def limits(files: RunFiles, present: Sequence[str], main: str | None) -> list[str]:
    """What the figures cannot say, as far as the run tells."""
    said = []
    if main is None:
        said.append("No patient was held out: nothing here says how the model does on new patients.")
    elif files.run.get("folds"):
        said.append(
            "Folds: each patient is ranked against patients of other folds by different models, which pulls the pooled "
            "AUC down a little; the AUC of pairs within a fold is free of that."
        )
    elif main == "validation":
        said.append("The held-out patients chose the weights, so their figures are optimistic.")
    if main:
        counts = files.metrics["parts"][main]
        smaller = min(counts["responders"], counts["labelled"] - counts["responders"])
        said.append(
            f"The smaller class of the {main} patients has {smaller}"
            + (
                "; with fewer than 100, calibration cannot be judged with confidence and intervals are wide."
                if smaller < 100
                else "."
            )
        )
    if "external" not in present:
        said.append("No patients of an independent cohort are in this run, so it is not externally validated.")
    if files.predictions["centre"].nunique() == 1:
        said.append("One centre only.")
    said.append("p values are not corrected for the number of tests; those of subgroups are descriptive.")
    said.append("Retrospective data; research software, not for decisions about patients.")
    return said

"""The model card of a run: what the model is, on whom it was trained, how well it did, and what it is not for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import Settings
from .checkpoint import run_facts, write_atomically
from .report_methods import LEARNT_NOTHING, drawn_at_random

COUNTS = ("patients", "responders", "non_responders", "unlabelled")


def write_card(file: Path, info: Mapping[str, Any], settings: Settings, evaluated: Mapping[str, Any]) -> None:
    """Write the card of a run as Markdown, from what run.json and metrics.json say."""
    made = (
        f"Store digest {info['store_digest']}, seed {info['seed']}, {info['epochs']} epochs; the weights are the mean "
        f"of epochs {', '.join(map(str, info['selected_epochs']))}."
    )
    lines = [
        *_use(info, settings),
        *_trained_on(made, info["patients"], info["warnings"]),
        *_performance(evaluated),
        "Threshold of the probability, frozen before the held-out part was looked at: "
        f"{_number(evaluated['threshold'])}.",
        *_limits(evaluated),
    ]
    _write(file, lines)


def write_ensemble_card(
    run: Path, names: Sequence[str], info: Mapping[str, Any], settings: Settings, evaluated: Mapping[str, Any]
) -> None:
    """Write RUN/MODEL_CARD.md of an ensemble, whose members RUN/members/NAME are finished.

    Args:
        run: folder of the ensemble.
        names: members, in their order.
        info: what run.json says of the ensemble.
        settings, evaluated: its settings, and what metrics.json says.
    """
    members = [run_facts(run / "members" / name) for name in names]
    first, folds = members[0], info.get("folds")
    trained = (
        f"{folds} folds by {'centre' if info['by_centre'] else 'patient'}, {info['seeds']} training(s) each"
        if folds
        else f"{info['seeds']} trainings on one split"
    )
    seeds = sorted({int(member["seed"]) for member in members})
    made = (
        f"{len(members)} models: {trained}; seeds {', '.join(map(str, seeds))}; store digest {info['store_digest']}. "
        "Predictions are means over the members; each member has a card of its own in `members`."
    )
    parts = {"all": _everyone(first["patients"])} if folds else first["patients"]
    warnings = list(dict.fromkeys(warning for member in members for warning in member["warnings"]))
    lines = [
        *_use(first, settings),
        *_trained_on(made, parts, warnings),
        *_performance(evaluated, out_of_fold=bool(folds)),
        *_spread(evaluated["spread"]),
        *_thresholds(evaluated),
        *_limits(evaluated, folds=bool(folds)),
    ]
    _write(run / "MODEL_CARD.md", lines)


def _write(file: Path, lines: Sequence[str]) -> None:
    text = "\n".join(lines) + "\n"
    write_atomically(file, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _use(info: Mapping[str, Any], settings: Settings) -> list[str]:
    model, versions = settings.model, info["versions"]
    inputs = [*model.modalities]
    inputs += [name for name, used in (("omics features", model.omics), ("reports", model.reports)) if used]
    inputs += ["patient information"] if model.patient_information else []
    return [
        "# Model card",
        "",
        "MuMo (Chen et al., Signal Transduct Target Ther 9:222, 2024), trained by mumo "
        f"{versions['mumo']} with PyTorch {versions['torch']}.",
        "",
        "## Use",
        "",
        "Predicts response to therapy and ranks risk from whatever parts of a patient are there. For research; not a "
        "medical device, not validated for any decision about a patient.",
        "",
        f"- Reads: {', '.join(inputs) or 'nothing'}",
        f"- Fusion between modalities: {model.inter_fusion}; within: {model.intra_fusion}; "
        f"alignment: {'yes' if model.alignment else 'no'}",
        f"- Deep features: of the backbone weights {info['weights'] or 'none'}, "
        f"SHA-256 {info['weights_sha256'] or '–'}",
        *([f"- **{LEARNT_NOTHING}**"] if drawn_at_random(info) else []),
        f"- Grey-level windows of the CT: digest {info['windows_digest'] or '–'}",
        "- `mumo predict` refuses stores whose features, items or windows are others.",
        "",
    ]


def _trained_on(made: str, parts: Mapping[str, Mapping[str, int]], warnings: Sequence[str]) -> list[str]:
    lines = [
        "## Trained on",
        "",
        made,
        "",
        "| part | patients | responders | non-responders | unknown |",
        "|---|---|---|---|---|",
        *(f"| {part} | {' | '.join(str(counts[name]) for name in COUNTS)} |" for part, counts in parts.items()),
        "",
    ]
    return lines + ([*(f"- {warning}" for warning in warnings), ""] if warnings else [])


def _everyone(parts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Counts over all parts: over folds, every patient is held out once and trained on otherwise."""
    return {name: sum(counts[name] for counts in parts.values()) for name in COUNTS}


def _performance(evaluated: Mapping[str, Any], *, out_of_fold: bool = False) -> list[str]:
    lines = [
        "## How well it does",
        "",
        "| part | AUC (95 % CI) | AUC by modalities present |",
        "|---|---|---|",
    ]
    for part, values in evaluated["parts"].items():
        patterns = "; ".join(f"{name}: {_estimate(entry['auc'])}" for name, entry in values["modalities"].items())
        name = "all, out of fold" if out_of_fold else part
        lines.append(f"| {name} | {_estimate(values['auc'])} | {patterns} |")
        if "auc_within_folds" in values:
            lines.append(f"| pairs within a fold | {_estimate(values['auc_within_folds'])} | |")
    return [*lines, ""]


def _spread(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for what in ("seeds", "folds"):
        if what in found:
            values = (_number(found[what][key]) for key in ("mean", "low", "high"))
            lines.append("AUC of single {}, {} patients: mean {}, {} to {}.".format(what, found["part"], *values))
    return [*lines, ""]


def _thresholds(evaluated: Mapping[str, Any]) -> list[str]:
    own = evaluated.get("thresholds")
    if not own:
        return [f"Threshold of the probability, that of the mean over the members: {_number(evaluated['threshold'])}."]
    each = "; ".join(f"{fold}: {_number(threshold)}" for fold, threshold in own.items())
    return [
        f"Threshold of the probability, chosen inside the training patients of each fold: {each}. New patients are "
        "called at the mean of the members' thresholds."
    ]


def _limits(evaluated: Mapping[str, Any], *, folds: bool = False) -> list[str]:
    lines = [
        "",
        "## Limits",
        "",
        "- Figures of the training part are optimistic, and so are those of validation, which chose the weights.",
    ]
    if folds:
        lines = [
            *lines[:-1],
            "- The figures are of each fold's members. New patients are predicted by all members together, and nobody "
            "was held out from all of them: only another cohort tests that.",
        ]
    if evaluated["headline"] is None:
        lines.append("- Nobody was held out from everything.")
    return [
        *lines,
        "- Another centre, scanner, stain or case mix can change them; see the figures by centre and modality, and try "
        "the model on another cohort (`mumo predict RUN STORE FOLDER`, then `mumo report FOLDER`).",
        "- A patient with fewer parts is predicted with less certainty; the probability does not say so.",
    ]


def _number(value: float | None) -> str:
    return "none" if value is None or math.isnan(value) else f"{value:.3f}"


def _estimate(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined ({estimate['reason']})"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"

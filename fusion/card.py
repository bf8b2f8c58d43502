"""The model card of a run: what the model is, on whom it was trained, how well it did, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Settings
from .checkpoint import write_atomically


def write_card(file: Path, info: Mapping[str, Any], settings: Settings, evaluated: Mapping[str, Any]) -> None:
    """Write the card of a run as Markdown, from what run.json and metrics.json say."""
    text = "\n".join(_lines(info, settings, evaluated))
    write_atomically(file, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def _lines(info: Mapping[str, Any], settings: Settings, evaluated: Mapping[str, Any]) -> list[str]:
    model, versions = settings.model, info["versions"]
    inputs = [*model.modalities]
    inputs += [name for name, used in (("omics features", model.omics), ("reports", model.reports)) if used]
    inputs += ["patient information"] if model.patient_information else []
    lines = [
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
        f"- Deep features: weights {info['weights'] or 'none'}, SHA-256 {info['weights_sha256'] or '–'}",
        f"- Grey-level windows of the CT: digest {info['windows_digest'] or '–'}",
        "- `mumo predict` refuses stores whose features, items or windows are others.",
        "",
        "## Trained on",
        "",
        f"Store digest {info['store_digest']}, seed {info['seed']}, {info['epochs']} epochs; the weights are the mean "
        f"of epochs {', '.join(map(str, info['selected_epochs']))}.",
        "",
        "| part | patients | responders | non-responders | unknown |",
        "|---|---|---|---|---|",
    ]
    for part, counts in info["patients"].items():
        row = (counts[name] for name in ("patients", "responders", "non_responders", "unlabelled"))
        lines.append(f"| {part} | {' | '.join(map(str, row))} |")
    lines += ["", *(f"- {warning}" for warning in info["warnings"]), "", "## How well it does", ""]
    lines += ["| part | AUC (95 % CI) | AUC by modalities present |", "|---|---|---|"]
    for part, values in evaluated["parts"].items():
        patterns = "; ".join(f"{name}: {_estimate(entry['auc'])}" for name, entry in values["modalities"].items())
        lines.append(f"| {part} | {_estimate(values['auc'])} | {patterns} |")
    lines += [
        "",
        f"Threshold of the probability, frozen before the held-out part was looked at: {evaluated['threshold']}.",
        "",
        "## Limits",
        "",
        "- Figures of the training part are optimistic, and so are those of validation, which chose the weights.",
        *(["- Nobody was held out from everything."] if evaluated["headline"] is None else []),
        "- Another centre, scanner, stain or case mix can change them; see the figures by centre and modality.",
        "- A patient with fewer parts is predicted with less certainty; the probability does not say so.",
    ]
    return lines


def _estimate(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined ({estimate['reason']})"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"

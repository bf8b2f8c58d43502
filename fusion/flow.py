"""Who and what of a cohort came into a run, and what was left out and why: the run's `flow.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ..errors import FitError
from ..stores import tables
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from ..stores.specs import PATIENTS
from .checkpoint import write_json

SOURCES = (
    ("slides", "slide-", "tiles", ("tiles", "embed", "radiomics"), "pathology"),
    ("CT studies", "ct-", "rois", ("windows", "rois", "embed", "radiomics"), "radiology"),
)
"""What it is called, prefix of its items, stage that has all of them, stages that can fail, modality."""

REASONS = {
    "censored": "censored before the cut-off",
    "missing": "neither a decisive RECIST response nor progression-free survival",
}
"""Rules of the label that leave it unknown, in words."""


def save_flow(file: Path, packed: Packed, store: Place, *, left_out: Collection[str] = ()) -> None:
    """Write a run's `flow.json`.

    `patients` of the cohort; for slides and CT studies how many the store was asked for, how many are used, have
    nothing to use (no bag, no lesion), or failed in a stage; `left_out`, how many patients were; of the others `labels`
    (rule of the label → patients).
    """
    opened = Store.open(store)
    rules: Counter[str] = Counter()
    if (record := opened.record("clinical", "cohort")) and "patients.parquet" in record.parts:
        rows = tables.read_rows(opened.part("clinical", "cohort", "patients.parquet"), PATIENTS)
        known = set(packed.patients) - set(left_out)
        rules.update(row["label_rule"] for row in rows if row["patient"] in known)
    sources = {}
    for name, prefix, whole, stages, modality in SOURCES:
        failed = {item for stage in stages for item in _names(opened, stage, "failures") if item.startswith(prefix)}
        asked = {item for item in _names(opened, whole, "records") if item.startswith(prefix)} | failed
        units = packed.units.get(modality)
        used = set(units.sources.tolist()) if units is not None else set()
        failed -= used
        sources[name] = {
            "asked": len(asked | used),
            "used": len(used),
            "nothing": len(asked - used - failed),
            "failed": len(failed),
        }
    content = {"patients": len(packed.patients), "sources": sources, "left_out": len(left_out), "labels": dict(rules)}
    write_json(file, content)


def flow_file(run: Path) -> Path:
    """The run's own flow.json, or that of its first member: all members have the same patients."""
    own = run / "flow.json"
    return own if own.is_file() else next(iter(sorted((run / "members").glob("*/flow.json"))), own)


def read_flow(run: Path) -> dict[str, Any]:
    """What flow.json says, of an ensemble that of its first member; empty where there is none."""
    found = flow_file(run)
    if not found.is_file():
        return {}
    try:
        content = json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FitError(f"run folder: {found.name}: expected JSON, found {error}") from error
    if not isinstance(content, dict):
        raise FitError(f"run folder: {found.name}: expected a JSON object, found {type(content).__name__}")
    return content


def sentences(flow: dict[str, Any]) -> Sequence[tuple[str, list[str]]]:
    """Boxes of the flow: heading with a count, and what it is made of or was left out there."""
    if not flow:
        return []
    images = []
    for name, found in flow["sources"].items():
        if found["asked"]:
            left = [(found["nothing"], "with nothing to use (no bag or no lesion)"), (found["failed"], "failed")]
            images.append(
                ", ".join([f"{found['asked']} {name}: {found['used']} used", *(f"{n} {w}" for n, w in left if n)])
            )
    boxes = [(f"{flow['patients']} patients of the cohort", images)]
    if left_out := flow.get("left_out"):
        rest = flow["patients"] - left_out
        boxes.append((f"{rest} patients are new to the model", [f"{left_out} left out: also in the run's own cohort"]))
    unknown = {rule: count for rule, count in flow["labels"].items() if rule in REASONS}
    if flow["labels"]:
        known = sum(flow["labels"].values()) - sum(unknown.values())
        apart = [f"{count} unknown, kept for survival: {REASONS[rule]}" for rule, count in sorted(unknown.items())]
        boxes.append((f"{known} with a known response", apart))
    return boxes


def _names(store: Store, stage: str, kind: str) -> list[str]:
    """Ids of items with a record or failure; without reading them."""
    names = store.files.names(store.path / stage / kind)
    return [name.removesuffix(".json") for name in names if name.endswith(".json") and not name.startswith(".")]

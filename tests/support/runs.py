"""Run folders with made-up predictions, for tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from mumo.config import Settings
from mumo.fusion import metrics
from mumo.stores import tables
from mumo.stores.specs import PREDICTIONS


def rows_of(size: int = 24, parts: tuple[str, ...] = ("train", "validation", "test"), **columns: Any) -> list[Any]:
    generator = np.random.default_rng(0)
    rows = []
    for i in range(size):
        probability = float(generator.random())
        row = {
            "patient": f"P{i:03d}",
            "centre": ("north", "south")[i % 2],
            "part": parts[i % len(parts)],
            "modalities": ("both", "pathology", "radiology", "none")[i % 4],
            "probability": probability,
            "risk": float(-probability + 0.3 * generator.normal()),
            "label": None if i % 8 == 7 else int(probability + 0.4 * generator.normal() > 0.5),
            "pfs_days": float(generator.integers(20, 800)),
            "pfs_event": bool(generator.random() < 0.7),
            "os_days": float(generator.integers(100, 1500)),
            "os_event": bool(generator.random() < 0.5),
        }
        rows.append(row | {name: value(i) if callable(value) else value for name, value in columns.items()})
    return rows


def write_run(folder: Path, /, rows: list[Any] | None = None, *, threshold: float = 0.5, **files: Any) -> Path:
    """A run folder; `files` replaces the content of a file (by its stem), None leaves it out."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of() if rows is None else rows
    tables.write_table(folder / "predictions.parquet", rows, PREDICTIONS)
    frame = tables.read_table(folder / "predictions.parquet", PREDICTIONS).to_pandas()
    epoch = {"seconds": 0.1, "lambda": 0.1, "validation": {"loss": 2.0, "auc": 0.6, "c_index": 0.55}}
    terms = {"loss": 2.5, "response": 0.2, "survival": 2.2, "alignment": None, "auxiliary": 1.0}
    content: dict[str, Any] = {
        "metrics": metrics.evaluate(frame, threshold=threshold, replicates=100, seed=0),
        "config": Settings().model_dump(mode="json"),
        "run": {"status": "finished", "mumo_version": "0.1.0", "device": "cpu", "selected_epochs": [2, 3]},
        "history": [epoch | {"epoch": e, "train": terms} for e in (1, 2, 3)],
        "split": {row["patient"]: row["part"] for row in rows},
    } | files
    for stem in ("metrics", "config", "run"):
        if content[stem] is not None:
            (folder / f"{stem}.json").write_text(json.dumps(content[stem], allow_nan=False))
    if content["history"] is not None:
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content["history"]))
    if content["split"] is not None:
        lines = [f"{patient},{part}" for patient, part in content["split"].items()]
        (folder / "split.csv").write_text("\n".join(["patient,part", *lines]) + "\n")
    return folder

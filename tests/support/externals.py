"""Folders of external validations with made-up predictions, for tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runs import rows_of, write_run

MODEL = {
    "run": "run-a",
    "models": ["ab" * 32],
    "versions": {"mumo": "0.1.0"},
    "store_digest": "d" * 64,
    "seed": 0,
    "folds": None,
    "threshold": 0.5,
    "chosen_on": {"weights": "validation", "threshold": "validation"},
    "windows_digest": "w" * 32,
    "bootstrap": 100,
}

FACTS: dict[str, Any] = {
    "status": "finished",
    "kind": "external",
    "store_digest": "e" * 64,
    "weights_sha256": "f" * 64,
    "windows_digest": "w" * 32,
    "model": MODEL,
    "other_windows": False,
    "other_extraction": [],
    "shared": [],
}


def external_rows(size: int = 60, **columns: Any) -> list[Any]:
    """Rows of patients of another cohort, of other centres."""
    centres = {"centre": lambda i: ("Leiden", "Porto")[i % 2], "patient": lambda i: f"E{i:03d}"}
    return rows_of(size, parts=("external",), **{**centres, **columns})


def write_external(
    folder: Path,
    /,
    rows: list[Any] | None = None,
    *,
    own: list[Any] | None = None,
    threshold: float = 0.5,
    **facts: Any,
) -> Path:
    """A folder as `mumo predict RUN STORE FOLDER` writes it; `facts` replaces entries of its run.json."""
    rows = external_rows() if rows is None else rows
    write_run(folder, rows, threshold=threshold, run=FACTS | facts, history=None, split=None)
    write_run(folder / "development", rows_of(90) if own is None else own, threshold=threshold, history=None)
    return folder

"""What figures rest on: versions of programs, and the settings with which the features of a store were extracted."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from .. import __version__
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store, changes

STAGES = ("tiles", "rois", "embed", "radiomics", "clinical")
"""Stages whose settings shape what a model reads; windows have a digest of their own."""

KINDS = ("slide-", "ct-", "cohort")
"""Prefixes of items; those of one kind share their settings within a stage."""

WITHOUT_EFFECT = ("zstd_level", "max_matrix_mb", "max_voxels", "engine")
"""Settings of lossless storage, limits and speed, which leave the features as they are."""


CLINICAL, CUTOFFS = "clinical cohort", "cutoff_days"

LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "lifelines")
"""Libraries, beside torch, that compute figures."""


def versions() -> dict[str, str]:
    """Versions of mumo, Python, torch and `LIBRARIES`."""
    found = {
        "mumo": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }  # with the CUDA version
    return found | {name: importlib.metadata.version(name) for name in LIBRARIES}


def extraction_settings(store: Place) -> dict[str, dict[str, Any]]:
    """Settings of each stage and kind of item (`tiles slide`), from the completion record of one such item.

    To those of `CLINICAL` come, as `CUTOFFS`, the days of each treatment group from which progression-free patients
    count as responders, which the cohort file says.
    """
    opened = Store.open(store)
    found: dict[str, dict[str, Any]] = {}
    for stage in STAGES:
        names = sorted(opened.files.names(opened.path / stage / "records"))
        for prefix in KINDS:
            name = next((n for n in names if n.startswith(prefix) and n.endswith(".json")), None)
            record = opened.record(stage, name.removesuffix(".json")) if name else None
            if record is not None:
                found[f"{stage} {prefix.rstrip('-')}"] = dict(record.depends.get("settings", {}))
    if (clinical := opened.record("clinical", "cohort")) is not None and "cutoff_days" in clinical.summary:
        days = sorted(clinical.summary["cutoff_days"].items())
        found[CLINICAL][CUTOFFS] = "; ".join(f"{group}: {count:g}" for group, count in days)
    return found


def windows_fitted_on(store: Place, packed: Packed, part_of: Mapping[str, str]) -> dict[str, int]:
    """Part → patients on whose lesions the grey-level windows of the CT were fitted; empty where they were taken over.

    Args:
        part_of: patient → part.
    """
    record = Store.open(store).record("windows", "cohort")
    units = packed.units.get("radiology")
    if record is None or units is None:
        return {}
    used = {name.split("/")[1] for name in record.depends.get("upstream", {})}
    owners = np.repeat(np.array(packed.patients, dtype=str), units.counts)
    fitted = {str(patient) for patient, item in zip(owners, units.sources, strict=True) if str(item) in used}
    return dict(Counter(part_of[patient] for patient in sorted(fitted) if patient in part_of))


def differences(expected: Mapping[str, Any] | None, found: Mapping[str, Any]) -> list[str] | None:
    """Settings that differ, as sentences; None where the model's run does not say its own (an older one).

    Stages that one store does not have are missing parts and no difference.
    """
    if expected is None:
        return None
    return [
        f"{stage}: {name} is {_at(found[stage], name)}, the model's {_at(expected[stage], name)}"
        for stage in expected
        if stage in found
        for name in changes(expected[stage], found[stage])
        if name not in WITHOUT_EFFECT
    ]


def _at(settings: Mapping[str, Any], name: str) -> Any:
    """The value at a dotted name."""
    value: Any = settings
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value

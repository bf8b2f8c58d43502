"""What a store holds, for people and machines."""

from __future__ import annotations

import statistics
from typing import Any

from .records import Store
from .specs import STAGES

DICE_MEANING = (
    "Dice is the overlap of the mask that mumo would draw inside a lesion's box with the mask that was given (1: the "
    "same, 0: apart, from about 0.7 on good); it says how far to trust the masks of lesions that come with a box alone."
)
"""What the figures of `dice` are, for people; good from 0.7: Zijdenbos et al., IEEE Trans Med Imaging 13:716 (1994)."""


def store_status(store: Store, *, with_digest: bool = False) -> dict[str, Any]:
    """Counts, bytes and failures of every stage, and the store's digest when asked for; JSON-able."""
    stages: dict[str, Any] = {}
    for name in STAGES:
        records, failures = store.records(name), store.failures(name)
        states = [record.status for record in records.values()]
        stages[name] = {
            "ok": states.count("ok"),
            "empty": states.count("empty"),
            "failed": len(failures),
            "bytes": store.files.size(store.path / name),
            "nothing_in": {
                item: "; ".join(record.summary.get("warnings", ()))
                for item, record in records.items()
                if record.status == "empty"
            },
            "failures": {item: f"{failure.error}: {failure.message}" for item, failure in failures.items()},
        }
    result: dict[str, Any] = {"stages": stages, "dice": _dice(store)}
    if with_digest:
        result["digest"] = store.digest(STAGES)
    return result


def _dice(store: Store) -> dict[str, dict[str, float]]:
    """Method of segmentation → how well it finds the masks that were given: lesions, median and lowest Dice."""
    values: dict[str, list[float]] = {}
    for record in store.records("rois").values():
        for method, lesions in record.summary.get("dice", {}).items():
            values.setdefault(method, []).extend(lesions.values())
    return {
        method: {"lesions": len(found), "median": statistics.median(found), "lowest": min(found)}
        for method, found in sorted(values.items())
        if found
    }

"""What a run will take, judged by the items that are done: bytes, seconds, and whether the disk has room."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import StoreError
from ...stores.files import files_of
from ...stores.places import Place
from ...stores.records import Store
from .planning import Planned


@dataclass(frozen=True)
class Estimate:
    """What the items of one stage that are new or stale will take; NaN where nothing of the kind is done yet."""

    stage: str
    items: int
    bytes: float
    seconds: float
    """Time of one process; divided by the number of processes it is about the wall-clock time."""


def estimate(store: Store | None, plan: Sequence[Planned]) -> list[Estimate]:
    """An estimate for each stage that has something to do: mean of the done items of the same kind times how many.

    Kinds are slides, CT studies and the cohort as a whole.
    """
    to_do = Counter((p.item.stage, _kind(p.item.item)) for p in plan if p.state in ("new", "stale"))
    stages = dict.fromkeys(stage for stage, _ in to_do)
    estimates = []
    for stage in stages:
        records = store.records(stage).values() if store is not None else ()
        size = seconds = 0.0
        for (_, kind), items in ((key, items) for key, items in to_do.items() if key[0] == stage):
            done = [record for record in records if _kind(record.item) == kind]
            size += items * _mean([record.bytes for record in done])
            seconds += items * _mean([record.seconds for record in done])
        estimates.append(Estimate(stage, sum(n for (name, _), n in to_do.items() if name == stage), size, seconds))
    return estimates


def check_room(folder: Place, estimates: Sequence[Estimate]) -> None:
    """Refuse a run that the disk has no room for, as far as can be told; object stores know of no limit.

    Raises:
        StoreError: the estimates add up to more than is free where `folder` lies or will lie.
    """
    needed = sum(entry.bytes for entry in estimates if not math.isnan(entry.bytes))
    free = files_of(folder).room(folder)
    if needed > free:
        raise StoreError(
            f"{folder}: {needed / 1e9:.1f} GB are needed by the items already done, {free / 1e9:.1f} GB are free; "
            "make room or choose another disk"
        )


def _kind(item: str) -> str:
    return item.partition("-")[0]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan

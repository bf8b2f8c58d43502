"""What there is to do: each planned item against what the store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...errors import InputError
from ...stores.records import Failure, Record, Store, changes, fingerprint
from ..stage import Item, Stage
from .sources import SourceDigests

State = Literal["done", "new", "stale", "failed", "waiting"]


@dataclass(frozen=True)
class Planned:
    """An item, and how it stands."""

    item: Item
    state: State
    """done: stored and up to date. new: never computed. stale: something it depends on has changed.
    failed: it failed before and nothing has changed since. waiting: an item that it reads is not there."""
    reasons: tuple[str, ...]
    """Why: what changed, what is missing, or what the error was."""
    depends: dict[str, Any]
    """Everything that the item depends on, as its record will say; empty when waiting."""
    empty: bool = False
    """Whether it is done and there was nothing in it."""
    notes: tuple[str, ...] = ()
    """Warnings of an item that is done."""
    unusable: str = ""
    """Why the item cannot even start (a source is missing); it is recorded as failed with this message."""


def plan_items(
    stage: Stage,
    items: Sequence[Item],
    store: Store,
    digests: SourceDigests,
    *,
    force: bool = False,
    pending: frozenset[tuple[str, str]] = frozenset(),
) -> list[Planned]:
    """Compare every item with its record; nothing is written or computed but digests of sources.

    `pending` names (stage, item) that a dry run expects to be computed before: what reads them is not done either.
    """
    records = store.records(stage.name)
    failures = store.failures(stage.name)
    upstream = {name: store.records(name) for name in {u.stage for item in items for u in item.upstream}}
    planned = []
    for item in items:
        after = [f"{u.stage}/{u.item}" for u in item.upstream if (u.stage, u.item) in pending]
        if after:
            state: State = "stale" if item.item in records else "new"
            planned.append(Planned(item, state, tuple(f"after {name}" for name in sorted(set(after))), {}))
            continue
        record, failure = records.get(item.item), failures.get(item.item)
        planned.append(_plan_item(stage, item, record, failure, upstream, digests, force=force))
    return planned


def _plan_item(
    stage: Stage,
    item: Item,
    record: Record | None,
    failure: Failure | None,
    upstream: dict[str, dict[str, Record]],
    digests: SourceDigests,
    *,
    force: bool,
) -> Planned:
    parts: dict[str, str] = {}
    for needed in item.upstream:
        source = upstream[needed.stage].get(needed.item)
        if source is None or needed.part not in source.parts:
            return Planned(item, "waiting", (f"{needed.stage}/{needed.item} is not there",), {})
        parts[str(needed)] = source.parts[needed.part]
    depends: dict[str, Any] = {
        "stage": stage.name,
        "version": stage.version,
        "settings": dict(item.settings),
        "inputs": dict(item.inputs),
        "upstream": parts,
    }
    try:
        depends["sources"] = {source.role: digests.digest(source) for source in item.sources}
        unusable = ""
    except InputError as error:
        depends["sources"] = {source.role: "missing" for source in item.sources}
        unusable = str(error)
    state, reasons = _state(depends, record, failure, force=force)
    if state != "done" or record is None:
        return Planned(item, state, reasons, depends, unusable=unusable)
    notes = tuple(record.summary.get("warnings", ()))
    return Planned(item, state, reasons, depends, record.status == "empty", notes, unusable)


def _state(
    depends: dict[str, Any], record: Record | None, failure: Failure | None, *, force: bool
) -> tuple[State, tuple[str, ...]]:
    now = fingerprint(depends)
    if force:
        return "stale", ("forced",)
    if record is not None and record.fingerprint == now:
        return "done", ()
    if failure is not None and failure.fingerprint == now:
        return "failed", (f"{failure.error}: {failure.message}",)
    if record is not None:
        return "stale", tuple(changes(record.depends, depends))
    return "new", ()

"""`mumo extract`: plan each stage, run what there is to do, finalise; the next stage sees what came out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..config import Settings
from ..stores.records import Store
from .cohort import Cohort
from .execute import Executor, Status, Task
from .planning import Planned, plan_items
from .sources import SourceDigests
from .stage import Item, Stage
from .stages import get_stage


class Progress(Protocol):
    """Told what happens; draws it."""

    def stage_started(self, stage: str, to_do: int, done: int) -> None:
        """A stage begins with so many items to compute, and so many that are done already."""

    def item_ended(self, status: Status) -> None:
        """An item ended, well or not."""

    def stage_ended(self, stage: str) -> None:
        """The stage is through."""


@dataclass(frozen=True)
class Choice:
    """What the user asked for."""

    stages: tuple[str, ...]
    only: Collection[str] = ()
    """Items, or slide, study or patient ids; empty = all."""
    force: bool = False
    """Compute again what is done."""
    retry_failed: bool = False
    """Try again what failed before although nothing has changed since."""


@dataclass
class StageReport:
    """What one stage came to. Every planned item is in exactly one of the counts."""

    stage: str
    planned: int = 0
    up_to_date: int = 0
    ok: int = 0
    empty: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    """Item → why, those of an earlier run included."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Item → which item it needs that is not there."""
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether everything that was planned is now in the store."""
        return not self.failed and not self.waiting


def extract(
    cohort: Cohort, store: Store, settings: Settings, choice: Choice, executor: Executor, progress: Progress
) -> list[StageReport]:
    """Run the chosen stages; an item that fails is recorded and everything else goes on."""
    return [run_stage(get_stage(name), cohort, store, settings, choice, executor, progress) for name in choice.stages]


def run_stage(
    stage: Stage,
    cohort: Cohort,
    store: Store,
    settings: Settings,
    choice: Choice,
    executor: Executor,
    progress: Progress,
) -> StageReport:
    """Run one stage: what `plan` gives, then what `finalise` gives when that has ended."""
    digests = SourceDigests(store.path / "source-digests.json")
    report = StageReport(stage.name)
    store.sweep(stage.name)
    for make_items in (stage.plan, stage.finalise):
        items = _chosen(make_items(cohort, settings, store), choice.only)
        planned = plan_items(stage, items, store, digests, force=choice.force)
        digests.save()
        tasks = [Task(stage, plan, settings, store) for plan in _sort_out(planned, choice, report)]
        _run_tasks(tasks, executor, progress, report)
    progress.stage_ended(stage.name)
    return report


def plan_extract(cohort: Cohort, store: Store | None, settings: Settings, choice: Choice) -> list[Planned]:
    """What `extract` would do, for `--dry-run`: nothing is written. `store` is None when it does not exist yet."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        here = store or Store.create(Path(folder) / "store")
        digests = SourceDigests(here.path / "source-digests.json")
        everything: list[Planned] = []
        pending: set[tuple[str, str]] = set()
        for name in choice.stages:
            stage = get_stage(name)
            first = _dry(stage, stage.plan(cohort, settings, here), here, digests, choice, pending)
            pending |= {(name, p.item.item) for p in first if p.state in ("new", "stale")}
            last = _dry(stage, stage.finalise(cohort, settings, here), here, digests, choice, pending)
            pending |= {(name, p.item.item) for p in last if p.state in ("new", "stale")}
            everything += [*first, *last]
        return everything


def _dry(
    stage: Stage,
    items: Sequence[Item],
    store: Store,
    digests: SourceDigests,
    choice: Choice,
    pending: set[tuple[str, str]],
) -> list[Planned]:
    chosen = _chosen(items, choice.only)
    return plan_items(stage, chosen, store, digests, force=choice.force, pending=frozenset(pending))


def _sort_out(planned: Sequence[Planned], choice: Choice, report: StageReport) -> list[Planned]:
    """Count what is done, waiting or failed before; return what there is to compute."""
    to_do = []
    for plan in planned:
        report.planned += 1
        if plan.state == "done":
            report.up_to_date += 1
        elif plan.state == "waiting":
            report.waiting[plan.item.item] = "; ".join(plan.reasons)
        elif plan.state == "failed" and not choice.retry_failed:
            report.failed[plan.item.item] = "; ".join(plan.reasons)
        else:
            to_do.append(plan)
    return to_do


def _run_tasks(tasks: Sequence[Task], executor: Executor, progress: Progress, report: StageReport) -> None:
    progress.stage_started(report.stage, len(tasks), report.up_to_date)
    for status in executor.run(tasks):
        if status.result == "failed":
            report.failed[status.item] = status.message
        elif status.result == "empty":
            report.empty += 1
        else:
            report.ok += 1
        if status.warnings:
            report.warnings[status.item] = status.warnings
        progress.item_ended(status)


def _chosen(items: Sequence[Item], only: Collection[str]) -> list[Item]:
    if not only:
        return list(items)
    wanted = {*only, *(f"slide-{name}" for name in only), *(f"ct-{name}" for name in only)}
    return [item for item in items if item.item in wanted or item.inputs.get("patient") in wanted]

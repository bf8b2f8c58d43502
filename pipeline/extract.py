"""`mumo extract`: plan each stage, run what there is to do, finalise; the next stage sees what came out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from ..config import Settings
from ..errors import ConfigError
from ..stores.leases import Leases
from ..stores.records import Store
from .cohorts.cohort import Cohort
from .networks.backbone import resolve_device
from .running.estimates import check_room, estimate
from .running.execute import Executor, Status, Task
from .running.ledger import Ledger
from .running.planning import Planned, plan_items
from .running.sharing import Sharing
from .running.sources import SourceDigests
from .stage import Item, Stage
from .stages import get_stage

_log = logging.getLogger(__name__)


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
    max_failures: str = ""
    """Start nothing more when more items than this fail: a number for the run, or a share of a stage, `10%`."""

    def __post_init__(self) -> None:
        """Refuse a limit that is neither."""
        text = self.max_failures.removesuffix("%")
        if self.max_failures and not (text.isdecimal() and (text == self.max_failures or int(text) <= 100)):
            raise ConfigError(f"--max-failures {self.max_failures}: expected a number, or a share of 0% to 100%")

    def too_many(self, failed: int, of: int) -> bool:
        """Whether `failed` items of a stage with `of` items are more than allowed."""
        if not self.max_failures:
            return False
        limit = int(self.max_failures.removesuffix("%"))
        return failed > (limit * of / 100 if self.max_failures.endswith("%") else limit)


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
    left: dict[str, str] = field(default_factory=dict)
    """Item → why it was not started: too many failures before it."""
    warnings: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Item → its warnings, of the items of this run."""
    nothing_in: dict[str, str] = field(default_factory=dict)
    """Item that is empty, of this run or of an earlier one → why, where that is known."""

    @property
    def complete(self) -> bool:
        """Whether everything that was planned is now in the store."""
        return not (self.failed or self.waiting or self.left)


def extract(
    cohort: Cohort, store: Store, settings: Settings, choice: Choice, executor: Executor, progress: Progress
) -> list[StageReport]:
    """Run the chosen stages; an item that fails is recorded and everything else goes on.

    The run gets a folder in STORE/runs, see `ledger`. Another run on the same store at the same time shares the work.

    Raises:
        ConfigError: CUDA is asked for, and this machine, which would embed, has none.
    """
    if "embed" in choice.stages and executor.local and settings.run.device == "cuda":
        resolve_device("cuda")  # before anything is started; on a cluster it is the workers that need one
    request = {**asdict(choice), "only": sorted(choice.only), "cohort": cohort.file.name}
    reports: list[StageReport] = []
    with Ledger.start(store, settings, request, executor.where) as ledger:
        for name in choice.stages:
            stage = get_stage(name)
            report = run_stage(stage, cohort, store, settings, choice, executor, progress, ledger)
            reports.append(report)
            if report.left:
                break
    return reports


def prepare(cohort: Cohort, store: Store | None, settings: Settings, choice: Choice) -> None:
    """Fetch what the chosen stages need from elsewhere, so that its lack does not show after hours.

    `store` is None where there is none yet.

    Raises:
        InputError: it is not there and cannot be fetched.
    """
    for name in choice.stages:
        get_stage(name).prepare(cohort, settings, store)


def run_stage(
    stage: Stage,
    cohort: Cohort,
    store: Store,
    settings: Settings,
    choice: Choice,
    executor: Executor,
    progress: Progress,
    ledger: Ledger | None = None,
) -> StageReport:
    """Run one stage: what `plan` gives, then what `finalise` gives when that has ended."""
    digests = SourceDigests(store.path / "source-digests.json", settings.run.source_hash)
    report = StageReport(stage.name)
    store.sweep(stage.name)
    with Leases(store, settings.run.lease_expiry_s) as leases:
        leases.sweep(stage.name)
        work = _Work(stage, store, settings, choice, executor, progress, ledger, leases, report)
        for make_items in (stage.plan, stage.finalise):
            items = _chosen(make_items(cohort, settings, store), choice.only)
            planned = plan_items(stage, items, store, digests, force=choice.force)
            digests.save()
            check_room(store.path, estimate(store, planned))
            work.run(planned)
    progress.stage_ended(stage.name)
    return report


def plan_extract(cohort: Cohort, store: Store | None, settings: Settings, choice: Choice) -> list[Planned]:
    """What `extract` would do, for `--dry-run`: nothing is written. `store` is None when it does not exist yet."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        here = store or Store.create(Path(folder) / "store")
        digests = SourceDigests(here.path / "source-digests.json", settings.run.source_hash)
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


@dataclass
class _Work:
    """Runs the planned items of one stage and counts what becomes of each."""

    stage: Stage
    store: Store
    settings: Settings
    choice: Choice
    executor: Executor
    progress: Progress
    ledger: Ledger | None
    leases: Leases
    report: StageReport
    _new_failures: int = 0

    def run(self, planned: Sequence[Planned]) -> None:
        if self.ledger is not None:
            self.ledger.planned(self.stage.name, len(planned))
        self.report.planned += len(planned)
        left = self._sort_out(planned)
        self.progress.stage_started(self.stage.name, len(left), self.report.up_to_date)
        sharing = Sharing(self.store, self.leases, self.choice.force, self._adopt)
        told = False
        while left:
            busy: list[Planned] = []
            for status in self.executor.run(self._tasks(sharing.hand_out(left, busy))):
                self.leases.release(status.stage, status.item)
                self._count(status)
            left = busy
            if left:
                if not told:
                    _log.warning("%s: another run is at %d items; waiting for it", self.stage.name, len(left))
                told = True
                sharing.wait()

    def _tasks(self, plans: Iterator[Planned]) -> Iterator[Task]:
        for plan in plans:
            if self.choice.too_many(self._new_failures, self.report.planned):
                reason = f"not started: more than {self.choice.max_failures} items failed"
                self.report.left[plan.item.item] = reason
                self._skip(plan, reason)
                self.leases.release(plan.item.stage, plan.item.item)
            else:
                yield Task(self.stage, plan, self.settings, self.store)

    def _sort_out(self, planned: Sequence[Planned]) -> list[Planned]:
        """Count what is done, waiting or failed before; return what there is to compute."""
        to_do = []
        for plan in planned:
            reason = "; ".join(plan.reasons)
            if plan.state == "done":
                self.report.up_to_date += 1
                if plan.empty:
                    self.report.nothing_in[plan.item.item] = "; ".join(plan.notes)
                self._skip(plan, "up to date")
            elif plan.state == "waiting":
                self.report.waiting[plan.item.item] = reason
                self._skip(plan, f"waiting: {reason}")
            elif plan.state == "failed" and not self.choice.retry_failed:
                self.report.failed[plan.item.item] = reason
                if self.ledger is not None:
                    self.ledger.skipped(plan.item.stage, plan.item.item, reason, result="failed")
            else:
                to_do.append(plan)
        return to_do

    def _skip(self, plan: Planned, reason: str) -> None:
        if self.ledger is not None:
            self.ledger.skipped(plan.item.stage, plan.item.item, reason)

    def _count(self, status: Status) -> None:
        if status.result == "failed":
            self.report.failed[status.item] = status.message
            self._new_failures += 1
        elif status.result == "empty":
            self.report.empty += 1
            self.report.nothing_in[status.item] = "; ".join(status.warnings)
        else:
            self.report.ok += 1
        if status.warnings and status.result != "empty":
            self.report.warnings[status.item] = status.warnings
        if self.ledger is not None:
            self.ledger.ended(status)
        self.progress.item_ended(status)

    def _adopt(self, status: Status) -> None:
        """Count an item that another run has finished since this one was planned."""
        if status.result == "failed":
            self.report.failed[status.item] = status.message
        else:
            self.report.up_to_date += 1
        if self.ledger is not None:
            result = "failed" if status.result == "failed" else "skipped"
            reason = status.message or "computed by another run"
            self.ledger.skipped(status.stage, status.item, reason, result=result)
        self.progress.item_ended(status)


def _chosen(items: Sequence[Item], only: Collection[str]) -> list[Item]:
    if not only:
        return list(items)
    wanted = {*only, *(f"slide-{name}" for name in only), *(f"ct-{name}" for name in only)}
    return [item for item in items if item.item in wanted or item.inputs.get("patient") in wanted]

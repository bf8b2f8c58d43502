"""Progress on a terminal as bars, elsewhere as plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..pipeline.extract import Progress
    from ..pipeline.running.execute import Status

_LINE_EVERY_S = 5.0


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Progress of `extract`, on stderr."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _rich_progress() as bars:
        yield _Bars(bars)


@contextmanager
def epoch_bar() -> Iterator[Callable[[int, int, dict[str, Any]], None]]:
    """Progress of `fit`, on stderr: called with the epoch, the number of epochs, and the epoch's log."""
    if not sys.stderr.isatty():
        yield _epoch_line
        return
    with _rich_progress() as bars:
        task = bars.add_task("fit", total=None)

        def advance(epoch: int, epochs: int, row: dict[str, Any]) -> None:
            bars.update(task, completed=epoch, total=epochs, description=f"fit  {_short(row)}")

        yield advance


@contextmanager
def item_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for something counted, on stderr: called with how many are done, and of how many."""
    if not sys.stderr.isatty():
        yield lambda done, total: _say(f"{name}: {done} of {total}") if done == total else None
        return
    with _rich_progress() as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def member_bar() -> Iterator[Callable[[int, int, str], None]]:
    """Progress of many trainings, on stderr: called with how many are done, of how many, and the last one's name."""
    if not sys.stderr.isatty():
        yield lambda done, total, name: _say(f"fit: {done} of {total}: {name}")
        return
    with _rich_progress() as bars:
        task = bars.add_task("fit", total=None)
        yield lambda done, total, name: bars.update(task, completed=done, total=total, description=f"fit  {name}")


def format_interval(estimate: dict[str, Any]) -> str:
    """`0.870 (95 % CI 0.750–0.960)` from a metric with value, low, high and reason."""
    if estimate["value"] is None:
        return f"undefined ({estimate['reason']})"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} (95 % CI {estimate['low']:.3f}–{estimate['high']:.3f})"


def _rich_progress() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    class Rate(ProgressColumn):
        def render(self, task: Task) -> str:
            return f"{task.speed:.3g}/s" if task.speed else ""

    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Bars:
    def __init__(self, bars: Any) -> None:
        self._bars = bars
        self._tasks: dict[str, Any] = {}
        self._failed: dict[str, int] = {}

    def stage_started(self, stage: str, to_do: int, done: int) -> None:
        """Show or lengthen the stage's bar."""
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=to_do + done, completed=done)
        else:
            task = self._bars.tasks[self._tasks[stage]]
            self._bars.update(task.id, total=task.total + to_do)

    def item_ended(self, status: Status) -> None:
        """Move the bar; count failures in its name."""
        failed = self._failed[status.stage] = self._failed.get(status.stage, 0) + (status.result == "failed")
        name = f"{status.stage}  {failed} failed" if failed else status.stage
        self._bars.update(self._tasks[status.stage], advance=1, description=name)

    def stage_ended(self, stage: str) -> None:
        """Nothing: the bar stays."""


class _Lines:
    def __init__(self) -> None:
        self._stage = ""
        self._total = self._ended = self._failed = 0
        self._began = self._last = 0.0

    def stage_started(self, stage: str, to_do: int, done: int) -> None:
        """One line for the stage, or for its reduction."""
        if stage != self._stage:
            self._stage = stage
            self._total = self._ended = self._failed = 0
            self._began = self._last = time.monotonic()
            _say(f"{stage}: {to_do} to do, {done} done")
        self._total += to_do

    def item_ended(self, status: Status) -> None:
        """A line every few seconds, and one for each failure."""
        self._ended += 1
        self._failed += status.result == "failed"
        if status.result == "failed":
            _say(f"{status.stage}: {status.item} failed: {status.message}")
        now = time.monotonic()
        if now - self._last > _LINE_EVERY_S:
            self._last = now
            rate = self._ended / (now - self._began)
            left = (self._total - self._ended) / rate
            _say(
                f"{status.stage}: {self._ended} of {self._total}, {rate:.3g} a second, "
                f"{self._failed} failed, about {left:.0f} s left"
            )

    def stage_ended(self, stage: str) -> None:
        """One line with the time, where there was something to do."""
        if self._total:
            _say(f"{stage}: {self._ended} items in {time.monotonic() - self._began:.1f} s, {self._failed} failed")


def _epoch_line(epoch: int, epochs: int, row: dict[str, Any]) -> None:
    if epoch in (1, epochs) or epoch % max(1, epochs // 10) == 0:
        _say(f"fit: epoch {epoch} of {epochs}  {_short(row)}")


def _short(row: dict[str, Any]) -> str:
    auc = row["validation"]["auc"]
    return f"loss {row['train']['loss']:.3f}  AUC {'–' if auc is None else format(auc, '.3f')}"


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

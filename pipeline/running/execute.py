"""Runs a plan: in this process, on local processes, or on a Dask cluster.

Whatever runs it, an item is one call of `compute_item` and one of a `Committer`: paths and settings go in, a small
status comes out, pixels never travel. An item that fails, crashes its process or takes too long costs itself alone.
"""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from ...config import Settings
from .commits import Committer, finished
from .isolation import ChildPool, make_request
from .tasks import Computed, Status, Task, as_status, compute_item

__all__ = [
    "Executor",
    "InProcess",
    "LocalProcesses",
    "Status",
    "Task",
    "default_workers",
    "make_executor",
]

_AHEAD = 256
"""How many computed items may wait for their records before no more are computed."""


class Executor(Protocol):
    """Runs tasks and yields their statuses as they end, in any order."""

    where: str
    """What it runs on, in words, for people."""

    @property
    def local(self) -> bool:
        """Whether items run on this machine."""
        ...

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Tasks are taken from the iterable as they are needed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass
class InProcess:
    """Runs tasks one after the other in this process: for debugging.

    A crash of native code ends the whole run here, and no limit of time or memory holds: nothing can stop native code
    from within its own process. Local processes are safe from that.
    """

    where: str = "this process, where run.item_timeout_s and run.item_memory_mb do not hold"
    local: ClassVar[bool] = True

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Items are made durable while the next ones are computed."""
        with _Commits() as commits:
            for task in tasks:
                result = compute_item(task)
                if isinstance(result, Status):
                    yield result
                else:
                    commits.submit(task, result)
                while len(commits) > _AHEAD or commits.ready:
                    yield commits.next()
            while len(commits):
                yield commits.next()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class LocalProcesses:
    """Runs tasks on processes of this machine: a crash or a hang costs the item, not the run."""

    workers: int
    settings: Settings
    where: str = field(default="", init=False)
    local: ClassVar[bool] = True
    _children: ChildPool = field(default_factory=ChildPool, init=False)

    def __enter__(self) -> Self:
        self.where = f"{self.workers} local processes"
        self._children = ChildPool()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Few more than there are processes are taken ahead."""
        waiting = iter(tasks)
        computing: dict[Future[Any], Task] = {}
        with _Commits() as commits, ThreadPoolExecutor(self.workers, thread_name_prefix="item") as threads:
            try:
                while True:
                    while (
                        len(computing) < 2 * self.workers
                        and len(commits) < _AHEAD
                        and (task := next(waiting, None)) is not None
                    ):
                        future = threads.submit(self._children.compute, make_request(task))
                        computing[future] = task
                        future.add_done_callback(commits.ended.put)
                    if not (computing or len(commits)):
                        return
                    ended = commits.ended.get()
                    if ended not in computing:
                        yield commits.settle(ended)
                        continue
                    task, result = computing.pop(ended), ended.result()
                    if isinstance(result, Computed):
                        commits.submit(task, result)
                    else:
                        yield as_status(task, result)
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._children.close()
                raise


class _Commits:
    """Items on their way to their records; `ended` tells of those that have arrived there."""

    def __init__(self) -> None:
        self.ended: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
        self._committer = Committer()
        self._pending: dict[Future[Any], tuple[Task, Computed, float]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._committer.close()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def ready(self) -> bool:
        """Whether `next` returns at once."""
        return not self.ended.empty()

    def submit(self, task: Task, computed: Computed) -> None:
        """Hand an item to the committer."""
        future = self._committer.submit(task.store, computed.prepared)
        self._pending[future] = (task, computed, time.perf_counter())
        future.add_done_callback(self.ended.put)

    def next(self) -> Status:
        """The status of the next item that has its record; waits for it."""
        return self.settle(self.ended.get())

    def settle(self, future: Future[Any]) -> Status:
        """The status of an item that `ended` told of."""
        task, computed, began = self._pending.pop(future)
        return as_status(task, finished(computed, future, began))


def make_executor(workers: int, scheduler: str | None, settings: Settings, *, insecure: bool = False) -> Executor:
    """The executor for a command line: a cluster when a scheduler is named, else processes, else this process.

    `insecure` allows a scheduler on another machine without TLS, as the setting `run.trusted_network` does.
    """
    if scheduler:
        from .cluster import DaskCluster

        return DaskCluster(scheduler, settings, insecure=insecure)
    if workers > 0:
        return LocalProcesses(workers, settings)
    return InProcess()


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

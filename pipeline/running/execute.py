"""Runs a plan: in this process, on local processes, or on a Dask cluster.

Whatever runs it, an item is one call of `compute_item`: paths and settings go in, a small status comes out, pixels
never travel. An item that fails, crashes its process or takes too long costs itself alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Protocol, Self

from ...config import Settings
from .isolation import ChildPool, Loss, as_status, make_request
from .tasks import Status, Task, compute_item

__all__ = [
    "Executor",
    "InProcess",
    "LocalProcesses",
    "Status",
    "Task",
    "default_workers",
    "make_executor",
]


class Executor(Protocol):
    """Runs tasks and yields their statuses as they end, in any order."""

    where: str
    """What it runs on, in words, for people."""

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Tasks are taken from the iterable as they are needed."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


@dataclass
class InProcess:
    """Runs tasks one after the other in this process: for debugging.

    A crash of native code ends the whole run here, and limits of time and memory do not hold; local processes are
    safe from that.
    """

    where: str = "in this process"

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status."""
        yield from map(compute_item, tasks)

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
    _children: ChildPool = field(default_factory=ChildPool, init=False)

    def __enter__(self) -> Self:
        self.where = f"{self.workers} local processes"
        self._children = ChildPool()
        return self

    def __exit__(self, *_: object) -> None:
        self._children.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Few more than there are processes are taken ahead."""
        queue = iter(tasks)
        running: dict[Future[Status | Loss], Task] = {}
        with ThreadPoolExecutor(self.workers, thread_name_prefix="item") as threads:
            try:
                while True:
                    while len(running) < 2 * self.workers and (task := next(queue, None)) is not None:
                        running[threads.submit(self._children.compute, make_request(task))] = task
                    if not running:
                        return
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        yield as_status(running.pop(future), future.result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                self._children.close()
                raise


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

"""Runs a plan: in this process, on local processes, or on a Dask cluster.

Whatever runs it, an item is one call of `compute_item`: paths and settings go in, a small status comes out, pixels
never travel. An item that fails, crashes its process or takes too long costs itself alone.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self

from ..config import Settings
from ..errors import InputError, MumoError
from ..stores.records import Failure, Store, fingerprint
from .planning import Planned
from .stage import Stage

_TRANSIENT_WAIT_S = 0.5
_CONNECT_TIMEOUT_S = 10


@dataclass(frozen=True)
class Task:
    """What travels to a worker: the stage (no more than its name), the planned item, the settings, the store's path."""

    stage: Stage
    planned: Planned
    settings: Settings
    store: Store


@dataclass(frozen=True)
class Status:
    """What comes back."""

    stage: str
    item: str
    result: Literal["ok", "empty", "failed"]
    seconds: float
    message: str = ""
    warnings: tuple[str, ...] = ()


class Executor(Protocol):
    """Runs tasks and yields their statuses as they end, in any order."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def compute_item(task: Task) -> Status:
    """Compute one item and commit it, or record why it failed."""
    item, store = task.planned.item, task.store
    started = time.perf_counter()
    for attempt in range(1, task.settings.run.max_attempts + 1):
        staging = store.begin(item.stage, item.item)
        try:
            if task.planned.unusable:
                raise InputError(task.planned.unusable)
            outcome = task.stage.run(item, task.settings, store, staging)
            record = store.commit(
                item.stage,
                item.item,
                staging,
                depends=task.planned.depends,
                status=outcome.status,
                summary=outcome.summary,
                seconds=time.perf_counter() - started,
            )
            warnings = tuple(outcome.summary.get("warnings", ()))
            return Status(item.stage, item.item, record.status, record.seconds, warnings=warnings)
        except Exception as error:  # noqa: BLE001 - the one place where a failed item is recorded
            shutil.rmtree(staging, ignore_errors=True)
            if isinstance(error, OSError) and attempt < task.settings.run.max_attempts:
                time.sleep(_TRANSIENT_WAIT_S * 2**attempt)
                continue
            text = "" if isinstance(error, MumoError) else traceback.format_exc()
            return record_failure(task, type(error).__name__, str(error), time.perf_counter() - started, attempt, text)
    raise AssertionError("unreachable: the last attempt returns")


def record_failure(task: Task, error: str, message: str, seconds: float, attempts: int = 1, text: str = "") -> Status:
    """Write the failure of a task to the store and return its status."""
    item = task.planned.item
    mark = fingerprint(task.planned.depends)
    task.store.fail(Failure(item.stage, item.item, mark, error, message, attempts, text))
    return Status(item.stage, item.item, "failed", seconds, f"{error}: {message}")


def start_worker(threads: int) -> None:
    """Prepare a worker process: limit the threads of native libraries, and end when the parent has ended."""
    limit_threads(threads)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def limit_threads(threads: int) -> None:
    """Limit the threads of native libraries in this process; processes are the parallelism."""
    import SimpleITK as sitk
    import torch
    from threadpoolctl import threadpool_limits

    threadpool_limits(threads)
    torch.set_num_threads(threads)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


@dataclass
class InProcess:
    """Runs tasks one after the other in this process: for debugging, and where one process is enough.

    A crash of native code ends the whole run here; use local processes to be safe from that.
    """

    def run(self, tasks: Sequence[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status."""
        yield from map(compute_item, tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


@dataclass
class LocalProcesses:
    """Runs tasks on processes of this machine (pebble's pool): a crash or a hang costs the item, not the run."""

    workers: int
    settings: Settings
    _pool: Any = field(default=None, init=False)

    def __enter__(self) -> Self:
        import multiprocessing

        from pebble import ProcessPool

        self._pool = ProcessPool(
            max_workers=self.workers,
            initializer=start_worker,
            initargs=[self.settings.run.threads],
            context=multiprocessing.get_context("spawn"),
        )
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._pool.close()
        else:
            self._pool.stop()
        self._pool.join()

    def run(self, tasks: Sequence[Task]) -> Iterator[Status]:
        """Run every task through a rolling window; each yields exactly one status."""

        def submit(task: Task) -> Future[Status]:
            future: Future[Status] = self._pool.schedule(
                compute_item, args=[task], timeout=self.settings.run.item_timeout_s
            )
            return future

        yield from _rolling_window(tasks, submit, self.settings.run.window, _lost_in_pool)


@dataclass
class DaskCluster:
    """Runs tasks on an existing Dask cluster, given by its scheduler's address or scheduler file."""

    scheduler: str
    settings: Settings
    _client: Any = field(default=None, init=False)

    def __enter__(self) -> Self:
        from distributed import Client

        where = {"scheduler_file": self.scheduler} if self.scheduler.endswith(".json") else {"address": self.scheduler}
        try:
            self._client = Client(**where, timeout=_CONNECT_TIMEOUT_S)
        except OSError as error:
            raise MumoError(f"no Dask scheduler answers at {self.scheduler}: {error}; is it running?") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def run(self, tasks: Sequence[Task]) -> Iterator[Status]:
        """Run every task through a rolling window; each yields exactly one status."""
        from distributed import as_completed

        queue = iter(tasks)
        running: dict[Any, Task] = {}

        def submit(task: Task) -> Any:
            future = self._client.submit(compute_item, task, pure=False, retries=0)
            running[future] = task
            return future

        window = as_completed([submit(task) for _, task in zip(range(self.settings.run.window), queue, strict=False)])
        for future in window:
            task = running.pop(future)
            error = future.exception()
            if error is None:
                yield future.result()
            else:
                yield record_failure(task, type(error).__name__, "the worker was lost while computing this item", 0.0)
            following = next(queue, None)
            if following is not None:
                window.add(submit(following))


def make_executor(workers: int, scheduler: str | None, settings: Settings) -> Executor:
    """The executor for a command line: a cluster when a scheduler is named, else processes, else this process."""
    if scheduler:
        return DaskCluster(scheduler, settings)
    if workers > 0:
        return LocalProcesses(workers, settings)
    return InProcess()


def default_workers() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _rolling_window(
    tasks: Sequence[Task],
    submit: Callable[[Task], Future[Status]],
    window: int,
    lost: Callable[[Task, BaseException], Status],
) -> Iterator[Status]:
    queue = iter(tasks)
    running: dict[Future[Status], Task] = {}
    while True:
        while len(running) < window and (task := next(queue, None)) is not None:
            running[submit(task)] = task
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            error = future.exception()
            yield future.result() if error is None else lost(task, error)


def _lost_in_pool(task: Task, error: BaseException) -> Status:
    limit = task.settings.run.item_timeout_s
    if isinstance(error, TimeoutError):
        return record_failure(task, "Timeout", f"stopped after {limit:g} s (run.item_timeout_s)", limit)
    code = getattr(error, "exitcode", None)
    message = f"the process that computed it died with exit code {code}; the file may crash a native library"
    return record_failure(task, type(error).__name__, message if code is not None else str(error), 0.0)

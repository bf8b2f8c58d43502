"""One item of work as it travels: the task that goes to a worker, the status that comes back, and the work itself."""

from __future__ import annotations

import errno
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...config import Settings
from ...errors import InputError, MumoError, StoreError
from ...stores.records import Failure, Prepared, Store, fingerprint
from ..stage import Stage
from .planning import Planned

_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG})


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
    error: str = ""
    """Class of the error."""
    attempts: int = 1
    compute_s: float = 0.0
    """Of `seconds`: the stage's own work in the last attempt."""
    commit_s: float = 0.0
    """Of `seconds`: digests, upload or flush, and record."""
    peak_mb: float | None = None
    """Highest resident memory of the process while it computed the item; None where the system does not tell."""
    bytes: int = 0
    """Size of what was stored."""


@dataclass(frozen=True)
class Computed:
    """An item that was computed and still needs its record, from the process that may flush what was written."""

    prepared: Prepared
    status: Status
    """What can be said of it once it has its record."""


@dataclass(frozen=True)
class Loss:
    """An item whose process did not survive it, or that got no record; the driver records it as a failure."""

    error: str
    message: str
    seconds: float
    attempts: int
    traceback: str = ""
    peak_mb: float | None = None


def compute_item(task: Task, publisher: int | None = None) -> Computed | Status:
    """Compute one item up to its record, or record why it failed.

    `publisher` is the process of this machine that will publish it; this one when not given.
    """
    if not task.store.exists():
        raise StoreError(f"{task.store.path}: this worker does not see the store; is the folder shared with it?")
    started = time.perf_counter()
    limit = task.settings.run.max_attempts
    for attempt in range(1, limit + 1):
        try:
            return _attempt(task, started, attempt, publisher)
        except Exception as error:  # noqa: BLE001 - the one place where a failed item is recorded
            if is_transient(error) and attempt < limit:
                time.sleep(retry_wait_s(task.settings, attempt))
                continue
            text = "" if isinstance(error, MumoError) else traceback.format_exc()
            seconds = time.perf_counter() - started
            return record_failure(task, type(error).__name__, str(error), seconds, attempt, text, peak_memory_mb())
    raise AssertionError("unreachable: the last attempt returns")


def is_transient(error: Exception) -> bool:
    """Whether an error may pass by itself: input/output errors, but not files that are missing or disks that are full.

    Libraries' own errors that merely derive from OSError (an unreadable image) do not pass by themselves either.
    """
    if not isinstance(error, OSError) or type(error).__module__ not in ("builtins", "socket"):
        return False
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return not isinstance(error, lasting) and error.errno not in _LASTING


def retry_wait_s(settings: Settings, attempt: int) -> float:
    """Wait before the next attempt: doubled each time."""
    return float(settings.run.retry_wait_s) * 2.0 ** (attempt - 1)


def as_status(task: Task, result: Status | Loss) -> Status:
    """The status of a task; a loss becomes a recorded failure."""
    if isinstance(result, Status):
        return result
    return record_failure(
        task, result.error, result.message, result.seconds, result.attempts, result.traceback, result.peak_mb
    )


def record_failure(
    task: Task,
    error: str,
    message: str,
    seconds: float,
    attempts: int = 1,
    text: str = "",
    peak_mb: float | None = None,
) -> Status:
    """Write the failure of a task to the store and return its status; paths of sources reach neither."""
    item = task.planned.item
    message, text = _without_paths(task, message), _without_paths(task, text)
    mark = fingerprint(task.planned.depends)
    task.store.fail(Failure(item.stage, item.item, mark, error, message, attempts, text))
    return Status(
        item.stage,
        item.item,
        "failed",
        seconds,
        f"{error}: {message}",
        error=error,
        attempts=attempts,
        peak_mb=peak_mb,
    )


def peak_memory_mb() -> float | None:
    """Highest resident memory of this process since `_forget_peak`, MB; None where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1e3
    except OSError:
        pass
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # of the whole process: an upper bound
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _attempt(task: Task, started: float, attempt: int, publisher: int | None) -> Computed:
    item, store = task.planned.item, task.store
    if task.planned.unusable:
        raise InputError(task.planned.unusable)
    _forget_peak()
    staging = store.begin(item.stage, item.item)
    try:
        began = time.perf_counter()
        outcome = task.stage.run(item, task.settings, store, staging)
        computed = time.perf_counter()
        prepared = store.prepare(
            item.stage,
            item.item,
            staging,
            depends=task.planned.depends,
            status=outcome.status,
            summary=outcome.summary,
            seconds=computed - started,
            publisher=publisher,
        )
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    ended = time.perf_counter()
    status = Status(
        item.stage,
        item.item,
        outcome.status,
        ended - started,
        warnings=tuple(outcome.summary.get("warnings", ())),
        attempts=attempt,
        compute_s=computed - began,
        commit_s=ended - computed,
        peak_mb=peak_memory_mb(),
        bytes=prepared.record.bytes,
    )
    return Computed(prepared, status)


def _forget_peak() -> None:
    """Let the kernel measure the peak from here; elsewhere the peak of the whole process is reported."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _without_paths(task: Task, text: str) -> str:
    for source in sorted(task.planned.item.sources, key=lambda source: -len(str(source.path))):
        for path in (source.path, source.path.resolve()):
            text = text.replace(str(path), f"<{source.role}>").replace(str(path.parent), f"<folder of {source.role}>")
    return text

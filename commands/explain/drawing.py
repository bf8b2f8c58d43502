"""Patients' folders drawn side by side: the models explain one after another, processes draw what they explained."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ...errors import MumoError
from ...fusion.explain import Explained
from .lesions import LesionMap
from .patient import Drawing, Page, write_patient


@dataclass(frozen=True, eq=False)
class Job:
    """One patient to draw."""

    folder: Path
    explained: Explained
    lesions: list[LesionMap] | None
    """Grad-CAM; none without the backbone."""


def draw(jobs: Iterable[Job], drawing: Drawing, workers: int) -> Iterator[tuple[Job, Page]]:
    """Write the folder of every job, and yield its page, in the order of the jobs.

    Args:
        jobs: taken as they are needed, so memory is bounded by two a process.
        workers: processes; up to 1: in this process.

    Raises:
        MumoError: a patient cannot be drawn, or a process was killed.
    """
    if workers <= 1:
        for job in jobs:
            yield job, _draw(job, drawing)
        return
    with _processes(workers) as pool:
        waiting: deque[tuple[Job, Future[Page]]] = deque()
        for job in jobs:
            waiting.append((job, pool.submit(_draw, job, drawing)))
            while len(waiting) > 2 * workers or (waiting and waiting[0][1].done()):
                yield _next(waiting)
        while waiting:
            yield _next(waiting)


def _draw(job: Job, drawing: Drawing) -> Page:
    return write_patient(job.folder, job.explained, job.lesions, drawing)


def _next(waiting: deque[tuple[Job, Future[Page]]]) -> tuple[Job, Page]:
    job, future = waiting.popleft()
    try:
        return job, future.result()
    except BrokenProcessPool as error:
        raise MumoError(
            f"a process that drew patients was killed, near {job.explained.patient}, perhaps for want of memory; "
            "draw with fewer --workers"
        ) from error


@contextmanager
def _processes(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool that leaves Ctrl-C to this process and drops what has not begun when this process stops."""
    pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_leave_interrupts)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

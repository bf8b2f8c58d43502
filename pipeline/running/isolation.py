"""Items in a process of their own: a crash, a hang or a hunger for memory costs the item, never its worker.

One mechanism serves local runs and Dask workers alike: a plain child process and two pipes. Workers that are started
by a Dask nanny are daemonic and may not use multiprocessing, and pipes need none of it.
"""

from __future__ import annotations

import logging
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from typing import IO, Any

import psutil

from ...errors import MumoError
from ...stores.places import Place
from ...stores.records import Store
from .child import READY, read_frame, write_frame
from .tasks import Computed, Loss, Status, Task, retry_wait_s

_log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.1
_START_S = 300.0
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass(frozen=True)
class Request:
    """A task as a worker gets it: still packed, so that the worker itself imports no stage, with its limits beside."""

    payload: bytes
    stage: str
    item: str
    store: Place
    seconds: float
    memory_mb: float | None
    waits_s: tuple[float, ...]
    """Waits before a task is tried again whose process was ended from outside; as many as there are further tries."""
    threads: int


def make_request(task: Task) -> Request:
    """Pack a task."""
    run, item = task.settings.run, task.planned.item
    waits = tuple(retry_wait_s(task.settings, attempt) for attempt in range(1, run.max_attempts))
    return Request(
        pickle.dumps(task),
        item.stage,
        item.item,
        task.store.path,
        run.item_timeout_s,
        run.item_memory_mb,
        waits,
        run.threads,
    )


class ChildPool:
    """Children of this process, started when needed, each used by one thread at a time."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def compute(self, request: Request) -> Computed | Status | Loss:
        """Compute an item in a child, up to its record; a child that did not survive is replaced.

        Raises:
            MumoError: no child starts, or a child cannot even record a failure; that is no item's fault.
        """
        began = time.perf_counter()
        for attempt, wait_s in enumerate((*request.waits_s, None), 1):
            child = self._take(request.threads)
            try:
                result = child.compute(request)
            except _ChildLostError as lost:
                self._discard(child)
                Store(request.store).sweep_staging(request.stage, request.item)
                if lost.code in _FROM_OUTSIDE and wait_s is not None and not self._closed:
                    _log.warning("%s/%s: its process was killed; trying again", request.stage, request.item)
                    time.sleep(wait_s)
                    continue
                seconds = time.perf_counter() - began
                return Loss(lost.error, lost.message, seconds, attempt, lost.traceback, lost.peak_mb)
            self._give(child)
            if isinstance(result, Computed | Status):
                return result
            raise MumoError(f"{request.stage}/{request.item}: {result}")
        raise AssertionError("unreachable: the last attempt returns")

    def close(self) -> None:
        """End every child; those at work, too."""
        with self._lock:
            self._closed = True
            children = list(self._all)
            self._all.clear()
            self._idle.clear()
        for child in children:
            child.end()

    def _take(self, threads: int) -> _Child:
        with self._lock:
            if self._closed:
                raise MumoError("the run has been stopped")
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
                self._all.discard(child)
        child = _Child(threads)
        with self._lock:
            self._all.add(child)
        return child

    def _give(self, child: _Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)

    def _discard(self, child: _Child) -> None:
        with self._lock:
            self._all.discard(child)
        child.end()


class _ChildLostError(Exception):
    def __init__(self, error: str, message: str, code: int | None, traceback: str, peak_mb: float | None) -> None:
        super().__init__(message)
        self.error, self.message, self.code, self.traceback, self.peak_mb = error, message, code, traceback, peak_mb


class _Child:
    """The parent's end of one child process."""

    def __init__(self, threads: int) -> None:
        # The child finds every module that this process finds, and nothing in the working folder.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        environment |= dict.fromkeys(_THREAD_VARIABLES, str(threads))
        self._crash: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        crash = self._crash.fileno()
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-P", "-m", "mumo.pipeline.running.child", str(crash)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            pass_fds=(crash,),
        )
        self._peak_mb = 0.0
        try:
            ready = self._reply(time.monotonic() + _START_S, None, "")
        except _ChildLostError as lost:
            self.end()
            raise MumoError(f"no child process starts here: {lost.message}; is mumo installed?") from lost
        assert ready == READY

    @property
    def alive(self) -> bool:
        """Whether the process runs; an idle one may have ended itself."""
        return self._process.poll() is None

    def compute(self, request: Request) -> Any:
        """What the child says of the item: a Status, or an error."""
        assert self._process.stdin is not None
        self._peak_mb = 0.0
        try:
            write_frame(self._process.stdin, request.payload)
        except OSError as error:
            raise self._died() from error
        hint = f"stopped after {request.seconds:g} s (run.item_timeout_s)"
        return self._reply(time.monotonic() + request.seconds, request.memory_mb, hint)

    def end(self) -> None:
        """Kill the process and wait for it; closing twice is fine."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._crash):
            if stream is not None:
                try:
                    stream.close()
                except OSError:  # what was not written yet cannot be written any more
                    continue

    def _reply(self, deadline: float, memory_mb: float | None, hint: str) -> Any:
        stream = self._process.stdout
        assert stream is not None
        watched = psutil.Process(self._process.pid)
        while True:
            ready, _, _ = select.select([stream], [], [], _LOOK_EVERY_S)
            if ready:
                body = read_frame(stream)
                if body is None:
                    raise self._died()
                return pickle.loads(body)  # noqa: S301 - from our own child, over a private pipe
            self._look(watched, memory_mb)
            if time.monotonic() > deadline:
                self._process.kill()
                raise self._lost("Timeout", hint, None)

    def _look(self, watched: psutil.Process, memory_mb: float | None) -> None:
        try:
            used_mb = watched.memory_info().rss / 1e6
        except psutil.Error:
            return
        self._peak_mb = max(self._peak_mb, used_mb)
        if memory_mb is not None and used_mb > memory_mb:
            self._process.kill()
            raise self._lost(
                "MemoryLimit", f"used {used_mb:.0f} MB, more than {memory_mb:g} (run.item_memory_mb)", None
            )

    def _died(self) -> _ChildLostError:
        code = self._process.wait()
        if code >= 0:
            how = f"ended with exit code {code}"
        else:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        why = "memory may have run out" if code in _FROM_OUTSIDE else "the file may crash a native library"
        return self._lost("ProcessDied", f"the process that computed it {how}; {why}", code)

    def _lost(self, error: str, message: str, code: int | None) -> _ChildLostError:
        self._process.wait()
        self._crash.seek(0)
        text = self._crash.read(100_000).decode(errors="replace")
        return _ChildLostError(error, message, code, text, self._peak_mb or None)

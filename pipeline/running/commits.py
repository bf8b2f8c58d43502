"""Group commit: items that are computed while others are being made durable share the next flush.

A flush of the disk takes milliseconds however much it has to write, so the records of many small items cost little
more than that of one. It runs in the process that started the computing ones, on the same machine: what they wrote is
in this machine's memory until it is flushed from here. See `stores/records.py` for why that is safe.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Self

from ...stores.records import Prepared, Record, Store
from .tasks import Computed, Loss, Status

_GROUP = 256


@dataclass
class Committer:
    """Publishes prepared items in groups, on a thread of its own; a context manager that leaves nothing behind."""

    _inbox: queue.SimpleQueue[tuple[Store, Prepared, Future[Record]] | None] = field(
        default_factory=queue.SimpleQueue, init=False
    )
    _thread: threading.Thread | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, store: Store, prepared: Prepared) -> Future[Record]:
        """The record, once its item is durable and the record is written."""
        future: Future[Record] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="commits", daemon=True)
                self._thread.start()
            self._inbox.put((store, prepared, future))
        return future

    def close(self) -> None:
        """Publish what was submitted and make the last records durable; further items start anew."""
        with self._lock:
            if self._thread is not None:
                self._inbox.put(None)
                self._thread.join()
                self._thread = None

    def _work(self) -> None:
        stores: set[Store] = set()
        going = True
        while going:
            group = [self._inbox.get()]
            while group[-1] is not None and len(group) < _GROUP:
                try:
                    group.append(self._inbox.get_nowait())
                except queue.Empty:
                    break
            going = group[-1] is not None
            members = [member for member in group if member is not None]
            for store in {store for store, _, _ in members}:
                stores.add(store)
                _publish(store, [(prepared, future) for where, prepared, future in members if where == store])
        for store in stores:
            store.flush()


def finished(computed: Computed, future: Future[Record], began: float) -> Status | Loss:
    """What became of an item whose `future` has ended; `began` is when it was submitted (time.perf_counter)."""
    status, seconds = computed.status, time.perf_counter() - began
    error = future.exception()
    if error is not None:
        return Loss(type(error).__name__, str(error), status.seconds + seconds, status.attempts)
    return replace(status, seconds=status.seconds + seconds, commit_s=status.commit_s + seconds)


def _publish(store: Store, members: list[tuple[Prepared, Future[Record]]]) -> None:
    try:
        results = store.publish([prepared for prepared, _ in members])
    except Exception as error:  # noqa: BLE001 - every item of the group learns of it
        results = [error] * len(members)
    for (_, future), result in zip(members, results, strict=True):
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

"""`python -m mumo.pipeline.running.child`: the process that computes items, one after the other, beside its worker.

Requests and replies are pickles, each after its length in 8 bytes, on the pipes that were standard input and output;
both ends are mumo, started by one user. Whatever native code prints goes to standard error. See `isolation.py` for
the other end.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from pathlib import Path
from typing import IO, Any

IDLE_S = 900.0
"""A child without work for so long ends itself; its driver may have been killed."""
READY = "ready"
_LENGTH = struct.Struct(">Q")


def main(crash_file: int) -> None:
    """Compute what is asked for until the other end closes; `crash_file` is an open file for the place of a crash."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(file=crash_file)
    _be_the_first_victim()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = os.fdopen(os.dup(0), "rb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, inbox), daemon=True).start()
    write_frame(replies, pickle.dumps(READY))
    while True:
        try:
            payload = inbox.get(timeout=IDLE_S)
        except queue.Empty:
            return
        write_frame(replies, pickle.dumps(_compute(payload, parent)))


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame, or none when the other end is gone."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def write_frame(stream: IO[bytes], body: bytes) -> None:
    """Write one frame."""
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _compute(payload: bytes, parent: int) -> Any:
    """What `compute_item` says, or the error that kept even the failure from being recorded."""
    try:
        from .tasks import Task, compute_item

        task: Task = pickle.loads(payload)  # noqa: S301 - from our own parent, over a private pipe
        # Native code that holds the interpreter keeps this process from seeing that its parent is gone.
        faulthandler.dump_traceback_later(task.settings.run.item_timeout_s + 60, exit=True)
        try:
            return compute_item(task, publisher=parent)
        finally:
            faulthandler.cancel_dump_traceback_later()
    except Exception as error:  # noqa: BLE001 - travels to the parent, which reports it
        return RuntimeError(f"{type(error).__name__}: {error}")


def _read_requests(requests: IO[bytes], inbox: queue.SimpleQueue[bytes]) -> None:
    while (body := read_frame(requests)) is not None:
        inbox.put(body)
    os._exit(0)  # the parent has closed or died: nobody waits for what is being computed


def _be_the_first_victim() -> None:
    """Where memory runs out, the kernel shall end this process rather than the driver, the worker or the scheduler."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    except OSError:
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""Which process made a file, and whether that process still lives; for sweeping and for leases."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import socket
import uuid
from pathlib import Path

import psutil

_NAME = re.compile(r"([0-9a-f]{8})-(\d+)-[0-9a-f]{8}")


def new_owner_name(process: int | None = None) -> str:
    """A name that no other call gives, and that tells machine and process: `<machine>-<pid>-<random>`.

    The process is this one, or another of this machine that answers for what gets the name.
    """
    return f"{_machine()}-{process or os.getpid()}-{uuid.uuid4().hex[:8]}"


def owner_state(name: str) -> bool | None:
    """Whether the process behind a name lives; None when it ran on another machine, which cannot be asked."""
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    return psutil.pid_exists(int(match[2])) if match[1] == _machine() else None


@functools.cache
def _machine() -> str:
    """Eight hex digits for this machine as far as process ids mean the same: host, boot and container."""
    facts = [socket.gethostname()]
    try:
        facts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        facts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:  # not Linux
        facts.append(f"{psutil.boot_time():.0f}")
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:8]

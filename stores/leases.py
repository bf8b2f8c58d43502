"""Leases: which driver computes an item, so that two drivers on one store share the work.

A lease is a file that its taker creates exclusively, touches while it works, and removes. Where the taker has died
(same machine) or has not touched it for the time of expiry (another machine), it is void and may be taken over.
Leases save work; they do not guard content: commits of one item at once are safe without them.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from .owners import new_owner_name, owner_state
from .records import Store

_BEATS_PER_EXPIRY = 6


@dataclass
class Leases:
    """The leases that this driver holds; a context manager that keeps them alive."""

    store: Store
    expiry_s: float
    """A lease that was not touched for so long is void."""
    _owner: str = field(default_factory=new_owner_name, init=False)
    _held: set[Path] = field(default_factory=set, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for file in list(self._held):
            self._release(file)

    def take(self, stage: str, item: str) -> bool:
        """Take the lease of an item; false when another living driver has it."""
        file = self.store.path / stage / "leases" / item
        for _ in range(2):
            if self._create(file):
                self._held.add(file)
                return True
            if not self._make_way(file):
                return False
        return False

    def release(self, stage: str, item: str) -> None:
        """Give back the lease of an item; one that was taken over in the meantime stays with its new owner."""
        self._release(self.store.path / stage / "leases" / item)

    def sweep(self, stage: str) -> None:
        """Remove void leases, and what dead takers left beside them."""
        folder = self.store.path / stage / "leases"
        for file in sorted(folder.iterdir()) if folder.exists() else ():
            if not file.name.startswith("."):
                self._make_way(file)
            elif owner_state(file.name.rpartition("~")[2]) is False:
                file.unlink(missing_ok=True)

    def _create(self, file: Path) -> bool:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(self._owner)
        return True

    def _make_way(self, file: Path) -> bool:
        """Remove a void lease. Whether it is worth trying to create it again."""
        owner = _read_owner(file)
        if owner is None:
            return True
        if not self._is_void(file, owner):
            return False
        # A rename succeeds for one taker only; what it moved is looked at again, for it may be newer than judged.
        aside = file.with_name(f".aside~{new_owner_name()}")
        try:
            file.rename(aside)
        except FileNotFoundError:
            return True
        try:
            if _read_owner(aside) != owner:
                os.link(aside, file)
                return False
        except FileExistsError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        return True

    def _is_void(self, file: Path, owner: str) -> bool:
        alive = owner_state(owner) if owner else None
        if alive is not None:
            return not alive
        probe = file.with_name(f".clock~{new_owner_name()}")
        probe.touch()  # the file system's own clock, which other machines' touches are measured by too
        try:
            return probe.stat().st_mtime - file.stat().st_mtime > self.expiry_s
        except FileNotFoundError:
            return True
        finally:
            probe.unlink(missing_ok=True)

    def _release(self, file: Path) -> None:
        self._held.discard(file)
        if _read_owner(file) == self._owner:
            file.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.expiry_s / _BEATS_PER_EXPIRY):
            for file in list(self._held):
                try:
                    os.utime(file)
                except OSError:  # taken over, or the disk hiccuped; the next beat tries again
                    continue


def _read_owner(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii")
    except FileNotFoundError:
        return None

"""Leases: which driver computes an item, so that two drivers on one store share the work.

A lease is a file that its taker creates exclusively and removes; it names the taker. Each driver rewrites a file of its
own, its sign of life, as long as it works. The lease of a driver that has died (same machine), or that gave no sign
for the time of expiry (another machine), is void. Who wants it over creates a claim exclusively, so that of several one
gets it. All this works the same on a disk and on an object store, and times are compared on the storage's own clock.
Leases save work; they do not guard content: commits of one item at once are safe without them.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from .owners import new_owner_name, owner_state
from .places import Place
from .records import Store

_log = logging.getLogger(__name__)
_BEATS_PER_EXPIRY = 6
_CLAIM = ".claim~"


@dataclass
class Leases:
    """The leases that this driver holds; a context manager that keeps them alive."""

    store: Store
    expiry_s: float
    """The leases of a driver that gave no sign for so long are void."""
    _owner: str = field(default_factory=new_owner_name, init=False)
    _held: set[Place] = field(default_factory=set, init=False)
    _living: dict[str, float] = field(default_factory=dict, init=False)
    """Drivers of other machines → when this one last saw that they live, by its monotonic clock."""
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        files, sign = self.store.files, self._sign(self._owner)
        files.create(sign, self._owner.encode())
        if files.create(sign, self._owner.encode()):
            _log.warning(
                "%s: this storage does not know exclusive creation; do not let two runs work on it at once, they may "
                "compute items twice",
                self.store.path,
            )
        self._thread = threading.Thread(target=self._beat, name="leases", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for file in list(self._held):
            self._release(file)
        self.store.files.remove(self._sign(self._owner))

    def now(self) -> float:
        """The time on the storage's clock, seconds since 1970."""
        self._give_sign()
        return self.store.files.modified(self._sign(self._owner)) or time.time()

    def take(self, stage: str, item: str) -> bool:
        """Take the lease of an item; false when another living driver has it."""
        file = self._file(stage, item)
        for _ in range(2):
            if self._create(file):
                self._held.add(file)
                return True
            owner = self._read(file)
            if owner is not None:
                return self._is_void(owner, file) and self._take_over(file, owner)
        return False

    def release(self, stage: str, item: str) -> None:
        """Give back the lease of an item; one that was taken over in the meantime stays with its new owner."""
        self._release(self._file(stage, item))

    def sweep(self, stage: str) -> None:
        """Remove void leases, and what dead drivers left beside them."""
        files, folder = self.store.files, self.store.path / stage / "leases"
        for name in files.names(folder):
            file = folder / name
            owner = self._read(file)
            if owner is None or not self._is_void(owner, file):
                continue
            if name.startswith(_CLAIM):
                files.remove(file)
            elif self._take_over(file, owner):
                self._release(file)
        for name in files.names(self.store.path / "drivers"):
            # A name with a dot is a sign that is being written, or that its driver did not live to rename.
            void = owner_state(name.rpartition(".")[2]) is False if name.startswith(".") else self._is_void(name)
            if name != self._owner and void:
                files.remove(self._sign(name))

    def _file(self, stage: str, item: str) -> Place:
        return self.store.path / stage / "leases" / item

    def _sign(self, owner: str) -> Place:
        return self.store.path / "drivers" / owner

    def _give_sign(self) -> None:
        self.store.files.write(self._sign(self._owner), self._owner.encode())

    def _create(self, file: Place) -> bool:
        """Whether the file is this driver's; also where its creation succeeded and the answer was lost on the way."""
        return self.store.files.create(file, self._owner.encode()) or self._read(file) == self._owner

    def _take_over(self, file: Place, owner: str) -> bool:
        """Put this driver into the place of `owner`, whose lease is void; false when that did not work out now."""
        files, claim = self.store.files, file.with_name(f"{_CLAIM}{file.name}~{owner or 'nobody'}")
        if not self._create(claim):
            other = self._read(claim)
            if other is not None and self._is_void(other, claim):
                files.remove(claim)
            return False
        try:
            # Looked at again: another driver may have taken it over, and ended its claim, in the meantime.
            if self._read(file) != owner:
                return False
            files.write(file, self._owner.encode())
            self._held.add(file)
            return True
        finally:
            files.remove(claim)

    def _is_void(self, owner: str, file: Place | None = None) -> bool:
        """Whether a lease or claim of `owner` no longer holds; a `file` without content is judged by its own age."""
        alive = owner_state(owner) if owner else None
        if alive is not None:
            return not alive
        seen = self._living.get(owner)
        if owner and seen is not None and time.monotonic() - seen < self.expiry_s / _BEATS_PER_EXPIRY:
            return False
        last = self.store.files.modified(file if file is not None and not owner else self._sign(owner))
        if last is None or self.now() - last > self.expiry_s:
            return True
        self._living[owner] = time.monotonic()
        return False

    def _read(self, file: Place) -> str | None:
        data = self.store.files.read(file)
        return None if data is None else data.decode(errors="replace")

    def _release(self, file: Place) -> None:
        self._held.discard(file)
        if self._read(file) == self._owner:
            self.store.files.remove(file)

    def _beat(self) -> None:
        while not self._stop.wait(self.expiry_s / _BEATS_PER_EXPIRY):
            try:
                self._give_sign()
            except OSError as error:  # the storage hiccuped; the next beat tries again
                _log.debug("no sign of life could be given: %s", error)

"""The storage layer on object stores, through fsspec: there is no rename, no folder and no lock.

An item's files are uploaded under a prefix that nobody else ever writes; the record, written last, is what counts. A
small object in `staging/` says while that goes on which prefix may be left over, so that a sweep looks at unfinished
work alone and not at a million objects. Exclusive creation is a conditional put (`If-None-Match: *`).

Unfinished work lies in a private folder among this machine's temporary files until it is uploaded.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import FOREIGN_AGE_S, Current
from .owners import new_owner_name, owner_state

if TYPE_CHECKING:
    from upath import UPath

_log = logging.getLogger(__name__)
_SCRATCH = "mumo-scratch~"
_OLD = "~old"
_IN_ONE = {"start": 0}
"""Small objects are asked for by a range, which spares the question how large they are: one request, not two."""
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)
"""Beyond the few attempts within seconds that the libraries make themselves."""


@dataclass(frozen=True)
class ObjectFiles:
    """An object store that fsspec knows."""

    patient: bool = True
    """Whether to wait and try again when the network or the server is away for a while."""

    def read(self, place: UPath) -> bytes | None:
        """One object."""
        try:
            data: bytes = self._ask(lambda: place.fs.cat_file(place.path, **_IN_ONE))
            return data
        except FileNotFoundError:
            return None

    def read_all(self, folder: UPath, suffix: str) -> dict[str, bytes]:
        """All objects of a folder, many at a time."""
        names = [name for name in self.names(folder) if name.endswith(suffix) and not name.startswith(".")]
        paths = {(folder / name).path: name.removesuffix(suffix) for name in names}
        contents: dict[str, Any] = self._ask(lambda: _cat(folder, list(paths))) if paths else {}
        return {paths[path]: data for path, data in sorted(contents.items()) if isinstance(data, bytes)}

    def write(self, place: UPath, data: bytes) -> None:
        """One put, which replaces the object as a whole."""
        self._ask(lambda: place.fs.pipe_file(place.path, data))

    def create(self, place: UPath, data: bytes) -> bool:
        """A conditional put."""
        try:
            self._ask(lambda: place.fs.pipe_file(place.path, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, place: UPath) -> None:
        """Remove an object."""
        with suppress(FileNotFoundError):
            self._ask(lambda: place.fs.rm_file(place.path))

    def remove_folder(self, folder: UPath) -> None:
        """Remove all objects under a prefix."""
        with suppress(FileNotFoundError):
            self._ask(lambda: folder.fs.rm(folder.path, recursive=True))

    def names(self, folder: UPath) -> list[str]:
        """Names under a prefix up to the next slash."""
        try:
            paths: list[str] = self._ask(lambda: folder.fs.ls(folder.path, detail=False))
        except FileNotFoundError:
            return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def modified(self, place: UPath) -> float | None:
        """On the clock of the server, which counts whole seconds."""
        try:
            return float(self._ask(lambda: place.fs.modified(place.path)).timestamp())
        except FileNotFoundError:
            return None

    def size(self, folder: UPath) -> int:
        """Bytes of all objects under a prefix."""
        found = self._ask(lambda: folder.fs.find(folder.path, detail=True))
        return int(sum(entry["size"] for entry in found.values()))

    def room(self, folder: UPath) -> float:
        """No limit is known."""
        return math.inf

    def begin(self, mark: UPath) -> Path:
        """A private folder among the temporary files."""
        return _scratch()

    def hand_in(self, staging: Path, mark: UPath, target: UPath) -> None:
        """Say what is under way, and upload it. The libraries send checksums that the server compares."""
        self.write(mark, target.name.encode())
        self.keep(staging, target)
        shutil.rmtree(staging, ignore_errors=True)

    def settle(self, staging: Path, mark: UPath, target: UPath) -> None:
        """Nothing: it was uploaded under its last name."""

    def forget(self, mark: UPath) -> None:
        """Remove the mark."""
        self.remove(mark)

    def replace(self, mark: UPath, old: UPath) -> None:
        """A mark for the old prefix."""
        self.write(mark.with_name(f"{mark.name}{_OLD}"), old.name.encode())

    def discard(self, mark: UPath, old: UPath) -> None:
        """Remove the old prefix and its mark."""
        self.remove_folder(old)
        self.remove(mark.with_name(f"{mark.name}{_OLD}"))

    def flush(self, folders: Sequence[UPath]) -> None:
        """Nothing: a put that has been answered is durable."""

    def sweep(self, stage: UPath, item: str, current: Current, *, staging_only: bool) -> int:
        """Prefixes that a mark of a dead process names and no record does; and folders that it left on this machine."""
        _sweep_scratch()
        swept = 0
        for name in self.names(stage / "staging"):
            of_item, _, owner = name.removesuffix(_OLD).partition("~")
            mark = stage / "staging" / name
            if (item not in ("*", of_item)) or not self._is_abandoned(mark, owner):
                continue
            folder = (self.read(mark) or b"").decode()
            if folder and folder != current(of_item):
                self.remove_folder(stage / "items" / of_item / folder)
                swept += 1
            self.remove(mark)
        return swept

    def workspace(self, place: UPath) -> Path:
        """A private folder among the temporary files."""
        return _scratch()

    def keep(self, workspace: Path, place: UPath) -> None:
        """Upload all files, many at a time."""
        files = sorted(file for file in workspace.rglob("*") if file.is_file())
        targets = [(place / file.relative_to(workspace).as_posix()).path for file in files]
        if files:
            self._ask(lambda: place.fs.put([str(file) for file in files], targets))

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The storage's answer, in the end; each of these questions may be put again."""
        for wait_s in (*(_WAITS_S if self.patient else ()), None):
            try:
                return question()
            except Exception as error:
                own = _as_own(error)
                if wait_s is None or not isinstance(own, ConnectionError | TimeoutError):
                    raise own from error
                _log.warning("the object store does not answer (%s); trying again in %g s", own, wait_s)
                time.sleep(wait_s)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _is_abandoned(self, mark: UPath, owner: str) -> bool:
        alive = owner_state(owner)
        if alive is not None:
            return not alive
        written = self.modified(mark)
        return written is not None and time.time() - written > FOREIGN_AGE_S


def _cat(folder: UPath, paths: list[str]) -> dict[str, Any]:
    """Contents by path; the error in place of one that is not there."""
    contents: dict[str, Any] = folder.fs.cat(paths, on_error="return", **_IN_ONE)
    for content in contents.values():
        if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
            raise content
    return contents


def _as_own(error: Exception) -> Exception:
    """Errors of the storage's library that are no OSErrors, as Python's own: no right, or no connection."""
    if isinstance(error, OSError):
        return error
    kind = PermissionError if "Credential" in type(error).__name__ else ConnectionError
    return kind(f"{type(error).__name__}: {error}")


def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{new_owner_name()}~"))


def _sweep_scratch() -> None:
    """Remove the folders among the temporary files that dead processes of this user left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*"):
        try:
            own = folder.lstat().st_uid == os.getuid() if hasattr(os, "getuid") else True
        except FileNotFoundError:
            continue
        if own and owner_state(folder.name.split("~")[1]) is False:
            shutil.rmtree(folder, ignore_errors=True)

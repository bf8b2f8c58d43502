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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import FOREIGN_AGE_S, Current
from .owners import new_owner_name, owner_state

if TYPE_CHECKING:
    from upath import UPath

_log = logging.getLogger(__name__)
_SCRATCH = "mumo-scratch~"
_OLD = "~old"


class ObjectFiles:
    """An object store that fsspec knows."""

    def read(self, place: UPath) -> bytes | None:
        """One object."""
        with _own_errors():
            try:
                data: bytes = place.fs.cat_file(place.path)
                return data
            except FileNotFoundError:
                return None

    def read_all(self, folder: UPath, suffix: str) -> dict[str, bytes]:
        """All objects of a folder, many at a time."""
        names = [name for name in self.names(folder) if name.endswith(suffix) and not name.startswith(".")]
        if not names:
            return {}
        with _own_errors():
            paths = {(folder / name).path: name.removesuffix(suffix) for name in names}
            contents: dict[str, Any] = folder.fs.cat(list(paths), on_error="return")
            for content in contents.values():
                if isinstance(content, Exception) and not isinstance(content, FileNotFoundError):
                    raise content
        return {paths[path]: data for path, data in sorted(contents.items()) if isinstance(data, bytes)}

    def write(self, place: UPath, data: bytes) -> None:
        """One put, which replaces the object as a whole."""
        with _own_errors():
            place.fs.pipe_file(place.path, data)

    def create(self, place: UPath, data: bytes) -> bool:
        """A conditional put."""
        with _own_errors():
            try:
                place.fs.pipe_file(place.path, data, mode="create")
            except FileExistsError:
                return False
            return True

    def remove(self, place: UPath) -> None:
        """Remove an object."""
        with _own_errors():
            try:
                place.fs.rm_file(place.path)
            except FileNotFoundError:
                return

    def remove_folder(self, folder: UPath) -> None:
        """Remove all objects under a prefix."""
        with _own_errors():
            try:
                folder.fs.rm(folder.path, recursive=True)
            except FileNotFoundError:
                return

    def names(self, folder: UPath) -> list[str]:
        """Names under a prefix up to the next slash."""
        with _own_errors():
            try:
                paths: list[str] = folder.fs.ls(folder.path, detail=False)
            except FileNotFoundError:
                return []
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def modified(self, place: UPath) -> float | None:
        """On the clock of the server, which counts whole seconds."""
        with _own_errors():
            try:
                return float(place.fs.modified(place.path).timestamp())
            except FileNotFoundError:
                return None

    def size(self, folder: UPath) -> int:
        """Bytes of all objects under a prefix."""
        with _own_errors():
            return int(sum(entry["size"] for entry in folder.fs.find(folder.path, detail=True).values()))

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
        if files:
            with _own_errors():
                targets = [(place / file.relative_to(workspace).as_posix()).path for file in files]
                place.fs.put([str(file) for file in files], targets)

    def _is_abandoned(self, mark: UPath, owner: str) -> bool:
        alive = owner_state(owner)
        if alive is not None:
            return not alive
        written = self.modified(mark)
        return written is not None and time.time() - written > FOREIGN_AGE_S


@contextmanager
def _own_errors() -> Iterator[None]:
    """Errors of the storage's library that are no OSErrors (no connection, no credentials) as Python's own."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


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

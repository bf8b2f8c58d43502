"""The storage layer: what stores, leases and ledgers ask of a file system, and how a local or shared disk answers.

`objects.py` answers for object stores. Everything above this layer is the same for both.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from .flush import flush
from .owners import new_owner_name, owner_state
from .places import Place

FOREIGN_AGE_S = 7 * 86_400.0
"""A leftover of another machine is swept when it is older; longer than any item takes."""

Current = Callable[[str], str | None]
"""Item → the folder that its record names, or none."""


class Files(Protocol):
    """Small files that are replaced as a whole, and folders that are written once and then stand still.

    Errors that may pass by themselves are OSErrors of Python's own.
    """

    def read(self, place: Any) -> bytes | None:
        """Content of a file, or none when there is no such file."""
        ...

    def read_all(self, folder: Any, suffix: str) -> dict[str, bytes]:
        """Contents of a folder's files by name without `suffix`, sorted; those that vanish meanwhile are left out."""
        ...

    def write(self, place: Any, data: bytes) -> None:
        """Write or replace a file; readers see the old content or the new. Durable after the next `flush`."""
        ...

    def create(self, place: Any, data: bytes) -> bool:
        """Write a file that must not exist; false when it does. Of several at once, one succeeds."""
        ...

    def remove(self, place: Any) -> None:
        """Remove a file; nothing when there is none."""
        ...

    def remove_folder(self, folder: Any) -> None:
        """Remove a folder and what is in it; nothing when there is none."""
        ...

    def names(self, folder: Any) -> list[str]:
        """Names of what lies in a folder, sorted; none when there is no such folder."""
        ...

    def modified(self, place: Any) -> float | None:
        """When a file was last written, seconds since 1970 on the storage's own clock; none when it is not there."""
        ...

    def size(self, folder: Any) -> int:
        """Bytes of all files under a folder."""
        ...

    def room(self, folder: Any) -> float:
        """Free bytes where the folder lies or will lie; infinite where nobody knows of a limit."""
        ...

    def begin(self, mark: Any) -> Path:
        """A new, empty local folder for unfinished work; `mark` is its place in the store."""
        ...

    def hand_in(self, staging: Path, mark: Any, target: Any) -> None:
        """First half of a commit, by the process that computed: what takes long and can be done by many at once."""
        ...

    def settle(self, staging: Path, mark: Any, target: Any) -> None:
        """Second half, before the record is written: afterwards `target` is whole. Durable after the next `flush`."""
        ...

    def forget(self, mark: Any) -> None:
        """Called once the record is written: the work is not unfinished any more."""
        ...

    def replace(self, mark: Any, old: Any) -> None:
        """Note before a record is replaced that the folder `old` will have to go."""
        ...

    def discard(self, mark: Any, old: Any) -> None:
        """Remove what was replaced; called once the new record is durable."""
        ...

    def flush(self, folders: Sequence[Any]) -> None:
        """Make durable what was written, these folders in any case."""
        ...

    def sweep(self, stage: Any, item: str, current: Current, *, staging_only: bool) -> int:
        """Remove what dead processes left of an item (`*`: of all), never what a living one works on."""
        ...

    def workspace(self, place: Any) -> Path:
        """A new local folder whose files shall come to lie in `place`, see `keep`."""
        ...

    def keep(self, workspace: Path, place: Any) -> None:
        """Bring the files of a workspace to their place."""
        ...


def files_of(place: Place, *, patient: bool = True) -> Files:
    """What answers for a place; `patient`: for minutes where the network is away, see `ObjectFiles`."""
    if isinstance(place, Path):
        return LocalFiles()
    from .objects import ObjectFiles

    return ObjectFiles(patient)


class LocalFiles:
    """A disk of this machine, or one that machines share. Unfinished work lies in the store and is moved at the end."""

    def read(self, place: Path) -> bytes | None:
        """Content of a file, or none."""
        try:
            return place.read_bytes()
        except FileNotFoundError:
            return None

    def read_all(self, folder: Path, suffix: str) -> dict[str, bytes]:
        """Contents of a folder's files by name without `suffix`."""
        names = [name for name in self.names(folder) if name.endswith(suffix) and not name.startswith(".")]
        contents = ((name.removesuffix(suffix), self.read(folder / name)) for name in names)
        return {name: data for name, data in contents if data is not None}

    def write(self, place: Path, data: bytes) -> None:
        """Written aside and renamed."""
        temporary = place.with_name(f".{place.name}.{new_owner_name()}")
        try:
            temporary.write_bytes(data)
        except FileNotFoundError:
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
        temporary.rename(place)

    def create(self, place: Path, data: bytes) -> bool:
        """Exclusive creation; for a moment the file is there without its content."""
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        return True

    def remove(self, place: Path) -> None:
        """Remove a file."""
        place.unlink(missing_ok=True)

    def remove_folder(self, folder: Path) -> None:
        """Remove a folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def names(self, folder: Path) -> list[str]:
        """Names in a folder."""
        try:
            return sorted(entry.name for entry in os.scandir(folder))
        except FileNotFoundError:
            return []

    def modified(self, place: Path) -> float | None:
        """Time of the last change, on the clock of the file system."""
        try:
            return place.stat().st_mtime
        except FileNotFoundError:
            return None

    def size(self, folder: Path) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def room(self, folder: Path) -> float:
        """Free bytes of the disk."""
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def begin(self, mark: Path) -> Path:
        """The folder is its own mark."""
        mark.mkdir(parents=True)
        return mark

    def hand_in(self, staging: Path, mark: Path, target: Path) -> None:
        """Nothing: moving is done at the end."""

    def settle(self, staging: Path, mark: Path, target: Path) -> None:
        """Move the folder."""
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)

    def forget(self, mark: Path) -> None:
        """Nothing: the mark was moved."""

    def replace(self, mark: Path, old: Path) -> None:
        """Nothing: the sweep sees every folder."""

    def discard(self, mark: Path, old: Path) -> None:
        """Remove the folder."""
        self.remove_folder(old)

    def flush(self, folders: Sequence[Path]) -> None:
        """See `flush.flush`."""
        flush(folders)

    def sweep(self, stage: Path, item: str, current: Current, *, staging_only: bool) -> int:
        """Abandoned staging folders, and abandoned folders of items that no record names."""
        swept = 0
        for folder in (stage / "staging").glob(f"{item}~*"):
            if _is_abandoned(folder, folder.name.rpartition("~")[2]):
                self.remove_folder(folder)
                swept += 1
        if staging_only:
            return swept
        for kind in ("records", "failures"):
            self._sweep_half_written(stage / kind)
        for name in self.names(stage / "items"):
            of_record = current(name)
            for folder in (stage / "items" / name).iterdir():
                # Looked at again at the end: another driver may have committed it in the meantime.
                if folder.name != of_record and _is_abandoned(folder, folder.name) and folder.name != current(name):
                    self.remove_folder(folder)
                    swept += 1
        return swept

    def _sweep_half_written(self, folder: Path) -> None:
        """Files that a dead process has written aside and not renamed any more."""
        for name in self.names(folder):
            if name.startswith(".") and owner_state(name.rpartition(".")[2]) is False:
                self.remove(folder / name)

    def workspace(self, place: Path) -> Path:
        """The place itself."""
        place.mkdir(parents=True)
        return place

    def keep(self, workspace: Path, place: Path) -> None:
        """Nothing: they are there."""


def _is_abandoned(folder: Path, owner: str) -> bool:
    alive = owner_state(owner)
    if alive is not None:
        return not alive
    try:
        return time.time() - folder.stat().st_mtime > FOREIGN_AGE_S
    except FileNotFoundError:
        return False

"""The commit protocol: an item exists for readers when, and only when, its completion record does.

An item is computed in a staging folder, flushed, moved to a folder of its own that nobody else ever writes, and only
then gets its record, which names that folder, everything that the item depends on and the digest of each part. The
record is written aside and renamed, so readers see the old content or the new, never a mixture, also when two
processes commit one item at once. A process killed at any line leaves at worst a folder that no record names; it
does not count as done, and a later run sweeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import StoreError
from .owners import new_owner_name, owner_state
from .specs import FORMAT_VERSION

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOREIGN_AGE_S = 7 * 86_400.0
"""A leftover of another machine is swept when it is older; longer than any item takes."""


def is_safe_id(text: str) -> bool:
    """Whether an id may become a file name: letters, digits, `.`, `_`, `-`; at most 100; no leading dot or dash."""
    return _ID.fullmatch(text) is not None and not text.endswith(".")


def fingerprint(depends: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a JSON-able mapping in canonical form: sorted keys, no blanks."""
    text = json.dumps(depends, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def changes(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted names of the values that differ between two nested mappings, in order."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = []
        for key in sorted({*old, *new}):
            names += changes(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        return names
    return [] if old == new else [prefix]


def digest_part(path: Path) -> str:
    """BLAKE2b-128 (hex) of a file, or of a folder's relative names and contents in sorted order."""
    digest = hashlib.blake2b(digest_size=16)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(f"{name}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Record:
    """Completion record of one item; see `specs.record_fields` for the meaning of the fields."""

    stage: str
    item: str
    status: Literal["ok", "empty"]
    fingerprint: str
    depends: dict[str, Any]
    parts: dict[str, str]
    summary: dict[str, Any]
    seconds: float
    folder: str
    bytes: int
    mumo_version: str = __version__
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Failure:
    """Why an item failed. Kept until the item succeeds."""

    stage: str
    item: str
    fingerprint: str
    error: str
    """Class of the error."""
    message: str
    attempts: int
    traceback: str = ""
    mumo_version: str = __version__
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Store:
    """A store on disk. Cheap to create and to send to another process: it holds nothing but its path."""

    path: Path
    _version_file: str = field(default="store.json", init=False, repr=False)

    @classmethod
    def create(cls, path: Path) -> Store:
        """The store at `path`, made when it is not there; a folder with other content is refused."""
        store = cls(path.resolve())
        marker = store.path / store._version_file
        if not marker.exists():
            # Another process may be making the same store: its marker may be under way, or be there by now.
            names = [entry.name for entry in store.path.iterdir()] if store.path.exists() else []
            if any(not name.startswith(f".{marker.name}.") for name in names) and not marker.exists():
                raise StoreError(f"{path}: is not empty and not a mumo store; choose another folder")
            store.path.mkdir(parents=True, exist_ok=True)
            _write_json(marker, {"format_version": FORMAT_VERSION})
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Store:
        """An existing store; another format version is refused."""
        store = cls(path.resolve())
        marker = store.path / store._version_file
        values = _read_json(marker)
        if values is None:
            raise StoreError(f"{path}: is not a mumo store; make one with `mumo extract`")
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(f"{path}: format version {version}, this mumo reads {FORMAT_VERSION}")
        return store

    def records(self, stage: str) -> dict[str, Record]:
        """Completion records of a stage, by item."""
        return {name: _record(name, values) for name, values in _read_all(self._folder(stage, "records")).items()}

    def record(self, stage: str, item: str) -> Record | None:
        """The completion record of an item, or none when it is not done."""
        values = _read_json(self._folder(stage, "records") / f"{item}.json")
        return None if values is None else _record(item, values)

    def part(self, stage: str, item: str, part: str) -> Path:
        """Path of a part of a finished item.

        Raises:
            StoreError: the item has no record, or its record knows no such part.
        """
        record = self.record(stage, item)
        if record is None:
            raise StoreError(f"{stage}/{item}: not in the store; run `mumo extract {stage}` first")
        if part not in record.parts:
            raise StoreError(f"{stage}/{item}: has no part {part!r}, only {sorted(record.parts)}")
        return self._folder(stage, "items") / item / record.folder / part

    def failures(self, stage: str) -> dict[str, Failure]:
        """Failures of a stage, by item."""
        return {name: Failure(**values) for name, values in _read_all(self._folder(stage, "failures")).items()}

    def failure(self, stage: str, item: str) -> Failure | None:
        """The failure of an item, or none."""
        values = _read_json(self._folder(stage, "failures") / f"{item}.json")
        return None if values is None else Failure(**values)

    def begin(self, stage: str, item: str) -> Path:
        """A new, empty staging folder for an item, of this process alone."""
        if not is_safe_id(item):
            raise StoreError(f"{stage}/{item}: not a safe name (letters, digits, '.', '_', '-')")
        staging = self._folder(stage, "staging") / f"{item}~{new_owner_name()}"
        staging.mkdir(parents=True)
        return staging

    def commit(
        self,
        stage: str,
        item: str,
        staging: Path,
        *,
        depends: dict[str, Any],
        status: Literal["ok", "empty"],
        summary: dict[str, Any],
        seconds: float,
    ) -> Record:
        """Flush and digest what lies in `staging`, move it into place, then write the record, last."""
        parts = {entry.name: digest_part(entry) for entry in sorted(staging.iterdir())}
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        _flush(staging)
        old = self.record(stage, item)
        target = self._folder(stage, "items") / item / new_owner_name()
        first = not target.parent.exists()
        target.parent.mkdir(parents=True, exist_ok=True)
        staging.rename(target)
        _fsync(target.parent)
        if first:
            _fsync(target.parent.parent)
        mark = fingerprint(depends)
        record = Record(
            stage, item, status, mark, depends, parts, summary, round(seconds, 3), folder=target.name, bytes=size
        )
        record_file = self._folder(stage, "records") / f"{item}.json"
        record_file.parent.mkdir(parents=True, exist_ok=True)
        _write_json(record_file, vars(record))
        (self._folder(stage, "failures") / f"{item}.json").unlink(missing_ok=True)
        if old is not None:
            shutil.rmtree(target.with_name(old.folder), ignore_errors=True)
        return record

    def fail(self, failure: Failure) -> None:
        """Record that an item failed; what an earlier run stored for it stays away from readers."""
        folder = self._folder(failure.stage, "failures")
        folder.mkdir(parents=True, exist_ok=True)
        old = self.record(failure.stage, failure.item)
        (self._folder(failure.stage, "records") / f"{failure.item}.json").unlink(missing_ok=True)
        _write_json(folder / f"{failure.item}.json", vars(failure))
        if old is not None:
            shutil.rmtree(self._folder(failure.stage, "items") / failure.item / old.folder, ignore_errors=True)

    def sweep(self, stage: str) -> int:
        """Remove what dead processes left, never what a living one works on. Returns how many folders."""
        swept = self.sweep_staging(stage)
        for item in self._existing(stage, "items"):
            record = self.record(stage, item.name)
            for folder in item.iterdir():
                # Looked at again at the end: another driver may have committed it in the meantime.
                if (record is None or folder.name != record.folder) and _is_abandoned(folder, folder.name):
                    now = self.record(stage, item.name)
                    if now is None or folder.name != now.folder:
                        shutil.rmtree(folder, ignore_errors=True)
                        swept += 1
        return swept

    def sweep_staging(self, stage: str, item: str = "*") -> int:
        """Remove the staging folders that dead processes left, of one item or all. Returns how many."""
        swept = 0
        for folder in self._folder(stage, "staging").glob(f"{item}~*"):
            if _is_abandoned(folder, folder.name.rpartition("~")[2]):
                shutil.rmtree(folder, ignore_errors=True)
                swept += 1
        return swept

    def digest(self, stages: Iterable[str]) -> str:
        """SHA-256 (hex) of all items and their parts' digests: equal for stores with equal content."""
        content = {stage: {item: record.parts for item, record in self.records(stage).items()} for stage in stages}
        return fingerprint(content)

    def _folder(self, stage: str, kind: str) -> Path:
        return self.path / stage / kind

    def _existing(self, stage: str, kind: str) -> list[Path]:
        folder = self._folder(stage, kind)
        return sorted(folder.iterdir()) if folder.exists() else []


def _is_abandoned(folder: Path, owner: str) -> bool:
    alive = owner_state(owner)
    if alive is not None:
        return not alive
    try:
        return time.time() - folder.stat().st_mtime > _FOREIGN_AGE_S
    except FileNotFoundError:
        return False


def _record(name: str, values: dict[str, Any]) -> Record:
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(f"{name}: record of format version {version}, this mumo reads {FORMAT_VERSION}")
    try:
        return Record(**values)
    except TypeError as error:
        raise StoreError(f"{name}: not a complete record ({error}); extract into a new store") from error


def _read_all(folder: Path) -> dict[str, dict[str, Any]]:
    """JSON files of a folder by name; those that another process removes meanwhile are left out."""
    contents = ((file.stem, _read_json(file)) for file in sorted(folder.glob("*.json")))
    return {name: values for name, values in contents if values is not None}


def _read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object, or none when there is no such file."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{file}: not readable: {error}") from error
    if not isinstance(values, dict):
        raise StoreError(f"{file}: expected a JSON object")
    return values


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a file aside, flush and rename it. A power cut may undo the rename, which costs one item's work."""
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex[:8]}")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(values, stream, indent=1, ensure_ascii=False, allow_nan=False)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


def _flush(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        _fsync(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

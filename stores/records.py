"""The commit protocol: an item exists for readers when, and only when, its completion record does.

An item is computed in a staging folder, moved (on object stores: uploaded) to a folder of its own that nobody else ever
writes, made durable, and only then gets its record, which names that folder, everything that the item depends on and
the digest of each part. The record is replaced as a whole, so readers see the old content or the new, never a mixture,
also when two processes commit one item at once. A process killed at any line leaves at worst a folder that no record
names; it does not count as done, and a later run sweeps it.

**Power loss.** Any number of items may share one flush: all are moved, one flush makes their content and their names
durable, then their records are written, and these get durable with the next flush or the last one of a run. So a
record never names what a power cut can take back. The record itself can be lost, or cut short by a file system that
promises less than a rename, until then: what is no whole JSON object does not count, and its item is computed again.
What a record replaced is removed only after a flush of the new one. On object stores every put is durable by itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .. import __version__
from ..errors import ConfigError, StoreError
from .files import Files, files_of
from .owners import new_owner_name
from .places import Place, absolute
from .specs import FORMAT_VERSION

_log = logging.getLogger(__name__)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
class Prepared:
    """A computed item on its way to its record: small, so that it can travel from the process that computed it."""

    record: Record
    staging: Path


@dataclass(frozen=True)
class Store:
    """A store on disk or behind a URL. Cheap to create and to send to another process: it holds only its place."""

    path: Place
    _version_file: str = field(default="store.json", init=False, repr=False)

    @classmethod
    def create(cls, path: Place) -> Store:
        """The store at `path`, made when it is not there; a folder with other content is refused.

        Raises:
            StoreError: other content, or another format version.
            ConfigError: the place cannot be reached or written: no such bucket, no access, no connection.
        """
        store = cls(absolute(path))
        marker, files = store.path / store._version_file, files_of(store.path, patient=False)
        with _reachable(store.path):
            if files.read(marker) is None:
                # Another process may be making the same store: its marker may be under way, or be there by now.
                names = files.names(store.path)
                strange = any(not name.startswith(f".{marker.name}.") for name in names)
                if strange and files.read(marker) is None:
                    raise StoreError(f"{path}: is not empty and not a mumo store; choose another folder")
                files.write(marker, _json({"format_version": FORMAT_VERSION}))
        return cls.open(path)

    @classmethod
    def open(cls, path: Place) -> Store:
        """An existing store; another format version is refused. Raises as `create`."""
        store = cls(absolute(path))
        marker = store.path / store._version_file
        with _reachable(store.path):
            data = files_of(store.path, patient=False).read(marker)
        if data is None:
            check = "" if isinstance(path, Path) else ", or check the bucket and the path"
            raise StoreError(f"{path}: is not a mumo store; make one with `mumo extract`{check}")
        version = _object(marker, data).get("format_version")
        if version != FORMAT_VERSION:
            raise StoreError(f"{path}: format version {version}, this mumo reads {FORMAT_VERSION}")
        return store

    @classmethod
    def find(cls, path: Place) -> Store | None:
        """The store at `path`, or none when there is none yet. Raises as `open`."""
        return cls.open(path) if cls(absolute(path)).exists(patient=False) else None

    def exists(self, *, patient: bool = True) -> bool:
        """Whether there is a store; ConfigError where that cannot be asked, at once or for minutes (`patient`)."""
        with _reachable(self.path):
            return files_of(self.path, patient=patient).read(self.path / self._version_file) is not None

    @property
    def files(self) -> Files:
        """What answers for the place."""
        return files_of(self.path)

    def records(self, stage: str) -> dict[str, Record]:
        """Completion records of a stage, by item."""
        found = self._read_all(stage, "records")
        return {name: _record(name, values) for name, values in found.items()}

    def record(self, stage: str, item: str) -> Record | None:
        """The completion record of an item, or none when it is not done."""
        values = self._read(stage, "records", item)
        return None if values is None else _record(item, values)

    def part(self, stage: str, item: str, part: str) -> Place:
        """Place of a part of a finished item.

        Raises:
            StoreError: the item has no record, or its record knows no such part.
        """
        record = self.record(stage, item)
        if record is None:
            raise StoreError(f"{stage}/{item}: not in the store; run `mumo extract {stage}` first")
        if part not in record.parts:
            raise StoreError(f"{stage}/{item}: has no part {part!r}, only {sorted(record.parts)}")
        return self._target(record) / part

    def failures(self, stage: str) -> dict[str, Failure]:
        """Failures of a stage, by item."""
        return {name: Failure(**values) for name, values in self._read_all(stage, "failures").items()}

    def failure(self, stage: str, item: str) -> Failure | None:
        """The failure of an item, or none."""
        values = self._read(stage, "failures", item)
        return None if values is None else Failure(**values)

    def begin(self, stage: str, item: str) -> Path:
        """A new, empty staging folder of this machine for an item, of this process alone."""
        if not is_safe_id(item):
            raise StoreError(f"{stage}/{item}: not a safe name (letters, digits, '.', '_', '-')")
        return self.files.begin(self._folder(stage, "staging") / f"{item}~{new_owner_name()}")

    def prepare(
        self,
        stage: str,
        item: str,
        staging: Path,
        *,
        depends: dict[str, Any],
        status: Literal["ok", "empty"],
        summary: dict[str, Any],
        seconds: float,
        publisher: int | None = None,
    ) -> Prepared:
        """Digest what lies in `staging` (and upload it to an object store); `publish` then makes it an item.

        `publisher` is the process of this machine that will call `publish`; this one when not given.
        """
        parts = {entry.name: digest_part(entry) for entry in sorted(staging.iterdir())}
        size = sum(file.stat().st_size for file in staging.rglob("*") if file.is_file())
        folder, mark = new_owner_name(publisher), fingerprint(depends)
        record = Record(stage, item, status, mark, depends, parts, summary, round(seconds, 3), folder, bytes=size)
        self.files.hand_in(staging, self._mark(record), self._target(record))
        return Prepared(record, staging)

    def publish(self, prepared: Sequence[Prepared]) -> list[Record | Exception]:
        """Move, flush once, then write the records, last. Returns the records, or what kept an item from its own.

        Must run on the machine that computed the items.

        Raises:
            OSError: the disk could not make the items durable; none of them gets a record.
        """
        files, results = self.files, dict[int, Record | Exception]()
        olds: list[tuple[Record, Record]] = []
        moved: list[tuple[int, Record, Record | None]] = []
        for number, entry in enumerate(prepared):
            record = entry.record
            try:
                old = self.record(record.stage, record.item)
                files.settle(entry.staging, self._mark(record), self._target(record))
                moved.append((number, record, old))
            except Exception as error:  # noqa: BLE001 - costs this item alone; its task reports it
                results[number] = error
        files.flush([self._target(record) for _, record, _ in moved])
        for number, record, old in moved:
            try:
                if old is not None:
                    files.replace(self._mark(record), self._target(old))
                files.write(self._file(record.stage, "records", record.item), _json(vars(record)))
                if old is not None:
                    olds.append((record, old))
                files.remove(self._file(record.stage, "failures", record.item))
                files.forget(self._mark(record))
                results[number] = record
            except Exception as error:  # noqa: BLE001 - as above
                results[number] = error
        if olds:
            files.flush([self._target(record) for record, _ in olds])
        for record, old in olds:
            files.discard(self._mark(record), self._target(old))
        return [results[number] for number in range(len(prepared))]

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
        """`prepare` and `publish` of one item."""
        prepared = self.prepare(stage, item, staging, depends=depends, status=status, summary=summary, seconds=seconds)
        (result,) = self.publish([prepared])
        if isinstance(result, Exception):
            raise result
        return result

    def flush(self) -> None:
        """Make durable all records that were written from this machine."""
        self.files.flush([self.path])

    def fail(self, failure: Failure) -> None:
        """Record that an item failed; what an earlier run stored for it stays away from readers."""
        old = self.record(failure.stage, failure.item)
        if old is not None:
            mark = self._folder(failure.stage, "staging") / f"{failure.item}~{new_owner_name()}"
            self.files.replace(mark, self._target(old))
        self.files.remove(self._file(failure.stage, "records", failure.item))
        self.files.write(self._file(failure.stage, "failures", failure.item), _json(vars(failure)))
        if old is not None:
            self.flush()
            self.files.discard(mark, self._target(old))

    def sweep(self, stage: str) -> int:
        """Remove what dead processes left, never what a living one works on. Returns how many folders."""
        return self._sweep(stage, "*", staging_only=False)

    def sweep_staging(self, stage: str, item: str = "*") -> int:
        """Remove the unfinished work that dead processes left, of one item or all. Returns how many."""
        return self._sweep(stage, item, staging_only=True)

    def digest(self, stages: Iterable[str]) -> str:
        """SHA-256 (hex) of all items and their parts' digests: equal for stores with equal content."""
        content = {stage: {item: record.parts for item, record in self.records(stage).items()} for stage in stages}
        return fingerprint(content)

    def _sweep(self, stage: str, item: str, *, staging_only: bool) -> int:
        def current(name: str) -> str | None:
            record = self.record(stage, name)
            return None if record is None else record.folder

        return self.files.sweep(self.path / stage, item, current, staging_only=staging_only)

    def _folder(self, stage: str, kind: str) -> Place:
        return self.path / stage / kind

    def _file(self, stage: str, kind: str, item: str) -> Place:
        return self._folder(stage, kind) / f"{item}.json"

    def _target(self, record: Record) -> Place:
        return self._folder(record.stage, "items") / record.item / record.folder

    def _mark(self, record: Record) -> Place:
        return self._folder(record.stage, "staging") / f"{record.item}~{record.folder}"

    def _read(self, stage: str, kind: str, item: str) -> dict[str, Any] | None:
        file = self._file(stage, kind, item)
        data = self.files.read(file)
        return None if data is None else _whole(file, data)

    def _read_all(self, stage: str, kind: str) -> dict[str, dict[str, Any]]:
        folder = self._folder(stage, kind)
        contents = self.files.read_all(folder, ".json")
        found = {name: _whole(folder / f"{name}.json", data) for name, data in contents.items()}
        return {name: values for name, values in found.items() if values is not None}


@contextmanager
def _reachable(place: Place) -> Iterator[None]:
    """Errors of the first look at a place, as what the user can do about them."""
    try:
        yield
    except OSError as error:
        why = "the folder's permissions" if isinstance(place, Path) else "bucket, access rights, credentials, endpoint"
        raise ConfigError(f"store {place}: cannot be used: {error or type(error).__name__}; check {why}") from error


def _record(name: str, values: dict[str, Any]) -> Record:
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(f"{name}: record of format version {version}, this mumo reads {FORMAT_VERSION}")
    try:
        return Record(**values)
    except TypeError as error:
        raise StoreError(f"{name}: not a complete record ({error}); extract into a new store") from error


def _whole(file: Place, data: bytes) -> dict[str, Any] | None:
    """The JSON object in a record or failure, or none for one that a power cut has cut short."""
    try:
        return _object(file, data)
    except StoreError as error:
        _log.warning("%s; it does not count, and its item is computed again", error)
        return None


def _object(file: Place, data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data.decode("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{file.parent.name}/{file.name}: not readable: {error}") from error
    if not isinstance(values, dict):
        raise StoreError(f"{file.parent.name}/{file.name}: expected a JSON object")
    return values


def _json(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False).encode()

"""Digests of source files, so that a touched file is no changed file and a changed one is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...errors import InputError
from ...stores.files import files_of
from ...stores.places import Place
from ..stage import Source

_BLOCK = 1 << 20
Mode = Literal["sample", "full", "stat"]


def digest_source(source: Source, mode: Mode = "sample") -> str:
    """SHA-256 (hex) of a source's content.

    A file is hashed as `mode` says: its size and its first, middle and last MiB; the whole file; or its size and its
    time of change. A source that asks for it is hashed whole in any case. A folder is hashed over the relative names
    and digests of its files.

    Raises:
        InputError: the file or folder is missing or cannot be read.
    """
    mode = "full" if source.full else mode
    try:
        if not source.path.is_dir():
            return _digest_file(source.path, mode)
        digest = hashlib.sha256()
        for file in _files(source.path):
            name = file.relative_to(source.path).as_posix()
            digest.update(f"{name}\0{_digest_file(file, mode)}\n".encode())
        return digest.hexdigest()
    except OSError as error:
        raise InputError(
            f"{source.role}: the file cannot be read ({error.strerror or type(error).__name__}); "
            "check its path in the cohort's table, and the data folder"
        ) from error


@dataclass
class SourceDigests:
    """Digests of sources, remembered in a file by path, size and modification time, so that no file is read twice."""

    file: Place
    mode: Mode = "sample"
    """How sources are hashed that do not ask to be hashed whole."""
    _known: dict[str, str] = field(default_factory=dict)
    _used: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Read what an earlier run remembered; a damaged memory is only a slower start."""
        try:
            known = json.loads(files_of(self.file).read(self.file) or b"{}")
        except (OSError, ValueError):
            known = {}
        self._known = known if isinstance(known, dict) else {}

    def digest(self, source: Source) -> str:
        """As `digest_source`, from memory where size and modification time are as they were."""
        try:
            key = _stat_key(source, self.mode)
        except OSError:
            return digest_source(source, self.mode)
        digest = self._used.get(key) or self._known.get(key) or digest_source(source, self.mode)
        self._used[key] = digest
        return digest

    def save(self) -> None:
        """Remember all digests."""
        if not self._used.keys() - self._known.keys():
            return
        files_of(self.file).write(self.file, json.dumps({**self._known, **self._used}).encode())


def _stat_key(source: Source, mode: Mode) -> str:
    """Hash of path, size and modification time of every file, so that no path is stored."""
    files = _files(source.path) if source.path.is_dir() else [source.path]
    digest = hashlib.sha256(f"{source.path.resolve()}\0{source.full}\0{mode}".encode())
    for file in files:
        stat = file.stat()
        digest.update(f"\0{file.name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest_file(path: Path, mode: Mode) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    if mode == "stat":
        digest.update(f" {path.stat().st_mtime_ns}".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        if mode == "full" or size <= 3 * _BLOCK:
            while block := stream.read(_BLOCK):
                digest.update(block)
        else:
            for offset in (0, (size - _BLOCK) // 2, size - _BLOCK):
                stream.seek(offset)
                digest.update(stream.read(_BLOCK))
    return digest.hexdigest()

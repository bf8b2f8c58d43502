"""Whose file is it? By ids that stand in its path, by a pattern of paths, or by the first folder. And ids for files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from ....errors import ConfigError
from ....stores.records import is_safe_id

MAX_ID = 94
MIN_DIGITS = 3
"""Digits that an id needs to be looked for in paths, where it is nothing but digits."""

_FIELD = "{patient}"


class NoPatient(Exception):  # noqa: N818 (no error: the file is named among those that were not placed)
    """A file is of no patient, or of several; the message is the reason."""


class Naming(Protocol):
    """How the patient of a file is known."""

    def patient_of(self, path: Path) -> str:
        """The patient's id as it stands in the table or the path; NoPatient where that is not clear."""


class ByIds:
    """A patient's id stands in the path, between signs that are neither letters nor digits."""

    def __init__(self, ids: Collection[str]) -> None:
        usable = [one for one in ids if can_be_looked_for(one)]
        self._ids = {_folded(one): one for one in usable}
        longest_first = sorted(self._ids, key=len, reverse=True)
        words = "|".join(re.escape(one) for one in longest_first) or r"(?!)"
        self._search = re.compile(rf"(?<![^\W_])(?:{words})(?![^\W_])")

    def patient_of(self, path: Path) -> str:
        """See `Naming`."""
        found = {self._ids[word] for word in self._search.findall(_folded(path.as_posix()))}
        if len(found) == 1:
            return found.pop()
        raise NoPatient(f"its path names {len(found)} patients of the table" if found else "its path names no patient")


class ByPattern:
    """Paths fit a pattern such as `slides/{patient}_*.svs` or `{patient}/**`; of several the first that fits counts."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [_compiled(pattern) for pattern in patterns]

    def patient_of(self, path: Path) -> str:
        """See `Naming`."""
        for pattern in self._patterns:
            if match := pattern.fullmatch(unicodedata.normalize("NFC", path.as_posix())):
                return match["patient"]
        raise NoPatient("its path fits no --patient pattern")


class ByFolder:
    """The first folder of the path is the patient."""

    def patient_of(self, path: Path) -> str:
        """See `Naming`."""
        if len(path.parts) < 2:
            raise NoPatient("it lies in no patient's folder")
        return unicodedata.normalize("NFC", path.parts[0])


class SafeIds:
    """Ids that may become names of files: as they are where that is possible."""

    def __init__(self, what: str, taken: Iterable[str] = ()) -> None:
        self._what = what
        self._taken = {one.casefold() for one in taken}

    def of_patient(self, patient: str) -> str:
        """The patient's id itself, or one that says nothing of it: what is no study id may be a name."""
        if is_safe_id(patient) and len(patient) <= MAX_ID:
            self._taken.add(patient.casefold())
            return patient
        number = 1
        while f"{self._what}-{number}" in self._taken:
            number += 1
        return self._take(f"{self._what}-{number}")

    def of_name(self, name: str) -> str:
        """An id like `name`, with other signs than letters, digits, `.`, `_`, `-` replaced, unlike those before it."""
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[: MAX_ID - 6] or self._what
        number, free = 1, plain
        while free.casefold() in self._taken:
            number += 1
            free = f"{plain}-{number}"
        return self._take(free)

    def _take(self, free: str) -> str:
        self._taken.add(free.casefold())
        return free


def can_be_looked_for(one: str) -> bool:
    """Whether an id is clear enough to be found in paths: not one sign, and not a short number."""
    return len(one) > 1 and not (one.isdecimal() and len(one) < MIN_DIGITS)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern.count(_FIELD) != 1:
        raise ConfigError(f"--patient {pattern!r}: expected {_FIELD} once, for example 'slides/{_FIELD}_*.svs'")
    signs = {_FIELD: r"(?P<patient>[^/]+?)", "**/": r"(?:.*/)?", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
    parts = re.split(r"(\{patient\}|\*\*/|\*\*|\*|\?)", unicodedata.normalize("NFC", pattern))
    return re.compile("".join(signs.get(part, re.escape(part)) for part in parts))

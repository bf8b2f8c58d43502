"""The run ledger: what one `mumo extract` was asked, ran on, and came to, in a folder of its own, STORE/runs/<time>/.

run.json          the request, the resolved settings, versions, revision, machine; paths only by their last name
log.jsonl         one line an event, written as it happens; what is left of a run that was killed
items.parquet     every planned item, see `specs.RUN_ITEMS`
failures.csv      the failed items; their tracebacks stand in tracebacks/
summary.txt       the same for people
"""

from __future__ import annotations

import csv
import json
import logging
import os
import platform
import shutil
import subprocess
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePath
from typing import IO, Any, Self

from ... import __version__
from ...config import Settings
from ...stores.places import Place
from ...stores.records import Store
from ...stores.specs import FORMAT_VERSION, RUN_ITEMS
from ...stores.tables import write_table
from .tasks import Status

_module_log = logging.getLogger(__name__)
_KEEP_EVERY_S = 30.0
RESULTS = ("ok", "empty", "failed", "skipped")
_ITEM_FIELDS = tuple(column.name for column in RUN_ITEMS.columns)


@dataclass
class Ledger:
    """The ledger of one run; a context manager that writes the tables and the summary however the run ends."""

    store: Store
    folder: Path
    """Where it is written: in the store or, for an object store, among this machine's temporary files until kept."""
    _place: Place
    _log: IO[str]
    _planned: Counter[str] = field(default_factory=Counter, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _kept: float = field(default_factory=time.monotonic, init=False)

    @classmethod
    def start(cls, store: Store, settings: Settings, request: Mapping[str, Any], where: str) -> Ledger:
        """Make the run's folder and write what is known at the start."""
        name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{uuid.uuid4().hex[:4]}"
        place = store.path / "runs" / name
        folder = store.files.workspace(place)
        facts = {
            "format_version": FORMAT_VERSION,
            "request": dict(request),
            "settings": _last_names(settings.model_dump(mode="python")),
            "where": where,
            **_environment(settings),
        }
        (folder / "run.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
        ledger = cls(store, folder, place, (folder / "log.jsonl").open("a", encoding="utf-8"))
        store.files.keep(folder, place)
        return ledger

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        ending = "finished" if kind is None else f"stopped by {kind.__name__}: {error}".rstrip(": ")
        self._write("end", ending=ending)
        self._log.close()
        rows = list(self._items())
        write_table(self.folder / "items.parquet", rows, RUN_ITEMS)
        self._write_failures(rows)
        (self.folder / "summary.txt").write_text(self._summary(rows, ending), encoding="utf-8")
        self.store.files.keep(self.folder, self._place)

    def planned(self, stage: str, items: int) -> None:
        """So many items were planned for a stage, or its reduction."""
        self._planned[stage] += items
        self._write("planned", stage=stage, items=items)

    def ended(self, status: Status) -> None:
        """An item ended."""
        values = asdict(status)
        values["reason"] = values.pop("message") or None
        self._write("item", **values)

    def skipped(self, stage: str, item: str, reason: str, *, result: str = "skipped") -> None:
        """An item was not computed in this run: up to date, waiting, failed before, or left."""
        self._write("item", stage=stage, item=item, result=result, reason=reason, attempts=0)

    def _write(self, event: str, **values: Any) -> None:
        line = {"time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "event": event, **values}
        self._log.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._log.flush()
        if time.monotonic() - self._kept > _KEEP_EVERY_S:
            self._kept = time.monotonic()
            try:
                self.store.files.keep(self.folder, self._place)
            except OSError as error:  # the next time tries again, and the end of the run in any case
                _module_log.warning("the run's log could not be stored: %s", error)

    def _items(self) -> Iterator[dict[str, Any]]:
        """Rows of the item table, read back from the log so that a long run keeps none of them in memory."""
        empty = {"reason": None, "error": None, "seconds": 0.0, "compute_s": 0.0, "commit_s": 0.0}
        with (self.folder / "log.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                values = json.loads(line)
                if values["event"] == "item":
                    row = {**empty, "peak_mb": None, "bytes": 0, **values}
                    row["error"] = row["error"] or None
                    yield {name: row[name] for name in _ITEM_FIELDS}

    def _write_failures(self, rows: list[dict[str, Any]]) -> None:
        with (self.folder / "failures.csv").open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(("stage", "item", "reason", "attempts", "traceback"))
            for row in rows:
                if row["result"] == "failed":
                    failure = self.store.failure(row["stage"], row["item"])
                    file = ""
                    if failure is not None and failure.traceback:
                        file = f"tracebacks/{row['stage']}-{row['item']}.txt"
                        (self.folder / "tracebacks").mkdir(exist_ok=True)
                        (self.folder / file).write_text(failure.traceback, encoding="utf-8")
                    table.writerow((row["stage"], row["item"], row["reason"], row["attempts"], file))

    def _summary(self, rows: list[dict[str, Any]], ending: str) -> str:
        counts = {stage: Counter[str]() for stage in self._planned}
        for row in rows:
            counts.setdefault(row["stage"], Counter())[row["result"]] += 1
        lines = [
            f"mumo {__version__}, {self._place.name}: {ending} after {time.monotonic() - self._began:.1f} s",
            f"{'stage':<10} {'planned':>8} " + " ".join(f"{result:>8}" for result in RESULTS) + f" {'missing':>8}",
        ]
        for stage, count in counts.items():
            planned = self._planned[stage]
            cells = " ".join(f"{count[result]:>8}" for result in RESULTS)
            lines.append(f"{stage:<10} {planned:>8} {cells} {planned - count.total():>8}")
        failed = [row for row in rows if row["result"] == "failed"]
        lines += [f"failed: {row['stage']}/{row['item']}: {row['reason']}" for row in failed]
        return "\n".join(lines) + "\n"


def _last_names(value: Any) -> Any:
    """Settings as JSON values; of paths, the last name alone."""
    if isinstance(value, Mapping):
        return {str(key): _last_names(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_last_names(entry) for entry in value]
    if isinstance(value, PurePath) or (isinstance(value, str) and ("/" in value or "\\" in value)):
        return str(value).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return value


def _environment(settings: Settings) -> dict[str, Any]:
    names = [text.split(";")[0] for text in metadata.requires("mumo") or () if "extra ==" not in text]
    packages = {name: _version(name) for name in sorted("".join(_name_part(text)) for text in names)}
    return {
        "mumo_version": __version__,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "device": settings.run.device,
        "gpus": _gpus(),
        "packages": packages,
    }


def _name_part(requirement: str) -> Iterator[str]:
    for character in requirement:
        if not (character.isalnum() or character in "-_."):
            return
        yield character


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    """Revision of the checkout that mumo runs from, `+` behind it when files have changed; None outside of one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    revision = _output("git", "-C", str(here), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(here), "status", "--porcelain", "--untracked-files=no")
    return f"{revision}+" if revision and changed else revision or None


def _gpus() -> list[str]:
    """Names of this machine's GPUs; asked of the driver's tool, because importing torch takes seconds."""
    listed = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or ""
    return [line.strip() for line in listed.splitlines() if line.strip()]


def _output(program: str, *arguments: str) -> str | None:
    found = shutil.which(program)
    if found is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command
            [found, *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

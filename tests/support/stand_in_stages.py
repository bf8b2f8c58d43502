"""Stages that stand in for the real ones in tests of the machinery; importable in spawned processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from mumo.errors import InputError
from mumo.pipeline.stage import Item, Outcome, Stage


class Copying(Stage):
    """Writes the payload's text; payloads that name a trouble cause it."""

    name = "tiles"
    version = 1

    def __init__(self, items: list[Item] | None = None) -> None:
        self.items = items or []

    def __getstate__(self) -> dict[str, Any]:
        """Workers need no list of items; real stages hold none."""
        return {}

    def plan(self, cohort: Any, settings: Any, store: Any) -> list[Item]:
        return self.items

    def run(self, item: Item, settings: Any, store: Any, out: Path) -> Outcome:
        (out / "text.txt").write_text("half")
        match item.payload:
            case "refuse":
                raise InputError(f"{item.item}: expected something usable")
            case "bug":
                raise KeyError("surprise")
            case "io":
                raise OSError("the disk hiccuped")
            case "path":
                raise ValueError(f"cannot open {item.sources[0].path}")
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(7)
            case "hang":
                time.sleep(3600)
            case "slow":
                time.sleep(0.2)
            case "memory":
                hoard = bytearray(400_000_000)
                time.sleep(5)
                del hoard
            case "noise":
                os.write(1, b"native code prints what it likes\n" * 1000)
        (out / "text.txt").write_text(str(item.payload))
        return Outcome("ok", {"warnings": ["a warning"]} if item.payload == "warn" else {})


class FlakyOnce(Copying):
    """Fails with an input/output error until a marker file exists, which the first attempt leaves."""

    def run(self, item: Item, settings: Any, store: Any, out: Path) -> Outcome:
        marker = Path(item.payload)
        if not marker.exists():
            marker.write_text("tried")
            raise OSError("the disk hiccuped")
        return super().run(item, settings, store, out)


class KilledOnce(Copying):
    """Its process is killed from outside at the first attempt, which leaves a marker file."""

    def run(self, item: Item, settings: Any, store: Any, out: Path) -> Outcome:
        marker = Path(item.payload)
        if not marker.exists():
            marker.write_text("tried")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run(item, settings, store, out)


class Tallying(Copying):
    """Appends a line to the payload's file for each computation, so that a test sees how often an item was computed."""

    def run(self, item: Item, settings: Any, store: Any, out: Path) -> Outcome:
        with Path(item.payload).open("a") as tally:
            tally.write(f"{item.item}\n")
        time.sleep(0.02)
        (out / "text.txt").write_text("x")
        return Outcome()


class Counting(Copying):
    """A reduction: `finalise` plans one item that counts the items done."""

    name = "windows"

    def finalise(self, cohort: Any, settings: Any, store: Any) -> list[Item]:
        done = sorted(store.records(self.name).keys() - {"cohort"})
        return [Item(self.name, "cohort", len(done), settings={}, inputs={"done": done})]


class Quiet:
    """Progress that says nothing."""

    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Any) -> None: ...

    def stage_ended(self, stage: str) -> None: ...


def make_items(payloads: dict[str, Any], stage: str = "tiles", **more: Any) -> list[Item]:
    """Items by id and payload."""
    return [
        Item(stage, name, payload, settings={}, inputs={"payload": payload}, **more)
        for name, payload in payloads.items()
    ]

"""What the machinery itself costs: items that do next to nothing, and a second run with nothing to do."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mumo.config import Settings
from mumo.pipeline.execute import InProcess, LocalProcesses, Status
from mumo.pipeline.extract import Choice, run_stage
from mumo.pipeline.stage import Item, Source
from mumo.stores.records import Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

ITEMS = 3000


class _Silent:
    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Status) -> None: ...

    def stage_ended(self, stage: str) -> None: ...


def main() -> None:
    """Print seconds an item in this process and on two processes, and the time of a second run."""
    from stand_in_stages import Copying

    cohort: Any = None
    settings = Settings()
    for name, executor in (("in process", InProcess()), ("2 processes", LocalProcesses(2, settings))):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "source"
            source.write_bytes(bytes(1 << 20))
            items = [
                Item("tiles", f"i{n}", "text", settings={}, inputs={"n": n}, sources=(Source("slide", source),))
                for n in range(ITEMS)
            ]
            stage, store = Copying(items), Store.create(Path(folder) / "store")
            with executor:
                seconds = []
                for _ in range(2):
                    began = time.perf_counter()
                    run_stage(stage, cohort, store, settings, Choice(("tiles",)), executor, _Silent())
                    seconds.append(time.perf_counter() - began)
        print(
            f"machinery, {ITEMS} items, {name}: {seconds[0] / ITEMS * 1e3:.2f} ms an item (target < 10 ms), "
            f"second run {seconds[1]:.2f} s (target < 5 s)"
        )

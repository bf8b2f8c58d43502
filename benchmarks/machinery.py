"""What the machinery itself costs: items that do next to nothing, and a second run with nothing to do."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from mumo.config import Settings
from mumo.pipeline.extract import Choice, run_stage
from mumo.pipeline.running.cluster import DaskCluster
from mumo.pipeline.running.execute import Executor, InProcess, LocalProcesses, Status
from mumo.pipeline.running.ledger import Ledger
from mumo.pipeline.stage import Item, Source
from mumo.stores.records import Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

ITEMS, EARLY = 3000, 500


class _Watch:
    """Silent progress that looks at this process's memory early and at the end."""

    def __init__(self) -> None:
        self._ended = 0
        self.megabytes: list[float] = []

    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Status) -> None:
        """Look at the memory."""
        self._ended += 1
        if self._ended in (EARLY, ITEMS):
            self.megabytes.append(psutil.Process().memory_info().rss / 1e6)

    def stage_ended(self, stage: str) -> None: ...


def main() -> None:
    """Print milliseconds an item and this process's memory, each way of running, and the time of a second run."""
    from clusters import hand_made_cluster

    settings = Settings()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cluster = stack.enter_context(hand_made_cluster(Path(folder)))
        ways: dict[str, Executor] = {
            "in process": InProcess(),
            "2 processes": LocalProcesses(2, settings),
            "Dask, 2 workers": DaskCluster(str(cluster.file), settings),
        }
        for name, executor in ways.items():
            _measure(name, executor, settings)


def _measure(name: str, executor: Executor, settings: Settings) -> None:
    from stand_in_stages import Copying

    cohort: Any = None
    with tempfile.TemporaryDirectory() as folder, executor:
        source = Path(folder) / "source"
        source.write_bytes(bytes(1 << 20))
        items = [
            Item("tiles", f"i{n}", "text", settings={}, inputs={"n": n}, sources=(Source("slide", source),))
            for n in range(ITEMS)
        ]
        stage, store = Copying(items), Store.create(Path(folder) / "store")
        seconds, watch = [], _Watch()
        for _ in range(2):
            began = time.perf_counter()
            with Ledger.start(store, settings, {}, executor.where) as ledger:
                run_stage(stage, cohort, store, settings, Choice(("tiles",)), executor, watch, ledger)
            seconds.append(time.perf_counter() - began)
    early, late = watch.megabytes
    print(
        f"machinery, {ITEMS} items, {name}: {seconds[0] / ITEMS * 1e3:.2f} ms an item (target < 10 ms), "
        f"second run {seconds[1]:.2f} s (target < 5 s), driver's memory from item {EARLY} to {ITEMS}: "
        f"{late / early - 1:+.1%} (target ±10 %)",
        flush=True,
    )

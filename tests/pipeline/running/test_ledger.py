from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in_stages import Copying, make_items

from mumo import __version__
from mumo.config import Settings, load_settings
from mumo.pipeline.extract import Choice, run_stage
from mumo.pipeline.running.execute import InProcess, Status
from mumo.pipeline.running.ledger import Ledger
from mumo.stores.records import Store
from mumo.stores.specs import RUN_ITEMS
from mumo.stores.tables import read_rows


class Silent:
    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Status) -> None: ...

    def stage_ended(self, stage: str) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def run(store: Store, payloads: dict[str, Any], settings: Settings | None = None, **choice: Any) -> Path:
    cohort: Any = None
    stage, settings = Copying(make_items(payloads)), settings or Settings()
    with Ledger.start(store, settings, {"stages": ["tiles"]}, "here") as ledger:
        run_stage(stage, cohort, store, settings, Choice(("tiles",), **choice), InProcess(), Silent(), ledger)
    return ledger.folder


def test_ledger__counts_every_planned_item_once(store: Store) -> None:
    run(store, {"a": "old", "b": "refuse"})
    folder = run(store, {"a": "old", "b": "refuse", "c": "new", "d": "bug", "e": "left"}, max_failures="0")
    rows = {row["item"]: row for row in read_rows(folder / "items.parquet", RUN_ITEMS)}
    results = {item: row["result"] for item, row in rows.items()}
    assert results == {"a": "skipped", "b": "failed", "c": "ok", "d": "failed", "e": "skipped"}
    assert (rows["a"]["reason"], rows["a"]["attempts"]) == ("up to date", 0)
    assert rows["e"]["reason"] == "not started: more than 0 items failed"
    assert rows["c"]["bytes"] == 3
    assert rows["c"]["seconds"] >= rows["c"]["compute_s"] + rows["c"]["commit_s"] > 0
    assert rows["c"]["peak_mb"] > 20
    summary = (folder / "summary.txt").read_text()
    # planned, ok, empty, failed, skipped, missing
    assert "tiles 5 1 0 2 2 0" in " ".join(summary.split())
    assert "failed: tiles/d: KeyError: 'surprise'" in summary


def test_ledger__failures_with_their_tracebacks_aside(store: Store) -> None:
    folder = run(store, {"a": "refuse", "b": "bug"})
    with (folder / "failures.csv").open(newline="") as stream:
        rows = {row["item"]: row for row in csv.DictReader(stream)}
    assert rows["a"]["traceback"] == ""
    assert "KeyError" in (folder / rows["b"]["traceback"]).read_text()


def test_ledger__says_what_the_run_was_made_with_but_no_paths(store: Store) -> None:
    settings = load_settings(None, ["embed.weights=/home/ward-7/net.safetensors", "radiomics.bin_width=10"])
    facts = json.loads((run(store, {"a": "1"}, settings) / "run.json").read_text())
    assert facts["mumo_version"] == __version__
    assert facts["settings"]["radiomics"]["bin_width"] == 10
    assert facts["settings"]["embed"]["weights"] == "net.safetensors"
    assert facts["packages"]["numpy"]
    assert "ward-7" not in json.dumps(facts)


def test_ledger__a_run_that_ends_with_an_error_still_reconciles(store: Store) -> None:
    with pytest.raises(RuntimeError), Ledger.start(store, Settings(), {}, "here") as ledger:
        ledger.planned("tiles", 3)
        ledger.ended(Status("tiles", "a", "ok", 1.0))
        raise RuntimeError("the cluster is gone")
    summary = (ledger.folder / "summary.txt").read_text()
    assert "stopped by RuntimeError: the cluster is gone" in summary
    assert "tiles 3 1 0 0 0 2" in " ".join(summary.split()), "two items are missing, and it says so"


def test_ledger__a_killed_run_leaves_its_log(store: Store) -> None:
    code = """
import os, pathlib, signal, sys
from mumo.config import Settings
from mumo.pipeline.running.ledger import Ledger
from mumo.pipeline.running.tasks import Status
from mumo.stores.records import Store
ledger = Ledger.start(Store(pathlib.Path(sys.argv[1])), Settings(), {}, "here")
ledger.ended(Status("tiles", "a", "ok", 1.0))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code, str(store.path)], check=False, env=os.environ.copy())
    assert done.returncode == -signal.SIGKILL
    (folder,) = (store.path / "runs").iterdir()
    (line,) = (folder / "log.jsonl").read_text().splitlines()
    assert json.loads(line)["item"] == "a"

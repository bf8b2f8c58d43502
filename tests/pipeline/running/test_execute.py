from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import PIL
import psutil
import pytest
from stand_in_stages import Copying, FlakyOnce, KilledOnce, make_items

from mumo.config import Settings, load_settings
from mumo.errors import MumoError
from mumo.pipeline.running.cluster import DaskCluster
from mumo.pipeline.running.execute import Executor, InProcess, LocalProcesses, Status, Task
from mumo.pipeline.running.planning import plan_items
from mumo.pipeline.running.sources import SourceDigests
from mumo.pipeline.running.tasks import is_transient
from mumo.pipeline.stage import Source, Stage
from mumo.stores.records import Store

SETTINGS = load_settings(None, ["run.item_timeout_s=4", "run.window=4", "run.retry_wait_s=0.1"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def run(executor: Executor, stage: Stage, store: Store, settings: Settings = SETTINGS) -> dict[str, Status]:
    items = stage.plan(None, settings, store)  # type: ignore[arg-type]
    planned = plan_items(stage, items, store, SourceDigests(store.path / "digests.json"))
    statuses = list(executor.run([Task(stage, plan, settings, store) for plan in planned]))
    assert len(statuses) == len({status.item for status in statuses}) == len(items)
    return {status.item: status for status in statuses}


EXECUTORS = [
    pytest.param(InProcess, id="in-process"),
    pytest.param(lambda: LocalProcesses(2, SETTINGS), id="local-processes"),
]


@pytest.mark.parametrize("make", EXECUTORS)
def test_executor__an_item_that_fails_costs_itself_alone(make: Callable[[], Executor], store: Store) -> None:
    payloads = {"a": "fine", "b": "refuse", "c": "bug", "d": "warn"}
    with make() as executor:
        statuses = run(executor, Copying(make_items(payloads)), store)
    assert {name: status.result for name, status in statuses.items()} == {
        "a": "ok",
        "b": "failed",
        "c": "failed",
        "d": "ok",
    }
    assert statuses["d"].warnings == ("a warning",)
    failures = store.failures("tiles")
    assert failures["b"].message == "b: expected something usable"
    assert failures["b"].traceback == ""
    assert "KeyError" in failures["c"].traceback
    assert store.part("tiles", "a", "text.txt").read_text() == "fine"
    assert list((store.path / "tiles/staging").iterdir()) == []


def test_executor__input_output_errors_are_tried_again(store: Store, tmp_path: Path) -> None:
    statuses = run(InProcess(), FlakyOnce(make_items({"a": str(tmp_path / "marker")})), store)
    assert statuses["a"].result == "ok"


def test_executor__input_output_errors_are_not_tried_for_ever(store: Store) -> None:
    settings = load_settings(None, ["run.max_attempts=2", "run.retry_wait_s=0.1"])
    statuses = run(InProcess(), Copying(make_items({"a": "io"})), store, settings)
    assert statuses["a"].result == "failed"
    assert store.failures("tiles")["a"].attempts == 2


@pytest.mark.slow
def test_local_processes__crashes_and_hangs_cost_exactly_their_items(store: Store) -> None:
    troubles = {"t1": "segfault", "t2": "exit", "t3": "segfault", "t4": "hang", "t5": "segfault"}
    payloads = {f"i{n:03}": "fine" for n in range(195)}
    mixed = dict(sorted({**payloads, **troubles}.items(), key=lambda pair: hash(pair[0]) % 97))
    with LocalProcesses(2, SETTINGS) as executor:
        statuses = run(executor, Copying(make_items(mixed)), store)
    failed = {name for name, status in statuses.items() if status.result == "failed"}
    assert failed == set(troubles)
    assert set(store.failures("tiles")) == set(troubles)
    assert set(store.records("tiles")) == set(payloads)
    assert "was killed by SIGSEGV" in statuses["t1"].message
    assert "exit code 7" in statuses["t2"].message
    assert "stopped after 4 s" in statuses["t4"].message


def test_local_processes__too_much_memory_costs_the_item(store: Store) -> None:
    settings = load_settings(None, ["run.item_memory_mb=300"])
    with LocalProcesses(1, settings) as executor:
        statuses = run(executor, Copying(make_items({"a": "fine", "b": "memory", "c": "fine"})), store, settings)
    assert {name: status.result for name, status in statuses.items()} == {"a": "ok", "b": "failed", "c": "ok"}
    assert store.failures("tiles")["b"].error == "MemoryLimit"
    assert "more than 300 (run.item_memory_mb)" in statuses["b"].message
    assert list((store.path / "tiles/staging").iterdir()) == []


def test_local_processes__killed_from_outside_is_tried_again(store: Store, tmp_path: Path) -> None:
    settings = load_settings(None, ["run.retry_wait_s=0.1"])
    with LocalProcesses(1, settings) as executor:
        statuses = run(executor, KilledOnce(make_items({"a": str(tmp_path / "marker")})), store, settings)
    assert statuses["a"].result == "ok"


def test_local_processes__what_native_code_prints_does_no_harm(store: Store) -> None:
    with LocalProcesses(1, SETTINGS) as executor:
        statuses = run(executor, Copying(make_items({"a": "noise", "b": "segfault", "c": "noise"})), store)
    assert [statuses[name].result for name in "abc"] == ["ok", "failed", "ok"]
    assert "stand_in_stages.py" in store.failures("tiles")["b"].traceback, "where it crashed"


def test_local_processes__children_end_when_the_driver_is_killed(tmp_path: Path) -> None:
    code = """
import sys, pathlib
from stand_in_stages import Copying, make_items
from test_execute import LocalProcesses, SETTINGS, Store, run
store = Store.create(pathlib.Path(sys.argv[1]))
with LocalProcesses(2, SETTINGS) as executor:
    run(executor, Copying(make_items({"a": "hang", "b": "hang"})), store)
"""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2] / "support")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    driver = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store")], env=environment)
    children: list[psutil.Process] = []
    while len(list((tmp_path / "store/tiles/staging").glob("*"))) < 2:
        assert driver.poll() is None
        time.sleep(0.05)
    children = psutil.Process(driver.pid).children()
    assert len(children) == 2
    driver.kill()
    driver.wait()
    assert psutil.wait_procs(children, timeout=5)[1] == []


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError("hiccup"), True),
        (OSError(errno.EIO, "input/output error"), True),
        (TimeoutError("network"), True),
        (ConnectionResetError("network"), True),
        (FileNotFoundError("gone"), False),
        (PermissionError("not yours"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (PIL.UnidentifiedImageError("not an image"), False),
        (ValueError("bug"), False),
    ],
)
def test_is_transient__input_output_errors_that_may_pass(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


def test_compute_item__paths_of_sources_reach_no_failure(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "MUSTERMANN.svs"
    source.write_bytes(b"x")
    stage = Copying(make_items({"a": "path"}, sources=(Source("slide", source),)))
    status = run(InProcess(), stage, store)["a"]
    assert "cannot open <slide>" in status.message
    assert "MUSTERMANN" not in (store.path / "tiles/failures/a.json").read_text()


def test_local_processes__store_equals_the_one_made_in_process(tmp_path: Path) -> None:
    stage = Copying(make_items({f"i{n}": f"text {n}" for n in range(6)}))
    one, two = Store.create(tmp_path / "one"), Store.create(tmp_path / "two")
    run(InProcess(), stage, one)
    with LocalProcesses(2, SETTINGS) as executor:
        run(executor, stage, two)
    assert one.digest(["tiles"]) == two.digest(["tiles"])


@pytest.mark.slow
def test_dask_cluster__failures_are_recorded_and_the_store_is_the_same(tmp_path: Path) -> None:
    from distributed import LocalCluster

    payloads = {f"i{n}": f"text {n}" for n in range(8)} | {"bad": "refuse"}
    stage = Copying(make_items(payloads))
    one, two = Store.create(tmp_path / "one"), Store.create(tmp_path / "two")
    run(InProcess(), stage, one)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        DaskCluster(cluster.scheduler_address, SETTINGS) as executor,
    ):
        statuses = run(executor, stage, two)
    assert statuses["bad"].result == "failed"
    assert one.digest(["tiles"]) == two.digest(["tiles"])
    assert one.failures("tiles") == two.failures("tiles")


def test_dask_cluster__no_scheduler_is_a_clear_error() -> None:
    with pytest.raises(MumoError, match="no Dask scheduler answers"), DaskCluster("tcp://127.0.0.1:9", SETTINGS):
        pass

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from stand_in_stages import Copying, FlakyOnce, make_items

from mumo.config import Settings, load_settings
from mumo.errors import MumoError
from mumo.pipeline.execute import DaskCluster, Executor, InProcess, LocalProcesses, Status, Task
from mumo.pipeline.planning import plan_items
from mumo.pipeline.sources import SourceDigests
from mumo.pipeline.stage import Stage
from mumo.stores.records import Store

SETTINGS = load_settings(None, ["run.item_timeout_s=4", "run.window=4"])


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
    settings = load_settings(None, ["run.max_attempts=2"])
    statuses = run(InProcess(), Copying(make_items({"a": "io"})), store, settings)
    assert statuses["a"].result == "failed"
    assert store.failures("tiles")["a"].attempts == 2


@pytest.mark.slow
def test_local_processes__crashes_and_hangs_cost_exactly_their_items(store: Store) -> None:
    troubles = {"t1": "segfault", "t2": "exit", "t3": "segfault", "t4": "hang"}
    payloads = {f"i{n:02}": "fine" for n in range(40)}
    mixed = dict(sorted({**payloads, **troubles}.items(), key=lambda pair: hash(pair[0]) % 97))
    with LocalProcesses(2, SETTINGS) as executor:
        statuses = run(executor, Copying(make_items(mixed)), store)
    failed = {name for name, status in statuses.items() if status.result == "failed"}
    assert failed == set(troubles)
    assert set(store.failures("tiles")) == set(troubles)
    assert set(store.records("tiles")) == set(payloads)
    assert "died with exit code" in statuses["t1"].message
    assert "stopped after 4 s" in statuses["t4"].message


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

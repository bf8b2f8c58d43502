from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from clusters import hand_made_cluster, make_certificates
from stand_in_stages import Copying, make_items

from mumo.config import load_settings
from mumo.errors import ConfigError, MumoError
from mumo.pipeline.running.cluster import DaskCluster, check_address, scheduler_address
from mumo.pipeline.running.execute import Executor, InProcess, Status, Task
from mumo.pipeline.running.planning import plan_items
from mumo.pipeline.running.sources import SourceDigests
from mumo.stores.records import Store

SETTINGS = load_settings(None, ["run.item_timeout_s=4", "run.window=8", "run.retry_wait_s=0.1"])


def run(executor: Executor, stage: Copying, store: Store) -> dict[str, Status]:
    planned = plan_items(stage, stage.items, store, SourceDigests(store.path / "digests.json"))
    statuses = list(executor.run([Task(stage, plan, SETTINGS, store) for plan in planned]))
    assert len(statuses) == len({status.item for status in statuses}) == len(stage.items)
    return {status.item: status for status in statuses}


@pytest.mark.slow
def test_dask_cluster__two_hundred_items_with_crashes_and_a_hang(tmp_path: Path) -> None:
    """Started by hand, under nannies, whose workers are daemonic; in the middle one worker is killed with SIGKILL."""
    payloads = {f"i{n:03}": f"text {n}" for n in range(195)}
    troubles = {"t0": "segfault", "t1": "segfault", "t2": "hang", "t3": "segfault", "t4": "segfault"}
    mixed = make_items({**payloads, **troubles})
    mixed.sort(key=lambda item: str(hash(item.item)))
    store, alone = Store.create(tmp_path / "store"), Store.create(tmp_path / "alone")
    with hand_made_cluster(tmp_path / "cluster") as cluster, DaskCluster(str(cluster.file), SETTINGS) as executor:
        killer = threading.Thread(target=kill_a_worker, args=(cluster.processes[-1].pid, store), daemon=True)
        killer.start()
        statuses = run(executor, Copying(mixed), store)
        killer.join()
    assert {name for name, status in statuses.items() if status.result == "failed"} == set(troubles)
    assert set(store.failures("tiles")) == set(troubles)
    assert "SIGSEGV" in statuses["t0"].message
    run(InProcess(), Copying(make_items(payloads)), alone)
    assert store.digest(["tiles"]) == alone.digest(["tiles"])


def kill_a_worker(nanny: int, store: Store) -> None:
    """Kill the worker below a nanny, with the child that it has at work, once thirty items are done."""
    until = time.monotonic() + 300
    while len(store.records("tiles")) < 30 and time.monotonic() < until:
        time.sleep(0.02)
    for process in psutil.Process(nanny).children(recursive=True):
        process.send_signal(signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_dask_cluster__over_tls_and_without_workers(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls")
    files = [f"run.tls_ca_file={tls / 'ca.pem'}", f"run.tls_cert={tls / 'cert.pem'}", f"run.tls_key={tls / 'key.pem'}"]
    settings = load_settings(None, [*files, "run.worker_wait_s=3"])
    stage, store = Copying(make_items({f"i{n}": "text" for n in range(8)})), Store.create(tmp_path / "store")
    with hand_made_cluster(tmp_path / "cluster", workers=1, tls=tls) as cluster:
        with (
            pytest.raises(ConfigError, match=r"run\.tls_ca_file, found nothing"),
            DaskCluster(str(cluster.file), SETTINGS),
        ):
            pass
        with DaskCluster(str(cluster.file), settings) as executor:
            assert executor.where.startswith("Dask cluster at tls://")
            assert {status.result for status in run(executor, stage, store).values()} == {"ok"}
            os.killpg(cluster.processes[-1].pid, signal.SIGKILL)
            with pytest.raises(MumoError, match="has had no worker for"):
                run(executor, Copying(make_items({"late": "text"})), store)


@pytest.mark.slow
def test_dask_cluster__embed_waits_for_a_worker_with_the_resource(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = load_settings(None, ["run.embed_resource=GPU", "run.worker_wait_s=3"])
    monkeypatch.setattr("mumo.pipeline.running.cluster._LOOK_EVERY_S", 1.0)
    stage, store = Copying(make_items({"slide-1": "text"}, stage="embed")), Store.create(tmp_path / "store")
    tiles = Copying(make_items({"slide-1": "text"}))
    with hand_made_cluster(tmp_path / "cluster", workers=1) as cluster:
        with DaskCluster(str(cluster.file), settings) as executor:
            assert run(executor, tiles, store)["slide-1"].result == "ok"
            with pytest.raises(MumoError, match="no worker with the resource 'GPU'"):
                run(executor, stage, store)
            assert "no worker with the resource 'GPU' (run.embed_resource); waiting up to 3 s" in caplog.text
        cluster.add_worker("--resources", "GPU=1")
        patient = load_settings(None, ["run.embed_resource=GPU", "run.worker_wait_s=60"])
        with DaskCluster(str(cluster.file), patient) as executor:
            assert run(executor, stage, store)["slide-1"].result == "ok"


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tls://cluster.example:1", "[::1]:1"])
def test_check_address__this_machine_and_tls_are_fine(address: str) -> None:
    check_address(address, allowed=False)


@pytest.mark.parametrize("address", ["tcp://10.0.0.5:8786", "tcp://cluster.example:1", "10.0.0.5:1", "tcp://0.0.0.0:1"])
def test_check_address__another_machine_without_tls_must_be_allowed(address: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        check_address(address, allowed=False)
    check_address(address, allowed=True)


def test_check_address__unknown_protocol() -> None:
    with pytest.raises(ConfigError, match="expected tcp://"):
        check_address("ucx://127.0.0.1:1", allowed=True)


def test_scheduler_address__file_without_an_address(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"scheduler.json: cannot be read: KeyError"):
        scheduler_address(str(tmp_path / "scheduler.json"))

"""The machinery on an object store: executors, two drivers, a killed driver, and the whole of `extract all`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
import s3fs
from clusters import hand_made_cluster
from object_stores import KEY_ID, SECRET
from stand_in_stages import Copying, Quiet, make_items

from mumo.config import Settings
from mumo.pipeline.extract import Choice, run_stage
from mumo.pipeline.running.cluster import DaskCluster
from mumo.pipeline.running.execute import InProcess
from mumo.pipeline.running.ledger import Ledger
from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.stores.places import parse_place
from mumo.stores.records import Store
from mumo.stores.specs import STAGES

DRIVER = """
import sys
from pathlib import Path
from stand_in_stages import Quiet, Tallying, make_items
from mumo.config import load_settings
from mumo.pipeline.extract import Choice, run_stage
from mumo.pipeline.running.execute import LocalProcesses
from mumo.stores.places import parse_place
from mumo.stores.records import Store
settings = load_settings(None, ["run.lease_expiry_s=20"])
stage = Tallying(make_items({f"i{n}": sys.argv[2] for n in range(int(sys.argv[3]))}))
with LocalProcesses(2, settings) as executor:
    store = Store.create(parse_place(sys.argv[1]))
    report = run_stage(stage, None, store, settings, Choice(("tiles",)), executor, Quiet())
print(report.ok, report.up_to_date, len(report.failed))
"""


@pytest.fixture
def url(bucket: str) -> str:
    return f"{bucket}/store"


def driver(url: str, tally: Path, items: int) -> subprocess.Popen[str]:
    support = Path(__file__).parents[2] / "support"
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, url, str(tally), str(items)],
        env={**os.environ, "PYTHONPATH": str(support)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def objects(url: str) -> list[str]:
    return [str(name) for name in s3fs.S3FileSystem(use_listings_cache=False).find(url)]


def test_extract__in_memory(tmp_path: Path) -> None:
    """One process, no server: a store of another kind that fsspec knows, with its ledger."""
    store, settings = Store.create(parse_place(f"memory://{uuid.uuid4().hex}")), Settings()
    local = Store.create(tmp_path / "local")
    stage = Copying(make_items({"a": "fine", "b": "refuse", "c": "warn"}))
    for where in (store, local):
        with Ledger.start(where, settings, {}, "here") as ledger:
            report = run_stage(
                stage,
                None,
                where,
                settings,
                Choice(("tiles",)),
                InProcess(),
                Quiet(),
                ledger,  # type: ignore[arg-type]
            )
        assert (report.ok, list(report.failed)) == (2, ["b"])
    assert store.digest(["tiles"]) == local.digest(["tiles"])
    assert store.failures("tiles") == local.failures("tiles")
    (run,) = store.files.names(store.path / "runs")
    names = {"failures.csv", "items.parquet", "log.jsonl", "run.json", "summary.txt"}
    assert set(store.files.names(store.path / "runs" / run)) == names
    summary = (store.files.read(store.path / "runs" / run / "summary.txt") or b"").decode()
    assert f"{run}: finished" in summary
    again = run_stage(stage, None, store, settings, Choice(("tiles",)), InProcess(), Quiet())  # type: ignore[arg-type]
    assert (again.ok, again.up_to_date) == (0, 2)


@pytest.mark.slow
def test_extract__two_drivers_compute_each_item_once(url: str, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    drivers = [driver(url, tally, 60) for _ in range(2)]
    said = [process.communicate(timeout=200)[0].split() for process in drivers]
    assert [process.returncode for process in drivers] == [0, 0]
    counts = Counter(tally.read_text().split())
    assert len(counts) == 60
    assert set(counts.values()) == {1}
    assert sum(int(ok) for ok, _, _ in said) == 60
    assert all(int(ok) > 0 for ok, _, _ in said), "both took part"
    assert not [name for name in objects(url) if "/leases/" in name or "/staging/" in name or "/drivers/" in name]


@pytest.mark.slow
def test_extract__a_killed_driver_leaves_nothing_that_counts_and_the_next_goes_on(url: str, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    first = driver(url, tally, 60)
    store = Store(parse_place(url))
    until = time.monotonic() + 120
    while len(store.records("tiles")) < 10:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    done = store.records("tiles")
    assert 10 <= len(done) < 60
    for item in done:
        assert (store.part("tiles", item, "text.txt")).read_text() == "x"
    assert driver(url, tally, 60).communicate(timeout=200)[0].split() == [str(60 - len(done)), str(len(done)), "0"]
    undisturbed = Store.create(tmp_path / "undisturbed")
    whole = driver(str(undisturbed.path), tmp_path / "other", 60)
    assert whole.wait(timeout=200) == 0
    assert store.digest(["tiles"]) == undisturbed.digest(["tiles"])
    assert not [name for name in objects(url) if "/leases/" in name or "/staging/" in name]
    assert len([name for name in objects(url) if "/items/" in name]) == 60


@pytest.mark.slow
def test_commands__on_an_object_store_do_what_they_do_on_a_disk(url: str, tmp_path: Path) -> None:
    """`extract all`, `status`, `fit` and `predict`; the store equals a local one, and no secret is anywhere."""
    cohort = write_cohort(tmp_path / "cohort", patients=8).cohort_file
    environment = {**os.environ, "MUMO_CACHE": str(tmp_path / "cache")}

    def mumo(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mumo.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    extract = ("extract", "all", str(cohort), "--config", str(cohort.with_name("demo.toml")), "--workers", "2")
    said = [mumo(*extract, url), mumo(*extract, str(tmp_path / "local"))]
    assert [done.returncode for done in said] == [0, 0], said[0].stderr
    store, local = Store(parse_place(url)), Store(tmp_path / "local")
    assert store.digest(STAGES) == local.digest(STAGES)
    said.append(mumo("status", url, "--digest", "--json"))
    assert store.digest(STAGES) in said[-1].stdout
    said.append(mumo(*extract, url, "--dry-run"))
    assert ", 0 new, 0 stale, 0 failed, 0 waiting" in said[-1].stdout
    settings = ["--set", "fit.epochs=2", "--set", "fit.bootstrap=10"]
    for number, where in enumerate((url, str(tmp_path / "local"))):
        said.append(mumo("fit", where, str(tmp_path / f"run-{number}"), *settings))
        said.append(mumo("predict", str(tmp_path / f"run-{number}"), where, str(tmp_path / f"out-{number}.parquet")))
    assert [done.returncode for done in said] == [0] * len(said), [done.stderr for done in said]
    assert (tmp_path / "out-0.parquet").read_bytes() == (tmp_path / "out-1.parquet").read_bytes()
    assert not [name for name in objects(url) if "/packed/" in name], "packs stay on this machine"
    stored = [store.files.read(parse_place(f"s3://{name}")) or b"" for name in objects(url)]
    files = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    printed = [text.encode() for done in said for text in (done.stdout, done.stderr)]
    assert len(stored) > 50
    for text in (*stored, *files, *printed):
        assert SECRET.encode() not in text
        assert KEY_ID.encode() not in text


@pytest.mark.slow
def test_extract__an_unknown_bucket_is_refused_at_once(url: str, tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", patients=8).cohort_file
    command = [sys.executable, "-m", "mumo.cli", "extract", "clinical", str(cohort), "s3://no-such-bucket/store"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: store s3://no-such-bucket/store: cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_extract__on_a_dask_cluster_started_by_hand(url: str, tmp_path: Path) -> None:
    stage, settings = Copying(make_items({f"i{n}": f"text {n}" for n in range(8)} | {"bad": "refuse"})), Settings()
    store, local = Store.create(parse_place(url)), Store.create(tmp_path / "local")
    run_stage(stage, None, local, settings, Choice(("tiles",)), InProcess(), Quiet())  # type: ignore[arg-type]
    with (
        hand_made_cluster(tmp_path / "cluster") as cluster,
        DaskCluster(str(cluster.file), settings) as executor,
    ):
        report = run_stage(stage, None, store, settings, Choice(("tiles",)), executor, Quiet())  # type: ignore[arg-type]
    assert (report.ok, list(report.failed)) == (8, ["bad"])
    assert store.digest(["tiles"]) == local.digest(["tiles"])
    assert not [name for name in objects(url) if "/leases/" in name or "/staging/" in name or "/drivers/" in name]

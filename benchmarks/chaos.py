"""A bad weekend: everything is killed at random moments and started again; the store must come out the same.

A small synthetic cohort is extracted in one process, on four processes and on a Dask cluster started by hand; then
again and again while the driver, its processes and the cluster are killed with SIGKILL at twenty random moments; and
once more so with the store behind a local S3-compatible server.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.stores.files import files_of
from mumo.stores.places import Place, parse_place
from mumo.stores.records import Store, digest_part
from mumo.stores.specs import STAGES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

PATIENTS, KILLS, SEED = 8, 20, 20261124


def main() -> None:
    """Print whether every way of running gives the same store, and what the kills hit."""
    chance = random.Random(SEED)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_cohort(folder / "cohort", patients=PATIENTS).cohort_file
        digests = {"in process": _undisturbed(cohort, folder / "one", "--workers", "0")}
        digests["4 processes"] = _undisturbed(cohort, folder / "four", "--workers", "4")
        with ExitStack() as stack:
            where = _cluster(stack, folder / "dask")
            digests["Dask, 2 workers started by hand"] = _undisturbed(cohort, folder / "two", *where)
        for way, digest in digests.items():
            print(f"chaos: {way}: {digest[:16]}", flush=True)
        assert len(set(digests.values())) == 1, "the ways of running differ"
        kills, stores, hit = 0, 0, dict.fromkeys(STAGES, 0)
        while kills < KILLS or stores % 2:
            stores += 1
            store = folder / f"killed-{stores}"
            kills += _killed_until_done(cohort, store, chance, hit, on_cluster=stores % 2 == 0)
            _check(store, next(iter(digests.values())))
        print(f"chaos: {kills} kills over {stores} stores (at work then: {hit}): every store equal, no leftovers")
        _in_object_store(cohort, next(iter(digests.values())), chance)


def _in_object_store(cohort: Path, digest: str, chance: random.Random) -> None:
    from object_stores import s3_server

    with s3_server() as server:
        os.environ.update(server.environment)
        store = parse_place("s3://chaos/store")
        store.fs.mkdir("chaos")
        hit = dict.fromkeys(STAGES, 0)
        kills = _killed_until_done(cohort, store, chance, hit, on_cluster=False)
        _check(store, digest)
    print(f"chaos: {kills} kills over a store behind S3 (at work then: {hit}): it is equal, no leftovers")


def _command(cohort: Path, store: Place, *where: str) -> list[str]:
    settings = cohort.with_name("demo.toml")
    start = [sys.executable, "-m", "mumo.cli", "extract", "all", str(cohort), str(store)]
    return [*start, "--config", str(settings), *where]


def _undisturbed(cohort: Path, store: Path, *where: str) -> str:
    done = subprocess.run(_command(cohort, store, *where), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Store(store).digest(STAGES)


def _cluster(stack: ExitStack, folder: Path) -> list[str]:
    from clusters import hand_made_cluster

    return ["--scheduler", str(stack.enter_context(hand_made_cluster(folder)).file)]


def _killed_until_done(cohort: Path, store: Place, chance: random.Random, hit: dict[str, int], on_cluster: bool) -> int:
    """Run, kill everything after a random number of further items and a random wait, run again, until it is done."""
    kills = 0
    while True:
        with ExitStack() as stack:
            where = _cluster(stack, store.with_name(f"{store.name}-dask-{kills}")) if on_cluster else ["--workers", "2"]
            quiet = subprocess.DEVNULL
            driver = subprocess.Popen(
                _command(cohort, store, *where), start_new_session=True, stdout=quiet, stderr=quiet
            )
            goal = _items(store) + chance.randint(0, 5)
            while driver.poll() is None and _items(store) <= goal:
                time.sleep(0.01 if isinstance(store, Path) else 0.3)
            time.sleep(chance.uniform(0, 1.0))
            if driver.poll() is None:
                kills += 1
                stage = next((s for s in reversed(STAGES) if files_of(store).names(store / s / "leases")), None)
                if stage is not None:
                    hit[stage] += 1
                os.killpg(driver.pid, signal.SIGKILL)
            elif driver.returncode != 0:
                raise AssertionError(f"extract returned {driver.returncode}")
            else:
                return kills
            driver.wait()
        _check_content(store)


def _items(store: Place) -> int:
    return sum(len(files_of(store).names(store / stage / "records")) for stage in STAGES)


def _check_content(store: Place) -> None:
    """Whatever has a record is whole."""
    opened = Store(store)
    for stage in STAGES:
        for item, record in opened.records(stage).items():
            for part, digest in record.parts.items():
                found = _digest(opened.part(stage, item, part))
                assert found == digest, f"{stage}/{item}/{part} is not whole"


def _digest(part: Place) -> str:
    if isinstance(part, Path):
        return digest_part(part)
    with tempfile.TemporaryDirectory() as folder:
        part.fs.get(part.path, f"{folder}/part", recursive=part.name.endswith(".zarr"))
        return digest_part(Path(folder) / "part")


def _check(store: Place, digest: str) -> None:
    _check_content(store)
    assert Store(store).digest(STAGES) == digest, "the resumed store differs"
    names = files_of(store).names
    assert not names(store / "drivers")
    for stage in STAGES:
        left = [*names(store / stage / "staging"), *names(store / stage / "leases")]
        assert not left, left
        for item in names(store / stage / "items"):
            assert len(names(store / stage / "items" / item)) == 1, f"{stage}/{item}"

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mumo.stores.leases import Leases
from mumo.stores.owners import new_owner_name, owner_state
from mumo.stores.records import Store

OWNER = "from mumo.stores.owners import new_owner_name; print(new_owner_name())"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


@pytest.fixture
def leases(store: Store) -> Iterator[Leases]:
    with Leases(store, expiry_s=1.2) as held:
        yield held


def lease_file(store: Store, owner: str) -> Path:
    file = store.path / "tiles/leases/slide-1"
    file.parent.mkdir(parents=True)
    file.write_text(owner)
    return file


def test_owner_state__living_dead_and_elsewhere() -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    assert owner_state(new_owner_name()) is True
    assert owner_state(dead) is False
    assert owner_state("00000000-1-00000000") is None


def test_leases__one_taker_at_a_time(store: Store, leases: Leases) -> None:
    with Leases(store, expiry_s=1.2) as other:
        assert leases.take("tiles", "slide-1")
        assert not other.take("tiles", "slide-1")
        assert other.take("tiles", "slide-2")
        leases.release("tiles", "slide-1")
        assert other.take("tiles", "slide-1")
    assert not list((store.path / "tiles/leases").iterdir())


def test_leases__of_a_dead_process_are_void_at_once(store: Store, leases: Leases) -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    lease_file(store, dead)
    assert leases.take("tiles", "slide-1")


def test_leases__of_another_machine_are_void_when_not_touched(store: Store, leases: Leases) -> None:
    file = lease_file(store, "00000000-1-00000000")
    assert not leases.take("tiles", "slide-1")
    past = time.time() - 5
    os.utime(file, (past, past))
    assert leases.take("tiles", "slide-1")


def test_leases__are_kept_alive_while_held(store: Store, leases: Leases) -> None:
    assert leases.take("tiles", "slide-1")
    file = store.path / "tiles/leases/slide-1"
    os.utime(file, (0, 0))
    time.sleep(0.6)
    assert time.time() - file.stat().st_mtime < 1


def test_leases__taken_over_stay_with_the_new_owner(store: Store, leases: Leases) -> None:
    assert leases.take("tiles", "slide-1")
    file = store.path / "tiles/leases/slide-1"
    file.write_text("00000000-1-00000000")
    leases.release("tiles", "slide-1")
    assert file.exists()


def test_leases__sweep_removes_what_is_void(store: Store, leases: Leases) -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    lease_file(store, dead)
    folder = store.path / "tiles/leases"
    (folder / f".clock~{dead}").touch()
    assert leases.take("tiles", "slide-2")
    (folder / "slide-3").write_text("00000000-1-00000000")
    leases.sweep("tiles")
    assert {file.name for file in folder.iterdir()} == {"slide-2", "slide-3"}

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from mumo.stores.files import LocalFiles
from mumo.stores.leases import Leases
from mumo.stores.owners import new_owner_name, owner_state
from mumo.stores.records import Store

ELSEWHERE = "00000000-1-00000000"
OWNER = "from mumo.stores.owners import new_owner_name; print(new_owner_name())"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "s")


@pytest.fixture
def leases(store: Store) -> Iterator[Leases]:
    with Leases(store, expiry_s=1.2) as held:
        yield held


def lease_file(store: Store, owner: str, item: str = "slide-1") -> Path:
    file = store.path / "tiles/leases" / item
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(owner)
    return file


def test_owner_state__living_dead_and_elsewhere() -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    assert owner_state(new_owner_name()) is True
    assert owner_state(dead) is False
    assert owner_state(ELSEWHERE) is None


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


def test_leases__of_another_machine_are_void_when_it_gives_no_sign(store: Store, leases: Leases) -> None:
    lease_file(store, ELSEWHERE)
    sign = store.path / "drivers" / ELSEWHERE
    sign.write_text(ELSEWHERE)
    assert not leases.take("tiles", "slide-1")
    past = time.time() - 5
    os.utime(sign, (past, past))
    time.sleep(0.3)  # a driver that was seen alive is not asked for again at once
    assert leases.take("tiles", "slide-1")
    assert not list((store.path / "tiles/leases").glob(".claim*"))


def test_leases__without_content_are_judged_by_their_age(store: Store, leases: Leases) -> None:
    """Between its creation and its content, a lease is empty for a moment; or for ever, when its taker died there."""
    file = lease_file(store, "")
    assert not leases.take("tiles", "slide-1")
    past = time.time() - 5
    os.utime(file, (past, past))
    time.sleep(0.3)
    assert leases.take("tiles", "slide-1")


def test_leases__drivers_give_signs_while_they_work_and_leave_none(store: Store) -> None:
    with Leases(store, expiry_s=1.2) as leases:
        (sign,) = (store.path / "drivers").iterdir()
        os.utime(sign, (0, 0))
        time.sleep(0.6)
        assert time.time() - sign.stat().st_mtime < 1
        assert abs(leases.now() - time.time()) < 1
    assert not list((store.path / "drivers").iterdir())


def test_leases__of_several_takers_one_gets_a_void_one(store: Store) -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    for n in range(30):
        lease_file(store, dead, f"slide-{n}")
    with ExitStack() as stack:
        takers = [stack.enter_context(Leases(store, expiry_s=60)) for _ in range(4)]
        with ThreadPoolExecutor(4) as threads:
            taken = list(threads.map(lambda taker: {n for n in range(30) if taker.take("tiles", f"slide-{n}")}, takers))
        for n in range(30):
            assert sum(n in mine for mine in taken) <= 1
        missed = set(range(30)).difference(*taken)
        assert all(takers[0].take("tiles", f"slide-{n}") for n in missed)


def test_leases__a_claim_of_a_dead_taker_is_removed(store: Store, leases: Leases) -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    lease_file(store, dead)
    claim = store.path / f"tiles/leases/.claim~slide-1~{dead}"
    claim.write_text(dead)
    assert not leases.take("tiles", "slide-1")
    assert not claim.exists()
    assert leases.take("tiles", "slide-1")


def test_leases__taken_over_stay_with_the_new_owner(store: Store, leases: Leases) -> None:
    assert leases.take("tiles", "slide-1")
    file = store.path / "tiles/leases/slide-1"
    file.write_text(ELSEWHERE)
    leases.release("tiles", "slide-1")
    assert file.exists()


def test_leases__a_storage_without_exclusive_creation_is_named(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Some servers that speak the protocol of S3 take a conditional put for a plain one."""
    with Leases(store, expiry_s=60):
        assert "exclusive creation" not in caplog.text

    def overwrite(self: LocalFiles, place: Path, data: bytes) -> bool:
        self.write(place, data)
        return True

    monkeypatch.setattr(LocalFiles, "create", overwrite)
    with Leases(store, expiry_s=60):
        assert "does not know exclusive creation" in caplog.text


def test_leases__created_ones_whose_answer_was_lost_are_held(
    store: Store, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is repeated after a lost answer finds the file that it has made itself."""
    create = LocalFiles.create
    monkeypatch.setattr(LocalFiles, "create", lambda *arguments: create(*arguments) and False)
    assert leases.take("tiles", "slide-1")
    leases.release("tiles", "slide-1")
    assert not list((store.path / "tiles/leases").iterdir())


def test_leases__sweep_removes_what_is_void(store: Store, leases: Leases) -> None:
    dead = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()
    lease_file(store, dead)
    folder = store.path / "tiles/leases"
    (folder / f".claim~slide-9~{dead}").write_text(dead)
    (store.path / "drivers" / dead).write_text(dead)
    (store.path / "drivers" / f".{dead}.{dead}").write_text("half written")
    being_written = store.path / "drivers" / f".{ELSEWHERE}.{ELSEWHERE}"
    being_written.write_text("by a driver elsewhere")
    assert leases.take("tiles", "slide-2")
    lease_file(store, ELSEWHERE, "slide-3")
    (store.path / "drivers" / ELSEWHERE).write_text(ELSEWHERE)
    leases.sweep("tiles")
    assert {file.name for file in folder.iterdir()} == {"slide-2", "slide-3"}
    assert not [file for file in (store.path / "drivers").iterdir() if dead in file.name]
    assert being_written.exists()

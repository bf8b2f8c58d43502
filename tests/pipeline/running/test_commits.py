from __future__ import annotations

import errno
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mumo.pipeline.running.commits import Committer, finished
from mumo.pipeline.running.tasks import Computed, Loss, Status
from mumo.stores.files import LocalFiles
from mumo.stores.records import Prepared, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def prepare(store: Store, item: str) -> Prepared:
    staging = store.begin("tiles", item)
    (staging / "part").write_text(item)
    return store.prepare("tiles", item, staging, depends={}, status="ok", summary={}, seconds=0.0)


def test_committer__items_that_come_during_a_flush_share_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, groups = threading.Event(), list[int]()
    flush = LocalFiles.flush

    def slow(self: LocalFiles, folders: Sequence[Any]) -> None:
        groups.append(len(folders))
        began.set()
        time.sleep(0.3)
        flush(self, folders)

    monkeypatch.setattr(LocalFiles, "flush", slow)
    prepared = [prepare(store, f"i{n}") for n in range(9)]
    with Committer() as committer:
        first = committer.submit(store, prepared[0])
        assert began.wait(10)
        others = [committer.submit(store, entry) for entry in prepared[1:]]
        assert store.records("tiles") == {}
        assert [future.result(10).item for future in (first, *others)] == [f"i{n}" for n in range(9)]
    assert groups == [1, 8, 1], "one item, the eight that came meanwhile, and the records at the end"


def test_committer__close_publishes_what_was_submitted(store: Store) -> None:
    committer = Committer()
    for n in range(20):
        committer.submit(store, prepare(store, f"i{n}"))
    committer.close()
    assert len(store.records("tiles")) == 20
    committer.submit(store, prepare(store, "late"))
    committer.close()
    assert len(store.records("tiles")) == 21


def test_committer__a_disk_that_cannot_flush_fails_the_group(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [True, False, False]

    def flush(self: LocalFiles, folders: Sequence[Any]) -> None:
        if broken.pop(0):
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(LocalFiles, "flush", flush)
    prepared = [prepare(store, "a"), prepare(store, "b")]
    with Committer() as committer:
        lost = committer.submit(store, prepared[0])
        assert isinstance(lost.exception(10), OSError)
        assert committer.submit(store, prepared[1]).result(10).item == "b"
    assert store.records("tiles").keys() == {"b"}
    computed = Computed(prepared[0], Status("tiles", "a", "ok", 1.0, attempts=2))
    loss = finished(computed, lost, time.perf_counter())
    assert isinstance(loss, Loss)
    assert (loss.error, loss.attempts) == ("OSError", 2)
    assert "no space left" in loss.message


def test_finished__waiting_for_the_flush_counts_as_commit(store: Store) -> None:
    prepared = prepare(store, "a")
    with Committer() as committer:
        future = committer.submit(store, prepared)
        future.result(10)
    computed = Computed(prepared, Status("tiles", "a", "ok", 1.0, compute_s=0.9, commit_s=0.1))
    status = finished(computed, future, time.perf_counter() - 0.5)
    assert isinstance(status, Status)
    assert 1.5 <= status.seconds < 2
    assert 0.6 <= status.commit_s < 1.1
    assert status.compute_s == 0.9

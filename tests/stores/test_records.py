from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mumo.errors import StoreError
from mumo.stores.files import LocalFiles
from mumo.stores.flush import flush
from mumo.stores.records import Failure, Prepared, Record, Store, changes, digest_part, fingerprint, is_safe_id

OWNER = "from mumo.stores.owners import new_owner_name; print(new_owner_name())"
DEPENDS = {"stage": "tiles", "version": 1, "settings": {"a": 1}}


def prepare(store: Store, item: str) -> Prepared:
    staging = store.begin("tiles", item)
    (staging / "part.txt").write_text(item)
    return store.prepare("tiles", item, staging, depends=DEPENDS, status="ok", summary={}, seconds=1.0)


def commit(store: Store, item: str = "slide-1", text: str = "pixels", **more: object) -> None:
    staging = store.begin("tiles", item)
    (staging / "part.txt").write_text(text)
    values = {"depends": DEPENDS, "status": "ok", "summary": {}, "seconds": 1.0, **more}
    store.commit("tiles", item, staging, **values)  # type: ignore[arg-type]


def test_store__commit_makes_an_item_readable(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    assert store.part("tiles", "slide-1", "part.txt").read_text() == "pixels"
    record = store.record("tiles", "slide-1")
    assert record is not None
    assert record.fingerprint == fingerprint(DEPENDS)
    assert list((store.path / "tiles" / "staging").iterdir()) == []


def test_store__item_without_record_does_not_exist_and_is_swept(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    (store.path / "tiles/records/slide-1.json").unlink()
    with pytest.raises(StoreError, match="not in the store"):
        store.part("tiles", "slide-1", "part.txt")
    (folder,) = (store.path / "tiles/items/slide-1").iterdir()
    assert store.sweep("tiles") == 0, "its process lives and may be about to write the record"
    child = subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True)
    folder.rename(folder.with_name(child.stdout.strip()))
    assert store.sweep("tiles") == 1
    assert list((store.path / "tiles/items/slide-1").iterdir()) == []


def test_store__two_commits_of_one_item_at_once_leave_one_whole_item(tmp_path: Path) -> None:
    """Two threads commit different content of one item again and again; what is read always fits its record."""
    store = Store.create(tmp_path / "s")

    def write(text: str) -> None:
        for _ in range(40):
            commit(store, text=text)

    threads = [threading.Thread(target=write, args=(text * 1000,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = store.record("tiles", "slide-1")
    assert record is not None
    assert digest_part(store.part("tiles", "slide-1", "part.txt")) == record.parts["part.txt"]


def test_store__sweep_spares_the_living_and_removes_the_dead(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    alive = store.begin("tiles", "slide-1")
    code = (
        "import sys, pathlib; from mumo.stores.records import *; Store(pathlib.Path(sys.argv[1])).begin('tiles', 'x')"
    )
    subprocess.run([sys.executable, "-c", code, str(store.path)], check=True)
    assert len(list((store.path / "tiles/staging").iterdir())) == 2
    assert store.sweep("tiles") == 1
    assert list((store.path / "tiles/staging").iterdir()) == [alive]


def test_store__killed_at_every_system_call_of_a_commit_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """A child is killed at the n-th rename, unlink, fsync or open of a commit, for n = 1, 2, ... until it survives.

    What is stored is the old content or the new, whole, at every one of them; the sweep leaves nothing else.
    """
    code = """
import os, sys, signal, pathlib
from mumo.stores import records
store, n = records.Store(pathlib.Path(sys.argv[1])), int(sys.argv[2])
staging = store.begin("tiles", "slide-1")
(staging / "part.txt").write_text("new")
count = 0
def hook(event, args):
    global count
    if event in ("os.rename", "os.remove", "os.rmdir", "open", "os.mkdir", "shutil.rmtree"):
        count += 1
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
store.commit("tiles", "slide-1", staging, depends={"v": 2}, status="ok", summary={}, seconds=0.0)
"""
    outcomes = []
    for n in range(1, 100):
        store = Store.create(tmp_path / f"s{n}")
        commit(store, text="old")
        done = subprocess.run([sys.executable, "-c", code, str(store.path), str(n)], check=False)
        store.sweep("tiles")
        record = store.record("tiles", "slide-1")
        assert record is not None
        part = store.part("tiles", "slide-1", "part.txt")
        assert [file.name for file in (store.path / "tiles/records").iterdir()] == ["slide-1.json"]
        assert record.parts["part.txt"] == digest_part(part)
        assert part.read_text() == ("new" if record.depends == {"v": 2} else "old")
        outcomes.append(part.read_text())
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    else:
        pytest.fail("the commit never survived")
    assert outcomes[-1] == "new"
    assert set(outcomes) == {"old", "new"}


def test_store__a_group_is_flushed_once_before_any_record_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut may take back is never named by a record: every flush comes before the records it is for."""
    store = Store.create(tmp_path / "s")
    commit(store, "slide-2", "old")
    events: list[str] = []
    write, flush, remove = LocalFiles.write, LocalFiles.flush, LocalFiles.remove_folder
    monkeypatch.setattr(LocalFiles, "write", lambda s, p, d: events.append(f"write {p.name}") or write(s, p, d))
    monkeypatch.setattr(LocalFiles, "flush", lambda s, p: events.append(f"flush {len(p)}") or flush(s, p))
    monkeypatch.setattr(LocalFiles, "remove_folder", lambda s, p: events.append("remove") or remove(s, p))
    group = [prepare(store, f"slide-{n}") for n in range(4)]
    assert events == []
    assert [r.item for r in store.publish(group) if isinstance(r, Record)] == [f"slide-{n}" for n in range(4)]
    assert events == ["flush 4", *(f"write slide-{n}.json" for n in range(4)), "flush 1", "remove"]


def test_store__of_a_group_only_the_item_that_cannot_be_moved_fails(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    group = [prepare(store, f"slide-{n}") for n in range(3)]
    shutil.rmtree(group[1].staging)
    results = store.publish(group)
    assert isinstance(results[1], FileNotFoundError)
    assert store.records("tiles").keys() == {"slide-0", "slide-2"}


def test_store__no_record_where_the_disk_cannot_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(tmp_path / "s")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr("mumo.stores.files.flush", broken)
    with pytest.raises(OSError, match="input/output error"):
        commit(store)
    assert store.records("tiles") == {}


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b'{"stage": "tiles", "item"'])
def test_store__a_record_that_a_power_cut_has_cut_short_does_not_count(
    tmp_path: Path, left: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    (store.path / "tiles/records/slide-1.json").write_bytes(left)
    assert store.records("tiles") == {}
    assert store.record("tiles", "slide-1") is None
    assert "records/slide-1.json: not readable" in caplog.text
    commit(store)
    assert store.records("tiles").keys() == {"slide-1"}


def test_flush__each_file_where_file_systems_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "items" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "items" / "a" / "deep" / "part").write_text("x")
    flushed: list[str] = []
    monkeypatch.setattr("mumo.stores.flush._flush_file_system", lambda folder: False)
    monkeypatch.setattr("mumo.stores.flush._fsync", lambda path: flushed.append(path.name))
    flush([tmp_path / "items" / "a"])
    assert flushed == ["deep", "part", "a", "items", tmp_path.name]


def test_store__failure_hides_what_an_earlier_run_stored_until_success(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    store.fail(Failure("tiles", "slide-1", "f", "InputError", "unreadable", 1))
    assert store.record("tiles", "slide-1") is None
    assert store.failures("tiles")["slide-1"].message == "unreadable"
    commit(store)
    assert store.failures("tiles") == {}


def test_store__other_format_version_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    file = store.path / "tiles/records/slide-1.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(StoreError, match="format version 99"):
        store.records("tiles")
    (store.path / "store.json").write_text('{"format_version": 99}')
    with pytest.raises(StoreError, match="format version 99"):
        Store.open(store.path)


def test_store__foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(StoreError, match="not a mumo store"):
        Store.create(tmp_path)
    with pytest.raises(StoreError, match="not a mumo store"):
        Store.open(tmp_path / "nowhere")


def test_store__made_by_many_at_once(tmp_path: Path) -> None:
    for n in range(20):
        with ThreadPoolExecutor(8) as threads:
            made = list(threads.map(Store.create, [tmp_path / f"s{n}"] * 8))
        assert len(set(made)) == 1


def test_store__unknown_part_is_named_with_those_that_exist(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    commit(store)
    with pytest.raises(StoreError, match=r"no part 'pixels.zarr', only \['part.txt'\]"):
        store.part("tiles", "slide-1", "pixels.zarr")


def test_store__digest_depends_on_content_alone(tmp_path: Path) -> None:
    one, two = Store.create(tmp_path / "1"), Store.create(tmp_path / "2")
    for store, seconds in ((one, 1.0), (two, 2.0)):
        commit(store, seconds=seconds)
    assert one.digest(["tiles"]) == two.digest(["tiles"])
    commit(two, text="other pixels")
    assert one.digest(["tiles"]) != two.digest(["tiles"])


@pytest.mark.parametrize(
    "name", ["", ".hidden", "../up", "a/b", "a\\b", "a b", "ä", "-rf", "x" * 101, "dot.", "a\n", "a~b"]
)
def test_is_safe_id__refuses_what_cannot_be_a_file_name(name: str, tmp_path: Path) -> None:
    assert not is_safe_id(name)
    with pytest.raises(StoreError, match="safe name"):
        Store.create(tmp_path / "s").begin("tiles", name)


def test_changes__names_what_differs() -> None:
    old = {"settings": {"a": 1, "b": {"c": 2}}, "version": 1}
    assert changes(old, {"settings": {"a": 1, "b": {"c": 3, "d": 1}}, "version": 2}) == [
        "settings.b.c",
        "settings.b.d",
        "version",
    ]
    assert changes(old, old) == []


def test_digest_part__sees_names_and_boundaries(tmp_path: Path) -> None:
    folders = []
    for name, files in {"x": {"a": "12", "b": "3"}, "y": {"a": "1", "b": "23"}, "z": {"a": "12", "c": "3"}}.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
        folders.append(digest_part(tmp_path / name))
    assert len(set(folders)) == 3
    os.utime(tmp_path / "x" / "a", (0, 0))
    assert digest_part(tmp_path / "x") == folders[0]

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from object_stores import KEY_ID, SECRET, Server

from mumo.errors import ConfigError, StoreError
from mumo.stores.arrays import create_group, open_array, open_group, write_array
from mumo.stores.files import files_of
from mumo.stores.leases import Leases
from mumo.stores.places import Place, cache_folder, parse_place
from mumo.stores.records import Failure, Prepared, Store, digest_part
from mumo.stores.specs import WINDOWS, WORD_FEATURES
from mumo.stores.tables import read_rows, write_table

OWNER = "from mumo.stores.owners import new_owner_name; print(new_owner_name())"
DEPENDS = {"stage": "tiles", "version": 1}


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "memory":
        return parse_place(f"memory://{uuid.uuid4().hex}/store")
    return parse_place(f"{request.getfixturevalue('bucket')}/some/store")


@pytest.fixture
def store(place: Place) -> Store:
    return Store.create(place)


def prepare(store: Store, text: str = "pixels", publisher: int | None = None, **more: Any) -> Prepared:
    staging = store.begin("tiles", "slide-1")
    (staging / "deep").mkdir()
    (staging / "deep" / "part.txt").write_text(text)
    values = {"depends": DEPENDS, "status": "ok", "summary": {}, "seconds": 1.0, **more}
    return store.prepare("tiles", "slide-1", staging, publisher=publisher, **values)


def commit(store: Store, text: str = "pixels") -> None:
    (result,) = store.publish([prepare(store, text)])
    assert not isinstance(result, Exception)


def read(store: Store) -> str:
    return (store.part("tiles", "slide-1", "deep") / "part.txt").read_text()


def keys(store: Store, folder: str = "") -> set[str]:
    """All objects under a folder of the store, by their names in it."""
    base = store.path / folder if folder else store.path
    return {name[len(base.path) + 1 :] for name in base.fs.find(base.path)}  # type: ignore[union-attr]


def dead_owner() -> str:
    return subprocess.run([sys.executable, "-c", OWNER], check=True, capture_output=True, text=True).stdout.strip()


def dead_process() -> int:
    return int(dead_owner().split("-")[1])


def test_store__an_item_is_there_once_its_record_is(store: Store) -> None:
    prepared = prepare(store)
    assert store.record("tiles", "slide-1") is None
    with pytest.raises(StoreError, match="not in the store"):
        read(store)
    assert not prepared.staging.exists(), "what was uploaded does not stay among the temporary files"
    store.publish([prepared])
    assert read(store) == "pixels"
    assert keys(store, "tiles/staging") == set()
    assert Store.open(store.path).records("tiles").keys() == {"slide-1"}


def test_store__has_the_digest_of_a_local_one(store: Store, tmp_path: Path) -> None:
    local = Store.create(tmp_path / "s")
    commit(local)
    commit(store)
    assert store.digest(["tiles"]) == local.digest(["tiles"])


def test_store__what_a_record_replaces_is_removed(store: Store) -> None:
    commit(store, "old")
    commit(store, "new")
    assert read(store) == "new"
    assert len(keys(store, "tiles/items")) == 1
    assert keys(store, "tiles/staging") == set()


def test_store__failure_hides_what_was_stored_until_success(store: Store) -> None:
    commit(store)
    store.fail(Failure("tiles", "slide-1", "f", "InputError", "unreadable", 1))
    assert store.record("tiles", "slide-1") is None
    assert keys(store, "tiles/items") == keys(store, "tiles/staging") == set()
    assert store.failures("tiles")["slide-1"].message == "unreadable"
    commit(store)
    assert store.failures("tiles") == {}


def test_store__sweep_removes_what_the_dead_left_and_spares_the_living(store: Store) -> None:
    living = prepare(store, "living")
    left = prepare(store, "left", publisher=dead_process())
    assert len(keys(store, "tiles/items")) == 2
    assert store.sweep("tiles") == 1
    assert keys(store, "tiles/items") == {f"slide-1/{living.record.folder}/deep/part.txt"}
    store.publish([living])
    assert read(store) == "living"
    assert left.record.folder not in str(keys(store))


def test_store__sweep_spares_what_a_record_names(store: Store) -> None:
    """A process that dies after its record was written and before it forgot its mark leaves a finished item."""
    prepared = prepare(store, publisher=dead_process())
    store.publish([prepared])
    mark = store.path / "tiles" / "staging" / f"slide-1~{prepared.record.folder}"
    store.files.write(mark, prepared.record.folder.encode())
    assert store.sweep("tiles") == 0
    assert read(store) == "pixels"
    assert keys(store, "tiles/staging") == set()


def test_store__arrays_and_tables_are_read_through_the_same_layer(store: Store) -> None:
    features = np.arange(5 * 4 * 8, dtype=np.float16).reshape(5, 4, 8)
    staging = store.begin("windows", "cohort")
    write_array(create_group(staging / "features.zarr", {"backbone": "x"}), WORD_FEATURES, features)
    table = WINDOWS
    rows = [
        {
            column.name: {"string": "liver", "double": 1.5, "int32": 3, "bool": True}.get(str(column.type))
            for column in table.columns
        }
    ]
    write_table(staging / "windows.parquet", rows, table)
    store.commit("windows", "cohort", staging, depends={}, status="ok", summary={}, seconds=0.0)
    group = open_group(store.part("windows", "cohort", "features.zarr"))
    array = open_array(group, WORD_FEATURES)
    assert np.array_equal(array[...], features)
    assert np.array_equal(array[1:3], features[1:3])
    assert read_rows(store.part("windows", "cohort", "windows.parquet"), table) == rows


def test_store__place_with_other_content_is_refused(place: Place) -> None:
    files_of(place).write(place / "thesis.docx", b"years of work")
    with pytest.raises(StoreError, match="not a mumo store"):
        Store.create(place)
    with pytest.raises(StoreError, match="not a mumo store"):
        Store.open(place)
    assert Store.find(place) is None


def test_store__travels_to_another_process_without_credentials(bucket: str) -> None:
    store = Store.create(parse_place(f"{bucket}/store"))
    commit(store)
    packed = pickle.dumps(store)
    assert KEY_ID.encode() not in packed
    assert SECRET.encode() not in packed
    code = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).record('tiles', 'slide-1').status)"
    done = subprocess.run([sys.executable, "-c", code], input=packed, capture_output=True, check=True)
    assert done.stdout.strip() == b"ok"


def test_store__killed_at_every_request_of_a_commit_leaves_the_old_or_the_new(bucket: str) -> None:
    """A child is killed before its n-th write to the storage, for n = 1, 2, … until it survives."""
    code = """
import os, signal, sys
from mumo.stores.places import parse_place
from mumo.stores.records import Store
store, n = Store(parse_place(sys.argv[1])), int(sys.argv[2])
staging = store.begin("tiles", "slide-1")
(staging / "deep").mkdir()
(staging / "deep" / "part.txt").write_text("new")
(staging / "deep" / "second.txt").write_text("new")
call, count = store.path.fs._call_s3, 0
async def counted(method, *arguments, **named):
    global count
    if method.startswith(("put", "delete", "create", "upload", "complete")):
        count += 1
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)
    return await call(method, *arguments, **named)
store.path.fs._call_s3 = counted
store.commit("tiles", "slide-1", staging, depends={"v": 2}, status="ok", summary={}, seconds=0.0)
"""
    outcomes = []
    for n in range(1, 30):
        store = Store.create(parse_place(f"{bucket}/killed-{n}"))
        commit(store, "old")
        done = subprocess.run([sys.executable, "-c", code, str(store.path), str(n)], check=False)
        store.sweep("tiles")
        record = store.record("tiles", "slide-1")
        assert record is not None
        assert read(store) == ("new" if record.depends == {"v": 2} else "old")
        assert {name.split("/")[1] for name in keys(store, "tiles/items")} == {record.folder}
        assert keys(store, "tiles/staging") == set()
        outcomes.append(read(store))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
    assert outcomes[0] == "old"
    assert outcomes[-1] == "new"
    assert len(outcomes) > 6


def test_files__of_several_creators_one_succeeds(bucket: str) -> None:
    place = parse_place(f"{bucket}/lease")
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda n: files_of(place).create(place, str(n).encode()), range(8)))
    assert made.count(True) == 1
    assert files_of(place).read(place) == str(made.index(True)).encode()


def test_leases__on_an_object_store(store: Store) -> None:
    dead = dead_owner()
    store.files.write(store.path / "tiles" / "leases" / "slide-3", dead.encode())
    store.files.write(store.path / "tiles" / "leases" / "slide-4", b"00000000-1-00000000")
    with Leases(store, expiry_s=30) as one, Leases(store, expiry_s=30) as two:
        assert one.take("tiles", "slide-1")
        assert not two.take("tiles", "slide-1")
        one.release("tiles", "slide-1")
        assert two.take("tiles", "slide-1")
        assert two.take("tiles", "slide-3"), "its taker is dead"
        store.files.write(store.path / "drivers" / "00000000-1-00000000", b"")
        assert not two.take("tiles", "slide-4"), "its taker has just given a sign of life"
    assert keys(store, "tiles/leases") == {"slide-4"}


def test_store__no_such_bucket_is_a_clear_error(bucket: str) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket/store: cannot be used: .*bucket does not exist"):
        Store.create(parse_place("s3://no-such-bucket/store"))


def test_store__denied_access_is_a_clear_error(bucket: str, object_server: Server) -> None:
    import urllib.request

    def checked_after(requests: str) -> None:
        request = urllib.request.Request(f"{object_server.url}/moto-api/reset-auth", requests.encode(), method="POST")
        request.add_header("Content-Type", "text/plain")
        urllib.request.urlopen(request).close()

    checked_after("0")
    try:
        with pytest.raises(ConfigError, match=r"cannot be used: .*check bucket, access rights") as refused:
            Store.create(parse_place(f"{bucket}/store"))
        assert SECRET not in str(refused.value)
    finally:
        checked_after("inf")


def test_store__no_server_and_no_credentials_are_clear_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    code = """
import sys
from mumo.errors import ConfigError
from mumo.stores.places import parse_place
from mumo.stores.records import Store
try:
    Store.create(parse_place("s3://bucket/store"))
except ConfigError as error:
    print(error)
"""
    environment = {**os.environ, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "AWS_MAX_ATTEMPTS": "1"}
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for more, expected in (
        ({}, "Unable to locate credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", **credentials}, "Could not connect"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | more, capture_output=True, text=True, check=True
        )
        assert expected in done.stdout


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ftp://me:hunter2@host/store", "must not hold a user or a password"),
        ("s3://key:hunter2@bucket/store", "must not hold a user or a password"),
        ("nonsense://bucket/store", "does not know this kind of URL"),
    ],
)
def test_parse_place__refuses(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as refused:
        parse_place(text)
    assert "hunter2" not in str(refused.value)


def test_parse_place__a_missing_package_is_named() -> None:
    code = "import sys; sys.modules['s3fs'] = None; from mumo.stores.places import *; parse_place('s3://bucket/store')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError" in done.stderr
    assert "pip install '.[s3]'" in done.stderr


def test_parse_place__folders_stay_folders(tmp_path: Path) -> None:
    assert parse_place("store") == Path("store")
    assert parse_place(f"file://{tmp_path}") == tmp_path


def test_cache_folder__is_what_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUMO_CACHE", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("MUMO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mumo"


def test_files__scratch_of_dead_processes_is_swept(store: Store) -> None:
    code = "import sys; from mumo.stores.objects import ObjectFiles; print(ObjectFiles().begin(None))"
    left = Path(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    mine = store.begin("tiles", "slide-1")
    assert left.is_dir()
    assert left.stat().st_mode & 0o077 == 0, "nobody else may look into it"
    store.sweep_staging("tiles")
    assert not left.exists()
    assert mine.is_dir()
    mine.rmdir()


def test_files__wait_for_a_network_that_comes_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class EndpointConnectionError(Exception):
        """As the library's own: no OSError."""

    waits: list[float] = []
    answers = iter([EndpointConnectionError("away"), TimeoutError("slow"), None])
    monkeypatch.setattr("mumo.stores.objects.time.sleep", waits.append)
    file, files = store.path / "store.json", files_of(store.path)
    real = file.fs.cat_file  # type: ignore[union-attr]

    def cat_file(path: str, **_: int) -> bytes:
        error = next(answers, EndpointConnectionError("away for ever"))
        if error is not None:
            raise error
        return bytes(real(path))

    monkeypatch.setattr(file.fs, "cat_file", cat_file)  # type: ignore[union-attr]
    assert b"format_version" in (files.read(file) or b"")
    assert waits == [1.0, 2.0]
    with pytest.raises(ConnectionError, match="EndpointConnectionError: away for ever"):
        files.read(file)
    assert len(waits) > 6
    waits.clear()
    with pytest.raises(ConfigError, match="cannot be used: EndpointConnectionError: away for ever"):
        Store.open(store.path)
    assert waits == [], "the first look does not let the user wait"


def test_store__a_copy_on_a_disk_is_the_same_store(store: Store, tmp_path: Path) -> None:
    commit(store)
    store.path.fs.get(store.path.path, str(tmp_path / "copy"), recursive=True)  # type: ignore[union-attr]
    copy = Store.open(tmp_path / "copy")
    assert copy.digest(["tiles"]) == store.digest(["tiles"])
    record = copy.record("tiles", "slide-1")
    assert record is not None
    assert digest_part(tmp_path / "copy/tiles/items/slide-1" / record.folder / "deep") == record.parts["deep"]

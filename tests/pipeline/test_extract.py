from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_stages import Copying, Counting, make_items

from mumo.config import Settings
from mumo.pipeline.execute import InProcess, Status
from mumo.pipeline.extract import Choice, StageReport, run_stage
from mumo.pipeline.planning import plan_items
from mumo.pipeline.sources import SourceDigests, digest_source
from mumo.pipeline.stage import Item, Source, Stage, Upstream
from mumo.stores.records import Store


class Silent:
    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Status) -> None: ...

    def stage_ended(self, stage: str) -> None: ...


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def extract(stage: Stage, store: Store, **choice: Any) -> StageReport:
    cohort: Any = None
    return run_stage(stage, cohort, store, Settings(), Choice((stage.name,), **choice), InProcess(), Silent())


def states(stage: Copying, store: Store) -> dict[str, tuple[str, tuple[str, ...]]]:
    planned = plan_items(stage, stage.items, store, SourceDigests(store.path / "digests.json"))
    return {plan.item.item: (plan.state, plan.reasons) for plan in planned}


def test_run_stage__second_run_has_nothing_to_do(store: Store) -> None:
    stage = Copying(make_items({"a": "1", "b": "2"}))
    assert extract(stage, store).ok == 2
    again = extract(stage, store)
    assert (again.ok, again.up_to_date, again.complete) == (0, 2, True)


def test_run_stage__failed_items_are_listed_again_but_not_tried_again(store: Store) -> None:
    stage = Copying(make_items({"a": "1", "b": "refuse"}))
    assert "expected something usable" in extract(stage, store).failed["b"]
    again = extract(stage, store)
    assert again.failed.keys() == {"b"}
    assert not again.complete
    record = store.failures("tiles")["b"]
    extract(stage, store, retry_failed=True)
    assert store.failures("tiles")["b"] == record


def test_run_stage__forced_items_are_computed_again(store: Store) -> None:
    stage = Copying(make_items({"a": "1"}))
    extract(stage, store)
    assert extract(stage, store, force=True).ok == 1


def test_run_stage__only_chosen_items_run(store: Store) -> None:
    items = make_items({"slide-a": "1", "slide-b": "2", "slide-c": "3"})
    items[2] = replace(items[2], inputs={"patient": "P3"})
    assert extract(Copying(items), store, only=("a",)).ok == 1
    assert extract(Copying(items), store, only=("P3",)).planned == 1
    assert set(store.records("tiles")) == {"slide-a", "slide-c"}


def test_run_stage__reduction_runs_after_the_items(store: Store) -> None:
    report = extract(Counting(make_items({"ct-1": "x", "ct-2": "y"}, stage="windows")), store)
    assert report.ok == 3
    assert store.part("windows", "cohort", "text.txt").read_text() == "2"


def test_plan__names_the_setting_that_changed(store: Store) -> None:
    before = [replace(item, settings={"bin": {"width": 25}}) for item in make_items({"a": "1"})]
    extract(Copying(before), store)
    after = [replace(item, settings={"bin": {"width": 10}}) for item in before]
    assert states(Copying(after), store) == {"a": ("stale", ("settings.bin.width",))}


def test_plan__a_touched_source_is_no_changed_source(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "slide.svs"
    file.write_bytes(b"pixels")
    stage = Copying(make_items({"a": "1"}, sources=(Source("slide", file),)))
    extract(stage, store)
    file.touch()
    assert states(stage, store)["a"][0] == "done"
    file.write_bytes(b"PIXELS")
    assert states(stage, store)["a"] == ("stale", ("sources.slide",))


def test_plan__missing_source_fails_that_item_and_its_return_mends_it(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "slide.svs"
    stage = Copying(make_items({"a": "1"}, sources=(Source("slide", file),)) + make_items({"b": "2"}))
    report = extract(stage, store)
    assert report.ok == 1
    assert "slide: the file cannot be read (No such file or directory)" in report.failed["a"]
    assert str(tmp_path) not in (store.path / "tiles/failures/a.json").read_text()
    file.write_bytes(b"pixels")
    assert extract(stage, store).ok == 1


def test_plan__item_waits_for_what_it_reads_and_follows_its_content(store: Store) -> None:
    tiles = Copying(make_items({"slide-1": "pixels"}))
    embed = Copying([Item("embed", "slide-1", "f", settings={}, upstream=(Upstream("tiles", "slide-1", "text.txt"),))])
    embed.name = "embed"  # type: ignore[misc]
    assert extract(embed, store).waiting == {"slide-1": "tiles/slide-1 is not there"}
    extract(tiles, store)
    assert extract(embed, store).ok == 1
    extract(tiles, store, force=True)
    assert states(embed, store)["slide-1"][0] == "done", "computed again with the same content"
    extract(Copying(make_items({"slide-1": "other pixels"})), store)
    assert states(embed, store)["slide-1"] == ("stale", ("upstream.tiles/slide-1/text.txt",))


def test_plan__a_raised_stage_version_makes_everything_stale(store: Store) -> None:
    stage = Copying(make_items({"a": "1"}))
    extract(stage, store)
    stage.version = 2  # type: ignore[misc]
    assert states(stage, store) == {"a": ("stale", ("version",))}


def test_digest_source__sampled_and_full(tmp_path: Path) -> None:
    file = tmp_path / "big"
    data = bytearray(8 << 20)
    file.write_bytes(data)
    sampled, full = digest_source(Source("x", file)), digest_source(Source("x", file, full=True))
    data[2 << 20] = 1
    file.write_bytes(data)
    assert digest_source(Source("x", file)) == sampled
    assert digest_source(Source("x", file, full=True)) != full
    data[-1] = 1
    file.write_bytes(data)
    assert digest_source(Source("x", file)) != sampled


def test_digest_source__folder_sees_names_and_contents(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(b"slice")
    first = digest_source(Source("ct", folder))
    (folder / "1.dcm").rename(folder / "2.dcm")
    assert digest_source(Source("ct", folder)) != first


def test_source_digests__damaged_memory_is_only_slower(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("{")
    (tmp_path / "file").write_bytes(b"x")
    digests = SourceDigests(tmp_path / "digests.json")
    assert digests.digest(Source("x", tmp_path / "file")) == digest_source(Source("x", tmp_path / "file"))
    digests.save()
    assert str(tmp_path) not in (tmp_path / "digests.json").read_text()

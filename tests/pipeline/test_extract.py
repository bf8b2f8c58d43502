from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_in_stages import Copying, Counting, Tallying, make_items

from mumo.config import Settings
from mumo.errors import ConfigError, StoreError
from mumo.pipeline.extract import Choice, StageReport, run_stage
from mumo.pipeline.extract import extract as run_extract
from mumo.pipeline.running.cluster import DaskCluster
from mumo.pipeline.running.estimates import check_room, estimate
from mumo.pipeline.running.execute import InProcess, LocalProcesses, Status
from mumo.pipeline.running.planning import plan_items
from mumo.pipeline.running.sharing import Sharing
from mumo.pipeline.running.sources import SourceDigests, digest_source
from mumo.pipeline.stage import Item, Source, Stage, Upstream
from mumo.stores.leases import Leases
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


@pytest.mark.parametrize(("mode", "touched", "middle"), [("sample", 0, 0), ("full", 0, 1), ("stat", 1, 1)])
def test_digest_source__modes(mode: Any, touched: bool, middle: bool, tmp_path: Path) -> None:
    """Whether a touch, and a changed byte that the sample does not see, count as another source."""
    file = tmp_path / "big"
    data = bytearray(8 << 20)
    file.write_bytes(data)
    os.utime(file, (1, 1))
    first = digest_source(Source("x", file), mode)
    os.utime(file, (2, 2))
    assert (digest_source(Source("x", file), mode) != first) == touched
    data[2 << 20] = 1
    file.write_bytes(data)
    assert (digest_source(Source("x", file), mode) != first) == middle
    assert digest_source(Source("x", file, full=True), mode) == digest_source(Source("x", file), "full")


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


# --- several runs on one store, limits, estimates ---------------------------------------------------------


def test_run_stage__too_many_failures_stop_the_rest(store: Store) -> None:
    payloads = {"a": "refuse", "b": "refuse", "c": "fine", "d": "fine"}
    report = extract(Copying(make_items(payloads)), store, max_failures="1")
    assert (report.failed.keys(), report.left.keys(), report.ok) == ({"a", "b"}, {"c", "d"}, 0)
    assert not report.complete
    assert extract(Copying(make_items(payloads)), store, max_failures="1").ok == 2, "old failures do not count"
    assert list((store.path / "tiles/leases").iterdir()) == []


@pytest.mark.parametrize(
    ("limit", "failed", "too_many"), [("", 99, False), ("0", 1, True), ("10%", 10, False), ("10%", 11, True)]
)
def test_choice__max_failures(limit: str, failed: int, too_many: bool) -> None:
    assert Choice((), max_failures=limit).too_many(failed, 100) == too_many


@pytest.mark.parametrize("limit", ["some", "-1", "200%", "%", "1.5"])
def test_choice__refuses_a_limit_that_is_none(limit: str) -> None:
    with pytest.raises(ConfigError, match="expected a number, or a share"):
        Choice((), max_failures=limit)


def test_run_stage__two_runs_at_once_compute_each_item_once(store: Store, tmp_path: Path) -> None:
    tally = tmp_path / "tally"
    reports: list[StageReport] = []

    def drive() -> None:
        stage = Tallying(make_items({f"i{n:02}": str(tally) for n in range(40)}))
        reports.append(extract(stage, store))

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(tally.read_text().split()) == [f"i{n:02}" for n in range(40)]
    assert [report.complete for report in reports] == [True, True]
    assert sum(report.ok for report in reports) == 40
    assert all(report.ok > 5 for report in reports), "both had their share"
    assert all(report.ok + report.up_to_date == report.planned for report in reports)


def test_run_stage__a_failure_in_the_other_run_is_not_tried_again(store: Store) -> None:
    """The second run plans before the first has failed, and comes to the item after it."""
    stage = Copying(make_items({"a": "refuse"}))
    planned = plan_items(stage, stage.items, store, SourceDigests(store.path / "digests.json"))
    adopted: list[Status] = []
    with Leases(store, 60) as leases:
        sharing = Sharing(store, leases, force=False, adopted=adopted.append)
        extract(stage, store)
        assert list(sharing.hand_out(planned, [])) == []
    assert adopted[0].result == "failed"


def test_run_stage__a_disk_without_room_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items({f"slide-{n}": "x" * 1000 for n in range(5)})
    extract(Copying(items[:1]), store)
    plan = plan_items(Copying(), items, store, SourceDigests(store.path / "digests.json"))
    (guess,) = estimate(store, plan)
    assert (guess.items, guess.bytes) == (4, 4000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3999))
    with pytest.raises(StoreError, match=r"are free; make room"):
        extract(Copying(items), store)
    assert len(store.records("tiles")) == 1


def test_estimate__nothing_done_yet_is_not_known(store: Store) -> None:
    plan = plan_items(Copying(), make_items({"slide-1": "x"}), store, SourceDigests(store.path / "digests.json"))
    (guess,) = estimate(store, plan)
    assert guess.bytes != guess.bytes
    check_room(store.path / "not" / "there" / "yet", [guess])


def extract_on(executor: Any, store: Store, device: str, *stages: str) -> list[StageReport]:
    settings = Settings.model_validate({"run": {"device": device}})
    cohort: Any = SimpleNamespace(file=Path("cohort.toml"))
    return run_extract(cohort, store, settings, Choice(stages), executor, Silent())


@pytest.fixture
def without_cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, Copying]:
    """No CUDA here; `tiles` and `embed` are stages that copy."""
    stages = {name: Copying(make_items({"a": "1"}, stage=name)) for name in ("tiles", "embed")}
    for name, stage in stages.items():
        monkeypatch.setattr(stage, "name", name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("mumo.pipeline.extract.get_stage", stages.__getitem__)
    return stages


@pytest.mark.parametrize("executor", [InProcess(), LocalProcesses(2, Settings())], ids=["in-process", "processes"])
def test_extract__refuses_cuda_at_once_where_this_machine_would_embed_without_one(
    executor: Any, store: Store, without_cuda: dict[str, Copying]
) -> None:
    with pytest.raises(ConfigError, match=r"run\.device: found cuda, but PyTorch sees no CUDA device here"), executor:
        extract_on(executor, store, "cuda", "tiles", "embed")
    assert not store.records("tiles") and not store.failures("embed")
    assert not list((Path(str(store.path)) / "runs").glob("*"))


def test_extract__takes_any_device_where_nothing_is_embedded_or_others_embed(
    store: Store, without_cuda: dict[str, Copying]
) -> None:
    assert [report.ok for report in extract_on(InProcess(), store, "cuda", "tiles")] == [1]
    assert [report.ok for report in extract_on(InProcess(), store, "auto", "embed")] == [1]
    assert DaskCluster.local is False
    elsewhere = InProcess()
    elsewhere.local = False  # type: ignore[misc]  # stands in for a cluster, whose workers decide for themselves
    assert [report.up_to_date for report in extract_on(elsewhere, store, "cuda", "tiles", "embed")] == [1, 1]

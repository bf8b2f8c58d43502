"""Who and what of a cohort came into a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packs import make_packed, write_store

from mumo.errors import FitError
from mumo.fusion.flow import read_flow, save_flow, sentences
from mumo.stores.pack import pack
from mumo.stores.records import Failure, Store


def test_save_flow__counts_used_failed_and_empty_sources(tmp_path: Path) -> None:
    write_store(tmp_path / "store", make_packed(12))
    store = Store.open(tmp_path / "store")
    packed = pack(store)
    used = set(packed.units["pathology"].sources.tolist())
    for item, stage in (("slide-broken", "tiles"), ("slide-late", "radiomics"), ("ct-broken", "windows")):
        store.fail(Failure(stage, item, "f", "SlideError", "cut short", attempts=1))
    for item in ("slide-late", "slide-bare"):
        staging = store.begin("tiles", item)
        store.commit("tiles", item, staging, depends={}, status="empty", summary={}, seconds=0.1)
    save_flow(tmp_path / "flow.json", packed, store.path)
    flow = read_flow(tmp_path)
    assert flow["patients"] == 12
    assert flow["sources"]["slides"] == {"asked": len(used) + 3, "used": len(used), "nothing": 1, "failed": 2}
    assert flow["sources"]["CT studies"]["failed"] == 1
    assert sum(flow["labels"].values()) in (0, 12)


def test_sentences__say_why_patients_are_left_out() -> None:
    sources = {
        "slides": {"asked": 9, "used": 5, "nothing": 1, "failed": 3},
        "CT studies": {"asked": 0, "used": 0, "nothing": 0, "failed": 0},
    }
    flow = {"patients": 20, "labels": {"recist": 11, "pfs": 4, "censored": 3, "missing": 2}, "sources": sources}
    (patients, images), (known, left) = sentences(flow)
    assert patients == "20 patients of the cohort"
    assert images == ["9 slides: 5 used, 1 with nothing to use (no bag or no lesion), 3 failed"]
    assert known == "15 with a known response"
    assert [text.split(" ")[0] for text in left] == ["3", "2"]
    assert "censored before the cut-off" in left[0]


def test_read_flow__of_an_ensemble_is_its_members(tmp_path: Path) -> None:
    assert read_flow(tmp_path) == {}
    assert list(sentences({})) == []
    member = tmp_path / "members" / "seed-0"
    member.mkdir(parents=True)
    (member / "flow.json").write_text(json.dumps({"patients": 3}))
    assert read_flow(tmp_path) == {"patients": 3}
    (tmp_path / "flow.json").write_text("[]")
    with pytest.raises(FitError, match="expected a JSON object"):
        read_flow(tmp_path)

"""Bags as annotations of QuPath and ASAP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mumo.config import TilesSettings
from mumo.errors import ConfigError
from mumo.pipeline.pathology.annotations import read_annotations
from mumo.pipeline.pathology.export import export_bags
from mumo.stores import tables
from mumo.stores.records import Store
from mumo.stores.specs import BAGS

NOTHING = (float("nan"),) * 3


def put_bags(store: Store, slide: str, *bags: tuple[int, int, int]) -> None:
    """A finished item whose bags (x, y, class) have sides of 100.5 px."""
    rows: list[dict[str, Any]] = [
        {
            "patient": "P1",
            "slide": slide,
            "bag": number,
            "x_level0": x,
            "y_level0": y,
            "size_level0": 100.5,
            "mpp": 0.5,
            "region_class": kind,
            "region_share": 0.75,
            "tissue_share": 0.5,
            "word_classes": [kind],
            "lab_mean": NOTHING,
            "lab_std": NOTHING,
            "lab_mean_after": NOTHING,
            "lab_std_after": NOTHING,
            "normalised": False,
            "white_balanced": False,
        }
        for number, (x, y, kind) in enumerate(bags)
    ]
    staging = store.begin("tiles", f"slide-{slide}")
    tables.write_table(staging / "bags.parquet", rows, BAGS)
    store.commit("tiles", f"slide-{slide}", staging, depends={}, status="ok", summary={}, seconds=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store")
    put_bags(store, "S1", (10, 20, 3), (200, 20, 0))
    put_bags(store, "S2", (5, 5, -1))
    put_bags(store, "S3")
    return store


@pytest.mark.parametrize("suffix", ["xml", "geojson"])
def test_export_bags__comes_back_through_the_readers(store: Store, tmp_path: Path, suffix: str) -> None:
    files = export_bags(store, tmp_path / "out", TilesSettings())
    assert sorted(file.name for file in files) == sorted(
        f"slide-S{n}.{s}" for n in (1, 2, 3) for s in ("geojson", "xml")
    )
    found = read_annotations(tmp_path / "out" / f"slide-S1.{suffix}", "S1", TilesSettings())
    assert [(region.group, region.area.bounds) for region in found.regions] == [
        ("class 3", (10.0, 20.0, 110.5, 120.5)),
        ("class 0", (200.0, 20.0, 300.5, 120.5)),
    ]
    assert found.remarks == ()
    (single,) = read_annotations(tmp_path / "out" / f"slide-S2.{suffix}", "S2", TilesSettings()).regions
    assert single.group == "bag"
    assert read_annotations(tmp_path / "out" / f"slide-S3.{suffix}", "S3", TilesSettings()).regions == ()


def test_export_bags__qupath_objects_have_names_and_measurements(store: Store, tmp_path: Path) -> None:
    export_bags(store, tmp_path / "out", TilesSettings())
    first = json.loads((tmp_path / "out" / "slide-S1.geojson").read_text())["features"][0]["properties"]
    assert first["name"] == "bag 0"
    assert first["measurements"] == {"region_share": 0.75, "tissue_share": 0.5}


def test_export_bags__folder_with_files_is_left_alone(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="no empty folder"):
        export_bags(store, tmp_path, TilesSettings())

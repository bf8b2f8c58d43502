"""GeoJSON of slides that name a scanned area, on Leica SCN files that OpenSlide reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import shapely
from scn import write_scn

from mumo.commands.explain.mosaic import open_slide_bags
from mumo.config import Settings, parse_settings
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.pathology.annotations import read_annotations
from mumo.pipeline.pathology.export import export_bags
from mumo.pipeline.tiles import TilesStage
from mumo.stores import tables
from mumo.stores.records import Store
from mumo.stores.specs import BAGS

CORNER = (1024, 512)
"""Of the scanned area, px of level 0."""
TUMOUR = (256, 128, 512, 384)
"""x, y, x, y; px counted from the corner of the scanned area, as QuPath shows it."""


@pytest.fixture(scope="module")
def scn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide whose tissue is the tumour alone."""
    rng = np.random.default_rng(0)
    area: npt.NDArray[np.uint8] = np.full((512, 768, 3), 255, np.uint8)
    left, top, right, bottom = TUMOUR
    noise = rng.normal(0, 6, (bottom - top, right - left, 1))
    area[top:bottom, left:right] = np.clip(np.array((180, 60, 120)) + noise, 0, 255)
    path = tmp_path_factory.mktemp("scn") / "slide.scn"
    write_scn(path, area, CORNER, (4096, 2048), 0.5)
    return path


def settings(origin: str = "scanned") -> Settings:
    tissue = {"thumbnail_mpp": 2.0, "min_area_um2": 50.0}
    return parse_settings(
        {"tiles": {"bag_px": 128, "word_px": 32, "tissue": tissue, "geojson_origin": origin, "min_region_share": 0.9}}
    )


def geojson(path: Path, box: tuple[float, ...]) -> Path:
    feature = {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(shapely.box(*box)),
        "properties": {"objectType": "annotation", "classification": {"name": "Tumor"}},
    }
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return path


def moved(box: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(value + CORNER[n % 2] for n, value in enumerate(box))


def tile(tmp_path: Path, scn: Path, annotation: Path | None, given: Settings) -> tuple[Store, list[tuple[int, int]]]:
    """Run the stage; returns the store and where bags lie, px of level 0."""
    slide = Slide("S1", "P1", scn, annotation, None, False)
    cohort = Cohort("c", Path("cohort.toml"), (), (slide,), (), {"Tumor": 3}, {}, ())
    store = Store.create(tmp_path / f"store{len(list(tmp_path.glob('store*')))}")
    (item,) = TilesStage().plan(cohort, given, store)
    staging = store.begin("tiles", item.item)
    outcome = TilesStage().run(item, given, store, staging)
    store.commit("tiles", item.item, staging, depends={}, status=outcome.status, summary=outcome.summary, seconds=0)
    rows = tables.read_rows(store.part("tiles", item.item, "bags.parquet"), BAGS)
    return store, [(row["x_level0"], row["y_level0"]) for row in rows]


def test_tiles__geojson_counts_from_the_scanned_area(tmp_path: Path, scn: Path) -> None:
    """The tumour alone is tissue: outlines in the right frame give the bags that tissue gives."""
    _, expected = tile(tmp_path, scn, None, settings())
    left, top, right, bottom = moved(TUMOUR)
    assert len(expected) == 4
    assert all(left <= x and x + 128 <= right and top <= y and y + 128 <= bottom for x, y in expected)
    store, found = tile(tmp_path, scn, geojson(tmp_path / "a.geojson", TUMOUR), settings())
    assert found == expected
    record = store.record("tiles", "slide-S1")
    assert record is not None
    assert [w for w in record.summary["warnings"] if "(1024, 512) px of level 0" in w and "geojson_origin=level0" in w]


def test_tiles__geojson_of_an_uncut_slide_counts_from_level_0(tmp_path: Path, scn: Path) -> None:
    _, expected = tile(tmp_path, scn, None, settings())
    file = geojson(tmp_path / "a.geojson", moved(TUMOUR))
    assert tile(tmp_path, scn, file, settings("level0"))[1] == expected
    assert tile(tmp_path, scn, file, settings())[1] != expected


@pytest.mark.parametrize("origin", ["scanned", "level0"])
def test_export_bags__geojson_comes_back_to_the_same_bags(tmp_path: Path, scn: Path, origin: str) -> None:
    store, places = tile(tmp_path, scn, None, settings())
    tiles = settings(origin).tiles
    export_bags(store, tmp_path / "out", tiles)
    shift = CORNER if origin == "scanned" else (0, 0)
    for suffix, (x, y) in (("geojson", shift), ("xml", (0, 0))):
        regions = read_annotations(tmp_path / "out" / f"slide-S1.{suffix}", "S1", tiles).regions
        assert [region.area.bounds[:2] for region in regions] == [(left - x, top - y) for left, top in places]
    assert open_slide_bags(store, "slide-S1", tiles).geojson_corner == shift


def test_tiles__the_frame_counts_for_slides_with_geojson_only(tmp_path: Path, scn: Path) -> None:
    def fingerprints(annotation: Path | None) -> list[object]:
        cohort = Cohort("c", Path("c.toml"), (), (Slide("S1", "P1", scn, annotation, None, False),), (), {}, {}, ())
        store = Store(tmp_path)
        return [TilesStage().plan(cohort, settings(origin), store)[0].settings for origin in ("scanned", "level0")]

    without, drawn = fingerprints(None), fingerprints(geojson(tmp_path / "a.geojson", TUMOUR))
    assert without[0] == without[1]
    assert drawn[0] != drawn[1]

"""The `tiles` stage: where bags lie, what they hold, and what they depend on."""

from __future__ import annotations

import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import shapely
import tifffile
from aperio_files import aperio, drawn, layer
from PIL import Image
from skimage.color import rgb2lab

from mumo.config import Settings, parse_settings
from mumo.errors import ConfigError, InputError
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.pathology.groups import UnmappedGroupsError
from mumo.pipeline.pathology.layout import bag_side_level0, plan_bags
from mumo.pipeline.pathology.regions import PolygonRegions
from mumo.pipeline.pathology.slides import Resolution, SlideReader
from mumo.pipeline.stage import Outcome
from mumo.pipeline.tiles import TilesStage
from mumo.stores import arrays, tables
from mumo.stores.records import Store
from mumo.stores.specs import BAG_PIXELS, BAGS

GLASS = (243, 243, 243)
STROMA = (205, 130, 175)
NUCLEUS = (100, 60, 130)


class SizedSlide:
    """A slide that has a size and no pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.level_dimensions = [(width, height)]
        self.level_downsamples = [1.0]
        self.properties: Mapping[str, str] = {}

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        raise AssertionError("planning reads no pixels")

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class Tiled:
    """What the stage wrote."""

    outcome: Outcome
    rows: list[dict[str, Any]]
    pixels: npt.NDArray[np.uint8]
    chunks: tuple[int, ...]


def make_settings(**tiles: Any) -> Settings:
    values = {"bag_px": 128, "word_px": 32, "tissue": {"thumbnail_mpp": 2.0, "min_area_um2": 50.0}} | tiles
    return parse_settings({"tiles": values})


def make_cohort(*slides: Slide, region_classes: Mapping[str, int] | None = None) -> Cohort:
    return Cohort("c", Path("cohort.toml"), (), slides, (), region_classes or {}, {}, ())


def tissue(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Stroma with nuclei, as smooth as a scan."""
    rng = np.random.default_rng(seed)
    nuclei = np.kron(rng.random((height // 8 + 1, width // 8 + 1)) < 0.2, np.ones((8, 8)))[:height, :width, None]
    pixels = np.where(nuclei > 0, NUCLEUS, STROMA) + rng.normal(0, 6, (height, width, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def glass(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.full((height, width, 3), GLASS, np.uint8)


def write_slide(path: Path, pixels: npt.NDArray[np.uint8], mpp: float | None = 0.5, levels: int = 1) -> Path:
    """A pyramidal tiled TIFF; each level is the mean of 2 × 2 pixels of the one before."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            resolution: dict[str, Any] = {}
            if mpp is not None:
                resolution = {"resolution": (1e4 / mpp / 2**level,) * 2, "resolutionunit": "CENTIMETER"}
            writer.write(pixels, tile=(128, 128), photometric="rgb", subfiletype=int(level > 0), **resolution)
            pixels = np.asarray(Image.fromarray(pixels).reduce(2))
    return path


def write_asap(path: Path, *areas: tuple[str, tuple[float, float, float, float]]) -> Path:
    text = ""
    for group, (left, top, right, bottom) in areas:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        text += f'<Annotation Type="Polygon" PartOfGroup="{group}"><Coordinates>{points}</Coordinates></Annotation>'
    path.write_text(f"<ASAP_Annotations><Annotations>{text}</Annotations></ASAP_Annotations>")
    return path


def slide(path: Path, annotation: Path | None = None, mpp: float | None = None, white_balance: bool = False) -> Slide:
    return Slide("S1", "P1", path, annotation, mpp, white_balance)


def tile(
    tmp_path: Path, source: Slide, settings: Settings | None = None, classes: Mapping[str, int] | None = None
) -> Tiled:
    """Plan and run the stage on one slide and read what it wrote."""
    settings = settings or make_settings()
    stage = TilesStage()
    store = Store(tmp_path)
    (item,) = stage.plan(make_cohort(source, region_classes=classes), settings, store)
    out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
    out.mkdir()
    outcome = stage.run(pickle.loads(pickle.dumps(item)), settings, store, out)
    assert sorted(path.name for path in out.iterdir()) == ["bags.parquet", "pixels.zarr", "quality.png"]
    array = arrays.open_array(arrays.open_group(out / "pixels.zarr"), BAG_PIXELS)
    return Tiled(outcome, tables.read_rows(out / "bags.parquet", BAGS), np.asarray(array[...]), array.chunks)


def regions(size: tuple[int, int], *areas: tuple[int, tuple[float, float, float, float]]) -> PolygonRegions:
    return PolygonRegions([(kind, shapely.box(*box)) for kind, box in areas], size, "highest")


def sized_reader(width: int, height: int, mpp: float = 0.5) -> SlideReader:
    return SlideReader(SizedSlide(width, height), "S1", Resolution(mpp, "file"))


# --- where bags lie ---------------------------------------------------------------------------------------


def test_plan_bags__grid_starts_at_the_corner_of_the_regions() -> None:
    found = plan_bags(regions((1000, 1000), (1, (100, 50, 356, 434))), sized_reader(1000, 1000), make_settings().tiles)
    assert [(bag.x_level0, bag.y_level0) for bag in found] == [
        (100 + x * 128, 50 + y * 128) for y in range(3) for x in range(2)
    ]
    assert {bag.region_share for bag in found} == {1.0}


@pytest.mark.parametrize(
    ("width", "height", "starts"),
    [(400, 300, [(100, 50)]), (200, 150, [(72, 22)]), (129, 128, [(1, 0)]), (120, 110, [(0, 0)])],
)
def test_plan_bags__grid_moves_back_from_the_slides_edge(
    width: int, height: int, starts: list[tuple[int, int]]
) -> None:
    areas = regions((width, height), (1, (100, 50, 200, 150)))
    found = plan_bags(areas, sized_reader(width, height), make_settings(min_region_share=0.0).tiles)
    assert [(bag.x_level0, bag.y_level0) for bag in found] == starts


def test_plan_bags__sides_follow_the_resolution() -> None:
    for mpp in (0.25, 0.499, 0.5, 0.6):
        reader = sized_reader(2000, 2000, mpp)
        side = bag_side_level0(reader, make_settings().tiles)
        assert side * mpp == pytest.approx(128 * 0.5)
        found = plan_bags(regions((2000, 2000), (1, (0, 0, 3 * side, side))), reader, make_settings().tiles)
        assert [bag.x_level0 for bag in found] == [round(number * side) for number in range(3)]


@pytest.mark.parametrize(("share", "kept"), [(0.5, 3), (0.51, 2), (0.25, 4), (0.0, 4)])
def test_plan_bags__bag_is_kept_from_the_least_share_on(share: float, kept: int) -> None:
    # The bag at the lower right corner is inside by a quarter, the one above it by a half.
    areas = regions((1000, 1000), (1, (0, 0, 192, 128)), (1, (0, 128, 128, 256)), (1, (128, 128, 192, 192)))
    found = plan_bags(areas, sized_reader(1000, 1000), make_settings(min_region_share=share).tiles)
    assert len(found) == kept
    assert [bag.region_share for bag in found] == [1.0, 0.5, 1.0, 0.25][:kept] if kept != 2 else [1.0, 1.0]


def test_plan_bags__share_counts_on_the_whole_bag_beyond_the_slides_edge() -> None:
    # 192 of 256 px lie on the slide: the second bag is half outside.
    areas = regions((192, 128), (1, (0, 0, 1000, 1000)))
    found = plan_bags(areas, sized_reader(192, 128), make_settings().tiles)
    assert [(bag.x_level0, bag.region_share) for bag in found] == [(0, 1.0), (128, 0.5)]


def test_plan_bags__classes_are_those_of_most_points() -> None:
    areas = regions((500, 500), (1, (0, 0, 128, 128)), (2, (64, 0, 128, 128)), (3, (0, 96, 128, 128)))
    (bag,) = plan_bags(areas, sized_reader(500, 500), make_settings().tiles)
    # Rows of words: 1 1 2 2 three times, then 3 3 3 3; of 16 words 6 are 1, 6 are 2: the higher class wins.
    assert bag.word_classes == (1, 1, 2, 2) * 3 + (3,) * 4
    assert bag.region_class == 2


def test_plan_bags__place_outside_the_regions_counts_as_class_0() -> None:
    areas = regions((500, 500), (1, (0, 0, 128, 40)), (2, (0, 40, 128, 72)))
    (bag,) = plan_bags(areas, sized_reader(500, 500), make_settings().tiles)
    assert bag.region_class == 0
    assert bag.region_share == pytest.approx(72 / 128)
    assert bag.word_classes == (1,) * 4 + (2,) * 4 + (0,) * 8


def test_plan_bags__words_that_8_does_not_divide_are_looked_up_more_finely() -> None:
    tiles = make_settings(bag_px=140, word_px=35).tiles
    (bag,) = plan_bags(regions((500, 500), (1, (0, 0, 140, 140))), sized_reader(500, 500), tiles)
    assert bag.word_classes == (1,) * 16


def test_plan_bags__too_many_are_refused() -> None:
    areas = regions((10**6, 10**6), (1, (0, 0, 10**6, 10**6)))
    with pytest.raises(InputError, match=r"slide S1: found more than 500 bags"):
        plan_bags(areas, sized_reader(10**6, 10**6), make_settings(max_bags=500).tiles)


# --- what bags hold ---------------------------------------------------------------------------------------


def test_run__bags_hold_the_pixels_of_their_place(tmp_path: Path) -> None:
    pixels = glass(500, 600)
    pixels[40:300, 60:450] = tissue(260, 390)
    annotation = write_asap(tmp_path / "a.xml", ("T", (70, 50, 326, 178)))
    found = tile(
        tmp_path,
        slide(write_slide(tmp_path / "s.tif", pixels), annotation),
        make_settings(colour={"method": "none"}),
        {"T": 3},
    )
    assert found.outcome.status == "ok"
    assert found.outcome.summary == {
        "bags": 2,
        "mpp_level0": 0.5,
        "resolution": "file",
        "scanned_corner_level0": [0, 0],
        "pixels": "zstd",
        "warnings": [],
    }
    np.testing.assert_array_equal(found.pixels[0], pixels[50:178, 70:198])
    np.testing.assert_array_equal(found.pixels[1], pixels[50:178, 198:326])
    first, second = found.rows
    assert (first["patient"], first["slide"], first["bag"], second["bag"]) == ("P1", "S1", 0, 1)
    assert (second["x_level0"], second["y_level0"], second["size_level0"], second["mpp"]) == (198, 50, 128, 0.5)
    assert (first["region_class"], first["region_share"]) == (3, 1.0)
    assert first["word_classes"] == [3] * 16
    assert first["tissue_share"] > 0.99
    assert not first["normalised"]
    np.testing.assert_allclose(first["lab_mean"], rgb2lab(pixels[50:178, 70:198]).mean(axis=(0, 1)), atol=0.1)


def test_run__without_annotation_the_tissue_is_the_region(tmp_path: Path) -> None:
    pixels = glass(500, 600)
    pixels[64:320, 128:384] = tissue(256, 256)
    found = tile(tmp_path, slide(write_slide(tmp_path / "s.tif", pixels)))
    assert [(row["x_level0"], row["y_level0"]) for row in found.rows] == [(128, 64), (256, 64), (128, 192), (256, 192)]
    for row in found.rows:
        assert row["region_class"] == -1
        assert row["word_classes"] == [-1] * 16
        assert row["region_share"] == 1.0


def test_run__a_20x_and_a_40x_scan_give_bags_of_the_same_micrometres(tmp_path: Path) -> None:
    scan_40x = np.asarray(Image.fromarray(tissue(600, 800)).resize((1600, 1200), Image.Resampling.BICUBIC)).copy()
    scan_40x[:200] = GLASS
    scan_40x[:, :300] = GLASS
    scan_20x = np.asarray(Image.fromarray(scan_40x).reduce(2))
    settings = make_settings(colour={"method": "none"})
    fine = tile(tmp_path, slide(write_slide(tmp_path / "40x.tif", scan_40x, 0.25)), settings)
    coarse = tile(tmp_path, slide(write_slide(tmp_path / "20x.tif", scan_20x, 0.5)), settings)
    assert len(fine.rows) == len(coarse.rows) > 4
    for row_40x, row_20x in zip(fine.rows, coarse.rows, strict=True):
        for name in ("x_level0", "y_level0", "size_level0"):
            assert row_40x[name] * 0.25 == row_20x[name] * 0.5
    assert np.abs(fine.pixels.astype(int) - coarse.pixels).max() <= 1


def test_run__pyramid_and_single_level_give_the_same_bags(tmp_path: Path) -> None:
    pixels = tissue(1024, 1024)
    settings = make_settings(colour={"method": "none"}, working_mpp=1.0)
    whole = tile(tmp_path, slide(write_slide(tmp_path / "one.tif", pixels, 0.25)), settings)
    pyramid = tile(tmp_path, slide(write_slide(tmp_path / "three.tif", pixels, 0.25, levels=3)), settings)
    assert len(whole.rows) == len(pyramid.rows) == 4
    # Levels are rounded to whole values.
    assert np.abs(whole.pixels.astype(int) - pyramid.pixels).max() <= 1


def test_run__bag_beyond_the_edge_is_filled_with_white(tmp_path: Path) -> None:
    pixels = tissue(200, 128)
    found = tile(tmp_path, slide(write_slide(tmp_path / "s.tif", pixels)), make_settings(min_region_share=0.3))
    assert [row["y_level0"] for row in found.rows] == [0, 128]
    assert found.rows[1]["region_share"] == pytest.approx(72 / 128, abs=0.04)
    assert (found.pixels[1, 72:] == 255).all()
    assert found.rows[1]["tissue_share"] == pytest.approx(72 / 128, abs=0.01)


def test_run__slide_smaller_than_half_a_bag_is_empty(tmp_path: Path) -> None:
    found = tile(tmp_path, slide(write_slide(tmp_path / "s.tif", tissue(60, 100))))
    assert found.outcome.status == "empty"
    assert found.outcome.summary["bags"] == 0
    assert found.outcome.summary["warnings"] == [
        "no place of the slide holds a bag: one of 128 px at 0.5 µm/px has at most 33% in a region, and "
        "tiles.min_region_share asks for 50%"
    ]
    assert found.pixels.shape == (0, 128, 128, 3)
    assert found.rows == []


def test_run__empty_glass_is_empty(tmp_path: Path) -> None:
    outcome = tile(tmp_path, slide(write_slide(tmp_path / "s.tif", glass(300, 300)))).outcome
    assert outcome.status == "empty"
    assert "it has no tissue, or no region in its annotation" in outcome.summary["warnings"][0]


@pytest.mark.parametrize(
    ("bag_px", "word_px", "chunk"), [(2048, 256, 512), (1024, 256, 512), (512, 64, 512), (1120, 224, 224)]
)
def test_run__chunks_hold_whole_rows_of_words(tmp_path: Path, bag_px: int, word_px: int, chunk: int) -> None:
    settings = make_settings(bag_px=bag_px, word_px=word_px, colour={"method": "none"})
    annotation = write_asap(tmp_path / "a.xml", ("T", (0, 0, 50, 50)))
    path = write_slide(tmp_path / "s.tif", tissue(64, 64))
    found = tile(
        tmp_path,
        slide(path, annotation),
        parse_settings({"tiles": settings.tiles.model_dump() | {"min_region_share": 0.0}}),
        {"T": 1},
    )
    assert found.chunks == (1, chunk, bag_px, 3)


# --- colours ----------------------------------------------------------------------------------------------


def test_run__normalised_bags_have_the_targets_statistics(tmp_path: Path) -> None:
    pixels = tissue(256, 256)
    pixels[128:] = np.clip(pixels[128:] * 0.8, 0, 255).astype(np.uint8)
    found = tile(tmp_path, slide(write_slide(tmp_path / "s.tif", pixels)))
    assert len(found.rows) == 4
    for row, bag in zip(found.rows, found.pixels, strict=True):
        assert row["normalised"]
        np.testing.assert_allclose(row["lab_mean_after"], (65, 20, -12), atol=0.5)
        np.testing.assert_allclose(row["lab_std_after"], (14, 9, 7), atol=0.5)
        np.testing.assert_allclose(row["lab_mean_after"], rgb2lab(bag).mean(axis=(0, 1)), atol=0.01)
    assert abs(found.rows[0]["lab_mean"][0] - found.rows[2]["lab_mean"][0]) > 5


def test_run__scope_slide_keeps_the_contrast_between_bags(tmp_path: Path) -> None:
    pixels = tissue(256, 256)
    pixels[128:] = np.clip(pixels[128:] * 0.8, 0, 255).astype(np.uint8)
    path = write_slide(tmp_path / "s.tif", pixels)
    found = tile(tmp_path, slide(path), make_settings(colour={"scope": "slide"}))
    before, after = (np.array([row[name][0] for row in found.rows]) for name in ("lab_mean", "lab_mean_after"))
    whole_std = rgb2lab(pixels).std(axis=(0, 1))[0]
    np.testing.assert_allclose(after - after[0], (before - before[0]) * 14 / whole_std, atol=0.3)
    assert after.mean() == pytest.approx(65, abs=0.5)


def test_run__scope_slide_with_a_small_sample_comes_close(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(512, 512))
    means = [
        np.mean(
            [row["lab_mean_after"] for row in tile(tmp_path, slide(path), make_settings(colour=colour)).rows], axis=0
        )
        for colour in ({"scope": "slide"}, {"scope": "slide", "sample_words": 32})
    ]
    np.testing.assert_allclose(means[0], means[1], atol=1.0)


def test_run__bag_with_hardly_any_tissue_keeps_its_colours(tmp_path: Path) -> None:
    pixels = glass(128, 128)
    pixels[:8, :8] = tissue(8, 8)
    annotation = write_asap(tmp_path / "a.xml", ("T", (0, 0, 128, 128)))
    path = write_slide(tmp_path / "s.tif", pixels)
    found = tile(tmp_path, slide(path, annotation), None, {"T": 1})
    assert not found.rows[0]["normalised"]
    np.testing.assert_array_equal(found.pixels[0], pixels)
    bare = tile(tmp_path, slide(write_slide(tmp_path / "g.tif", glass(128, 128)), annotation), None, {"T": 1})
    assert np.isnan(bare.rows[0]["lab_mean"]).all()
    assert np.isnan(bare.rows[0]["lab_std_after"]).all()
    assert bare.rows[0]["tissue_share"] == 0


def test_run__white_balance_removes_a_cast(tmp_path: Path) -> None:
    pixels = glass(400, 400)
    pixels[100:300, 100:300] = tissue(200, 200)
    yellow = (pixels * np.array([1.0, 0.95, 0.8])).astype(np.uint8)
    settings = make_settings(colour={"method": "none"}, min_region_share=0.2)
    path = write_slide(tmp_path / "s.tif", yellow)
    plain = tile(tmp_path, slide(path), settings)
    balanced = tile(tmp_path, slide(path, white_balance=True), settings)
    reference = tile(tmp_path, slide(write_slide(tmp_path / "neutral.tif", pixels)), settings)
    assert not plain.rows[0]["white_balanced"]
    assert balanced.rows[0]["white_balanced"]
    np.testing.assert_allclose(balanced.rows[0]["lab_mean"], reference.rows[0]["lab_mean"], atol=1.5)
    assert abs(plain.rows[0]["lab_mean"][2] - reference.rows[0]["lab_mean"][2]) > 8
    # Glass at the edge of the second bag is neutral.
    glass_pixels = balanced.pixels[1, 10:50, -10:].reshape(-1, 3).astype(int)
    assert np.ptp(glass_pixels, axis=1).max() <= 2


def test_run__white_balance_without_a_white_is_reported(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 256))
    found = tile(tmp_path, slide(path, white_balance=True))
    assert "white balance: the slide shows no glass" in found.outcome.summary["warnings"][0]
    assert len(found.rows) == 4
    assert not found.rows[0]["white_balanced"]


def test_run__target_image_gives_the_target(tmp_path: Path) -> None:
    target = np.clip(tissue(100, 100, seed=5) * np.array([0.9, 1.0, 1.1]), 0, 255).astype(np.uint8)
    Image.fromarray(target).save(tmp_path / "target.png")
    path = write_slide(tmp_path / "s.tif", tissue(128, 128))
    found = tile(tmp_path, slide(path), make_settings(colour={"target_image": str(tmp_path / "target.png")}))
    lab = rgb2lab(target)
    np.testing.assert_allclose(found.rows[0]["lab_mean_after"], lab.mean(axis=(0, 1)), atol=0.5)
    np.testing.assert_allclose(found.rows[0]["lab_std_after"], lab.std(axis=(0, 1)), atol=0.5)


def test_run__target_image_without_tissue_or_unreadable_is_refused(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(128, 128))
    Image.fromarray(glass(50, 50)).save(tmp_path / "glass.png")
    (tmp_path / "text.png").write_text("no image")
    for name, message in (("glass.png", "glass.png shows no tissue"), ("text.png", "text.png cannot be read")):
        settings = make_settings(colour={"target_image": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=message):
            tile(tmp_path, slide(path), settings)
        (problem,) = TilesStage().check(make_cohort(slide(path)), settings)
        assert problem.column == "tiles.colour"


# --- plan and check ---------------------------------------------------------------------------------------


def planned(tmp_path: Path, source: Slide, **tiles: Any) -> Any:
    classes = {"T": 1}
    (item,) = TilesStage().plan(make_cohort(source, region_classes=classes), make_settings(**tiles), Store(tmp_path))
    return item


def test_plan__names_inputs_sources_and_settings(tmp_path: Path) -> None:
    plain = planned(tmp_path, slide(tmp_path / "s.svs", mpp=0.25))
    assert (plain.stage, plain.item) == ("tiles", "slide-S1")
    assert plain.inputs == {"patient": "P1", "mpp": 0.25, "white_balance": False}
    assert [(source.role, source.full) for source in plain.sources] == [("slide", False)]
    annotated = planned(tmp_path, slide(tmp_path / "s.svs", tmp_path / "a.xml"))
    assert annotated.inputs["region_classes"] == {"T": 1}
    assert [(source.role, source.full) for source in annotated.sources] == [("slide", False), ("annotation", True)]
    for item in (plain, annotated):
        assert str(tmp_path) not in json.dumps([item.settings, item.inputs])


def test_plan__settings_that_change_nothing_are_left_out(tmp_path: Path) -> None:
    source = slide(tmp_path / "s.svs")
    before = planned(tmp_path, source).settings
    for change in ({"max_bags": 7}, {"max_pixels": 7}, {"mpp_tolerance": 0.3}, {"region_priority": "last"}):
        assert planned(tmp_path, source, **change).settings == before
    for change in ({"bag_px": 256}, {"working_mpp": 1.0}, {"colour": {"scope": "slide"}}, {"tissue": {}}):
        assert planned(tmp_path, source, **change).settings != before
    stated = slide(tmp_path / "s.svs", tmp_path / "a.xml", 0.5)
    for change in ({"mpp_tolerance": 0.3}, {"on_mpp_mismatch": "warn"}, {"region_priority": "last"}):
        assert planned(tmp_path, stated, **change).settings != planned(tmp_path, stated).settings


def test_plan__companion_folder_of_mrxs_counts(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    item = planned(tmp_path, slide(tmp_path / "s.mrxs"))
    assert [(source.role, source.path.name) for source in item.sources] == [("slide", "s.mrxs"), ("slide data", "s")]


def test_plan__target_image_counts_by_its_content(tmp_path: Path) -> None:
    item = planned(tmp_path, slide(tmp_path / "s.svs"), colour={"target_image": str(tmp_path / "t.png")})
    assert [(source.role, source.full) for source in item.sources][-1] == ("target image", True)
    assert "target_image" not in item.settings["colour"]


def test_check__reports_all_problems_at_once(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tif", tissue(256, 256))
    bare = write_slide(tmp_path / "bare.tif", tissue(256, 256), None)
    Image.fromarray(tissue(64, 64)).save(tmp_path / "picture.svs", "JPEG")
    outside = write_asap(tmp_path / "outside.xml", ("T", (5000, 5000, 6000, 6000)))
    unmapped = write_asap(tmp_path / "unmapped.xml", ("Z", (0, 0, 100, 100)))
    partly = write_asap(tmp_path / "partly.xml", ("T", (200, 200, 300, 300)))
    cohort = make_cohort(
        Slide("gone", "P1", tmp_path / "gone.svs", None, None, False),
        Slide("picture", "P1", tmp_path / "picture.svs", None, None, False),
        Slide("bare", "P1", bare, None, None, False),
        Slide("differs", "P1", good, None, 0.25, False),
        Slide("outside", "P1", good, outside, None, False),
        Slide("unmapped", "P1", good, unmapped, None, False),
        Slide("partly", "P1", good, partly, None, False),
        Slide("good", "P1", good, None, 0.5, False),
        region_classes={"T": 1},
    )
    problems = TilesStage().check(cohort, make_settings())
    assert [(problem.row, problem.column, problem.severity) for problem in problems] == [
        ("gone", "path", "error"),
        ("picture", "path", "error"),
        ("bare", "mpp", "error"),
        ("differs", "mpp", "error"),
        ("outside", "annotation", "error"),
        ("partly", "", "warning"),
        ("", "annotation", "error"),
    ]
    assert "areas reach over the edge" in problems[-2].found
    assert "'Z' (1 slide)" in problems[-1].found
    (warned,) = TilesStage().check(make_cohort(cohort.slides[3]), make_settings(on_mpp_mismatch="warn"))
    assert warned.severity == "warning"


def test_check__groups_without_a_class_are_one_problem_of_all_slides(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tif", tissue(256, 256))
    box = (0.0, 0.0, 100.0, 100.0)
    annotations = [
        write_asap(tmp_path / "a.xml", ("Z", box), ("T", box)),
        write_asap(tmp_path / "b.xml", ("Z", box), ("None", box)),
        write_asap(tmp_path / "c.xml", ("T", box)),
        tmp_path / "d.png",
    ]
    Image.fromarray(np.full((256, 256), 7, np.uint8)).save(annotations[3])
    slides = [Slide(f"S{k}", "P1", good, path, None, False) for k, path in enumerate(annotations)]
    (problem,) = TilesStage().check(make_cohort(*slides, region_classes={"T": 1}), make_settings())
    assert str(problem) == (
        "slides, column 'annotation': found groups that the cohort file does not map: '7' (1 slide), 'None' (1 slide), "
        "'Z' (2 slides); expected groups among 'T'. Map them under [slides.region_classes] in the cohort file (areas "
        'without a group: "None").'
    )
    assert problem.groups == {"7": ("S3",), "None": ("S1",), "Z": ("S0", "S1")}


def test_check__outlines_are_read_although_the_slide_fails(tmp_path: Path) -> None:
    bare = write_slide(tmp_path / "bare.tif", tissue(256, 256), None)
    box = (0.0, 0.0, 100.0, 100.0)
    unmapped, good = write_asap(tmp_path / "a.xml", ("Z", box)), write_asap(tmp_path / "b.xml", ("T", box))
    (tmp_path / "c.xml").write_text("no XML")
    slides = [Slide(f"S{k}", "P1", bare, p, None, False) for k, p in enumerate((unmapped, good, tmp_path / "c.xml"))]
    problems = TilesStage().check(make_cohort(*slides, region_classes={"T": 1}), make_settings())
    assert [(p.row, p.column) for p in problems] == [
        ("S0", "mpp"),
        ("S1", "mpp"),
        ("S2", "mpp"),
        ("S2", "annotation"),
        ("", "annotation"),
    ]
    assert problems[-1].groups == {"Z": ("S0",)}


def test_check__many_groups_without_a_class_are_cut_in_the_sentence_alone(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tif", tissue(256, 256))
    annotation = write_asap(tmp_path / "a.xml", *((f"G{k:02}", (0.0, 0.0, 100.0, 100.0)) for k in range(25)))
    (problem,) = TilesStage().check(make_cohort(slide(good, annotation)), make_settings())
    assert "'G19' (1 slide) and 5 more; expected groups among none, for none is mapped" in str(problem)
    assert len(problem.groups) == 25


def test_check__says_what_of_an_annotation_is_used(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tif", tissue(256, 256))
    inside, over, outside = (100.0, 100.0, 200.0, 200.0), (200.0, 200.0, 300.0, 300.0), (900.0, 0.0, 950.0, 50.0)
    annotation = write_asap(tmp_path / "a.xml", ("T", inside), ("T", over), ("T", outside))
    dot = '<Annotation Type="Dot"><Coordinates><Coordinate Order="0" X="1" Y="1"/></Coordinates></Annotation>'
    annotation.write_text(annotation.read_text().replace("<Annotations>", f"<Annotations>{dot}"))
    empty = tmp_path / "empty.xml"
    empty.write_text(f"<ASAP_Annotations><Annotations>{dot}</Annotations></ASAP_Annotations>")
    slides = [Slide(f"S{k}", "P1", good, path, None, False) for k, path in enumerate((annotation, empty))]
    problems = TilesStage().check(make_cohort(*slides, region_classes={"T": 1}), make_settings())
    used = {
        "number 1 is of type 'Dot', not an area, and is left out": "What is left out is not used;",
        "1 of 3 areas lie outside the slide": "What is left out is not used;",
        "1 areas reach over the edge of the slide and are cut there": "It is used all the same.",
        "it holds no area, so the slide has no bags": "Draw areas, or leave the annotation empty:",
    }
    assert [p.severity for p in problems] == ["warning"] * 5
    for p in problems:
        assert p.remedy.startswith(used[p.found.removeprefix("annotation: ")])


def test_unmapped_groups_error__keeps_its_groups_between_processes(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 256))
    annotation = write_asap(tmp_path / "a.xml", ("Z", (100, 100, 200, 200)))
    with pytest.raises(UnmappedGroupsError) as caught:
        tile(tmp_path, slide(path, annotation), None, {"T": 1})
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.groups, str(again)) == (UnmappedGroupsError, ("Z",), str(caught.value))


def test_run__ellipse_and_hole_of_imagescope_become_classes_of_words(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(512, 512))
    annotation = tmp_path / "a.xml"
    hole = [(0, 0), (256, 0), (256, 256), (0, 256)]
    annotation.write_text(aperio(layer(drawn([(0, 0), (512, 512)], "2"), drawn(hole, negative=True), name="T")))
    found = tile(tmp_path, slide(path, annotation), make_settings(min_region_share=0.0), {"T": 2})
    classes = {(row["x_level0"], row["y_level0"]): row["word_classes"] for row in found.rows}
    assert found.outcome.summary["warnings"] == []
    assert sorted({kind for kinds in classes.values() for kind in kinds}) == [0, 2]
    assert all(set(kinds) == {0} for (x, y), kinds in classes.items() if x < 128 and y < 128)
    assert any(set(kinds) == {2} for (x, y), kinds in classes.items() if x >= 256 and y >= 256)


def test_run__warnings_go_into_the_summary(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 256))
    annotation = write_asap(tmp_path / "a.xml", ("T", (100, 100, 400, 400)))
    found = tile(tmp_path, slide(path, annotation, 0.6), make_settings(on_mpp_mismatch="warn"), {"T": 1})
    warnings = found.outcome.summary["warnings"]
    assert "the cohort file's is used" in warnings[0]
    assert "reach over the edge" in warnings[1]
    assert found.outcome.summary["mpp_level0"] == 0.6


def test_run__unmapped_group_fails_the_item(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 256))
    annotation = write_asap(tmp_path / "a.xml", ("None", (100, 100, 400, 400)))
    with pytest.raises(InputError, match="slide S1: found the groups 'None'"):
        tile(tmp_path, slide(path, annotation), None, {"T": 1})


# --- memory -----------------------------------------------------------------------------------------------

_MEASURE = """
import re, sys, tempfile
from pathlib import Path
from mumo.config import parse_settings
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.tiles import TilesStage
from mumo.stores.records import Store
settings = parse_settings({"tiles": {"bag_px": 512, "word_px": 64}})
slide = Slide("S1", "P1", Path(sys.argv[1]), None, None, True)
cohort = Cohort("c", Path("c"), (), (slide,), (), {}, {}, ())
with tempfile.TemporaryDirectory() as folder:
    stage, store = TilesStage(), Store(Path(folder))
    (item,) = stage.plan(cohort, settings, store)
    print(stage.run(item, settings, store, Path(folder)).summary["bags"])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_memory_mb(path: Path) -> tuple[int, float]:
    """Number of bags and peak memory of a process that tiles a slide.

    Not from `getrusage`: that counts the memory of the process it was started from.
    """
    done = subprocess.run([sys.executable, "-c", _MEASURE, path], capture_output=True, text=True, check=True)
    bags, kilobytes = done.stdout.split()
    return int(bags), int(kilobytes) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_run__memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    block = tissue(1024, 1024)
    block[:64] = GLASS
    peaks = {}
    for side in (1, 5):
        path = write_slide(tmp_path / f"{side}.tif", np.tile(block, (side, side, 1)))
        peaks[side] = peak_memory_mb(path)
    assert (peaks[1][0], peaks[5][0]) == (4, 100)
    # OpenSlide's cache of tiles fills up (32 MB); the large slide has 96 MiB more of pixels as OpenSlide delivers them.
    assert peaks[5][1] - peaks[1][1] < 45


# --- real slides ------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_run__real_slide_at_its_own_resolution(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    settings = parse_settings({"tiles": {"min_region_share": 0.2}})
    found = tile(tmp_path, slide(path), settings)
    assert found.pixels.shape[1:] == (2048, 2048, 3)
    assert found.chunks == (1, 512, 2048, 3)
    for row in found.rows:
        assert row["size_level0"] == pytest.approx(2048 * 0.5 / 0.499)
        assert 0.2 < row["tissue_share"] < 0.6
        np.testing.assert_allclose(row["lab_mean_after"], (65, 20, -12), atol=0.5)
        np.testing.assert_allclose(row["lab_std_after"], (14, 9, 7), atol=0.5)
        assert len(row["word_classes"]) == 64


@pytest.mark.realdata
def test_run__real_slide_at_half_its_resolution(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    settings = parse_settings(
        {"tiles": {"working_mpp": 0.998, "bag_px": 512, "min_region_share": 0.3, "colour": {"method": "none"}}}
    )
    found = tile(tmp_path, slide(path), settings)
    assert len(found.rows) == 3
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for row, bag in zip(found.rows, found.pixels, strict=True):
        x, y = row["x_level0"], row["y_level0"]
        expected = np.asarray(whole.crop((x, y, x + 1024, min(y + 1024, whole.height))).reduce(2))
        # Pillow decodes the same JPEG tiles.
        assert np.abs(bag[: len(expected)].astype(int) - expected).mean() < 1.5


@pytest.mark.realdata
def test_run__real_slide_with_its_tumour_outlines(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "slides"
    annotation = folder / "annotations" / "camelyon16_tumor_001.level5px.xml"
    source = slide(folder / "camelyon16_tumor_001_level5.tif", annotation, 7.8)
    settings = parse_settings({"tiles": {"working_mpp": 7.8, "bag_px": 64, "word_px": 8, "region_step_px": 1}})
    found = tile(tmp_path, source, settings, {"Tumor": 2})
    assert "crosses or touches itself" in found.outcome.summary["warnings"][0]
    assert len(found.rows) >= 1
    for row in found.rows:
        assert row["region_class"] == 2
        assert row["region_share"] >= 0.5
        assert set(row["word_classes"]) <= {0, 2}
        assert 2100 < row["x_level0"] < 2500
        assert row["tissue_share"] > 0.8
    (problem,) = TilesStage().check(make_cohort(source, region_classes={"Tumor": 2}), settings)
    assert problem.severity == "warning"


@pytest.mark.realdata
def test_run__real_slide_without_a_recorded_resolution(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    settings = parse_settings({"tiles": {"working_mpp": 1.0, "bag_px": 512}})
    with pytest.raises(InputError, match="slide S1: found no resolution"):
        tile(tmp_path, slide(path), settings)
    found = tile(tmp_path, slide(path, mpp=0.5, white_balance=True), settings)
    assert found.outcome.summary["resolution"] == "cohort"
    assert len(found.rows) == 7
    assert all(row["white_balanced"] and row["tissue_share"] > 0.7 for row in found.rows)


# --- damage -------------------------------------------------------------------------------------------------


def damaged(content: bytes, seed: int) -> bytes:
    """Cut short (even seeds), or with a few bits flipped (odd seeds)."""
    rng = np.random.default_rng(seed)
    if seed % 2 == 0:
        return content[: int(rng.uniform(0.01, 0.99) * len(content))]
    flipped = bytearray(content)
    for place in rng.integers(0, len(content), 20):
        flipped[place] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def test_run__damaged_slides_are_tiled_or_refused_and_nothing_else(tmp_path: Path) -> None:
    good = write_slide(tmp_path / "good.tif", tissue(256, 256), levels=2).read_bytes()
    refused = 0
    for seed in range(24):
        path = tmp_path / f"bad{seed}.tif"
        path.write_bytes(damaged(good, seed))
        try:
            tile(tmp_path, slide(path, mpp=0.5), make_settings(on_mpp_mismatch="warn"))
        except InputError:
            refused += 1
    assert refused >= 12, "a slide that is cut short is never accepted"


def test_run__target_slide_gives_the_target(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 256))
    reference = np.clip(tissue(256, 256, seed=1) * 0.8 + (20, 10, 0), 0, 255).astype(np.uint8)
    target = dataclasses.replace(slide(write_slide(tmp_path / "t.tif", reference)), slide="T1")
    settings = make_settings(colour={"target_slide": "T1"})
    items = TilesStage().plan(make_cohort(slide(path), target), settings, Store(tmp_path))
    assert [source.role for source in items[0].sources] == ["slide", "target slide"]
    (tmp_path / "o").mkdir()
    TilesStage().run(items[0], settings, Store(tmp_path), tmp_path / "o")
    row = tables.read_rows(tmp_path / "o" / "bags.parquet", BAGS)[0]
    lab = rgb2lab(reference)
    np.testing.assert_allclose(row["lab_mean_after"], lab.mean(axis=(0, 1)), atol=1.0)
    np.testing.assert_allclose(row["lab_std_after"], lab.std(axis=(0, 1)), atol=1.0)


def test_plan__unknown_target_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no slide of the cohort"):
        planned(tmp_path, slide(tmp_path / "s.svs"), colour={"target_slide": "T9"})


def test_run__label_image_gives_regions(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(256, 512))
    values = np.zeros((32, 64), np.uint8)
    values[:16, :16] = 1
    Image.fromarray(values).save(tmp_path / "labels.png")
    found = tile(tmp_path, slide(path, tmp_path / "labels.png"), classes={"1": 3})
    assert [(row["x_level0"], row["y_level0"], row["region_class"]) for row in found.rows] == [(0, 0, 3)]


def test_plan__all_instances_of_a_dicom_slide_count(tmp_path: Path) -> None:
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / name).write_bytes(b"x")
    item = planned(tmp_path, slide(tmp_path / "a.dcm"))
    assert [(source.role, source.path) for source in item.sources] == [
        ("slide", tmp_path / "a.dcm"),
        ("slide instances", tmp_path),
    ]


def test_run__quality_picture_is_the_same_every_time(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.tif", tissue(300, 300))
    pictures = []
    for _ in range(2):
        tile(tmp_path, slide(path))
        out = tmp_path / f"out{len(list(tmp_path.glob('out*'))) - 1}"
        pictures.append((out / "quality.png").read_bytes())
        with Image.open(out / "quality.png") as image:
            colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or ()}
    assert pictures[0] == pictures[1]
    assert {(0, 0, 0), (0, 114, 178)} <= colours, "squares of bags and the outline of tissue are drawn"

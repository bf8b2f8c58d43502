"""The bags of a slide item: the same from the store and from the slide; what is stored, how, and what is not."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
import zarr
from PIL import Image

from mumo.config import Settings, parse_settings
from mumo.errors import InputError, StoreError
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.embed import EmbedStage
from mumo.pipeline.pathology.bags import Colour, bag_origins, open_bags
from mumo.pipeline.pathology.stain import LabStatistics
from mumo.pipeline.pathology.tissue import TissueRule
from mumo.pipeline.radiomics import RadiomicsStage
from mumo.pipeline.running.execute import InProcess, Task
from mumo.pipeline.running.planning import plan_items
from mumo.pipeline.running.sources import SourceDigests
from mumo.pipeline.stage import Stage
from mumo.pipeline.tiles import TilesStage
from mumo.stores import tables
from mumo.stores.records import Store
from mumo.stores.specs import OMICS


def make_settings(**tiles: Any) -> Settings:
    small = {"bag_px": 128, "word_px": 32, "tissue": {"thumbnail_mpp": 2.0, "min_area_um2": 50.0}} | tiles
    return parse_settings(
        {
            "tiles": small,
            "embed": {"weights": "random:0"},
            "run": {"device": "cpu"},
            "radiomics": {"slide": {"size_px": 64}},
        }
    )


def make_cohort(*slides: Slide) -> Cohort:
    return Cohort("c", Path("cohort.toml"), (), slides, (), {}, {}, ())


def write_slide(path: Path, mpp: float = 0.3, seed: int = 0) -> Path:
    """Nuclei in stroma under yellowish light beside glass, at a resolution that needs resampling."""
    rng = np.random.default_rng(seed)
    nuclei = np.kron(rng.random((80, 80)) < 0.2, np.ones((8, 8)))[..., None]
    pixels = np.where(nuclei > 0, (100, 60, 130), (205, 130, 175)) + rng.normal(0, 6, (640, 640, 3))
    pixels[:, 500:] = 243
    pixels *= (1.0, 1.0, 0.93)
    tifffile.imwrite(
        path,
        np.clip(pixels, 0, 255).astype(np.uint8),
        tile=(128, 128),
        photometric="rgb",
        resolution=(1e4 / mpp, 1e4 / mpp),
        resolutionunit="CENTIMETER",
    )
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Slide:
    return Slide("S1", "P1", write_slide(tmp_path / "s.tif"), None, None, True)


def compute(stage: Stage, store: Store, cohort: Cohort, settings: Settings) -> list[str]:
    """Compute what is to be done of a stage, as `extract` does, by tasks that have been through pickle."""
    plan = plan_items(stage, stage.plan(cohort, settings, store), store, SourceDigests(store.path / "digests.json"))
    tasks = [Task(stage, planned, settings, store) for planned in plan if planned.state in ("new", "stale")]
    return [status.result for status in InProcess().run(pickle.loads(pickle.dumps(tasks)))]


def pixels_of(store: Store, slide: Slide, max_pixels: int = 10**9) -> npt.NDArray[np.uint8]:
    origin = bag_origins([slide], store, max_pixels)[slide.slide]
    with open_bags(store.part("tiles", "slide-S1", "pixels.zarr"), "slide-S1", origin.slide) as bags:
        return np.concatenate([bags.read(n, n + 1) for n in range(bags.count)])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def stores(tmp_path: Path, slide: Slide, request: pytest.FixtureRequest) -> dict[str, Store]:
    """A store for each way of keeping pixels."""
    colour = {"scope": getattr(request, "param", "bag")}
    made = {}
    for pixels in ("zstd", "jpeg", "none"):
        made[pixels] = Store.create(tmp_path / pixels)
        settings = make_settings(pixels=pixels, colour=colour)
        assert compute(TilesStage(), made[pixels], make_cohort(slide), settings) == ["ok"]
    return made


@pytest.mark.parametrize("stores", ["bag", "slide"], indirect=True)
def test_open_bags__from_the_slide_are_bitwise_those_of_the_store(stores: dict[str, Store], slide: Slide) -> None:
    kept, read = pixels_of(stores["zstd"], slide), pixels_of(stores["none"], slide)
    assert kept.shape == (6, 128, 128, 3)
    np.testing.assert_array_equal(read, kept)


def test_tiles__table_and_picture_do_not_depend_on_how_pixels_are_kept(stores: dict[str, Store]) -> None:
    digests = [store.record("tiles", "slide-S1").parts for store in stores.values()]  # type: ignore[union-attr]
    for part in ("bags.parquet", "quality.png"):
        assert len({parts[part] for parts in digests}) == 1
    assert len({parts["pixels.zarr"] for parts in digests}) == 3


def test_open_bags__jpeg_is_close_and_smaller(stores: dict[str, Store], slide: Slide) -> None:
    exact, lossy = pixels_of(stores["zstd"], slide).astype(int), pixels_of(stores["jpeg"], slide).astype(int)
    assert 0 < np.abs(exact - lossy).mean() < 6
    sizes = [size_of(store.part("tiles", "slide-S1", "pixels.zarr")) for store in stores.values()]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2]


def test_tiles__jpeg_chunks_are_ordinary_jpeg_files(stores: dict[str, Store]) -> None:
    folder = stores["jpeg"].part("tiles", "slide-S1", "pixels.zarr") / "pixels" / "c"
    with Image.open(next(path for path in folder.rglob("*") if path.is_file())) as image:
        assert (image.format, image.size) == ("JPEG", (128, 128))


def test_tiles__jpeg_quality_is_kept(tmp_path: Path, slide: Slide) -> None:
    sizes = []
    for quality in (50, 95):
        store = Store.create(tmp_path / f"q{quality}")
        compute(TilesStage(), store, make_cohort(slide), make_settings(pixels="jpeg", jpeg_quality=quality))
        sizes.append(size_of(store.part("tiles", "slide-S1", "pixels.zarr")))
    assert sizes[0] < 0.7 * sizes[1]


def test_embed__from_the_slide_is_bitwise_that_from_the_store(stores: dict[str, Store], slide: Slide) -> None:
    features = {}
    for pixels, store in stores.items():
        assert compute(EmbedStage(), store, make_cohort(slide), make_settings(pixels=pixels)) == ["ok"]
        features[pixels] = zarr.open_group(store.part("embed", "slide-S1", "features.zarr"), mode="r")["words"][...]
    np.testing.assert_array_equal(features["none"], features["zstd"])
    assert np.abs(features["jpeg"] - features["zstd"]).max() > 0


def test_radiomics__from_the_slide_is_bitwise_that_from_the_store(stores: dict[str, Store], slide: Slide) -> None:
    rows = []
    for pixels in ("zstd", "none"):
        assert compute(RadiomicsStage(), stores[pixels], make_cohort(slide), make_settings()) == ["ok"]
        rows.append(tables.read_rows(stores[pixels].part("radiomics", "slide-S1", "features.parquet"), OMICS))
    assert len(rows[0]) == 6
    assert rows[0] == rows[1]


def test_embed__slide_is_a_source_only_where_the_store_keeps_no_pixels(stores: dict[str, Store], slide: Slide) -> None:
    sources = {}
    for pixels, store in stores.items():
        # What the store holds decides, not the setting of the moment.
        (item,) = EmbedStage().plan(make_cohort(slide), make_settings(), store)
        sources[pixels] = [source.role for source in item.sources]
    assert sources == {"zstd": [], "jpeg": [], "none": ["slide"]}


def test_embed__changed_slide_is_noticed_where_the_store_keeps_no_pixels(
    stores: dict[str, Store], slide: Slide
) -> None:
    store, settings, cohort = stores["none"], make_settings(pixels="none"), make_cohort(slide)
    assert compute(EmbedStage(), store, cohort, settings) == ["ok"]
    assert compute(EmbedStage(), store, cohort, settings) == []
    write_slide(slide.path, seed=1)
    assert compute(EmbedStage(), store, cohort, settings) == ["ok"]


def test_embed__missing_slide_fails_the_item_where_the_store_keeps_no_pixels(
    stores: dict[str, Store], slide: Slide
) -> None:
    slide.path.unlink()
    assert compute(EmbedStage(), stores["none"], make_cohort(slide), make_settings()) == ["failed"]
    assert "slide" in stores["none"].failures("embed")["slide-S1"].message


def test_open_bags__without_pixels_and_slide_says_what_to_do(stores: dict[str, Store]) -> None:
    path = stores["none"].part("tiles", "slide-S1", "pixels.zarr")
    with pytest.raises(StoreError, match="keeps no pixels"), open_bags(path, "slide-S1", None):
        pass


def test_open_bags__limit_of_pixels_holds_again(stores: dict[str, Store], slide: Slide) -> None:
    with pytest.raises(InputError, match="px declared"):
        pixels_of(stores["none"], slide, max_pixels=1000)


@pytest.mark.parametrize("change", [{"recipe_version": 0}, {"colour": {}}, {"mpp_level0": "x"}])
def test_open_bags__damaged_recipe_is_refused(stores: dict[str, Store], slide: Slide, change: dict[str, Any]) -> None:
    group = zarr.open_group(stores["none"].part("tiles", "slide-S1", "pixels.zarr"), mode="r+")
    group.attrs.update(change)
    with pytest.raises(StoreError, match="extract tiles again"):
        pixels_of(stores["none"], slide)


def test_open_bags__jpeg_of_another_shape_is_refused(stores: dict[str, Store], slide: Slide) -> None:
    folder = stores["jpeg"].part("tiles", "slide-S1", "pixels.zarr") / "pixels" / "c"
    chunk = next(path for path in folder.rglob("*") if path.is_file())
    Image.new("RGB", (64, 64)).save(chunk, format="JPEG")
    with pytest.raises(ValueError, match="JPEG chunk of shape"):
        pixels_of(stores["jpeg"], slide)


def test_colour__json_keeps_it_exactly() -> None:
    colour = Colour(
        TissueRule(0.1 + 0.2, 1 / 3),
        (243.5, 240.0, 1 / 7),
        "reinhard",
        0.01,
        (65.0, 20.0, -12.0),
        (14.0, 9.0, 7.0),
        LabStatistics((1 / 3, 2.0, 3.0), (4.0, 5.0, 6.0), 0.7),
    )
    import json

    assert Colour.from_json(json.loads(json.dumps(colour.as_json()))) == colour


def test_bag_origins__slides_that_are_not_in_the_store_have_none(tmp_path: Path) -> None:
    origins = bag_origins([SimpleNamespace(slide="S9")], Store.create(tmp_path / "s"), 1)  # type: ignore[list-item]
    assert origins["S9"].sources == ()
    assert origins["S9"].slide is None

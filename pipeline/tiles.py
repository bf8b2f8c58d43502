"""The `tiles` stage: slides to bags and words. Where bags lie is decided in `layout`, their colours in `colours`."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import zarr

from ..config import Settings, TilesSettings
from ..errors import ConfigError, MumoError, Problem
from ..stores import arrays, tables
from ..stores.records import Store
from ..stores.specs import BAG_PIXELS, BAGS, ArraySpec
from .cohorts.cohort import Cohort, Slide
from .pathology.annotations import GEOJSON_SUFFIXES, check_place, classify, read_annotations
from .pathology.bags import Colour, recolour, write_recipe
from .pathology.colours import colour_of, look_at, target_of
from .pathology.crossings import cannot_be_joined
from .pathology.geojson_frame import SCANNED_CORNER, to_level0
from .pathology.groups import UnmappedGroupsError, unmapped_problem
from .pathology.layout import Bag, Regions, bag_side_level0, plan_bags
from .pathology.quality import Sample, sampled, shrink, write_quality
from .pathology.regions import LABEL_SUFFIXES, PolygonRegions, read_label_regions
from .pathology.remarks import Remark
from .pathology.slides import RgbImage, SlideError, SlideReader, open_reader, slide_sources
from .pathology.varied import vary_areas
from .read_ahead import read_ahead
from .stage import Item, Outcome, Source, Stage

_CHUNK_ROWS = 512


@dataclass(frozen=True)
class TilesPayload:
    """What a worker needs to know of a slide."""

    slide: Slide
    region_classes: Mapping[str, int]
    target_slide: Slide | None


class TilesStage(Stage):
    """Slides to bags: regions, reading, colour normalisation, storing. One item a slide."""

    name = "tiles"
    version = 1

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a slide of the cohort; ConfigError where the target slide is none of them."""
        target = _target_slide(cohort, settings.tiles)
        return [_item(self.name, slide, cohort, target, settings.tiles) for slide in cohort.slides]

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """Slides and annotations that cannot be used or need a look; reads headers and annotation files."""
        problems = []
        try:
            target_of(settings.tiles, _target_slide(cohort, settings.tiles))
        except MumoError as error:
            problems.append(
                Problem("configuration", "", "tiles.colour", str(error), "a target of colours", "Choose another.")
            )
        unmapped: dict[str, list[str]] = {}
        for slide in cohort.slides:
            remarks, wrong = _checked(slide, cohort.region_classes, settings.tiles)
            for found in wrong:
                if isinstance(found, UnmappedGroupsError):
                    for group in found.groups:
                        unmapped.setdefault(group, []).append(slide.slide)
                else:
                    problems.append(found.problem())
            problems += [remark.problem(slide.slide) for remark in remarks]
        return [*problems, unmapped_problem(unmapped, cohort.region_classes)] if unmapped else problems

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Cut one slide into bags: `pixels.zarr`, `bags.parquet` and `quality.png`.

        Raises:
            SlideError: the slide or its annotation cannot be used, or it has more than `max_bags` bags.
            ConfigError: the target image or slide cannot be used.
        """
        payload: TilesPayload = item.payload
        tiles, slide = settings.tiles, payload.slide
        with open_reader(slide, tiles) as reader:
            look = look_at(reader, slide, tiles)
            warnings = [*reader.resolution.warnings, *look.warnings]
            regions: Regions = look.tissue
            if slide.annotation is not None:
                regions, remarks = _regions(slide, payload.region_classes, reader, tiles)
                warnings += [remark.text for remark in remarks]
            bags = plan_bags(regions, reader, tiles)
            if not bags:
                warnings.append(_why_no_bag(regions, reader, tiles))
            colour = colour_of(reader, bags, look, tiles, payload.target_slide)
            rows, samples = _write_bags(out, reader, slide, bags, colour, tiles)
            tables.write_table(out / "bags.parquet", rows, BAGS)
            width, height = reader.size_level0
            heading = (
                f"Slide {slide.slide}: {len(bags)} bag{'s' if len(bags) != 1 else ''}",
                f"{width} × {height} px of {reader.mpp_level0:.4g} µm ({reader.resolution.source}); bags of "
                f"{tiles.bag_px} px at {tiles.working_mpp:g} µm/px",
                f"regions: {'tissue of the thumbnail' if slide.annotation is None else 'annotation'}; "
                f"colours: {tiles.colour.method}{', white balance' if colour.white else ''}",
            )
            side = bag_side_level0(reader, tiles)
            write_quality(out / "quality.png", heading, look.thumbnail, regions, bags, side, samples, warnings)
            summary = {
                "bags": len(bags),
                "mpp_level0": reader.mpp_level0,
                "resolution": reader.resolution.source,
                SCANNED_CORNER: list(reader.scanned_corner_level0),
                "pixels": tiles.pixels,
                "warnings": warnings,
            }
        return Outcome("ok" if bags else "empty", summary)


def _item(stage: str, slide: Slide, cohort: Cohort, target: Slide | None, tiles: TilesSettings) -> Item:
    """The work on one slide; settings that cannot change its result are left out of what it depends on."""
    without: set[str] = {
        "max_bags",
        "max_pixels",
        "max_annotation_bytes",
        "max_annotation_vertices",
        "max_label_pixels",
        "max_upsampling",
        *({"zstd_level"} if tiles.pixels != "zstd" else ()),
        *({"jpeg_quality"} if tiles.pixels != "jpeg" else ()),
    }
    inputs: dict[str, Any] = {"patient": slide.patient, "mpp": slide.mpp, "white_balance": slide.white_balance}
    sources = list(slide_sources(slide.path))
    if slide.mpp is None:
        without |= {"mpp_tolerance", "on_mpp_mismatch"}
    if slide.annotation is None or slide.annotation.suffix.lower() not in GEOJSON_SUFFIXES:
        without |= {"geojson_origin"}
    if slide.annotation is None:
        without |= {"region_priority"}
    else:
        sources.append(Source("annotation", slide.annotation, full=True))
        inputs["region_classes"] = dict(cohort.region_classes)
        if slide.variation is not None:
            inputs["variation"] = asdict(slide.variation)
    if tiles.colour.target_image is not None:
        sources.append(Source("target image", tiles.colour.target_image, full=True))
    if target is not None:
        sources += [Source(f"target {source.role}", source.path) for source in slide_sources(target.path)]
        inputs["target"] = {"mpp": target.mpp, "white_balance": target.white_balance}
    values = tiles.model_dump(mode="json", exclude=without)
    # The image counts by its content; its path must reach no store.
    del values["colour"]["target_image"]
    payload = TilesPayload(slide, dict(cohort.region_classes), target)
    return Item(stage, f"slide-{slide.slide}", payload, values, inputs, tuple(sources))


def _target_slide(cohort: Cohort, tiles: TilesSettings) -> Slide | None:
    """The slide of the cohort that gives the target of colours; ConfigError where there is none of that id."""
    wanted = tiles.colour.target_slide
    if wanted is None:
        return None
    found = [slide for slide in cohort.slides if slide.slide == wanted]
    if not found:
        raise ConfigError(f"tiles.colour.target_slide: found {wanted!r}, which is no slide of the cohort")
    return found[0]


def _checked(
    slide: Slide, region_classes: Mapping[str, int], tiles: TilesSettings
) -> tuple[list[Remark], list[SlideError]]:
    """Remarks on a slide and its annotation, and what is wrong; outlines are read although the slide cannot be."""
    annotation = slide.annotation
    try:
        with open_reader(slide, tiles) as reader:
            remarks = [Remark(warning) for warning in reader.resolution.warnings]
            if annotation is not None:
                remarks += _regions(slide, region_classes, reader, tiles)[1]
            return remarks, []
    except SlideError as error:
        wrong = [error]
    if annotation is not None and annotation.suffix.lower() not in LABEL_SUFFIXES and wrong[0].parts[1] != "annotation":
        try:
            classify(read_annotations(annotation, slide.slide, tiles), region_classes, slide.slide)
        except SlideError as error:
            wrong.append(error)
    return [], wrong


def _regions(
    slide: Slide, region_classes: Mapping[str, int], reader: SlideReader, tiles: TilesSettings
) -> tuple[Regions, tuple[Remark, ...]]:
    """What the slide's annotation file says, and remarks on it."""
    assert slide.annotation is not None
    if slide.annotation.suffix.lower() in LABEL_SUFFIXES:
        return read_label_regions(slide.annotation, slide.slide, region_classes, reader.size_level0, tiles)
    annotations = read_annotations(slide.annotation, slide.slide, tiles)
    annotations = to_level0(annotations, slide.annotation, reader.scanned_corner_level0, tiles)
    areas = classify(annotations, region_classes, slide.slide)
    if slide.variation is not None:
        areas = vary_areas(areas, slide.slide, slide.variation)
    if cannot_be_joined([area for _, area in areas]):
        raise SlideError(
            slide.slide,
            "annotation",
            f"areas in {slide.annotation.name} that cross each other too often",
            "outlines of regions",
            "Join or simplify the areas.",
        )
    remarks = annotations.remarks + check_place(annotations, reader.size_level0, slide.slide)
    return PolygonRegions(areas, reader.size_level0, tiles.region_priority), remarks


def _why_no_bag(regions: Regions, reader: SlideReader, tiles: TilesSettings) -> str:
    """Why a slide has no bag: how much of the best place lies in a region, against what is asked for."""
    said = "no place of the slide holds a bag:"
    anywhere = plan_bags(regions, reader, tiles.model_copy(update={"min_region_share": 0.0}))
    if not anywhere:
        return f"{said} it has no tissue, or no region in its annotation"
    best = max(bag.region_share for bag in anywhere)
    return (
        f"{said} one of {tiles.bag_px} px at {tiles.working_mpp:g} µm/px has at most {best:.0%} in a region, and "
        f"tiles.min_region_share asks for {tiles.min_region_share:.0%}"
    )


def _pixels_spec(tiles: TilesSettings) -> ArraySpec:
    """Pixels in chunks of whole rows of words, about 512 pixels high."""
    words = tiles.bag_px // tiles.word_px
    high = max(n for n in range(1, words + 1) if words % n == 0 and (n == 1 or n * tiles.word_px <= _CHUNK_ROWS))
    return replace(BAG_PIXELS, chunk=(1, high * tiles.word_px, None, None))


def _create_pixels(group: zarr.Group, count: int, tiles: TilesSettings) -> zarr.Array[Any]:
    quality = tiles.jpeg_quality if tiles.pixels == "jpeg" else None
    shape = (count, tiles.bag_px, tiles.bag_px, 3)
    return arrays.create_array(group, _pixels_spec(tiles), shape, zstd_level=tiles.zstd_level, jpeg_quality=quality)


def _write_bags(
    out: Path, reader: SlideReader, slide: Slide, bags: list[Bag], colour: Colour, tiles: TilesSettings
) -> tuple[list[dict[str, Any]], list[Sample]]:
    """Read, normalise and store the bags; returns their rows for the table, and samples of them.

    One bag is read and one is stored while a third gets its colours, so memory is bounded by three.
    """
    group = arrays.create_group(out / "pixels.zarr", {"mpp": tiles.working_mpp, "word_px": tiles.word_px})
    array = None if tiles.pixels == "none" else _create_pixels(group, len(bags), tiles)
    if array is None:
        places = [(bag.x_level0, bag.y_level0) for bag in bags]
        write_recipe(group, places, tiles.bag_px, reader.mpp_level0, colour)
    shown, samples, rows = sampled(len(bags)), [], []

    def read(bag: Bag) -> RgbImage:
        return reader.read(bag.x_level0, bag.y_level0, (tiles.bag_px, tiles.bag_px), tiles.working_mpp)

    with ThreadPoolExecutor(1, thread_name_prefix="tiles-write") as writer:
        stored: Future[None] | None = None
        for number, (bag, pixels) in enumerate(read_ahead(read, bags, "tiles-read")):
            before = shrink(pixels) if number in shown else None
            colours = recolour(pixels, colour)
            if before is not None:
                samples.append(Sample(number, before, shrink(pixels)))
            if stored is not None:
                stored.result()
            if array is not None:
                stored = writer.submit(array.__setitem__, number, pixels)
            rows.append(_row(number, bag, slide, bag_side_level0(reader, tiles), tiles, colour) | colours)
        if stored is not None:
            stored.result()
    return rows, samples


def _row(
    number: int, bag: Bag, slide: Slide, side_level0: float, tiles: TilesSettings, colour: Colour
) -> dict[str, Any]:
    """The columns of the table about the place of a bag."""
    annotated = slide.annotation is not None
    return {
        "patient": slide.patient,
        "slide": slide.slide,
        "bag": number,
        "x_level0": bag.x_level0,
        "y_level0": bag.y_level0,
        "size_level0": side_level0,
        "mpp": tiles.working_mpp,
        "region_share": bag.region_share,
        "region_class": bag.region_class if annotated else -1,
        "word_classes": list(bag.word_classes) if annotated else [-1] * len(bag.word_classes),
        "white_balanced": colour.white is not None,
    }

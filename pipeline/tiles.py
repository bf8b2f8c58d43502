"""The `tiles` stage: slides to bags and words.

A bag is a square of `bag_px` pixels at `working_mpp`. Bags lie on a grid that starts at the upper left corner of the
box around the regions; those at the right and lower edge may reach over the slide, where they are filled with the
background, and their shares are always those of the whole square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from shapely.geometry.base import BaseGeometry

from ..config import REGION_CLASSES, ColourSettings, Settings, TilesSettings
from ..errors import ConfigError, Problem
from ..stores import arrays, tables
from ..stores.records import Store
from ..stores.specs import BAG_PIXELS, BAGS, ArraySpec
from . import stain
from .annotations import PolygonRegions, check_place, classify, read_annotations
from .cohort import Cohort, Slide
from .slides import RgbImage, SlideError, SlideReader, open_reader
from .stage import Item, Outcome, Source, Stage
from .tissue import TissueMask, TissueRule, find_tissue, read_thumbnail, white_of

_CHUNK_ROWS = 512


class Regions(Protocol):
    """Places of a slide that bags are cut from, and their classes; coordinates are px of level 0."""

    @property
    def bounds_level0(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom; none where there are no regions."""
        ...

    def class_map(
        self, x_level0: float, y_level0: float, step_level0: float, shape: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """Classes at the centres of a grid of squares; 0 is outside."""
        ...


@dataclass(frozen=True)
class TilesPayload:
    """What a worker needs to know of a slide."""

    slide: Slide
    region_classes: Mapping[str, int]


@dataclass(frozen=True)
class Bag:
    """Where a bag lies, and what the regions say of it."""

    x_level0: int
    y_level0: int
    region_share: float
    """Share of the bag inside the regions."""
    region_class: int
    word_classes: tuple[int, ...]
    """Row-major."""


@dataclass(frozen=True)
class Colour:
    """How the bags of one slide get their colours."""

    rule: TissueRule
    balance: npt.NDArray[np.uint8] | None
    """Table of the white balance; none where it is not applied."""
    target_mean: stain.Triple
    target_std: stain.Triple
    slide: stain.LabStatistics | None
    """Statistics of the slide, in scope `slide`."""


class TilesStage(Stage):
    """Slides to bags: regions, reading, colour normalisation, storing. One item a slide."""

    name = "tiles"
    version = 1

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a slide of the cohort."""
        return [_item(self.name, slide, cohort, settings.tiles) for slide in cohort.slides]

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """Slides and annotations that cannot be used or need a look; reads headers and annotation files."""
        problems = []
        try:
            _target(settings.tiles.colour, settings.tiles)
        except ConfigError as error:
            problems.append(
                Problem("configuration", "", "tiles.colour.target_image", str(error), "an image", "Correct the path.")
            )
        for slide in cohort.slides:
            try:
                with open_reader(slide, settings.tiles) as reader:
                    warnings = list(reader.resolution.warnings)
                    if slide.annotation is not None:
                        warnings += _areas(slide, cohort.region_classes, reader, settings.tiles)[1]
            except SlideError as error:
                problems.append(error.problem())
                continue
            problems += [
                Problem("slides", slide.slide, "", warning, "nothing to look at", "It is used all the same.", "warning")
                for warning in warnings
            ]
        return problems

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Cut one slide into bags: `pixels.zarr` and `bags.parquet`.

        Raises:
            SlideError: the slide or its annotation cannot be used, or it has more than `max_bags` bags.
            ConfigError: the target image cannot be used.
        """
        payload: TilesPayload = item.payload
        tiles = settings.tiles
        with open_reader(payload.slide, tiles) as reader:
            warnings = list(reader.resolution.warnings)
            tissue, balance = _look(reader, payload.slide, tiles, warnings)
            regions: Regions = tissue
            if payload.slide.annotation is not None:
                areas, notes = _areas(payload.slide, payload.region_classes, reader, tiles)
                regions = PolygonRegions(areas, reader.size_level0, tiles.region_priority)
                warnings += notes
            bags = plan_bags(regions, reader, tiles)
            if not bags:
                warnings.append("no place of the slide holds a bag: the regions are too small or there is no tissue")
            colour = _colour(reader, bags, tissue.rule, balance, tiles)
            rows = _write_bags(out, reader, payload.slide, bags, colour, tiles)
            tables.write_table(out / "bags.parquet", rows, BAGS)
            summary = {
                "bags": len(bags),
                "mpp_level0": reader.mpp_level0,
                "resolution": reader.resolution.source,
                "warnings": warnings,
            }
        return Outcome("ok" if bags else "empty", summary)


def bag_side_level0(reader: SlideReader, tiles: TilesSettings) -> float:
    """Side of a bag, px of level 0."""
    return tiles.bag_px * tiles.working_mpp / reader.mpp_level0


def plan_bags(regions: Regions, reader: SlideReader, tiles: TilesSettings) -> list[Bag]:
    """The bags of a slide, from left to right and down, that lie in the regions by at least `min_region_share`.

    The class of a bag and of each word is that of most of its points, the higher one where two have as many. One
    row of the grid is looked at at a time.

    Raises:
        SlideError: there are more than `max_bags`.
    """
    bounds = regions.bounds_level0
    if bounds is None:
        return []
    side = bag_side_level0(reader, tiles)
    left, columns = _grid(bounds[0], bounds[2], reader.size_level0[0], side)
    top, rows = _grid(bounds[1], bounds[3], reader.size_level0[1], side)
    step_px = max(step for step in range(1, tiles.region_step_px + 1) if tiles.word_px % step == 0)
    points = tiles.bag_px // step_px
    bags: list[Bag] = []
    for row in range(rows):
        strip = regions.class_map(left, top + row * side, side / points, (points, columns * points))
        y_level0 = round(top + row * side)
        for column in range(columns):
            classes = strip[:, column * points : (column + 1) * points]
            bag = _bag(round(left + column * side), y_level0, classes, tiles.word_px // step_px)
            if bag.region_share >= tiles.min_region_share and bag.region_share > 0:
                bags.append(bag)
        if len(bags) > tiles.max_bags:
            raise SlideError(
                reader.slide,
                "path",
                f"more than {tiles.max_bags:,} bags",
                "fewer",
                "Check the resolution, or raise tiles.max_bags.",
            )
    return bags


def _grid(low: float, high: float, size: int, side: float) -> tuple[int, int]:
    """Start and number of the bags that cover `low` to `high` along one axis of a slide of `size`, px of level 0.

    They start where the regions do; where the last would hang over the slide's edge, all move back as far as the
    slide allows.
    """
    number = math.ceil((high - math.floor(low)) / side)
    last_start = max(0, math.floor(size - number * side))
    return min(math.floor(low), last_start), number


def _bag(x_level0: int, y_level0: int, classes: npt.NDArray[np.uint8], word_points: int) -> Bag:
    """The bag whose points have `classes` (y, x); a word has `word_points` a side."""
    words = classes.shape[0] // word_points
    in_words = classes.reshape(words, word_points, words, word_points).swapaxes(1, 2).reshape(words * words, -1)
    # (word, class): number of points
    counts = np.stack([np.count_nonzero(in_words == kind, axis=1) for kind in range(REGION_CLASSES)], axis=1)
    total = counts.sum(axis=0)
    return Bag(
        x_level0,
        y_level0,
        float(1 - total[0] / classes.size),
        int(_majority(total[None])[0]),
        tuple(int(kind) for kind in _majority(counts)),
    )


def _majority(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Of each row of counts (n, class) the class with most, the higher one of equals."""
    return np.asarray(counts.shape[1] - 1 - np.argmax(counts[:, ::-1], axis=1), np.int64)


def _item(stage: str, slide: Slide, cohort: Cohort, tiles: TilesSettings) -> Item:
    """The work on one slide; settings that cannot change its result are left out of what it depends on."""
    without: set[str] = {
        "max_bags",
        "max_pixels",
        "max_annotation_bytes",
        "max_annotation_vertices",
        "max_upsampling",
    }
    inputs: dict[str, Any] = {"patient": slide.patient, "mpp": slide.mpp, "white_balance": slide.white_balance}
    sources = [Source("slide", slide.path)]
    companion = slide.path.with_suffix("")
    if slide.path.suffix.lower() == ".mrxs" and companion.is_dir():
        sources.append(Source("slide data", companion))
    if slide.mpp is None:
        without |= {"mpp_tolerance", "on_mpp_mismatch"}
    if slide.annotation is None:
        without |= {"region_priority"}
    else:
        sources.append(Source("annotation", slide.annotation, full=True))
        inputs["region_classes"] = dict(cohort.region_classes)
    if tiles.colour.target_image is not None:
        sources.append(Source("target image", tiles.colour.target_image, full=True))
    values = tiles.model_dump(mode="json", exclude=without)
    # The image counts by its content; its path must reach no store.
    del values["colour"]["target_image"]
    payload = TilesPayload(slide, dict(cohort.region_classes))
    return Item(stage, f"slide-{slide.slide}", payload, values, inputs, tuple(sources))


def _areas(
    slide: Slide, region_classes: Mapping[str, int], reader: SlideReader, tiles: TilesSettings
) -> tuple[list[tuple[int, BaseGeometry]], tuple[str, ...]]:
    """The areas of the slide's annotation file with their classes, and warnings."""
    assert slide.annotation is not None
    annotations = read_annotations(slide.annotation, slide.slide, tiles)
    areas = classify(annotations, region_classes, slide.slide)
    return areas, annotations.notes + check_place(annotations, reader.size_level0, slide.slide)


def _look(
    reader: SlideReader, slide: Slide, tiles: TilesSettings, warnings: list[str]
) -> tuple[TissueMask, npt.NDArray[np.uint8] | None]:
    """Tissue of the slide, and the table of its white balance where that is asked for."""
    thumbnail = read_thumbnail(reader, tiles.tissue)
    balance = None
    if slide.white_balance:
        white = white_of(thumbnail, tiles.tissue)
        if white is None:
            warnings.append("white balance: the slide shows no glass to take the light from; it is left as it is")
        else:
            balance = stain.white_balance_table(white)
            thumbnail = replace(thumbnail, pixels=stain.apply_table(thumbnail.pixels, balance))
    return find_tissue(thumbnail, tiles.tissue), balance


def _target(colour: ColourSettings, tiles: TilesSettings) -> tuple[stain.Triple, stain.Triple]:
    """Mean and standard deviation that tissue gets: the settings', or those of the tissue of the target image."""
    if colour.target_image is None:
        return colour.target_mean, colour.target_std
    try:
        with Image.open(colour.target_image) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(
            f"tiles.colour.target_image: {colour.target_image.name} cannot be read as an image; check the path"
        ) from error
    rule = TissueRule(tiles.tissue.min_saturation, tiles.tissue.min_brightness)
    statistics = stain.measure(pixels, rule)
    if not statistics.tissue_share or min(statistics.std) == 0:
        raise ConfigError(f"tiles.colour.target_image: {colour.target_image.name} shows no tissue; choose another")
    return statistics.mean, statistics.std


def _colour(
    reader: SlideReader,
    bags: list[Bag],
    rule: TissueRule,
    balance: npt.NDArray[np.uint8] | None,
    tiles: TilesSettings,
) -> Colour:
    """How this slide's bags get their colours; in scope `slide` a sample of its words is read and measured."""
    mean, std = _target(tiles.colour, tiles)
    slide = None
    if bags and tiles.colour.scope == "slide" and tiles.colour.method == "reinhard":
        words = _sample_words(bags, reader, tiles)
        slide = stain.pool([stain.moments(word, rule, balance) for word in words])
    return Colour(rule, balance, mean, std, slide)


def _sample_words(bags: list[Bag], reader: SlideReader, tiles: TilesSettings) -> Iterator[RgbImage]:
    """Words spread evenly over the bags, as scanned. Averages on a thumbnail would have too small a spread."""
    a_side = tiles.bag_px // tiles.word_px
    total = len(bags) * a_side * a_side
    word_level0 = bag_side_level0(reader, tiles) / a_side
    for number in np.unique(np.linspace(0, total - 1, min(tiles.colour.sample_words, total)).astype(int)):
        bag, word = bags[number // (a_side * a_side)], number % (a_side * a_side)
        x, y = bag.x_level0 + (word % a_side) * word_level0, bag.y_level0 + (word // a_side) * word_level0
        yield reader.read(x, y, (tiles.word_px, tiles.word_px), tiles.working_mpp)


def _pixels_spec(tiles: TilesSettings) -> ArraySpec:
    """Pixels in chunks of whole rows of words, about 512 pixels high."""
    words = tiles.bag_px // tiles.word_px
    high = max(n for n in range(1, words + 1) if words % n == 0 and (n == 1 or n * tiles.word_px <= _CHUNK_ROWS))
    return replace(BAG_PIXELS, chunk=(1, high * tiles.word_px, None, None))


def _write_bags(
    out: Path, reader: SlideReader, slide: Slide, bags: list[Bag], colour: Colour, tiles: TilesSettings
) -> list[dict[str, Any]]:
    """Read, normalise and store the bags, one at a time; returns their rows for the table."""
    group = arrays.create_group(out / "pixels.zarr", {"mpp": tiles.working_mpp, "word_px": tiles.word_px})
    shape = (len(bags), tiles.bag_px, tiles.bag_px, 3)
    array = arrays.create_array(group, _pixels_spec(tiles), shape, zstd_level=tiles.zstd_level)
    rows = []
    for number, bag in enumerate(bags):
        pixels = reader.read(bag.x_level0, bag.y_level0, shape[1:3], tiles.working_mpp)
        colours = _recolour(pixels, colour, tiles.colour)
        array[number] = pixels
        rows.append(
            {
                "patient": slide.patient,
                "slide": slide.slide,
                "bag": number,
                "x_level0": bag.x_level0,
                "y_level0": bag.y_level0,
                "size_level0": bag_side_level0(reader, tiles),
                "mpp": tiles.working_mpp,
                "region_share": bag.region_share,
                "region_class": bag.region_class if slide.annotation else -1,
                "word_classes": list(bag.word_classes) if slide.annotation else [-1] * len(bag.word_classes),
                "white_balanced": colour.balance is not None,
                **colours,
            }
        )
    return rows


def _recolour(pixels: RgbImage, colour: Colour, settings: ColourSettings) -> dict[str, Any]:
    """Give a bag (y, x, 3) its colours, in place; returns the columns of the table about them."""
    before = stain.measure(pixels, colour.rule, colour.balance)
    normalised = settings.method == "reinhard" and 0 < before.tissue_share >= settings.min_tissue_share
    after = before
    if normalised:
        affine = stain.reinhard(colour.slide or before, colour.target_mean, colour.target_std)
        after = stain.normalise(pixels, affine, colour.rule, colour.balance)
    elif colour.balance is not None:
        pixels[...] = stain.apply_table(pixels, colour.balance)
    return {
        "tissue_share": before.tissue_share,
        "lab_mean": before.mean,
        "lab_std": before.std,
        "lab_mean_after": after.mean,
        "lab_std_after": after.std,
        "normalised": normalised,
    }

"""What the colours of a slide's bags depend on: its tissue, its light, and the target of normalisation."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ...config import ColourSettings, TilesSettings
from ...errors import ConfigError
from ..cohorts.cohort import Slide
from . import stain
from .bags import Colour
from .layout import Bag, plan_bags, sample_words
from .slides import SlideReader, open_reader
from .tissue import Thumbnail, TissueMask, TissueRule, find_tissue, read_thumbnail, white_of

Target = tuple[stain.Triple, stain.Triple]
"""Mean and standard deviation of L, a, b that tissue gets."""


@dataclass(frozen=True)
class Look:
    """A slide as a whole."""

    thumbnail: Thumbnail
    """After white balance."""
    tissue: TissueMask
    white: stain.Triple | None
    """Colour of the light that white balance makes neutral; none where it is not applied."""
    warnings: tuple[str, ...]


def look_at(reader: SlideReader, slide: Slide, tiles: TilesSettings) -> Look:
    """Thumbnail and tissue of the slide, and its light where white balance is asked for."""
    thumbnail = read_thumbnail(reader, tiles.tissue)
    white = None
    warnings: tuple[str, ...] = ()
    if slide.white_balance:
        white = white_of(thumbnail, tiles.tissue)
        if white is None:
            warnings = ("white balance: the slide shows no glass to take the light from; it is left as it is",)
        else:
            balanced = stain.apply_table(thumbnail.pixels, stain.white_balance_table(white))
            thumbnail = replace(thumbnail, pixels=balanced)
    return Look(thumbnail, find_tissue(thumbnail, tiles.tissue), white, warnings)


def target_of(tiles: TilesSettings, target_slide: Slide | None) -> Target:
    """What tissue gets: the settings' mean and spread, or those of the tissue of the target image or slide.

    Raises:
        ConfigError: the image cannot be read, or image or slide show no tissue.
        SlideError: the target slide cannot be read.
    """
    colour = tiles.colour
    if target_slide is not None:
        return _slide_target(target_slide, tiles.model_dump_json())
    return (colour.target_mean, colour.target_std) if colour.target_image is None else _image_target(colour, tiles)


def colour_of(
    reader: SlideReader, bags: list[Bag], look: Look, tiles: TilesSettings, target_slide: Slide | None
) -> Colour:
    """How this slide's bags get their colours; in scope `slide` a sample of its words is read and measured."""
    slide = None
    if bags and tiles.colour.scope == "slide" and tiles.colour.method == "reinhard":
        found = _measure_slide(reader, bags, look, tiles)
        # Without tissue in the sample there is nothing to go by, and each bag's own statistics are used.
        slide = found if found.tissue_share > 0 else None
    return Colour.of(tiles.colour, look.tissue.rule, look.white, target_of(tiles, target_slide), slide)


def _measure_slide(reader: SlideReader, bags: list[Bag], look: Look, tiles: TilesSettings) -> stain.LabStatistics:
    table = None if look.white is None else stain.white_balance_table(look.white)
    return stain.pool([stain.moments(word, look.tissue.rule, table) for word in sample_words(bags, reader, tiles)])


@functools.lru_cache(maxsize=4)
def _slide_target(slide: Slide, settings: str) -> Target:
    """Statistics of the tissue of a slide, whatever its annotation says; measured once in a process."""
    tiles = TilesSettings.model_validate_json(settings)
    with open_reader(slide, tiles) as reader:
        look = look_at(reader, slide, tiles)
        bags = plan_bags(look.tissue, reader, tiles)
        statistics = _measure_slide(reader, bags, look, tiles) if bags else None
    if statistics is None or not statistics.tissue_share or min(statistics.std) == 0:
        raise ConfigError(f"tiles.colour.target_slide: {slide.slide} holds no bag of tissue; choose another slide")
    return statistics.mean, statistics.std


def _image_target(colour: ColourSettings, tiles: TilesSettings) -> Target:
    assert colour.target_image is not None
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

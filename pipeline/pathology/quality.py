"""The quality-control picture of a slide: where its tissue, regions and bags are, and what became of its colours.

It is drawn by Pillow alone from what the item holds, so the same item gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from .layout import Bag, Regions
from .slides import RgbImage
from .tissue import Thumbnail, TissueMask

CLASS_COLOURS = ((110, 110, 110), (0, 114, 178), (230, 120, 0), (200, 0, 60))
"""Outline of region classes 0–3; they stay apart for the colour-blind."""

_BAG_COLOUR = (0, 0, 0)
_PAPER = (255, 255, 255)
_INK = (30, 30, 30)
_MAP_PX = 720
_SAMPLE_PX = 200
_MARGIN = 16
_LINE = 20
_LABEL_MIN_PX = 26
_SHOWN_WARNINGS = 5
_PLAIN = str.maketrans({"×": "x", "µ": "u", "–": "-", "−": "-", "²": "2"})
"""Letters that Pillow's own font lacks."""
_WRAP = 110

SAMPLES = 3
"""Bags shown before and after normalisation."""


@dataclass(frozen=True)
class Sample:
    """A bag before and after its colours were changed, made small."""

    bag: int
    before: RgbImage
    after: RgbImage


def shrink(pixels: RgbImage) -> RgbImage:
    """A bag as it is shown: averaged down to the size of a sample."""
    size = (_SAMPLE_PX, _SAMPLE_PX)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX, reducing_gap=1.5))


def sampled(bags: int) -> frozenset[int]:
    """Numbers of the bags that are shown, spread evenly."""
    return frozenset(int(n) for n in np.linspace(0, bags - 1, min(SAMPLES, bags)).round())


def write_quality(
    path: Path,
    heading: Sequence[str],
    thumbnail: Thumbnail,
    regions: Regions,
    bags: Sequence[Bag],
    side_level0: float,
    samples: Sequence[Sample],
    warnings: Sequence[str],
) -> None:
    """Write the picture as PNG: `heading` on top, the slide with regions and bags, samples, `warnings` below."""
    chart, classes = _draw_map(thumbnail, regions, bags, side_level0)
    heading = [line.translate(_PLAIN) for line in heading]
    lines = [line for text in warnings[:_SHOWN_WARNINGS] for line in _wrapped(f"! {text}")]
    if len(warnings) > _SHOWN_WARNINGS:
        lines.append(f"! and {len(warnings) - _SHOWN_WARNINGS} more")
    top = _MARGIN + _LINE * len(heading) + _MARGIN // 2
    right = chart.width + 2 * _MARGIN
    height = max(chart.height, len(samples) * (_SAMPLE_PX + _LINE + 4) + _LINE)
    size = (
        max(right + 2 * _SAMPLE_PX + 8 + _MARGIN, 7 * _WRAP + 2 * _MARGIN),
        top + height + _LINE * (len(lines) + 2) + _MARGIN,
    )
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(heading):
        draw.text((_MARGIN, _MARGIN + number * _LINE), line, fill=_INK, font=_font(16 if number == 0 else 13))
    page.paste(chart, (_MARGIN, top))
    _draw_samples(page, draw, samples, right, top)
    _draw_legend(draw, top + height + 6, classes, isinstance(regions, TissueMask))
    for number, line in enumerate(lines):
        draw.text((_MARGIN, top + height + (number + 2) * _LINE - 8), line, fill=(160, 0, 0), font=_font(13))
    page.save(path, format="PNG", optimize=False, compress_level=3)


def _draw_map(
    thumbnail: Thumbnail, regions: Regions, bags: Sequence[Bag], side_level0: float
) -> tuple[Image.Image, list[int]]:
    """The slide with the outlines of regions, each in the colour of its class, and the squares of the bags; and the
    classes that occur."""
    height, width = thumbnail.pixels.shape[:2]
    factor = _MAP_PX / max(height, width)
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    kind = Image.Resampling.BOX if factor < 1 else Image.Resampling.BICUBIC
    pixels = np.array(Image.fromarray(thumbnail.pixels).resize((shape[1], shape[0]), kind))
    step = thumbnail.step_level0 / factor
    classes = regions.class_map(0, 0, step, shape)
    present = [int(number) for number in np.unique(classes[classes > 0])]
    for number in present:
        pixels[_outline(classes == number)] = CLASS_COLOURS[number]
    chart = Image.fromarray(pixels)
    draw = ImageDraw.Draw(chart)
    side = side_level0 / step
    for number, bag in enumerate(bags):
        x, y = bag.x_level0 / step, bag.y_level0 / step
        draw.rectangle((x, y, x + side - 1, y + side - 1), outline=_BAG_COLOUR)
        if side >= _LABEL_MIN_PX:
            draw.text((x + 3, y + 1), str(number), fill=_BAG_COLOUR, font=_font(12))
    draw.rectangle((0, 0, chart.width - 1, chart.height - 1), outline=(200, 200, 200))
    return chart, present


def _outline(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The rim, two pixels wide, of an area; the picture's edge is none."""
    from scipy import ndimage

    rim: npt.NDArray[np.bool_] = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
    return rim


def _draw_samples(page: Image.Image, draw: ImageDraw.ImageDraw, samples: Sequence[Sample], left: int, top: int) -> None:
    for column, text in enumerate(("as scanned", "as stored") if samples else ()):
        draw.text((left + column * (_SAMPLE_PX + 8), top), text, fill=_INK, font=_font(13))
    for row, sample in enumerate(samples):
        y = top + _LINE + row * (_SAMPLE_PX + _LINE + 4)
        for column, pixels in enumerate((sample.before, sample.after)):
            page.paste(Image.fromarray(pixels), (left + column * (_SAMPLE_PX + 8), y))
        draw.text((left, y + _SAMPLE_PX + 1), f"bag {sample.bag}", fill=_INK, font=_font(12))


def _draw_legend(draw: ImageDraw.ImageDraw, y: int, classes: Sequence[int], only_tissue: bool) -> None:
    """What outlines mean, of the classes that occur; without annotation there is tissue and nothing else."""
    x = _MARGIN
    for number in classes:
        draw.line((x, y + 9, x + 18, y + 9), fill=CLASS_COLOURS[number], width=3)
        draw.text((x + 24, y), "tissue" if only_tissue else f"class {number}", fill=_INK, font=_font(13))
        x += 90
    draw.rectangle((x, y + 3, x + 13, y + 16), outline=_BAG_COLOUR)
    draw.text((x + 20, y), "bag", fill=_INK, font=_font(13))


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text.translate(_PLAIN), _WRAP)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

"""A slide with its importances as one HTML file that needs no network: pan, zoom, switch between measures.

The file holds the slide at a few levels as JPEG: a picture of the whole, every bag, and the most important bags at full
resolution. Sides are chosen so that a file stays below some 20 MB however many bags a slide has. The script is mumo's
own and about 200 lines: the well-kept viewers (OpenSeadragon, Leaflet) cannot be had as plain Python packages, and they
show pyramids of files, not numbers over a grid.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ...pages.rendering import render
from .mosaic import Mosaic, RgbImage, SlideBags
from .pictures import EFFECT_COLOURS, WEIGHT_COLOURS, effect_limit, palette, weight_limit

Floats = npt.NDArray[np.float64]

BAG_SIDES = (512, 384, 256, 192, 128)
"""Sides of bags, px; the largest that keeps all of them within `BAGS_BYTES` is taken."""

BAGS_BYTES = 9_000_000
BYTES_A_PIXEL = 0.30
"""Of JPEG at the quality below, as found on stained tissue."""

DETAILED = 8
"""Most important bags that are kept at full resolution."""

DETAIL_PX = 1024
"""Largest side of those."""

_QUALITY = 80
_HINT = (
    "Drag or arrow keys to move; wheel, two fingers, + or − to zoom, 0 for the whole slide. Point at a word for its "
    "numbers. Framed: the bags with the largest effects."
)


def bag_side(count: int, source_px: int) -> int:
    """Side of the bags in a file of `count` bags that are `source_px` wide in the store."""
    fitting = [side for side in BAG_SIDES if count * side**2 * BYTES_A_PIXEL * 4 / 3 <= BAGS_BYTES]
    return min(source_px, fitting[0] if fitting else BAG_SIDES[-1])


class Tiles:
    """The levels of a slide, filled while its bags are read once."""

    def __init__(self, bags: SlideBags, detailed: Sequence[int]) -> None:
        self._detailed = set(detailed)
        source = 0 if bags.pixels is None else int(bags.pixels.shape[1])
        side = bag_side(len(bags.rows), source) if source else 0
        self._levels = {side: dict[int, str]()} if side else {}
        if side and min(source, DETAIL_PX) > side:
            self._levels[min(source, DETAIL_PX)] = {}

    def add(self, bag: int, pixels: RgbImage | None) -> None:
        """Keep a bag at its levels."""
        if pixels is None:
            return
        for number, (side, tiles) in enumerate(self._levels.items()):
            if number == 0 or bag in self._detailed:
                small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
                tiles[bag] = _data_uri(small)

    def as_json(self) -> list[dict[str, Any]]:
        """Levels from coarse to fine."""
        return [{"px": side, "tiles": tiles} for side, tiles in sorted(self._levels.items())]


def write_viewer(
    path: Path,
    bags: SlideBags,
    mosaic: Mosaic,
    tiles: Tiles,
    *,
    patient: str,
    title: str,
    weight: Floats,
    effect: Floats,
    bag_effect: Floats,
    ranked: Mapping[int, int],
    totals: tuple[int, int],
    unit: str,
) -> None:
    """Write the file of one slide.

    Args:
        weight, effect: [bag, word] of this slide.
        bag_effect: [bag].
        ranked: place among the patient's most important bags → bag of this slide.
        unit: of effects.
        totals: number of bags and of words of the patient on all slides; an even share of these is the unit of weights.
    """
    bag_weight = weight.sum(axis=1) * totals[0]
    word_weight = weight * totals[1]
    rows = _rows(bags, ranked, {"weight": bag_weight, "effect": bag_effect}, {"weight": word_weight, "effect": effect})
    width, height = bags.extent
    data = {
        "width": width,
        "height": height,
        "side": bags.side,
        "mpp": bags.mpp,
        "words": round(effect.shape[1] ** 0.5),
        "bags": rows,
        "overview": None if bags.pixels is None else _data_uri(Image.fromarray(mosaic.image)),
        "overview_width": mosaic.image.shape[1] / mosaic.scale,
        "overview_height": mosaic.image.shape[0] / mosaic.scale,
        "overview_px": bags.side * mosaic.scale,
        "levels": tiles.as_json(),
        "measures": {
            "weight": _measure(WEIGHT_COLOURS, "× even share", _ends(word_weight), _ends(bag_weight)),
            "effect": _measure(EFFECT_COLOURS, unit, _sides(effect), _sides(bag_effect)),
        },
        "hint": _HINT,
    }
    script = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
    page = render(
        __package__,
        "viewer.html.jinja",
        scripts=[script],
        title=title,
        patient=patient,
        hint=_HINT,
        # `</` would end the element that holds the data
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
    )
    path.write_text(page, encoding="utf-8")


def _rows(
    bags: SlideBags, ranked: Mapping[int, int], of_bags: Mapping[str, Floats], of_words: Mapping[str, Floats]
) -> list[dict[str, Any]]:
    """What the page knows of each bag: its place, and measure → number of the bag and of its words."""
    rank = {bag: number for number, bag in ranked.items()}
    return [
        {
            "n": bag,
            "x": float(x),
            "y": float(y),
            "rank": rank.get(bag, 0),
            **{measure: _short(values[bag]) for measure, values in of_bags.items()},
            "words": {measure: _shorts(values[bag]) for measure, values in of_words.items()},
        }
        for bag, (x, y) in enumerate(bags.corners)
    ]


def _measure(colours: str, unit: str, words: tuple[float, float], bags: tuple[float, float]) -> dict[str, Any]:
    return {
        "colours": palette(colours),
        "unit": unit,
        "low": {"words": words[0], "bags": bags[0]},
        "high": {"words": words[1], "bags": bags[1]},
    }


def _ends(values: Floats) -> tuple[float, float]:
    return 0.0, weight_limit(values)


def _sides(values: Floats) -> tuple[float, float]:
    limit = effect_limit(values)
    return -limit, limit


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _shorts(values: Floats) -> list[float]:
    return [_short(value) for value in values.tolist()]


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()

"""The bags of a slide put together again, from the pixels that the store keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from PIL import Image

from ...config import TilesSettings
from ...errors import StoreError
from ...pipeline.pathology.geojson_frame import geojson_corner_of
from ...stores import arrays, tables
from ...stores.records import Store
from ...stores.specs import BAG_PIXELS, BAGS

RgbImage = npt.NDArray[np.uint8]

LARGEST_PX = 1400
"""Longer side of a slide's picture."""

PAPER = 247
"""Grey where no bag is."""


@dataclass(frozen=True, eq=False)
class SlideBags:
    """The bags of one slide item: where they lie, and their pixels where the store keeps them."""

    item: str
    rows: tuple[dict[str, Any], ...]
    """Rows of `specs.BAGS`."""
    pixels: zarr.Array[Any] | None
    """[bag, y, x, rgb]; none where the store keeps no pixels."""
    mpp: float | None = None
    """µm a pixel of level 0; none where the store does not say."""
    geojson_corner: tuple[int, int] = (0, 0)
    """The place (x, y) that GeoJSON calls (0, 0); px of level 0."""

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """[bag, xy] upper left corners; px of level 0, counted from the upper left bag's corner."""
        return self._corners - self.origin

    @property
    def origin(self) -> npt.NDArray[np.float64]:
        """[xy] upper left corner of the rectangle around all bags; px of level 0."""
        corner: npt.NDArray[np.float64] = self._corners.min(axis=0)
        return corner

    @property
    def _corners(self) -> npt.NDArray[np.float64]:
        return np.array([(row["x_level0"], row["y_level0"]) for row in self.rows], dtype=np.float64)

    @property
    def side(self) -> float:
        """Side of a bag; px of level 0."""
        return float(self.rows[0]["size_level0"])

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of the rectangle around all bags; px of level 0."""
        width, height = self.corners.max(axis=0) + self.side
        return float(width), float(height)

    def read(self, bag: int, side_px: int) -> RgbImage | None:
        """A bag (side_px, side_px, 3), averaged down; none without pixels."""
        if self.pixels is None:
            return None
        image = Image.fromarray(np.asarray(self.pixels[bag]))
        if side_px < image.width:
            image = image.resize((side_px, side_px), Image.Resampling.BOX)
        return np.asarray(image)


def open_slide_bags(store: Store, item: str, tiles: TilesSettings) -> SlideBags:
    """The bags of a slide item; `tiles` says where GeoJSON counts from.

    Raises:
        StoreError: its parts cannot be read, or its pixels are not those of its table.
    """
    rows = tables.read_rows(store.part("tiles", item, "bags.parquet"), BAGS)
    record = store.record("tiles", item)
    pixels = None
    if record is not None and "pixels.zarr" in record.parts and record.summary.get("pixels") != "none":
        pixels = arrays.open_array(arrays.open_group(store.part("tiles", item, "pixels.zarr")), BAG_PIXELS)
        if pixels.shape[0] != len(rows):
            raise StoreError(f"tiles/{item}: pixels of {pixels.shape[0]} bags, its table {len(rows)}; extract again")
    summary = {} if record is None else record.summary
    return SlideBags(item, tuple(rows), pixels, summary.get("mpp_level0"), geojson_corner_of(summary, tiles))


@dataclass(frozen=True, eq=False)
class Mosaic:
    """A small picture of all bags in their places."""

    image: RgbImage
    """(height, width, 3); plain where the store keeps no pixels."""
    scale: float
    """Pixels of the picture a pixel of level 0."""


def put_together(bags: SlideBags, each: Callable[[int, RgbImage | None], None] | None = None) -> Mosaic:
    """The mosaic of a slide; every bag is read once, so memory is bounded by one of them.

    `each` is called with the number of each bag and its pixels.
    """
    width, height = bags.extent
    scale = min(1.0, LARGEST_PX / max(width, height))
    side = max(1, round(bags.side * scale))
    image = np.full((round(height * scale) + 1, round(width * scale) + 1, 3), PAPER, dtype=np.uint8)
    for bag, (x, y) in enumerate(bags.corners):
        pixels = None if bags.pixels is None else np.asarray(bags.pixels[bag])
        if each is not None:
            each(bag, pixels)
        left, top = round(x * scale), round(y * scale)
        target = image[top : top + side, left : left + side]
        if pixels is None:
            target[...] = 225
            continue
        small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
        target[...] = np.asarray(small)[: target.shape[0], : target.shape[1]]
    return Mosaic(image, scale)


def word_side(words: int) -> int:
    """Words along a side of a bag; StoreError where they form no square."""
    side = math.isqrt(words)
    if side * side != words:
        raise StoreError(f"bags of {words} words: expected a square number; extract embed again")
    return side


def word_corners(bags: SlideBags, words: int) -> npt.NDArray[np.float64]:
    """[bag, word, xy] upper left corners of words, row-major in their bag; frame of `SlideBags.corners`."""
    side = word_side(words)
    step = bags.side / side
    y, x = np.divmod(np.arange(words), side)
    return bags.corners[:, None] + np.stack([x, y], axis=1)[None] * step


def most_important(values: npt.NDArray[np.float64], count: int) -> Sequence[int]:
    """Indices of the largest values, largest first."""
    order: list[int] = np.argsort(-values, kind="stable")[:count].tolist()
    return order

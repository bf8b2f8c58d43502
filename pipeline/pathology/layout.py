"""Where the bags of a slide lie.

A bag is a square of `bag_px` pixels at `working_mpp`. Bags lie on a grid that starts at the upper left corner of the
box around the regions; those at the right and lower edge may reach over the slide, where they are filled with the
background, and their shares are always those of the whole square.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...config import REGION_CLASSES, TilesSettings
from .slides import RgbImage, SlideError, SlideReader


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
class Bag:
    """Where a bag lies, and what the regions say of it."""

    x_level0: int
    y_level0: int
    region_share: float
    """Share of the bag inside the regions."""
    region_class: int
    word_classes: tuple[int, ...]
    """Row-major."""


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


def sample_words(bags: list[Bag], reader: SlideReader, tiles: TilesSettings) -> Iterator[RgbImage]:
    """Words spread evenly over the bags, as scanned. Averages on a thumbnail would have too small a spread."""
    a_side = tiles.bag_px // tiles.word_px
    total = len(bags) * a_side * a_side
    word_level0 = bag_side_level0(reader, tiles) / a_side
    for number in np.unique(np.linspace(0, total - 1, min(tiles.colour.sample_words, total)).astype(int)):
        bag, word = bags[number // (a_side * a_side)], number % (a_side * a_side)
        x, y = bag.x_level0 + (word % a_side) * word_level0, bag.y_level0 + (word // a_side) * word_level0
        yield reader.read(x, y, (tiles.word_px, tiles.word_px), tiles.working_mpp)

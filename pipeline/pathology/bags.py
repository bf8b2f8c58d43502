"""The bags of a slide item: their colours, and reading them, from the store or from the slide once more.

Where `tiles.pixels` is `none` the store keeps no pixels, only where the bags lie and what their colours depend on;
`open_bags` then reads the slide through the same functions that the `tiles` stage uses, and so gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import zarr

from ...config import ColourSettings
from ...errors import StoreError
from ...stores import arrays
from ...stores.places import Place
from ...stores.records import Store
from ...stores.specs import BAG_PIXELS, BAG_PLACES
from ..cohorts.cohort import Slide
from ..stage import Source
from . import stain
from .slides import Resolution, RgbImage, SlideReader, open_image, slide_sources
from .tissue import TissueRule

RECIPE_VERSION = 1
"""Version of what turns a place of a slide into a bag; raised when the same recipe gives other pixels."""


# --- colours ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Colour:
    """How the bags of one slide get their colours."""

    rule: TissueRule
    white: stain.Triple | None
    """Colour of the light that becomes neutral; none where white balance is not applied."""
    method: str
    """`reinhard` or `none`."""
    min_tissue_share: float
    """Bags with a smaller share of tissue keep their colours."""
    target_mean: stain.Triple
    target_std: stain.Triple
    slide: stain.LabStatistics | None
    """Statistics of the slide, in scope `slide`."""

    @classmethod
    def of(
        cls,
        settings: ColourSettings,
        rule: TissueRule,
        white: stain.Triple | None,
        target: tuple[stain.Triple, stain.Triple],
        slide: stain.LabStatistics | None,
    ) -> Colour:
        """Colours under `settings`; `target` is mean and standard deviation that tissue gets."""
        return cls(rule, white, settings.method, settings.min_tissue_share, *target, slide)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values, which JSON keeps exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Colour:
        """The reverse of `as_json`; KeyError or TypeError when something is missing."""
        slide = values["slide"]
        return cls(
            TissueRule(**values["rule"]),
            None if values["white"] is None else _triple(values["white"]),
            str(values["method"]),
            float(values["min_tissue_share"]),
            _triple(values["target_mean"]),
            _triple(values["target_std"]),
            None if slide is None else _statistics(slide),
        )


def recolour(pixels: RgbImage, colour: Colour) -> dict[str, Any]:
    """Give a bag (y, x, 3) its colours, in place; returns the columns of the table about them."""
    table = None if colour.white is None else stain.white_balance_table(colour.white)
    before = stain.measure(pixels, colour.rule, table)
    normalised = colour.method == "reinhard" and 0 < before.tissue_share >= colour.min_tissue_share
    after = before
    if normalised:
        affine = stain.reinhard(colour.slide or before, colour.target_mean, colour.target_std)
        after = stain.normalise(pixels, affine, colour.rule, table)
    elif table is not None:
        pixels[...] = stain.apply_table(pixels, table)
    return {
        "tissue_share": before.tissue_share,
        "lab_mean": before.mean,
        "lab_std": before.std,
        "lab_mean_after": after.mean,
        "lab_std_after": after.std,
        "normalised": normalised,
    }


def _statistics(values: Mapping[str, Any]) -> stain.LabStatistics:
    return stain.LabStatistics(_triple(values["mean"]), _triple(values["std"]), float(values["tissue_share"]))


def _triple(values: Iterable[float]) -> stain.Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third


# --- where bags come from ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SlideFile:
    """A slide to read bags from."""

    slide: str
    path: Path
    max_pixels: int


@dataclass(frozen=True)
class BagOrigin:
    """What reading the bags of one item needs beside the store: nothing, or the slide."""

    sources: tuple[Source, ...] = ()
    slide: SlideFile | None = None


def bag_origins(slides: Iterable[Slide], store: Store, max_pixels: int) -> dict[str, BagOrigin]:
    """For each slide whose bags the store keeps without pixels, where they are read from; `BagOrigin()` for others."""
    bare = {item for item, record in store.records("tiles").items() if record.summary.get("pixels") == "none"}
    return {
        slide.slide: BagOrigin(slide_sources(slide.path), SlideFile(slide.slide, slide.path, max_pixels))
        if f"slide-{slide.slide}" in bare
        else BagOrigin()
        for slide in slides
    }


class Bags(Protocol):
    """The bags of one slide, in order."""

    count: int
    side_px: int
    word_px: int

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Bags from `start` up to `stop`: (bag, y, x, 3)."""
        ...


@contextmanager
def open_bags(pixels: Place, item: str, slide: SlideFile | None) -> Iterator[Bags]:
    """The bags of `pixels.zarr`, from there or, where it keeps none, from the slide.

    Raises:
        StoreError: the group does not have the declared form, or has no pixels and no slide is given.
        SlideError: the slide cannot be read.
    """
    group = arrays.open_group(pixels)
    if group.attrs.get("pixels") != "none":
        yield _StoredBags(group, item)
    elif slide is None:
        raise StoreError(f"{item}: the store keeps no pixels of its bags; run extract again, with the cohort")
    else:
        image = open_image(slide.path, slide.slide, slide.max_pixels)
        try:
            yield _SlideBags(group, item, SlideReader(image, slide.slide, Resolution(_mpp_level0(group, item), "file")))
        finally:
            image.close()


def write_recipe(
    group: zarr.Group, places: list[tuple[int, int]], bag_px: int, mpp_level0: float, colour: Colour
) -> None:
    """Store what `open_bags` needs to read the bags at `places` (x, y; px of level 0) from the slide again."""
    group.attrs.update(
        {
            "pixels": "none",
            "recipe_version": RECIPE_VERSION,
            "bag_px": bag_px,
            "mpp_level0": mpp_level0,
            "colour": colour.as_json(),
        }
    )
    arrays.write_array(group, BAG_PLACES, np.array(places, np.int64).reshape(-1, 2))


class _StoredBags:
    def __init__(self, group: zarr.Group, item: str) -> None:
        self._array = arrays.open_array(group, BAG_PIXELS)
        self.count, self.side_px, self.word_px = _checked_shape(self._array.shape, group, item)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        return np.asarray(self._array[start:stop], np.uint8)


class _SlideBags:
    def __init__(self, group: zarr.Group, item: str, reader: SlideReader) -> None:
        attributes: dict[str, Any] = dict(group.attrs)
        if attributes.get("recipe_version") != RECIPE_VERSION:
            raise StoreError(f"{item}: bags of another recipe than this mumo's; extract tiles again")
        places = np.asarray(arrays.open_array(group, BAG_PLACES)[...])
        try:
            side, self._mpp = int(attributes["bag_px"]), float(attributes["mpp"])
            self._colour = Colour.from_json(attributes["colour"])
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{item}: the recipe of its bags is incomplete ({error}); extract tiles again") from error
        self._places, self._reader = places, reader
        self.count, self.side_px, self.word_px = _checked_shape((len(places), side, side, 3), group, item)

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        bags = np.empty((stop - start, self.side_px, self.side_px, 3), np.uint8)
        for bag, (x, y) in zip(bags, self._places[start:stop], strict=True):
            bag[...] = self._reader.read(int(x), int(y), bag.shape[:2], self._mpp)
            recolour(bag, self._colour)
        return bags


def _mpp_level0(group: zarr.Group, item: str) -> float:
    value: Any = group.attrs.get("mpp_level0")
    if not isinstance(value, float) or not value > 0:
        raise StoreError(f"{item}: mpp_level0 = {value!r} in the recipe of its bags; extract tiles again")
    return value


def _checked_shape(shape: tuple[int, ...], group: zarr.Group, item: str) -> tuple[int, int, int]:
    """Number of bags, side of a bag and side of a word."""
    count, height, width, channels = shape
    word_px: Any = group.attrs.get("word_px")
    fits = isinstance(word_px, int) and word_px > 0 and height == width and height % word_px == 0
    if not fits or channels != 3:
        raise StoreError(
            f"{item}: bags of shape {tuple(shape[1:])} with word_px = {word_px!r}; expected RGB squares that words "
            "divide; extract tiles again"
        )
    return count, height, word_px

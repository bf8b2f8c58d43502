"""Whole-slide images: opening, resolution, and reading at a working resolution.

Two frames meet here: `level0` is the finest level of the slide, in whose pixels OpenSlide and annotations place
everything; `level` is the level that is read. Names say which frame a number is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import numpy.typing as npt
import openslide
from PIL import Image

from ...config import TilesSettings
from ...errors import InputError, Problem
from ..cohorts.cohort import Slide
from ..stage import Source
from .resampling import lay_on_background, resample

RgbImage = npt.NDArray[np.uint8]
"""Pixels of shape (y, x, 3), 0–255, sRGB as scanned."""

_PLAUSIBLE_MPP = (0.01, 100.0)
_LEVEL_TOLERANCE = 0.01
_BLOCK_PX = 1 << 20
_BLOCK_WIDTH = 6144
_EDGE = 1e-6
_DICOM = (".dcm", ".dicom")


class SlideImage(Protocol):
    """What is needed of a slide: the part of `openslide.OpenSlide` that mumo uses."""

    @property
    def level_dimensions(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level, px, the finest first."""
        ...

    @property
    def level_downsamples(self) -> Sequence[float]:
        """Size of each level's pixel, in pixels of level 0."""
        ...

    @property
    def properties(self) -> Mapping[str, str]:
        """What the file says of itself."""
        ...

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """RGBA pixels: location (x, y) in px of level 0, size (width, height) in px of the level."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


class SlideError(InputError):
    """A slide or its annotation cannot be used; keeps the parts of its message for `mumo check`."""

    def __init__(self, slide: str, column: str, found: str, expected: str, remedy: str) -> None:
        self.parts = (slide, column, found, expected, remedy)
        super().__init__(f"slide {slide}: found {found}; expected {expected}. {remedy}")

    def __reduce__(self) -> tuple[type[SlideError], tuple[Any, ...]]:
        return (SlideError, self.parts)

    def problem(self) -> Problem:
        """The same as a line of `mumo check`."""
        slide, column, found, expected, remedy = self.parts
        return Problem("slides", slide, column, found, expected, remedy)


@dataclass(frozen=True)
class Resolution:
    """Resolution of level 0."""

    mpp: float
    """µm/px."""
    source: Literal["file", "cohort"]
    warnings: tuple[str, ...] = ()


def open_image(path: Path, slide: str, max_pixels: int) -> openslide.OpenSlide:
    """The slide file, opened by OpenSlide and by nothing else: an ordinary image is no slide.

    Raises:
        SlideError: the file is missing, no slide, damaged, or declares more than `max_pixels` pixels.
    """
    if not path.exists():
        raise SlideError(slide, "path", f"no file {path.name}", "a whole-slide image", "Correct the path.")
    try:
        image = openslide.OpenSlide(_file_of(path))
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(
            slide,
            "path",
            f"{path.name}, which is no slide that OpenSlide reads",
            "a whole-slide image (SVS, NDPI, MRXS, SCN, tiled TIFF, DICOM, ...)",
            "Check that the file is complete and not an ordinary image under a slide's name.",
        ) from error
    except openslide.OpenSlideError as error:
        raise SlideError(slide, "path", _damage(error, path), "an undamaged slide", "Copy the file again.") from error
    width, height = image.dimensions
    if width * height > max_pixels:
        image.close()
        raise SlideError(
            slide,
            "path",
            f"{width} × {height} px declared",
            f"at most {max_pixels:,} px",
            "Raise tiles.max_pixels if the slide is really that large.",
        )
    return image


def slide_sources(path: Path) -> tuple[Source, ...]:
    """Everything on disk that a slide consists of: MIRAX has a folder beside its file, DICOM one file a level."""
    sources = [Source("slide", path)]
    companion = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and companion.is_dir():
        sources.append(Source("slide data", companion))
    elif path.suffix.lower() in _DICOM and path.is_file():
        sources.append(Source("slide instances", path.parent))
    return tuple(sources)


def _file_of(path: Path) -> Path:
    """The file to open: of a folder of DICOM instances, any one; OpenSlide finds the others of its series."""
    if not path.is_dir():
        return path
    instances = sorted(file for file in path.iterdir() if file.suffix.lower() in _DICOM and file.is_file())
    return next((file for file in instances if openslide.OpenSlide.detect_format(file) == "dicom"), path)


def resolve_mpp(
    properties: Mapping[str, str], stated_mpp: float | None, settings: TilesSettings, slide: str
) -> Resolution:
    """Resolution of level 0: the file's; the cohort's where the file has none or where the two differ too much.

    Args:
        properties: OpenSlide's properties.
        stated_mpp: what the cohort file says, µm/px.

    Raises:
        SlideError: neither is known, they differ by more than `mpp_tolerance` and `on_mpp_mismatch` is `refuse`,
            or the pixels are not square.
    """
    recorded = _recorded_mpp(properties, settings.mpp_tolerance, slide)
    if recorded is None and stated_mpp is None:
        raise SlideError(
            slide,
            "mpp",
            "no resolution, neither in the file nor in the cohort file",
            "micrometres per pixel of the finest level",
            "Give it in the column mpp of the slides table (0.25 for most 40× scans, 0.5 for 20×).",
        )
    if recorded is None or stated_mpp is None:
        mpp = stated_mpp if recorded is None else recorded
        assert mpp is not None
        return Resolution(mpp, "cohort" if recorded is None else "file")
    difference = abs(recorded - stated_mpp) / recorded
    if difference <= settings.mpp_tolerance:
        return Resolution(recorded, "file")
    found = f"{recorded:.4g} µm/px in the file and {stated_mpp:.4g} in the cohort file, {difference:.0%} apart"
    if settings.on_mpp_mismatch == "refuse":
        raise SlideError(
            slide,
            "mpp",
            found,
            f"a difference of at most {settings.mpp_tolerance:.0%}",
            "Correct one of them, or set tiles.on_mpp_mismatch=warn to use the cohort file's.",
        )
    return Resolution(stated_mpp, "cohort", (f"resolution: {found}; the cohort file's is used",))


def _recorded_mpp(properties: Mapping[str, str], tolerance: float, slide: str) -> float | None:
    """What the file records, µm/px; a value that no microscope has (a printer's 72 dpi) counts as none."""
    values = []
    for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y):
        try:
            value = float(properties.get(name, "nan"))
        except ValueError:
            value = math.nan
        if not _PLAUSIBLE_MPP[0] <= value <= _PLAUSIBLE_MPP[1]:
            return None
        values.append(value)
    mpp_x, mpp_y = values
    if abs(mpp_x - mpp_y) > tolerance * min(mpp_x, mpp_y):
        raise SlideError(
            slide,
            "path",
            f"pixels of {mpp_x:.4g} × {mpp_y:.4g} µm",
            "square pixels",
            "Resample the slide to square pixels, or correct the resolution in the file.",
        )
    return math.sqrt(mpp_x * mpp_y)


class SlideReader:
    """Reads rectangles of one slide at any resolution, with exact area averages.

    Transparent pixels, and all that lies outside the slide, take the slide's background colour (white where the
    file names none). Use it as a context manager; it closes the slide.
    """

    def __init__(self, image: SlideImage, slide: str, resolution: Resolution) -> None:
        self.slide = slide
        self.mpp_level0 = resolution.mpp
        self.resolution = resolution
        self.background = _background(image.properties)
        self._scanned_corner = _scanned_corner(image.properties)
        self._image = image
        self._levels = _usable_levels(image)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the slide file."""
        self._image.close()

    @property
    def size_level0(self) -> tuple[int, int]:
        """Width and height of level 0, px."""
        width, height = self._image.level_dimensions[0]
        return width, height

    @property
    def scanned_corner_level0(self) -> tuple[int, int]:
        """Upper left corner of the scanned area, px; (0, 0) where the file names none, as most formats do."""
        return self._scanned_corner

    def level_for(self, mpp: float) -> int:
        """The coarsest level that is not coarser than `mpp` (µm/px); level 0 where there is none.

        A level that is coarser by up to 1 % counts as equal: the widths of levels are rounded to whole pixels.
        """
        fine = [
            level
            for level, downsample in self._levels.items()
            if self.mpp_level0 * downsample <= mpp * (1 + _LEVEL_TOLERANCE)
        ]
        return max(fine, key=lambda level: self._levels[level], default=0)

    def read(self, x_level0: float, y_level0: float, shape: tuple[int, int], mpp: float) -> RgbImage:
        """A rectangle at `mpp` µm/px, of shape (y, x, 3), whose upper left corner lies at (x_level0, y_level0).

        Every output pixel is the average over the area that it covers on the nearest finer level. The rectangle is
        read in strips, so that memory is bounded by the result, not by what it is averaged from; within a read no
        pixel is decoded twice, but for the rows that two strips share.

        Raises:
            SlideError: OpenSlide cannot read that place of the file.
        """
        level = self.level_for(mpp)
        downsample = self._levels[level]
        scale = _snapped(mpp / (self.mpp_level0 * downsample))
        left, top = x_level0 / downsample, y_level0 / downsample
        pixels = np.empty((*shape, 3), np.uint8)
        for block in _blocks(shape, scale):
            rows, columns = block
            self._read_block(level, left + columns.start * scale, top + rows.start * scale, scale, pixels[block])
        return pixels

    def _read_block(self, level: int, left: float, top: float, scale: float, out: RgbImage) -> None:
        """Fill `out` from the rectangle whose corner is (left, top), in px of `level`."""
        downsample = self._levels[level]
        location = (
            math.floor(math.floor(left + _EDGE) * downsample),
            math.floor(math.floor(top + _EDGE) * downsample),
        )
        # The corner of what is read is a whole pixel of level 0, hence not always a whole pixel of the level.
        x, y = _snapped(left - location[0] / downsample), _snapped(top - location[1] / downsample)
        height, width = out.shape[:2]
        size = (
            max(1, math.ceil(x + width * scale - _EDGE)),
            max(1, math.ceil(y + height * scale - _EDGE)),
        )
        source = self._read_level(location, level, size)
        resample(source, x, y, scale, out)

    def _read_level(self, location_level0: tuple[int, int], level: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """RGBA pixels of a level, (y, x, 4), without transparency."""
        try:
            rgba = np.asarray(self._image.read_region(location_level0, level, size))
        except openslide.OpenSlideError as error:
            raise SlideError(
                self.slide,
                "path",
                f"damage at x {location_level0[0]}, y {location_level0[1]} (level {level}): {_plain(error)}",
                "a slide that can be read everywhere",
                "Copy the file again from its source.",
            ) from error
        opaque = np.empty_like(rgba)
        return opaque if lay_on_background(rgba, self.background, opaque) else rgba


def open_reader(slide: Slide, settings: TilesSettings) -> SlideReader:
    """A reader of a slide of the cohort, its resolution resolved and found fine enough for `working_mpp`.

    Raises:
        SlideError: see `open_image` and `resolve_mpp`; or the slide is coarser than the working resolution allows.
    """
    image = open_image(slide.path, slide.slide, settings.max_pixels)
    try:
        resolution = resolve_mpp(image.properties, slide.mpp, settings, slide.slide)
        if resolution.mpp > settings.working_mpp * settings.max_upsampling:
            raise SlideError(
                slide.slide,
                "mpp",
                f"{resolution.mpp:.4g} µm/px at the finest level",
                f"at most {settings.working_mpp * settings.max_upsampling:.4g} µm/px",
                "Choose a coarser tiles.working_mpp, or leave the slide out.",
            )
        return SlideReader(image, slide.slide, resolution)
    except BaseException:
        image.close()
        raise


def _blocks(shape: tuple[int, int], scale: float) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of the output, block by block: columns of bounded width, each from top to bottom.

    Downwards, because then the tiles that two blocks share are still in OpenSlide's cache.
    """
    height, width = shape
    columns = max(1, min(width, math.floor(_BLOCK_WIDTH / scale)))
    rows = max(1, min(height, math.floor(_BLOCK_PX / (columns * scale * scale))))
    for x in range(0, width, columns):
        for y in range(0, height, rows):
            yield slice(y, min(y + rows, height)), slice(x, min(x + columns, width))


def _usable_levels(image: SlideImage) -> dict[int, float]:
    """Downsample of each level whose width and height agree with it, to a pixel or 1 %; level 0 always."""
    width0, height0 = image.level_dimensions[0]
    levels = {0: 1.0}
    sizes = zip(image.level_dimensions, image.level_downsamples, strict=True)
    for level, ((width, height), downsample) in enumerate(sizes):
        fits = (
            abs(width - width0 / downsample) <= 1 + 0.01 * width,
            abs(height - height0 / downsample) <= 1 + 0.01 * height,
        )
        if level and all(fits):
            levels[level] = float(downsample)
    return levels


def _scanned_corner(properties: Mapping[str, str]) -> tuple[int, int]:
    try:
        x, y = (int(properties[name]) for name in (openslide.PROPERTY_NAME_BOUNDS_X, openslide.PROPERTY_NAME_BOUNDS_Y))
    except (KeyError, ValueError):
        return 0, 0
    return x, y


def _background(properties: Mapping[str, str]) -> tuple[int, int, int]:
    text = properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return 255, 255, 255
    return red, green, blue


def _snapped(value: float) -> float:
    """The value without the rounding error of a division that should have come out even."""
    return float(round(value)) if abs(value - round(value)) < _EDGE else value


def _plain(error: Exception) -> str:
    """An error's text as far as its first path, which must reach no store."""
    return str(error).split("/", maxsplit=1)[0].strip(" :'\"") or type(error).__name__


def _damage(error: Exception, path: Path) -> str:
    return f"{path.name}, which cannot be opened ({_plain(error)})"

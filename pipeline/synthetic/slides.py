"""Synthetic whole-slide images: pyramidal tiled TIFF files and their annotations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from .plan import SlidePlan, stream
from .regions import Region, draw_regions, eosin_by_class, write_asap, write_qupath
from .tissue import Piece, Spot, draw_look, draw_piece, render_tissue

_LEVEL_FACTORS = (1, 2, 4)
_TILE_PX = 256
_JPEG_QUALITY = 82
_FINEST_RENDERED_MPP = 0.5

SPOT_RADIUS_UM = 230.0
"""Radius of hot spots."""


@dataclass(frozen=True)
class RenderedSlide:
    """Pixels of level 0 and what an annotator would draw on them."""

    pixels: npt.NDArray[np.uint8]
    """(height, width, 3), R, G, B; both sides are multiples of the coarsest level's factor."""
    regions: tuple[Region, ...]
    """In µm; empty for slides without annotation."""


def slide_file(plan: SlidePlan) -> str:
    """Path of the slide's file within the cohort folder."""
    return f"slides/{plan.slide}.tif"


def annotation_file(plan: SlidePlan) -> str:
    """Path of the annotation within the cohort folder; empty when there is none."""
    suffix = {"asap": "xml", "geojson": "geojson"}
    return f"annotations/{plan.slide}.{suffix[plan.annotation]}" if plan.annotation else ""


def draw_outline(plan: SlidePlan, seed: int) -> tuple[Piece, tuple[Region, ...]]:
    """The slide's piece of tissue and its regions, whether or not they are annotated."""
    rng = stream(seed, "outline", int(plan.slide[1:]))
    piece = draw_piece(rng, plan.tissue)
    return piece, draw_regions(rng, piece, hole=plan.annotation == "geojson")


def draw_spot(plan: SlidePlan, piece: Piece, seed: int) -> Spot | None:
    """The slide's hot spot, well inside the tissue; none where the plan has none."""
    if plan.spot_score is None:
        return None
    rng = stream(seed, "spot", int(plan.slide[1:]))
    low, high = piece.outline_um.min(axis=0), piece.outline_um.max(axis=0)
    x, y = rng.uniform(low + 1.5 * SPOT_RADIUS_UM, high - 1.5 * SPOT_RADIUS_UM)
    return Spot(float(x), float(y), SPOT_RADIUS_UM, draw_look(rng, plan.spot_score, plan.white_balance))


def render_slide(plan: SlidePlan, seed: int) -> RenderedSlide:
    """Draw a slide; the same plan and seed give the same pixels."""
    piece, regions = draw_outline(plan, seed)
    rng = stream(seed, "pixels", int(plan.slide[1:]))
    look = draw_look(rng, plan.score, plan.white_balance)
    # Finer pixels than this show nothing more; they are interpolated.
    mpp = max(plan.mpp, _FINEST_RENDERED_MPP)
    shape = round(piece.height_um / mpp), round(piece.width_um / mpp)
    spot = draw_spot(plan, piece, seed)
    pixels = render_tissue(rng, piece, look, eosin_by_class(regions, piece, shape), mpp, spot)
    return RenderedSlide(_resize(pixels, piece, plan.mpp), regions if plan.annotation else ())


def _resize(pixels: npt.NDArray[np.uint8], piece: Piece, mpp: float) -> npt.NDArray[np.uint8]:
    """Pixels at `mpp`, cut to multiples of the coarsest level's factor."""
    factor = _LEVEL_FACTORS[-1]
    height, width = (round(side_um / mpp) for side_um in (piece.height_um, piece.width_um))
    if (height, width) != pixels.shape[:2]:
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))
    return np.ascontiguousarray(pixels[: height - height % factor, : width - width % factor])


def write_slide(folder: Path, plan: SlidePlan, seed: int) -> None:
    """Render a slide and write its image and annotation below the cohort folder."""
    rendered = render_slide(plan, seed)
    write_pyramid(folder / slide_file(plan), rendered.pixels, plan.mpp if plan.in_file else None)
    if plan.annotation == "asap":
        write_asap(folder / annotation_file(plan), rendered.regions, plan.mpp)
    elif plan.annotation == "geojson":
        write_qupath(folder / annotation_file(plan), rendered.regions, plan.mpp)


def write_pyramid(file: Path, pixels: npt.NDArray[np.uint8], mpp: float | None) -> None:
    """Write a generic pyramidal TIFF that OpenSlide opens: tiles in JPEG, one directory a level.

    `mpp` goes into the resolution tags of every level; none: no resolution is recorded.
    """
    import tifffile

    with tifffile.TiffWriter(file) as writer:
        for factor in _LEVEL_FACTORS:
            pixels_per_cm = None if mpp is None else 1e4 / (mpp * factor)
            writer.write(
                _reduce(pixels, factor),
                tile=(_TILE_PX, _TILE_PX),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": _JPEG_QUALITY},
                # OpenSlide takes further directories as levels only when they are marked as reduced images.
                subfiletype=int(factor > 1),
                metadata=None,
                software=False,
                resolution=None if pixels_per_cm is None else (pixels_per_cm, pixels_per_cm),
                resolutionunit=None if pixels_per_cm is None else "CENTIMETER",
            )


def _reduce(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Mean over blocks of `factor` × `factor` pixels."""
    if factor == 1:
        return pixels
    return np.asarray(Image.fromarray(pixels).reduce(factor))

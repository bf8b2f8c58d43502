"""Synthetic H&E tissue: an image of stylised tumour nests in stroma on glass.

Stains follow the law of Beer and Lambert: transmitted light is the product of what each stain lets through. The
optical densities are rounded from published ones (Ruifrok and Johnston, 2001), with a pinker eosin.

The planted signal is in the nuclei of the tumour nests: those of responders are small, even, densely packed and
stained alike, those of others large, uneven, further apart and darker in some patches than in others. The stained share
of the area stays the same, so that mean colour does not tell them apart, only texture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from .noise import Field, smooth_noise, soft_step

_HAEMATOXYLIN_RGB = np.array([0.64, 0.72, 0.30], dtype=np.float32)
_EOSIN_RGB = np.array([0.10, 0.92, 0.33], dtype=np.float32)
_GLASS_RGB = np.array([243.0, 242.0, 244.0], dtype=np.float32)
_CAST_RGB = np.array([1.0, 0.965, 0.89], dtype=np.float32)
"""Share of light that comes through a yellowish lamp."""


@dataclass(frozen=True)
class Piece:
    """A piece of tissue on the glass."""

    width_um: float
    height_um: float
    """Size of the whole image."""
    outline_um: npt.NDArray[np.float64]
    """Corners (n, 2) of the tissue's outline, x right and y down from the image's top left corner."""


PIECE_SIZES_UM: Mapping[str, tuple[float, float]] = {
    "biopsy": (580.0, 560.0),
    "strip": (970.0, 580.0),
    "resection": (1080.0, 980.0),
    "specimen": (1900.0, 1500.0),
}
"""Typical width and height of each kind of tissue: one, two, four and some ten bags of 512 µm."""


def draw_piece(rng: np.random.Generator, kind: str) -> Piece:
    """A rounded, uneven outline with a margin of glass; `kind` is one of `PIECE_SIZES_UM`."""
    semi_um = np.array(PIECE_SIZES_UM[kind]) / 2 * rng.uniform(0.97, 1.04, size=2)
    margin_um = rng.uniform(55, 85, size=2)
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    # A superellipse of exponent 4 is a rectangle with round corners; waves make it uneven.
    radius = (np.abs(np.cos(angle)) ** 4 + np.abs(np.sin(angle)) ** 4) ** -0.25
    for waves in (2, 3, 5, 7, 11):
        radius *= 1 + rng.normal() * 0.035 / np.sqrt(waves) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    offsets = np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius[:, None] * semi_um
    outline = offsets - offsets.min(axis=0) + margin_um
    size = np.ceil((outline.max(axis=0) + margin_um) / 4) * 4
    return Piece(float(size[0]), float(size[1]), outline)


@dataclass(frozen=True)
class Look:
    """What varies between slides."""

    radius_um: float
    """Typical radius of tumour nuclei."""
    unevenness: float
    """Standard deviation of the logarithm of that radius."""
    patchiness: float
    """Relative standard deviation of the strength of nuclear stain over some 50 µm."""
    nest_um: float
    """Wavelength of the pattern of nests and stroma."""
    nest_level: float
    """Threshold of the pattern, in its standard deviations; higher means less tumour."""
    haematoxylin: float
    eosin: float
    """Strength of each stain, about 1."""
    tint: npt.NDArray[np.float32]
    """Factors (3,) on the optical densities of R, G, B: how this laboratory's stains differ."""
    colour_cast: bool


def draw_look(rng: np.random.Generator, score: float, colour_cast: bool) -> Look:
    """Look of a slide with the given score; all but the nuclei's size and evenness is independent of it."""
    return Look(
        radius_um=float(np.clip(6.6 - 0.85 * score + 0.25 * rng.normal(), 4.2, 9.4)),
        unevenness=float(np.clip(0.2 - 0.05 * score, 0.08, 0.34)),
        patchiness=float(np.clip(0.26 - 0.13 * score, 0.0, 0.6)),
        nest_um=float(rng.uniform(150, 240)),
        nest_level=float(rng.uniform(-0.75, -0.35)),
        haematoxylin=float(rng.uniform(0.85, 1.15)),
        eosin=float(rng.uniform(0.75, 1.15)),
        tint=rng.uniform(0.9, 1.1, size=3).astype(np.float32),
        colour_cast=colour_cast,
    )


@dataclass(frozen=True)
class Spot:
    """A round place of solid tumour, rich in nuclei that look otherwise than in the rest of the slide."""

    x_um: float
    y_um: float
    """Its centre, from the image's top left corner."""
    radius_um: float
    look: Look
    """Of its nuclei."""
    haematoxylin: float = 1.5
    eosin: float = 0.6
    """Factors on the stains of the slide: crowded nuclei leave little room for anything pink."""

    def inside(self, shape: tuple[int, ...], mpp: float) -> npt.NDArray[np.bool_]:
        """[y, x] whether a pixel lies in the spot."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        within: npt.NDArray[np.bool_] = np.hypot(x * mpp - self.x_um, y * mpp - self.y_um) < self.radius_um
        return within


def render_tissue(
    rng: np.random.Generator, piece: Piece, look: Look, eosin_factor: Field | None, mpp: float, spot: Spot | None = None
) -> npt.NDArray[np.uint8]:
    """Image (height, width, 3) of the piece at `mpp` µm/px.

    `eosin_factor` (height, width) multiplies the eosin of tumour cells, for regions that stain differently.
    """
    shape = round(piece.height_um / mpp), round(piece.width_um / mpp)
    tissue = _fill_outline(piece, shape, mpp)
    pattern = smooth_noise(rng, shape, look.nest_um / mpp)
    pattern += 0.35 * smooth_noise(rng, shape, look.nest_um / 3 / mpp)
    if spot is not None:
        inside = spot.inside(shape, mpp)
        pattern[inside] = np.clip(pattern[inside], look.nest_level + 0.5, 1.0)  # neither stroma nor lumens
    nests = soft_step(pattern - look.nest_level, 5.0)
    # Lumens of glands open in the middle of some nests.
    lumens = soft_step(pattern - 1.75, 6.0)
    fibres = _fibres(rng, shape, mpp)
    eosin = (1 - nests) * (0.28 + 0.42 * fibres) + nests * 0.36 * (1 if eosin_factor is None else eosin_factor)
    haematoxylin = 0.05 + 0.13 * nests
    np.maximum(haematoxylin, _nuclei(rng, nests, look, mpp, spot), out=haematoxylin)
    grain = 1 + 0.1 * smooth_noise(rng, shape, 5.0 / mpp)
    open_glass = tissue * (1 - lumens) * _cracks(rng, shape, mpp)
    if spot is not None:
        haematoxylin[inside] *= spot.haematoxylin
        eosin[inside] *= spot.eosin
    haematoxylin *= open_glass * grain * look.haematoxylin
    eosin *= open_glass * grain * look.eosin
    return _to_rgb(rng, haematoxylin, eosin, look)


def _fill_outline(piece: Piece, shape: tuple[int, int], mpp: float) -> Field:
    """1 inside the outline, 0 outside, with an edge of a few µm."""
    canvas = Image.new("L", (shape[1], shape[0]), 0)
    ImageDraw.Draw(canvas).polygon([tuple(corner) for corner in (piece.outline_um / mpp).tolist()], fill=255)
    blurred = canvas.filter(ImageFilter.BoxBlur(2.0 / mpp))
    return np.asarray(blurred, dtype=np.float32) / np.float32(255)


def _fibres(rng: np.random.Generator, shape: tuple[int, int], mpp: float) -> Field:
    """Wavy collagen, 0–1: stripes about 16 µm apart whose phase is bent by smooth noise."""
    direction = rng.uniform(0, np.pi)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    phase = (x * np.float32(np.cos(direction)) + y * np.float32(np.sin(direction))) * np.float32(mpp / 16.0)
    phase += 2.2 * smooth_noise(rng, shape, 190.0 / mpp) + 0.25 * smooth_noise(rng, shape, 30.0 / mpp)
    # A triangle wave: as good as a sine here, and much faster.
    wave: Field = np.abs(2 * (phase - np.floor(phase)) - 1)
    return wave


def _cracks(rng: np.random.Generator, shape: tuple[int, int], mpp: float) -> Field:
    """1 in tissue, 0 in thin clefts where stroma has shrunk from the knife."""
    # The second noise, where it is high, closes the cleft.
    closed = np.clip(smooth_noise(rng, shape, 120.0 / mpp), -0.5, 2.0)
    return soft_step(np.abs(smooth_noise(rng, shape, 260.0 / mpp)) - 0.012 + 0.05 * closed, 40.0)


def _nuclei(rng: np.random.Generator, nests: Field, look: Look, mpp: float, spot: Spot | None) -> Field:
    """Haematoxylin of nuclei: tumour cells in nests, spindle cells and lymphocytes in stroma."""
    canvas = _tumour_nuclei(rng, nests, look, mpp)
    stroma_xy = _jittered_grid(rng, nests.shape, 26.0 / mpp)
    stroma_xy = stroma_xy[nests[stroma_xy[:, 1], stroma_xy[:, 0]] < 0.25]
    spindles = [_nucleus(rng, 4.2 / mpp, rng.uniform(2.2, 3.6)) for _ in range(24)]
    lymphocytes = [_nucleus(rng, 3.4 / mpp, 1.05) for _ in range(8)]
    if spot is not None:
        inside = spot.inside(nests.shape, mpp)
        canvas[inside] = _tumour_nuclei(rng, nests, spot.look, mpp)[inside]
    _stamp(rng, canvas, stroma_xy, spindles + lymphocytes, 0.95)
    return canvas


def _tumour_nuclei(rng: np.random.Generator, nests: Field, look: Look, mpp: float) -> Field:
    canvas = np.zeros_like(nests)
    # Spacing in proportion to the radius keeps the stained share of the area the same for all sizes.
    tumour_xy = _jittered_grid(rng, nests.shape, 2.45 * look.radius_um / mpp)
    tumour_xy = tumour_xy[nests[tumour_xy[:, 1], tumour_xy[:, 0]] > 0.6]
    tumour = [
        _nucleus(rng, look.radius_um * float(np.exp(look.unevenness * rng.normal())) / mpp, rng.uniform(1.0, 1.45))
        for _ in range(80)
    ]
    _stamp(rng, canvas, tumour_xy, tumour, 0.75)
    canvas *= np.clip(1 + look.patchiness * smooth_noise(rng, nests.shape, 50.0 / mpp), 0.2, 2.2)
    return canvas


def _jittered_grid(rng: np.random.Generator, shape: tuple[int, ...], spacing_px: float) -> npt.NDArray[np.int64]:
    """Points (n, 2) as x, y: a hexagonal grid, each point moved at random by up to a third of the spacing."""
    height, width = shape
    rows = np.arange(0, height, spacing_px * 0.87)
    columns = np.arange(0, width, spacing_px)
    x, y = np.meshgrid(columns, rows)
    x[1::2] += spacing_px / 2
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points += rng.uniform(-0.33, 0.33, size=points.shape) * spacing_px
    points = points.astype(np.int64)
    inside = (points >= 0).all(axis=1) & (points[:, 0] < width) & (points[:, 1] < height)
    kept: npt.NDArray[np.int64] = points[inside]
    return kept


def _nucleus(rng: np.random.Generator, radius_px: float, elongation: float) -> Field:
    """One nucleus seen in a square of odd side: soft edge, darker membrane, coarse chromatin."""
    half = int(np.ceil(radius_px * np.sqrt(elongation))) + 1
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = (x * np.cos(angle) + y * np.sin(angle)) / np.sqrt(elongation)
    across = (-x * np.sin(angle) + y * np.cos(angle)) * np.sqrt(elongation)
    distance = np.hypot(along, across) / radius_px
    body = soft_step(1 - distance, radius_px / 1.6)
    rim = soft_step(0.22 - np.abs(distance - 0.85), 4.0)
    chromatin = smooth_noise(rng, x.shape, max(2.0, 0.7 * radius_px))
    density: Field = (body * np.clip(0.78 + 0.25 * rim + 0.16 * chromatin, 0.4, 1.3)).astype(np.float32)
    return density


def _stamp(
    rng: np.random.Generator,
    canvas: Field,
    points_xy: npt.NDArray[np.int64],
    stamps: list[Field],
    strength: float,
) -> None:
    """Lay a random stamp of random strength on every point; where stamps overlap the darker one shows."""
    which = rng.integers(0, len(stamps), size=len(points_xy))
    strengths = (strength * rng.uniform(0.8, 1.2, size=len(points_xy))).astype(np.float32)
    height, width = canvas.shape
    for (x, y), number, factor in zip(points_xy.tolist(), which.tolist(), strengths, strict=True):
        stamp = stamps[number]
        half = stamp.shape[0] // 2
        if half <= x < width - half and half <= y < height - half:
            patch = canvas[y - half : y + half + 1, x - half : x + half + 1]
            np.maximum(patch, stamp * factor, out=patch)


def _to_rgb(rng: np.random.Generator, haematoxylin: Field, eosin: Field, look: Look) -> npt.NDArray[np.uint8]:
    """Light through both stains, with a little sensor noise."""
    rgb = np.empty((*haematoxylin.shape, 3), dtype=np.uint8)
    noise = rng.integers(-3, 4, size=haematoxylin.shape, dtype=np.int8).astype(np.float32)
    lamp = _GLASS_RGB * (_CAST_RGB if look.colour_cast else np.float32(1))
    for channel in range(3):
        density = haematoxylin * (_HAEMATOXYLIN_RGB[channel] * look.tint[channel])
        density += eosin * (_EOSIN_RGB[channel] * look.tint[channel])
        light = lamp[channel] * np.exp(-1.6 * density) + noise
        rgb[..., channel] = np.clip(light, 0, 255)
    return rgb

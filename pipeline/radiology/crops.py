"""What the network sees of a lesion: three axial slices around it, windowed, resampled to a square; plain and varied.

All places are continuous indices (y, x) of the LPS plane, where whole numbers are voxel centres, so that the first
voxel reaches from −0.5 to 0.5. Sizes are in mm, and turns are made in mm: voxels need not be square. In an oblique
volume the axial plane is the grid's own, the nearest to axial; nothing is resampled across slices.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ...config import RoisSettings
from ..jit import compiled
from .lesions import IndexBox

Pair = tuple[float, float]
Planes = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Frame:
    """A rectangle in the axial plane."""

    centre_yx: Pair
    """Index of its centre."""
    size_yx_mm: Pair


@dataclass(frozen=True)
class View:
    """How a view differs from the plain crop. Lengths are shares of the crop's sides."""

    mirrored: bool = False
    """Left and right are exchanged."""
    rotation_deg: float = 0.0
    """Turn of what is seen about the crop's centre, counter-clockwise as displayed."""
    scale: float = 1.0
    """Side of the part of the crop that is seen."""
    shift_yx: Pair = (0.0, 0.0)
    """Centre of that part, from the crop's centre."""


def widest_slice(mask: npt.NDArray[np.uint8]) -> int:
    """Index of the axial slice with the largest area; of several, the one nearest to the middle of the lesion."""
    areas = mask.reshape(mask.shape[0], -1).sum(axis=1, dtype=np.int64)
    widest = np.flatnonzero(areas == areas.max())
    middle = np.average(np.arange(areas.size), weights=areas)
    return int(widest[np.abs(widest - middle).argmin()])


def neighbouring_slices(z: int, count: int) -> tuple[tuple[int, int, int], bool]:
    """Slices below, at and above z (towards the head), and whether one was missing and z stands for it."""
    below, above = (z - 1 if z > 0 else z), (z + 1 if z < count - 1 else z)
    return (below, z, above), z in (below, above)


def crop_frame(box: IndexBox, spacing_yx_mm: Pair, shape_yx: tuple[int, int], settings: RoisSettings) -> Frame:
    """The lesion's box in the axial plane with its margin, cut to the plane.

    With `keep_aspect` it is then widened to a square, which is moved into the plane, and reaches over the plane's
    edge only where it is larger than the plane.
    """
    sides = []
    low_high = zip(box.low_zyx[1:], box.high_zyx[1:], spacing_yx_mm, shape_yx, strict=True)
    for low, high, spacing, count in low_high:
        margin = settings.margin_mm / spacing
        sides.append((max(-0.5, low - 0.5 - margin), min(count - 0.5, high - 0.5 + margin)))
    if settings.keep_aspect:
        side_mm = max((high - low) * spacing for (low, high), spacing in zip(sides, spacing_yx_mm, strict=True))
        sides = [
            _widened(side, side_mm / spacing, count)
            for side, spacing, count in zip(sides, spacing_yx_mm, shape_yx, strict=True)
        ]
    (y_low, y_high), (x_low, x_high) = sides
    return Frame(
        centre_yx=((y_low + y_high) / 2, (x_low + x_high) / 2),
        size_yx_mm=((y_high - y_low) * spacing_yx_mm[0], (x_high - x_low) * spacing_yx_mm[1]),
    )


def draw_view(patient: str, lesion: str, view: int, settings: RoisSettings) -> View:
    """The view of that number: 0 is the plain crop; others are drawn from (seed, patient, lesion, view) alone.

    The draw does not depend on other lesions or on Python's own hash, so it is the same in every run and process.
    """
    if view == 0:
        return View()
    key = json.dumps([settings.seed, patient, lesion, view]).encode()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))
    mirrored = bool(rng.random() < 0.5)
    rotation = float(rng.uniform(-settings.max_rotation_deg, settings.max_rotation_deg))
    scale = float(rng.uniform(settings.min_crop_scale, 1))
    room = (1 - scale) / 2
    shift_y, shift_x = (float(v) for v in rng.uniform(-room, room, 2))
    return View(mirrored, rotation, scale, (shift_y, shift_x))


def windowed(intensity: npt.NDArray[np.generic], low_hu: float, high_hu: float) -> Planes:
    """Intensities clipped to a window and scaled to 0–255."""
    share = (intensity.astype(np.float32) - np.float32(low_hu)) / np.float32(high_hu - low_hu)
    return np.asarray(np.clip(share, 0, 1) * np.float32(255), dtype=np.float32)


def crop_planes(planes: Planes, frame: Frame, view: View, spacing_yx_mm: Pair, side_px: int) -> npt.NDArray[np.uint8]:
    """A view of a frame, sampled from the planes themselves, so that a turned view has real tissue in its corners.

    Bilinear. Where voxels are finer than the crop's pixels, planes are smoothed first with a Gaussian of
    σ = (f − 1) / 2 voxels, f voxels a pixel (the rule of scikit-image's `resize`). Outside the planes it is 0.

    Args:
        planes: (slice, y, x), 0–255.

    Returns:
        (slice, side_px, side_px).
    """
    grid, sigma = _grid(frame, view, spacing_yx_mm, side_px)
    shape = np.array(planes.shape[1:])
    ends = grid[:, 0, None] + grid[:, 1:] @ np.array([[0, 0, 1, 1], [0, 1, 0, 1]]) * (side_px - 1)  # its four corners
    reach = np.ceil(4 * sigma).astype(int) + 2
    first = np.clip(np.floor(ends.min(axis=1)).astype(int) - reach, 0, shape - 1)
    last = np.clip(np.ceil(ends.max(axis=1)).astype(int) + reach, 0, shape - 1)
    part = planes[:, first[0] : last[0] + 1, first[1] : last[1] + 1]
    if sigma.any():
        part = ndimage.gaussian_filter(part, sigma=(0, *sigma), mode="nearest")
    grid[:, 0] -= first
    return _sampled(np.ascontiguousarray(part), grid, -0.5 - first, shape - 0.5 - first, side_px)


def _grid(
    frame: Frame, view: View, spacing_yx_mm: Pair, side_px: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Where pixels' centres fall, and the smoothing (2: y x) in voxels.

    The first is (2: y x, 3): index of pixel (0, 0), and the steps to the next pixel down and to the right.
    """
    angle = np.radians(view.rotation_deg)
    cos, sin = np.cos(angle), np.sin(angle)
    spacing, size_mm = np.array(spacing_yx_mm), np.array(frame.size_yx_mm)
    mirror = -1.0 if view.mirrored else 1.0
    turn = np.array([[cos, sin], [-sin, cos]]) / spacing[:, None]  # from mm (y, x) as seen to voxels
    step_mm = size_mm * view.scale / side_px
    first_mm = (0.5 / side_px - 0.5) * np.array([1.0, mirror]) * view.scale * size_mm + view.shift_yx * size_mm
    grid = np.empty((2, 3))
    grid[:, 0] = turn @ first_mm + frame.centre_yx
    grid[:, 1] = turn[:, 0] * step_mm[0]
    grid[:, 2] = turn[:, 1] * step_mm[1] * mirror
    voxels_a_pixel = np.hypot(cos * step_mm, sin * step_mm[::-1]) / spacing
    return grid, np.maximum(0, (voxels_a_pixel - 1) / 2)


@compiled
def _sampled(
    planes: Planes,
    grid: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    side_px: int,
) -> npt.NDArray[np.uint8]:
    """Bilinear samples of planes at a grid's places; 0 outside low … high (y x), the edge's value next to it."""
    count, rows, columns = planes.shape
    crop = np.zeros((count, side_px, side_px), np.uint8)
    for i in range(side_px):
        for j in range(side_px):
            y = grid[0, 0] + i * grid[0, 1] + j * grid[0, 2]
            x = grid[1, 0] + i * grid[1, 1] + j * grid[1, 2]
            if y < low[0] or y > high[0] or x < low[1] or x > high[1]:
                continue
            y, x = min(max(y, 0.0), rows - 1.0), min(max(x, 0.0), columns - 1.0)
            top, left = int(y), int(x)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            down, across = y - top, x - left
            for n in range(count):
                upper = planes[n, top, left] * (1 - across) + planes[n, top, right] * across
                lower = planes[n, below, left] * (1 - across) + planes[n, below, right] * across
                crop[n, i, j] = np.uint8(np.rint(upper * (1 - down) + lower * down))
    return crop


def _widened(side: Pair, length: float, count: int) -> Pair:
    """A stretch of `length` around the middle of `side`, moved into −0.5 … count − 0.5, or centred on it if longer."""
    low = (side[0] + side[1] - length) / 2
    low = (count - 1 - length) / 2 if length >= count else min(max(low, -0.5), count - 0.5 - length)
    return low, low + length

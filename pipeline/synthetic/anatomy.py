"""Synthetic CT: a stylised abdomen at half size with lesions, in Hounsfield units.

The planted signal is inside the lesions: those of responders are even and fine-grained, those of others
coarse and patchy around a necrotic core. Every lesion has a mean of its own that is independent of the signal, and
the second centre's scanner adds an offset to everything, so that grey levels mean something only within a window of
that centre.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from .noise import Field, soft_step
from .plan import CtPlan, LesionPlan, stream

CENTRE_OFFSET_HU: Mapping[str, int] = {"A": 0, "B": 65}
"""What each centre's scanner adds to every intensity."""

SIDE_PX = 96
_SPACING_MM: Mapping[str, tuple[float, float, float]] = {"A": (2.0, 2.0, 5.0), "B": (2.25, 2.25, 4.0)}
"""Voxel size (x, y, z) of each centre."""

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Volume:
    """A CT volume in the axes of the patient (LPS): x to the left, y to the back, z to the head."""

    hu: npt.NDArray[np.int16]
    """(z, y, x)."""
    labels: npt.NDArray[np.uint8]
    """(z, y, x); n inside the n-th lesion, from 1; 0 elsewhere."""
    spacing_mm: Triple
    """x, y, z."""
    origin_mm: Triple
    """Centre of the first voxel: x, y, z."""


@dataclass(frozen=True)
class _Site:
    """Where lesions of a type lie, and what they look like."""

    centre_mm: Triple
    spread_mm: Triple
    semi_axes_mm: Triple
    hu: float


_SITES: Mapping[str, _Site] = {
    "stomach": _Site((38, -30, 4), (10, 7, 12), (17, 14, 15), 78),
    "lymph node": _Site((2, 10, -6), (20, 6, 20), (11, 10, 13), 88),
    "liver": _Site((-44, -8, 6), (12, 12, 14), (13, 13, 14), 72),
    "peritoneum": _Site((-8, -44, -14), (16, 2, 14), (15, 8, 13), 66),
    "spleen": _Site((58, 16, 12), (3, 4, 8), (11, 12, 13), 80),
    "bone": _Site((0, 44, 0), (2, 2, 16), (10, 10, 12), 96),
    "adrenal": _Site((26, 20, 10), (3, 3, 6), (10, 9, 12), 74),
    "soft tissue": _Site((-56, 34, -10), (5, 4, 14), (12, 10, 13), 62),
}


def render_volume(plan: CtPlan, seed: int) -> Volume:
    """Draw a CT study; the same plan and seed give the same voxels."""
    rng = stream(seed, "voxels", int(plan.ct[1:]))
    spacing = _SPACING_MM[plan.centre]
    slices = int(rng.integers(20, 25))
    shape = (slices, SIDE_PX, SIDE_PX)
    # Coordinates in mm from the middle of the volume, each along its own axis of (z, y, x).
    axes = [
        ((np.arange(count) - (count - 1) / 2) * step).astype(np.float32)
        for count, step in zip(shape, reversed(spacing), strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    hu = np.broadcast_to(_abdomen(rng, x, y, z), shape).copy()
    labels = np.zeros(shape, dtype=np.uint8)
    placed: list[tuple[npt.NDArray[np.float64], float]] = []
    for number, lesion in enumerate(plan.lesions, start=1):
        centre, semi_axes = _place(rng, lesion.lesion_type, placed)
        placed.append((centre, float(semi_axes.max())))
        _add_lesion(rng, hu, labels, number, lesion, (x, y, z), centre, semi_axes)
    hu = ndimage.gaussian_filter(hu, (0.0, 0.55, 0.55))
    hu += ndimage.gaussian_filter(rng.normal(size=shape).astype(np.float32), (0.0, 0.6, 0.6)) * 22.0
    hu += CENTRE_OFFSET_HU[plan.centre]
    voxels = np.clip(np.rint(hu), -1024, 3071).astype(np.int16)
    return Volume(voxels, labels, spacing, _draw_origin(rng, shape, spacing))


def _draw_origin(rng: np.random.Generator, shape: tuple[int, int, int], spacing: Triple) -> Triple:
    """Position of the first voxel (x, y, z): where the patient happens to lie in the scanner, to 0.001 mm."""
    middle = rng.uniform(-20, 20), rng.uniform(-150, -120), rng.uniform(-900, 300)
    x, y, z = (
        round(round(float(place), 1) - (count - 1) / 2 * step, 3)
        for place, count, step in zip(middle, reversed(shape), spacing, strict=True)
    )
    return x, y, z


def _ellipsoid(x: Field, y: Field, z: Field, centre: Triple, semi_axes: Triple) -> Field:
    """Distance from the centre in semi-axes: below 1 inside."""
    distance: Field = np.sqrt(
        ((x - centre[0]) / semi_axes[0]) ** 2
        + ((y - centre[1]) / semi_axes[1]) ** 2
        + ((z - centre[2]) / semi_axes[2]) ** 2
    )
    return distance


def _abdomen(rng: np.random.Generator, x: Field, y: Field, z: Field) -> Field:
    """Intensities (z, y, x) without lesions, contrast medium in the portal phase."""
    far = 1e6
    body = _ellipsoid(x, y, z, (0, 0, 0), (88, 66, far))
    hu = np.full(np.broadcast_shapes(x.shape, y.shape, z.shape), -1000.0, dtype=np.float32)

    def fill(inside: npt.NDArray[np.bool_], level: float) -> None:
        hu[np.broadcast_to(inside, hu.shape)] = level + rng.normal() * min(abs(level) * 0.05, 6.0)

    fill(body < 1, -105)  # subcutaneous fat
    fill(body < 0.9, 58)  # abdominal wall
    fill(body < 0.8, -98)  # visceral fat
    inner = body < 0.83
    for _ in range(int(rng.integers(4, 8))):  # bowel
        centre = (rng.uniform(-40, 50), rng.uniform(-30, 8), rng.uniform(-60, -18))
        loop = _ellipsoid(x, y, z, centre, (rng.uniform(9, 15), rng.uniform(8, 12), rng.uniform(10, 18)))
        fill(inner & (loop < 1), 70)
        fill(inner & (loop < 0.72), 22)
    jitter = rng.normal(size=3) * 3
    liver = _ellipsoid(x, y, z, (-40 + jitter[0], -8 + jitter[1], 10 + jitter[2]), (45, 44, 42))
    fill(inner & (liver < 1), 112)
    for angle in rng.uniform(0, np.pi, size=3):  # vessels of the liver
        along = (x + 40) * np.sin(angle) - (y + 8) * np.cos(angle)
        offset = (x + 40) * np.cos(angle) + (y + 8) * np.sin(angle) + z * rng.normal() * 0.6 + rng.normal() * 9
        offset = offset + 5 * np.sin((along + rng.uniform(0, 60)) / 11)
        fill((liver < 0.88) & (np.abs(offset) < 2.4 - 0.05 * np.abs(along)), 142)
    fill(inner & (_ellipsoid(x, y, z, (58, 16, 12), (17, 23, 30)) < 1), 122)  # spleen
    stomach = _ellipsoid(x, y, z, (24 + jitter[1], -24, 6 + jitter[0]), (30, 22, 34))
    fill(inner & (stomach < 1), 74)
    fill(inner & (stomach < 0.78), 12)
    fill(inner & (stomach < 0.78) & (y < -32 + jitter[2]), -850)  # gas rises to the front
    for side in (-1, 1):
        kidney = _ellipsoid(x, y, z, (side * 42, 32, -26), (14, 17, 28))
        fill(inner & (kidney < 1), 175)
        fill(inner & (kidney < 0.4), 30)
    fill(_ellipsoid(x, y, z, (7, 24, 0), (7, 7, far)) < 1, 165)  # aorta
    fill(_ellipsoid(x, y, z, (-13, 25, 0), (9, 7, far)) < 1, 140)  # inferior vena cava
    spine = _ellipsoid(x, y, z, (0, 44, 0), (14, 12, far))
    fill(spine < 1, 420)
    fill(spine < 0.8, 190)
    fill(_ellipsoid(x, y, z, (0, 59, 0), (3, 7, far)) < 1, 350)  # spinous process
    return hu


def _place(
    rng: np.random.Generator, lesion_type: str, placed: Sequence[tuple[npt.NDArray[np.float64], float]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Centre and semi-axes (x, y, z) in mm, clear of the lesions already placed; shrinks where there is little room."""
    site = _SITES[lesion_type]
    semi_axes = np.array(site.semi_axes_mm) * rng.uniform(0.85, 1.25) * rng.uniform(0.9, 1.1, size=3)
    for attempt in range(200):
        # The longer the search, the further from the usual place it may end.
        spread = np.array(site.spread_mm) * (1 + attempt / 50)
        centre = np.array(site.centre_mm) + rng.uniform(-1, 1, size=3) * spread
        reach = float(semi_axes.max())
        if all(np.linalg.norm(centre - other) > reach + other_reach for other, other_reach in placed):
            break
        if attempt % 10 == 9:
            semi_axes = np.maximum(semi_axes * 0.93, 8.5)
    return centre, semi_axes


def _add_lesion(
    rng: np.random.Generator,
    hu: Field,
    labels: npt.NDArray[np.uint8],
    number: int,
    lesion: LesionPlan,
    axes_mm: tuple[Field, Field, Field],
    centre: npt.NDArray[np.float64],
    semi_axes: npt.NDArray[np.float64],
) -> None:
    """Draw a lesion into `hu` and `labels`; voxels of lesions drawn before stay theirs.

    `axes_mm` are the coordinates x, y, z of the voxels' centres, each along its own axis of (z, y, x).
    """
    near = [
        np.flatnonzero(np.abs(axis.ravel() - place) < 1.6 * reach)
        for axis, place, reach in zip(axes_mm, centre, semi_axes, strict=True)
    ]
    window = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in reversed(near))
    x, y, z = (
        axis.ravel()[indices].reshape([-1 if own == dim else 1 for dim in range(3)])
        for own, axis, indices in zip((2, 1, 0), axes_mm, near, strict=True)
    )
    spacing = [float(axis.ravel()[1] - axis.ravel()[0]) for axis in reversed(axes_mm)]
    distance = _ellipsoid(x, y, z, (centre[0], centre[1], centre[2]), (semi_axes[0], semi_axes[1], semi_axes[2]))
    bumps = _grain(rng, distance.shape, 9.0, spacing)
    distance = distance + np.float32(0.09) * bumps
    inside = (distance < 1) & (labels[window] == 0)
    level = _SITES[lesion.lesion_type].hu + 9.0 * rng.normal() + lesion.shift_hu
    patchiness_hu = float(np.clip(20.0 - 8.0 * lesion.score, 5.0, 44.0))
    grain_mm = float(np.clip(2.6 - 0.5 * lesion.score, 1.5, 4.5))
    core_hu = float(np.clip(34.0 - 20.0 * lesion.score, 0.0, 85.0))
    interior = level + patchiness_hu * _grain(rng, distance.shape, grain_mm, spacing)
    interior -= core_hu * soft_step(0.55 - distance + 0.15 * bumps, 3.0)
    hu[window][inside] = interior[inside]
    labels[window][inside] = number


def _grain(rng: np.random.Generator, shape: tuple[int, ...], sigma_mm: float, spacing_zyx: Sequence[float]) -> Field:
    """Gaussian noise (z, y, x) smoothed to a scale in mm, standard deviation 1."""
    noise = rng.normal(size=shape).astype(np.float32)
    smooth = ndimage.gaussian_filter(noise, [sigma_mm / step for step in spacing_zyx], truncate=3.0)
    result: Field = smooth / np.float32(smooth.std())
    return result

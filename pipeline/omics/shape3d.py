"""Shape features of a 3-D region (IBSI HCUG), under PyRadiomics' names and with its numbers.

IBSI identifiers: MeshVolume RNU0, VoxelVolume YEKZ, SurfaceArea C0JK, SurfaceVolumeRatio 2PR5, Sphericity QCFX,
Maximum3DDiameter L0JK, MajorAxisLength TDIC, MinorAxisLength P9VJ, LeastAxisLength 7J51, Elongation Q3CK, Flatness
N17B. The three diameters in planes are PyRadiomics' own.

PyRadiomics compares every vertex of the region's surface with every other. Here only those that can be an end of the
longest distance are compared; area and volume come from its own mesh (see `_mesh_tables`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection

import numpy as np
import numpy.typing as npt

from ..jit import compiled

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Triple = tuple[float, float, float]

FEATURES = (
    "Elongation",
    "Flatness",
    "LeastAxisLength",
    "MajorAxisLength",
    "Maximum2DDiameterColumn",
    "Maximum2DDiameterRow",
    "Maximum2DDiameterSlice",
    "Maximum3DDiameter",
    "MeshVolume",
    "MinorAxisLength",
    "Sphericity",
    "SurfaceArea",
    "SurfaceVolumeRatio",
    "VoxelVolume",
)
"""All features, in PyRadiomics' order."""
ON_REQUEST = ("Compactness1", "Compactness2", "SphericalDisproportion")
"""Functions of others, computed only when asked for by name."""


def features(mask: Mask, spacing_mm: Triple, wanted: Collection[str]) -> dict[str, float]:
    """Shape features of the region `mask` (z, y, x); `spacing_mm` is along z, y, x."""
    padded = np.pad(mask, 1)
    area, volume = surface_and_volume(padded, spacing_mm)
    slice_, column, row, longest = diameters(padded, spacing_mm)
    least, minor, major = axis_variances(padded, spacing_mm)
    volume_of_sphere = 36 * math.pi * volume**2
    values: dict[str, Callable[[], float]] = {
        "Elongation": lambda: _root(minor / major if minor >= 0 and major >= 0 else math.nan),
        "Flatness": lambda: _root(least / major if least >= 0 and major >= 0 else math.nan),
        "LeastAxisLength": lambda: 4 * _root(least),
        "MajorAxisLength": lambda: 4 * _root(major),
        "Maximum2DDiameterColumn": lambda: column,
        "Maximum2DDiameterRow": lambda: row,
        "Maximum2DDiameterSlice": lambda: slice_,
        "Maximum3DDiameter": lambda: longest,
        "MeshVolume": lambda: volume,
        "MinorAxisLength": lambda: 4 * _root(minor),
        "Sphericity": lambda: volume_of_sphere ** (1 / 3) / area,
        "SurfaceArea": lambda: area,
        "SurfaceVolumeRatio": lambda: area / volume if volume else math.nan,
        "VoxelVolume": lambda: int(np.count_nonzero(mask)) * math.prod(spacing_mm),
        "Compactness1": lambda: volume / (area**1.5 * math.sqrt(math.pi)),
        "Compactness2": lambda: volume_of_sphere / area**3,
        "SphericalDisproportion": lambda: area / volume_of_sphere ** (1 / 3),
    }
    return {name: float(values[name]()) for name in wanted}


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def axis_variances(mask: Mask, spacing_mm: Triple) -> tuple[float, float, float]:
    """Variances along the principal axes of the voxels' centres, increasing; tiny negative ones are 0.

    Rounding errors are PyRadiomics' too: they are all that is left of an axis along which the region is flat.
    """
    places = np.argwhere(mask) * np.array(spacing_mm)
    places -= places.mean(axis=0)
    places /= np.sqrt(len(places))
    eigenvalues = np.real(np.linalg.eigvals(places.T.copy() @ places))
    eigenvalues[(eigenvalues < 0) & (eigenvalues > -1e-10)] = 0
    least, minor, major = np.sort(eigenvalues).tolist()
    return least, minor, major


# --- surface ----------------------------------------------------------------------------------------------------
def surface_and_volume(padded: Mask, spacing_mm: Triple) -> tuple[float, float]:
    """Area and volume of the mesh around a region (z, y, x) that does not touch the array's border.

    PyRadiomics' mesh has gaps where voxels meet at edges only. Its volume, a sum of tetrahedra from the array's corner
    to each triangle, then depends on where the region lies; so does this one.
    """
    cubes = _count_cubes(padded)  # (4, 256): number, sums of z, y, x
    volume = int((cubes * _volume_table()).sum()) / _VOLUME_PARTS * math.prod(spacing_mm)
    return float(cubes[0] @ _area_table(spacing_mm)), volume


@compiled
def _count_cubes(padded: Mask) -> npt.NDArray[np.int64]:
    """How often each pattern of 2 × 2 × 2 voxels occurs, and the sums of its places along z, y, x, as (4, 256).

    Bit 4 z + 2 y + x of a pattern is the voxel (z, y, x).
    """
    counts = np.zeros((4, 256), np.int64)
    for z in range(padded.shape[0] - 1):
        for y in range(padded.shape[1] - 1):
            near, far = padded[z, y], padded[z, y + 1]
            near_up, far_up = padded[z + 1, y], padded[z + 1, y + 1]
            left = 0
            for x in range(padded.shape[2]):
                right = near[x] + 4 * far[x] + 16 * near_up[x] + 64 * far_up[x]
                pattern = left + 2 * right
                if x > 0 and pattern > 0:
                    counts[0, pattern] += 1
                    counts[1, pattern] += z
                    counts[2, pattern] += y
                    counts[3, pattern] += x - 1
                left = right
    return counts


# PyRadiomics gives area and volume of a region as a whole. Cut a region into pairs of neighbouring planes: the sum over
# the pairs counts every plane twice, so that area = Σ area(pair) − Σ area(plane). The same along all three axes leaves
# blocks of at most 2 × 2 × 2 voxels; PyRadiomics makes the meshes of these 255.
def _of_blocks(spacing_mm: Triple, place: tuple[int, int, int]) -> Floats:
    """Area and volume, as (2, 256), of a region that is one block at `place` (z, y, x) of an array."""
    from radiomics import cShape

    z, y, x = place
    block = np.zeros((5, 5, 5), np.bool_)
    values = np.zeros((2, 256))
    for pattern in range(1, 256):
        block[z : z + 2, y : y + 2, x : x + 2] = (pattern >> np.arange(8) & 1).reshape(2, 2, 2)
        values[:, pattern] = cShape.calculate_coefficients(block, np.array(spacing_mm))[:2]
    return values


def _of_cubes(of_blocks: Floats) -> Floats:
    """What a cube adds to the whole: its block less the parts that it shares with the cubes before it."""
    patterns = np.arange(256)
    for first_half in (0b00001111, 0b00110011, 0b01010101):  # voxels with z = 0, y = 0, x = 0
        of_blocks = of_blocks - of_blocks[..., patterns & first_half]
    return of_blocks


@functools.lru_cache(maxsize=64)
def _area_table(spacing_mm: Triple) -> Floats:
    return _of_cubes(_of_blocks(spacing_mm, (1, 1, 1))[0])


_VOLUME_PARTS = 48
"""Vertices have coordinates in halves: volumes are whole 48ths of a voxel."""


@functools.lru_cache(maxsize=1)
def _volume_table() -> npt.NDArray[np.int64]:
    """Volume of a cube at the array's corner, and by how much it changes a voxel along z, y, x, as (4, 256)."""
    unit = (1.0, 1.0, 1.0)
    here = _of_blocks(unit, (1, 1, 1))[1]
    slopes = [_of_blocks(unit, place)[1] - here for place in ((2, 1, 1), (1, 2, 1), (1, 1, 2))]
    return np.rint(_of_cubes(np.stack([here - sum(slopes), *slopes])) * _VOLUME_PARTS).astype(np.int64)


# --- diameters ---------------------------------------------------------------------------------------------------
def diameters(padded: Mask, spacing_mm: Triple) -> tuple[float, float, float, float]:
    """Largest distances between vertices of the mesh: in a plane of one z, of one y, of one x, and of all.

    Vertices lie half way between a voxel of the region and a neighbour along an axis that is not of it. The longest
    distance is between two that are first or last in their line along every axis.
    """
    sides = []
    for axis in range(3):
        ahead, behind = np.roll(padded, -1, axis), padded
        corner = np.argwhere(ahead != behind) * 2
        corner[:, axis] += 1
        sides.append(corner)
    doubled = np.concatenate(sides)  # twice the index, whole numbers
    scale = np.array(spacing_mm) / 2
    in_planes = [
        _longest_in_planes(_ends(doubled, *order), order[0], scale) for order in ((0, 1, 2), (1, 0, 2), (2, 0, 1))
    ]
    ends = _ends(_ends(_ends(doubled, 0, 1, 2), 0, 2, 1), 1, 2, 0)
    return in_planes[0], in_planes[1], in_planes[2], _longest(ends * scale)


def _ends(points: npt.NDArray[np.int64], first: int, second: int, along: int) -> npt.NDArray[np.int64]:
    """The first and the last point in each line along an axis, ordered by the coordinates of the other two."""
    sizes = points.max(axis=0) + 1
    line = points[:, first] * sizes[second] + points[:, second]
    code = np.sort(line * sizes[along] + points[:, along])
    line = code // sizes[along]
    changes = line[1:] != line[:-1]
    code = code[np.concatenate([[True], changes]) | np.concatenate([changes, [True]])]
    ends = np.empty((len(code), 3), np.int64)
    line, ends[:, along] = np.divmod(code, sizes[along])
    ends[:, first], ends[:, second] = np.divmod(line, sizes[second])
    return ends


def _longest_in_planes(points: npt.NDArray[np.int64], axis: int, scale: Floats) -> float:
    """Largest distance between points that share the coordinate of an axis, by which they are ordered."""
    cuts = np.flatnonzero(np.diff(points[:, axis])) + 1
    places, starts = points * scale, [0, *cuts.tolist()]
    return max(_longest(places[start:stop]) for start, stop in zip(starts, [*starts[1:], len(points)], strict=True))


@compiled
def _longest(points: Floats) -> float:
    longest = 0.0
    for i in range(len(points)):
        for j in range(i):
            z, y, x = points[i, 0] - points[j, 0], points[i, 1] - points[j, 1], points[i, 2] - points[j, 2]
            longest = max(longest, z * z + y * y + x * x)
    return math.sqrt(longest)

"""Where the voxels of an image lie in the patient: grids, their LPS order, and their comparison.

Frames: `index_xyz` counts voxels of a grid along its own axes, first axis first; arrays are indexed (z, y, x), the
other way round. `mm` are millimetres in the patient in LPS (x to the left, y to the back, z to the head), which ITK
and DICOM share. A voxel's index stands for its centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ...errors import InputError, Problem

Triple = tuple[float, float, float]
FloatArray = npt.NDArray[np.float64]

_SHEARED_VOXELS = 1e-3
_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


class ImageError(InputError):
    """An image, mask or box that cannot be used, in three parts, so that it can become a `Problem`.

    The text names no file and quotes no header: failures are stored.
    """

    def __init__(self, name: str, found: str, expected: str, remedy: str) -> None:
        self.name, self.found, self.expected, self.remedy = name, found, expected, remedy
        super().__init__(f"{name}: found {found}; expected {expected}. {remedy}")

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str, str]]:
        return (ImageError, (self.name, self.found, self.expected, self.remedy))

    def problem(self, table: str, row: str, column: str) -> Problem:
        """The same as a problem of a table of the cohort."""
        return Problem(table, row, column, self.found, self.expected, self.remedy)


@dataclass(frozen=True)
class Geometry:
    """The grid of a 3-D image: its size, and where it lies in the patient."""

    size_xyz: tuple[int, int, int]
    spacing_mm: Triple
    """Distance of voxel centres along the grid's axes x, y, z."""
    origin_mm: Triple
    """Centre of voxel (0, 0, 0), LPS."""
    direction: tuple[float, ...]
    """Nine cosines, row-major; column k is the direction of axis k in LPS."""

    def to_mm(self, index_xyz: npt.ArrayLike) -> FloatArray:
        """Points (..., 3) in mm of indices (..., 3), which need not be whole numbers."""
        return np.asarray(index_xyz, float) @ self._step_mm().T + self.origin_mm

    def to_index(self, points_mm: npt.ArrayLike) -> FloatArray:
        """Indices (..., 3), not rounded, of points (..., 3) in mm."""
        return np.asarray(
            (np.asarray(points_mm, float) - self.origin_mm) @ np.linalg.inv(self._step_mm()).T, dtype=float
        )

    def to_lps(self) -> Geometry:
        """The same voxels with axes permuted and flipped so that x, y, z point most nearly to L, P, S."""
        axes = lps_axes(self.direction)
        steps = np.array(self.direction).reshape(3, 3)[:, axes.order] * np.where(axes.flip, -1, 1)
        first = np.zeros(3)
        for order, flip in zip(axes.order, axes.flip, strict=True):
            first[order] = self.size_xyz[order] - 1 if flip else 0
        return Geometry(
            size_xyz=_triple(int, [self.size_xyz[k] for k in axes.order]),
            spacing_mm=_triple(float, [self.spacing_mm[k] for k in axes.order]),
            origin_mm=_triple(float, self.to_mm(first)),
            direction=tuple(float(v) for v in (steps + 0.0).ravel()),
        )

    def upright(self) -> Geometry:
        """The grid at right angles that holds this one, whose axis z may be sheared (tilted gantry); else itself.

        Slices stay in their planes and keep their pixels' spacing: only x and y grow, by whole voxels.
        """
        shift = self.shift_xy()
        if not shift.any():
            return self
        (low_x, low_y), (more_x, more_y) = self._room()
        row, column = np.array(self.direction).reshape(3, 3)[:, :2].T
        normal = np.cross(row, column)
        return Geometry(
            size_xyz=(self.size_xyz[0] + more_x, self.size_xyz[1] + more_y, self.size_xyz[2]),
            spacing_mm=(*self.spacing_mm[:2], float(self._step_mm()[:, 2] @ normal)),
            origin_mm=_triple(float, self.to_mm([low_x, low_y, 0])),
            direction=tuple(float(v) for v in np.stack([row, column, normal], axis=1).ravel()),
        )

    def shift_xy(self) -> FloatArray:
        """By how many voxels (x, y) each slice is shifted against the one before; 0 unless the grid is sheared."""
        steps = self._step_mm()
        shift = np.array([steps[:, axis] @ steps[:, 2] / self.spacing_mm[axis] ** 2 for axis in range(2)])
        shift[np.abs(shift) * self.size_xyz[2] < _SHEARED_VOXELS] = 0
        return shift

    def places_xy(self) -> FloatArray:
        """Where pixel (0, 0) of each slice lies in `upright`, (slice, 2: x y), voxels, not rounded."""
        low, _ = self._room()
        return cast(FloatArray, np.arange(self.size_xyz[2])[:, None] * self.shift_xy() - np.array(low))

    def _room(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First voxel (x, y) of `upright` counted in this grid's first slice, and how many voxels it is larger by."""
        last = self.shift_xy() * (self.size_xyz[2] - 1)
        low, high = np.floor(np.minimum(last, 0)).astype(int), np.ceil(np.maximum(last, 0)).astype(int)
        return (int(low[0]), int(low[1])), (int(high[0] - low[0]), int(high[1] - low[1]))

    def corners_mm(self, *, outer: bool = False) -> FloatArray:
        """The eight corners (8, 3) of the grid: centres of the corner voxels, or the outer corners of these voxels."""
        half = 0.5 if outer else 0.0
        ends = [(-half, size - 1 + half) for size in self.size_xyz]
        return self.to_mm(list(product(*ends)))

    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(np.prod(self.spacing_mm))

    def reach_mm(self) -> FloatArray:
        """Extent (3,) of one voxel along the axes of the patient; the spacing, when the grid is not oblique."""
        return cast(FloatArray, np.abs(self._step_mm()).sum(axis=1))

    def _step_mm(self) -> FloatArray:
        return cast(FloatArray, np.array(self.direction).reshape(3, 3) * np.array(self.spacing_mm))


@dataclass(frozen=True)
class Axes:
    """How a stored grid becomes an LPS one: axis k of it is stored axis `order[k]`, reversed where `flip[k]`."""

    order: tuple[int, int, int]
    flip: tuple[bool, bool, bool]

    def apply(self, stored_zyx: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view (z, y, x) in LPS order of an array (z, y, x) in stored order."""
        # Numpy's axis of grid axis k is 2 − k, on both sides.
        turned = stored_zyx.transpose([2 - self.order[2 - axis] for axis in range(3)])
        return turned[tuple(slice(None, None, -1 if self.flip[2 - axis] else 1) for axis in range(3))]


def lps_axes(direction: tuple[float, ...]) -> Axes:
    """The permutation and flips that bring a grid nearest to LPS, by ITK's rule for the nearest anatomical axes."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction)
    order, flip = [0, 0, 0], [False, False, False]
    for stored_axis, letter in enumerate(code):
        lps_axis, sign = _TOWARDS[letter]
        order[lps_axis], flip[lps_axis] = stored_axis, sign < 0
    return Axes(_triple(int, order), _triple(bool, flip))


def check_same_geometry(volume: Geometry, mask: Geometry, tolerance_mm: float, *, name: str = "mask") -> None:
    """Refuse a mask whose grid is not the volume's; both in LPS order.

    Spacing, origin and all eight corners may differ by up to `tolerance_mm`, because formats round them differently.

    Raises:
        ImageError: with everything that differs, expected and found.
    """
    wrong: list[tuple[str, object, object]] = []
    if mask.size_xyz != volume.size_xyz:
        wrong.append(("size", mask.size_xyz, volume.size_xyz))
    if _apart(mask.spacing_mm, volume.spacing_mm) > tolerance_mm:
        wrong.append(("spacing in mm", _rounded(mask.spacing_mm), _rounded(volume.spacing_mm)))
    if _apart(mask.origin_mm, volume.origin_mm) > tolerance_mm:
        wrong.append(("origin in mm", _rounded(mask.origin_mm), _rounded(volume.origin_mm)))
    if not wrong and _apart(mask.corners_mm(), volume.corners_mm()) > tolerance_mm:
        wrong.append(("direction", _rounded(mask.direction), _rounded(volume.direction)))
    if wrong:
        raise ImageError(
            name,
            "another grid than the volume's: " + ", ".join(f"{what} {found}" for what, found, _ in wrong),
            ", ".join(f"{what} {expected}" for what, _, expected in wrong) + f" within {tolerance_mm:g} mm",
            "Give the mask that was drawn on this volume, or resample it to the volume's grid.",
        )


def _apart(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    return float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 4) + 0.0 for value in values)


def _triple(kind: type[Any], values: Any) -> Any:
    """Exactly three values of one kind as a tuple."""
    x, y, z = values
    return (kind(x), kind(y), kind(z))

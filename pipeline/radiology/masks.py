"""Masks of lesions on the grid of their volume, from label files, structure sets and segmentations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from ...config import RoisSettings
from ..cohorts.cohort import Lesion
from .dicom_header import is_dicom
from .dicom_masks import Region, read_region
from .geometry import Geometry, ImageError, check_same_geometry
from .volumes import Volume, in_lps, read_labels


@dataclass(frozen=True, eq=False)
class Labels:
    """A label mask on the grid of a volume."""

    array: npt.NDArray[Any]
    """(z, y, x), LPS, whole numbers."""
    label: int | None
    """Value of the lesion's voxels; none: every voxel that is not 0."""
    warnings: tuple[str, ...] = ()


@dataclass
class LabelReader:
    """Reads the masks of one study; holds the last one, because lesions usually share a file."""

    settings: RoisSettings
    _key: object = field(default=None, init=False)
    _labels: Labels | None = field(default=None, init=False)

    def read(self, lesion: Lesion, grid: Geometry, *, name: str, frame_uid: str = "") -> Labels:
        """The mask of a lesion on `grid` (LPS).

        Args:
            frame_uid: DICOM frame of reference of the volume, where known.

        Raises:
            ImageError: no mask, or one that cannot be read or that has another grid or frame of reference.
        """
        path = lesion.mask
        if path is None:
            raise ImageError(name, "no mask", "a mask", "Give one in the lesions' table.")
        region = Region(lesion.roi, lesion.label) if is_dicom(path) else None
        if region is None and lesion.roi is not None and lesion.label is None:
            raise ImageError(
                name,
                "a region by name in a mask without names",
                "a label, or an ITK-SNAP label table for the study",
                "Give label, or label_table in the CT table.",
            )
        if self._labels is None or (path, region, grid) != self._key:
            self._labels = None  # freed before the next one is read
            self._labels = (
                self._file(path, grid, name) if region is None else self._region(path, region, grid, name, frame_uid)
            )
            self._key = (path, region, grid)
        label = lesion.label if region is None else None
        return Labels(self._labels.array, label, self._labels.warnings)

    def _file(self, path: Path, grid: Geometry, name: str) -> Labels:
        labels = read_labels(path, max_voxels=self.settings.max_voxels, name=name)
        array, note = on_grid(labels, grid, self.settings, name=name)
        return Labels(array, None, note)

    def _region(self, path: Path, region: Region, grid: Geometry, name: str, frame_uid: str) -> Labels:
        found = read_region(path, region, grid, max_voxels=self.settings.max_voxels, name=name)
        if frame_uid and found.frame_uid and frame_uid != found.frame_uid:
            raise ImageError(
                name,
                "regions in another DICOM frame of reference than the volume's",
                "regions that were drawn on this series or one registered to it",
                "Give the object that belongs to the series.",
            )
        if found.grid is grid:
            return Labels(found.mask, None, found.warnings)
        part = in_lps(found.mask, found.grid)
        placed = _placed(part, grid, self.settings.geometry_tolerance_mm, name)
        if placed is not None:
            return Labels(placed, None, found.warnings)
        array, note = on_grid(part, grid, self.settings, name=name)
        return Labels(array, None, (*found.warnings, *note))


def on_grid(
    labels: Volume, grid: Geometry, settings: RoisSettings, *, name: str
) -> tuple[npt.NDArray[Any], tuple[str, ...]]:
    """Labels (z, y, x) on `grid`, and a sentence where they had to be resampled (nearest neighbour).

    As they are where the grids agree within `geometry_tolerance_mm`; resampled where both reach equally far, all eight
    outer corners within `resample_tolerance_mm`.

    Raises:
        ImageError: the grids differ by more.
    """
    try:
        check_same_geometry(grid, labels.geometry, settings.geometry_tolerance_mm, name=name)
        return labels.array, ()
    except ImageError:
        apart = float(np.abs(labels.geometry.corners_mm(outer=True) - grid.corners_mm(outer=True)).max())
        if apart > settings.resample_tolerance_mm:
            raise
    resampled = sitk.Resample(
        _image(labels.array, labels.geometry),
        _image(np.zeros(grid.size_xyz[::-1], dtype=np.uint8), grid),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
    )
    return sitk.GetArrayFromImage(resampled), (f"mask resampled to the volume's grid (corners {apart:.3g} mm apart)",)


def _placed(part: Volume, grid: Geometry, tolerance_mm: float, name: str) -> npt.NDArray[np.uint8] | None:
    """A mask that covers some of the voxels of `grid`, on all of it; none where it has other voxels."""
    size = np.array(part.geometry.size_xyz)
    ends = grid.to_index(part.geometry.corners_mm())
    first, last = np.rint(ends[0]).astype(int), np.rint(ends[-1]).astype(int)
    off = np.abs(ends - np.rint(ends)).max(axis=0) * np.array(grid.spacing_mm)
    if (off > tolerance_mm).any() or (last - first + 1 != size).any():
        return None
    inside = np.argwhere(part.array)[:, ::-1] + first
    if (inside < 0).any() or (inside >= grid.size_xyz).any():
        raise ImageError(name, "a mask that reaches outside the volume", "a mask inside it", "Give this series' mask.")
    whole = np.zeros(grid.size_xyz[::-1], dtype=np.uint8)
    whole[inside[:, 2], inside[:, 1], inside[:, 0]] = 1
    return whole


def _image(array: npt.NDArray[Any], geometry: Geometry) -> Any:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(geometry.origin_mm)
    image.SetDirection(geometry.direction)
    return image

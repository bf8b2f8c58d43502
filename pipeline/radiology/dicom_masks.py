"""Regions of DICOM structure sets (RTSTRUCT) and segmentations (SEG) as masks on the grid of a CT volume.

Names of regions are compared, never quoted: they are free text of a header. pydicom reads structure sets and
scikit-image fills their contours; highdicom reads segmentations, which come in many encodings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import RTStructureSetStorage
from skimage.draw import polygon

from .dicom_header import HEADER_ERRORS, quiet_pydicom
from .formats import check_voxels, unreadable
from .geometry import FloatArray, Geometry, ImageError

MAX_BYTES = 1 << 30
"""Largest structure set or segmentation that is opened."""

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_TAGS = (
    "SOPClassUID",
    "StructureSetROISequence",
    "ROINumber",
    "ROIName",
    "ReferencedFrameOfReferenceUID",
    "ROIContourSequence",
    "ReferencedROINumber",
    "ContourSequence",
    "ContourGeometricType",
    "ContourData",
)
"""What is read of a structure set, at any depth; the references to images, one a contour, would take as long again."""
_OFF_PLANE = 0.25
"""Contours may leave the plane of their slice by this share of a slice."""


@dataclass(frozen=True)
class Region:
    """Which region of a DICOM object is meant: by name or number, by number, or the only one there is."""

    name: str | None
    number: int | None


@dataclass(frozen=True, eq=False)
class RegionMask:
    """One region as voxels."""

    mask: npt.NDArray[np.uint8]
    """(z, y, x) on `grid`."""
    grid: Geometry
    frame_uid: str
    """Frame of reference; it identifies, see `Volume.frame_uid`."""
    warnings: tuple[str, ...] = ()


def read_region(path: Path, region: Region, grid: Geometry, *, max_voxels: int, name: str) -> RegionMask:
    """One region of an RTSTRUCT, filled on `grid`, or of a SEG, on its own grid.

    Raises:
        ImageError: another DICOM object; damaged; no such region, or several and none named; contours that do not
            lie in slices of the grid or leave it; a segmentation without an even grid.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(name, f"{path.stat().st_size} bytes", f"at most {MAX_BYTES}", "Give one study's structures.")
    with _quiet():
        try:
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
            kind = str(data.get("SOPClassUID", ""))
            if kind == RTStructureSetStorage:
                contours, frame_uid = _contours(data, region, name)
                mask, notes = fill_contours(contours, grid, name=name)
                return RegionMask(mask, grid, frame_uid, notes)
            if kind in _SEGMENTATIONS:
                return _segment(path, region, max_voxels, name)
        except HEADER_ERRORS:
            raise unreadable(name, "a DICOM object that is damaged or lacks what a mask needs") from None
    raise ImageError(
        name, "a DICOM file that holds no regions", "an RTSTRUCT or SEG", "Correct the mask in the lesions' table."
    )


def fill_contours(
    contours: Sequence[FloatArray], grid: Geometry, *, name: str
) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    """Closed contours (n, 3) in mm to voxels (z, y, x) whose centres they enclose, and sentences on doubts.

    Of contours in one slice that enclose one another, every second one is a hole (even-odd rule).

    Raises:
        ImageError: contours that do not lie in slices of the grid, or reach outside.
    """
    index = [grid.to_index(points)[:, ::-1] for points in contours]  # z, y, x
    # slices are those of the scan: not always axial
    extents = np.array([np.ptp(points, axis=0) for points in index])
    axis = int(extents.max(axis=0).argmin())
    others = [other for other in range(3) if other != axis]
    shape = grid.size_xyz[::-1]
    mask = np.zeros(shape, dtype=np.uint8)
    planes = np.moveaxis(mask, axis, 0)
    means = np.array([points[:, axis].mean() for points in index])
    if float(extents[:, axis].max()) > _OFF_PLANE or float(np.abs(means - np.rint(means)).max()) > _OFF_PLANE:
        raise ImageError(
            name,
            "contours that do not lie in the slices of the volume",
            f"planes within {_OFF_PLANE:g} of a slice",
            "Give the structure set that was drawn on this series.",
        )
    slices = np.rint(means).astype(int)
    for number, points in zip(slices, index, strict=True):
        flat = points[:, others]
        if not 0 <= number < shape[axis] or flat.min() < -0.5 or (flat.max(axis=0) > np.array(planes.shape[1:])).any():
            raise ImageError(
                name, "contours outside the volume", "contours inside it", "Give the structure set of this series."
            )
        rows, columns = polygon(flat[:, 0], flat[:, 1], planes.shape[1:])  # type: ignore[no-untyped-call]
        planes[number, rows, columns] ^= 1
    between = int(slices.max() - slices.min() + 1 - np.unique(slices).size)
    return mask, (f"{between} slice(s) between contours have none",) if between else ()


def _contours(data: Any, region: Region, name: str) -> tuple[list[FloatArray], str]:
    """The closed contours of a region, and its frame of reference."""
    rois = {int(roi.ROINumber): roi for roi in data.StructureSetROISequence}
    number = _chosen({key: str(roi.get("ROIName", "")) for key, roi in rois.items()}, region, name)
    drawn = [item for item in data.ROIContourSequence if int(item.ReferencedROINumber) == number]
    parts = [part for item in drawn for part in item.get("ContourSequence", [])]
    closed = [_numbers(part) for part in parts if str(part.ContourGeometricType) in _CLOSED]
    points = [numbers.reshape(-1, 3) for numbers in closed if numbers.size >= 9]
    if not points:
        raise ImageError(name, "a region without closed contours", "an outlined lesion", "Choose another region.")
    if not all(np.isfinite(one).all() for one in points):
        raise ValueError("no numbers")
    return points, str(rois[number].get("ReferencedFrameOfReferenceUID", ""))


def _numbers(contour: Any) -> FloatArray:
    """Coordinates of a contour; as text they are parsed at once, since pydicom makes an object of each."""
    raw = contour.get_item("ContourData").value
    if isinstance(raw, bytes):
        raw = raw.decode("ascii").strip("\0 ").split("\\")
    return np.array(raw, dtype=float)


def _segment(path: Path, region: Region, max_voxels: int, name: str) -> RegionMask:
    """A segment, on the grid of the segmentation, which may hold only the slices that it needs."""
    from highdicom.seg import segread

    data = segread(path, lazy_frame_retrieval=True)
    described = [data.get_segment_description(number) for number in data.segment_numbers]
    number = _chosen({int(one.segment_number): str(one.segment_label) for one in described}, region, name)
    check_voxels(int(data.Rows) * int(data.Columns) * int(data.NumberOfFrames), max_voxels, name)
    try:
        volume = data.get_volume(segment_numbers=[number], rescale_fractional=True)
    except RuntimeError:
        raise unreadable(name, "a segmentation whose slices are uneven or damaged") from None
    steps = volume.affine[:3, [2, 1, 0]]  # of x, y, z; highdicom counts slices, rows, columns
    spacing = np.linalg.norm(steps, axis=0)
    array = np.asarray(volume.array)[..., 0] >= 0.5
    grid = Geometry(
        size_xyz=(array.shape[2], array.shape[1], array.shape[0]),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_mm=(float(volume.affine[0, 3]), float(volume.affine[1, 3]), float(volume.affine[2, 3])),
        direction=tuple(float(v) for v in (steps / spacing).ravel()),
    )
    return RegionMask(array.astype(np.uint8), grid, str(data.get("FrameOfReferenceUID", "")))


def _chosen(names: dict[int, str], region: Region, name: str) -> int:
    """The number of the region that is meant, among those of an object."""
    if region.name is not None:
        wanted = region.name.strip().casefold()
        found = [number for number, own in names.items() if own.strip().casefold() == wanted]
        if not found and wanted.isdecimal():
            found = [number for number in names if number == int(wanted)]
    else:
        found = [number for number in names if region.number in (None, number)]
    if len(found) == 1:
        return found[0]
    numbers = ", ".join(str(number) for number in sorted(names)[:20])
    raise ImageError(
        name,
        f"{len(found)} fitting region(s) among those with the numbers {numbers or '(none)'}",
        "exactly one region of the name (roi) or number (roi or label) in the lesions' table",
        "Correct roi or label.",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither pydicom nor highdicom says anything: both quote headers."""
    log = logging.getLogger("highdicom")
    before = log.level
    log.setLevel(logging.CRITICAL + 1)  # a level, since loggers below it do not inherit `disabled`
    try:
        with quiet_pydicom():
            yield
    finally:
        log.setLevel(before)

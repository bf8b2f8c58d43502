"""A DICOM folder to one series of slices on an even grid, from headers alone.

Only the tags named here are read. None of their text is kept or quoted: errors speak of counts and numbers.
"""

from __future__ import annotations

import logging
import math
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.uid import UID

from .formats import check_voxels, unreadable
from .geometry import FloatArray, Geometry, ImageError, Triple

_TAGS = [
    "SOPClassUID",
    "SeriesInstanceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
]
_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_HEADER_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    struct.error,
    InvalidDicomError,
    BytesLengthException,
)
_MIXED_COSINE = 0.05


@dataclass(frozen=True)
class Series:
    """The slices of one series in the order of the grid's z axis."""

    files: tuple[Path, ...]
    geometry: Geometry
    """The grid as stored: x along the rows, y along the columns, z from the first file to the last."""
    dtype: Literal["int16", "float32"]
    """int16 where every value that the headers allow fits into it after rescaling."""


@dataclass(frozen=True)
class _Image:
    """A DICOM file with pixels, of any series."""

    file: Path
    series_uid: str
    header: Any


@dataclass(frozen=True)
class _Slice:
    """A slice of the chosen series."""

    file: Path
    rows: int
    columns: int
    position_mm: Triple
    row: Triple
    """Direction in which the column number grows."""
    column: Triple
    spacing_xy_mm: tuple[float, float]
    values: tuple[float, float]
    """Lowest and highest value that can be stored, rescaled."""
    whole: bool
    """Whether slope and intercept are whole numbers."""


def read_series(
    folder: Path, *, series_uid: str | None, max_voxels: int, slice_tolerance: float, name: str = "volume"
) -> Series:
    """The one image series of a DICOM folder, or the one that `series_uid` names, sorted along its normal.

    Files of the folder itself are looked at, not those of folders in it. Structure sets and other objects without
    pixels are passed over, and so is what belongs to other series, whatever its state.

    Args:
        slice_tolerance: largest distance of a slice from its place on an even, straight grid, in voxels.

    Raises:
        ImageError: no series or several; damaged files; slices missing, doubled, uneven, tilted, of different
            sizes or orientations; a single slice; colour; too many voxels.
    """
    with _quiet_pydicom():
        images = [_read_header(file, name) for file in sorted(folder.iterdir()) if file.is_file()]
        chosen = [_slice(image, name) for image in _choose([one for one in images if one], series_uid, name)]
    first = chosen[0]
    _check_alike(chosen, name)
    check_voxels(len(chosen) * first.rows * first.columns, max_voxels, name)
    normal = np.cross(first.row, first.column)
    chosen = sorted(chosen, key=lambda one: float(np.dot(one.position_mm, normal)))
    geometry = _grid(chosen, slice_tolerance, name)
    low, high = min(one.values[0] for one in chosen), max(one.values[1] for one in chosen)
    small = all(one.whole for one in chosen) and low >= -(2**15) and high < 2**15
    return Series(tuple(one.file for one in chosen), geometry, "int16" if small else "float32")


@contextmanager
def _quiet_pydicom() -> Iterator[None]:
    """No warnings and no log of pydicom, which quote the values that they complain about."""
    log = logging.getLogger("pydicom")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _read_header(file: Path, name: str) -> _Image | None:
    """The header of one file; none for what is no DICOM image."""
    named_dicom = file.suffix.lower() in _DICOM_ENDINGS
    try:
        with file.open("rb") as stream:
            start = stream.read(132)
            stream.seek(0)
            if start[128:] != b"DICM" and start[:2] != b"\x08\x00":
                if named_dicom:
                    raise unreadable(name, "a .dcm file in the folder that is no DICOM")
                return None
            header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_TAGS, force=True)
        series_uid = str(header.get("SeriesInstanceUID", ""))
        kinds = [header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID")]
        image = "Rows" in header or any("Image Storage" in UID(str(kind)).name for kind in kinds if kind)
    except _HEADER_ERRORS:
        raise _bad_header(name) from None
    if not image and kinds == [None, None] and named_dicom:
        raise _bad_header(name)
    return _Image(file, series_uid, header) if image else None


def _bad_header(name: str) -> ImageError:
    return ImageError(
        name,
        "a DICOM image in the folder whose header is damaged, or lacks position, orientation, spacing or size",
        "slices that say where they lie in the patient",
        "Export the series again, or move what does not belong to it out of the folder.",
    )


def _slice(image: _Image, name: str) -> _Slice:
    """What the header of an image of the chosen series says, checked."""
    header = image.header
    try:
        samples, frames = int(header.get("SamplesPerPixel", 1)), int(header.get("NumberOfFrames", 1) or 1)
        if samples == 1 and frames == 1:
            return _checked_slice(image.file, header)
    except _HEADER_ERRORS:
        raise _bad_header(name) from None
    if samples != 1:
        raise ImageError(name, "colour slices", "grey slices", "Choose the CT series itself, not a picture of it.")
    raise ImageError(
        name, "a multi-frame DICOM file", "one file a slice", "Export it as classic CT, or convert it to NIfTI."
    )


def _checked_slice(file: Path, header: Any) -> _Slice:
    orientation = tuple(float(v) for v in header.ImageOrientationPatient)
    x, y, z = (float(v) for v in header.ImagePositionPatient)
    spacing_y, spacing_x = (float(v) for v in header.PixelSpacing)
    slope, intercept = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    bits, signed = int(header.get("BitsStored", 16)), int(header.get("PixelRepresentation", 0))
    stored = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    ends = sorted(slope * value + intercept for value in stored)
    numbers = [x, y, z, *orientation, spacing_x, spacing_y, slope, intercept]
    if len(orientation) != 6 or not all(map(math.isfinite, numbers)) or min(spacing_x, spacing_y) <= 0:
        raise ValueError("not a place in the patient")
    row, column = _square_axes(orientation)
    return _Slice(
        file=file,
        rows=int(header.Rows),
        columns=int(header.Columns),
        position_mm=(x, y, z),
        row=row,
        column=column,
        spacing_xy_mm=(spacing_x, spacing_y),
        values=(ends[0], ends[1]),
        whole=slope.is_integer() and intercept.is_integer(),
    )


@lru_cache(maxsize=64)
def _square_axes(orientation: tuple[float, ...]) -> tuple[Triple, Triple]:
    """Row and column direction, of length 1 and at right angles; headers round them."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        raise ValueError("not two unit vectors at right angles")
    row = row / np.linalg.norm(row)
    column = column - (row @ column) * row
    column = column / np.linalg.norm(column)
    return (float(row[0]), float(row[1]), float(row[2])), (float(column[0]), float(column[1]), float(column[2]))


def _choose(images: list[_Image], series_uid: str | None, name: str) -> list[_Image]:
    """The images of the one series that is meant."""
    found = {one.series_uid for one in images}
    if not found:
        raise ImageError(
            name, "a folder without DICOM images", "the slices of one CT series", "Correct the path in the table."
        )
    if series_uid is None and len(found) > 1:
        raise ImageError(
            name,
            f"{len(found)} image series in the folder",
            "one, or a series_uid that says which",
            "Give the SeriesInstanceUID in the column series_uid of the CT table.",
        )
    if series_uid is not None and series_uid not in found:
        raise ImageError(
            name,
            f"{len(found)} image series in the folder, none with the series_uid of the CT table",
            "a series with it",
            "Correct series_uid or the path.",
        )
    return [one for one in images if series_uid is None or one.series_uid == series_uid]


def _check_alike(slices: list[_Slice], name: str) -> None:
    """Refuse single slices, and slices that cannot form one block."""
    first = slices[0]
    if len(slices) < 2:
        raise ImageError(
            name, "a series of one slice", "a volume of at least two slices", "Choose another series than this one."
        )
    if any((one.rows, one.columns) != (first.rows, first.columns) for one in slices):
        raise ImageError(
            name,
            "slices of different numbers of rows or columns in one series",
            "slices of one size",
            "Keep the slices of one scan in the folder.",
        )
    cosines = np.array([[*one.row, *one.column] for one in slices])
    if float(np.abs(cosines - cosines[0]).max()) > _MIXED_COSINE:
        raise ImageError(
            name,
            "slices of different orientations in one series",
            "parallel slices",
            "Take localisers and reformatted slices out of the folder.",
        )


def _grid(slices: list[_Slice], tolerance: float, name: str) -> Geometry:
    """The even grid through sorted slices; refuses doubled, missing, uneven and tilted ones."""
    first, last, count = slices[0], slices[-1], len(slices)
    row, column = np.array(first.row), np.array(first.column)
    normal = np.cross(row, column)
    positions = np.array([one.position_mm for one in slices])
    gaps = np.diff(positions @ normal)
    gap = float(np.dot(np.subtract(last.position_mm, first.position_mm), normal)) / (count - 1)
    doubled = int((gaps <= tolerance * float(np.median(gaps))).sum())
    if gap <= 0 or doubled:
        raise ImageError(
            name,
            f"{doubled or count - 1} slice(s) at the place of another one",
            "one slice at each place",
            "Keep one copy, or one phase, in the folder.",
        )
    apart = _distances(slices, gap, np.stack([row, column, normal]))
    if float(apart[:, :, 2].max()) > tolerance:
        raise ImageError(
            name,
            f"slices that are missing or uneven: gaps from {gaps.min():.3f} to {gaps.max():.3f} mm",
            f"even gaps; every slice within {tolerance:g} of a gap from its place",
            "Export the complete series.",
        )
    if float(apart.max()) > tolerance:
        sheared = float(np.linalg.norm(np.cross(positions[-1] - positions[0], normal)))
        tilt_deg = float(np.degrees(np.arctan2(sheared, gap * (count - 1))))
        raise ImageError(
            name,
            f"slices that are shifted or turned against each other (gantry tilt {tilt_deg:.1f}°)",
            f"slices stacked along their normal, every one within {tolerance:g} of a voxel",
            "Resample the series to an upright grid and give it as NIfTI or NRRD.",
        )
    return Geometry(
        size_xyz=(first.columns, first.rows, count),
        spacing_mm=(*first.spacing_xy_mm, gap),
        origin_mm=first.position_mm,
        direction=tuple(float(v) for v in np.stack([row, column, normal], axis=1).ravel()),
    )


def _distances(slices: list[_Slice], gap: float, axes: npt.NDArray[np.float64]) -> FloatArray:
    """How far three corners of each slice lie from the grid, (slice, corner, x y z), in voxels."""
    first = slices[0]
    size = np.array([*first.spacing_xy_mm, gap])
    found, expected = [], []
    for number, one in enumerate(slices):
        places = []
        for of in (one, first):
            along = np.array(of.row) * of.spacing_xy_mm[0] * (of.columns - 1)
            down = np.array(of.column) * of.spacing_xy_mm[1] * (of.rows - 1)
            start = np.array(of.position_mm) + (number * gap * axes[2] if of is first else 0)
            places.append([start, start + along, start + down])
        found.append(places[0])
        expected.append(places[1])
    return np.asarray(np.abs((np.array(found) - np.array(expected)) @ axes.T) / size)

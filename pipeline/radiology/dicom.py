"""A DICOM folder to one series of slices on an even grid, from headers alone.

Only the tags named here are read. None of their text is kept or quoted: errors speak of counts and numbers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from pydicom.uid import UID

from .dicom_header import HEADER_ERRORS, Header, is_dicom, quiet_pydicom, read_header
from .formats import check_voxels, unreadable
from .geometry import FloatArray, Geometry, ImageError, Triple

_DICOM_ENDINGS = (".dcm", ".dicom", ".ima")
_UID_SIGNS = "0123456789."
_MIXED_COSINE = 0.05
_MAX_TILT_DEG = 35.0


@dataclass(frozen=True)
class Pixels:
    """Where the pixels of a file lie that are not compressed, and how they are read."""

    offset: int
    bits: int
    signed: bool
    slope: float
    intercept: float


@dataclass(frozen=True)
class Series:
    """The slices of one series in the order of the grid's z axis."""

    files: tuple[Path, ...]
    geometry: Geometry
    """The grid as stored: x along the rows, y along the columns, z from the first file to the last; with a tilted
    gantry, z is not at right angles to x and y."""
    dtype: Literal["int16", "float32"]
    """int16 where every value that the headers allow fits into it after rescaling."""
    pixels: tuple[Pixels, ...] | None
    """For each file, where no file is compressed."""
    frame_uid: str
    """Frame of reference, empty where unknown. It identifies: for comparison only, never to be kept."""
    warnings: tuple[str, ...] = ()
    """Sentences on what was chosen or left out."""


@dataclass(frozen=True)
class _Image:
    """A DICOM file with pixels, of any series."""

    file: Path
    series_uid: str
    header: Header

    @property
    def localiser(self) -> bool:
        """Whether it is a scout view, on which slices are planned."""
        return "LOCALIZER" in self.header.values.get("ImageType", ())


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
    pixels: Pixels | None
    frame_uid: str


def read_series(
    folder: Path, *, series_uid: str | None, max_voxels: int, slice_tolerance: float, name: str = "volume"
) -> Series:
    """The one CT series of a DICOM folder, or the one that `series_uid` names, sorted along its normal.

    Files of the folder itself are looked at, not those of folders in it. Structure sets and other objects without
    pixels are passed over, and so is what belongs to other series, whatever its state. Without `series_uid`,
    localisers, colour pictures and single images are no candidates; exactly one series must remain. Of slices that
    occur twice with the same pixels one is kept.

    Args:
        slice_tolerance: largest distance of a slice from its place on an even, straight grid, in voxels.

    Raises:
        ImageError: no series or several; damaged files; slices missing, uneven, of different sizes or orientations, or
            two different ones at a place; a localiser; a single slice; colour; too many voxels.
    """
    with quiet_pydicom():
        images = [_read_image(file, name) for file in sorted(folder.iterdir()) if file.is_file()]
        if not any(images):
            raise _no_images(folder, name)
        chosen, notes = _choose([one for one in images if one], series_uid, name)
        slices = [_slice(image, name) for image in chosen]
        first = slices[0]
        _check_alike(slices, name)
        normal = np.cross(first.row, first.column)
        slices = sorted(slices, key=lambda one: float(np.dot(one.position_mm, normal)))
        slices, dropped = _without_copies(slices, name)
    check_voxels(len(slices) * first.rows * first.columns, max_voxels, name)
    if dropped:
        notes.append(f"{dropped} slice(s) that occur twice with the same pixels: one of each kept")
    geometry, tilt_deg = _grid(slices, slice_tolerance, name)
    if tilt_deg:
        notes.append(f"gantry tilted by {tilt_deg:.1f}°: slices shifted onto an upright grid")
    low, high = min(one.values[0] for one in slices), max(one.values[1] for one in slices)
    small = all(one.whole for one in slices) and low >= -(2**15) and high < 2**15
    pixels = tuple(one.pixels for one in slices if one.pixels is not None)
    return Series(
        files=tuple(one.file for one in slices),
        geometry=geometry,
        dtype="int16" if small else "float32",
        pixels=pixels if len(pixels) == len(slices) else None,
        frame_uid=first.frame_uid,
        warnings=tuple(notes),
    )


def _read_image(file: Path, name: str) -> _Image | None:
    """The header of one file; none for what is no DICOM image."""
    named_dicom = file.suffix.lower() in _DICOM_ENDINGS
    try:
        header = read_header(file)
        if header is None:
            if named_dicom:
                raise unreadable(name, "a .dcm file in the folder that is no DICOM")
            return None
        values = header.values
        kinds = [values.get("SOPClassUID"), values.get("MediaStorageSOPClassUID")]
        image = "Rows" in values or any("Image Storage" in UID(kind).name for kind in kinds if kind)
    except HEADER_ERRORS:
        raise _bad_header(name) from None
    series_uid = values.get("SeriesInstanceUID", "")
    if (not image and kinds == [None, None] and named_dicom) or set(series_uid) - set(_UID_SIGNS):
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
    values = image.header.values
    try:
        samples, frames = values.get("SamplesPerPixel", 1), values.get("NumberOfFrames", (1,))[0]
        if samples == 1 and frames <= 1 and not image.localiser:
            return _checked_slice(image)
    except HEADER_ERRORS:
        raise _bad_header(name) from None
    if image.localiser:
        raise ImageError(
            name, "a localiser (scout view)", "the slices of a CT series", "Give the series that was planned on it."
        )
    if samples != 1:
        raise ImageError(name, "colour slices", "grey slices", "Choose the CT series itself, not a picture of it.")
    raise ImageError(
        name, "a multi-frame DICOM file", "one file a slice", "Export it as classic CT, or convert it to NIfTI."
    )


def _checked_slice(image: _Image) -> _Slice:
    values = image.header.values
    orientation = values["ImageOrientationPatient"]
    x, y, z = values["ImagePositionPatient"]
    spacing_y, spacing_x = values["PixelSpacing"]
    slope, intercept = values.get("RescaleSlope", (1.0,))[0], values.get("RescaleIntercept", (0.0,))[0]
    bits, signed = values.get("BitsStored", 16), values.get("PixelRepresentation", 0) == 1
    stored = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
    ends = sorted(slope * value + intercept for value in stored)
    numbers = [x, y, z, *orientation, spacing_x, spacing_y, slope, intercept]
    if len(orientation) != 6 or not all(map(math.isfinite, numbers)) or min(spacing_x, spacing_y) <= 0:
        raise ValueError("not a place in the patient")
    row, column = _square_axes(orientation)
    place, pixels = image.header.pixels, None
    plain = 1 <= bits <= 16 and values.get("HighBit", bits - 1) == bits - 1
    if place and plain and place[1] >= 2 * values["Rows"] * values["Columns"]:
        pixels = Pixels(place[0], bits, signed, slope, intercept)
    return _Slice(
        file=image.file,
        rows=values["Rows"],
        columns=values["Columns"],
        position_mm=(x, y, z),
        row=row,
        column=column,
        spacing_xy_mm=(spacing_x, spacing_y),
        values=(ends[0], ends[1]),
        whole=slope.is_integer() and intercept.is_integer(),
        pixels=pixels,
        frame_uid=values.get("FrameOfReferenceUID", ""),
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


def _no_images(folder: Path, name: str) -> ImageError:
    """A folder without images; folders are not named, for they may be called after a patient."""
    inside = [one for one in folder.iterdir() if one.is_dir()]
    filled = sum(any(is_dicom(file) for file in one.iterdir() if file.is_file()) for one in inside)
    found = "a folder without DICOM images"
    if not filled:
        return ImageError(name, found, "the slices of one CT series", "Correct the path in the table.")
    found += f", but with DICOM files in {filled} of the folders in it"
    remedy = "Give the folder that the slices lie in, not the one above it."
    return ImageError(name, found, "the slices of one CT series", remedy)


def _choose(images: list[_Image], series_uid: str | None, name: str) -> tuple[list[_Image], list[str]]:
    """The images of the one series that is meant, and sentences on the choice."""
    series: dict[str, list[_Image]] = defaultdict(list)
    for image in images:
        series[image.series_uid].append(image)
    if series_uid is not None:
        if series_uid in series:
            return series[series_uid], []
        raise ImageError(
            name,
            f"{len(series)} image series in the folder, none with the series_uid of the CT table",
            "a series with it",
            "Correct series_uid or the path.",
        )
    if len(series) == 1:
        return images, []
    # An image that does not say which series it belongs to may be a slice of any of them.
    volumes = [members for members in series.values() if _may_be_volume(members)]
    if "" in series or len(volumes) != 1:
        raise ImageError(
            name,
            f"{len(series)} image series in the folder, {len(volumes)} of which may be volumes",
            "one, or a series_uid that says which",
            "Give the SeriesInstanceUID in the column series_uid of the CT table.",
        )
    return volumes[0], [f"{len(series)} image series in the folder: the only one that is a volume was taken"]


def _may_be_volume(images: list[_Image]) -> bool:
    """Whether a series is a candidate where none is named: several grey images that are no localisers."""
    grey = all(image.header.values.get("SamplesPerPixel", 1) == 1 for image in images)
    return len(images) > 1 and grey and not any(image.localiser for image in images)


def _without_copies(slices: list[_Slice], name: str) -> tuple[list[_Slice], int]:
    """Sorted slices without exact copies, and how many these were; different ones at a place are left to `_grid`."""
    kept, dropped = slices[:1], 0
    for one in slices[1:]:
        if np.allclose(one.position_mm, kept[-1].position_mm, rtol=0, atol=1e-3) and _same_pixels(one, kept[-1], name):
            dropped += 1
        else:
            kept.append(one)
    return kept, dropped


def _same_pixels(a: _Slice, b: _Slice, name: str) -> bool:
    if a.values != b.values or (a.row, a.column, a.spacing_xy_mm) != (b.row, b.column, b.spacing_xy_mm):
        return False
    try:
        first, second = (pydicom.dcmread(one.file, specific_tags=["PixelData"], force=True) for one in (a, b))
        return bool(first.PixelData == second.PixelData)
    except HEADER_ERRORS:
        raise unreadable(name, "a series with a slice whose pixels are damaged or cut short") from None


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


def _grid(slices: Sequence[_Slice], tolerance: float, name: str) -> tuple[Geometry, float]:
    """The even grid through sorted slices, and its tilt in degrees; refuses doubled, missing and uneven slices."""
    first, count = slices[0], len(slices)
    row, column = np.array(first.row), np.array(first.column)
    normal = np.cross(row, column)
    axes = np.stack([row, column, normal])
    positions = np.array([one.position_mm for one in slices])
    gaps = np.diff(positions @ normal)
    doubled = int((gaps <= tolerance * float(np.median(gaps))).sum()) if count > 1 else 0
    if count < 2 or doubled or float(gaps.sum()) <= 0:
        raise ImageError(
            name,
            f"{doubled or count - 1} slice(s) at the place of another one with other pixels",
            "one slice at each place",
            "Keep one phase or reconstruction in the folder, or name its series in the column series_uid.",
        )
    step = (positions[-1] - positions[0]) / (count - 1)
    gap = float(step @ normal)
    apart = _distances(slices, gap * normal, axes)
    if float(apart[:, :, 2].max()) > tolerance:
        raise ImageError(
            name,
            f"slices that are missing or uneven: gaps from {gaps.min():.3f} to {gaps.max():.3f} mm",
            f"even gaps; every slice within {tolerance:g} of a gap from its place",
            "Export the complete series.",
        )
    tilted = float(apart.max()) > tolerance
    tilt_deg = float(np.degrees(np.arccos(min(1.0, gap / float(np.linalg.norm(step)))))) if tilted else 0.0
    if tilted and (tilt_deg > _MAX_TILT_DEG or float(_distances(slices, step, axes).max()) > tolerance):
        raise ImageError(
            name,
            f"slices that are shifted or turned against each other (by {tilt_deg:.1f}° from first to last)",
            f"slices stacked evenly, every one within {tolerance:g} of a voxel, tilted by at most {_MAX_TILT_DEG:g}°",
            "Resample the series to an upright grid and give it as NIfTI or NRRD.",
        )
    along = step if tilted else gap * normal
    length = float(np.linalg.norm(along))
    geometry = Geometry(
        size_xyz=(first.columns, first.rows, count),
        spacing_mm=(*first.spacing_xy_mm, length),
        origin_mm=first.position_mm,
        direction=tuple(float(v) for v in np.stack([row, column, along / length], axis=1).ravel()),
    )
    return geometry, tilt_deg


def _distances(slices: Sequence[_Slice], step: FloatArray, axes: FloatArray) -> FloatArray:
    """How far three corners of each slice lie from the grid, (slice, corner, x y z), in voxels."""
    first = slices[0]
    size = np.array([*first.spacing_xy_mm, float(step @ axes[2])])
    found = np.array([_corners(one, np.array(one.position_mm)) for one in slices])
    expected = np.array([_corners(first, first.position_mm + number * step) for number in range(len(slices))])
    return np.asarray(np.abs((found - expected) @ axes.T) / size)


def _corners(of: _Slice, start: FloatArray) -> FloatArray:
    along = np.array(of.row) * of.spacing_xy_mm[0] * (of.columns - 1)
    down = np.array(of.column) * of.spacing_xy_mm[1] * (of.rows - 1)
    return np.stack([start, start + along, start + down])

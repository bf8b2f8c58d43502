"""CT volumes and label masks from DICOM folders, NIfTI, NRRD and MetaImage, in LPS order.

Everything that can be known from headers is checked before a voxel is read. Of a header, only the grid is kept.
ITK is told to be silent: what it says names paths and quotes headers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from ...config import RoisSettings
from .dicom import Pixels, Series, read_series
from .formats import check_file, check_voxels, image_io, not_finite, unreadable
from .geometry import Geometry, ImageError, Triple, lps_axes

SLICE_TOLERANCE: float = RoisSettings().slice_tolerance
"""Default of `rois.slice_tolerance`."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume in LPS order: array axes z, y, x go towards the head, the back, and the left of the patient."""

    array: npt.NDArray[Any]
    """(z, y, x). Intensities: int16, or float32 where int16 does not hold them, HU. Labels: the file's integer type."""
    geometry: Geometry
    """The grid of `array`."""
    stored: Geometry
    """The grid of the file, whose indices boxes in voxels count."""
    warnings: tuple[str, ...] = ()
    """Sentences on what was chosen, left out or resampled in reading."""
    frame_uid: str = ""
    """DICOM frame of reference, empty where unknown. It identifies: for comparison only, never to be kept."""

    @property
    def spacing_mm(self) -> Triple:
        """Distance of voxel centres along x, y, z."""
        return self.geometry.spacing_mm

    @property
    def origin_mm(self) -> Triple:
        """Centre of voxel (0, 0, 0), LPS."""
        return self.geometry.origin_mm

    @property
    def direction(self) -> tuple[float, ...]:
        """Nine cosines, row-major; near the identity unless the grid is oblique."""
        return self.geometry.direction


@dataclass(frozen=True)
class VolumeHeader:
    """What a volume is, before a voxel is read."""

    stored: Geometry
    """The grid of the file; see `Volume.stored`."""
    frame_uid: str = ""
    """See `Volume.frame_uid`."""


def read_volume(
    path: Path,
    *,
    max_voxels: int,
    series_uid: str | None = None,
    slice_tolerance: float = SLICE_TOLERANCE,
    name: str = "volume",
) -> Volume:
    """A CT volume from a DICOM folder or a file, in LPS order.

    Args:
        max_voxels: more are refused from the header, before any is read.
        series_uid: which series of a folder; needed when it holds several.
        slice_tolerance: see `dicom.read_series`.
        name: what the volume is called in errors.

    Raises:
        ImageError: the volume cannot be used; no file name and no header text in the message.
    """
    if path.is_dir():
        series = read_series(
            path, series_uid=series_uid, max_voxels=max_voxels, slice_tolerance=slice_tolerance, name=name
        )
        stored, array = series.geometry, _read_slices(series, name)
        volume = in_lps(_upright(array, stored), stored)
        return replace(volume, warnings=series.warnings, frame_uid=series.frame_uid)
    stored, raw = _read_file(path, max_voxels, name)
    array = _as_intensities(raw)
    _check_finite(array, name)
    return in_lps(array, stored)


def read_labels(path: Path, *, max_voxels: int, name: str = "mask") -> Volume:
    """A label mask from a NIfTI, NRRD or MetaImage file, in LPS order; labels are whole numbers.

    Raises:
        ImageError: as in `read_volume`; or values that are not whole numbers.
    """
    stored, raw = _read_file(path, max_voxels, name)
    if raw.dtype.kind == "f":
        whole = raw.astype(np.int32, casting="unsafe") if np.isfinite(raw).all() and np.abs(raw).max() < 2**31 else None
        if whole is None or not np.array_equal(whole, raw):
            raise ImageError(
                name, "values that are not whole numbers", "labels", "Give a label mask, not an image or a probability."
            )
        raw = whole
    return in_lps(raw, stored)


def read_header(
    path: Path,
    *,
    max_voxels: int,
    series_uid: str | None = None,
    slice_tolerance: float = SLICE_TOLERANCE,
    name: str = "volume",
) -> VolumeHeader:
    """What the header of a volume or mask says, checked as far as a header goes.

    Raises:
        ImageError: as in `read_volume`.
    """
    if path.is_dir():
        series = read_series(
            path, series_uid=series_uid, max_voxels=max_voxels, slice_tolerance=slice_tolerance, name=name
        )
        return VolumeHeader(series.geometry, series.frame_uid)
    check_file(path, max_voxels, name, voxels=False)
    with _silent_itk():
        return VolumeHeader(_file_geometry(_reader(image_io(path, name), path), max_voxels, name))


def in_lps(stored_zyx: npt.NDArray[Any], stored: Geometry) -> Volume:
    """The volume of an array (z, y, x) on the upright grid of `stored`."""
    grid = stored.upright()
    turned = lps_axes(grid.direction).apply(stored_zyx)
    return Volume(np.ascontiguousarray(turned), grid.to_lps(), stored)


@contextmanager
def _silent_itk() -> Iterator[None]:
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


def _reader(io: str, path: Path) -> Any:
    """ITK's reader for one file, of one thread; the format is the ending's, never guessed from the content."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(io)
    reader.SetNumberOfThreads(1)
    reader.SetFileName(str(path))
    return reader


def _read_file(path: Path, max_voxels: int, name: str) -> tuple[Geometry, npt.NDArray[Any]]:
    """Grid and voxels (z, y, x) of a file, both as stored."""
    if path.is_dir():
        raise ImageError(name, "a folder", "a file", "Give a NIfTI, NRRD or MetaImage file.")
    check_file(path, max_voxels, name)
    with _silent_itk():
        reader = _reader(image_io(path, name), path)
        stored = _file_geometry(reader, max_voxels, name)
        try:
            return stored, sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise unreadable(name) from None


def _file_geometry(reader: Any, max_voxels: int, name: str) -> Geometry:
    """The grid that a header states; refuses what is no grey 3-D volume."""
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise unreadable(name) from None
    size, parts = reader.GetSize(), reader.GetNumberOfComponents()
    if len(size) != 3 or parts != 1:
        raise ImageError(
            name,
            f"{len(size)} dimensions and {parts} value(s) a voxel",
            "3 dimensions and one value a voxel",
            "Give one grey volume: no time series, no colour.",
        )
    if min(size) < 2:
        raise ImageError(
            name,
            f"{size[0]} × {size[1]} × {size[2]} voxels, a single slice",
            "a volume of at least two slices",
            "Give the whole series.",
        )
    check_voxels(math.prod(size), max_voxels, name)
    spacing, origin, direction = reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()
    if not np.isfinite([*spacing, *origin, *direction]).all() or min(spacing) <= 0:
        raise unreadable(name, "a header whose spacing or origin is no number")
    return Geometry(size, spacing, origin, direction)


def _read_slices(series: Series, name: str) -> npt.NDArray[Any]:
    """Rescaled voxels (z, y, x) of a series, in the order of its files."""
    return _itk_slices(series, name) if series.pixels is None else _plain_slices(series, series.pixels, name)


def _plain_slices(series: Series, pixels: Iterable[Pixels], name: str) -> npt.NDArray[Any]:
    """Slices that are not compressed, straight from the files: their headers have been read already."""
    columns, rows, count = series.geometry.size_xyz
    array = np.empty((count, rows, columns), dtype=series.dtype)
    for plane, file, at in zip(array, series.files, pixels, strict=True):
        try:
            raw = np.fromfile(file, dtype="<i2" if at.signed else "<u2", count=rows * columns, offset=at.offset)
        except OSError:
            raise unreadable(name, "a series with a slice that cannot be read") from None
        if raw.size != rows * columns:
            raise unreadable(name, "a series with a slice that is cut short")
        if at.bits < 16:
            # what lies above the stored bits is no intensity (old overlays); a sign is carried up
            raw = (raw << (16 - at.bits)) >> (16 - at.bits)
        raw = raw.reshape(rows, columns)
        if series.dtype == "int16" and max(abs(at.slope), abs(at.intercept)) < 2**15:
            # 16-bit arithmetic wraps around, and the result is known to fit
            np.multiply(raw.view(np.int16), np.int16(at.slope), out=plane)
            np.add(plane, np.int16(at.intercept), out=plane)
        else:
            plane[...] = raw * at.slope + at.intercept
    return array


def _itk_slices(series: Series, name: str) -> npt.NDArray[Any]:
    """Slices that GDCM has to decode."""
    columns, rows, count = series.geometry.size_xyz
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetNumberOfThreads(1)
    reader.SetOutputPixelType(sitk.sitkInt16 if series.dtype == "int16" else sitk.sitkFloat32)
    reader.SetFileNames([str(file) for file in series.files])
    with _silent_itk():
        try:
            array = sitk.GetArrayFromImage(reader.Execute())
        except RuntimeError:
            raise unreadable(name, "a series with a slice whose pixels are damaged or contradict its header") from None
    if array.shape != (count, rows, columns):
        raise unreadable(name, "a series whose slices contradict their headers")
    return np.asarray(array)


def _upright(array: npt.NDArray[Any], stored: Geometry) -> npt.NDArray[Any]:
    """Slices (z, y, x) of a sheared grid on the upright one, each shifted in its plane, linear in between; around
    them the lowest intensity."""
    upright = stored.upright()
    if upright is stored:
        return array
    fill = array.min()
    (x_size, y_size, count), (old_y, old_x) = upright.size_xyz, array.shape[1:]
    result = np.empty((count, y_size, x_size), dtype=array.dtype)
    for plane, target, (x, y) in zip(array, result, stored.places_xy(), strict=True):
        canvas = np.full(target.shape, fill, dtype=np.float32)
        canvas[:old_y, :old_x] = plane
        shifted = ndimage.shift(canvas, (y, x), order=1, mode="constant", cval=float(fill))
        target[...] = np.rint(shifted) if target.dtype.kind == "i" else shifted
    return result


def _as_intensities(raw: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """int16 where it holds every value of an integer image, float32 otherwise."""
    if raw.dtype.kind in "iu" and raw.min() >= -(2**15) and raw.max() < 2**15:
        return raw.astype(np.int16, copy=False)
    return raw.astype(np.float32, copy=False)


def _check_finite(array: npt.NDArray[Any], name: str) -> None:
    """Refuse NaN and infinities; slice by slice, to need no second array."""
    if array.dtype.kind == "f" and (bad := sum(int((~np.isfinite(plane)).sum()) for plane in array)):
        raise not_finite(name, bad)

"""Volume files before ITK opens them: complete, in one piece, and no larger than what was announced.

ITK fills the missing end of a cut NIfTI file with zeros, turns its NaN into zeros, and says nothing of either; a header
of NRRD or MetaImage may name any other file as its data. All of this is found here: from the header alone, but for
compressed and floating-point NIfTI, which need one pass through the file.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import ImageError

IMAGE_IOS: Mapping[str, str] = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
"""Accepted endings of volume files, and the reader of ITK for each."""

_HEADER_LIMIT = 1 << 20
_BLOCK = 1 << 20
_META_BYTES = {
    "MET_CHAR": 1,
    "MET_UCHAR": 1,
    "MET_SHORT": 2,
    "MET_USHORT": 2,
    "MET_INT": 4,
    "MET_UINT": 4,
    "MET_LONG_LONG": 8,
    "MET_ULONG_LONG": 8,
    "MET_FLOAT": 4,
    "MET_DOUBLE": 8,
}

_NIFTI_TYPES = {
    2: "u1",
    256: "i1",
    4: "i2",
    512: "u2",
    8: "i4",
    768: "u4",
    1024: "i8",
    1280: "u8",
    16: "f4",
    64: "f8",
}
"""Grey data types of NIfTI-1."""


def image_io(path: Path, name: str) -> str:
    """ITK's reader for a file, by its ending.

    Raises:
        ImageError: the ending is none of `IMAGE_IOS`.
    """
    for ending, reader in IMAGE_IOS.items():
        if path.name.lower().endswith(ending):
            return reader
    raise ImageError(
        name,
        f"a file that ends in {path.suffix[:20] or 'nothing'!r}",
        f"a DICOM folder or a file that ends in {', '.join(IMAGE_IOS)}",
        "Convert it, or correct the table.",
    )


def data_file(path: Path, name: str = "volume") -> Path | None:
    """The second file of a `.mhd` header, which holds its voxels; none for every other file.

    Raises:
        ImageError: the header cannot be read, or its data file is not one plain name in the same folder.
    """
    if not path.name.lower().endswith(".mhd"):
        return None
    target = _meta_header(path, name)[0].get("ElementDataFile", "")
    if not target or target[:4] in ("LOCA", "LIST") or target[0] == "." or any(mark in target for mark in '/\\%: "'):
        raise ImageError(
            name,
            "a MetaImage header without one plain data file beside it",
            "ElementDataFile to be the name of one file in the same folder",
            "Write it as .mha, which keeps everything in one file.",
        )
    return path.with_name(target)


def check_file(path: Path, max_voxels: int, name: str, *, voxels: bool = True) -> None:
    """Refuse a volume file that is missing, cut short, in several pieces, or that announces too many voxels.

    `voxels` = false leaves out what needs more than the header.

    Raises:
        ImageError: with what is wrong.
    """
    reader = image_io(path, name)
    if not path.is_file():
        raise ImageError(name, "no such file", "a file that exists", "Correct the path in the table.")
    try:
        if reader == "NiftiImageIO":
            _check_nifti(path, max_voxels, name, voxels)
        elif reader == "NrrdImageIO":
            _check_nrrd(path, name)
        else:
            _check_meta(path, max_voxels, name)
    except OSError as error:
        raise unreadable(name, f"a file that cannot be read ({type(error).__name__})") from None


def check_voxels(count: int, max_voxels: int, name: str) -> None:
    """Refuse a volume with more voxels than the limit."""
    if count > max_voxels:
        raise ImageError(
            name, f"{count} voxels", f"at most {max_voxels}", "Raise rois.max_voxels if it is really that large."
        )


def unreadable(name: str, found: str = "a file that is damaged or not of the format of its ending") -> ImageError:
    """The error for a file that ends too early or is no image; ITK's own words would name the path."""
    return ImageError(name, found, "a complete image file", "Copy or export it again.")


def not_finite(name: str, count: int) -> ImageError:
    """The error for voxels that are no numbers."""
    return ImageError(
        name, f"{count} voxel(s) that are NaN or infinite", "numbers in all voxels", "Export the volume again."
    )


@dataclass(frozen=True)
class _Nifti:
    """What a NIfTI-1 header says of the voxels."""

    dtype: np.dtype[Any]
    offset: int
    count: int

    @property
    def bytes(self) -> int:
        """Bytes that the file must have."""
        return self.offset + self.count * self.dtype.itemsize


def _check_nifti(path: Path, max_voxels: int, name: str, voxels: bool) -> None:
    packed = path.name.lower().endswith(".gz")
    bad = 0
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            header = _nifti_header(stream.read(348), max_voxels, name)
            if voxels and (packed or header.dtype.kind == "f"):
                found, bad = _nifti_pass(stream, header)
            else:
                found = header.bytes if packed else path.stat().st_size
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise unreadable(name, "a compressed file that is damaged or cut short") from None
    if found < header.bytes:
        raise unreadable(name, f"{found} bytes of image where its header announces {header.bytes}")
    if bad:
        raise not_finite(name, bad)


def _nifti_header(header: bytes, max_voxels: int, name: str) -> _Nifti:
    order = "<" if header[:4] == (348).to_bytes(4, "little") else ">"
    if len(header) < 348 or struct.unpack_from(f"{order}i", header)[0] != 348 or header[344:348] != b"n+1\0":
        raise unreadable(name, "a file without the header of a single-file NIfTI-1 image")
    dims = struct.unpack_from(f"{order}8h", header, 40)
    kind, bits = struct.unpack_from(f"{order}2h", header, 70)
    offset = struct.unpack_from(f"{order}f", header, 108)[0]
    if kind not in _NIFTI_TYPES:
        raise ImageError(name, "voxels that are colours or complex numbers", "grey values", "Give the CT itself.")
    dtype, size = np.dtype(order + _NIFTI_TYPES[kind]), dims[1 : dims[0] + 1]
    if not 1 <= dims[0] <= 7 or min(size) < 1 or bits != dtype.itemsize * 8 or not 348 <= offset < _HEADER_LIMIT:
        raise unreadable(name, "a NIfTI header that contradicts itself")
    check_voxels(math.prod(size), max_voxels, name)
    return _Nifti(dtype, int(offset), math.prod(size))


def _nifti_pass(stream: gzip.GzipFile | BufferedReader, header: _Nifti) -> tuple[int, int]:
    """Bytes found, up to what is needed, and voxels that are NaN or infinite, which ITK would turn into zeros."""
    found, bad = stream.seek(header.offset), 0
    while found < header.bytes and (block := stream.read(min(_BLOCK, header.bytes - found))):
        found += len(block)
        if header.dtype.kind == "f":
            values = np.frombuffer(block, header.dtype, count=len(block) // header.dtype.itemsize)
            bad += int((~np.isfinite(values)).sum())
    # The checksum of a compressed stream is compared where it ends.
    stream.read(1)
    return found, bad


def _check_nrrd(path: Path, name: str) -> None:
    with path.open("rb") as stream:
        header = stream.read(_HEADER_LIMIT).replace(b"\r\n", b"\n").split(b"\n\n", 1)[0]
    if not header.startswith(b"NRRD000"):
        raise unreadable(name, "a file without an NRRD header")
    fields = [line.split(b":", 1)[0].strip().lower() for line in header.split(b"\n")]
    if b"data file" in fields or b"datafile" in fields:
        raise ImageError(
            name, "an NRRD header that keeps its data in another file", "one file", "Write it as one attached .nrrd."
        )


def _check_meta(path: Path, max_voxels: int, name: str) -> None:
    header, start = _meta_header(path, name)
    try:
        size = [int(part) for part in header["DimSize"].split()]
        channels = int(header.get("ElementNumberOfChannels", "1"))
        count = math.prod(size) * channels
        needed = count * _META_BYTES[header["ElementType"]]
        if header.get("CompressedData", "False").lower() in ("true", "1"):
            needed = int(header.get("CompressedDataSize", "1"))
        skipped = max(0, int(header.get("HeaderSize", "0")))
    except (KeyError, ValueError):
        raise unreadable(name, "a MetaImage header that lacks size or type") from None
    if min([channels, *size]) < 1 or header.get("BinaryData", "True").lower() not in ("true", "1"):
        raise unreadable(name, "a MetaImage header that contradicts itself, or voxels written as text")
    check_voxels(count, max_voxels, name)
    data = data_file(path, name)
    if data is None and header["ElementDataFile"] != "LOCAL":
        raise ImageError(name, "a .mha header that keeps its data in another file", "one file", "Write it as one .mha.")
    if data is not None and not data.is_file():
        raise ImageError(name, "no data file beside the .mhd header", "both files", "Copy the data file too.")
    found = path.stat().st_size - start if data is None else data.stat().st_size
    if found < needed + skipped:
        raise unreadable(name, f"{found} bytes of image where its header announces {needed + skipped}")


def _meta_header(path: Path, name: str) -> tuple[dict[str, str], int]:
    """Fields of a MetaImage header up to ElementDataFile, its last, and where it ends."""
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as stream:
            while stream.tell() < _HEADER_LIMIT and (line := stream.readline(_HEADER_LIMIT)):
                key, equals, value = line.decode("ascii", "replace").partition("=")
                if not equals:
                    break
                fields[key.strip()] = value.strip()
                if key.strip() == "ElementDataFile":
                    return fields, stream.tell()
    except OSError:
        raise unreadable(name, "no MetaImage file") from None
    raise unreadable(name, "a file without a MetaImage header")

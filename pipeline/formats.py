"""Volume files before ITK opens them: complete, in one piece, and no larger than what was announced.

ITK fills the missing end of a cut NIfTI file with zeros and says nothing, and a header of NRRD or MetaImage may name
any other file as its data. Both are found here from the header alone (for `.nii.gz`, by one pass through the stream).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

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

    `voxels` = false leaves out the pass through the stream of a `.nii.gz`.

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


def _check_nifti(path: Path, max_voxels: int, name: str, voxels: bool) -> None:
    packed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            needed = _nifti_bytes(stream.read(540), max_voxels, name)
            if not packed:
                found = path.stat().st_size
            elif voxels:
                found = stream.seek(0)
                while found <= needed and (block := stream.read(_BLOCK)):
                    found += len(block)
            else:
                found = needed
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise unreadable(name, "a compressed file that is damaged or cut short") from None
    if found < needed:
        raise unreadable(name, f"{found} bytes of image where its header announces {needed}")


def _nifti_bytes(header: bytes, max_voxels: int, name: str) -> int:
    """Bytes that a NIfTI-1 or NIfTI-2 file must have, from its header."""
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header)[0] == 348 and header[344:348] == b"n+1\0":
            dims = struct.unpack_from(f"{order}8h", header, 40)
            bits, offset = struct.unpack_from(f"{order}h", header, 72)[0], struct.unpack_from(f"{order}f", header, 108)[0]
            break
        if len(header) >= 540 and struct.unpack_from(f"{order}i", header)[0] == 540 and header[4:8] == b"n+2\0":
            dims = struct.unpack_from(f"{order}8q", header, 16)
            bits, offset = struct.unpack_from(f"{order}h", header, 14)[0], struct.unpack_from(f"{order}q", header, 168)[0]
            break
    else:
        raise unreadable(name, "a file without a NIfTI header")
    if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1 or bits < 1 or not 0 <= offset < _HEADER_LIMIT:
        raise unreadable(name, "a NIfTI header that contradicts itself")
    count = math.prod(dims[1 : dims[0] + 1])
    check_voxels(count, max_voxels, name)
    return int(offset) + (count * bits + 7) // 8


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

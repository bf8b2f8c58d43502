"""The header of one DICOM file: the few tags that a volume needs, and where its pixels lie.

A series has hundreds of files with the same plain layout, so files in Little Endian are walked here, without an object
for each element; whatever is unusual (no preamble, Big Endian, deflated, very long headers, damage) goes to pydicom.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

HEADER_ERRORS = (
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
"""What reading a damaged header may raise."""

_Kind = Literal["text", "texts", "short", "numbers"]

_TAGS: dict[int, tuple[str, _Kind]] = {
    0x00020002: ("MediaStorageSOPClassUID", "text"),
    0x00080008: ("ImageType", "texts"),
    0x00080016: ("SOPClassUID", "text"),
    0x0020000E: ("SeriesInstanceUID", "text"),
    0x00200032: ("ImagePositionPatient", "numbers"),
    0x00200037: ("ImageOrientationPatient", "numbers"),
    0x00200052: ("FrameOfReferenceUID", "text"),
    0x00280002: ("SamplesPerPixel", "short"),
    0x00280004: ("PhotometricInterpretation", "text"),
    0x00280008: ("NumberOfFrames", "numbers"),
    0x00280010: ("Rows", "short"),
    0x00280011: ("Columns", "short"),
    0x00280030: ("PixelSpacing", "numbers"),
    0x00280100: ("BitsAllocated", "short"),
    0x00280101: ("BitsStored", "short"),
    0x00280102: ("HighBit", "short"),
    0x00280103: ("PixelRepresentation", "short"),
    0x00281052: ("RescaleIntercept", "numbers"),
    0x00281053: ("RescaleSlope", "numbers"),
}
_PIXELS = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_EXPLICIT = {"1.2.840.10008.1.2": False, "1.2.840.10008.1.2.1": True}
_FIRST_BYTES = 1 << 16
_MAX_DEPTH = 16
_PYDICOM_TAGS: list[Any] = [tag for tag in _TAGS if tag >> 16 != 2]


@dataclass(frozen=True)
class Header:
    """What a header says; `values` has only the tags that are there and filled."""

    values: dict[str, Any]
    """Keyword → text, tuple of texts, whole number, or tuple of numbers."""
    pixels: tuple[int, int] | None
    """First byte and number of bytes of pixels that are not compressed, 16 bits each; none where unknown."""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
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


def is_dicom(path: Path) -> bool:
    """Whether a file begins like a DICOM file."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def read_header(file: Path) -> Header | None:
    """The header of a file; none where it does not begin like DICOM.

    Raises:
        HEADER_ERRORS: the file is damaged. The messages may quote it, so they are for no one's eyes.
    """
    with file.open("rb") as stream:
        start = stream.read(_FIRST_BYTES)
        if start[128:132] != b"DICM" and start[:2] != b"\x08\x00":
            return None
        found = _walk(start) if start[128:132] == b"DICM" else None
        if found is not None:
            return found
        stream.seek(0)
        header = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=_PYDICOM_TAGS, force=True)
    values = {}
    for tag, (name, kind) in _TAGS.items():
        value = (header.file_meta if tag >> 16 == 2 else header).get(name)
        if value is not None and value != "":
            values[name] = _plain(value, kind)
    return Header(values, None)


def _plain(value: Any, kind: _Kind) -> Any:
    """A value of pydicom's as `Header` keeps it."""
    several = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
    if kind == "numbers":
        return tuple(float(one) for one in several)
    if kind == "texts":
        return tuple(str(one) for one in several)
    return int(value) if kind == "short" else str(value)


def _walk(data: bytes) -> Header | None:
    """The header of a plain Little Endian file from its first bytes; none where they are not enough or not plain."""
    values: dict[str, Any] = {}
    try:
        position, syntax = 132, ""
        while data[position : position + 2] == b"\x02\x00":
            tag, position, length = _element(data, position, explicit=True)
            if tag == 0x00020010:
                syntax = data[position : position + length].rstrip(b"\0 ").decode("ascii")
            elif tag in _TAGS:
                values[_TAGS[tag][0]] = data[position : position + length].rstrip(b"\0 ").decode("ascii")
            position += length
        compressed = syntax.startswith("1.2.840.10008.1.2.4.") or syntax == "1.2.840.10008.1.2.5"
        if syntax not in _EXPLICIT and not compressed:
            return None
        explicit = _EXPLICIT.get(syntax, True)
        previous = 0
        while True:
            tag, position, length = _element(data, position, explicit)
            if tag == _PIXELS:
                break
            if tag <= previous:
                return None
            previous = tag
            if length == _UNDEFINED:
                position = _after_items(data, position, explicit, 0)
                continue
            if position + length > len(data):
                return None
            if tag in _TAGS and length:
                name, kind = _TAGS[tag]
                values[name] = _decoded(data[position : position + length], kind)
            position += length
    except (struct.error, RecursionError, UnicodeDecodeError):
        return None
    values = {name: value for name, value in values.items() if value not in ("", ())}
    native = not compressed and length != _UNDEFINED and values.get("BitsAllocated") == 16
    return Header(values, (position, length) if native else None)


def _element(data: bytes, position: int, explicit: bool) -> tuple[int, int, int]:
    """Tag of the element at a place, where its value begins, and how long it is."""
    group, number = struct.unpack_from("<HH", data, position)
    tag = group << 16 | number
    if not explicit or group == 0xFFFE:
        return tag, position + 8, struct.unpack_from("<I", data, position + 4)[0]
    if data[position + 4 : position + 6] in _LONG_VRS:
        return tag, position + 12, struct.unpack_from("<I", data, position + 8)[0]
    return tag, position + 8, struct.unpack_from("<H", data, position + 6)[0]


def _after_items(data: bytes, position: int, explicit: bool, depth: int) -> int:
    """The place behind a sequence without a length."""
    if depth > _MAX_DEPTH:
        raise RecursionError
    while True:
        tag, position, length = _element(data, position, explicit)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise struct.error("no item")
        if length != _UNDEFINED:
            position += length
            continue
        while True:
            tag, position, length = _element(data, position, explicit)
            if tag == _ITEM_END:
                break
            position = _after_items(data, position, explicit, depth + 1) if length == _UNDEFINED else position + length


def _decoded(value: bytes, kind: _Kind) -> Any:
    if kind == "short":
        return int(struct.unpack_from("<H", value)[0])
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    if kind == "text":
        return text
    parts = tuple(part.strip() for part in text.split("\\")) if text else ()
    return parts if kind == "texts" else tuple(float(part) for part in parts)

"""Headers that are walked here say what pydicom says of them."""

from __future__ import annotations

from pathlib import Path

import ct_files
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mumo.pipeline.radiology.dicom_header import Header, read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A slice with sequences in it, one of them nested, of no stated length."""
    one = ct_files.write_dicom(ct_files.ellipsoid()[0], tmp_path)[4]
    data = pydicom.dcmread(one)
    data.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data.FrameOfReferenceUID = "1.2.3"
    inner, outer = pydicom.Dataset(), pydicom.Dataset()
    inner.CodeMeaning, inner.Rows = "inner", 7
    outer.PurposeOfReferenceCodeSequence = [inner]
    outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
    outer.is_undefined_length_sequence_item = True
    data.ReferencedImageSequence = [outer, outer]
    data["ReferencedImageSequence"].is_undefined_length = True
    data.save_as(one)
    return one


def saved_as(file: Path, syntax: pydicom.uid.UID) -> None:
    data = pydicom.dcmread(file)
    data.file_meta.TransferSyntaxUID = syntax
    data.save_as(file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True, enforce_file_format=True)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_read_header__walks_plain_files_to_their_pixels(file: Path, syntax: pydicom.uid.UID) -> None:
    saved_as(file, syntax)
    data, found = pydicom.dcmread(file), read_header(file)
    assert found is not None
    assert found.pixels is not None
    offset, length = found.pixels
    assert file.read_bytes()[offset : offset + length] == data.PixelData
    check(found, data)


def test_read_header__leaves_unusual_files_to_pydicom(file: Path) -> None:
    saved_as(file, DeflatedExplicitVRLittleEndian)
    found = read_header(file)
    assert found is not None
    assert found.pixels is None
    check(found, pydicom.dcmread(file))


def test_read_header__leaves_long_headers_to_pydicom(file: Path) -> None:
    ct_files.change(file, ImageComments="x" * 9000)
    data = pydicom.dcmread(file)
    data.add_new(0x00091010, "OB", bytes(80_000))
    data.add_new(0x00090010, "LO", "private")
    data.save_as(file)
    found = read_header(file)
    assert found is not None
    assert found.pixels is None
    check(found, data)


def test_read_header__compressed_pixels_have_no_place(file: Path) -> None:
    ct_files.compress(file, "rle")
    found = read_header(file)
    assert found is not None
    assert found.pixels is None
    check(found, pydicom.dcmread(file))


def test_read_header__of_no_dicom_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no DICOM" * 100)
    (tmp_path / "b").write_bytes(b"")
    assert read_header(tmp_path / "a") is read_header(tmp_path / "b") is None


def check(found: Header, data: pydicom.Dataset) -> None:
    for name, value in found.values.items():
        expected = (data.file_meta if name.startswith("MediaStorage") else data)[name].value
        if isinstance(value, tuple):
            assert value == tuple(type(value[0])(one) for one in np.atleast_1d(expected))
        else:
            assert value == expected, name
    assert (found.values["Rows"], len(found.values)) == (36, 18)  # all but NumberOfFrames

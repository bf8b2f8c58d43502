"""Volume files that are cut short, in pieces, or lie about their size."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk

from mumo.pipeline.radiology.formats import IMAGE_IOS, check_file, data_file
from mumo.pipeline.radiology.geometry import ImageError

LIMIT = 10**6


@pytest.mark.parametrize("ending", IMAGE_IOS)
@pytest.mark.parametrize("compress", [False, True])
def test_check_file__takes_what_simpleitk_writes(tmp_path: Path, ending: str, compress: bool) -> None:
    check_file(ct_files.write(ct_files.ellipsoid()[0], tmp_path / f"v{ending}", compress=compress), LIMIT, "volume")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha", ".mhd"])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_check_file__refuses_a_cut_file(tmp_path: Path, ending: str, compress: bool, share: float) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / f"v{ending}", compress=compress)
    cut = next(iter(tmp_path.glob("*raw")), path)
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(ImageError, match="Copy or export it again"):
        check_file(path, LIMIT, "volume")


def test_check_file__finds_one_flipped_bit_in_a_compressed_file(tmp_path: Path) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.nii.gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ImageError, match="damaged or cut short"):
        check_file(path, LIMIT, "volume")


def nifti_header(order: str, kind: int = 4, bits: int = 16, dims: tuple[int, ...] = (3, 4, 5, 6, 1, 1, 1, 1)) -> bytes:
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, *dims)
    struct.pack_into(f"{order}2h", header, 70, kind, bits)
    struct.pack_into(f"{order}8f", header, 76, *(1.0,) * 8)
    struct.pack_into(f"{order}f", header, 108, 352)
    header[344:348] = b"n+1\0"
    return bytes(header)


@pytest.mark.parametrize("order", "<>")
def test_check_file__reads_nifti_headers_of_either_byte_order(tmp_path: Path, order: str) -> None:
    path = tmp_path / "v.nii"
    path.write_bytes(nifti_header(order) + bytes(239))
    with pytest.raises(ImageError, match="found 591 bytes of image where its header announces 592"):
        check_file(path, LIMIT, "volume")
    path.write_bytes(nifti_header(order) + bytes(240))
    check_file(path, LIMIT, "volume")
    assert sitk.ReadImage(str(path)).GetSize() == (4, 5, 6)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (nifti_header("<", kind=128, bits=24), "colours"),
        (nifti_header("<", kind=32, bits=64), "complex"),
        (nifti_header("<", bits=8), "contradicts itself"),
        (nifti_header("<", dims=(3, 4, -5, 6, 1, 1, 1, 1)), "contradicts itself"),
        (nifti_header("<", dims=(9, 4, 5, 6, 1, 1, 1, 1)), "contradicts itself"),
        ((540).to_bytes(4, "little") + b"n+2\0\r\n\x1a\n" + bytes(800), "single-file NIfTI-1"),
    ],
)
def test_check_file__refuses_nifti_headers_that_make_no_sense(tmp_path: Path, header: bytes, words: str) -> None:
    path = tmp_path / "v.nii"
    path.write_bytes(header + bytes(1000))
    with pytest.raises(ImageError, match=words):
        check_file(path, LIMIT, "volume")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
def test_check_file__refuses_too_many_voxels_by_the_header(tmp_path: Path, ending: str) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / f"v{ending}")
    with pytest.raises(ImageError, match="found 20160 voxels; expected at most 20159"):
        check_file(path, 40 * 36 * 14 - 1, "volume", voxels=False)
    check_file(path, 40 * 36 * 14, "volume", voxels=False)


def test_check_file__stops_a_stream_that_goes_on_for_ever(tmp_path: Path) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.nii")
    packed = tmp_path / "v.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes() + bytes(50_000_000)))
    check_file(packed, LIMIT, "volume")
    cut = packed.read_bytes()
    packed.write_bytes(cut[:-1000])  # the damage lies behind what is needed, so it was not read as far
    check_file(packed, LIMIT, "volume")


@pytest.mark.parametrize("name", ["v.png", "v", "v.img", "v.nhdr", "v.dcm"])
def test_check_file__names_the_endings_it_takes(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ImageError, match=r"\.nii, \.nii\.gz, \.nrrd, \.mha, \.mhd"):
        check_file(tmp_path / name, LIMIT, "volume")


@pytest.mark.parametrize("ending", IMAGE_IOS)
def test_check_file__refuses_what_is_missing_or_of_another_format(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"v{ending}"
    with pytest.raises(ImageError, match="no such file"):
        check_file(path, LIMIT, "volume")
    path.write_bytes(b"JFIF" * 400)
    with pytest.raises(ImageError, match="export it again"):
        check_file(path, LIMIT, "volume")


@pytest.mark.parametrize("target", ["../other.raw", "/etc/passwd", "LIST", "slice%03d.raw", "LOCAL", ".", "a b.raw"])
def test_data_file__is_one_plain_name_in_the_same_folder(tmp_path: Path, target: str) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.mhd")
    assert data_file(path) == tmp_path / "v.raw"
    path.write_text(path.read_text().replace("v.raw", target))
    with pytest.raises(ImageError, match="same folder"):
        data_file(path)
    with pytest.raises(ImageError, match="same folder"):
        check_file(path, LIMIT, "volume")


def test_check_file__refuses_headers_that_point_to_other_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(40 * 36 * 14 * 2))
    mha = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.mha")
    mha.write_bytes(mha.read_bytes().replace(b"LOCAL", b"secret.raw"))
    with pytest.raises(ImageError, match="another file"):
        check_file(mha, LIMIT, "volume")
    nrrd = tmp_path / "v.nrrd"
    nrrd.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 40 36 14\nencoding: raw\nendian: little\ndata file: secret.raw\n\n"
    )
    assert np.all(sitk.GetArrayFromImage(sitk.ReadImage(str(nrrd))) == 0), "ITK follows it"
    with pytest.raises(ImageError, match="another file"):
        check_file(nrrd, LIMIT, "volume")


def test_check_file__refuses_a_mhd_without_its_data(tmp_path: Path) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.mhd")
    (tmp_path / "v.raw").unlink()
    with pytest.raises(ImageError, match="both files"):
        check_file(path, LIMIT, "volume")

"""CT volumes: every format gives the same array in LPS order; everything else is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import ct_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from mumo.pipeline.radiology.dicom import read_series
from mumo.pipeline.radiology.geometry import ImageError, check_same_geometry
from mumo.pipeline.radiology.volumes import read_header, read_labels, read_volume

LIMIT = 10**6
ENDINGS = [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("code", ["LPS", "RAS", "ASR", "SPL", "RIA"])
def test_read_volume__stored_order_does_not_matter(tmp_path: Path, ending: str, code: str) -> None:
    image = ct_files.ellipsoid()[0]
    volume = read_volume(ct_files.write(ct_files.turned(image, code), tmp_path / f"v{ending}"), max_voxels=LIMIT)
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(image))
    assert volume.array.dtype == np.int16
    assert volume.array.flags.c_contiguous
    np.testing.assert_allclose(volume.spacing_mm, image.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(volume.origin_mm, image.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(volume.direction, np.eye(3).ravel(), atol=1e-7)


@pytest.mark.parametrize("code", ["LPS", "RAI", "PSR", "LIP"])
@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (0.5, -1000.0), (2.0, -1024.0)])
def test_read_volume__dicom_gives_rescaled_values_in_lps_order(
    tmp_path: Path, code: str, slope: float, intercept: float
) -> None:
    image = ct_files.ellipsoid()[0]
    ct_files.write_dicom(ct_files.turned(image, code), tmp_path, slope=slope, intercept=intercept)
    volume = read_volume(tmp_path, max_voxels=LIMIT)
    np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image), atol=slope / 2)
    np.testing.assert_allclose(volume.origin_mm, image.GetOrigin(), atol=1e-6)


def test_read_volume__dicom_slices_keep_their_own_rescaling(tmp_path: Path) -> None:
    image = ct_files.ellipsoid()[0]
    files = ct_files.write_dicom(image, tmp_path)
    ct_files.change(files[5], RescaleSlope="3", RescaleIntercept="-10")
    expected = sitk.GetArrayFromImage(image).astype(float)
    expected[5] = (expected[5] + 1024) * 3 - 10
    np.testing.assert_array_equal(read_volume(tmp_path, max_voxels=LIMIT).array, expected)


@pytest.mark.parametrize("codec", ["rle", "jpeg2000", "jpeg-ls", "jpeg-lossless"])
def test_read_volume__compressed_dicom_is_the_same(tmp_path: Path, codec: str) -> None:
    image = ct_files.ellipsoid()[0]
    for file in ct_files.write_dicom(image, tmp_path):
        ct_files.compress(file, codec)
    assert read_series(tmp_path, series_uid=None, max_voxels=LIMIT, slice_tolerance=0.1).pixels is None
    np.testing.assert_array_equal(read_volume(tmp_path, max_voxels=LIMIT).array, sitk.GetArrayFromImage(image))


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("slope", ["1", "2", "0.5"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_read_volume__plain_pixels_are_those_that_simpleitk_reads(
    tmp_path: Path, signed: int, bits: int, slope: str, photometric: str
) -> None:
    for file in ct_files.write_dicom(ct_files.ellipsoid()[0], tmp_path):
        data = pydicom.dcmread(file)
        kept = np.frombuffer(data.PixelData, "<u2") % 2**11
        data.PixelData = ((kept.astype(int) - 700 * signed) % 2**bits).astype("<u2").tobytes()
        data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, signed
        data.RescaleSlope, data.PhotometricInterpretation = slope, "MONOCHROME2"
        data.save_as(file)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    expected = sitk.GetArrayFromImage(reader.Execute())
    for file in tmp_path.glob("*.dcm"):  # the rescaled value is in HU, however it is to be shown
        ct_files.change(file, PhotometricInterpretation=photometric)
    assert read_series(tmp_path, series_uid=None, max_voxels=LIMIT, slice_tolerance=0.1).pixels is not None
    np.testing.assert_array_equal(read_volume(tmp_path, max_voxels=LIMIT).array, expected)


def test_read_volume__tilted_gantry_gives_the_volume_of_an_upright_one(tmp_path: Path) -> None:
    tan = np.tan(np.radians(15.0))
    z, y, x = np.meshgrid(np.arange(14) * 2.5, np.arange(36) * 0.9, np.arange(40) * 0.8, indexing="ij")
    tilted = 100 * np.sin(x / 5) * np.cos((y + z * tan) / 6) + z  # smooth, at the places of the tilted slices
    files = ct_files.write_dicom(ct_files.image_of(np.rint(tilted).astype(np.int16)), tmp_path)
    for number, file in enumerate(files):
        ct_files.change(file, ImagePositionPatient=[-20.0, 11.0 + number * 2.5 * tan, -105.0 + 2.5 * number])
    volume = read_volume(tmp_path, max_voxels=LIMIT)
    at = volume.geometry.to_mm(np.argwhere(np.ones(volume.array.shape[::-1]))) - np.array([-20.0, 11.0, -105.0])
    expected = 100 * np.sin(at[:, 0] / 5) * np.cos(at[:, 1] / 6) + at[:, 2]
    inside = (at[:, 1] >= at[:, 2] * tan) & (at[:, 1] <= at[:, 2] * tan + 35 * 0.9)
    found = volume.array.transpose(2, 1, 0).ravel()
    assert np.abs(found - expected)[inside].max() < 1.5
    assert (found[~inside & (at[:, 1] < at[:, 2] * tan - 0.9)] == volume.array.min()).all()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.4, 0.7, 0.99])
def test_read_volume__refuses_a_dicom_slice_cut_short(tmp_path: Path, compress: bool, share: float) -> None:
    files = ct_files.write_dicom(ct_files.ellipsoid()[0], tmp_path)
    for file in files if compress else []:
        ct_files.compress(file, "rle")
    content = files[7].read_bytes()
    files[7].write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageError, match=r"damaged|cut short"):
        read_volume(tmp_path, max_voxels=LIMIT)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (np.uint8, np.int16),
        (np.int16, np.int16),
        (np.uint16, np.int16),
        (np.int32, np.int16),
        (np.float32, np.float32),
        (np.float64, np.float32),
    ],
)
def test_read_volume__keeps_values_of_every_type(tmp_path: Path, kind: type, expected: type) -> None:
    array = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(kind)
    volume = read_volume(ct_files.write(ct_files.image_of(array), tmp_path / "v.nrrd"), max_voxels=LIMIT)
    assert volume.array.dtype == expected
    np.testing.assert_array_equal(volume.array, array)
    if kind == np.uint16:
        array[0, 0, 0] = 40_000
        volume = read_volume(ct_files.write(ct_files.image_of(array), tmp_path / "v.nrrd"), max_voxels=LIMIT)
        assert volume.array.dtype == np.float32
        np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", ENDINGS)
def test_read_volume__refuses_voxels_that_are_no_numbers(tmp_path: Path, ending: str, value: float) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 2, 3] = array[2, 0, 0] = value
    path = ct_files.write(ct_files.image_of(array), tmp_path / f"v{ending}")
    with pytest.raises(ImageError, match=r"found 2 voxel\(s\) that are NaN or infinite"):
        read_volume(path, max_voxels=LIMIT)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    ("image", "words"),
    [
        (sitk.Image(8, 9, 1, sitk.sitkInt16), "single slice"),
        (sitk.Image([8, 9, 4], sitk.sitkVectorUInt8, 3), "colours|value"),
        (sitk.Image([8, 9, 4, 3], sitk.sitkInt16), "4 dimensions"),
    ],
)
def test_read_volume__refuses_what_is_no_grey_volume(
    tmp_path: Path, ending: str, image: sitk.Image, words: str
) -> None:
    path = ct_files.write(image, tmp_path / f"v{ending}")
    for read in (read_volume, read_header, read_labels):
        with pytest.raises(ImageError, match=words):
            read(path, max_voxels=LIMIT)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.97])
def test_read_volume__refuses_a_cut_file_in_silence(
    tmp_path: Path, ending: str, compress: bool, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / f"v{ending}", compress=compress)
    cut = next(iter(tmp_path.glob("*raw")), path)
    cut.write_bytes(cut.read_bytes()[: int(share * cut.stat().st_size)])
    with pytest.raises(ImageError, match="export it again") as caught:
        read_volume(path, max_voxels=LIMIT)
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "ITK's message names the path"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ENDINGS)
def test_read_volume__counts_voxels_before_any_is_read(tmp_path: Path, ending: str) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / f"v{ending}")
    with pytest.raises(ImageError, match="found 20160 voxels; expected at most 20000"):
        read_volume(path, max_voxels=20_000)


def test_read_volume__refuses_a_missing_file_and_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        read_volume(tmp_path / "none.nii.gz", max_voxels=LIMIT)
    with pytest.raises(ImageError, match="without DICOM images"):
        read_volume(tmp_path, max_voxels=LIMIT)
    with pytest.raises(ImageError, match="found a folder; expected a file"):
        read_labels(tmp_path, max_voxels=LIMIT)


@pytest.mark.parametrize("source", ["folder", "v.nrrd", "v.mha"])
def test_read_volume__keeps_nothing_of_the_header_but_the_grid(
    tmp_path: Path, source: str, capfd: pytest.CaptureFixture[str]
) -> None:
    image = ct_files.ellipsoid()[0]
    path = tmp_path / source
    if source == "folder":
        ct_files.write_dicom(image, path, text="SENTINEL^NAME")
    else:
        image.SetMetaData("PatientName", "SENTINEL^NAME")
        ct_files.write(image, path)
        assert b"SENTINEL" in path.read_bytes()
    volume = read_volume(path, max_voxels=LIMIT)
    assert b"SENTINEL" not in pickle.dumps(volume)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("source", ["folder", "v.nii.gz", "v.nrrd", "v.mhd"])
def test_read_header__has_the_stored_grid_of_the_volume(tmp_path: Path, source: str) -> None:
    image = ct_files.turned(ct_files.ellipsoid()[0], "ASR")
    path = tmp_path / source
    if source == "folder":
        ct_files.write_dicom(image, path)
    else:
        ct_files.write(image, path)
    volume = read_volume(path, max_voxels=LIMIT)
    header = read_header(path, max_voxels=LIMIT)
    assert (header.stored, header.frame_uid) == (volume.stored, volume.frame_uid)
    assert volume.stored.to_lps() == volume.geometry
    assert volume.stored.size_xyz == image.GetSize()


def test_read_labels__takes_whole_numbers_of_any_type(tmp_path: Path) -> None:
    for kind in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        array = (np.arange(60).reshape(3, 4, 5) % 7).astype(kind)
        labels = read_labels(ct_files.write(ct_files.image_of(array), tmp_path / "m.nrrd"), max_voxels=LIMIT)
        assert labels.array.dtype.kind in "iu"
        np.testing.assert_array_equal(labels.array, array)


@pytest.mark.parametrize("value", [0.5, np.nan, 1e12])
def test_read_labels__refuses_probabilities(tmp_path: Path, value: float) -> None:
    array = np.zeros((3, 4, 5), np.float32)
    array[1, 1, 1] = value
    path = ct_files.write(ct_files.image_of(array), tmp_path / "m.nrrd")
    with pytest.raises(ImageError, match=r"not whole numbers|NaN"):
        read_labels(path, max_voxels=LIMIT)


def test_read_volume__leaves_itks_warnings_as_they_were(tmp_path: Path) -> None:
    path = ct_files.write(ct_files.ellipsoid()[0], tmp_path / "v.nii.gz")
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    for state in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(state)
        read_volume(path, max_voxels=LIMIT)
        assert sitk.ProcessObject.GetGlobalWarningDisplay() is state
    sitk.ProcessObject.SetGlobalWarningDisplay(before)


@pytest.mark.realdata
def test_read_volume__real_dicom_is_its_nifti_copy(shared_data: Path, tmp_path: Path) -> None:
    study = shared_data / "ct" / "sts_019_dicom_rtstruct"
    dicom = read_volume(study / "image", max_voxels=LIMIT)
    nifti = read_volume(study / "CT_image.nii.gz", max_voxels=LIMIT)
    np.testing.assert_array_equal(dicom.array, np.rint(nifti.array))
    check_same_geometry(dicom.geometry, nifti.geometry, 0.001)
    mixed = tmp_path / "with structures"
    shutil.copytree(study / "image", mixed)
    shutil.copy(study / "mask" / "RS.dcm", mixed)
    np.testing.assert_array_equal(read_volume(mixed, max_voxels=LIMIT).array, dicom.array)

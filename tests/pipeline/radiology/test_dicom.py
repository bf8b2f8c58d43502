"""Series of a DICOM folder: choice, order, evenness; against SimpleITK's own series reader."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import ct_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import RTStructureSetStorage

from mumo.pipeline.radiology.dicom import Series, read_series
from mumo.pipeline.radiology.geometry import ImageError

LIMIT = 10**6


def series(folder: Path, series_uid: str | None = None, max_voxels: int = LIMIT, tolerance: float = 0.1) -> Series:
    return read_series(folder, series_uid=series_uid, max_voxels=max_voxels, slice_tolerance=tolerance)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound series of 14 slices."""
    ct_files.write_dicom(ct_files.ellipsoid()[0], tmp_path / "series")
    return tmp_path / "series"


def files(folder: Path) -> list[Path]:
    """From the lowest slice to the highest."""
    return sorted(folder.glob("*.dcm"), reverse=True)


@pytest.mark.parametrize("code", ["LPS", "RAI", "PSR", "ASL"])
@pytest.mark.parametrize("oblique", [False, True])
def test_read_series__grid_is_that_of_simpleitks_series_reader(tmp_path: Path, code: str, oblique: bool) -> None:
    image = ct_files.turned(ct_files.ellipsoid()[0], code)
    if oblique:
        turn = sitk.VersorTransform((1.0, 2.0, 3.0), 0.3).GetMatrix()
        direction = np.array(turn).reshape(3, 3) @ np.array(image.GetDirection()).reshape(3, 3)
        image.SetDirection(direction.ravel().tolist())
    ct_files.write_dicom(image, tmp_path)
    found = series(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path)))
    expected = reader.Execute()
    assert [str(file) for file in found.files] == list(reader.GetFileNames())
    assert found.geometry.size_xyz == expected.GetSize()
    np.testing.assert_allclose(found.geometry.spacing_mm, expected.GetSpacing(), atol=1e-6)
    np.testing.assert_allclose(found.geometry.origin_mm, expected.GetOrigin(), atol=1e-6)
    np.testing.assert_allclose(found.geometry.direction, expected.GetDirection(), atol=1e-6)


def test_read_series__needs_a_series_uid_where_there_are_several(folder: Path) -> None:
    other = ct_files.ellipsoid()[0][:, :, :5]
    ct_files.write_dicom(other, folder, series_uid="1.2.3", prefix="other")
    with pytest.raises(ImageError, match="found 2 image series in the folder, 2 of which may be") as caught:
        series(folder)
    assert "1.2.3" not in str(caught.value)
    assert series(folder, "1.2.3").geometry.size_xyz == (40, 36, 5)
    assert series(folder, "1.2.826.0.1.3680043.10.1").geometry.size_xyz == (40, 36, 14)
    with pytest.raises(ImageError, match="none with the series_uid of the CT table"):
        series(folder, "1.2.4")


def test_read_series__passes_over_what_is_no_image(folder: Path) -> None:
    expected = series(folder)
    (folder / "README.txt").write_text("no DICOM")
    (folder / "zip").write_bytes(bytes(500))
    (folder / "deeper").mkdir()
    shutil.copy(files(folder)[0], folder / "deeper")
    structures = pydicom.dcmread(files(folder)[0])
    structures.SOPClassUID = structures.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    for name in ("Rows", "Columns", "PixelData", "SeriesInstanceUID"):
        delattr(structures, name)
    structures.save_as(folder / "structures.dcm")
    assert series(folder) == expected


def test_read_series__takes_files_without_the_preamble(folder: Path) -> None:
    expected = series(folder)
    for file in files(folder):
        data = pydicom.dcmread(file)
        data.preamble = None
        del data.file_meta
        data.save_as(file, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
    assert series(folder) == replace(expected, pixels=None)


def test_read_series__passes_over_pictures_of_another_series(folder: Path) -> None:
    expected = series(folder)
    shutil.copy(files(folder)[0], folder / "screen.dcm")
    picture = {"SeriesInstanceUID": "1.2.3", "SamplesPerPixel": 3, "ImagePositionPatient": None, "PixelSpacing": None}
    ct_files.change(folder / "screen.dcm", **picture)
    assert series(folder, "1.2.826.0.1.3680043.10.1") == expected
    assert series(folder) == replace(
        expected, warnings=("2 image series in the folder: the only one that is a volume was taken",)
    )
    with pytest.raises(ImageError, match="colour"):
        series(folder, "1.2.3")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6])
def test_read_series__refuses_a_slice_whose_header_is_cut(folder: Path, share: float) -> None:
    last = files(folder)[-1]  # without it the others would still be an even grid
    last.write_bytes(last.read_bytes()[: int(share * 1200)])
    with pytest.raises(ImageError, match=r"no DICOM|damaged|2 image series"):
        series(folder)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImagePositionPatient": None},
        {"ImageOrientationPatient": None},
        {"PixelSpacing": None},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImageOrientationPatient": [0, 0, 0, 0, 1, 0]},
        {"PixelSpacing": [0, 1]},
    ],
)
def test_read_series__refuses_slices_without_a_place(folder: Path, attributes: dict[str, object]) -> None:
    ct_files.change(files(folder)[3], **attributes)
    with pytest.raises(ImageError, match="lacks position, orientation, spacing or size"):
        series(folder)


def test_read_series__refuses_missing_slices_inside(folder: Path) -> None:
    files(folder)[6].unlink()
    with pytest.raises(ImageError, match=r"missing or uneven: gaps from 2\.500 to 5\.000 mm"):
        series(folder)


def test_read_series__refuses_uneven_gaps_but_takes_rounded_positions(folder: Path) -> None:
    for number, file in enumerate(files(folder)):
        rounded = round(-105.0 + 2.5 * number + 0.04 * (-1) ** number, 2)
        ct_files.change(file, ImagePositionPatient=[-20.0, 11.0, rounded])
    assert series(folder).geometry.spacing_mm[2] == pytest.approx(2.5, abs=0.01)
    with pytest.raises(ImageError, match="uneven"):
        series(folder, tolerance=0.01)


def test_read_series__keeps_one_of_identical_slices_and_says_so(folder: Path) -> None:
    expected = series(folder)
    shutil.copy(files(folder)[6], folder / "copy.dcm")
    shutil.copy(files(folder)[0], folder / "copy-of-the-first.dcm")
    found = series(folder)
    assert found.geometry == expected.geometry
    assert found.warnings == ("2 slice(s) that occur twice with the same pixels: one of each kept",)


@pytest.mark.parametrize("attributes", [{"RescaleIntercept": "-1000"}, {"PixelData": bytes(40 * 36 * 2)}])
def test_read_series__refuses_several_phases_at_a_place(folder: Path, attributes: dict[str, object]) -> None:
    shutil.copy(files(folder)[6], folder / "copy.dcm")
    ct_files.change(folder / "copy.dcm", **attributes)
    with pytest.raises(ImageError, match=r"found 1 slice\(s\) at the place of another one with other pixels"):
        series(folder)


def test_read_series__takes_the_only_volume_among_several_series_and_says_so(folder: Path) -> None:
    expected = series(folder)
    slices = files(folder)
    for number, (uid, attributes) in enumerate(
        [
            ("1.2.3", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
            ("1.2.3", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
            ("1.2.4", {}),  # a single image: a dose report or a picture
        ]
    ):
        shutil.copy(slices[number], folder / f"other{number}.dcm")
        ct_files.change(folder / f"other{number}.dcm", SeriesInstanceUID=uid, **attributes)
    found = series(folder)
    assert found == replace(
        expected, warnings=("3 image series in the folder: the only one that is a volume was taken",)
    )
    with pytest.raises(ImageError, match="found a localiser"):
        series(folder, "1.2.3")


def test_read_series__gantry_tilt_shears_the_stored_grid(folder: Path) -> None:
    tan = np.tan(np.radians(12.0))
    for number, file in enumerate(files(folder)):
        ct_files.change(file, ImagePositionPatient=[-20.0, 11.0 + number * 2.5 * tan, -105.0 + 2.5 * number])
    found = series(folder)
    assert found.warnings == ("gantry tilted by 12.0°: slices shifted onto an upright grid",)
    np.testing.assert_allclose(found.geometry.to_mm([3, 5, 9]), [-17.6, 15.5 + 9 * 2.5 * tan, -82.5], atol=1e-6)
    upright = found.geometry.upright()
    np.testing.assert_allclose(np.array(upright.direction).reshape(3, 3), np.eye(3), atol=1e-9)
    assert upright.spacing_mm == pytest.approx((0.8, 0.9, 2.5))
    assert upright.size_xyz == (40, 36 + int(np.ceil(13 * 2.5 * tan / 0.9)), 14)


def test_read_series__refuses_a_tilt_beyond_any_gantry(folder: Path) -> None:
    for number, file in enumerate(files(folder)):
        ct_files.change(file, ImagePositionPatient=[-20.0, 11.0 + number * 2.5, -105.0 + 2.5 * number])
    with pytest.raises(ImageError, match=r"shifted or turned against each other \(by 45\.0°"):
        series(folder)


def test_read_series__refuses_slices_that_turn(folder: Path) -> None:
    ct_files.change(files(folder)[5], ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0])
    with pytest.raises(ImageError, match="shifted or turned"):
        series(folder)


def test_read_series__refuses_a_localiser_among_the_slices(folder: Path) -> None:
    ct_files.change(files(folder)[0], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    with pytest.raises(ImageError, match="different orientations"):
        series(folder)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"Rows": 30}, "different numbers of rows"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"NumberOfFrames": 4}, "multi-frame"),
        ({"PixelSpacing": [0.9, 0.85]}, "shifted or turned"),
    ],
)
def test_read_series__refuses_slices_unlike_the_others(folder: Path, attributes: dict[str, object], words: str) -> None:
    ct_files.change(files(folder)[4], **attributes)
    with pytest.raises(ImageError, match=words):
        series(folder)


def test_read_series__refuses_one_slice_and_none(folder: Path) -> None:
    for file in files(folder)[1:]:
        file.unlink()
    with pytest.raises(ImageError, match="a series of one slice"):
        series(folder)
    files(folder)[0].unlink()
    with pytest.raises(ImageError, match="a folder without DICOM images"):
        series(folder)


def test_read_series__says_that_the_slices_lie_one_folder_below(folder: Path) -> None:
    with pytest.raises(
        ImageError, match=r"DICOM files in 1 of the folders in it; .* Give the folder that the slices lie"
    ):
        series(folder.parent)


def test_read_series__counts_voxels_before_any_is_read(folder: Path) -> None:
    with pytest.raises(ImageError, match="found 20160 voxels"):
        series(folder, max_voxels=20159)


def test_read_series__holds_in_16_bits_only_what_fits(folder: Path) -> None:
    assert series(folder).dtype == "float32"  # 16 bits stored, from −1024
    for file in files(folder):
        ct_files.change(file, BitsStored=12, HighBit=11)
    assert series(folder).dtype == "int16"
    ct_files.change(files(folder)[2], RescaleSlope="1.5")
    assert series(folder).dtype == "float32"


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("SeriesInstanceUID", "UI"),
        ("RescaleSlope", "DS"),
        ("ImagePositionPatient", "DS"),
        ("PixelSpacing", "DS"),
        ("NumberOfFrames", "IS"),
    ],
)
def test_read_series__quotes_no_header_text(
    folder: Path, tag: str, kind: str, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    for file in files(folder)[:1]:
        data = pydicom.dcmread(file)
        setattr(data, tag, "1.2.3.4" if kind == "UI" else ["1111.5"] * 3 if kind == "DS" else "1111")
        data.save_as(file)
        content = file.read_bytes()
        for value in (b"1.2.3.4", b"1111.5", b"1111"):
            content = content.replace(value, b"DOE^JANE"[: len(value)])
        assert b"DOE" in content
        file.write_bytes(content)
    recwarn.clear()
    with pytest.raises(ImageError) as caught:
        series(folder)
    assert "DOE" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert "DOE" not in caplog.text
    assert not recwarn.list


@pytest.mark.realdata
def test_read_series__real_series_has_the_grid_of_its_nifti_copy(shared_data: Path) -> None:
    study = shared_data / "ct" / "sts_019_dicom_rtstruct"
    found = series(study / "image")
    copy = sitk.ReadImage(str(study / "CT_image.nii.gz"))
    assert (found.geometry.size_xyz, found.dtype) == (copy.GetSize(), "int16")
    np.testing.assert_allclose(found.geometry.origin_mm, copy.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(found.geometry.spacing_mm, copy.GetSpacing(), atol=1e-6)

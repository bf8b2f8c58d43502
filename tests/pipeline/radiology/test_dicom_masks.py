"""Structure sets and segmentations as masks: against the masks that they were drawn from, and a real one."""

from __future__ import annotations

from pathlib import Path

import ct_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from ct_files import lesion

from mumo.config import RoisSettings
from mumo.pipeline.radiology.dicom_masks import fill_contours
from mumo.pipeline.radiology.geometry import Geometry, ImageError
from mumo.pipeline.radiology.lesions import lesion_mask
from mumo.pipeline.radiology.volumes import Volume, read_volume

SETTINGS = RoisSettings()
FRAME = "1.2.826.0.1.3680043.10.7"


def whole(volume: Volume, **fields: object) -> np.ndarray:
    """A lesion's mask in the whole volume, (z, y, x), LPS."""
    found = lesion_mask(volume, lesion(**fields), SETTINGS)
    mask = np.zeros(volume.array.shape, np.uint8)
    mask[found.box.slices] = found.mask
    return mask


def truth(mask: sitk.Image, volume: Volume) -> np.ndarray:
    """A mask in LPS order."""
    return (sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")) > 0).astype(np.uint8)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a * b).sum() / (a.sum() + b.sum()))


@pytest.fixture(params=["LPS", "RSA", "oblique"])
def scan(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Volume, sitk.Image, list[Path]]:
    """A DICOM series in several orientations, its lesion's mask, and its files from the first slice to the last."""
    image, mask = ct_files.ellipsoid()
    if request.param == "oblique":
        turn = np.array(sitk.VersorTransform((1.0, 2.0, 3.0), 0.3).GetMatrix())
        for one in (image, mask):
            one.SetDirection(turn.tolist())
    else:
        image, mask = (ct_files.turned(one, request.param) for one in (image, mask))
    files = ct_files.write_dicom(image, tmp_path / "series")
    for file in files:
        ct_files.change(file, FrameOfReferenceUID=FRAME)
    return read_volume(tmp_path / "series", max_voxels=10**6), mask, files


def test_rtstruct__gives_the_voxels_that_its_contours_enclose(
    tmp_path: Path, scan: tuple[Volume, sitk.Image, list[Path]]
) -> None:
    volume, mask, _ = scan
    rois = {"Body": [np.zeros((3, 3))], "GTV": ct_files.outlines(mask)}
    file = ct_files.write_rtstruct(tmp_path / "rs.dcm", rois, frame_uid=FRAME)
    expected = truth(mask, volume)
    for fields in ({"roi": "GTV"}, {"roi": "gtv "}, {"roi": "2"}, {"label": 2}):
        np.testing.assert_array_equal(whole(volume, mask=file, **fields), expected)


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_seg__gives_its_voxels_wherever_its_frames_lie(
    tmp_path: Path, scan: tuple[Volume, sitk.Image, list[Path]], kind: str
) -> None:
    volume, mask, files = scan
    array = sitk.GetArrayFromImage(mask)
    other = np.zeros_like(array)
    other[2, 3:9, 4:8] = 1
    file = ct_files.write_seg(tmp_path / "seg.dcm", files, {"Node": other, "Tumour": array}, kind=kind)
    for fields in ({"roi": "Tumour"}, {"label": 2}):
        np.testing.assert_array_equal(whole(volume, mask=file, **fields), truth(mask, volume))


def test_regions__are_refused_in_another_frame_of_reference(
    tmp_path: Path, scan: tuple[Volume, sitk.Image, list[Path]]
) -> None:
    volume, mask, _ = scan
    file = ct_files.write_rtstruct(tmp_path / "rs.dcm", {"GTV": ct_files.outlines(mask)}, frame_uid="1.2.3")
    with pytest.raises(ImageError, match="another DICOM frame of reference"):
        whole(volume, mask=file)


@pytest.mark.parametrize("fields", [{"roi": "DOE"}, {"label": 7}, {}, {"roi": "7"}])
def test_regions__that_are_not_there_are_refused_without_names(tmp_path: Path, fields: dict[str, object]) -> None:
    image, mask = ct_files.ellipsoid()
    ct_files.write_dicom(image, tmp_path / "series")
    volume = read_volume(tmp_path / "series", max_voxels=10**6)
    lines = ct_files.outlines(mask)
    file = ct_files.write_rtstruct(tmp_path / "rs.dcm", {"JANE": lines, "JANE2": lines})
    with pytest.raises(ImageError, match=r"fitting region\(s\) among those with the numbers 1, 2") as caught:
        whole(volume, mask=file, **fields)
    assert "JANE" not in str(caught.value)


def test_regions__of_other_or_damaged_dicom_are_refused(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    slices = ct_files.write_dicom(image, tmp_path / "series")
    volume = read_volume(tmp_path / "series", max_voxels=10**6)
    with pytest.raises(ImageError, match="holds no regions"):
        whole(volume, mask=slices[0])
    file = ct_files.write_rtstruct(tmp_path / "rs.dcm", {"GTV": ct_files.outlines(mask)})
    content = file.read_bytes()
    for share in (0.1, 0.5, 0.9):
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError, match="damaged or lacks"):
            whole(volume, mask=file)
    points = ct_files.write_rtstruct(tmp_path / "p.dcm", {"GTV": [np.zeros((2, 3))]})
    with pytest.raises(ImageError, match="without closed contours"):
        whole(volume, mask=points)
    ct_files.change(file.with_name("p.dcm"), ROIContourSequence=None)
    with pytest.raises(ImageError, match="damaged or lacks"):
        whole(volume, mask=points)


GRID = Geometry((20, 20, 6), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))


def square(low: float, high: float, z: float) -> np.ndarray:
    return np.array([[low, low, z], [high, low, z], [high, high, z], [low, high, z]])


def test_fill_contours__inner_contours_are_holes() -> None:
    mask, notes = fill_contours([square(2.5, 12.5, 4.0), square(5.5, 8.5, 4.0)], GRID, name="m")
    assert mask.sum() == 100 - 9
    assert not mask[2, 6:9, 6:9].any()
    assert notes == ()


def test_fill_contours__says_where_slices_are_left_out() -> None:
    _, notes = fill_contours([square(2.5, 12.5, 2.0), square(2.5, 12.5, 8.0)], GRID, name="m")
    assert notes == ("2 slice(s) between contours have none",)


@pytest.mark.parametrize(
    ("contour", "words"),
    [
        (square(2.5, 12.5, 3.0), "do not lie in the slices"),
        (np.array([[2, 2, 2.0], [9, 2, 4.0], [9, 9, 6.0]]), "do not lie in the slices"),
        (square(2.5, 12.5, 14.0), "outside the volume"),
        (square(2.5, 22.5, 4.0), "outside the volume"),
    ],
)
def test_fill_contours__refuses_contours_of_another_scan(contour: np.ndarray, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        fill_contours([contour, square(1, 3, 2.0)], GRID, name="m")


@pytest.mark.realdata
def test_rtstruct__of_a_real_study_is_its_nifti_mask(shared_data: Path) -> None:
    folder = shared_data / "ct" / "sts_019_dicom_rtstruct"
    volume = read_volume(folder / "image", max_voxels=10**8)
    found = whole(volume, mask=folder / "mask" / "RS.dcm", roi="GTV_Mass_CT")
    given = whole(volume, mask=folder / "CT_mask.nii.gz")
    assert dice(found, given) >= 0.99
    assert pydicom.dcmread(folder / "mask" / "RS.dcm").Modality == "RTSTRUCT"

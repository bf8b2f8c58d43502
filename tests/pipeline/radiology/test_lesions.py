"""Lesions in their volume: masks, boxes, both, the fallback; the same lesion whatever the order of the axes."""

from __future__ import annotations

from pathlib import Path

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk
from ct_files import lesion

from mumo.config import RoisSettings
from mumo.pipeline.cohorts.cohort import Lesion
from mumo.pipeline.radiology.geometry import ImageError
from mumo.pipeline.radiology.lesions import (
    IndexBox,
    LesionMask,
    box_region,
    lesion_mask,
    study_inputs,
    study_sources,
    threshold_mask,
)
from mumo.pipeline.radiology.masks import LabelReader
from mumo.pipeline.radiology.volumes import Volume, read_labels, read_volume

SETTINGS = RoisSettings()
LIMIT = SETTINGS.max_voxels
CODES = ["LPS", "RAS", "ASR", "SPL", "IRP", "PLI"]


@pytest.fixture
def image() -> sitk.Image:
    return ct_files.ellipsoid()[0]


@pytest.fixture
def mask() -> sitk.Image:
    return ct_files.ellipsoid()[1]


def read(image: sitk.Image, folder: Path, name: str = "v.nii.gz") -> Volume:
    return read_volume(ct_files.write(image, folder / name), max_voxels=LIMIT)


def stored_box(mask: sitk.Image) -> tuple[int, ...]:
    """Low and high corner of the label's box in the indices of that very image, by SimpleITK."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    low, size = shape.GetBoundingBox(3)[:3], shape.GetBoundingBox(3)[3:]
    return (*low, *(a + n - 1 for a, n in zip(low, size, strict=True)))


def mm_box(mask: sitk.Image) -> tuple[float, ...]:
    """Low and high corner in mm (LPS) of the centres of the label's voxels."""
    points = [mask.TransformIndexToPhysicalPoint(tuple(map(int, i[::-1]))) for i in np.argwhere(array_of(mask))]
    return (*np.min(points, axis=0), *np.max(points, axis=0))


def array_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def placed(found: LesionMask, volume: Volume) -> np.ndarray:
    """The mask in the whole volume."""
    whole = np.zeros(volume.array.shape, np.uint8)
    whole[found.box.slices] = found.mask
    return whole


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("mask_code", ["LPS", "RSA"])
@pytest.mark.parametrize("label", [3, None])
def test_lesion_mask__of_a_label_mask_in_any_order_of_axes(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image, code: str, mask_code: str, label: int | None
) -> None:
    volume = read(ct_files.turned(image, code), tmp_path)
    file = ct_files.write(ct_files.turned(mask, mask_code), tmp_path / "m.nrrd")
    found = lesion_mask(volume, lesion(mask=file, label=label), SETTINGS)
    assert found.source == "given"
    np.testing.assert_array_equal(placed(found, volume), array_of(mask) > 0)
    low_high = stored_box(mask)
    assert found.box == IndexBox(low_high[2::-1], tuple(v + 1 for v in low_high[:2:-1]))


@pytest.mark.parametrize("code", CODES)
def test_box_region__of_a_box_in_stored_voxels_in_any_order_of_axes(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image, code: str
) -> None:
    stored = ct_files.turned(mask, code)
    volume = read(ct_files.turned(image, code), tmp_path)
    box, region = box_region(volume.geometry, volume.stored, lesion(box=stored_box(stored)), name="lesion")
    low_high = stored_box(mask)
    assert box == IndexBox(low_high[2::-1], tuple(v + 1 for v in low_high[:2:-1]))
    assert region.all()
    assert region.shape == box.shape


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("edge", [0.0, 0.49])
def test_box_region__of_a_box_in_mm_may_follow_centres_or_edges_of_voxels(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image, code: str, edge: float
) -> None:
    volume = read(ct_files.turned(image, code), tmp_path)
    rim = edge * np.array(ct_files.SPACING)
    low_high = mm_box(mask)
    wanted = (*(low_high[:3] - rim), *(low_high[3:] + rim))
    box, region = box_region(volume.geometry, volume.stored, lesion(box=wanted, box_unit="mm"), name="lesion")
    inside = np.argwhere(array_of(mask))
    assert box == IndexBox(tuple(inside.min(axis=0)), tuple(inside.max(axis=0) + 1))
    assert region.all()
    np.testing.assert_allclose(box.to_mm(volume.geometry), low_high, atol=1e-5)


def test_box_region__a_box_thinner_than_a_voxel_is_one_voxel_thick(tmp_path: Path, image: sitk.Image) -> None:
    volume = read(image, tmp_path)
    x, y, z = volume.geometry.to_mm((20, 10, 6))
    flat = lesion(box=(x, y, z - 0.9, x + 4, y + 4.5, z - 0.9), box_unit="mm")
    box, region = box_region(volume.geometry, volume.stored, flat, name="lesion")
    assert (box.low_zyx, box.shape) == ((6, 10, 20), (1, 6, 6))
    assert region.all()


@pytest.mark.parametrize("unit", ["voxel", "mm"])
def test_box_region__may_fill_the_volume_but_not_leave_it(tmp_path: Path, image: sitk.Image, unit: str) -> None:
    volume = read(image, tmp_path)
    corners = volume.geometry.corners_mm(outer=unit == "mm")
    whole = (0, 0, 0, 39, 35, 13) if unit == "voxel" else (*corners.min(axis=0), *corners.max(axis=0))
    box, region = box_region(volume.geometry, volume.stored, lesion(box=whole, box_unit=unit), name="lesion")
    assert box.shape == volume.array.shape
    assert region.all()
    for axis in range(6):
        beyond = list(whole)
        beyond[axis] += 1 if axis >= 3 else -1
        with pytest.raises(ImageError, match="expected a box inside the volume"):
            box_region(volume.geometry, volume.stored, lesion(box=tuple(beyond), box_unit=unit), name="lesion")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (None, "neither mask nor box"),
        ((5, 5, 5, 4, 9, 9), "low corners"),
        ((5, 5, float("nan"), 6, 9, 9), "low corners"),
        ((400, 5, 5, 410, 9, 9), r"from \(400, 5, 5\) to \(410, 9, 9\) voxels; expected a box inside the volume of "
         r"\(40, 36, 14\) voxels"),
    ],
)  # fmt: skip
def test_box_region__refuses_boxes_that_make_no_sense(
    tmp_path: Path, image: sitk.Image, box: tuple[float, ...] | None, words: str
) -> None:
    volume = read(image, tmp_path)
    with pytest.raises(ImageError, match=words) as caught:
        lesion_mask(volume, lesion("L7", box=box), SETTINGS, name="CT study C1, ")
    assert str(caught.value).startswith("CT study C1, lesion L7: found")


def test_lesion_mask__of_mask_and_box_is_the_mask_inside_the_box(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image
) -> None:
    volume = read(image, tmp_path)
    file = ct_files.write(mask, tmp_path / "m.nii.gz")
    found = lesion_mask(volume, lesion(mask=file, label=3, box=(0, 0, 0, 22, 35, 6)), SETTINGS)
    expected = array_of(mask) > 0
    expected[7:], expected[:, :, 23:] = False, False
    assert found.source == "given"
    assert found.box == IndexBox((0, 0, 0), (7, 36, 23))
    np.testing.assert_array_equal(placed(found, volume), expected)
    with pytest.raises(ImageError, match="an empty mask; expected voxels of label 3 inside the lesion's box"):
        lesion_mask(volume, lesion(mask=file, label=3, box=(0, 0, 0, 5, 5, 5)), SETTINGS)


def oblique(upright: sitk.Image, angle_deg: float, *, nearest: bool) -> sitk.Image:
    """An image sampled on a grid that is turned about all axes, in the middle of the upright one."""
    turn = sitk.VersorTransform((1.0, 1.0, 2.0), np.radians(angle_deg)).GetMatrix()
    size = (70, 70, 70)
    direction = np.array(turn).reshape(3, 3)
    middle = np.array(upright.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in upright.GetSize()]))
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing((0.7, 0.7, 0.7))
    grid.SetDirection(direction.ravel().tolist())
    grid.SetOrigin((middle - direction @ (np.array(size) * 0.35)).tolist())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    return sitk.Resample(upright, grid, sitk.Transform(), method, -1000.0)


@pytest.mark.parametrize("angle_deg", [15.0, 40.0, 100.0])
def test_lesion_mask__oblique_grids_give_the_lesion_of_the_upright_copy(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image, angle_deg: float
) -> None:
    upright = read(image, tmp_path)
    turned = read(oblique(image, angle_deg, nearest=False), tmp_path, "o.nrrd")
    assert np.abs(np.array(turned.direction) - np.eye(3).ravel()).max() > 0.1
    box = lesion(box=mm_box(mask), box_unit="mm")
    expected, found = lesion_mask(upright, box, SETTINGS), lesion_mask(turned, box, SETTINGS)
    volumes = [m.mask.sum() * v.geometry.voxel_mm3() for m, v in ((expected, upright), (found, turned))]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.15)
    centres = [
        v.geometry.to_mm(np.argwhere(placed(m, v))[:, ::-1]).mean(axis=0)
        for m, v in ((expected, upright), (found, turned))
    ]
    np.testing.assert_allclose(centres[1], centres[0], atol=0.4)
    region = box_region(turned.geometry, turned.stored, box, name="lesion")
    points = turned.geometry.to_mm(np.argwhere(region[1])[:, ::-1] + np.array(region[0].low_zyx[::-1]))
    low_high = np.array(mm_box(mask))
    assert (points >= low_high[:3] - 1e-3).all()
    assert (points <= low_high[3:] + 1e-3).all()
    box_mm3 = np.prod(low_high[3:] - low_high[:3])
    assert region[1].sum() * turned.geometry.voxel_mm3() == pytest.approx(box_mm3, rel=0.05)


def test_lesion_mask__refuses_a_mask_of_another_grid(tmp_path: Path, image: sitk.Image, mask: sitk.Image) -> None:
    volume = read(image, tmp_path)
    shifted = sitk.Image(mask)
    shifted.SetOrigin((-20.0, 11.0, -104.0))
    for number, wrong in enumerate((shifted, mask[:, :, 1:], mask[:39])):
        file = ct_files.write(wrong, tmp_path / f"m{number}.nii.gz")
        with pytest.raises(ImageError, match="lesion L1, mask: found another grid than the volume's"):
            lesion_mask(volume, lesion(mask=file), SETTINGS)


def test_lesion_mask__takes_a_mask_within_the_tolerance(tmp_path: Path, image: sitk.Image, mask: sitk.Image) -> None:
    volume = read(image, tmp_path)
    near = sitk.Image(mask)
    near.SetOrigin((-20.0, 11.0, -104.96))
    file = ct_files.write(near, tmp_path / "m.nii.gz")
    with pytest.raises(ImageError, match=r"within 0\.01 mm"):
        lesion_mask(volume, lesion(mask=file), RoisSettings(resample_tolerance_mm=0.03))
    found = lesion_mask(volume, lesion(mask=file), RoisSettings(geometry_tolerance_mm=0.05))
    np.testing.assert_array_equal(placed(found, volume), array_of(mask) > 0)
    assert found.warnings == ()
    resampled = lesion_mask(volume, lesion(mask=file), SETTINGS)
    np.testing.assert_array_equal(placed(resampled, volume), array_of(mask) > 0)
    assert resampled.warnings == ("mask resampled to the volume's grid (corners 0.04 mm apart)",)


def test_lesion_mask__of_finer_voxels_over_the_same_space_is_resampled(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image
) -> None:
    volume = read(image, tmp_path)
    fine = sitk.Image(80, 72, 70, sitk.sitkUInt8)
    fine.SetSpacing((0.4, 0.45, 0.5))
    fine.SetOrigin((-20.0 - 0.2, 11.0 - 0.225, -105.0 - 1.0))
    fine = sitk.Resample(mask, fine, sitk.Transform(), sitk.sitkNearestNeighbor)
    found = lesion_mask(volume, lesion(mask=ct_files.write(fine, tmp_path / "f.nii.gz"), label=3), SETTINGS)
    truth = array_of(mask) > 0
    assert 2 * (placed(found, volume) & truth).sum() / (found.mask.sum() + truth.sum()) > 0.99


def test_lesion_mask__says_which_labels_there_are(tmp_path: Path, image: sitk.Image, mask: sitk.Image) -> None:
    volume = read(image, tmp_path)
    array = array_of(mask)
    array[0, 0, :30] = np.arange(10, 40)
    file = ct_files.write(ct_files.image_of(array, mask), tmp_path / "m.nii.gz")
    with pytest.raises(ImageError, match=r"found labels 3, 10, 11, .*, 28, …; expected voxels of label 4"):
        lesion_mask(volume, lesion(mask=file, label=4), SETTINGS)
    empty = ct_files.write(mask * 0, tmp_path / "e.nii.gz")
    with pytest.raises(ImageError, match="found an empty mask; expected voxels other than 0"):
        lesion_mask(volume, lesion(mask=empty), SETTINGS)
    with pytest.raises(ImageError, match="lesion L1, mask: found no such file"):
        lesion_mask(volume, lesion(mask=tmp_path / "none.nii.gz"), SETTINGS)


def test_lesion_mask__of_a_box_finds_the_lesion_by_threshold(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image
) -> None:
    volume = read(image, tmp_path)
    found = lesion_mask(volume, lesion(box=stored_box(mask)), SETTINGS)
    assert found.source == "threshold"
    truth = array_of(mask) > 0
    dice = 2 * (placed(found, volume) & truth).sum() / (found.mask.sum() + truth.sum())
    assert dice > 0.97
    everything = lesion_mask(volume, lesion(box=stored_box(mask)), RoisSettings(fallback_threshold_hu=(900, 999)))
    assert everything.mask.all()
    assert everything.source == "threshold"


def test_threshold_mask__cuts_bridges_and_keeps_the_largest_piece() -> None:
    intensity = np.full((3, 20, 30), -100)
    intensity[:, 5:15, 2:12] = 50  # 10 × 10
    intensity[:, 6:12, 16:22] = 50  # 6 × 6
    intensity[1, 9, 12:16] = 50  # a bridge of one voxel
    found = threshold_mask(intensity, np.ones(intensity.shape, bool), (0, 200))
    expected = np.zeros(intensity.shape)
    expected[:, 5:15, 2:12] = 1
    expected[:, [5, 5, 14, 14], [2, 11, 2, 11]] = 0  # a cross does not reach into corners
    expected[1, 9, 12] = found[1, 9, 12]  # the stub of the bridge may stay
    np.testing.assert_array_equal(found, expected)


def test_threshold_mask__leaves_out_steps_that_would_leave_nothing() -> None:
    line = np.full((2, 5, 9), -100)
    line[1, 2, 1:8] = 50
    everywhere = np.ones(line.shape, bool)
    np.testing.assert_array_equal(threshold_mask(line, everywhere, (0, 200)), line > 0)
    np.testing.assert_array_equal(threshold_mask(line, everywhere, (300, 400)), everywhere)
    corner = np.zeros(line.shape, bool)
    corner[0, :2, :2] = True
    np.testing.assert_array_equal(threshold_mask(line, corner, (0, 200)), corner)


def test_threshold_mask__keeps_a_lesion_of_one_slice() -> None:
    intensity = np.full((1, 9, 9), 50)
    assert threshold_mask(intensity, np.ones(intensity.shape, bool), (0, 200)).sum() == 77  # all but the corners


def test_label_reader__reads_a_shared_file_once(
    tmp_path: Path, image: sitk.Image, mask: sitk.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = read(image, tmp_path)
    first = ct_files.write(mask, tmp_path / "a.nii.gz")
    second = ct_files.write(mask, tmp_path / "b.nii.gz")
    read_files: list[Path] = []

    def spy(path: Path, **options: object) -> Volume:
        read_files.append(path)
        return read_labels(path, **options)

    monkeypatch.setattr("mumo.pipeline.radiology.masks.read_labels", spy)
    labels = LabelReader(SETTINGS)
    for file in (first, first, second, first):
        lesion_mask(volume, lesion(mask=file), SETTINGS, labels=labels)
    assert read_files == [first, second, first]


def test_study_sources__are_the_volume_and_every_mask_once(tmp_path: Path, image: sitk.Image, mask: sitk.Image) -> None:
    volume = ct_files.write(image, tmp_path / "v.mhd")
    first = ct_files.write(mask, tmp_path / "a.nii.gz")
    second = ct_files.write(mask, tmp_path / "b.mhd")
    lesions: list[Lesion] = [
        lesion("L1", mask=first, label=1),
        lesion("L2", mask=second),
        lesion("L3", mask=first, label=2),
        lesion("L4", box=(0, 0, 0, 1, 1, 1)),
    ]
    study = ct_files.study(volume, *lesions, series_uid="1.2.3.4")
    found = [(source.role, source.path.name, source.full) for source in study_sources(study, SETTINGS)]
    assert found == [
        ("volume", "v.mhd", False),
        ("volume-data", "v.raw", False),
        ("mask-0", "a.nii.gz", True),
        ("mask-1", "b.mhd", True),
        ("mask-1-data", "b.raw", True),
    ]
    inputs = study_inputs(study)
    assert [entry["mask"] for entry in inputs["lesions"]] == [0, 1, 0, None]
    assert "1.2.3.4" not in str(inputs)
    assert str(tmp_path) not in str(inputs)


@pytest.mark.realdata
def test_lesion_mask__nifti_mask_on_real_dicom_and_on_its_nifti_copy(shared_data: Path) -> None:
    folder = shared_data / "ct" / "sts_019_dicom_rtstruct"
    given = lesion(mask=folder / "CT_mask.nii.gz", label=1)
    dicom = read_volume(folder / "image", max_voxels=LIMIT)
    nifti = read_volume(folder / "CT_image.nii.gz", max_voxels=LIMIT)
    truth = array_of(sitk.ReadImage(str(folder / "CT_mask.nii.gz"))) > 0
    for volume in (dicom, nifti):
        found = placed(lesion_mask(volume, given, SETTINGS), volume)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) == 1.0


@pytest.mark.realdata
@pytest.mark.parametrize(("image", "labels"), [("lung1_image", "lung1_label"), ("lung2_image_roi", "lung2_label")])
def test_lesion_mask__volume_is_that_of_label_shape_statistics(shared_data: Path, image: str, labels: str) -> None:
    folder = shared_data / "ct" / "pyradiomics"
    volume = read_volume(folder / f"{image}.nrrd", max_voxels=LIMIT)
    found = lesion_mask(volume, lesion(mask=folder / f"{labels}.nrrd", label=1), SETTINGS)
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.ReadImage(str(folder / f"{labels}.nrrd"), sitk.sitkUInt8))
    assert found.mask.sum() * volume.geometry.voxel_mm3() == pytest.approx(shape.GetPhysicalSize(1), rel=1e-9)
    low, size = shape.GetBoundingBox(1)[:3], shape.GetBoundingBox(1)[3:]
    assert found.box.low_zyx == low[::-1]
    assert found.box.shape == size[::-1]

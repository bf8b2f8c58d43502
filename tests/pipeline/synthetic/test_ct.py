from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from mumo.pipeline.synthetic.anatomy import CENTRE_OFFSET_HU, render_volume
from mumo.pipeline.synthetic.ct import MADE_UP_IDENTIFIERS, WrittenStudy, write_study
from mumo.pipeline.synthetic.plan import CtPlan, LesionPlan, plan_cohort

LESIONS = (LesionPlan("L1", "stomach", 0.5), LesionPlan("L2", "lymph node", -0.5), LesionPlan("L3", "liver", 0.0))


def study(**changes: Any) -> CtPlan:
    plan = CtPlan("C0007", "P0009", "B", "nifti", 0, "study mask", second_series=False, lesions=LESIONS)
    return replace(plan, **changes)


def write(folder: Path, plan: CtPlan) -> WrittenStudy:
    for name in ("ct", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return write_study(folder, plan, seed=2)


def read(folder: Path, written: WrittenStudy) -> Any:
    path = folder / written.path
    if not path.is_dir():
        return sitk.ReadImage(str(path))
    series = written.series_uid or sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))[0]
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series))


def lps(image: Any) -> Any:
    return sitk.DICOMOrient(image, "LPS")


@pytest.mark.parametrize("layout", [0, 1, 2, 3])
@pytest.mark.parametrize("format_", ["dicom", "nifti"])
def test_write_study__simpleitk_finds_every_voxel_where_it_belongs(format_: str, layout: int, tmp_path: Path) -> None:
    plan = study(format=format_, layout=layout)
    written = write(tmp_path, plan)
    volume = render_volume(plan, seed=2)
    image = lps(read(tmp_path, written))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.hu)
    np.testing.assert_allclose(image.GetSpacing(), volume.spacing_mm, atol=1e-4)
    np.testing.assert_allclose(image.GetOrigin(), volume.origin_mm, atol=1e-3)
    mask = lps(sitk.ReadImage(str(tmp_path / written.mask)))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), volume.labels)
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)


def test_write_study__layouts_differ_in_the_files(tmp_path: Path) -> None:
    directions = set()
    for format_ in ("dicom", "nifti"):
        for layout in range(4):
            folder = tmp_path / f"{format_}{layout}"
            written = write(folder, study(format=format_, layout=layout))
            directions.add(tuple(round(value) for value in read(folder, written).GetDirection()))
    assert len(directions) >= 4


def test_write_study__dicom_files_are_out_of_order(tmp_path: Path) -> None:
    written = write(tmp_path, study(format="dicom", layout=1))
    heights = [
        float(pydicom.dcmread(file).ImagePositionPatient[2]) for file in sorted((tmp_path / written.path).iterdir())
    ]
    assert heights != sorted(heights) and heights != sorted(heights, reverse=True)


def test_write_study__dicom_slice_thickness_is_not_their_distance(tmp_path: Path) -> None:
    written = write(tmp_path, study(format="dicom"))
    header = pydicom.dcmread(next((tmp_path / written.path).iterdir()))
    spacing = read(tmp_path, written).GetSpacing()
    assert float(header.SliceThickness) == 5.0
    assert spacing[2] == pytest.approx(4.0)
    assert float(header.PixelSpacing[0]) == pytest.approx(spacing[0])


def test_write_study__dicom_headers_hold_made_up_identifiers(tmp_path: Path) -> None:
    written = write(tmp_path, study(format="dicom"))
    content = next((tmp_path / written.path).iterdir()).read_bytes()
    for word in MADE_UP_IDENTIFIERS:
        assert word.encode() in content


def test_write_study__dicom_headers_are_valid(tmp_path: Path) -> None:
    written = write(tmp_path, study(format="dicom", second_series=True))
    instances = set()
    for file in (tmp_path / written.path).iterdir():
        header = pydicom.dcmread(file)
        assert len(header.SOPInstanceUID) <= 64
        assert header.file_meta.MediaStorageSOPInstanceUID == header.SOPInstanceUID
        instances.add(header.SOPInstanceUID)
    assert len(instances) == len(list((tmp_path / written.path).iterdir()))


def test_write_study__second_series_makes_the_uid_necessary(tmp_path: Path) -> None:
    written = write(tmp_path, study(format="dicom", second_series=True))
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(tmp_path / written.path))
    assert len(series) == 2 and written.series_uid in series
    assert read(tmp_path, written).GetDepth() == len(render_volume(study(), seed=2).hu)
    assert write(tmp_path / "other", study(format="dicom")).series_uid == ""


def test_write_study__boxes_are_the_smallest_around_each_lesion(tmp_path: Path) -> None:
    written = write(tmp_path, study(annotation="boxes", layout=3))
    assert written.mask == "" and not written.lesion_masks
    volume = render_volume(study(), seed=2)
    image = read(tmp_path, written)
    for number, lesion in enumerate(LESIONS, start=1):
        box = written.boxes_mm[lesion.lesion]
        corners = [image.TransformPhysicalPointToContinuousIndex(corner) for corner in (box[:3], box[3:])]
        np.testing.assert_allclose(corners, np.rint(corners), atol=1e-3)
        low, high = ((np.array(corner) - volume.origin_mm) / volume.spacing_mm for corner in (box[:3], box[3:]))
        x, y, z = (slice(round(a), round(b) + 1) for a, b in zip(low, high, strict=True))
        inside = volume.labels[z, y, x] == number
        assert inside.sum() == (volume.labels == number).sum()
        for face in (inside[0], inside[-1], inside[:, 0], inside[:, -1], inside[..., 0], inside[..., -1]):
            assert face.any()


def test_write_study__lesion_masks_hold_one_lesion_each(tmp_path: Path) -> None:
    written = write(tmp_path, study(annotation="lesion masks"))
    volume = render_volume(study(), seed=2)
    for number, lesion in enumerate(LESIONS, start=1):
        mask = sitk.GetArrayFromImage(lps(sitk.ReadImage(str(tmp_path / written.lesion_masks[lesion.lesion]))))
        np.testing.assert_array_equal(mask, volume.labels == number)


def test_render_volume__second_centre_is_offset() -> None:
    air = {centre: np.median(render_volume(study(centre=centre), 0).hu[:, :4, :4]) for centre in ("A", "B")}
    assert air["B"] - air["A"] == pytest.approx(CENTRE_OFFSET_HU["B"], abs=3)


def test_render_volume__lesions_are_apart_and_large_enough() -> None:
    for plan in plan_cohort(100, 0, signal=True).ct:
        voxels = np.bincount(render_volume(plan, 0).labels.ravel(), minlength=len(plan.lesions) + 1)
        assert len(voxels) == len(plan.lesions) + 1
        assert voxels[1:].min() >= 60


def test_render_volume__has_air_fat_soft_tissue_and_bone() -> None:
    hu = render_volume(study(centre="A"), 0).hu
    for low, high in ((-1024, -900), (-130, -70), (20, 140), (300, 700)):
        assert ((hu >= low) & (hu < high)).mean() > 0.005


def test_render_volume__lesions_of_low_score_are_patchy() -> None:
    spread = []
    for score in (-1.5, 1.5):
        volume = render_volume(study(lesions=(LesionPlan("L1", "liver", score),)), 0)
        spread.append(volume.hu[volume.labels == 1].std())
    assert spread[0] > 1.5 * spread[1]


def test_write_study__is_the_same_to_the_byte(tmp_path: Path) -> None:
    for plan in (study(format="dicom", layout=2), study(ct="C0008", layout=1)):
        for name in ("first", "second"):
            write(tmp_path / name, plan)
    first, second = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("first", "second")
    )
    assert first == second

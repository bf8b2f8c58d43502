"""The `rois` stage: from files in any format to crops, volumes and a table."""

from __future__ import annotations

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import ct_files
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom._dicom_dict import DicomDictionary

from mumo.config import Settings, parse_settings
from mumo.pipeline.cohorts.cohort import Cohort, CtStudy
from mumo.pipeline.radiology.contact import PANEL_PX
from mumo.pipeline.rois import RoisStage
from mumo.pipeline.windows import WindowsStage
from mumo.stores.arrays import open_array, open_group
from mumo.stores.records import Store
from mumo.stores.specs import LESION_CROPS, LESION_INTENSITY, LESION_MASK, LESIONS, WINDOWS
from mumo.stores.tables import read_rows, write_table


def settings(**rois: Any) -> Settings:
    return parse_settings({"rois": {"crop_px": 48, "views": 2, **rois}})


def run(cohort: Cohort, folder: Path, with_settings: Settings | None = None) -> Store:
    """A store with windows and rois of a cohort; every item must succeed."""
    store = Store.create(folder)
    for stage in (WindowsStage(), RoisStage()):
        report = ct_files.extract(stage, cohort, store, with_settings or settings())
        assert report.complete, (report.failed, report.waiting)
    return store


def rows_of(store: Store, ct: str = "C1") -> list[dict[str, Any]]:
    return read_rows(store.part("rois", f"ct-{ct}", "lesions.parquet"), LESIONS)


def crops_of(store: Store, ct: str = "C1") -> np.ndarray:
    return np.asarray(open_array(open_group(store.part("rois", f"ct-{ct}", "crops.zarr")), LESION_CROPS)[...])


def volume_of(store: Store, number: int = 0, ct: str = "C1") -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    group = open_group(store.part("rois", f"ct-{ct}", "volumes.zarr"))[str(number)]
    return (
        np.asarray(open_array(group, LESION_INTENSITY)[...]),
        np.asarray(open_array(group, LESION_MASK)[...]),
        dict(group.attrs),
    )


@pytest.fixture
def study(tmp_path: Path) -> CtStudy:
    """One lesion by mask, in NIfTI."""
    return make_study(tmp_path, "nii.gz", "LPS")


def make_study(folder: Path, ending: str, code: str, **fields: Any) -> CtStudy:
    image, mask = (ct_files.turned(one, code) for one in ct_files.ellipsoid())
    if ending == "dicom":
        volume = folder / "dicom"
        ct_files.write_dicom(image, volume)
    else:
        volume = ct_files.write(image, folder / f"v.{ending}")
    given = ct_files.lesion(mask=ct_files.write(mask, folder / "m.nii.gz"), label=3)
    return ct_files.study(volume, given, **fields)


def test_rois__every_format_and_order_of_axes_gives_the_same_lesion(tmp_path: Path) -> None:
    expected: tuple[Any, ...] | None = None
    for ending in ("nii", "nii.gz", "nrrd", "mha", "mhd", "dicom"):
        for code in ("LPS", "PIR"):
            folder = tmp_path / f"{ending}-{code}"
            folder.mkdir()
            store = run(ct_files.cohort(make_study(folder, ending, code)), folder / "store")
            row = rows_of(store)[0]
            floats = np.array([row.pop("area_mm2"), row.pop("volume_mm3"), *row.pop("box_mm"), *row.pop("spacing_mm")])
            intensity, mask, attributes = volume_of(store)
            if expected is None:
                expected = (crops_of(store), intensity, mask, row, floats)
            np.testing.assert_array_equal(crops_of(store), expected[0])
            np.testing.assert_array_equal(intensity, expected[1])
            np.testing.assert_array_equal(mask, expected[2])
            assert row == expected[3]
            np.testing.assert_allclose(floats, expected[4], rtol=1e-5)
            np.testing.assert_allclose(attributes["spacing_mm"], ct_files.SPACING, rtol=1e-6)


def test_rois__table_says_what_simpleitk_measures(tmp_path: Path, study: CtStudy) -> None:
    row = rows_of(run(ct_files.cohort(study), tmp_path / "store"))[0]
    mask = ct_files.ellipsoid()[1]
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    assert row["volume_mm3"] == pytest.approx(shape.GetPhysicalSize(3), rel=1e-6)
    areas = []
    for z in range(mask.GetSize()[2]):
        shape.Execute(mask[:, :, z])
        areas.append(shape.GetPhysicalSize(3) if shape.HasLabel(3) else 0.0)
    assert row["slice_z"] == int(np.argmax(areas))
    assert row["area_mm2"] == pytest.approx(max(areas), rel=1e-6)
    shape.Execute(mask)
    low, size = np.array(shape.GetBoundingBox(3)[:3]), np.array(shape.GetBoundingBox(3)[3:])
    corners = [mask.TransformIndexToPhysicalPoint(c.tolist()) for c in (low, low + size - 1)]
    np.testing.assert_allclose(row["box_mm"], np.concatenate(corners), atol=1e-4)
    assert (row["mask_source"], row["window_level"], row["edge_slice"]) == ("given", "cohort", False)
    assert (row["patient"], row["ct"], row["lesion"], row["lesion_type"], row["centre"]) == (
        "P1", "C1", "L1", "liver", "A",
    )  # fmt: skip


def test_rois__crop_is_the_windowed_box_of_the_slice_and_its_neighbours(tmp_path: Path, study: CtStudy) -> None:
    """Sampled again with SimpleITK, from the file, at the places that box, margin and size imply."""
    store = run(ct_files.cohort(study), tmp_path / "store", settings(margin_mm=4.0))
    row, crop = rows_of(store)[0], crops_of(store)[0, 0]
    image = sitk.ReadImage(str(study.path))
    low, high = np.array(row["box_mm"][:2]), np.array(row["box_mm"][3:5])
    start = low - np.array(ct_files.SPACING[:2]) / 2 - 4.0
    step = (high - low + np.array(ct_files.SPACING[:2]) + 8.0) / 48
    grid = sitk.Image(48, 48, 14, sitk.sitkFloat32)
    grid.SetOrigin((*(start + step / 2), ct_files.ORIGIN[2]))
    grid.SetSpacing((*step, ct_files.SPACING[2]))
    scaled = sitk.IntensityWindowing(sitk.Cast(image, sitk.sitkFloat32), row["low_hu"], row["high_hu"], 0, 255)
    expected = sitk.GetArrayFromImage(sitk.Resample(scaled, grid))[row["slice_z"] - 1 : row["slice_z"] + 2]
    np.testing.assert_allclose(crop, expected, atol=0.6)
    assert crop.std() > 30


def test_rois__volume_keeps_intensities_and_mask_with_the_margin(tmp_path: Path, study: CtStudy) -> None:
    store = run(ct_files.cohort(study), tmp_path / "store", settings(volume_margin_mm=5.0))
    image, mask = (sitk.GetArrayFromImage(one) for one in ct_files.ellipsoid())
    inside = np.argwhere(mask)
    margin = np.array([2, 6, 7])  # 5 mm in voxels of 2.5, 0.9, 0.8 mm, rounded up
    low = np.maximum(inside.min(axis=0) - margin, 0)
    high = np.minimum(inside.max(axis=0) + 1 + margin, image.shape)
    part = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    intensity, stored_mask, attributes = volume_of(store)
    np.testing.assert_array_equal(intensity, image[part])
    np.testing.assert_array_equal(stored_mask, mask[part] > 0)
    assert intensity.dtype == np.float32
    assert attributes["spacing_mm"] == pytest.approx(ct_files.SPACING)


def test_rois__views_are_stored_with_the_plain_one_first(tmp_path: Path, study: CtStudy) -> None:
    store = run(ct_files.cohort(study), tmp_path / "store", settings(views=5))
    crops = crops_of(store)
    assert (crops.shape, crops.dtype) == ((1, 6, 3, 48, 48), np.uint8)
    assert all(np.abs(crops[0, 0].astype(int) - view).mean() > 1 for view in crops[0, 1:])
    assert all(view.std() > 20 for view in crops[0])
    none = crops_of(run(ct_files.cohort(study), tmp_path / "none", settings(views=0)))
    np.testing.assert_array_equal(none[0, 0], crops[0, 0])
    again = crops_of(run(ct_files.cohort(study), tmp_path / "again", settings(views=5)))
    np.testing.assert_array_equal(again, crops)
    other = crops_of(run(ct_files.cohort(study), tmp_path / "other", settings(views=5, seed=1)))
    np.testing.assert_array_equal(other[0, 0], crops[0, 0])
    assert (other[0, 1:] != crops[0, 1:]).any(axis=(1, 2, 3)).all()


def test_rois__views_of_a_lesion_do_not_depend_on_other_lesions(tmp_path: Path, study: CtStudy) -> None:
    fixed = {"level": "cohort", "lesion_type": "", "centre": "", "low_hu": -100.0, "high_hu": 200.0, "lesions": 9}
    write_table(tmp_path / "windows.parquet", [fixed], WINDOWS)
    chosen = parse_settings({"rois": {"crop_px": 48}, "windows": {"table": str(tmp_path / "windows.parquet")}})
    both = ct_files.study(study.path, ct_files.lesion("L2", box=(5, 5, 2, 12, 12, 6)), study.lesions[0])
    alone = crops_of(run(ct_files.cohort(study), tmp_path / "alone", chosen))
    np.testing.assert_array_equal(crops_of(run(ct_files.cohort(both), tmp_path / "both", chosen))[1], alone[0])


def test_rois__edge_slices_are_repeated_and_flagged(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    cut = slice(6, 14)  # the largest slice becomes the lowest one
    volume = ct_files.write(image[:, :, cut], tmp_path / "v.nii.gz")
    given = ct_files.lesion(mask=ct_files.write(mask[:, :, cut], tmp_path / "m.nii.gz"))
    store = run(ct_files.cohort(ct_files.study(volume, given)), tmp_path / "store")
    row, crop = rows_of(store)[0], crops_of(store)[0, 0]
    assert (row["slice_z"], row["edge_slice"]) == (0, True)
    np.testing.assert_array_equal(crop[0], crop[1])
    assert (crop[1] != crop[2]).any()
    record = store.record("rois", "ct-C1")
    assert record is not None
    assert record.summary["warnings"] == [
        "largest slice at the edge of the volume, repeated for its neighbour: lesion L1"
    ]


def test_rois__marks_masks_made_by_threshold(tmp_path: Path, study: CtStudy) -> None:
    boxed = ct_files.lesion("L2", box=(14, 9, 2, 30, 21, 10))
    cohort = ct_files.cohort(ct_files.study(study.path, study.lesions[0], boxed))
    store = run(cohort, tmp_path / "store")
    given, fallback = rows_of(store)
    assert (given["mask_source"], fallback["mask_source"]) == ("given", "threshold")
    assert fallback["volume_mm3"] == pytest.approx(given["volume_mm3"], rel=0.1)
    record = store.record("rois", "ct-C1")
    assert record is not None
    assert record.summary["warnings"] == ["mask by threshold inside the box, none was given: lesion L2"]


def test_rois__uses_the_window_of_its_type_and_centre(tmp_path: Path) -> None:
    studies = []
    for number, (hu, centre) in enumerate(((60.0, "A"), (160.0, "B")), start=1):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        image, mask = ct_files.ellipsoid(number, hu)
        given = ct_files.lesion(mask=ct_files.write(mask, folder / "m.nrrd"))
        volume = ct_files.write(image, folder / "v.nrrd")
        studies.append(ct_files.study(volume, given, ct=f"C{number}", patient=f"P{number}", centre=centre))
    chosen = parse_settings({"windows": {"min_lesions": 1}, "rois": {"crop_px": 32, "views": 0}})
    store = run(ct_files.cohort(*studies), tmp_path / "store", chosen)
    first, second = rows_of(store, "C1")[0], rows_of(store, "C2")[0]
    assert first["window_level"] == second["window_level"] == "pair"
    assert second["low_hu"] - first["low_hu"] == pytest.approx(100, abs=12)


def test_rois__of_a_study_without_lesions_is_empty_and_waits_for_nothing(tmp_path: Path, study: CtStudy) -> None:
    store = Store.create(tmp_path / "store")
    report = ct_files.extract(RoisStage(), ct_files.cohort(ct_files.study(study.path)), store, settings())
    assert report.empty == 1
    assert report.nothing_in == {"ct-C1": "the study has no lesions"}
    assert crops_of(store).shape == (0, 3, 3, 48, 48)
    assert rows_of(store) == []
    assert list(open_group(store.part("rois", "ct-C1", "volumes.zarr")).group_keys()) == []


def test_rois__of_a_study_without_lesions_fails_where_the_volume_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "v.nrrd").write_bytes(b"nothing")
    bare = ct_files.cohort(ct_files.study(tmp_path / "v.nrrd"))
    report = ct_files.extract(RoisStage(), bare, Store.create(tmp_path / "store"), settings())
    assert report.empty == 0
    assert report.failed["ct-C1"].startswith("ImageError: CT study C1: found ")


def test_rois__waits_for_the_windows(tmp_path: Path, study: CtStudy) -> None:
    store = Store.create(tmp_path / "store")
    report = ct_files.extract(RoisStage(), ct_files.cohort(study), store, settings())
    assert report.waiting == {"ct-C1": "windows/cohort is not there"}


def test_rois__fails_as_a_whole_for_one_bad_lesion_and_names_it(tmp_path: Path, study: CtStudy) -> None:
    good = ct_files.cohort(study)
    store = run(good, tmp_path / "store")
    bad = ct_files.lesion("L2", mask=study.lesions[0].mask, label=9)
    report = ct_files.extract(
        RoisStage(), ct_files.cohort(ct_files.study(study.path, study.lesions[0], bad)), store, settings()
    )
    assert "CT study C1, lesion L2, mask: found labels 3; expected voxels of label 9" in report.failed["ct-C1"]
    assert store.record("rois", "ct-C1") is None


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"margin_mm": 3.0}, {"rois"}),
        ({"views": 1}, {"rois"}),
        ({"fallback_threshold_hu": [5, 90]}, {"windows", "rois"}),
        ({}, set()),
    ],
)
def test_rois__a_changed_setting_computes_what_depends_on_it(
    tmp_path: Path, study: CtStudy, change: dict[str, Any], computed: set[str]
) -> None:
    boxed = ct_files.study(study.path, ct_files.lesion(box=(14, 9, 2, 30, 21, 10)))
    cohort = ct_files.cohort(boxed)
    store = run(cohort, tmp_path / "store")
    reports = {
        stage.name: ct_files.extract(stage, cohort, store, settings(**change))
        for stage in (WindowsStage(), RoisStage())
    }
    assert {name for name, report in reports.items() if report.ok} == computed


def test_rois__a_changed_mask_or_slice_is_noticed(tmp_path: Path) -> None:
    study = make_study(tmp_path, "dicom", "LPS")
    cohort = ct_files.cohort(study)
    store = run(cohort, tmp_path / "store")
    assert ct_files.extract(RoisStage(), cohort, store, settings()).up_to_date == 1
    ct_files.change(sorted(study.path.iterdir())[4], RescaleIntercept="-1000")
    assert ct_files.extract(RoisStage(), cohort, store, settings()).ok == 1
    mask = study.lesions[0].mask
    assert mask is not None
    array = sitk.GetArrayFromImage(ct_files.ellipsoid()[1])
    array[6, 15, 22] = 0
    ct_files.write(ct_files.image_of(array), mask)
    assert ct_files.extract(RoisStage(), cohort, store, settings()).ok == 1


TEXT_VRS = ("AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT")
NEEDED = ("SpecificCharacterSet", "PhotometricInterpretation", "Modality", "ContourGeometricType", "ROIName")


def plant(file: Path, word: str, kinds: tuple[str, ...] = TEXT_VRS) -> int:
    """Write a word into every text tag of a DICOM file that reading does not need, those that are absent too."""
    data = pydicom.dcmread(file)
    planted = 0

    def fill(_: pydicom.Dataset, element: pydicom.DataElement) -> None:
        if element.VR in kinds and element.keyword not in NEEDED:
            element.value = word

    data.walk(fill)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if vr in kinds and keyword and keyword not in NEEDED and tag >> 16 in (0x8, 0x10, 0x12, 0x18, 0x20, 0x32, 0x40):
            data.add_new(tag, vr, word)
            planted += 1
    data.save_as(file)
    assert file.read_bytes().count(word.encode()) >= planted
    return planted


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.filterwarnings("ignore:The value length")
def test_rois__nothing_of_a_dicom_header_reaches_outputs_or_logs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    image, mask = ct_files.ellipsoid()
    folder = tmp_path / "secret-folder"
    files = ct_files.write_dicom(image, folder, series_uid="1.2.3.999")
    regions = {"SENTINEL GTV": ct_files.outlines(mask), "SENTINEL 2": ct_files.outlines(mask)}
    structures = ct_files.write_rtstruct(tmp_path / "secret-rs.dcm", regions)
    segments = ct_files.write_seg(tmp_path / "secret-seg.dcm", files, {"SENTINEL": sitk.GetArrayFromImage(mask)})
    assert min(plant(file, "SENTINEL^NAME") for file in (*files, structures)) > 500
    # a segmentation's coded words say how it is built
    assert plant(segments, "SENTINEL^NAME", tuple(vr for vr in TEXT_VRS if vr != "CS")) > 400
    damaged = tmp_path / "secret-damaged.nrrd"
    damaged.write_bytes(b"SENTINEL^NAME")
    cut = tmp_path / "secret-cut"
    shutil.copytree(folder, cut)
    (cut / files[3].name).write_bytes(files[3].read_bytes()[:2000])
    lesions = {
        "C1": (folder, ct_files.lesion(mask=structures, roi="SENTINEL GTV"), "1.2.3.999"),
        "C2": (folder, ct_files.lesion(mask=segments, label=1), None),
        "C3": (folder, ct_files.lesion(mask=structures, label=1), "1.2.3.888"),
        "C4": (folder, ct_files.lesion(mask=damaged), None),
        "C5": (folder, ct_files.lesion(mask=structures, roi="SENTINEL"), None),
        "C6": (cut, ct_files.lesion(mask=structures, label=1), None),
        "C7": (folder, ct_files.lesion(mask=files[0], label=1), None),
    }
    studies = [ct_files.study(path, one, ct=ct, series_uid=uid) for ct, (path, one, uid) in lesions.items()]
    cohort, store = ct_files.cohort(*studies), Store.create(tmp_path / "store")
    capfd.readouterr()
    caplog.clear()
    reports = [ct_files.extract(stage, cohort, store, settings()) for stage in (WindowsStage(), RoisStage())]
    assert [sorted(report.failed) for report in reports] == [["ct-C3", "ct-C4", "ct-C5", "ct-C6", "ct-C7"]] * 2
    problems = " ".join(map(str, RoisStage().check(cohort, settings())))
    outputs = [file for file in store.path.rglob("*") if file.is_file()]
    content = b"".join(file.read_bytes() for file in outputs) + "".join(map(str, outputs)).encode()
    printed = "".join(capfd.readouterr()) + caplog.text
    for word in ("SENTINEL", "1.2.3.999", "1.2.3.888", "secret-"):
        assert word.encode() not in content, word
        assert word not in problems + printed, word


def test_rois__rtstruct_seg_and_nifti_give_the_same_lesion(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    files = ct_files.write_dicom(image, tmp_path / "series")
    masks = (
        {"mask": ct_files.write(mask, tmp_path / "m.nii.gz"), "label": 3},
        {"mask": ct_files.write_rtstruct(tmp_path / "rs.dcm", {"GTV": ct_files.outlines(mask)}), "roi": "GTV"},
        {"mask": ct_files.write_seg(tmp_path / "s.dcm", files, {"GTV": sitk.GetArrayFromImage(mask)}), "roi": "1"},
    )
    stores = [
        run(
            ct_files.cohort(ct_files.study(tmp_path / "series", ct_files.lesion(**fields))), tmp_path / f"store{number}"
        )
        for number, fields in enumerate(masks)
    ]
    for store in stores[1:]:
        assert rows_of(store) == rows_of(stores[0])
        np.testing.assert_array_equal(crops_of(store), crops_of(stores[0]))
        np.testing.assert_array_equal(volume_of(store)[1], volume_of(stores[0])[1])


@pytest.mark.parametrize("oblique", [False, True])
def test_rois__anisotropic_and_oblique_studies_give_the_lesion_of_their_upright_copy(
    tmp_path: Path, oblique: bool
) -> None:
    """A smooth lesion in voxels of 0.8 × 0.9 × 2.5 mm, and the same resampled to upright ones of 1 mm."""
    image, mask = (sitk.Cast(one, sitk.sitkFloat32) for one in ct_files.ellipsoid())
    image = sitk.SmoothingRecursiveGaussian(mask * 40, 1.5) - 20
    if oblique:
        for one in (image, mask):
            one.SetDirection(sitk.VersorTransform((1.0, 2.0, 3.0), 0.2).GetMatrix())
    points = [mask.TransformIndexToPhysicalPoint(tuple(map(int, i[::-1]))) for i in np.argwhere(array(mask) > 0)]
    low, high = np.min(points, axis=0) - 14, np.max(points, axis=0) + 14
    upright = sitk.Image([int(n) for n in np.ceil(high - low)], sitk.sitkFloat32)
    upright.SetOrigin(low.tolist())
    copies = {
        "own": (image, mask > 0),
        "copy": (
            sitk.Resample(image, upright, sitk.Transform(), sitk.sitkBSpline, -20.0),
            sitk.Resample(sitk.SmoothingRecursiveGaussian(mask, 0.6), upright, sitk.Transform(), sitk.sitkLinear) > 1.5,
        ),
    }
    found = {}
    for name, (volume, labels) in copies.items():
        given = ct_files.lesion(mask=ct_files.write(labels, tmp_path / f"{name}-m.nrrd"))
        study = ct_files.study(ct_files.write(volume, tmp_path / f"{name}.nrrd"), given)
        with_settings = parse_settings({"rois": {"crop_px": 48, "views": 1}, "windows": {"min_width_hu": 200}})
        store = run(ct_files.cohort(study), tmp_path / name, with_settings)
        intensity, inside, _ = volume_of(store)
        found[name] = (rows_of(store)[0], float(intensity[inside > 0].mean()), crops_of(store)[0, 0, 1].astype(float))
    (own, own_mean, own_crop), (copy, copy_mean, copy_crop) = found["own"], found["copy"]
    assert copy["volume_mm3"] == pytest.approx(own["volume_mm3"], rel=0.08)
    assert copy_mean == pytest.approx(own_mean, abs=6)
    middles = [np.add(row["box_mm"][:3], row["box_mm"][3:]) / 2 for row in (own, copy)]
    np.testing.assert_allclose(*middles, atol=1.3)
    if not oblique:  # the axial plane of an oblique volume is its own
        assert np.corrcoef(own_crop.ravel(), copy_crop.ravel())[0, 1] > 0.95


def array(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_rois__warns_of_saturated_voxels_and_of_what_reading_did(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    inside = sitk.GetArrayFromImage(image)
    inside[6, 14:16, 20:24] = 3071
    files = ct_files.write_dicom(ct_files.image_of(inside), tmp_path / "series")
    shutil.copy(files[4], tmp_path / "series" / "copy.dcm")
    given = ct_files.lesion(mask=ct_files.write(mask, tmp_path / "m.nii.gz"))
    store = run(ct_files.cohort(ct_files.study(tmp_path / "series", given)), tmp_path / "store")
    record = store.record("rois", "ct-C1")
    assert record is not None
    assert record.summary["warnings"] == [
        "1 slice(s) that occur twice with the same pixels: one of each kept",
        "8 voxel(s) at 3071 HU or above, where 12-bit CT is cut off: lesion L1",
    ]


def test_rois__a_new_centre_uses_the_windows_of_another_store_and_records_the_fallback(tmp_path: Path) -> None:
    old = [
        make_study(folder, "nii.gz", "LPS", ct=f"C{n}", patient=f"P{n}")
        for n, folder in enumerate((tmp_path / "a", tmp_path / "b"))
        if folder.mkdir() is None
    ]
    fitted = parse_settings({"rois": {"crop_px": 48, "views": 1}, "windows": {"min_lesions": 2}})
    first = run(ct_files.cohort(*old), tmp_path / "first", fitted)
    table = first.part("windows", "cohort", "windows.parquet")
    new = ct_files.cohort(replace(old[0], ct="N1", patient="N1", centre="new"), replace(old[1], ct="N2", patient="N2"))
    taken = parse_settings({"rois": {"crop_px": 48, "views": 1}, "windows": {"table": str(table)}})
    second = run(new, tmp_path / "second", taken)
    assert [rows_of(second, ct)[0]["window_level"] for ct in ("N1", "N2")] == ["type", "pair"]
    record = second.record("rois", "ct-N1")
    assert record is not None
    assert record.summary["windows"] == {"type": 1}
    by_level = {row["level"]: row for row in read_rows(table, WINDOWS)}
    assert rows_of(second, "N1")[0]["low_hu"] == by_level["type"]["low_hu"]


def test_rois_check__finds_nothing_wrong_with_a_sound_cohort(tmp_path: Path, study: CtStudy) -> None:
    assert RoisStage().check(ct_files.cohort(study), settings()) == []


def test_rois_check__reports_every_problem_at_once(tmp_path: Path, study: CtStudy) -> None:
    mask = study.lesions[0].mask
    assert mask is not None
    label = sitk.ReadImage(str(mask))
    damaged, empty, shifted = (tmp_path / f"{name}.nii.gz" for name in ("damaged", "empty", "shifted"))
    damaged.write_bytes(mask.read_bytes()[:-50])
    ct_files.write(label * 0, empty)
    label.SetOrigin((0, 0, 0))
    ct_files.write(label, shifted)
    lesions = [
        ct_files.lesion("L1", mask=tmp_path / "none.nii.gz"),
        ct_files.lesion("L2", mask=damaged),
        ct_files.lesion("L3", mask=empty),
        ct_files.lesion("L4", mask=mask, label=4),
        ct_files.lesion("L5", mask=shifted),
        ct_files.lesion("L6", box=(0, 0, 0, 99, 9, 9)),
        ct_files.lesion("L7"),
        ct_files.lesion("L8", mask=mask, label=3),
    ]
    cohort = ct_files.cohort(
        ct_files.study(study.path, *lesions),
        ct_files.study(tmp_path / "none.nrrd", ct="C2", patient="P2"),
        ct_files.study(tmp_path, ct="C3", patient="P3"),
    )
    problems = RoisStage().check(cohort, settings())
    found = [(p.table, p.row, p.column, p.found) for p in problems]
    place = "C1/L{}".format
    assert found[:5] == [
        ("lesions", place(1), "mask", "no such file"),
        ("lesions", place(2), "mask", "a compressed file that is damaged or cut short"),
        ("lesions", place(3), "mask", "an empty mask"),
        ("lesions", place(4), "mask", "labels 3"),
        ("lesions", place(5), "mask", "another grid than the volume's: origin in mm (0.0, 0.0, 0.0)"),
    ]
    assert found[5][:3] == ("lesions", place(6), "box")
    assert found[6] == ("lesions", place(7), "box", "neither mask nor box")
    assert found[7:] == [
        ("ct", "C2", "path", "no such file"),
        ("ct", "C3", "path", "a folder without DICOM images"),
    ]
    assert all(p.expected and p.remedy and p.severity == "error" for p in problems)


def test_rois_check__names_the_columns_of_the_users_table(tmp_path: Path, study: CtStudy) -> None:
    bad = ct_files.study(study.path, ct_files.lesion(mask=tmp_path / "none.nrrd"), ct="C1")
    cohort = replace(ct_files.cohort(bad), columns={"lesions": {"mask": "Segmentation"}})
    assert [p.column for p in RoisStage().check(cohort, settings())] == ["Segmentation"]


def test_rois__memory_is_bounded_by_one_volume(tmp_path: Path) -> None:
    """Numpy's peak for twelve lesions is that for one and their panels, and less than four volumes."""
    size = (160, 160, 60)
    image, _ = ct_files.ellipsoid(size=size)
    volume = ct_files.write(image, tmp_path / "v.nrrd")
    boxes = [(20 + n, 10, 5, 32 + n, 21, 10) for n in range(12)]
    peaks = []
    for count in (1, 12):
        lesions = [ct_files.lesion(f"L{n}", box=box) for n, box in enumerate(boxes[:count])]
        cohort = ct_files.cohort(ct_files.study(volume, *lesions))
        store = Store.create(tmp_path / f"store{count}")
        ct_files.extract(WindowsStage(), cohort, store, settings())
        tracemalloc.start()
        report = ct_files.extract(RoisStage(), cohort, store, settings())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert report.ok == 1
    volume_bytes = 2 * np.prod(size)
    panels = 11 * 3 * PANEL_PX**2
    assert peaks[1] < peaks[0] + 0.2 * volume_bytes + panels
    assert peaks[1] < 4 * volume_bytes


@pytest.mark.realdata
def test_rois__real_dicom_and_its_nifti_copy_give_the_same_crops(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "ct" / "sts_019_dicom_rtstruct"
    given = ct_files.lesion(mask=folder / "CT_mask.nii.gz", label=1, lesion_type="soft tissue")
    stores = [
        run(ct_files.cohort(ct_files.study(folder / source, given)), tmp_path / f"store{number}")
        for number, source in enumerate(("image", "CT_image.nii.gz"))
    ]
    dicom, nifti = (crops_of(store).astype(int) for store in stores)
    assert np.abs(dicom - nifti).max() <= 1  # spacings of NIfTI are 32-bit
    assert dicom[0, 0].std() > 40
    np.testing.assert_array_equal(volume_of(stores[0])[0], volume_of(stores[1])[0])
    np.testing.assert_array_equal(volume_of(stores[0])[1], volume_of(stores[1])[1])


@pytest.mark.realdata
@pytest.mark.parametrize(("image", "labels"), [("lung1_image", "lung1_label"), ("lung2_image_roi", "lung2_label")])
def test_rois__real_lung_lesions_have_their_volume_and_fill_their_crops(
    tmp_path: Path, shared_data: Path, image: str, labels: str
) -> None:
    folder = shared_data / "ct" / "pyradiomics"
    given = ct_files.lesion(mask=folder / f"{labels}.nrrd", label=1, lesion_type="other")
    store = run(ct_files.cohort(ct_files.study(folder / f"{image}.nrrd", given)), tmp_path / "store")
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.ReadImage(str(folder / f"{labels}.nrrd"), sitk.sitkUInt8))
    row, crop = rows_of(store)[0], crops_of(store)[0, 0]
    assert row["volume_mm3"] == pytest.approx(shape.GetPhysicalSize(1), rel=1e-9)
    assert crop[1, 18:30, 18:30].mean() > 100, "the lesion is in the middle"
    assert all(channel.std() > 20 for channel in crop)
    shutil.rmtree(tmp_path / "store")


def test_check__tells_of_a_structure_set_in_another_frame_of_reference(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    for file in ct_files.write_dicom(image, tmp_path / "series"):
        ct_files.change(file, FrameOfReferenceUID="1.2.826.0.1.5")
    lines = {"GTV": ct_files.outlines(mask)}
    found = {}
    for frame_uid in ("1.2.826.0.1.5", "1.2.826.0.1.6"):
        file = ct_files.write_rtstruct(tmp_path / f"{frame_uid}.dcm", lines, frame_uid=frame_uid)
        study = ct_files.study(tmp_path / "series", ct_files.lesion("L1", mask=file))
        found[frame_uid] = RoisStage().check(ct_files.cohort(study), settings())
    own, other = found.values()
    assert own == []
    assert [problem.column for problem in other] == ["mask"]
    assert "another DICOM frame of reference" in str(other[0])

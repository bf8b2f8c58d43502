"""A folder of files to the draft of a cohort, and the draft to a cohort that can be checked."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from aperio_files import aperio, drawn, layer
from ct_files import change, outlines, write, write_dicom, write_rtstruct, write_seg
from dicom_slides import write_dicom_slide
from pydicom.uid import MRImageStorage

from mumo.config import parse_settings
from mumo.errors import ConfigError
from mumo.pipeline.check import check_cohort
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.cohorts.drafting.draft import Draft, draft_cohort
from mumo.pipeline.cohorts.drafting.writing import draft_files, write_draft

FRAME = "1.2.826.0.1.3680043.10.7"


def slide(path: Path, *, mpp: float | None = 0.5) -> Path:
    """A tiled TIFF that OpenSlide reads."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((256, 256, 3), 200, dtype=np.uint8)
    resolution: dict[str, Any] = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", **resolution)
    return path


def volume(*, origin: float = 0.0, seed: int = 0) -> sitk.Image:
    """A small CT with many values."""
    array = np.random.default_rng(seed).integers(-1000, 1000, (6, 16, 20)).astype(np.int16)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.5))
    image.SetOrigin((origin, 0.0, 0.0))
    return image


def mask(like: sitk.Image, *labels: int) -> sitk.Image:
    """A mask with a block for each label."""
    array = np.zeros(like.GetSize()[::-1], dtype=np.uint8)
    for number, label in enumerate(labels):
        array[2:4, 4:10, 1 + 4 * number : 4 + 4 * number] = label
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    return image


def save(image: sitk.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(image, path)


def rows(draft: Draft, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(draft_files(draft)[name].splitlines()))


def reasons(draft: Draft) -> dict[str, str]:
    return {path.as_posix(): reason for path, reason in draft.unplaced}


# --- slides ----------------------------------------------------------------------------------------------


def test_draft_cohort__slides_by_patient_folder(tmp_path: Path) -> None:
    slide(tmp_path / "P1" / "a.tif")
    slide(tmp_path / "P1" / "b.tif", mpp=None)
    slide(tmp_path / "P2" / "a.tif")
    draft = draft_cohort(tmp_path)
    assert [(row["slide"], row["patient"], row["path"], row["mpp"]) for row in rows(draft, "slides.csv")] == [
        ("a", "P1", "P1/a.tif", ""),
        ("b", "P1", "P1/b.tif", ""),
        ("a-2", "P2", "P2/a.tif", ""),
    ]
    assert [row.slide for row in draft.slides.rows if not row.has_mpp] == ["b"]
    assert [row["patient"] for row in rows(draft, "patients.csv")] == ["P1", "P2"]


def test_draft_cohort__what_is_no_slide_is_named(tmp_path: Path) -> None:
    slide(tmp_path / "P1" / "a.tif")
    (tmp_path / "P1" / "cut.svs").write_bytes(b"II*\0 nothing")
    (tmp_path / "P1" / "._a.tif").write_bytes(b"x")
    (tmp_path / "P1" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "P1" / "notes.txt").write_text("x")
    slide(tmp_path / "b.tif")
    draft = draft_cohort(tmp_path)
    assert reasons(draft) == {"b.tif": "it lies in no patient's folder"}
    assert dict(draft.scan.others) == {".txt": 1}


def test_draft_cohort__slide_that_cannot_be_read_has_a_row(tmp_path: Path) -> None:
    slide(tmp_path / "P1" / "a.tif")
    (tmp_path / "P2").mkdir()
    (tmp_path / "P2" / "cut.svs").write_bytes(b"II*\0 nothing")
    draft = draft_cohort(tmp_path)
    assert [(row["slide"], row["patient"], row["path"]) for row in rows(draft, "slides.csv")] == [
        ("a", "P1", "P1/a.tif"),
        ("cut", "P2", "P2/cut.svs"),
    ]
    assert draft.unreadable == [("cut", Path("P2/cut.svs"), "no slide that OpenSlide reads")]
    assert [row.slide for row in draft.slides.rows if row.needs_mpp] == []
    assert (draft.unplaced, draft.without_files) == ([], [])


def test_draft_cohort__annotations_by_name(tmp_path: Path) -> None:
    asap = '<ASAP_Annotations><Annotations><Annotation Name="a" Type="Polygon" PartOfGroup="Tumour"><Coordinates>'
    asap += "".join(
        f'<Coordinate Order="{k}" X="{x}" Y="{y}"/>' for k, (x, y) in enumerate([(1, 1), (90, 1), (90, 90)])
    )
    asap += "</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    for name in ("P1/s1.tif", "P1/s10.tif", "P2/s2.tif"):
        slide(tmp_path / name)
    (tmp_path / "outlines").mkdir()
    (tmp_path / "P1" / "s1.xml").write_text(asap)
    (tmp_path / "outlines" / "s10_final.xml").write_text(asap)
    (tmp_path / "outlines" / "s3.geojson").write_text("{}")
    (tmp_path / "P2" / "s2.geojson").write_text("no JSON")
    draft = draft_cohort(tmp_path)
    assert [row["annotation"] for row in rows(draft, "slides.csv")] == ["P1/s1.xml", "outlines/s10_final.xml", ""]
    assert draft.slides.groups == ("Tumour",)
    assert '# "Tumour" = ' in draft_files(draft)["cohort.toml"]
    assert set(reasons(draft)) == {"outlines/s3.geojson", "P2/s2.geojson"}


def test_draft_cohort__annotations_of_imagescope_are_paired_and_their_groups_listed(tmp_path: Path) -> None:
    for name in ("P1/s1.tif", "P2/s2.tif"):
        slide(tmp_path / name)
    ring = [(1, 1), (90, 1), (90, 90)]
    (tmp_path / "P1" / "s1.xml").write_text(aperio(layer(drawn(ring), name="Tumour"), layer(drawn(ring), name="DCIS")))
    (tmp_path / "P2" / "s2.xml").write_text(aperio(layer(drawn(ring, text="Mitosis"), name="")))
    draft = draft_cohort(tmp_path)
    assert [row["annotation"] for row in rows(draft, "slides.csv")] == ["P1/s1.xml", "P2/s2.xml"]
    assert draft.slides.groups == ("DCIS", "Mitosis", "Tumour")
    assert reasons(draft) == {}


def test_draft_cohort__folder_of_dicom_instances_is_one_slide(tmp_path: Path) -> None:
    (tmp_path / "P1").mkdir()
    write_dicom_slide(tmp_path / "P1" / "wsi", np.full((300, 300, 3), 200, np.uint8), 0.5, (1,))
    draft = draft_cohort(tmp_path)
    assert [row["path"] for row in rows(draft, "slides.csv")] == ["P1/wsi"]
    assert (draft.ct.rows, draft.unplaced) == ([], [])


# --- CT --------------------------------------------------------------------------------------------------


def test_draft_cohort__volume_and_mask_are_told_apart_by_voxels(tmp_path: Path) -> None:
    image = volume()
    save(image, tmp_path / "P1" / "first.nii.gz")
    save(sitk.Cast(mask(image, 1, 5), sitk.sitkFloat32), tmp_path / "P1" / "second.nii.gz")
    draft = draft_cohort(tmp_path)
    assert [(row["ct"], row["path"]) for row in rows(draft, "ct.csv")] == [("P1-ct", "P1/first.nii.gz")]
    assert [tuple(row.values()) for row in rows(draft, "lesions.csv")] == [
        ("L1", "P1-ct", "", "P1/second.nii.gz", "1", ""),
        ("L2", "P1-ct", "", "P1/second.nii.gz", "5", ""),
    ]


def test_draft_cohort__mask_goes_to_the_volume_with_its_grid(tmp_path: Path) -> None:
    first, second = volume(), volume(origin=30)
    save(first, tmp_path / "P1" / "images" / "a.nrrd")
    save(second, tmp_path / "P1" / "images" / "b.nrrd")
    save(mask(second, 1), tmp_path / "P1" / "masks" / "x.nrrd")
    save(mask(volume(origin=99), 1), tmp_path / "P1" / "masks" / "y.nrrd")
    draft = draft_cohort(tmp_path)
    assert [(row["ct"], row["mask"]) for row in rows(draft, "lesions.csv")] == [("P1-ct2", "P1/masks/x.nrrd")]
    assert reasons(draft) == {"P1/masks/y.nrrd": "no volume of the patient has the mask's grid"}


def test_draft_cohort__name_decides_between_volumes_of_one_grid(tmp_path: Path) -> None:
    for name in ("art", "ven"):
        save(volume(seed=len(name)), tmp_path / "P1" / f"{name}.nii")
        save(mask(volume(), 1), tmp_path / "P1" / f"{name}_seg.nii")
    save(mask(volume(), 1), tmp_path / "P1" / "other.nii")
    draft = draft_cohort(tmp_path)
    assert [(row.path.name, [one.mask.name for one in row.lesions]) for row in draft.ct.rows] == [
        ("art.nii", ["art_seg.nii"]),
        ("ven.nii", ["ven_seg.nii"]),
    ]
    assert reasons(draft) == {"P1/other.nii": "2 volumes of the patient have the mask's grid"}
    assert draft.ct.doubles == [(Path("P1/art.nii"), Path("P1/ven.nii"))]


def test_draft_cohort__masks_of_no_use(tmp_path: Path) -> None:
    image = volume()
    save(image, tmp_path / "P1" / "ct.nii")
    save(mask(image), tmp_path / "P1" / "blank.nii")
    organs = sitk.GetImageFromArray((np.arange(6 * 16 * 20).reshape(6, 16, 20) // 60).astype(np.uint8))
    organs.CopyInformation(image)
    save(organs, tmp_path / "P1" / "organs.nii")
    save(mask(image, 1), tmp_path / "P2" / "alone.nii")
    draft = draft_cohort(tmp_path)
    assert reasons(draft)["P1/blank.nii"] == "a mask without labels"
    assert reasons(draft)["P1/organs.nii"] == "a mask of 31 labels, of organs perhaps"
    assert reasons(draft)["P2/alone.nii"] == "a mask of a patient without CT"
    assert len(draft.ct.rows) == 1


def test_draft_cohort__volumes_and_masks_that_cannot_be_read_have_rows(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        save(volume(), tmp_path / "ct" / f"P{number}.nii")
        save(mask(volume(), 1), tmp_path / "masks" / f"P{number}.nii")
    (tmp_path / "list.csv").write_text("id\nP1\nP2\nP3\n")
    (tmp_path / "ct" / "P2.nii").write_bytes(b"nothing")
    (tmp_path / "masks" / "P3.nii").write_bytes(b"nothing")
    draft = draft_cohort(tmp_path)
    assert sorted((row["ct"], row["path"]) for row in rows(draft, "ct.csv")) == [
        (f"P{number}-ct", f"ct/P{number}.nii") for number in (1, 2, 3)
    ]
    assert sorted((row["ct"], row["mask"], row["label"]) for row in rows(draft, "lesions.csv")) == [
        ("P1-ct", "masks/P1.nii", "1"),
        ("P2-ct", "masks/P2.nii", "1"),
        ("P3-ct", "masks/P3.nii", ""),
    ]
    assert [(name, path.as_posix()) for name, path, _ in draft.unreadable] == [
        ("P2-ct", "ct/P2.nii"),
        ("a mask of P3-ct", "masks/P3.nii"),
    ]
    assert draft.unplaced == []


def test_draft_cohort__dicom_folder_of_damaged_files_is_a_study(tmp_path: Path) -> None:
    folder = tmp_path / "P1" / "series"
    for file in write_dicom(volume(), folder):
        file.write_bytes(b"nothing")
    draft = draft_cohort(tmp_path)
    assert [(row["ct"], row["path"], row["series_uid"]) for row in rows(draft, "ct.csv")] == [
        ("P1-ct", "P1/series", "")
    ]
    assert [name for name, _, why in draft.unreadable if why] == ["P1-ct"]
    assert draft.unplaced == []


def test_draft_cohort__dicom_series_with_its_structure_set(tmp_path: Path) -> None:
    image = volume()
    for file in write_dicom(image, tmp_path / "P1" / "ct" / "series"):
        change(file, FrameOfReferenceUID=FRAME)
    drawn = outlines(mask(image, 1))
    write_rtstruct(tmp_path / "P1" / "rs.dcm", {"GTV 1": drawn, "GTV 2": drawn, "empty": []}, frame_uid=FRAME)
    write_rtstruct(tmp_path / "P1" / "other.dcm", {"GTV": drawn}, frame_uid="1.2.3")
    draft = draft_cohort(tmp_path)
    assert [tuple(row.values()) for row in rows(draft, "ct.csv")] == [("P1-ct", "P1", "P1/ct/series", "")]
    assert [(row["mask"], row["roi"]) for row in rows(draft, "lesions.csv")] == [
        ("P1/rs.dcm", "GTV 1"),
        ("P1/rs.dcm", "GTV 2"),
    ]
    assert reasons(draft) == {"P1/other.dcm": "no series of the patient is the one that it was drawn on"}


def test_draft_cohort__structure_set_that_names_its_series(tmp_path: Path) -> None:
    for number in (1, 2):
        for file in write_dicom(volume(), tmp_path / "P1" / f"s{number}", series_uid=f"1.2.3.{number}"):
            change(file, FrameOfReferenceUID=FRAME)
    files = sorted((tmp_path / "P1" / "s2").iterdir())
    write_seg(tmp_path / "P1" / "seg.dcm", files, {"liver lesion": sitk.GetArrayFromImage(mask(volume(), 1))})
    draft = draft_cohort(tmp_path)
    assert [(row.path.name, [one.roi for one in row.lesions]) for row in draft.ct.rows] == [
        ("s1", []),
        ("s2", ["liver lesion"]),
    ]


def test_draft_cohort__several_series_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "P1" / "dicom"
    write_dicom(volume(), folder, series_uid="1.2.3.1", prefix="a")
    write_dicom(volume(), folder, series_uid="1.2.3.2", prefix="b")
    for file in write_dicom(volume(), folder, series_uid="1.2.3.3", prefix="c"):
        change(file, SOPClassUID=MRImageStorage)
    for file in write_dicom(volume()[:, :, :2], folder, series_uid="1.2.3.4", prefix="d"):
        change(file, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (folder / "broken.dcm").write_bytes(b"nothing")
    draft = draft_cohort(tmp_path)
    assert [(row["ct"], row["series_uid"]) for row in rows(draft, "ct.csv")] == [
        ("P1-ct1", "1.2.3.1"),
        ("P1-ct2", "1.2.3.2"),
    ]
    assert sorted(reason for _, reason in draft.unplaced) == [
        "a DICOM file that is damaged",
        "a series of 2: a localiser",
        "a series of 6: no CT (MR Image Storage)",
    ]


# --- the draft as a cohort -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two patients in a table, one with an id that is none, one with nothing; and a footer."""
    lines = ["As of March;;", "Nr.;Best;Alter", "P01;PR;61,5", "Jane Doe;PD;60", "P03;SD;59", "n = 3 patients;;"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    slide(tmp_path / "slides" / "P01 HE.tif")
    slide(tmp_path / "slides" / "Jane Doe HE.tif")
    save(volume(), tmp_path / "ct" / "Jane Doe" / "ct.nii.gz")
    save(mask(volume(), 1), tmp_path / "ct" / "Jane Doe" / "ct_seg.nii.gz")
    return tmp_path


def test_write_draft__names_no_one_in_ids(folder: Path) -> None:
    draft = draft_cohort(folder)
    assert [row["slide"] for row in rows(draft, "slides.csv")] == ["patient-1_HE", "P01_HE"]
    assert [row["patient"] for row in rows(draft, "ct.csv")] == ["patient-1"]
    content = tomllib.loads(draft_files(draft)["cohort.toml"])
    assert content["patients"]["values"]["patient"] == {"Jane Doe": "patient-1"}
    assert draft.without_files == ["P03", "n = 3 patients"]


def test_write_draft__is_complete_once_the_user_has_filled_it_in(folder: Path) -> None:
    write_draft(draft_cohort(folder))
    file = folder / "cohort.toml"
    text = file.read_text().replace('# recist = ""', 'recist = "Best"').replace('# age = ""', 'age = "Alter"')
    file.write_text(text)
    checked = check_cohort(file, None, parse_settings({}))
    assert checked.cohort is None
    assert {(p.table, p.column) for p in checked.problems} == {("patients", "Nr."), ("lesions", "lesion_type")}
    (folder / "list.csv").write_text((folder / "list.csv").read_text().replace("n = 3 patients", ""))
    (folder / "lesions.csv").write_text((folder / "lesions.csv").read_text().replace(",,ct/", ",liver,ct/"))
    cohort = load_cohort(file)
    assert [(p.patient, p.fields["recist"], p.fields["age"]) for p in cohort.patients] == [
        ("P01", "PR", 61.5),
        ("patient-1", "PD", 60.0),
        ("P03", "SD", 59.0),
    ]
    assert [(s.slide, s.patient) for s in cohort.slides] == [("patient-1_HE", "patient-1"), ("P01_HE", "P01")]
    assert [(c.ct, [lesion.label for lesion in c.lesions]) for c in cohort.ct_studies] == [("patient-1-ct", [1])]


def test_write_draft__without_a_table_makes_one(tmp_path: Path) -> None:
    slide(tmp_path / "P1" / "a.tif")
    assert [file.name for file in write_draft(draft_cohort(tmp_path))] == ["cohort.toml", "patients.csv", "slides.csv"]
    (tmp_path / "patients.csv").write_text("patient,recist,pfs_days,pfs_event\nP1,PR,,\n")
    (patient,) = load_cohort(tmp_path / "cohort.toml").patients
    assert (patient.patient, patient.fields["recist"]) == ("P1", "PR")


def test_write_draft__replaces_nothing_unless_told(folder: Path) -> None:
    write_draft(draft_cohort(folder))
    (folder / "slides.csv").write_text("mine")
    with pytest.raises(ConfigError, match=r"cohort\.toml, slides\.csv, ct\.csv, lesions\.csv exist"):
        write_draft(draft_cohort(folder))
    assert (folder / "slides.csv").read_text() == "mine"
    write_draft(draft_cohort(folder), force=True)
    assert (folder / "slides.csv").read_text() != "mine"


def test_write_draft__never_replaces_a_table_of_patients(tmp_path: Path) -> None:
    slide(tmp_path / "P1" / "a.tif")
    (tmp_path / "patients.csv").write_text("nobody,recist\nX1,PR\n")
    with pytest.raises(ConfigError, match=r"patients\.csv is there"):
        write_draft(draft_cohort(tmp_path), force=True)
    assert (tmp_path / "patients.csv").read_text() == "nobody,recist\nX1,PR\n"


def test_write_draft__goes_on_from_its_own_table_of_patients(tmp_path: Path) -> None:
    for name in ("P1", "P2"):
        slide(tmp_path / name / "a.tif")
    write_draft(draft_cohort(tmp_path))
    filled = "patient,recist,pfs_days,pfs_event\nP1,PR,,\nP2,PD,,\n"
    (tmp_path / "patients.csv").write_text(filled)
    slide(tmp_path / "P2" / "new.tif")
    again = draft_cohort(tmp_path)
    assert [row.slide for row in again.slides.rows] == ["a", "a-2", "new"]
    write_draft(again, force=True)
    assert (tmp_path / "patients.csv").read_text() == filled


def test_draft_cohort__its_own_files_and_stores_are_passed_over(folder: Path) -> None:
    before = draft_files(draft_cohort(folder))
    write_draft(draft_cohort(folder))
    slide(folder / "store" / "P01.tif")
    (folder / "store" / "store.json").write_text("{}")
    (folder / "then").symlink_to(folder / "slides", target_is_directory=True)
    assert draft_files(draft_cohort(folder)) == before


def test_draft_cohort__counts_what_it_has_looked_at(folder: Path) -> None:
    write_dicom(volume(), folder / "ct" / "P01" / "series")
    said: list[tuple[int, int]] = []
    draft_cohort(folder, progress=lambda done, total: said.append((done, total)))
    assert said == [(number, 5) for number in range(1, 6)]


def test_draft_cohort__refuses_a_folder_without_images(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\nP1\n")
    with pytest.raises(ConfigError, match="expected slides, DICOM series, or NIfTI"):
        draft_cohort(tmp_path)
    with pytest.raises(ConfigError, match="expected a folder"):
        draft_cohort(tmp_path / "none")


@pytest.mark.realdata
def test_draft_cohort__real_files(shared_data: Path, tmp_path: Path) -> None:
    for patient, source in {
        "P01": "slides/CMU-1-Small-Region.svs",
        "P02": "slides/TCGA-CR-7395-01A-01-TS1.svs",
        "P03": "ct/sts_019_dicom_rtstruct",
    }.items():
        (tmp_path / patient).mkdir()
        (tmp_path / patient / Path(source).name).symlink_to(shared_data / source)
    draft = draft_cohort(tmp_path)
    assert [(row.patient, row.has_mpp) for row in draft.slides.rows] == [("P01", True), ("P02", False)]
    with_lesions = {
        row.path.name: sorted((one.mask.name, one.roi, one.label) for one in row.lesions) for row in draft.ct.rows
    }
    assert with_lesions["image"] == [("RS.dcm", "GTV_Mass_CT", None)]
    (found,) = with_lesions["CT_image.nii.gz"]
    assert found[1:] == (None, 1)
    assert len(draft.ct.doubles) == 1

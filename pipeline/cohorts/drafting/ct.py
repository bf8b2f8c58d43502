"""Rows of the tables of CT studies and lesions: series, volumes, and the masks that lie on them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage

from ....config import RoisSettings
from ...radiology.dicom_header import HEADER_ERRORS, quiet_pydicom, read_header
from ...radiology.geometry import Geometry, ImageError
from ...radiology.volumes import read_header as read_volume_header
from ...radiology.volumes import read_labels
from .naming import Naming, NoPatient, SafeIds
from .scan import Scan, stem

MAX_LABELS = 20
"""Labels of a mask of lesions; a mask with more is taken for one of organs."""

_MIN_SLICES = 2
"""Damaged DICOM files that a folder of nothing else needs to be taken for a CT; a single one may be a mask."""

_MAX_LABEL = 65_535
_STEP = 8
"""A mask is told from a volume on every eighth row and column first."""

_CT = ("CT Image Storage", "Enhanced CT Image Storage", "Legacy Converted Enhanced CT Image Storage")


@dataclass(frozen=True)
class LesionRow:
    """A row of the table of lesions."""

    mask: Path
    label: int | None
    roi: str | None
    unreadable: str = ""
    """Why the mask cannot be read, where that is so; it has one row then, however many lesions it holds."""


@dataclass
class StudyRow:
    """A row of the table of CT studies, with its lesions."""

    patient: str
    """As it stands in the path."""
    path: Path
    series_uid: str | None = None
    """Where the folder holds several series."""
    ct: str = ""
    frame_uid: str = ""
    all_series: tuple[str, ...] = ()
    """The series itself, for masks that name it."""
    grid: Geometry | None = None
    """None where the volume cannot be read."""
    unreadable: str = ""
    """Why it cannot be read, where that is so: it has a row all the same, so that its failure is recorded."""
    lesions: list[LesionRow] = field(default_factory=list)


@dataclass
class CtStudies:
    """The CT studies of a folder."""

    rows: list[StudyRow] = field(default_factory=list)
    unplaced: list[tuple[Path, str]] = field(default_factory=list)
    """Files and folders that are no CT or no mask, and why."""
    doubles: list[tuple[Path, Path]] = field(default_factory=list)
    """Studies of one patient on one grid: perhaps one scan in two formats."""


@dataclass(frozen=True)
class _Mask:
    path: Path
    patient: str
    lesions: tuple[LesionRow, ...]
    unreadable: bool = False
    grid: Geometry | None = None
    series_uids: frozenset[str] = frozenset()
    frame_uid: str = ""


def draft_ct(
    scan: Scan, naming: Naming, study_ids: dict[str, str], looked_at: Callable[[], None] = lambda: None
) -> CtStudies:
    """The CT studies of `scan` with their lesions; `study_ids` maps patients to ids that may stand in the studies'.

    `looked_at` is called after each DICOM folder, and each file that could be a volume.
    """
    found, kinds = CtStudies(), _Kinds()
    masks: list[_Mask] = []
    damaged: list[_Damaged] = []
    for folder in sorted(scan.dicom):
        _dicom_folder(scan, folder, naming, found, masks)
        looked_at()
    for path in sorted(scan.volumes):
        try:
            patient = naming.patient_of(path)
            kinds.add(path, patient, is_mask=_volume_file(scan, path, patient, found, masks))
        except NoPatient as reason:
            found.unplaced.append((path, str(reason)))
        except ImageError as error:
            damaged.append(_Damaged(path, patient, error.found))
        looked_at()
    _sort_damaged(damaged, kinds, found, masks)
    by_patient: dict[str, list[StudyRow]] = defaultdict(list)
    for row in found.rows:
        by_patient[row.patient].append(row)
    ids = SafeIds("ct")
    for patient, rows in by_patient.items():
        for number, row in enumerate(rows, start=1):
            row.ct = ids.of_name(f"{study_ids.get(patient, patient)}-ct{number if len(rows) > 1 else ''}")
        found.doubles += [
            (a.path, b.path) for at, a in enumerate(rows) for b in rows[at + 1 :] if _same_place(a.grid, b.grid)
        ]
    for mask in masks:
        try:
            _study_of(mask, by_patient[mask.patient]).lesions.extend(mask.lesions)
        except LookupError as reason:
            found.unplaced.append((mask.path, str(reason.args[0])))
    return found


# --- DICOM -----------------------------------------------------------------------------------------------


def _dicom_folder(scan: Scan, folder: Path, naming: Naming, found: CtStudies, masks: list[_Mask]) -> None:
    """Series and masks of one folder; one with nothing but damaged files is a CT that cannot be read."""
    series: dict[str, list[dict[str, Any]]] = defaultdict(list)
    damaged: list[Path] = []
    with quiet_pydicom():
        for path in scan.dicom[folder]:
            try:
                if (header := read_header(scan.folder / path)) is None:  # nothing of DICOM but its ending
                    damaged.append(path)
                    continue
                values = header.values
                kind = values.get("SOPClassUID", values.get("MediaStorageSOPClassUID", ""))
                if kind in (RTStructureSetStorage, SegmentationStorage):
                    masks.append(_dicom_mask(scan, path, naming))
                    continue
            except NoPatient as reason:
                found.unplaced.append((path, str(reason)))
                continue
            except HEADER_ERRORS:
                damaged.append(path)
                continue
            series[values.get("SeriesInstanceUID", "")].append({**values, "kind": UID(kind).name if kind else ""})
    frames = {
        uid: str(images[0].get("FrameOfReferenceUID", ""))
        for uid, images in series.items()
        if not (why := _no_ct(images)) or _tell(found, folder, why, images)
    }
    if len(damaged) == len(scan.dicom[folder]) >= _MIN_SLICES:
        frames = {"": ""}
    else:
        found.unplaced += [(path, "a DICOM file that is damaged") for path in damaged]
    for uid, frame_uid in sorted(frames.items()):
        try:
            patient = naming.patient_of(folder / "slices")
        except NoPatient as reason:
            found.unplaced.append((folder, str(reason)))
            return
        row = StudyRow(patient, folder, uid if len(frames) > 1 else None, frame_uid=frame_uid)
        row.all_series = (uid,) if uid else ()
        row.grid, row.unreadable = _grid(scan.folder / folder, row.series_uid)
        found.rows.append(row)


def _tell(found: CtStudies, folder: Path, why: str, images: Sequence[Any]) -> bool:
    """Note a series that is no CT volume."""
    if "Whole Slide" not in images[0]["kind"]:
        found.unplaced.append((folder, f"a series of {len(images)}: {why}"))
    return False


def _no_ct(images: Sequence[dict[str, Any]]) -> str:
    """Why the images of a series are no CT volume; empty where they are one."""
    kind = images[0]["kind"]
    if kind not in _CT:
        return f"no CT ({kind or 'of an unknown kind'})"
    if any("LOCALIZER" in image.get("ImageType", ()) for image in images):
        return "a localiser"
    return "a single slice" if len(images) == 1 and kind == _CT[0] else ""


def _dicom_mask(scan: Scan, path: Path, naming: Naming) -> _Mask:
    """A structure set or a segmentation, with a lesion for each of its regions."""
    patient = naming.patient_of(path)
    data = pydicom.dcmread(scan.folder / path, stop_before_pixels=True)
    if data.SOPClassUID == RTStructureSetStorage:
        drawn = {
            int(item.ReferencedROINumber) for item in data.get("ROIContourSequence", []) if item.get("ContourSequence")
        }
        names = {int(roi.ROINumber): str(roi.get("ROIName", "")) for roi in data.StructureSetROISequence}
        names = {number: name for number, name in names.items() if number in drawn}
        frames = {str(roi.get("ReferencedFrameOfReferenceUID", "")) for roi in data.StructureSetROISequence}
        frame_uid = frames.pop() if len(frames) == 1 else ""
        series = {
            str(one.SeriesInstanceUID)
            for frame in data.get("ReferencedFrameOfReferenceSequence", [])
            for study in frame.get("RTReferencedStudySequence", [])
            for one in study.get("RTReferencedSeriesSequence", [])
        }
    else:
        names = {int(one.SegmentNumber): str(one.get("SegmentLabel", "")) for one in data.SegmentSequence}
        frame_uid = str(data.get("FrameOfReferenceUID", ""))
        series = {str(one.SeriesInstanceUID) for one in data.get("ReferencedSeriesSequence", [])}
    if not names:
        raise ValueError("no regions")
    unique = len({name.strip().casefold() for name in names.values()}) == len(names) and all(names.values())
    lesions = tuple(LesionRow(path, None, name if unique else str(number)) for number, name in sorted(names.items()))
    return _Mask(path, patient, lesions, series_uids=frozenset(series), frame_uid=frame_uid)


# --- single files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Damaged:
    """A file that could be a volume or a mask, and cannot be read."""

    path: Path
    patient: str
    why: str


class _Kinds:
    """Whether files of a kind of name are volumes or masks: names alike but for the patient and other numbers."""

    def __init__(self) -> None:
        self._found: dict[str, set[bool]] = defaultdict(set)

    def add(self, path: Path, patient: str, *, is_mask: bool) -> None:
        """Note what a file that could be read is."""
        for name in self._alike(path, patient):
            self._found[name].add(is_mask)

    def is_mask(self, path: Path, patient: str) -> bool:
        """Whether all files named alike are masks; where there are none, all files of folders named alike."""
        known = (self._found[name] for name in self._alike(path, patient) if name in self._found)
        return next(known, {False}) == {True}

    @staticmethod
    def _alike(path: Path, patient: str) -> tuple[str, str]:
        name = re.sub("[0-9]+", "0", path.as_posix().replace(patient, "0")).casefold()
        return name, f"{name.rpartition('/')[0]}/"


def _sort_damaged(damaged: Sequence[_Damaged], kinds: _Kinds, found: CtStudies, masks: list[_Mask]) -> None:
    """Files that cannot be read are what the files named like them are; else volumes."""
    for one in damaged:
        if kinds.is_mask(one.path, one.patient):
            lesions = (LesionRow(one.path, None, None, one.why),)
            masks.append(_Mask(one.path, one.patient, lesions, unreadable=True))
        else:
            found.rows.append(StudyRow(one.patient, one.path, unreadable=one.why))


def _volume_file(scan: Scan, path: Path, patient: str, found: CtStudies, masks: list[_Mask]) -> bool:
    """Sort in a file that is a volume or a mask, told apart by its voxels, for names say little; whether it is a mask.

    Raises:
        ImageError: it cannot be read.
    """
    labels = _labels(scan.folder / path)
    grid, unreadable = _grid(scan.folder / path, None)
    if labels is None:
        found.rows.append(StudyRow(patient, path, grid=grid, unreadable=unreadable))
        return False
    if 0 < len(labels) <= MAX_LABELS:
        masks.append(_Mask(path, patient, tuple(LesionRow(path, label, None) for label in labels), grid=grid))
    else:
        why = f"a mask of {len(labels)} labels, of organs perhaps" if labels else "a mask without labels"
        found.unplaced.append((path, why))
    return True


def _labels(file: Path) -> list[int] | None:
    """The labels of a mask, or none where the file is a volume: it has values below 0, above 65535, or very many.

    Raises:
        ImageError: the file cannot be read.
    """
    settings = RoisSettings()
    read_volume_header(file, max_voxels=settings.max_voxels)
    try:
        array = read_labels(file, max_voxels=settings.max_voxels).array
    except ImageError as error:
        if error.expected == "labels":
            return None
        raise
    few = array[:, ::_STEP, ::_STEP]
    if array.min() < 0 or array.max() > _MAX_LABEL or len(np.unique(few)) > 10 * MAX_LABELS:
        return None
    values = np.unique(array)
    return [int(value) for value in values if value] if len(values) <= 10 * MAX_LABELS else None


def _grid(path: Path, series_uid: str | None) -> tuple[Geometry | None, str]:
    """The grid of a volume, and why it has none, empty where it has one."""
    settings = RoisSettings()
    try:
        header = read_volume_header(
            path, max_voxels=settings.max_voxels, series_uid=series_uid, slice_tolerance=settings.slice_tolerance
        )
    except ImageError as error:
        return None, error.found
    return header.stored.upright().to_lps(), ""


# --- masks to studies ------------------------------------------------------------------------------------


def _study_of(mask: _Mask, studies: Sequence[StudyRow]) -> StudyRow:
    """The study of the same patient that a mask lies on; LookupError with the reason where that is not clear."""
    if mask.unreadable:
        fitting, why = list(studies), ""
    elif mask.grid is not None:
        fitting = [study for study in studies if _same_place(study.grid, mask.grid)]
        # of one scan in two formats, the mask that is a file was drawn on the file
        fitting = [study for study in fitting if not study.all_series] or fitting
        why = "no volume of the patient has the mask's grid"
    else:
        named = [study for study in studies if mask.series_uids.intersection(study.all_series)]
        fitting = named or [study for study in studies if study.frame_uid and study.frame_uid == mask.frame_uid]
        why = "no series of the patient is the one that it was drawn on"
    fitting = fitting or [study for study in studies if study.unreadable]
    if not fitting:
        raise LookupError(why if studies else "a mask of a patient without CT")
    near = [study for study in fitting if mask.path.parent in (study.path.parent, study.path)]
    chosen = near or fitting
    if len(chosen) > 1:
        alike = [study for study in chosen if stem(mask.path).casefold().startswith(stem(study.path).casefold())]
        longest = max((len(stem(study.path)) for study in alike), default=0)
        chosen = [study for study in alike if len(stem(study.path)) == longest] or chosen
    if len(chosen) > 1:
        on_its_grid = mask.grid is not None and not chosen[0].unreadable
        which = "have the mask's grid" if on_its_grid else "could be the mask's"
        raise LookupError(f"{len(chosen)} volumes of the patient {which}")
    return chosen[0]


def _same_place(a: Geometry | None, b: Geometry | None) -> bool:
    """Whether two grids reach equally far, as far as `mumo extract` accepts it of a mask."""
    if a is None or b is None:
        return False
    apart = np.abs(a.corners_mm(outer=True) - b.corners_mm(outer=True)).max()
    return bool(apart <= RoisSettings().resample_tolerance_mm)

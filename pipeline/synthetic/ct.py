"""Synthetic CT studies as files: DICOM series or NIfTI volumes, label masks, boxes.

Voxels are laid out in several ways on purpose (mirrored, turned, several stored types, file names out of order), so
that only a reader that follows the geometry in the files finds the lesions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .anatomy import Triple, Volume, render_volume
from .plan import CtPlan, stream

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MADE_UP_IDENTIFIERS = ("MADEUPNAME", "MADEUPHOSPITAL", "MADEUPMRN")
"""Words in the DICOM headers that stand for what identifies a patient; none may occur in anything mumo writes."""

_UID_ROOT = "1.2.826.0.1.3680043.8.498."
"""Root for made-up instances, free for use with pydicom."""


@dataclass(frozen=True)
class _Layout:
    """How voxels lie in the file, against the patient's axes."""

    mirrored: tuple[bool, bool, bool] = (False, False, False)
    """Whether x, y, z run against the patient's axes."""
    order: tuple[int, int, int] = (0, 1, 2)
    """Which of the patient's axes comes first, second, third (fastest first)."""
    slope: float = 1.0
    intercept: float = -1024.0
    signed: bool = False
    shuffled: bool = False
    """Whether names of DICOM files are out of the order of slices."""


_DICOM_LAYOUTS = (
    _Layout(),
    _Layout(intercept=0.0, signed=True, shuffled=True),
    # Rows from back to front: the normal of the slices points to the feet.
    _Layout(mirrored=(False, True, True), slope=0.5, shuffled=True),
)
_NIFTI_LAYOUTS = (
    _Layout(mirrored=(True, True, False)),  # left to right, front to back as NIfTI tools write it
    _Layout(),
    _Layout(mirrored=(False, False, True)),
    _Layout(order=(1, 2, 0)),  # sagittal slices
)


@dataclass(frozen=True)
class WrittenStudy:
    """Where the parts of a study lie within the cohort folder, and the lesions' boxes."""

    path: str
    series_uid: str
    """Needed when the folder holds several series; else empty."""
    mask: str
    """Label mask of all lesions; empty when there is none."""
    lesion_masks: Mapping[str, str]
    """Lesion → its own mask."""
    boxes_mm: Mapping[str, tuple[float, ...]]
    """Lesion → x, y, z low; x, y, z high: centres of the outermost voxels, mm in the patient (LPS)."""


def write_study(folder: Path, plan: CtPlan, seed: int) -> WrittenStudy:
    """Render a CT study and write its files below the cohort folder."""
    volume = render_volume(plan, seed)
    layouts = _DICOM_LAYOUTS if plan.format == "dicom" else _NIFTI_LAYOUTS
    layout = layouts[plan.layout % len(layouts)]
    image = _as_image(volume.hu, volume, layout)
    path, series_uid = f"ct/{plan.ct}", ""
    if plan.format == "dicom":
        series_uid = _write_dicom(folder / path, image, plan, seed, layout)
    else:
        path += ".nii.gz"
        _write_nifti(folder / path, image)
    numbers = {lesion.lesion: number for number, lesion in enumerate(plan.lesions, start=1)}
    mask, lesion_masks = "", {}
    if plan.annotation == "study mask":
        mask = f"masks/{plan.ct}.nii.gz"
        _write_nifti(folder / mask, _as_image(volume.labels, volume, layout))
    elif plan.annotation == "lesion masks":
        for lesion, number in numbers.items():
            lesion_masks[lesion] = f"masks/{plan.ct}_{lesion}.nii.gz"
            one = (volume.labels == number).astype(np.uint8)
            _write_nifti(folder / lesion_masks[lesion], _as_image(one, volume, layout))
    boxes = lesion_boxes_mm(plan, volume, seed)
    return WrittenStudy(path, series_uid if plan.second_series else "", mask, lesion_masks, boxes)


def lesion_boxes_mm(plan: CtPlan, volume: Volume, seed: int) -> dict[str, tuple[float, ...]]:
    """Boxes as an annotator would give them, tight or loose as the plan says; see `WrittenStudy.boxes_mm`."""
    boxes = {lesion.lesion: _box_mm(volume, number) for number, lesion in enumerate(plan.lesions, start=1)}
    if plan.loose_mm:
        numbered = enumerate(boxes.items(), start=1)
        boxes = {lesion: _loosened(box, volume, number, plan, seed) for number, (lesion, box) in numbered}
    return boxes


def _box_mm(volume: Volume, number: int) -> tuple[float, ...]:
    """Smallest box around a lesion: x, y, z low; x, y, z high, mm in the patient."""
    indices_xyz = np.argwhere(volume.labels == number)[:, ::-1]
    corners = (indices_xyz.min(axis=0), indices_xyz.max(axis=0))
    low, high = (np.array(volume.origin_mm) + corner * np.array(volume.spacing_mm) for corner in corners)
    return tuple(round(float(value), 3) for value in (*low, *high))


def _loosened(box: tuple[float, ...], volume: Volume, number: int, plan: CtPlan, seed: int) -> tuple[float, ...]:
    """The box with one side along x and one along y moved outwards, drawn at random, but not out of the volume.

    Along z it holds the lesion's widest slice alone, so that this slice is found although the box holds other tissue.
    """
    rng = stream(seed, "loose", int(plan.ct[1:]))
    widest = int((volume.labels == number).sum(axis=(1, 2)).argmax())
    z = volume.origin_mm[2] + widest * volume.spacing_mm[2]
    box = (*box[:2], z, *box[3:5], z)
    loose = np.zeros(6)
    loose[[0, 1] + 3 * rng.integers(0, 2, 2)] = plan.loose_mm
    low = np.array(volume.origin_mm)
    high = low + (np.array(volume.labels.shape[::-1]) - 1) * np.array(volume.spacing_mm)
    corners = np.maximum(np.array(box[:3]) - loose[:3], low), np.minimum(np.array(box[3:]) + loose[3:], high)
    return tuple(round(float(value), 3) for value in np.concatenate(corners))


def _as_image(voxels: npt.NDArray[Any], volume: Volume, layout: _Layout) -> Any:
    """Image whose stored axes follow the layout and whose geometry says where each voxel is in the patient."""
    import SimpleITK as sitk

    origin, spacing = list(volume.origin_mm), volume.spacing_mm
    direction = np.eye(3)
    for axis, mirrored in enumerate(layout.mirrored):
        if mirrored:
            array_axis = 2 - axis
            voxels = np.flip(voxels, axis=array_axis)
            origin[axis] += (voxels.shape[array_axis] - 1) * spacing[axis]
            direction[axis, axis] = -1.0
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels))
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction.ravel().tolist())
    return sitk.PermuteAxes(image, layout.order) if layout.order != (0, 1, 2) else image


def _write_nifti(file: Path, image: Any) -> None:
    import SimpleITK as sitk

    sitk.WriteImage(image, str(file), useCompression=True, compressionLevel=3)


def _write_dicom(folder: Path, image: Any, plan: CtPlan, seed: int, layout: _Layout) -> str:
    """Write one file a slice, and a short second series where the plan has one; returns the series' UID."""
    from pydicom.uid import generate_uid

    folder.mkdir()
    uids = [generate_uid(_UID_ROOT, [str(seed), plan.ct, part]) for part in ("study", "frame", "series", "scout")]
    slices = image.GetDepth()
    names = np.arange(slices)
    if layout.shuffled:
        names = stream(seed, "names", int(plan.ct[1:])).permutation(slices)
    for index in range(slices):
        header = _header(plan, uids, uids[2], index)
        _save_slice(folder / f"IM{int(names[index]):04d}", header, image, index, layout)
    if plan.second_series:
        for index in range(0, slices, 8):
            header = _header(plan, uids, uids[3], index)
            header.SeriesNumber, header.SeriesDescription = 3, "REVIEW"
            _save_slice(folder / f"RV{index:04d}", header, image, index, layout)
    return str(uids[2])


def _header(plan: CtPlan, uids: list[Any], series_uid: str, index: int) -> Dataset:
    """What a scanner writes of patient and series; all of it is made up."""
    from pydicom.dataset import Dataset
    from pydicom.uid import CTImageStorage, generate_uid

    header = Dataset()
    header.SOPClassUID = CTImageStorage
    header.SOPInstanceUID = generate_uid(_UID_ROOT, [series_uid, str(index)])
    header.StudyInstanceUID, header.FrameOfReferenceUID, header.SeriesInstanceUID = uids[0], uids[1], series_uid
    header.StudyDate, header.StudyTime, header.AccessionNumber = "20200101", "120000", "MADEUPMRN-A"
    header.Modality, header.Manufacturer, header.InstitutionName = "CT", "mumo", "MADEUPHOSPITAL"
    header.ReferringPhysicianName = ""
    header.PatientName = f"MADEUPNAME^{plan.patient}"
    header.PatientID = f"MADEUPMRN-{plan.patient}"
    header.PatientBirthDate, header.PatientSex, header.StudyID = "19500101", "O", "1"
    header.SeriesNumber, header.SeriesDescription, header.InstanceNumber = 2, "PORTAL VENOUS", index + 1
    header.PatientPosition, header.KVP = "HFS", "120"
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    return header


def _save_slice(file: Path, header: Dataset, image: Any, index: int, layout: _Layout) -> None:
    """Add geometry and pixels of one slice to its header and write it."""
    import SimpleITK as sitk
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    direction = np.array(image.GetDirection()).reshape(3, 3)
    spacing: Triple = image.GetSpacing()
    header.ImageOrientationPatient = [f"{value:.1f}" for value in (*direction[:, 0], *direction[:, 1])]
    header.ImagePositionPatient = [f"{v:.3f}" for v in image.TransformIndexToPhysicalPoint((0, 0, index))]
    header.PixelSpacing = [f"{spacing[1]:.4f}", f"{spacing[0]:.4f}"]
    # Slices overlap where they lie closer than 5 mm, so the distance must come from their positions.
    header.SliceThickness = "5.0"
    header.Rows, header.Columns = image.GetHeight(), image.GetWidth()
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit, header.PixelRepresentation = 15, int(layout.signed)
    header.RescaleSlope, header.RescaleIntercept, header.RescaleType = f"{layout.slope}", f"{layout.intercept}", "HU"
    stored = (sitk.GetArrayViewFromImage(image)[index] - layout.intercept) / layout.slope
    header.PixelData = np.rint(stored).astype("<i2" if layout.signed else "<u2").tobytes()
    header["PixelData"].VR = "OW"
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(file, enforce_file_format=True)

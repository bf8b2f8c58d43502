"""Small CT studies for tests: an ellipsoid in noise, written in every format that mumo reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import imagecodecs
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.encaps import encapsulate
from pydicom.sr.codedict import codes
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    RTStructureSetStorage,
    generate_uid,
)
from skimage.measure import find_contours

from mumo.config import Settings
from mumo.pipeline.cohorts.cohort import Cohort, CtStudy, Lesion
from mumo.pipeline.extract import Choice, StageReport, run_stage
from mumo.pipeline.running.execute import InProcess
from mumo.pipeline.stage import Stage
from mumo.stores.records import Store

SIZE_XYZ = (40, 36, 14)
SPACING = (0.8, 0.9, 2.5)
ORIGIN = (-20.0, 11.0, -105.0)
CENTRE_INDEX = np.array([22.0, 15.0, 6.0])
SEMI_AXES_MM = np.array([6.0, 5.0, 8.0])


def ellipsoid(seed: int = 0, hu: float = 90.0, size: tuple[int, int, int] = SIZE_XYZ) -> tuple[sitk.Image, sitk.Image]:
    """An image (int16) and its label mask (uint8, label 3) on an upright grid, with one ellipsoid that is no mirror
    image of itself: its noise differs everywhere."""
    x, y, z = np.meshgrid(*(np.arange(n, dtype=float) for n in size), indexing="ij")
    offset = (np.stack([x, y, z], axis=-1) - CENTRE_INDEX) * SPACING / SEMI_AXES_MM
    inside = ((offset**2).sum(axis=-1) <= 1).transpose(2, 1, 0)
    noise = np.random.default_rng(seed).normal(0, 12, inside.shape)
    array = np.rint(np.where(inside, hu, -80.0) + noise).astype(np.int16)
    return image_of(array), image_of((inside * 3).astype(np.uint8))


def image_of(array: np.ndarray[Any, Any], like: sitk.Image | None = None) -> sitk.Image:
    """An image on the upright grid, or on that of another image."""
    image = sitk.GetImageFromArray(array)
    if like is not None:
        image.CopyInformation(like)
    else:
        image.SetSpacing(SPACING)
        image.SetOrigin(ORIGIN)
    return image


def turned(image: sitk.Image, code: str) -> sitk.Image:
    """The same voxels at the same places in the patient, stored in another order of axes."""
    return sitk.DICOMOrient(image, code)


def write(image: sitk.Image, path: Path, *, compress: bool = False) -> Path:
    """Write a file; the format is that of the ending."""
    sitk.WriteImage(image, str(path), compress)
    return path


def write_dicom(
    image: sitk.Image,
    folder: Path,
    *,
    series_uid: str = "1.2.826.0.1.3680043.10.1",
    slope: float = 1.0,
    intercept: float = -1024.0,
    text: str = "",
    prefix: str = "s",
) -> list[Path]:
    """A classic DICOM series, one file a slice, made with pydicom alone; file names run against the slices' order.

    `text` is planted in attributes that hold free text and names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = sitk.GetArrayFromImage(image)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    files = []
    for z, plane in enumerate(array):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.SeriesInstanceUID = series_uid
        data.StudyInstanceUID = "1.2.826.0.1.3680043.10.9"
        data.Modality = "CT"
        for name in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription", "InstitutionName"):
            setattr(data, name, text)
        data.Rows, data.Columns = plane.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        data.RescaleSlope, data.RescaleIntercept = str(slope), str(intercept)
        data.PixelSpacing = [repr(image.GetSpacing()[1]), repr(image.GetSpacing()[0])]
        data.ImageOrientationPatient = [f"{v:.10f}" for v in (*direction[:, 0], *direction[:, 1])]
        data.ImagePositionPatient = [f"{v:.9f}" for v in image.TransformIndexToPhysicalPoint((0, 0, z))]
        data.PixelData = np.rint((plane.astype(float) - intercept) / slope).astype("<u2").tobytes()
        file = folder / f"{prefix}{len(array) - z:03d}.dcm"
        data.save_as(file, enforce_file_format=True)
        files.append(file)
    return files


def change(file: Path, **attributes: Any) -> None:
    """Set attributes of a DICOM file; None removes one."""
    data = pydicom.dcmread(file)
    for name, value in attributes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.save_as(file)


def compress(file: Path, codec: str) -> None:
    """Compress the pixels of a DICOM file without loss."""
    data = pydicom.dcmread(file)
    if codec == "rle":
        data.compress(RLELossless)
    else:
        encode = {
            "jpeg2000": (
                JPEG2000Lossless,
                lambda pixels: imagecodecs.jpeg2k_encode(pixels, reversible=True, codecformat="j2k"),
            ),
            "jpeg-ls": (JPEGLSLossless, imagecodecs.jpegls_encode),
            "jpeg-lossless": (JPEGLosslessSV1, imagecodecs.ljpeg_encode),
        }[codec]
        data.PixelData = encapsulate([encode[1](data.pixel_array)])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = encode[0]
    data.save_as(file)


def write_rtstruct(file: Path, rois: dict[str, list[np.ndarray]], *, frame_uid: str = "", text: str = "") -> Path:
    """A structure set: name of a region → its closed contours (n, 3) in mm; regions are numbered from 1."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTStructureSetStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    data.PatientName = data.StructureSetLabel = data.StructureSetDescription = text
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi, drawn = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame_uid
        roi.ROIDescription = text
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for points in contours:
            part = pydicom.Dataset()
            part.ContourGeometricType, part.NumberOfContourPoints = "CLOSED_PLANAR", len(points)
            part.ContourData = [f"{v:.4f}" for v in np.ravel(points)]
            drawn.ContourSequence.append(part)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(drawn)
    data.save_as(file, enforce_file_format=True)
    return file


def outlines(mask: sitk.Image) -> list[np.ndarray]:
    """Contours (n, 3) in mm around the voxels of a mask, one a piece and slice, half a voxel outside their centres."""
    found = []
    for z, plane in enumerate(sitk.GetArrayFromImage(mask) > 0):
        for line in find_contours(np.pad(plane.astype(float), 1), 0.5):
            points = [(x - 1, y - 1, z) for y, x in line[:-1]]
            found.append(np.array([mask.TransformContinuousIndexToPhysicalPoint(p) for p in points]))
    return found


def write_seg(file: Path, series: list[Path], masks: dict[str, np.ndarray], *, kind: str = "BINARY") -> Path:
    """A DICOM SEG of the slices of a series: label of a segment → its mask (z, y, x) in the order of the files."""
    sources = [pydicom.dcmread(one) for one in series]
    for source in sources:
        for name in ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
            setattr(source, name, "")
        source.Manufacturer = source.ReferringPhysicianName = ""
        source.SliceThickness = "2.5"
        source.FrameOfReferenceUID = source.get("FrameOfReferenceUID", "1.2.826.0.1.3680043.10.7")
    algorithm = highdicom.AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        highdicom.seg.SegmentDescription(
            number, name, codes.SCT.MorphologicallyAbnormalStructure, codes.SCT.Neoplasm, "AUTOMATIC", algorithm
        )
        for number, name in enumerate(masks, start=1)
    ]
    data = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=np.stack([mask > 0 for mask in masks.values()], axis=-1).astype(
            np.float32 if kind == "FRACTIONAL" else np.uint8
        ),
        segmentation_type=kind,
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="m",
        manufacturer_model_name="m",
        software_versions="1",
        device_serial_number="1",
    )
    data.save_as(file)
    return file


def lesion(lesion: str = "L1", **fields: Any) -> Lesion:
    """A lesion; by default a liver lesion of no mask and no box."""
    values: dict[str, Any] = {"lesion_type": "liver", "mask": None, "label": None, "box": None, "box_unit": "voxel"}
    return Lesion(lesion, **{**values, **fields})


def study(path: Path, *lesions: Lesion, ct: str = "C1", **fields: Any) -> CtStudy:
    """A study; by default of patient P1 at centre A."""
    values: dict[str, Any] = {"patient": "P1", "centre": "A", "series_uid": None}
    return CtStudy(ct, path=path, lesions=lesions, **{**values, **fields})


def cohort(*studies: CtStudy) -> Cohort:
    """A cohort of CT studies alone."""
    return Cohort("test", Path("cohort.toml"), (), (), studies, {}, {}, ())


class Silent:
    """Hears of progress and says nothing."""

    def stage_started(self, stage: str, to_do: int, done: int) -> None: ...

    def item_ended(self, status: Any) -> None: ...

    def stage_ended(self, stage: str) -> None: ...


def extract(stage: Stage, of: Cohort, store: Store, settings: Settings, **choice: Any) -> StageReport:
    """Run one stage in this process, through the real machinery."""
    return run_stage(stage, of, store, settings, Choice((stage.name,), **choice), InProcess(), Silent())

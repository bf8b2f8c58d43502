"""Whole-slide images in DICOM, written by pydicom: one file a level, tiled, JPEG."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

TILE_PX = 256


def write_dicom_slide(folder: Path, pixels: npt.NDArray[np.uint8], mpp: float, factors: tuple[int, ...]) -> Path:
    """Write the levels `factors` of a picture (y, x, 3) as one series; returns the folder."""
    folder.mkdir()
    series, frame_of_reference, study = generate_uid(), generate_uid(), generate_uid()
    for number, factor in enumerate(factors, start=1):
        level = np.asarray(Image.fromarray(pixels).reduce(factor))
        file = _level(level, mpp * factor, number)
        file.SeriesInstanceUID, file.StudyInstanceUID = series, study
        file.FrameOfReferenceUID = frame_of_reference
        file.save_as(folder / f"level-{number}.dcm", enforce_file_format=True)
    return folder


def _level(pixels: npt.NDArray[np.uint8], mpp: float, number: int) -> FileDataset:
    height, width = pixels.shape[:2]
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("level.dcm", {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.Modality, file.SeriesNumber, file.InstanceNumber = "SM", 1, number
    file.ImageType = [
        "ORIGINAL" if number == 1 else "DERIVED",
        "PRIMARY",
        "VOLUME",
        "NONE" if number == 1 else "RESAMPLED",
    ]
    file.PatientName, file.PatientID = "", "synthetic"
    file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "YBR_FULL_422", 0
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 8, 8, 7, 0
    file.Rows, file.Columns = TILE_PX, TILE_PX
    file.TotalPixelMatrixRows, file.TotalPixelMatrixColumns = height, width
    file.DimensionOrganizationType = "TILED_FULL"
    file.TotalPixelMatrixFocalPlanes, file.NumberOfOpticalPaths = 1, 1
    file.ImagedVolumeWidth, file.ImagedVolumeHeight, file.ImagedVolumeDepth = (
        width * mpp / 1e3,
        height * mpp / 1e3,
        0.001,
    )
    measures = Dataset()
    measures.PixelSpacing = [mpp / 1e3, mpp / 1e3]
    measures.SliceThickness = 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = Sequence([measures])
    file.SharedFunctionalGroupsSequence = Sequence([shared])
    optical = Dataset()
    optical.OpticalPathIdentifier = "1"
    file.OpticalPathSequence = Sequence([optical])
    frames = [_frame(pixels, y, x) for y in range(0, height, TILE_PX) for x in range(0, width, TILE_PX)]
    file.NumberOfFrames = len(frames)
    file.PixelData = encapsulate(frames)
    file["PixelData"].is_undefined_length = True
    return file


def _frame(pixels: npt.NDArray[np.uint8], y: int, x: int) -> bytes:
    tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
    part = pixels[y : y + TILE_PX, x : x + TILE_PX]
    tile[: part.shape[0], : part.shape[1]] = part
    stream = io.BytesIO()
    Image.fromarray(tile).save(stream, "JPEG", quality=95)
    return stream.getvalue()

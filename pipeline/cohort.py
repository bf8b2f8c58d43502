"""`cohort.toml` and its tables to patients, slides, CT studies and lesions; all problems reported at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import Problem


@dataclass(frozen=True)
class Slide:
    """One whole-slide image."""

    slide: str
    patient: str
    path: Path
    annotation: Path | None
    """ASAP XML or GeoJSON; without it, tissue is found on a thumbnail."""
    mpp: float | None
    """Resolution of level 0 as the cohort file states it, µm/px."""
    white_balance: bool
    """Whether white balance is applied before colour normalisation."""


@dataclass(frozen=True)
class Lesion:
    """One annotated lesion of a CT study: a label of a mask, or a box, or both."""

    lesion: str
    lesion_type: str
    """One of `config.LESION_TYPES`."""
    mask: Path | None
    label: int | None
    """Value of the lesion's voxels in the mask; none: every voxel that is not 0."""
    box: tuple[float, float, float, float, float, float] | None
    """Corners x, y, z low; x, y, z high, in `box_unit`; both corners inside the box."""
    box_unit: Literal["voxel", "mm"]
    """Voxel indices of the image as stored in its file, or millimetres in the patient (LPS)."""


@dataclass(frozen=True)
class CtStudy:
    """One CT series with its lesions."""

    ct: str
    patient: str
    centre: str
    path: Path
    """A DICOM folder, or a NIfTI, NRRD or MHA file."""
    series_uid: str | None
    """Which series of the folder; needed when there are several."""
    lesions: tuple[Lesion, ...]


@dataclass(frozen=True)
class Patient:
    """One patient: what the tables say in mumo's own words, `None` where unknown."""

    patient: str
    centre: str
    treatment_group: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Cohort:
    """A validated cohort."""

    name: str
    file: Path
    """The cohort file."""
    patients: tuple[Patient, ...]
    slides: tuple[Slide, ...]
    ct_studies: tuple[CtStudy, ...]
    region_classes: Mapping[str, int]
    """Annotation group → region class 0–3."""
    cutoff_days: Mapping[str, float]
    """Treatment group → PFS cut-off of the label rule."""
    warnings: tuple[Problem, ...]

"""`cohort.toml` and its tables to patients, slides, CT studies and lesions; all problems reported at once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..config import ClinicalSettings
from ..errors import CohortError, Problem
from ..stores.records import is_safe_id
from .cohort_file import CohortFile, TableSection, expand_variables, near_match, read_cohort_file, shorten
from .fields import (
    BOX,
    HER2_LEVELS,
    CellError,
    FieldSpec,
    complete_shares,
    ct_fields,
    lesion_fields,
    patient_fields,
    slide_fields,
)
from .source_tables import Row, TableRows, read_fields, section_key

MAX_TARGETS = 5
"""Target lesions a patient (RECIST 1.1); more is a warning."""

MAX_TARGETS_PER_ORGAN = 2
"""Target lesions an organ (RECIST 1.1); more is a warning."""

_HER2_SHARES = tuple(f"her2_share_{level}" for level in range(HER2_LEVELS))
_SAFE_ID = "an id of letters, digits, '.', '_' and '-', at most 94 characters, not starting with '.', '_' or '-'"


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
    """Every other field of `fields.patient_fields`, by name. The four `her2_share_*` are one, `her2_heterogeneity`."""


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
    data: Path = field(default_factory=Path)
    """Folder that relative paths of the tables start from."""
    tables: tuple[Path, ...] = ()
    """The tables behind `patients`: that of the patients, then those of the reports."""
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Table → mumo's field → the user's column, for messages."""


def load_cohort(file: Path, data: Path | None = None, clinical: ClinicalSettings | None = None) -> Cohort:
    """The cohort that `file` describes, validated as a whole.

    `data` takes the place of the data folder that the file names. `clinical` (none: the defaults) limits what coded
    fields may hold: counts of sites, of lesions, years. Source files (slides, volumes, annotations, masks) are not
    looked for here, see `missing_files`.

    Raises:
        CohortError: with every problem, warnings too, when one of them is an error.
    """
    content, problems = read_cohort_file(file)
    if content is None:
        raise CohortError(problems)
    folder, found = _data_folder(file, content, data)
    problems += found
    if folder is None:
        raise CohortError(problems)
    loader = _Loader(content, folder, clinical or ClinicalSettings(), problems)
    cohort = loader.cohort(file)
    if any(problem.severity == "error" for problem in problems):
        raise CohortError(sorted(problems, key=lambda problem: problem.severity))
    return replace(cohort, warnings=tuple(problems))


def missing_files(cohort: Cohort) -> list[Problem]:
    """Source files of the cohort that are not there: what fails alone when it is extracted, told beforehand."""
    wanted = [("slides", slide.slide, "path", slide.path, "a slide") for slide in cohort.slides]
    wanted += [
        ("slides", slide.slide, "annotation", slide.annotation, "an annotation file")
        for slide in cohort.slides
        if slide.annotation
    ]
    wanted += [("ct", study.ct, "path", study.path, "a DICOM folder or volume") for study in cohort.ct_studies]
    for study in cohort.ct_studies:
        # a mask that all lesions share is named once
        masks = {lesion.mask: lesion.lesion for lesion in reversed(study.lesions) if lesion.mask}
        wanted += [("lesions", f"{study.ct}/{lesion}", "mask", mask, "a mask") for mask, lesion in masks.items()]
    return [
        Problem(
            table=table,
            row=row,
            column=cohort.columns.get(table, {}).get(name, name),
            found=f"no file {shorten(_relative(path, cohort.data))}",
            expected=what,
            remedy="Correct the path, or --data. Without it, this item alone fails.",
        )
        for table, row, name, path, what in wanted
        if not path.exists()
    ]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _data_folder(file: Path, content: CohortFile, data: Path | None) -> tuple[Path | None, list[Problem]]:
    if data is None:
        text, unset = expand_variables(content.data, os.environ)
        if unset:
            found = f"{content.data!r} with unset variable(s) {', '.join(unset)}"
            remedy = "Set it in the environment, or give the folder with --data."
            return None, [Problem(file.name, "", "data", found, "a folder", remedy)]
        data = file.parent / text
    if not data.is_dir():
        found = f"no folder {shorten(str(data))}"
        return None, [Problem(file.name, "", "data", found, "a folder", "Correct `data`, or give --data.")]
    return data.resolve(), []


def _read_table(
    name: str, section: TableSection, specs: Mapping[str, FieldSpec], folder: Path, problems: list[Problem]
) -> TableRows:
    table, found = read_fields(name, section, specs, folder / section.table)
    problems += [*found, *(() if name == "lesions" else check_ids(table, name.removesuffix("s")))]
    return table


def _slides(content: CohortFile, folder: Path, patients: PatientTables, problems: list[Problem]) -> _Slides:
    if content.slides is None:
        return (), {}
    table = _read_table("slides", content.slides, slide_fields(), folder, problems)
    slides = []
    for row in table.rows:
        values = row.values
        if not _belongs(table, row, patients, problems) or values["slide"] is None or values["path"] is None:
            continue
        slides.append(
            Slide(
                slide=values["slide"],
                patient=values["patient"],
                path=folder / values["path"],
                annotation=folder / values["annotation"] if values["annotation"] else None,
                mpp=values["mpp"],
                white_balance=bool(values["white_balance"]),
            )
        )
    return tuple(slides), table.columns

"""`cohort.toml` and its tables to patients, slides, CT studies and lesions; all problems reported at once."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...config import ClinicalSettings
from ...errors import CohortError, InputError, Problem
from ..radiology.label_table import read_label_table
from .cohort_file import CohortFile, LesionsSection, expand_variables, read_cohort_file, shorten
from .fields import BOX, ct_fields, lesion_fields, patient_fields, slide_fields
from .patients import PatientTables, check_ids, read_patients, unknown_reference
from .source_tables import Row, TableRows, read_fields, read_word
from .variation import Variation

MAX_TARGETS = 5
"""Target lesions a patient (RECIST 1.1); more is a warning."""

MAX_TARGETS_PER_ORGAN = 2
"""Target lesions an organ (RECIST 1.1); more is a warning."""

_TABLES = ("patients", "slides", "ct", "lesions")
_OWN_FIELDS = ("patient", "centre", "treatment_group")
"""Fields that `Patient` holds by name."""


@dataclass(frozen=True)
class Slide:
    """One whole-slide image."""

    slide: str
    patient: str
    path: Path
    annotation: Path | None
    """XML of ASAP or ImageScope, GeoJSON, or a label image; without it, tissue is found on a thumbnail."""
    mpp: float | None
    """Resolution of level 0 as the cohort file states it, µm/px."""
    white_balance: bool
    """Whether white balance is applied before colour normalisation."""
    variation: Variation | None = None
    """How the outlines of the annotation are moved; none: they are taken as drawn."""


@dataclass(frozen=True)
class Lesion:
    """One annotated lesion of a CT study: a label of a mask, or a box, or both."""

    lesion: str
    lesion_type: str
    """One of `config.LESION_TYPES`."""
    mask: Path | None
    label: int | None
    """Value of the lesion's voxels in the mask, or number of its region; none: every voxel that is not 0."""
    box: tuple[float, float, float, float, float, float] | None
    """Corners x, y, z low; x, y, z high, in `box_unit`; both corners inside the box."""
    box_unit: Literal["voxel", "mm"]
    """Voxel indices of the image as stored in its file, or millimetres in the patient (LPS)."""
    roi: str | None = None
    """Name or number of the lesion's region where the mask is a DICOM RTSTRUCT or SEG."""


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
    content, found = _expanded(file, content)
    problems += found
    folder, found = _data_folder(file, content, data)
    problems += found
    if folder is None:
        raise CohortError(problems)
    patients, found = read_patients(content, patient_fields(clinical or ClinicalSettings()), folder)
    problems += found
    slides, slide_table = _slides(content, folder, patients, problems)
    studies, ct_tables = _studies(content, folder, patients, problems)
    if any(problem.severity == "error" for problem in problems):
        # errors first
        raise CohortError(sorted(problems, key=lambda problem: problem.severity))
    return Cohort(
        name=content.name,
        file=file.resolve(),
        patients=tuple(_patient(row.values) for row in patients.patients.values()),
        slides=slides,
        ct_studies=studies,
        region_classes=dict(content.slides.region_classes) if content.slides else {},
        cutoff_days=dict(content.labels.cutoff_days),
        warnings=tuple(problems),
        data=folder,
        tables=tuple(folder / section.table for section in (content.patients, *content.reports)),
        columns={table.table: table.columns for table in (*patients.tables, *slide_table, *ct_tables)},
    )


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
            remedy="Paths start from the data folder: correct the path, `data` or --data. Without it, this item alone "
            "fails.",
        )
        for table, row, name, path, what in wanted
        if not path.exists()
    ]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _expanded(file: Path, content: CohortFile) -> tuple[CohortFile, list[Problem]]:
    """The content with variables in the tables' paths replaced, and those that are not set.

    `${COHORT}` is the cohort file's own folder, so that tables may lie beside it while `data` is elsewhere.
    """
    variables = {**os.environ, "COHORT": str(file.resolve().parent)}
    problems = []

    def expand(text: str, place: str) -> str:
        expanded, unset = expand_variables(text, variables)
        if unset:
            found = f"{text!r} with unset variable(s) {', '.join(unset)}"
            problems.append(Problem(file.name, "", place, found, "a path", "Set it in the environment."))
        return expanded

    def with_table(section: Any, name: str) -> Any:
        return section and section.model_copy(update={"table": expand(section.table, f"{name}.table")})

    update: dict[str, Any] = {name: with_table(getattr(content, name), name) for name in _TABLES}
    update["reports"] = tuple(with_table(section, "reports") for section in content.reports)
    return content.model_copy(update=update), problems


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


def _patient(values: Mapping[str, Any]) -> Patient:
    return Patient(
        patient=values["patient"],
        centre=values["centre"],
        treatment_group=values["treatment_group"],
        fields={name: value for name, value in values.items() if name not in _OWN_FIELDS},
    )


def _slides(
    content: CohortFile, folder: Path, patients: PatientTables, problems: list[Problem]
) -> tuple[tuple[Slide, ...], tuple[TableRows, ...]]:
    if content.slides is None:
        return (), ()
    table, found = read_fields("slides", content.slides, slide_fields(), folder / content.slides.table)
    problems += [*found, *check_ids(table, "slide")]
    slides = []
    for row in table.rows:
        values = row.values
        problems += _stranger(table, row, patients)
        if values["slide"] and values["patient"] in patients.patients and values["path"]:
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
    return tuple(slides), (table,)


def _stranger(table: TableRows, row: Row, patients: PatientTables) -> Iterable[Problem]:
    """A row whose patient is not in the table of patients."""
    patient = row.values["patient"]
    if patient and patients.readable and patient not in patients.patients:
        yield unknown_reference(table, row, "patient", patients.patients, "patients")


def _studies(
    content: CohortFile, folder: Path, patients: PatientTables, problems: list[Problem]
) -> tuple[tuple[CtStudy, ...], tuple[TableRows, ...]]:
    if content.ct is None or content.lesions is None:
        for name, other, section in (("ct", "lesions", content.ct), ("lesions", "ct", content.lesions)):
            if section is not None:
                remedy = f"Add the section [{other}], or remove [{name}]."
                problems.append(Problem(name, "", "", f"no section [{other}]", "both or none", remedy))
        return (), ()
    table, found = read_fields("ct", content.ct, ct_fields(), folder / content.ct.table)
    problems += [*found, *check_ids(table, "ct")]
    lesion_table, lesions = _lesions(content.lesions, folder, table, problems)
    studies = []
    for row in table.rows:
        values = row.values
        problems += _stranger(table, row, patients)
        if lesion_table.readable and values["ct"] and values["ct"] not in lesions:
            expected = "a lesion at least"
            remedy = "The study is of no use without; add its lesions."
            problems.append(
                table.problem(row, "ct", found="no lesions", expected=expected, remedy=remedy, severity="warning")
            )
        if values["ct"] and values["patient"] in patients.patients and values["path"]:
            studies.append(
                CtStudy(
                    ct=values["ct"],
                    patient=values["patient"],
                    centre=patients.patients[values["patient"]].values["centre"],
                    path=folder / values["path"],
                    series_uid=values["series_uid"],
                    lesions=tuple(lesions.get(values["ct"], ())),
                )
            )
    problems += _too_many_targets(studies)
    return tuple(studies), (table, lesion_table)


def _lesions(
    section: LesionsSection, folder: Path, studies: TableRows, problems: list[Problem]
) -> tuple[TableRows, dict[str, list[Lesion]]]:
    """The table of lesions, and the lesions by study; a study that rows name has an entry, whatever is in them."""
    table, found = read_fields("lesions", section, lesion_fields(), folder / section.table)
    problems += [*found, *check_ids(table, "lesion", within="ct")]
    # of rows with the same id, which is a problem of its own, the first counts
    study_masks = {row.values["ct"]: row.values["mask"] for row in reversed(studies.rows) if row.values["ct"]}
    names = _label_tables(studies, folder, problems)
    masks_lost = any("mask" in row.bad for row in studies.rows)
    lesions: dict[str, list[Lesion]] = defaultdict(list)
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in table.rows:
        values = row.values
        if values["ct"] and studies.readable and values["ct"] not in study_masks:
            problems.append(unknown_reference(table, row, "ct", study_masks, "ct"))
        box, found = _box(table, row, section.box_unit)
        problems += found
        mask = values["mask"] or study_masks.get(values["ct"])
        # nothing is missing where a box, a mask or the study is a problem already
        excused = found or row.bad & {*BOX, "mask"} or masks_lost or values["ct"] not in study_masks
        if not (box or mask or excused):
            expected = "a box, or a mask of the lesion or of its study"
            remedy = (
                f"Fill in {', '.join(BOX)}, or mask; name their columns in [lesions.columns], or the column of a mask "
                "of all lesions in [ct.columns]."
            )
            problems.append(table.problem(row, "", found="neither box nor mask", expected=expected, remedy=remedy))
        own = lesions[values["ct"]]
        label, lesion_type, found = _named(table, row, names.get(values["ct"]), section)
        problems += found
        if values["lesion"] and lesion_type:
            mask_path = folder / mask if mask else None
            own.append(
                Lesion(values["lesion"], lesion_type, mask_path, label, box, section.box_unit, roi=values["roi"])
            )
            rows[values["ct"]].append(row)
    for ct, own in lesions.items():
        problems += _same_voxels(table, rows[ct], own)
    return table, lesions


def _label_tables(studies: TableRows, folder: Path, problems: list[Problem]) -> dict[str, dict[int, str]]:
    """Study → label → name, for the studies that have a table of labels."""
    tables: dict[str, dict[int, str]] = {}
    for row in studies.rows:
        file = row.values["label_table"]
        if not (file and row.values["ct"]):
            continue
        try:
            tables[row.values["ct"]] = read_label_table(folder / file)
        except InputError as error:
            remedy = "Correct the path, or the file."
            expected = "ITK-SNAP's label descriptions"
            problems.append(studies.problem(row, "label_table", found=str(error), expected=expected, remedy=remedy))
            tables[row.values["ct"]] = {}
    return tables


def _named(
    table: TableRows, row: Row, names: Mapping[int, str] | None, section: LesionsSection
) -> tuple[int | None, str | None, list[Problem]]:
    """Label and type of a lesion: its own, or by the study's table of labels; and what is wrong with them."""
    label, lesion_type, roi = (row.values[name] for name in ("label", "lesion_type", "roi"))
    problems = []
    if roi is not None and label is None and names:
        fitting = [number for number, name in names.items() if name.casefold() == roi.casefold()]
        if len(fitting) == 1:
            label = fitting[0]
        else:
            found = f"{len(fitting)} labels of the name {shorten(roi)} in the study's label table"
            problems.append(
                table.problem(row, "roi", found=found, expected="one", remedy="Correct roi or label_table.")
            )
    if lesion_type is None and "lesion_type" not in row.bad and row.values["lesion"]:
        spec = lesion_fields()["lesion_type"]
        if names and label in names:
            lesion_type = read_word(section, spec, names[label])
        if lesion_type is None and not problems and names != {}:
            found = "no type, nor a label whose name in the study's label table is one"
            remedy = "Fill in lesion_type, or map the label's name in [lesions.values.lesion_type]."
            problems.append(table.problem(row, "lesion_type", found=found, expected=spec.expected, remedy=remedy))
    return label, lesion_type, problems


def _box(
    table: TableRows, row: Row, unit: Literal["voxel", "mm"]
) -> tuple[tuple[float, float, float, float, float, float] | None, list[Problem]]:
    """The lesion's box; none where no corner is given or where it is a problem."""
    missing = [name for name in BOX if row.values[name] is None]
    if len(missing) == len(BOX) or row.bad.intersection(BOX):
        return None, []
    if missing:
        found = f"a box without {', '.join(missing)}"
        remedy = "Fill in the rest, or leave the whole box out."
        return None, [table.problem(row, missing[0], found=found, expected=f"all of {', '.join(BOX)}", remedy=remedy)]
    x_low, y_low, z_low, x_high, y_high, z_high = tuple(row.values[name] for name in BOX)
    problems = []
    for low, high in zip(BOX[:3], BOX[3:], strict=True):
        if row.values[low] > row.values[high]:
            found = f"{row.values[low]:g}, above {high} = {row.values[high]:g}"
            remedy = f"Exchange {low} and {high}."
            problems.append(table.problem(row, low, found=found, expected=f"{low} ≤ {high}", remedy=remedy))
        if unit == "voxel" and row.values[low] < 0:
            remedy = 'Correct it, or set box_unit = "mm".'
            found = f"{row.values[low]:g}"
            problems.append(table.problem(row, low, found=found, expected="a voxel index from 0", remedy=remedy))
    return None if problems else (x_low, y_low, z_low, x_high, y_high, z_high), problems


def _same_voxels(table: TableRows, rows: Sequence[Row], lesions: Sequence[Lesion]) -> Iterable[Problem]:
    """Lesions of one study that share a mask, and that neither a label nor a box tells apart."""
    in_mask = Counter(lesion.mask for lesion in lesions)
    with_label = Counter((lesion.mask, lesion.label, lesion.roi) for lesion in lesions)
    for row, lesion in zip(rows, lesions, strict=True):
        if lesion.mask is None or lesion.box is not None or row.bad & {*BOX, "label"}:
            continue
        # without a label a lesion is everything in the mask, the other lesions too
        named = lesion.label is not None or lesion.roi is not None
        sharing = with_label[lesion.mask, lesion.label, lesion.roi] if named else in_mask[lesion.mask]
        if sharing > 1:
            found = f"{lesion.label or lesion.roi or 'nothing'}, in a mask that {sharing} lesions share"
            remedy = "Give the value of the lesion's voxels in the mask, or its box."
            yield table.problem(row, "label", found=found, expected="a label for each lesion", remedy=remedy)


def _too_many_targets(studies: Sequence[CtStudy]) -> Iterable[Problem]:
    """Warnings about more lesions than RECIST 1.1 allows; `other` is no single organ and has no limit of its own."""
    by_patient: dict[str, list[str]] = defaultdict(list)
    for study in studies:
        by_patient[study.patient] += [lesion.lesion_type for lesion in study.lesions]
    remedy = "All are used; leave out those that are no targets."
    for patient, types in by_patient.items():
        if len(types) > MAX_TARGETS:
            found, expected = f"{len(types)} lesions", f"at most {MAX_TARGETS} a patient (RECIST 1.1)"
            yield Problem("lesions", patient, "", found, expected, remedy, "warning")
        for lesion_type, count in Counter(types).items():
            if count > MAX_TARGETS_PER_ORGAN and lesion_type != "other":
                found, expected = f"{count} in {lesion_type}", f"at most {MAX_TARGETS_PER_ORGAN} an organ (RECIST 1.1)"
                yield Problem("lesions", patient, "", found, expected, remedy, "warning")

"""The `clinical` stage: labels, outcomes, and the codes of reports and patient information.

The encoders have no parameters: bin edges and counts are settings, the words are those of `fields`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import CohortError, InputError
from ..stores.records import fingerprint
from ..stores.specs import CODES_SCHEMA, IMAGES, MEASURES, PATIENTS, CodeGroup, CodeSpec
from ..stores.tables import write_rows, write_table
from .cohorts.cohort import Cohort, Patient, load_cohort
from .cohorts.fields import (
    DIFFERENTIATION,
    LAUREN,
    LINE,
    LYMPH_NODES,
    MULTIPLE_METASTASES,
    SEX,
    SITE,
)
from .stage import Item, Outcome, Source, Stage

if TYPE_CHECKING:
    from ..config import ClinicalSettings, Settings
    from ..errors import Problem
    from ..stores.records import Store

LabelRule = Literal["recist", "pfs", "censored", "missing"]
Vector = npt.NDArray[np.float32]

_RESPONSE = {"CR": 1, "PR": 1, "PD": 0}
_LYMPH_NODE_SITES = ("none", "local", "abdominal or retroperitoneal", "mediastinal or supraclavicular", "other distant")
_NO_YES = ("no", "yes")
_EDGE_TOLERANCE = 1e-9
_MEASURES = {"age": "years", "tils": "", "tumour_proportion": "", "metastatic_lesions": ""}
"""Numbers that are also kept as they are, with their units."""


def label(
    recist: str | None, pfs_days: float | None, pfs_event: bool | None, cutoff_days: float
) -> tuple[int | None, LabelRule]:
    """Response label (1 responder, 0 not, none unknown) and the rule that gave it (Chen et al. 2024).

    `recist`: CR and PR respond, PD does not. Otherwise `pfs`: PFS above the cut-off responds, PFS up to it with the
    event observed does not. `censored`: censored before the cut-off. `missing`: nothing to judge by.

    >>> label("SD", 300.0, False, 240.0), label(None, 100.0, False, 240.0)
    ((1, 'pfs'), (None, 'censored'))
    """
    if recist in _RESPONSE:
        return _RESPONSE[recist], "recist"
    if pfs_days is None:
        return None, "missing"
    if pfs_days > cutoff_days:
        return 1, "pfs"
    if pfs_event is None:
        return None, "missing"
    return (0, "pfs") if pfs_event else (None, "censored")


def code_specs(settings: ClinicalSettings) -> tuple[CodeSpec, ...]:
    """Every report item and item of patient information, with its classes."""
    tenths = tuple(f"{k / settings.tenths:.3g}–{(k + 1) / settings.tenths:.3g}" for k in range(settings.tenths))
    age = f"{settings.age_edge_years:g}"
    years = settings.start_year_edges
    periods = tuple(f"{first}–{end - 1}" for first, end in itertools.pairwise(years))
    counts = tuple(str(count) for count in range(settings.max_metastatic_lesions + 1))
    nodes = tuple(
        _LYMPH_NODE_SITES[site] if site < len(_LYMPH_NODE_SITES) else f"site {site}"
        for site in range(settings.lymph_node_sites)
    )
    sites = tuple(f"site {number}" for number in range(1, settings.disease_sites + 1))
    path: CodeGroup = "pathology_report"
    rad: CodeGroup = "radiology_report"
    info: CodeGroup = "patient_information"
    return (
        CodeSpec(path, "tils", tenths, "one-hot", "share of tumour-infiltrating lymphocytes"),
        CodeSpec(path, "her2_heterogeneity", ("0", "1+", "2+", "3+"), "shares", "share of area at each HER2 level"),
        CodeSpec(path, "tumour_proportion", tenths, "one-hot", "share of tumour"),
        CodeSpec(rad, "primary_present", _NO_YES, "one-hot", "whether the primary tumour is present"),
        CodeSpec(rad, "metastatic_lesions", counts, "one-hot", "number of metastatic lesions"),
        CodeSpec(rad, "lymph_nodes", LYMPH_NODES, "one-hot", "metastatic lymph nodes: none, separate, fused"),
        CodeSpec(rad, "lymph_node_sites", nodes, "multi-hot", "sites of metastatic lymph nodes"),
        CodeSpec(rad, "multiple_metastases", MULTIPLE_METASTASES, "one-hot", "multiple liver or lung metastases"),
        CodeSpec(rad, "peritoneal_metastasis", _NO_YES, "one-hot", "peritoneal metastasis"),
        CodeSpec(rad, "gastrectomy", _NO_YES, "one-hot", "previous gastrectomy"),
        CodeSpec(info, "sex", SEX, "one-hot", "sex"),
        CodeSpec(info, "age", (f"≤ {age}", f"> {age}"), "one-hot", "age, years"),
        CodeSpec(info, "site", SITE, "one-hot", "site of the tumour: gastro-oesophageal junction or not"),
        CodeSpec(info, "line", LINE, "one-hot", "line of therapy"),
        CodeSpec(info, "start", periods, "one-hot", "start of therapy"),
        CodeSpec(info, "differentiation", DIFFERENTIATION, "one-hot", "degree of differentiation"),
        CodeSpec(info, "lauren", LAUREN, "one-hot", "Lauren classification"),
        CodeSpec(info, "disease_sites", sites, "multi-hot", "sites of disease"),
    )


def encode(fields: Mapping[str, Any], settings: ClinicalSettings) -> dict[tuple[CodeGroup, str], Vector]:
    """Codes of one patient, (group, item) → float32 vector as long as the item has classes; zeros where unknown.

    `fields` is `Patient.fields`: values in mumo's words; an absent key is unknown.

    Raises:
        InputError: a value lies outside the classes of the settings.
    """
    return {(spec.group, spec.name): _encode_item(spec, fields, settings) for spec in code_specs(settings)}


def tenth(share: float, classes: int) -> int:
    """Which of `classes` equal parts of [0, 1] a share falls into; a part takes its lower edge, the last one also 1.

    >>> tenth(0.0, 10), tenth(0.3, 10), tenth(1.0, 10)
    (0, 3, 9)
    """
    return min(math.floor(share * classes + _EDGE_TOLERANCE), classes - 1)


def _encode_item(spec: CodeSpec, fields: Mapping[str, Any], settings: ClinicalSettings) -> Vector:
    vector = np.zeros(len(spec.classes), dtype=np.float32)
    value = fields.get("start_year" if spec.name == "start" else spec.name)
    if value is None:
        return vector
    if spec.kind == "shares":
        vector[:] = value
        return vector
    places = _places(spec, value, settings)
    if any(not 0 <= place < len(vector) for place in places):
        raise InputError(f"{spec.name}: expected one of {', '.join(spec.classes)}, found {value!r}; correct the table")
    vector[list(places)] = 1
    return vector


def _places(spec: CodeSpec, value: Any, settings: ClinicalSettings) -> Sequence[int]:
    """Places of the code that are 1."""
    places: Sequence[int]
    match spec.name:
        case "tils" | "tumour_proportion":
            places = (tenth(value, settings.tenths),)
        case "age":
            places = (int(value > settings.age_edge_years),)
        case "start":
            places = (bisect.bisect_right(settings.start_year_edges, value) - 1,)
        case "lymph_node_sites":
            places = value
        case "disease_sites":
            places = [place for place, present in enumerate(value) if present]
        case "metastatic_lesions" | "primary_present" | "peritoneal_metastasis" | "gastrectomy":
            places = (int(value),)
        case _:
            places = (spec.classes.index(value) if value in spec.classes else -1,)
    return places


@dataclass(frozen=True)
class ClinicalPayload:
    """Where the cohort is; the tables are read again where the item runs."""

    cohort_file: Path
    data: Path


class ClinicalStage(Stage):
    """All patients of the cohort, as one item: `patients`, `codes`, `measures` and `images`, each `.parquet`."""

    name = "clinical"
    version = 2

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """The one item. It depends on the cohort file and on the tables of patients and reports."""
        tables = [
            Source(f"table {number}" if number else "patients", path, full=True)
            for number, path in enumerate(cohort.tables)
        ]
        return [
            Item(
                stage=self.name,
                item="cohort",
                payload=ClinicalPayload(cohort.file, cohort.data),
                settings=settings.clinical.model_dump(mode="json"),
                inputs={"images": fingerprint({"images": _image_rows(cohort)})},
                sources=(Source("cohort", cohort.file, full=True), *tables),
            )
        ]

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Write labels, outcomes and codes of every patient."""
        payload: ClinicalPayload = item.payload
        try:
            cohort = load_cohort(payload.cohort_file, payload.data, settings.clinical)
        except CohortError as error:
            # cells may hold anything, so they are not repeated in what is stored about the failure
            raise InputError(
                f"cohort: expected tables without errors, found {len(error.problems)} problem(s); see `mumo check`"
            ) from None
        rows = [_patient_row(patient, cohort.cutoff_days[patient.treatment_group]) for patient in cohort.patients]
        write_table(out / "patients.parquet", rows, PATIENTS)
        write_table(out / "images.parquet", _image_rows(cohort), IMAGES)
        write_table(out / "measures.parquet", _measure_rows(cohort), MEASURES)
        specs = code_specs(settings.clinical)
        write_rows(
            out / "codes.parquet",
            [row for patient in cohort.patients for row in _code_rows(patient, specs, settings.clinical)],
            CODES_SCHEMA,
        )
        labels = [row["label"] for row in rows]
        own = ("patients", "reports")
        summary = {
            "patients": len(rows),
            "responders": labels.count(1),
            "non_responders": labels.count(0),
            "unknown": labels.count(None),
            "cutoff_days": dict(cohort.cutoff_days),
            "warnings": [_sentence(problem) for problem in cohort.warnings if problem.table.startswith(own)],
        }
        return Outcome(summary=summary)


def _patient_row(patient: Patient, cutoff_days: float) -> dict[str, Any]:
    fields = patient.fields
    value, rule = label(fields["recist"], fields["pfs_days"], fields["pfs_event"], cutoff_days)
    copied = ("pfs_days", "pfs_event", "os_days", "os_event", "pathology_time", "radiology_time")
    return {
        "patient": patient.patient,
        "centre": patient.centre,
        "treatment_group": patient.treatment_group,
        "label": value,
        "label_rule": rule,
        **{name: fields[name] for name in copied},
    }


def _measure_rows(cohort: Cohort) -> list[dict[str, Any]]:
    rows = []
    for patient in cohort.patients:
        values = {name: patient.fields[name] for name in _MEASURES}
        rows += [
            {"patient": patient.patient, "item": name, "unit": _MEASURES[name], "value": float(value)}
            for name, value in values.items()
            if value is not None
        ]
    return rows


def _image_rows(cohort: Cohort) -> list[dict[str, Any]]:
    slides = [{"patient": slide.patient, "item": f"slide-{slide.slide}"} for slide in cohort.slides]
    return slides + [{"patient": study.patient, "item": f"ct-{study.ct}"} for study in cohort.ct_studies]


def _code_rows(patient: Patient, specs: Sequence[CodeSpec], settings: ClinicalSettings) -> list[dict[str, Any]]:
    codes = encode(patient.fields, settings)
    return [
        {
            "patient": patient.patient,
            "group": spec.group,
            "item": spec.name,
            "classes": list(spec.classes),
            "code": codes[spec.group, spec.name].tolist(),
        }
        for spec in specs
    ]


def _sentence(problem: Problem) -> str:
    """A warning as it may be stored: without what stands in the cell."""
    place = f"{problem.table}, row {problem.row}" if problem.row else problem.table
    return f"{place}, column {problem.column!r}: expected {problem.expected}. {problem.remedy}"

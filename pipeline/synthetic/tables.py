"""Tables of the synthetic cohort in a hospital's columns and words, and the cohort file that maps them to mumo's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from .clinical import (
    PATHOLOGY_FIELDS,
    RADIOLOGY_FIELDS,
    draw_information,
    draw_pathology_report,
    draw_radiology_report,
)
from .ct import WrittenStudy
from .outcomes import CUTOFF_DAYS
from .plan import CohortPlan, stream
from .regions import GROUP_CLASSES
from .slides import annotation_file, draw_outline, draw_spot, slide_file

PATIENT_COLUMNS: Mapping[str, str] = {
    "patient": "hospital_no",
    "centre": "site_code",
    "treatment_group": "arm",
    "recist": "Best response",
    "pfs_days": "PFS (d)",
    "pfs_event": "progressed",
    "os_days": "OS (d)",
    "os_event": "deceased",
    "pathology_time": "slide_timing",
    "radiology_time": "ct_timing",
    "sex": "Sex",
    "age": "Age at start",
    "site": "Tumour site",
    "line": "Treatment lines",
    "start_year": "Start of therapy",
    "differentiation": "Grade",
    "lauren": "Lauren",
    "disease_sites": "sites_of_disease",
}
"""mumo's field → the hospital's column, in the order of the table; the same for the tables below."""

PATHOLOGY_COLUMNS = dict(
    zip(("patient", *PATHOLOGY_FIELDS), ("case", "TILs", "tumour share", "HER2 pattern"), strict=True)
)
RADIOLOGY_COLUMNS = dict(
    zip(
        ("patient", *RADIOLOGY_FIELDS),
        ("pid", "primary", "peritoneal", "resected", "n_mets", "LN_status", "LN_location", "multi_liver_lung"),
        strict=True,
    )
)
SLIDE_COLUMNS: Mapping[str, str] = {
    "slide": "slide_no",
    "patient": "case",
    "path": "image_file",
    "annotation": "contours",
    "mpp": "um_per_px",
    "white_balance": "needs_wb",
}
CT_COLUMNS: Mapping[str, str] = {
    "ct": "study",
    "patient": "pid",
    "path": "image",
    "series_uid": "series",
    "mask": "segmentation",
}
BOX_FIELDS = ("x_low", "y_low", "z_low", "x_high", "y_high", "z_high")
LESION_COLUMNS: Mapping[str, str] = {
    "lesion": "target",
    "ct": "study",
    "lesion_type": "organ",
    "mask": "target_mask",
    "label": "mask_value",
    **{field: f"{field}_mm" for field in BOX_FIELDS},
}

HOSPITAL_WORDS: Mapping[str, Mapping[str, str]] = {
    "treatment_group": {"anti-HER2": "H+chemo", "anti-HER2+immunotherapy": "H+chemo+ICI"},
    "recist": {"non-CR/non-PD": "not CR, not PD"},
    "sex": {"male": "M", "female": "F"},
    "site": {"non-GEJ": "non-GJE"},
    "differentiation": {"poor": "G3", "moderate": "G2", "well": "G1", "diffuse": "signet ring"},
    "lauren": {"intestinal": "int.", "diffuse": "diff.", "mixed": "mix."},
    "lymph_nodes": {"none": "0", "separate": "1", "fused": "2"},
    "multiple_metastases": {"none": "0", "liver": "1", "lung": "2", "both": "3"},
    "lesion_type": {"stomach": "gastric primary", "lymph node": "LN", "liver": "hepatic"},
}
"""Field → mumo's word → the hospital's, where they differ."""

_LINES = {"first": ("1", "1", "1", "1 (recurrence)"), "later": ("2", "3+", "other")}
"""Lines of therapy are free text in the hospital's table; the cohort file maps them with patterns."""
_UNKNOWN_WORDS = ("", "NA", "unk")

SETTINGS_TEXT = """\
# Settings that make the demo run in minutes on a laptop. They are far too coarse for real slides.

[tiles]
working_mpp = 1.0
bag_px = 512
word_px = 64

[rois]
crop_px = 128
views = 4

[embed]
weights = "random:0"

[radiomics.slide]
size_px = 128

[fit]
epochs = 40
bootstrap = 1000

[fit.split]
validation = 0.2
test = 0.35
"""


HOT_SPOT_SETTINGS_TEXT = """\
# Settings for the synthetic cohort with hot spots: many small bags, and a model that reads images alone.

[tiles]
working_mpp = 1.0
bag_px = 256
word_px = 64

[tiles.colour]
scope = "slide"

[rois]
crop_px = 224
views = 4

[embed]
weights = "random:0"

[model]
reports = false
patient_information = false
omics = false
dropout = 0.1

[fit]
epochs = 60
batch_patients = 8
learning_rate = 2e-4
bags_per_patient = 40
bootstrap = 1000

[fit.split]
validation = 0.15
test = 0.4
"""


def write_tables(folder: Path, plan: CohortPlan, studies: Mapping[str, WrittenStudy]) -> None:
    """Write patients.csv, pathology_reports.tsv, radiology_reports.parquet, slides.csv, ct.csv and lesions.csv."""
    _patients(plan).to_csv(folder / "patients.csv", index=False, lineterminator="\n")
    pathology, radiology = _reports(plan)
    pathology.to_csv(folder / "pathology_reports.tsv", index=False, sep="\t", lineterminator="\n")
    radiology.to_parquet(folder / "radiology_reports.parquet", index=False)
    _slides(plan).to_csv(folder / "slides.csv", index=False, lineterminator="\n")
    ct, lesions = _ct(plan, studies)
    ct.to_csv(folder / "ct.csv", index=False, lineterminator="\n")
    lesions.to_csv(folder / "lesions.csv", index=False, lineterminator="\n")


def _patients(plan: CohortPlan) -> pd.DataFrame:
    rows = []
    for place, person in enumerate(plan.patients):
        outcome = person.outcome
        row = {
            "patient": person.patient,
            "centre": person.centre,
            "treatment_group": person.treatment_group,
            "recist": outcome.recist,
            "pfs_days": "" if outcome.pfs_days is None else f"{outcome.pfs_days:.1f}",
            "pfs_event": "" if outcome.pfs_event is None else str(outcome.pfs_event),
            "os_days": str(outcome.os_days),
            "os_event": "yes" if outcome.os_event else "no",
            **draw_information(person, plan.seed),
        }
        rng = stream(plan.seed, "spelling", place)
        if row["line"]:
            row["line"] = str(rng.choice(_LINES[row["line"]]))
        # Unknown is written in more than one way.
        rows.append({f: word or _UNKNOWN_WORDS[int(rng.integers(0, 3))] for f, word in _spell(row).items()})
    return _frame(rows, PATIENT_COLUMNS)


def _reports(plan: CohortPlan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pathology and radiology reports, one row a patient that has one; counts of the second are numbers."""
    pathology, radiology = [], []
    for person in plan.patients:
        items = draw_pathology_report(person, plan.seed)
        if items is not None:
            pathology.append(_spell({"patient": person.patient, **items}))
        items = draw_radiology_report(person, plan.ct, plan.seed)
        if items is not None:
            radiology.append(_spell({"patient": person.patient, **items}))
    frame = _frame(radiology, RADIOLOGY_COLUMNS).replace("", None)
    for field in ("metastatic_lesions", "lymph_nodes", "lymph_node_sites"):
        frame[RADIOLOGY_COLUMNS[field]] = pd.to_numeric(frame[RADIOLOGY_COLUMNS[field]]).astype(np.float64)
    return _frame(pathology, PATHOLOGY_COLUMNS), frame


def _slides(plan: CohortPlan) -> pd.DataFrame:
    rows = [
        {
            "slide": slide.slide,
            "patient": slide.patient,
            "path": slide_file(slide),
            "annotation": annotation_file(slide),
            "mpp": f"{slide.mpp:g}" if slide.in_table else "",
            "white_balance": "yes" if slide.white_balance else "no",
        }
        for slide in plan.slides
    ]
    return _frame(rows, SLIDE_COLUMNS)


def _ct(plan: CohortPlan, studies: Mapping[str, WrittenStudy]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Studies and lesions; lesions without a mask have a box, lesions with one of their own have both."""
    ct, lesions = [], []
    for study in plan.ct:
        written = studies[study.ct]
        ct.append(
            {
                "ct": study.ct,
                "patient": study.patient,
                "path": written.path,
                "series_uid": written.series_uid,
                "mask": written.mask,
            }
        )
        for number, lesion in enumerate(study.lesions, start=1):
            box = ("",) * 6 if written.mask else tuple(f"{side:g}" for side in written.boxes_mm[lesion.lesion])
            row = {
                "lesion": lesion.lesion,
                "ct": study.ct,
                "lesion_type": lesion.lesion_type,
                "mask": written.lesion_masks.get(lesion.lesion, ""),
                "label": str(number) if written.mask else "",
                **dict(zip(BOX_FIELDS, box, strict=True)),
            }
            lesions.append(_spell(row))
    return _frame(ct, CT_COLUMNS), _frame(lesions, LESION_COLUMNS)


def _spell(row: Mapping[str, str]) -> dict[str, str]:
    """The row in the hospital's words."""
    return {field: HOSPITAL_WORDS.get(field, {}).get(word, word) for field, word in row.items()}


def _frame(rows: Sequence[Mapping[str, str]], columns: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns)).rename(columns=dict(columns))


def truth_table(plan: CohortPlan) -> pd.DataFrame:
    """What was planted, one row a patient; `label` is empty where the tables leave the response unknown."""
    return pd.DataFrame(
        {
            "patient": [person.patient for person in plan.patients],
            "pattern": [person.pattern for person in plan.patients],
            "appearance": [person.appearance for person in plan.patients],
            "response": [person.outcome.response for person in plan.patients],
            "label": pd.array([person.outcome.label for person in plan.patients], dtype="Int64"),
            "probability": [round(person.probability, 6) for person in plan.patients],
            **{
                f"score_{source}": [round(person.scores[source], 6) for person in plan.patients]
                for source in ("slides", "ct", "clinical")
            },
        }
    )


def spot_table(plan: CohortPlan) -> pd.DataFrame:
    """Where the slides' hot spots lie, one row a spot: centre and radius in µm from the slide's top left corner."""
    rows = []
    for slide in plan.slides:
        spot = draw_spot(slide, draw_outline(slide, plan.seed)[0], plan.seed)
        if spot is not None:
            rows.append((slide.patient, slide.slide, round(spot.x_um, 2), round(spot.y_um, 2), spot.radius_um))
    return pd.DataFrame(rows, columns=["patient", "slide", "x_um", "y_um", "radius_um"])


def cohort_text(name: str) -> str:
    """Text of the cohort file."""
    cutoffs = ", ".join(f"{_quote(group)} = {days:g}" for group, days in CUTOFF_DAYS.items())
    unknown = ", ".join(_quote(word) for word in _UNKNOWN_WORDS)
    parts = [
        f'format_version = 1\nname = {_quote(name)}\ndata = "."\n',
        f'[patients]\ntable = "patients.csv"\nunknown = [{unknown}]\n',
        _mapping("patients", PATIENT_COLUMNS),
        '[patients.values.line]\n"1*" = "first"\n"*" = "later"\n',
        '[[reports]]\ntable = "pathology_reports.tsv"\n',
        _mapping("reports", PATHOLOGY_COLUMNS),
        '[[reports]]\ntable = "radiology_reports.parquet"\n',
        _mapping("reports", RADIOLOGY_COLUMNS),
        f"[labels]\ncutoff_days = {{ {cutoffs} }}\n",
        '[slides]\ntable = "slides.csv"\n',
        _mapping("slides", SLIDE_COLUMNS),
        _section("slides.region_classes", {_quote(group): str(value) for group, value in GROUP_CLASSES.items()}),
        '[ct]\ntable = "ct.csv"\n',
        _mapping("ct", CT_COLUMNS),
        '[lesions]\ntable = "lesions.csv"\nbox_unit = "mm"\n',
        _mapping("lesions", LESION_COLUMNS),
    ]
    return "\n".join(parts)


def _mapping(table: str, columns: Mapping[str, str]) -> str:
    """Sections `columns` and `values` of a table."""
    parts = [_section(f"{table}.columns", {field: _quote(column) for field, column in columns.items()})]
    for field in columns:
        if field in HOSPITAL_WORDS:
            words = {_quote(theirs): _quote(ours) for ours, theirs in HOSPITAL_WORDS[field].items()}
            parts.append(_section(f"{table}.values.{field}", words))
    return "\n".join(parts)


def _section(name: str, entries: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())


def _quote(text: str) -> str:
    """A TOML string; JSON's notation is a subset of it."""
    return json.dumps(text)

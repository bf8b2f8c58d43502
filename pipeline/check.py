"""`mumo check`: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..config import Settings
from ..errors import CohortError, Problem
from ..stores.specs import STAGES
from .clinical import label
from .cohorts.cohort import Cohort, load_cohort, missing_files
from .stages import get_stage


@dataclass(frozen=True)
class Checked:
    """What a check found."""

    problems: list[Problem]
    cohort: Cohort | None
    """None where its tables cannot be used."""


def check_cohort(file: Path, data: Path | None, settings: Settings) -> Checked:
    """Every problem of a cohort: of its tables, and, where those can be used, of its files; nothing is written.

    Raises:
        ConfigError: the settings are not valid.
    """
    try:
        cohort = load_cohort(file, data, settings.clinical)
    except CohortError as error:
        return Checked(list(error.problems), None)
    problems = [*cohort.warnings, *_one_sided(cohort), *missing_files(cohort)]
    present = _without_missing_files(cohort)
    for name in STAGES:
        problems += get_stage(name).check(present, settings)
    return Checked(problems, cohort)


def responses(cohort: Cohort) -> Counter[int | None]:
    """Number of patients by label of response: 1 responder, 0 not, none unknown."""
    return Counter(
        label(p.fields["recist"], p.fields["pfs_days"], p.fields["pfs_event"], cohort.cutoff_days[p.treatment_group])[0]
        for p in cohort.patients
    )


def summary(cohort: Cohort) -> list[str]:
    """How much is known, in lines: patients, slides, CT studies, lesions; responses; times and events of survival."""
    slides, studies = {slide.patient for slide in cohort.slides}, {study.patient for study in cohort.ct_studies}
    lesions = sum(len(study.lesions) for study in cohort.ct_studies)
    count = responses(cohort)
    return [
        f"patients: {len(cohort.patients)}",
        f"slides: {len(cohort.slides)} of {len(slides)} patients",
        f"CT studies: {len(cohort.ct_studies)} of {len(studies)} patients, with {lesions} lesions",
        f"response: {count[1]} responders, {count[0]} non-responders, {count[None]} unknown",
        f"PFS: {_survival(cohort, 'pfs')}",
        f"OS: {_survival(cohort, 'os')}",
    ]


def _survival(cohort: Cohort, endpoint: str) -> str:
    """Of how many patients a time is known, and what those ended with."""
    timed = [p.fields[f"{endpoint}_event"] for p in cohort.patients if p.fields[f"{endpoint}_days"] is not None]
    unknown = f", {timed.count(None)} of whom it is not known" if None in timed else ""
    return f"times of {len(timed)} patients, {timed.count(True)} with the event, {timed.count(False)} censored{unknown}"


def _one_sided(cohort: Cohort) -> Iterator[Problem]:
    """Nothing to learn response from: known only after hours of extraction otherwise."""
    count = responses(cohort)
    if not (count[0] and count[1]):
        found = f"{count[1]} responders and {count[0]} others"
        remedy = "`mumo fit` has no response to learn: give recist, or pfs_days with pfs_event, and check cutoff_days."
        yield Problem("patients", "", "", found, "some of both", remedy, "warning")


def _without_missing_files(cohort: Cohort) -> Cohort:
    """The cohort without slides and studies of which a file is missing: that is told already."""
    return replace(
        cohort,
        slides=tuple(s for s in cohort.slides if s.path.exists() and (s.annotation is None or s.annotation.exists())),
        ct_studies=tuple(
            study
            for study in cohort.ct_studies
            if study.path.exists() and all(lesion.mask is None or lesion.mask.exists() for lesion in study.lesions)
        ),
    )

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


def summary(cohort: Cohort) -> str:
    """The cohort in a sentence: how many patients there are, with what, and of how many the response is known."""
    slides, studies = {slide.patient for slide in cohort.slides}, {study.patient for study in cohort.ct_studies}
    lesions = sum(len(study.lesions) for study in cohort.ct_studies)
    count = responses(cohort)
    imaging = f"{len(slides)} with slides ({len(cohort.slides)}), {len(studies)} with CT ({len(cohort.ct_studies)}"
    known = f"response known of {count[0] + count[1]}: {count[1]} responders, {count[0]} not"
    return f"{len(cohort.patients)} patients: {imaging}, {lesions} lesions); {known}"


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

"""`mumo check`: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import Settings
from ..errors import CohortError, Problem
from ..stores.specs import STAGES
from .cohorts.cohort import Cohort, load_cohort, missing_files
from .stages import get_stage


def check_cohort(file: Path, data: Path | None, settings: Settings) -> list[Problem]:
    """Every problem of a cohort: of its tables, and, where those can be read, of its files; nothing is written.

    Raises:
        ConfigError: the settings are not valid.
    """
    try:
        cohort = load_cohort(file, data, settings.clinical)
    except CohortError as error:
        return list(error.problems)
    problems = [*cohort.warnings, *missing_files(cohort)]
    present = _without_missing_files(cohort)
    for name in STAGES:
        problems += get_stage(name).check(present, settings)
    return problems


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

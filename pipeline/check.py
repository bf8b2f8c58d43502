"""`mumo check`: everything that can be known to be wrong before anything runs."""

from __future__ import annotations

from pathlib import Path

from ..config import Settings
from ..errors import CohortError, Problem
from ..stores.specs import STAGES
from .cohort import load_cohort
from .stages import get_stage


def check_cohort(file: Path, data: Path | None, settings: Settings) -> list[Problem]:
    """Every problem of a cohort: of its tables, and, where those can be read, of its files; nothing is written.

    Raises:
        ConfigError: the settings are not valid.
    """
    try:
        cohort = load_cohort(file, data)
    except CohortError as error:
        return list(error.problems)
    problems = list(cohort.warnings)
    for name in STAGES:
        problems += get_stage(name).check(cohort, settings)
    return problems

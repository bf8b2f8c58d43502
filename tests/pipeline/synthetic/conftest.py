"""One small synthetic cohort for all tests of its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from mumo.pipeline.synthetic.cohort import SyntheticCohort, write_cohort
from mumo.pipeline.synthetic.plan import CohortPlan, plan_cohort

PATIENTS = 16
SEED = 3


@dataclass(frozen=True)
class Written:
    folder: Path
    cohort: SyntheticCohort
    plan: CohortPlan
    progress: list[tuple[int, int]]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("synthetic") / "cohort"
    progress: list[tuple[int, int]] = []
    cohort = write_cohort(folder, patients=PATIENTS, seed=SEED, progress=lambda *steps: progress.append(steps))
    return Written(folder, cohort, plan_cohort(PATIENTS, SEED, signal=True), progress)

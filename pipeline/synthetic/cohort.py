"""Writes the synthetic cohort of `mumo demo`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError
from .ct import WrittenStudy, write_study
from .plan import ImagingSource, plan_cohort
from .slides import write_slide
from .tables import HOT_SPOT_SETTINGS_TEXT, SETTINGS_TEXT, cohort_text, spot_table, truth_table, write_tables

_FOLDERS = ("slides", "annotations", "ct", "masks")


@dataclass(frozen=True)
class SyntheticCohort:
    """A cohort that was written."""

    cohort_file: Path
    settings_file: Path
    """Settings under which the pipeline and the training take minutes."""
    truth: Path
    """CSV of what was planted, for judging results; nothing of the pipeline reads it."""


def write_cohort(
    folder: Path,
    *,
    patients: int = 120,
    seed: int = 0,
    signal: bool = True,
    hot_spots: Collection[ImagingSource] = (),
    progress: Callable[[int, int], None] | None = None,
) -> SyntheticCohort:
    """Write a cohort of made-up patients in real formats to `folder`, which must be empty or not there yet.

    With `signal`, slides, CT and clinical items each tell something of the response; without it the very same files
    come with outcomes that are independent of them. The same arguments give the same pixels and tables. Everything is
    written beside `folder` and moved there at the end, so an interrupted call leaves no cohort.

    With `hot_spots` the signal of slides, CT or both has a place (see `plan_cohort`), which `hot_spots.csv` names for
    slides beside the truth table.

    `progress` is called with the number of steps done and the number of all steps.

    Raises:
        ConfigError: too few patients, or a folder that holds something.
    """
    plan = plan_cohort(patients, seed, signal, hot_spots=hot_spots)
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"synthetic cohort: expected an empty folder, found files in {folder}; name another folder")
    unfinished = folder.parent / f".{folder.name}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in _FOLDERS:
        (unfinished / name).mkdir(parents=True)

    steps = len(plan.slides) + len(plan.ct) + 1
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps)

    for slide in plan.slides:
        write_slide(unfinished, slide, seed)
        advance()
    studies: dict[str, WrittenStudy] = {}
    for study in plan.ct:
        studies[study.ct] = write_study(unfinished, study, seed)
        advance()
    write_tables(unfinished, plan, studies)
    truth_table(plan).to_csv(unfinished / "truth.csv", index=False, lineterminator="\n")
    if hot_spots:
        spot_table(plan).to_csv(unfinished / "hot_spots.csv", index=False, lineterminator="\n")
    text = HOT_SPOT_SETTINGS_TEXT if hot_spots else SETTINGS_TEXT
    (unfinished / "demo.toml").write_text(text, encoding="utf-8")
    (unfinished / "cohort.toml").write_text(cohort_text("demo"), encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    unfinished.rename(folder)
    advance()
    return SyntheticCohort(folder / "cohort.toml", folder / "demo.toml", folder / "truth.csv")

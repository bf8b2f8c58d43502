"""A folder to the draft of a cohort: who the patients are, what belongs to each, and what was not placed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from ....errors import ConfigError
from .ct import CtStudies, draft_ct
from .naming import ByFolder, ByIds, ByPattern, Naming, NoPatient, SafeIds
from .patients_table import PatientsTable, find_patients_tables, further_tables
from .scan import Scan, scan_folder
from .slides import Slides, draft_slides

FILES = ("cohort.toml", "slides.csv", "ct.csv", "lesions.csv")
"""What a draft writes into the folder; `patients.csv` too, where there is no table of patients."""


@dataclass(frozen=True)
class Draft:
    """What was found, ready to be written."""

    folder: Path
    scan: Scan
    table: PatientsTable | None
    """The table of patients; none: there is none, or none with ids that stand in paths."""
    further: list[PatientsTable]
    """Other tables and sheets with a row a patient."""
    study_ids: dict[str, str]
    """Patient as named in the table or the paths → the id that stands in the drafted tables."""
    slides: Slides
    ct: CtStudies

    @property
    def unplaced(self) -> list[tuple[Path, str]]:
        """Files and folders that could be used, and why they are not."""
        return sorted([*self.slides.unplaced, *self.ct.unplaced])

    @property
    def unreadable(self) -> list[tuple[str, Path, str]]:
        """Slides, CT studies and masks that are in the tables but cannot be read: id, file or folder, and why."""
        slides = [(row.slide, row.path, row.unreadable) for row in self.slides.rows if row.unreadable]
        studies = [(row.ct, row.path, row.unreadable) for row in self.ct.rows if row.unreadable]
        masks = [
            (f"a mask of {row.ct}", lesion.mask, lesion.unreadable)
            for row in self.ct.rows
            for lesion in row.lesions
            if lesion.unreadable
        ]
        return [*slides, *studies, *masks]

    @property
    def without_files(self) -> list[str]:
        """Patients of the table of whom no slide and no CT was found."""
        found = {row.patient for row in self.slides.rows} | {row.patient for row in self.ct.rows}
        return [one for one in self.study_ids if one not in found]


def draft_cohort(
    folder: Path, patterns: Sequence[str] = (), progress: Callable[[int, int], None] = lambda done, total: None
) -> Draft:
    """The draft of a cohort of the files below `folder`.

    The patient of a file is what a pattern says (see `naming.ByPattern`); without patterns the id of a table of
    patients that stands in the path; without such a table the first folder of the path. `progress` is called with how
    many slides, volumes and DICOM folders have been looked at, and of how many.

    Raises:
        ConfigError: no such folder, a pattern that is none, or neither slides nor CT in the folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder with slides, CT studies and tables, found none")
    scan = scan_folder(folder, leave_out=frozenset(FILES))
    files = [*scan.slides, *scan.volumes, *(place / "slices" for place in scan.dicom)]
    if not files:
        raise ConfigError(f"{folder}: expected slides, DICOM series, or NIfTI, NRRD or MHA volumes, found none of them")
    tables = find_patients_tables(folder, scan.tables, files)
    table = tables[0] if tables else None
    naming: Naming = ByPattern(patterns) if patterns else ByIds(table.ids) if table else ByFolder()
    study_ids = _study_ids(table, naming, files)
    counter = count(1)

    def looked_at() -> None:
        progress(next(counter), len(files))

    slides = draft_slides(scan, naming, study_ids, looked_at)
    studies = draft_ct(scan, naming, study_ids, looked_at)
    return Draft(folder, scan, table, further_tables(tables), study_ids, slides, studies)


def _study_ids(table: PatientsTable | None, naming: Naming, files: Sequence[Path]) -> dict[str, str]:
    """An id for each patient of the table, or of the paths: their own where it may become the name of a file.

    Rows without a file, which may be anything, keep what stands there.
    """
    own = dict.fromkeys(table.ids if table else ())
    with_files = set()
    for file in files:
        try:
            with_files.add(naming.patient_of(file))
        except NoPatient:
            continue
    own |= dict.fromkeys(sorted(with_files))
    ids = SafeIds("patient", own)
    return {one: ids.of_patient(one) if one in with_files else one for one in own}

"""The files of a draft: `cohort.toml`, and a table of each kind."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ....config import LESION_TYPES, ClinicalSettings
from ....errors import ConfigError
from ..cohort_file import DEFAULT_CUTOFF_DAYS, DEFAULT_UNKNOWN
from ..fields import MEANINGS, patient_fields
from .draft import FILES, Draft
from .patients_table import PatientsTable

PATIENTS = "patients.csv"
_OUTCOMES = ("recist", "pfs_days", "pfs_event")


def write_draft(draft: Draft, *, force: bool = False) -> list[Path]:
    """Write the draft's files into its folder, and return them; nothing is written when one of them is there.

    With `force` they are replaced, but never a table of patients: it may hold outcomes.

    Raises:
        ConfigError: a file is there already and `force` is not set, or `patients.csv` is and names no one's files.
    """
    texts = draft_files(draft)
    there = [name for name in texts if (draft.folder / name).exists()]
    if PATIENTS in there:
        found = f"{PATIENTS} is there, but none of its columns has ids that stand in paths of files"
        raise ConfigError(f"{draft.folder}: {found}; rename it, or correct its ids")
    if there and not force:
        raise ConfigError(f"{draft.folder}: {', '.join(there)} exist; --force replaces them, --dry-run writes nothing")
    for name, text in texts.items():
        (draft.folder / name).write_text(text, encoding="utf-8", newline="")
    return [draft.folder / name for name in texts]


def draft_files(draft: Draft) -> dict[str, str]:
    """Name → text of the files that a draft consists of."""
    ids = draft.study_ids
    files = {FILES[0]: _cohort_file(draft)}
    if draft.table is None:
        files[PATIENTS] = _table(("patient", *_OUTCOMES), ([ids[one], *[""] * len(_OUTCOMES)] for one in ids))
    if draft.slides.rows:
        rows = (
            [row.slide, ids[row.patient], row.path.as_posix(), row.annotation.as_posix() if row.annotation else "", ""]
            for row in draft.slides.rows
        )
        files[FILES[1]] = _table(("slide", "patient", "path", "annotation", "mpp"), rows)
    if draft.ct.rows:
        studies = ([row.ct, ids[row.patient], row.path.as_posix(), row.series_uid or ""] for row in draft.ct.rows)
        files[FILES[2]] = _table(("ct", "patient", "path", "series_uid"), studies)
        lesions = (
            [f"L{number}", row.ct, "", one.mask.as_posix(), "" if one.label is None else one.label, one.roi or ""]
            for row in draft.ct.rows
            for number, one in enumerate(row.lesions, start=1)
        )
        files[FILES[3]] = _table(("lesion", "ct", "lesion_type", "mask", "label", "roi"), lesions)
    return files


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _cohort_file(draft: Draft) -> str:
    lines = ["format_version = 1", f"name = {_quoted(draft.folder.resolve().name)}", ""]
    lines += _patients(draft)
    for table in draft.further:
        lines += _report(table)
    groups = ", ".join(f"{_quoted(name)} = {days:g}" for name, days in list(DEFAULT_CUTOFF_DAYS.items())[:1])
    lines += ["[labels]  # treatment group = PFS in days above which stable disease counts as response"]
    lines += [f"cutoff_days = {{ {groups} }}", ""]
    if draft.slides.rows:
        lines += _section("slides", FILES[1], ("slide", "patient", "path", "annotation", "mpp"))
        if draft.slides.groups:
            lines += [
                "[slides.region_classes]  # group of the annotations = region class 0–3; fill in, take away the #"
            ]
            lines += [*(f"# {_quoted(group)} = " for group in draft.slides.groups), ""]
    if draft.ct.rows:
        lines += _section("ct", FILES[2], ("ct", "patient", "path", "series_uid"))
        lines += _section("lesions", FILES[3], ("lesion", "ct", "lesion_type", "mask", "label", "roi"))
        lines += [f"# lesion_type is one of: {', '.join(LESION_TYPES)}", ""]
    return "\n".join(lines)


def _section(name: str, table: str, fields: Sequence[str]) -> list[str]:
    return [f"[{name}]", f"table = {_quoted(table)}", f"[{name}.columns]", *(f"{f} = {_quoted(f)}" for f in fields), ""]


def _patients(draft: Draft) -> list[str]:
    """The section of the patients: the id's column, and every other field with what it accepts, to be filled in."""
    table = draft.table
    if table is None:
        given: tuple[str, ...] = ("patient", *_OUTCOMES)
        lines = ["[patients]", f"table = {_quoted(PATIENTS)}", "", "[patients.columns]"]
        lines += [f"{name} = {_quoted(name)}" for name in given]
    else:
        given = ("patient",)
        lines = ["[patients]", *_source(table)]
        lines += ["# Its columns:", *(f"#   {_quoted(name)}" for name in table.header if name)]
        lines += ["", "[patients.columns]", f"patient = {_quoted(table.column)}"]
    lines += ["# Name your column for what you have, and take away the #. Needed: recist, or pfs_days with pfs_event."]
    lines += ["# mumo has no use for columns that are none of these."]
    fields = patient_fields(ClinicalSettings())
    for name, spec in fields.items():
        if name not in given:
            lines.append(f'# {name} = ""  # {MEANINGS[name]}. Accepted: {spec.expected}')
    renamed = {one: study for one, study in draft.study_ids.items() if one != study}
    if renamed:
        lines += ["", "[patients.values.patient]  # ids that are no study ids"]
        lines += [f"{_quoted(one)} = {_quoted(study)}" for one, study in renamed.items()]
    lines += ["", "# [patients.intervals]  # days from a column of dates to the first of the others that a row has"]
    lines += ['# pfs_days = ["start", "progression", "last contact"]']
    lines += ["# [patients.units]  # a time in another unit than days", '# os_days = "months"', ""]
    return lines


def _source(table: PatientsTable) -> list[str]:
    """The keys that say where a table is and how it is read."""
    how = table.how.model_dump(exclude_defaults=True) | ({"decimal": ","} if table.decimal_comma else {})
    return [
        f"table = {_quoted(table.path.as_posix())}",
        *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in how.items()),
        f"# unknown = {json.dumps(DEFAULT_UNKNOWN, ensure_ascii=False)}  # words that mean unknown; add yours",
    ]


def _report(table: PatientsTable) -> list[str]:
    """A further table of the patients, as a comment: whether it is of use is the user's to say."""
    columns = ", ".join(_quoted(name) for name in table.header if name)
    return [
        "# A further table of the patients, for the fields of [patients.columns] that stand in it: take away the #,",
        f"# and name them. Its columns: {columns}",
        "# [[reports]]",
        *(f"# {line.removeprefix('# ')}" for line in _source(table)),
        "# [reports.columns]",
        f"# patient = {_quoted(table.column)}",
        "# [reports.intervals]",
        '# pfs_days = ["start", "progression", "last contact"]',
        "",
    ]


def _quoted(text: str) -> str:
    """A basic string of TOML, which JSON's strings are."""
    return json.dumps(text, ensure_ascii=False)

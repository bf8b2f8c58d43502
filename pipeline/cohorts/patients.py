"""The table of patients and the report tables, joined: one mapping of mumo's fields a patient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ...errors import Problem
from ...stores.records import is_safe_id
from .cells import section_key
from .cohort_file import CohortFile, TableSection, near_match, shorten
from .fields import HER2_LEVELS, CellError, FieldSpec, complete_shares
from .source_tables import Row, TableRows, read_fields

HER2_SHARES = tuple(f"her2_share_{level}" for level in range(HER2_LEVELS))
DEFAULT_CENTRE = "centre"
_MAX_ID = 94
_SHORT_DAYS, _FEW_TIMES = 100, 10
"""Survival times that never reach the first, of at least the second number of patients, are taken for months."""
_SAFE_ID = f"at most {_MAX_ID} letters, digits, '.', '_' or '-', with a letter or digit first"


@dataclass
class PatientRow:
    """One patient's values from all tables, and the rows that they come from."""

    values: dict[str, Any]
    rows: dict[str, Row] = field(default_factory=dict)
    """Table → row."""

    def is_bad(self, *names: str) -> bool:
        """Whether one of the fields is a problem already."""
        return any(name in row.bad for name in names for row in self.rows.values())


@dataclass(frozen=True)
class PatientTables:
    """All patients, joined."""

    patients: dict[str, PatientRow]
    tables: tuple[TableRows, ...]
    """The table of patients, then those of the reports."""

    @property
    def readable(self) -> bool:
        """Whether ids of patients are known at all."""
        return self.tables[0].readable

    def problem(
        self,
        patient: PatientRow,
        name: str,
        *,
        found: str,
        expected: str,
        remedy: str,
        severity: Literal["error", "warning"] = "error",
    ) -> Problem:
        """A problem with a field of a patient, in the table that the field comes from."""
        table = next((table for table in self.tables if name in table.columns), self.tables[0])
        row = patient.rows.get(table.table)
        return table.problem(row, name, found=found, expected=expected, remedy=remedy, severity=severity)


def read_patients(
    content: CohortFile, specs: Mapping[str, FieldSpec], folder: Path
) -> tuple[PatientTables, list[Problem]]:
    """The patients of a cohort file whose tables start from `folder`, and every problem with them."""
    sections = {"patients": content.patients}
    sections |= {f"reports {number}": section for number, section in enumerate(content.reports, start=1)}
    problems = []
    tables = []
    for name, section in sections.items():
        table, found = read_fields(name, section, specs, folder / section.table)
        tables.append(table)
        problems += [*found, *check_ids(table, "patient")]
    problems += _mapped_twice(content)
    main = tables[0]
    patients = {
        row.values["patient"]: PatientRow(dict(row.values), {main.table: row})
        for row in main.rows
        if row.values["patient"]
    }
    if main.readable and not main.rows:
        problems.append(main.problem(None, "", found="no rows", expected="a row a patient", remedy="Fill the table."))
    joined = PatientTables(patients, tuple(tables))
    for table, section in zip(tables[1:], content.reports, strict=True):
        given = section.given - {"patient"}
        for row in table.rows:
            patient = row.values["patient"]
            if patient in patients:
                patients[patient].values |= {name: row.values[name] for name in given & row.values.keys()}
                patients[patient].rows[table.table] = row
            elif patient and main.readable:
                problems.append(unknown_reference(table, row, "patient", patients, "patients"))
    cutoffs = content.labels.cutoff_days
    problems += _group_source(joined, content)
    for patient_row in patients.values():
        problems += _complete(joined, patient_row, cutoffs)
    problems += _months(joined)
    return joined, problems


def check_ids(table: TableRows, name: str, *, within: str | None = None) -> list[Problem]:
    """Ids that may not become names, or that stand in several rows (with the same `within`, where that is given).

    Ids that differ in case alone count as the same: not every file system tells them apart.
    """
    problems = []
    rows_by_id: dict[tuple[Any, str], list[Row]] = defaultdict(list)
    for row in table.rows:
        key = row.values[name]
        if key is None:
            continue
        rows_by_id[row.values[within] if within else None, key.casefold()].append(row)
        if not is_safe_id(key) or len(key) > _MAX_ID:
            remedy = "Use study ids, never names or record numbers of a hospital."
            problems.append(table.problem(row, name, found=shorten(key), expected=_SAFE_ID, remedy=remedy))
    for rows in rows_by_id.values():
        for row in rows[1:]:
            found = f"{shorten(row.values[name])}, which stands in line {rows[0].line} too"
            problems.append(
                table.problem(row, name, found=found, expected="an id of its own", remedy="Rename or remove one row.")
            )
    return problems


def unknown_reference(table: TableRows, row: Row, name: str, known: Collection[str], where: str) -> Problem:
    """A row that names an id which no row of the table `where` has."""
    key = row.values[name]
    remedy = f"{near_match(key, known)}Add the row to the table {where}, or correct the id."
    return table.problem(row, name, found=shorten(key), expected=f"an id of the table {where}", remedy=remedy)


def _mapped_twice(content: CohortFile) -> Iterable[Problem]:
    """Fields that more than one table gives."""
    seen = set(content.patients.given)
    for number, section in enumerate(content.reports, start=1):
        own = section.given - {"patient"}
        for name in sorted(own & seen):
            remedy = "Leave the field out of one of them."
            yield Problem(f"reports {number}", "", name, "a field of an earlier table", "one table a field", remedy)
        seen |= own
    if "her2_heterogeneity" in seen and seen & set(HER2_SHARES):
        remedy = "Leave out `her2_heterogeneity`, or the four shares."
        expected = "one way of giving the HER2 shares"
        yield Problem("patients", "", "her2_heterogeneity", "two ways of giving them", expected, remedy)


def _complete(tables: PatientTables, patient: PatientRow, cutoffs: Mapping[str, float]) -> list[Problem]:
    """Put the defaults in, join the HER2 shares, and check what concerns several fields of one patient."""
    values = patient.values
    values["centre"] = values["centre"] or DEFAULT_CENTRE
    return [
        *_treatment_group(tables, patient, cutoffs),
        *_her2_shares(tables, patient),
        *_outcome(tables, patient, "pfs"),
        *_outcome(tables, patient, "os"),
        *_outcome_order(tables, patient),
    ]


def _group_source(tables: PatientTables, content: CohortFile) -> Iterable[Problem]:
    """No table gives the treatment group although there are several: said once, not for every patient."""
    sections = (content.patients, *content.reports)
    if len(content.labels.cutoff_days) > 1 and not any(_gives(section, "treatment_group") for section in sections):
        yield tables.tables[0].problem(
            None,
            "treatment_group",
            found="nothing",
            expected=f"one of: {', '.join(content.labels.cutoff_days)}",
            remedy="Map a column, set a constant, or name one group alone in [labels] cutoff_days.",
        )


def _gives(section: TableSection, name: str) -> bool:
    return name in section.given


def _treatment_group(tables: PatientTables, patient: PatientRow, cutoffs: Mapping[str, float]) -> Iterable[Problem]:
    group = patient.values["treatment_group"]
    if group in cutoffs or patient.is_bad("treatment_group"):
        return
    if group is None and len(cutoffs) == 1:
        patient.values["treatment_group"] = next(iter(cutoffs))
    elif group or any("treatment_group" in table.columns for table in tables.tables):
        yield tables.problem(
            patient,
            "treatment_group",
            found=shorten(group) if group else "nothing",
            expected=f"one of: {', '.join(cutoffs)}",
            remedy=f"{near_match(group or '', cutoffs)}Correct or map the cell, or add a cut-off to [labels].",
        )


def _her2_shares(tables: PatientTables, patient: PatientRow) -> Iterable[Problem]:
    shares = {level: patient.values.pop(name) for level, name in enumerate(HER2_SHARES)}
    if all(share is None for share in shares.values()) or patient.is_bad(*HER2_SHARES):
        return
    try:
        patient.values["her2_heterogeneity"] = complete_shares(shares)
    except CellError as error:
        total = sum(share or 0 for share in shares.values())
        remedy = "It counts as unknown." if error.severity == "warning" else "Correct the shares."
        yield tables.problem(
            patient,
            next(name for level, name in enumerate(HER2_SHARES) if shares[level] is not None),
            found=f"shares that sum to {total:.3g}",
            expected=error.expected,
            remedy=remedy,
            severity=error.severity,
        )


def _outcome(tables: PatientTables, patient: PatientRow, name: str) -> Iterable[Problem]:
    """An event without a time counts as unknown; a time without an event is of use for the label rule alone.

    What is left out, or taken from a date that may be another's, is said.
    """
    days, event = patient.values[f"{name}_days"], patient.values[f"{name}_event"]
    if patient.is_bad(f"{name}_days", f"{name}_event"):
        return
    field_name, found, expected, remedy = f"{name}_days", "", "", "The patient is left out of this survival outcome."
    if event and days is None:
        patient.values[f"{name}_event"] = None
        field_name, found, expected = f"{name}_event", f"an event without {name}_days", "a time for each event"
        remedy = "It counts as unknown, and the patient is left out of this survival outcome."
    elif event is False and days is None:
        found, expected = f"no event, and no {name}_days", "the time to the last follow-up of who has no event"
        remedy += (
            " Without those who have no event, survival looks worse than it is. A date of the last follow-up can be "
            f"named after that of the event: [….intervals] {name}_days = [start, event, last follow-up]."
        )
    elif days is not None and event is None:
        found, expected = f"a time without {name}_event", "an event or censoring for each time"
    elif event and any(f"{name}_days" in row.last_resorts for row in patient.rows.values()):
        found, expected = "an event, of whose columns of a last date only the last is filled in", "the event's date"
        remedy = "The time ends with the last column; correct it where that is not the date of the event."
    if found:
        yield tables.problem(patient, field_name, found=found, expected=expected, remedy=remedy, severity="warning")


def _months(tables: PatientTables) -> Iterable[Problem]:
    """Times in months would make non-responders of all whose response follows from their time."""
    for name in ("pfs_days", "os_days"):
        days = [row.values[name] for row in tables.patients.values() if row.values[name] is not None]
        source = next((table for table in tables.tables if name in table.columns), None)
        if source is not None and len(days) >= _FEW_TIMES and max(days) < _SHORT_DAYS:
            yield source.problem(
                None,
                name,
                found=f"no time longer than {max(days):g}",
                expected="days",
                remedy=f'If these are weeks or months, say so: [{section_key(source.table)}.units] {name} = "months"; '
                "they are used as they are.",
                severity="warning",
            )


def _outcome_order(tables: PatientTables, patient: PatientRow) -> Iterable[Problem]:
    pfs, overall = patient.values["pfs_days"], patient.values["os_days"]
    if pfs is not None and overall is not None and pfs > overall:
        yield tables.problem(
            patient,
            "pfs_days",
            found=f"{pfs:g} days, more than the overall survival of {overall:g} days",
            expected="progression-free survival that is not longer than overall survival",
            remedy="Both are used as they are; check them.",
            severity="warning",
        )

"""The table of patients, its header and its column of ids."""

from __future__ import annotations

from pathlib import Path

import pytest
from workbooks import write_xlsx

from mumo.pipeline.cohorts.drafting.patients_table import PatientsTable, find_patients_tables, further_tables

FILES = [Path("slides/P101_HE.svs"), Path("ct/P102/slices"), Path("slides/P103 a.svs")]
ROWS = [["Nr", "Study ID", "PFS"], [1, "P101", "7,5"], [2, "P102", "8"], [3, "P104", "9"]]


def find_all(folder: Path) -> list[PatientsTable]:
    return find_patients_tables(folder, sorted(file.relative_to(folder) for file in folder.iterdir()), FILES)


def find(folder: Path) -> PatientsTable | None:
    return next(iter(find_all(folder)), None)


def test_find_patients_tables__column_whose_cells_stand_in_paths(tmp_path: Path) -> None:
    write_xlsx(tmp_path / "t.xlsx", {"One": ROWS})
    found = find(tmp_path)
    assert found is not None
    assert (found.column, found.ids, found.with_files) == ("Study ID", ("P101", "P102", "P104"), 2)
    assert (found.header, found.decimal_comma) == (("Nr", "Study ID", "PFS"), True)
    assert found.how.model_dump(exclude_defaults=True) == {}


def test_find_patients_tables__header_below_a_heading_and_on_another_sheet(tmp_path: Path) -> None:
    heading = [["Status of March 2024", "", ""], ["", "", ""]]
    write_xlsx(tmp_path / "t.xlsx", {"Notes": [["nothing here"]], "Data": [*heading, *ROWS]})
    found = find(tmp_path)
    assert found is not None
    assert (found.how.sheet, found.how.header_row, found.column) == ("Data", 3, "Study ID")


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", {}), ("cp1252", {"encoding": "cp1252"})])
def test_find_patients_tables__semicolons_in_any_encoding(
    encoding: str, expected: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "t.csv").write_bytes("Größe;ID\n1,5;P101\n2;P103\n".encode(encoding))
    found = find(tmp_path)
    assert found is not None
    assert found.how.model_dump(exclude_defaults=True) == {"separator": ";", **expected}
    assert (found.column, found.header) == ("ID", ("Größe", "ID"))


def test_find_patients_tables__table_with_most_patients(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id\nP101\nP102\n")
    (tmp_path / "b.csv").write_text("id,x\nP101,1\nP102,2\nP103,3\n")
    found = find(tmp_path)
    assert found is not None
    assert found.path == Path("b.csv")


@pytest.mark.parametrize("text", ["id\nP101\nP999\n", "number\n1\n2\n3\n", "", "id;x\n"])
def test_find_patients_tables__none_where_paths_name_no_ids(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    (tmp_path / "broken.xlsx").write_bytes(b"PK nothing")
    assert find(tmp_path) is None


def test_further_tables__other_sheets_with_a_row_a_patient(tmp_path: Path) -> None:
    follow_up = [["ID", "Status"], ["P101", "alive"], ["P102", "dead"], ["P109", "dead"]]
    lesions = [["ID", "lesion"], ["P101", "1"], ["P101", "2"], ["P102", "1"]]
    write_xlsx(tmp_path / "t.xlsx", {"One": [*ROWS, [4, "P103", ""]], "Follow-up": follow_up, "Lesions": lesions})
    found = find_all(tmp_path)
    assert [(one.how.sheet, one.repeated) for one in found] == [
        (None, ()),
        ("Follow-up", ()),
        ("Lesions", ("P101",)),
    ]
    assert [one.how.sheet for one in further_tables(found)] == ["Follow-up"]

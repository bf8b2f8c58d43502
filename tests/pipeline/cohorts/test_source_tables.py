"""Tables as text cells, and their mapping to mumo's fields."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbooks import STRICT, write_xlsx

from mumo.config import ClinicalSettings
from mumo.errors import Problem
from mumo.pipeline.cohorts import source_tables
from mumo.pipeline.cohorts.cohort_file import TableFormat, TableSection
from mumo.pipeline.cohorts.fields import patient_fields
from mumo.pipeline.cohorts.source_tables import TableRows, cell_text, read_cells, read_fields
from mumo.pipeline.cohorts.spreadsheets import TableError

FIELDS = patient_fields(ClinicalSettings())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (float("nan"), ""),
        (pd.NaT, ""),
        (12.0, "12"),
        (12, "12"),
        ("12.0", "12"),
        (" 12.00 ", "12"),
        ("-1.0", "-1"),
        ("1.20", "1.20"),
        ("1.2.0", "1.2.0"),
        (0.7, "0.7"),
        (np.float32(0.7), "0.7"),
        (np.float32(12), "12"),
        (1000000000010.0, "1000000000010"),
        ("0100000000010", "0100000000010"),
        (True, "true"),
        (np.False_, "false"),
        (datetime.date(2019, 3, 5), "2019-03-05"),
        (datetime.datetime(2019, 3, 5), "2019-03-05"),
        (datetime.datetime(2019, 3, 5, 12, 30), "2019-03-05T12:30:00"),
        (pd.Timestamp("2019-03-05"), "2019-03-05"),
        ("\ufeffid", "id"),
        ("\u3000非CR非PD ", "非CR非PD"),
    ],
)
def test_cell_text__one_text_for_one_meaning(value: object, text: str) -> None:
    assert cell_text(value) == text


@given(st.one_of(st.integers(-(10**12), 10**12), st.floats(allow_nan=False, allow_infinity=False)))
def test_cell_text__numbers_keep_their_value(value: float) -> None:
    assert float(cell_text(value)) == value


@given(st.text(max_size=20))
def test_cell_text__is_stable(text: str) -> None:
    once = cell_text(text)
    assert cell_text(once) == once


# --- formats ---------------------------------------------------------------------------------------------

HEADER = ("id", "sex", "age", "share", "sites")
ROWS = ((2, ("P1", "male", "61", "0.7", "1000000000010")), (3, ("P2", "", "", "0.25", "1100000000000")))
FRAME = pd.DataFrame(
    {
        "id": ["P1", "P2"],
        "sex": ["male", None],
        "age": [61.0, None],
        "share": np.array([0.7, 0.25], dtype=np.float32),
        "sites": [1000000000010, 1100000000000],
    }
)


def as_file(folder: Path, kind: str) -> Path:
    file = folder / f"patients.{kind}"
    if kind in ("csv", "tsv"):
        FRAME.to_csv(file, index=False, sep="," if kind == "csv" else "\t")
    elif kind == "parquet":
        FRAME.to_parquet(file)
    else:
        rows = [
            list(HEADER),
            ["P1", "male", 61, 0.7, 1000000000010],
            ["P2", "", "", 0.25, 1100000000000],
        ]
        write_xlsx(file, {"Patients": rows}, STRICT if kind == "strict.xlsx" else {})
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "xlsx", "strict.xlsx"])
def test_read_cells__every_format_gives_the_same_text(tmp_path: Path, kind: str) -> None:
    table = read_cells(as_file(tmp_path, kind))
    assert table.header == HEADER
    assert table.rows == ROWS


def test_read_cells__reads_what_pandas_writes(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl", reason="openpyxl, which pandas writes workbooks with, is not installed")
    file = tmp_path / "t.xlsx"
    FRAME.assign(share=[0.7, 0.25]).to_excel(file, index=False)
    assert read_cells(file).rows == ROWS


def test_read_cells__csv_quotes_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes('\ufeffid,"long\n name"\r\n\r\nP1,"a, ""b"""\r\n,\r\n'.encode())
    table = read_cells(file)
    assert table.header == ("id", "long name")
    assert table.rows == ((4, ("P1", 'a, "b"')),)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", b"id;sex\nP1;male\n", "commas (.csv) or tabs (.tsv) between columns, found semicolons"),
        ("t.csv", "id,sex\nP1,男\n".encode("gbk"), "UTF-8 text"),
        ("t.csv", b'id,sex\n"P1"x,male\n', "well-formed rows"),
        ("t.csv", b"", "a header and rows, found an empty table"),
        ("t.parquet", b"PAR1nothing", "a Parquet table"),
        ("t.docx", b"x", ".csv, .tsv, .parquet, .xlsx, .xls or .ods, found '.docx'"),
    ],
)
def test_read_cells__unreadable_tables(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError, match=rf"^{re.escape(name)}: expected {re.escape(expected)}"):
        read_cells(tmp_path / name)


def test_read_cells__missing_file_and_sheet_of_a_csv(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"t\.csv: expected a table file, found no such file"):
        read_cells(tmp_path / "t.csv")
    with pytest.raises(TableError, match="expected no `sheet` for this format"):
        read_cells(as_file(tmp_path, "csv"), TableFormat(sheet="One"))


def test_read_cells__size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv, parquet = as_file(tmp_path, "csv"), as_file(tmp_path, "parquet")
    monkeypatch.setattr(source_tables, "MAX_CELLS", 9)
    for file in (csv, parquet):
        with pytest.raises(TableError, match="expected at most 9 cells"):
            read_cells(file)
    monkeypatch.setattr(source_tables, "MAX_TABLE_BYTES", 9)
    with pytest.raises(TableError, match="expected at most 9 bytes"):
        read_cells(csv)


# --- mapping ---------------------------------------------------------------------------------------------


def read(folder: Path, lines: list[str], **section: Any) -> tuple[TableRows, list[Problem]]:
    """The table of patients with these lines of CSV and this section."""
    (folder / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    columns = {"patient": "id", **section.pop("columns", {})}
    return read_fields("patients", TableSection(table="t.csv", columns=columns, **section), FIELDS, folder / "t.csv")


def column(table: TableRows, field: str) -> list[Any]:
    return [row.values[field] for row in table.rows]


def test_read_fields__every_field_of_every_row(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,Geschlecht", "P1,Male", "P2,"], columns={"sex": "Geschlecht"})
    assert problems == []
    assert column(table, "sex") == ["male", None]
    assert set(table.rows[0].values) == set(FIELDS)
    assert column(table, "age") == [None, None]
    assert table.columns == {"patient": "id", "sex": "Geschlecht"}


def test_read_fields__exact_words_before_patterns_in_the_order_of_the_file(tmp_path: Path) -> None:
    values = {"line": {"1*": "first", "1 (other)": "later", "*": "later", "9": ""}}
    table, problems = read(
        tmp_path,
        ["id,Line", "P1,1", "P2,1(术后复发）", "P3,1 (other)", "P4,3+", "P5,9", "P6,", "P7,早期1", "P8,NA"],
        columns={"line": "Line"},
        values=values,
    )
    assert problems == []
    assert column(table, "line") == ["first", "first", "later", "later", None, None, "later", None]


def test_read_fields__pattern_signs_other_than_the_star_are_literal(tmp_path: Path) -> None:
    table, problems = read(
        tmp_path,
        ["id,Line", "P1,[1]?x", "P2,1"],
        columns={"line": "Line"},
        values={"line": {"[1]?*": "first", "1": "later"}},
    )
    assert problems == []
    assert column(table, "line") == ["first", "later"]


def test_read_fields__a_blank_may_be_mapped_exactly(tmp_path: Path) -> None:
    table, problems = read(
        tmp_path, ["id,op", "P1,", "P2,x"], columns={"gastrectomy": "op"}, values={"gastrectomy": {"": 0, "x": True}}
    )
    assert problems == []
    assert column(table, "gastrectomy") == [False, True]


def test_read_fields__numbers_in_cells_and_in_the_cohort_file_meet(tmp_path: Path) -> None:
    table, problems = read(
        tmp_path,
        ["id,ln", "P1,0.0", "P2,2", "P3,-1"],
        columns={"lymph_nodes": "ln"},
        values={"lymph_nodes": {"0": "none", "2.0": "fused"}},
        unknown=("-1.0",),
    )
    assert problems == []
    assert column(table, "lymph_nodes") == ["none", "fused", None]


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", "NaN", "Unknown", "none"])
def test_read_fields__default_unknown_words_in_any_case(tmp_path: Path, cell: str) -> None:
    table, problems = read(tmp_path, ["id,sex", f"P1,{cell}"], columns={"sex": "sex"})
    assert problems == []
    assert column(table, "sex") == [None]


def test_read_fields__own_unknown_words_replace_the_defaults(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,sex", "P1,?", "P2,NA"], columns={"sex": "sex"}, unknown=("?",))
    assert column(table, "sex") == [None, None]
    assert [problem.found for problem in problems] == ["'NA'"]


def test_read_fields__none_the_word_and_none_the_unknown(tmp_path: Path) -> None:
    lines = ["id,ln", "P1,none", "P2,None", "P3,None", "P4,NONE"]
    table, problems = read(tmp_path, lines, columns={"lymph_nodes": "ln"})
    assert column(table, "lymph_nodes") == ["none", None, None, "none"]
    assert [(problem.severity, problem.column, problem.found) for problem in problems] == [
        ("warning", "ln", "'None' in 2 row(s)")
    ]
    table, problems = read(tmp_path, lines, columns={"lymph_nodes": "ln"}, values={"lymph_nodes": {"None": "none"}})
    assert column(table, "lymph_nodes") == ["none"] * 4
    assert problems == []


def test_read_fields__constants_count_for_every_row(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id", "P1", "P2"], constants={"start_year": 2020, "pfs_event": True})
    assert problems == []
    assert column(table, "start_year") == [2020, 2020]
    assert column(table, "pfs_event") == [True, True]


def test_read_fields__bad_cells_name_row_column_words_and_remedy(tmp_path: Path) -> None:
    table, problems = read(
        tmp_path,
        ["id,Sex,Age", "P1,mail,61", "P2,x,200", "P3,female,12"],
        columns={"sex": "Sex", "age": "Age"},
    )
    assert [(p.table, p.row, p.column, p.found, p.expected) for p in problems] == [
        ("patients", "P1 (line 2)", "Sex", "'mail'", "one of: male, female"),
        ("patients", "P2 (line 3)", "Sex", "'x'", "one of: male, female"),
        ("patients", "P2 (line 3)", "Age", "'200'", "a number from 0 to 120 (years)"),
    ]
    assert problems[0].remedy == ("Did you mean 'male'? Correct the cell, or map its word in [patients.values.sex].")
    assert [sorted(row.bad) for row in table.rows] == [["sex"], ["age", "sex"], []]


def test_read_fields__long_cells_are_cut_in_messages(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,sex", f"P1,{'m' * 5000}"], columns={"sex": "sex"})
    assert len(str(problems[0])) < 400


def test_read_fields__missing_column_with_near_matches(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,Tumour sites", "P1,GEJ"], columns={"site": "Tumor site"})
    assert [(p.column, p.found, p.expected) for p in problems] == [
        ("Tumor site", "no such column", "one column for site")
    ]
    assert problems[0].remedy == "Did you mean 'Tumour sites'? Correct [patients], or the table's header."
    assert table.readable
    assert table.rows[0].bad == {"site"}


def test_read_fields__column_that_stands_twice(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,sex,sex", "P1,male,female"], columns={"sex": "sex"})
    assert [p.found for p in problems] == ["2 columns of this name"]


def test_read_fields__missing_id_column_leaves_the_table_unreadable(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["ID number", "P1"])
    assert not table.readable
    assert [p.found for p in problems] == ["no such column"]


def test_read_fields__required_cell_that_is_blank(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,sex", ",male", "P2,male"], columns={"sex": "sex"})
    assert [(p.row, p.column, p.remedy) for p in problems] == [("line 2", "id", "Fill in the cell, or remove the row.")]


def test_read_fields__rows_with_more_or_fewer_cells(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,sex", "P1,male,1", "P2", "P3,male"], columns={"sex": "sex"})
    assert [(p.row, p.found, p.expected) for p in problems] == [
        ("line 2", "3 cells", "2 cells, as in the header"),
        ("line 3", "1 cells", "2 cells, as in the header"),
    ]
    assert column(table, "patient") == ["P1", "P2", "P3"]


def test_read_fields__mistakes_of_the_section(tmp_path: Path) -> None:
    table, problems = read(
        tmp_path,
        ["id,sex", "P1,male", "P2,m"],
        columns={"sex": "sex", "agee": "sex"},
        constants={"sex": "male", "line": "frist"},
        values={"site": {"x": "GEJ"}, "sex": {"m": "mal", "f": "female"}},
    )
    assert {(p.column, p.found) for p in problems} == {
        ("columns.agee", "the unknown field 'agee'"),
        ("sex", "the field in columns and in constants"),
        ("values.site", "no column"),
        ("constants.line", "'frist'"),
        ("sex", "the mapped word 'mal'"),
    }
    assert any("'age'" in p.remedy for p in problems)
    assert ["sex" in row.bad for row in table.rows] == [False, True]
    assert any("'first'" in p.remedy for p in problems)


def test_read_fields__id_that_is_not_safe_is_not_repeated_as_the_row(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,sex", "Jane Doe,x"], columns={"sex": "sex"})
    assert problems[0].row == "line 2"
    assert "Jane" not in str(problems[0])
    assert table.rows[0].values["patient"] == "Jane Doe"


def test_read_fields__parquet_types(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": pa.array(["P1", "P2"]).dictionary_encode(),
            "sex": pa.array(["male", None]),
            "event": pa.array([True, None]),
            "start": pa.array([datetime.datetime(2019, 3, 5), None], pa.timestamp("ns")),
            "tils": pa.array([0.7, None], pa.float32()),
            "lesions": pa.array([3, None], pa.int8()),
        }
    )
    pq.write_table(table, file)
    columns = {
        "patient": "id",
        "sex": "sex",
        "pfs_event": "event",
        "start_year": "start",
        "tils": "tils",
        "metastatic_lesions": "lesions",
    }
    rows, problems = read_fields("patients", TableSection(table=file.name, columns=columns), FIELDS, file)
    assert problems == []
    assert [[row.values[field] for field in columns] for row in rows.rows] == [
        ["P1", "male", True, 2019, 0.7, 3],
        ["P2", None, None, None, None, None],
    ]


# --- tables as hospitals have them ------------------------------------------------------------------------


def test_read_cells__header_below_a_heading(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("As of March 2024,\n,\nid,sex\nP1,male\n", encoding="utf-8")
    table = read_cells(file, TableFormat(header_row=3))
    assert (table.header, table.header_line, table.rows) == (("id", "sex"), 3, ((4, ("P1", "male")),))


def test_read_cells__semicolons_and_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes("Nr;Größe\nP1;1,5\n".encode("cp1252"))
    assert read_cells(file, TableFormat(separator=";", encoding="cp1252")).header == ("Nr", "Größe")
    with pytest.raises(TableError) as refused:
        read_cells(file, TableFormat(separator=";"))
    assert "`encoding`" in refused.value.remedy


def test_read_cells__semicolons_are_named_with_the_key_that_reads_them(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id;sex\nP1;male\n")
    with pytest.raises(TableError) as refused:
        read_cells(tmp_path / "t.csv")
    assert 'separator = ";"' in refused.value.remedy


def test_read_fields__header_in_another_row_is_found_and_named(tmp_path: Path) -> None:
    lines = ["As of March,,", "id,sex,age", "P1,male,61"]
    _, problems = read(tmp_path, lines, columns={"sex": "sex", "age": "age"})
    assert "Row 2 has them: set header_row = 2." in problems[0].remedy
    _, problems = read(tmp_path, lines[1:], columns={"sex": "sex", "age": "age"}, header_row=2)
    assert "Row 1 has them: set header_row = 1." in problems[0].remedy
    assert "male" not in problems[0].remedy
    table, problems = read(tmp_path, lines, columns={"sex": "sex", "age": "age"}, header_row=2)
    assert problems == []
    assert column(table, "age") == [61.0]


def test_read_fields__columns_are_named_once_where_none_is_alike(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,Geschlecht", "P1,male"], columns={"sex": "Gender", "age": "Years"})
    assert ["'Geschlecht'" in p.remedy for p in problems] == [True, False]


def test_read_fields__table_in_another_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id\nP1\n")
    section = TableSection(table="tables/t.csv", columns={"patient": "id"})
    _, problems = read_fields("patients", section, FIELDS, tmp_path / "tables" / "t.csv")
    assert problems[0].found == "no such file: 'tables/t.csv'"
    assert "The data folder has 't.csv'." in problems[0].remedy


def test_read_fields__words_count_in_any_case_unless_both_are_mapped(tmp_path: Path) -> None:
    lines = ["id,sex", "P1,W", "P2,w", "P3,M"]
    table, problems = read(tmp_path, lines, columns={"sex": "sex"}, values={"sex": {"w": "female", "m": "male"}})
    assert (column(table, "sex"), problems) == (["female", "female", "male"], [])
    both = {"sex": {"w": "female", "W": "", "m": "male"}}
    table, problems = read(tmp_path, lines, columns={"sex": "sex"}, values=both)
    assert (column(table, "sex"), problems) == ([None, "female", "male"], [])


def test_read_fields__word_that_could_be_mapped_is_named_with_its_field(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,sex,age", "P1,w,old"], columns={"sex": "sex", "age": "age"})
    assert [(p.field, p.word) for p in problems] == [("sex", "w"), ("", "")]


def test_read_fields__decimal_comma(tmp_path: Path) -> None:
    lines = ["id,age,tils", '"P1","61,5","12,5%"', "P2,61.5,0.125"]
    columns = {"age": "age", "tils": "tils"}
    table, problems = read(tmp_path, lines, columns=columns, decimal=",")
    assert problems == []
    assert column(table, "age") == [61.5, 61.5]
    assert column(table, "tils") == [0.125, 0.125]
    _, problems = read(tmp_path, lines, columns=columns)
    assert ['decimal = ","' in p.remedy for p in problems] == [True, True]


def test_read_fields__thousands_separators_are_refused(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,days", '"P1","1.234,5"'], columns={"pfs_days": "days"}, decimal=",")
    assert [p.found for p in problems] == ["'1.234,5'"]


def test_read_fields__months_and_weeks_become_days(tmp_path: Path) -> None:
    columns = {"pfs_days": "pfs", "os_days": "os"}
    units = {"pfs_days": "months", "os_days": "weeks"}
    table, problems = read(tmp_path, ["id,pfs,os", "P1,12,10", "P2,,2"], columns=columns, units=units)
    assert problems == []
    assert column(table, "pfs_days") == [365.25, None]
    assert column(table, "os_days") == [70, 14]


def test_read_fields__unit_of_a_field_that_is_no_time(tmp_path: Path) -> None:
    _, problems = read(tmp_path, ["id,age", "P1,61"], columns={"age": "age"}, units={"age": "months"})
    assert [(p.column, p.expected) for p in problems] == [("units.age", "one of: pfs_days, os_days")]


def test_read_fields__days_between_two_dates(tmp_path: Path) -> None:
    lines = ["id,start,end", "P1,2020-01-01,31.01.2020", "P2,2020-01-01 00:00:00,1/31/2020", "P3,,1.2.2020"]
    table, problems = read(tmp_path, lines, intervals={"pfs_days": ("start", "end")})
    assert problems == []
    assert column(table, "pfs_days") == [30, 30, None]
    assert table.columns["pfs_days"] == "start – end"


@pytest.mark.parametrize(
    ("end", "column_name", "found", "remedy"),
    [
        ("03/2021", "end", "'03/2021'", "Correct the cell"),
        ("31.02.2021", "end", "'31.02.2021'", "Correct the cell"),
        ("3/4/2021", "end", "'3/4/2021'", "date_order"),
        ("2019-12-31", "end", "2019-12-31, -1 days after 'start'", "the order of the two columns"),
        ("43831", "end", "'43831'", "Correct the cell"),
    ],
)
def test_read_fields__dates_that_cannot_be_used(
    end: str, column_name: str, found: str, remedy: str, tmp_path: Path
) -> None:
    lines = ["id,start,end", f"P1,2020-01-01,{end}"]
    table, (problem,) = read(tmp_path, lines, intervals={"pfs_days": ("start", "end")})
    assert (problem.column, problem.found, problem.row) == (column_name, found, "P1 (line 2)")
    assert remedy in problem.remedy
    assert table.rows[0].bad == {"pfs_days"}


@pytest.mark.parametrize(("order", "end"), [("day-month", (2021, 3, 4)), ("month-day", (2021, 4, 3))])
def test_read_fields__date_order_decides(order: str, end: tuple[int, int, int], tmp_path: Path) -> None:
    lines = ["id,start,end", "P1,1/1/2021,4/3/2021"]
    table, problems = read(tmp_path, lines, intervals={"pfs_days": ("start", "end")}, date_order=order)
    expected = (datetime.date(*end) - datetime.date(2021, 1, 1)).days
    assert (column(table, "pfs_days"), problems) == ([expected], [])


def test_read_fields__interval_column_that_is_not_there(tmp_path: Path) -> None:
    table, problems = read(tmp_path, ["id,start", "P1,2020-01-01"], intervals={"pfs_days": ("start", "ende")})
    assert [(p.column, p.expected) for p in problems] == [("ende", "one column for pfs_days")]
    assert table.rows[0].bad == {"pfs_days"}


def test_read_fields__of_several_last_dates_the_first_that_is_known_counts(tmp_path: Path) -> None:
    lines = [
        "id,start,progression,contact",
        "P1,1.1.2020,11.1.2020,1.3.2020",
        "P2,1.1.2020,-,31.1.2020",
        "P3,1.1.2020,,",
        "P4,,11.1.2020,1.3.2020",
    ]
    dates = {"pfs_days": ("start", "progression", "contact")}
    table, problems = read(tmp_path, lines, intervals=dates, unknown=("", "-"))
    assert problems == []
    assert column(table, "pfs_days") == [10, 30, None, None]
    assert [row.last_resorts for row in table.rows] == [frozenset(), {"pfs_days"}, frozenset(), frozenset()]


def test_read_fields__a_last_date_that_cannot_be_read_is_not_passed_over(tmp_path: Path) -> None:
    lines = ["id,start,progression,contact", "P1,1.1.2020,31.02.2020,1.3.2020", "P2,1.1.2020,,1.12.2019"]
    table, problems = read(tmp_path, lines, intervals={"pfs_days": ("start", "progression", "contact")})
    assert [(p.column, p.found) for p in problems] == [
        ("progression", "'31.02.2020'"),
        ("contact", "2019-12-01, -31 days after 'start'"),
    ]
    assert [row.bad for row in table.rows] == [{"pfs_days"}, {"pfs_days"}]

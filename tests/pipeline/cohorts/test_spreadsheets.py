"""Spreadsheets: strict OOXML, OpenDocument, limits. The workbooks are written by hand, part by part."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from workbooks import STRICT, write_ods, write_xlsx

from mumo.pipeline.cohorts import spreadsheets
from mumo.pipeline.cohorts.spreadsheets import TableError, read_sheet

ROWS = [["id", "age", "share"], ["P1", 61, 0.7], ["P2", "", 0.25]]


@pytest.mark.parametrize("namespaces", [{}, STRICT], ids=["transitional", "strict"])
def test_read_sheet__xlsx(tmp_path: Path, namespaces: Mapping[str, str]) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"Patients": ROWS}, namespaces)
    assert read_sheet(file) == [["id", "age", "share"], ["P1", 61.0, 0.7], ["P2", "", 0.25]]


def test_read_sheet__strict_workbook_really_is_strict(tmp_path: Path) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"Patients": ROWS}, STRICT)
    with zipfile.ZipFile(file) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").decode()
        workbook = archive.read("xl/workbook.xml").decode()
    assert "purl.oclc.org/ooxml/spreadsheetml/main" in sheet
    assert "schemas.openxmlformats.org" not in sheet + workbook


def test_read_sheet__ods(tmp_path: Path) -> None:
    file = write_ods(tmp_path / "t.ods", "<table:table-cell office:value-type='string'><text:p>id</text:p>")
    assert read_sheet(file) == [["id"]]


def test_read_sheet__sheet_by_name(tmp_path: Path) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"One": ROWS, "Two": [["id"], ["X"]]})
    assert read_sheet(file, "Two") == [["id"], ["X"]]
    with pytest.raises(TableError, match=r"t\.xlsx: expected a sheet 'Three', found 'One', 'Two'"):
        read_sheet(file, "Three")


@pytest.mark.parametrize("name", ["t.xlsx", "t.ods", "t.xls"])
def test_read_sheet__no_workbook(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"PK\x03\x04 and then nothing of the kind")
    with pytest.raises(TableError, match="expected a spreadsheet, found"):
        read_sheet(file)


def test_read_sheet__truncated_workbook(tmp_path: Path) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"One": ROWS})
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(TableError, match="expected a spreadsheet, found"):
        read_sheet(file)


@pytest.mark.parametrize(
    "far",
    [
        '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>',
        "<row r='1048576'><c x='>' r = 'XFD1048576'><v>1</v></c></row>",
        '<x:row xmlns:x="urn:x" r="1048576"><x:c r="XFD9"/></x:row>',
        f'<row r="1">{"<c/>" * 1000}</row><row r="1048576"><c><v>1</v></c></row>',
    ],
    ids=["plain", "quoted bracket", "prefix", "cells without reference"],
)
def test_read_sheet__one_far_cell_is_refused_before_the_sheet_is_laid_out(tmp_path: Path, far: str) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"One": ROWS}, more=far)
    with pytest.raises(TableError, match="expected sheets of at most 5000000 cells"):
        read_sheet(file)


def test_read_sheet__a_large_sheet_within_the_limit_is_read(tmp_path: Path) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"One": [["id"]]}, more='<row r="40000"><c r="CV40000"><v>1</v></c></row>')
    rows = read_sheet(file)
    assert (len(rows), len(rows[0])) == (40_000, 100)


def test_read_sheet__far_ods_cell_is_refused(tmp_path: Path) -> None:
    cell = "<table:table-cell table:number-columns-repeated='1000' office:value-type='float' office:value='1'>"
    file = write_ods(tmp_path / "t.ods", cell, rows=1_000_000)
    with pytest.raises(TableError, match="1000000 rows × 1000 columns"):
        read_sheet(file)


def test_read_sheet__blank_repeated_ods_cells_do_not_count(tmp_path: Path) -> None:
    file = write_ods(tmp_path / "t.ods", "<table:table-cell table:number-columns-repeated='16384'>", rows=1_000_000)
    assert read_sheet(file) == []


def test_read_sheet__entities_in_ods_are_refused(tmp_path: Path) -> None:
    file = write_ods(tmp_path / "t.ods", "<table:table-cell>", doctype='<!DOCTYPE x [<!ENTITY a "aaaa">]>')
    with pytest.raises(TableError, match="XML that is not accepted"):
        read_sheet(file)


def test_read_sheet__unpacked_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_xlsx(tmp_path / "t.xlsx", {"One": ROWS})
    monkeypatch.setattr(spreadsheets, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(TableError, match="expected at most 1000 bytes unpacked"):
        read_sheet(file)


def test_table_error__survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(TableError(Path("a/t.csv"), expected="rows", found="none")))
    assert str(error) == "t.csv: expected rows, found none"
    assert error.found == "none"

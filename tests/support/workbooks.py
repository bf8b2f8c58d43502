"""Small workbooks written part by part, so that tests need no spreadsheet library."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.sax.saxutils import escape

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"

STRICT = {
    _MAIN: "http://purl.oclc.org/ooxml/spreadsheetml/main",
    _RELATIONS: "http://purl.oclc.org/ooxml/officeDocument/relationships",
}
"""Transitional namespace → that of strict OOXML (ISO/IEC 29500 strict)."""


def write_xlsx(
    file: Path, sheets: Mapping[str, Sequence[Sequence[object]]], namespaces: Mapping[str, str] = {}, more: str = ""
) -> Path:
    """A workbook with shared strings; numbers stay numbers, blanks are left out.

    `namespaces` replaces namespaces (see `STRICT`), `more` is XML at the end of the first sheet's rows.
    """
    strings: list[str] = []
    parts = {}
    for number, rows in enumerate(sheets.values(), start=1):
        body = "".join(_row(index, cells, strings) for index, cells in enumerate(rows, start=1))
        body += more if number == 1 else ""
        parts[f"xl/worksheets/sheet{number}.xml"] = (
            f'<worksheet xmlns="{_MAIN}"><sheetData>{body}</sheetData></worksheet>'
        )
    numbers = range(1, len(sheets) + 1)
    names = "".join(
        f'<sheet name="{name}" sheetId="{k}" r:id="rId{k}"/>' for k, name in zip(numbers, sheets, strict=True)
    )
    parts["xl/workbook.xml"] = (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_RELATIONS}"><workbookPr/><sheets>{names}</sheets></workbook>'
    )
    links = "".join(
        f'<Relationship Id="rId{k}" Type="{_RELATIONS}/worksheet" Target="worksheets/sheet{k}.xml"/>' for k in numbers
    )
    links += f'<Relationship Id="rId99" Type="{_RELATIONS}/sharedStrings" Target="sharedStrings.xml"/>'
    parts["xl/_rels/workbook.xml.rels"] = f'<Relationships xmlns="{_PACKAGE}/relationships">{links}</Relationships>'
    items = "".join(f"<si><t>{escape(text)}</t></si>" for text in strings)
    parts["xl/sharedStrings.xml"] = f'<sst xmlns="{_MAIN}">{items}</sst>'
    parts["_rels/.rels"] = (
        f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
        f'Type="{_RELATIONS}/officeDocument" Target="xl/workbook.xml"/></Relationships>'
    )
    overrides = "".join(
        f'<Override PartName="/xl/worksheets/sheet{k}.xml" ContentType="{_TYPE}.worksheet+xml"/>' for k in numbers
    )
    parts["[Content_Types].xml"] = (
        f'<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels" '
        f'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
        f'<Override PartName="/xl/sharedStrings.xml" ContentType="{_TYPE}.sharedStrings+xml"/>{overrides}</Types>'
    )
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            document = f'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n{text}'
            for old, new in namespaces.items():
                document = document.replace(old, new)
            archive.writestr(name, document)
    return file


def write_ods(file: Path, cell: str, *, rows: int = 1, doctype: str = "") -> Path:
    """An OpenDocument spreadsheet with one row of one cell (its opening tag and content), repeated `rows` times."""
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"' for name in ("office", "table", "text")
    )
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?>{doctype}<office:document-content {spaces}><office:body>'
        f'<office:spreadsheet><table:table table:name="One"><table:table-row table:number-rows-repeated="{rows}">'
        f"{cell}</table:table-cell></table:table-row></table:table></office:spreadsheet></office:body>"
        "</office:document-content>"
    )
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", content)
        archive.writestr("META-INF/manifest.xml", "<manifest/>")
    return file


def _row(number: int, cells: Sequence[object], strings: list[str]) -> str:
    text = ""
    for column, value in enumerate(cells):
        place = f"{chr(ord('A') + column)}{number}"
        if isinstance(value, bool):
            text += f'<c r="{place}" t="b"><v>{int(value)}</v></c>'
        elif isinstance(value, int | float):
            text += f'<c r="{place}"><v>{value}</v></c>'
        elif value:
            strings.append(str(value))
            text += f'<c r="{place}" t="s"><v>{len(strings) - 1}</v></c>'
    return f'<row r="{number}">{text}</row>'

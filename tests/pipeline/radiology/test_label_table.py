"""ITK-SNAP's label descriptions."""

from __future__ import annotations

from pathlib import Path

import pytest

from mumo.errors import InputError
from mumo.pipeline.radiology.label_table import read_label_table

EXPORTED = """################################################
# ITK-SnAP Label Description File
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
    1   255    0    0        1  1  1    "liver"
    7     0  255    0      0.5  1  0    "Lymph node, left"
"""


def test_read_label_table__of_an_export(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(EXPORTED, encoding="utf-8")
    assert read_label_table(file) == {1: "liver", 7: "Lymph node, left"}


@pytest.mark.parametrize("line", ["1 255 0 0 1 1 1 liver", '1 "liver"', "liver", '1 255 0 0 1 1 1 "liver" more'])
def test_read_label_table__refuses_other_lines(tmp_path: Path, line: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_text(f"# comment\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match="line 2: expected") as caught:
        read_label_table(file)
    assert "liver" not in str(caught.value)


def test_read_label_table__refuses_no_file_no_text_and_too_much(tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    with pytest.raises(InputError, match="readable text file"):
        read_label_table(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="readable text file"):
        read_label_table(file)
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(InputError, match="1048577 bytes"):
        read_label_table(file)

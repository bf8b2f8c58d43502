"""`mumo init`: what it prints and writes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile

from mumo.cli import main


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides of two of three patients; one file without a patient."""
    (tmp_path / "slides").mkdir()
    for name in ("P01_HE.tif", "P02_HE.tif", "x.tif"):
        pixels = np.full((256, 256, 3), 200, dtype=np.uint8)
        tifffile.imwrite(tmp_path / "slides" / name, pixels, tile=(128, 128), photometric="rgb")
    (tmp_path / "list.csv").write_text("id,best\nP01,PR\nP02,PD\nP03,SD\n")
    return tmp_path


def test_init__says_what_it_found_and_what_is_left_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", folder) == 0
    said = capsys.readouterr()
    assert "patients: 3 ids in list.csv, column 'id', 2 of them in paths of files" in said.out
    assert (
        "slides: 2 of 2 patients, 0 with an annotation; 2 without a resolution: fill in mpp in slides.csv" in said.out
    )
    assert "CT: 0 studies" in said.out
    assert "next: name your columns in cohort.toml" in said.out
    assert "not placed: slides/x.tif: its path names no patient" in said.err
    assert "no files: 1 patients: P03" in said.err
    assert run("init", folder) == 2
    assert "cohort.toml, slides.csv exist" in capsys.readouterr().err
    assert run("init", folder, "--force") == 0


def test_init__names_slides_that_cannot_be_read_and_lists_them(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "slides" / "P03_HE.svs").write_bytes(b"nothing")
    assert run("init", folder) == 0
    said = capsys.readouterr()
    assert "slides: 3 of 3 patients, 0 with an annotation; 2 without a resolution" in said.out
    assert "cannot be read: 1 of these, listed all the same" in said.out
    assert "  P03_HE (slides/P03_HE.svs): no slide that OpenSlide reads" in said.out
    assert "P03" not in said.err
    assert "P03_HE,P03,slides/P03_HE.svs,," in (folder / "slides.csv").read_text()
    file = folder / "cohort.toml"
    file.write_text(file.read_text().replace('# recist = ""', 'recist = "best"'))
    assert run("check", file) == 2
    assert "row P03_HE" in capsys.readouterr().err


def test_init__dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.rglob("*"))
    assert run("init", folder, "--dry-run", "--patient", "slides/{patient}.tif") == 0
    assert "slides: 3 of 3 patients" in capsys.readouterr().out
    assert sorted(folder.rglob("*")) == before


def test_init__pattern_without_the_field_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", folder, "--patient", "slides/*") == 2
    assert "expected {patient} once" in capsys.readouterr().err


def test_init__names_repeated_ids_and_further_tables(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "list.csv").write_text("id,best\nP01,PR\nP02,PD\nP03,SD\nP01,PR\n")
    (folder / "outcome.csv").write_text('Größe;"Pat-ID";Tod\n1;P01;ja\n2;P02;nein\n', encoding="cp1252")
    assert run("init", folder) == 0
    said = capsys.readouterr().out
    assert "  1 of them in several rows: keep a row a patient" in said
    assert "  also in outcome.csv: stands in cohort.toml as [[reports]], behind #" in said
    _, _, block = (folder / "cohort.toml").read_text(encoding="utf-8").partition("# [[reports]]\n")
    lines = [line.removeprefix("# ") for line in block.partition("\n\n")[0].splitlines()]
    (report,) = tomllib.loads("\n".join(["[[reports]]", *lines]))["reports"]
    assert (report["table"], report["separator"], report["encoding"]) == ("outcome.csv", ";", "cp1252")
    assert report["columns"] == {"patient": "Pat-ID"}
    assert '"Größe", "Pat-ID", "Tod"' in (folder / "cohort.toml").read_text(encoding="utf-8")

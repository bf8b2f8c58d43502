"""The README's cohort file is read, and its commands are run as they stand there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mumo.pipeline.cohorts.cohort import load_cohort

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def test_readme__cohort_file_is_valid(tmp_path: Path) -> None:
    (text,) = blocks("toml")
    (tmp_path / "cohort.toml").write_text(text.replace("patients.xlsx", "patients.csv"))
    (tmp_path / "patients.csv").write_text("Study ID,Best response,PFS (days),Progressed,Sex\nP1,PR,300,no,f\n")
    (tmp_path / "slides.csv").write_text("slide,Study ID,file,asap_xml\nS1,P1,s1.svs,s1.xml\n")
    (tmp_path / "ct.csv").write_text("study,Study ID,folder\nC1,P1,c1\n")
    (tmp_path / "lesions.csv").write_text("lesion,study,type,mask,label\nL1,C1,liver,c1.nii.gz,2\n")
    cohort = load_cohort(tmp_path / "cohort.toml")
    assert cohort.patients[0].fields["sex"] == "female"
    assert cohort.ct_studies[0].lesions[0].label == 2
    assert cohort.region_classes == {"HER2 2+": 1, "HER2 3+": 2}


def test_readme__make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wanted = {command[1] for command in commands() if command[0] == "make"} | set(re.findall(r"`make (\w+)`", README))
    assert wanted >= {"demo", "test", "lint", "bench"}
    for target in wanted:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target} is not in the Makefile"


def test_readme__every_command_is_known_to_this_test() -> None:
    assert {command[0] for command in commands()} <= {"make", "mumo", "python3", "env/bin/pip", "source"}


@pytest.mark.slow
def test_readme__mumo_commands_run(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that has what the README takes for granted: a cohort, and the store of another one."""
    shutil.copytree(demo / "cohort", tmp_path, dirs_exist_ok=True)
    for name in ("store", "other-store"):
        shutil.copytree(demo / "store", tmp_path / name)
    (tmp_path / "my-cohort" / "P0001").mkdir(parents=True)
    shutil.copy(next((demo / "cohort" / "slides").iterdir()), tmp_path / "my-cohort" / "P0001")
    monkeypatch.setenv("MUMO_CONFIG", str(demo / "cohort" / "demo.toml"))
    ran = []
    for command in commands():
        if command[0] == "mumo":
            done = subprocess.run(
                [sys.executable, "-m", "mumo.cli", *command[1:]],
                cwd=tmp_path,
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
            ran.append(command[1])
    wanted = "init check extract status export-bags fit baselines explain report predict"
    assert set(ran) == set(wanted.split())
    assert (tmp_path / "my-cohort" / "cohort.toml").exists()
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
    assert 'href="explain/index.html"' in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert (tmp_path / "out.parquet").exists()

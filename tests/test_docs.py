"""What users read is true: settings, commands and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page__links_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page__names_settings_that_exist(page: Path) -> None:
    from mumo.config import Settings

    sections = "|".join(Settings.model_fields)
    for dotted in re.findall(rf"--set '?((?:{sections})(?:\.\w+)+)", page.read_text(encoding="utf-8")):
        model = Settings()
        for name in dotted.split("."):
            assert name in type(model).model_fields, f"{page.name} names the setting {dotted}, which does not exist"
            model = getattr(model, name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page__names_commands_that_exist(page: Path) -> None:
    import typer

    from mumo.cli import app

    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:sh)?\n(.*?)```", text, flags=re.DOTALL))
    for name in re.findall(r"^mumo ([a-z-]+)", blocks, flags=re.MULTILINE) + re.findall(r"`mumo ([a-z-]+)", text):
        assert name in commands, f"{page.name} names `mumo {name}`, which does not exist"

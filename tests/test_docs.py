"""What users read is true: settings, commands and links."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from filelock import FileLock

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
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    blocks = "\n".join(code for language, code in fenced if language in ("", "sh"))
    for name in re.findall(r"^mumo ([a-z-]+)", blocks, flags=re.MULTILINE) + re.findall(r"`mumo ([a-z-]+)", text):
        assert name in commands, f"{page.name} names `mumo {name}`, which does not exist"


class Site(HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.text = page.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value and (tag, name) != ("link", "href"):
                self.links.append(value)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of Sphinx fails the build."""
    folder = tmp_path_factory.getbasetemp() / "site"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            options = ["-E", "-W", "--keep-going", "-n", "-q", "-b", "html", "-d", f"{folder}-doctrees"]
            command = [sys.executable, "-m", "sphinx", *options, str(ROOT / "docs"), str(folder)]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_site__links_lead_somewhere(site: Path) -> None:
    pages = {page.resolve(): Site(page) for page in site.rglob("*.html")}
    assert len(pages) > 20
    checked = 0
    for file, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            assert target.exists(), f"{file.name} links to {link}, which is not there"
            if anchor and target in pages:
                assert anchor in pages[target].anchors, f"{file.name} links to {link}, which has no such place"
            checked += 1
    assert checked > 500


@pytest.mark.slow
def test_site__asks_for_nothing_from_other_servers(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(https?:[^\"]+)", page.read_text())
        loaded += re.findall(r"<link[^>]+rel=\"(?:stylesheet|preload)[^>]+href=\"(https?:[^\"]+)", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"


@pytest.mark.slow
def test_site__has_every_command_with_its_options(site: Path) -> None:
    import typer

    from mumo.cli import app

    text = (site / "reference" / "commands.html").read_text()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        assert f'id="command-{name}"' in text, f"mumo {name} is not in the reference"
        section = text.split(f'id="command-{name}"')[1].split('id="command-')[0]
        for parameter in command.params:
            shown = parameter.opts[-1] if parameter.param_type_name == "option" else parameter.metavar
            assert html.escape(shown) in section, f"{shown} of mumo {name} is not in the reference"


def setting_names(model: type, prefix: str = "") -> list[str]:
    from pydantic import BaseModel

    names = []
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            names += setting_names(field.annotation, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


@pytest.mark.slow
def test_site__has_every_setting_with_type_default_and_meaning(site: Path) -> None:
    from mumo.config import Settings

    text = (site / "reference" / "settings.html").read_text()
    names = setting_names(Settings)
    assert len(names) > 100
    for name in names:
        assert f'id="confval-{name}"' in text, f"the setting {name} is not in the reference"
        entry = text.split(f'id="confval-{name}"')[1].split("</dd></dl>")[0]
        assert "Type" in entry and "Default" in entry and "<p>" in entry, f"{name} has no type, default or meaning"


@pytest.mark.slow
def test_site__has_every_array_and_column(site: Path) -> None:
    from mumo.stores import specs

    text = (site / "reference" / "stores.html").read_text()
    found = [spec for spec in vars(specs).values() if isinstance(spec, specs.ArraySpec | specs.TableSpec)]
    assert len(found) > 15
    for spec in found:
        title = re.search(rf"(?:array|table) <code[^>]*><span class=\"pre\">{spec.name}</span>", text)
        assert title, f"{spec.name} is not in the reference"
        section = text[title.end() :].split("<h3>")[0]
        for column in spec.columns if isinstance(spec, specs.TableSpec) else ():
            assert f'<span class="pre">{column.name}</span>' in section, f"{spec.name}.{column.name} is not there"
    for name in (*specs.CODES_SCHEMA.names, *specs.record_fields()):
        assert f'<span class="pre">{name}</span>' in text, f"{name} is not in the reference"


@pytest.mark.slow
def test_site__names_the_places_where_arrays_and_tables_lie(demo: Path) -> None:
    """The reference says where each part is; the demo's store has it there, with the arrays and columns declared."""
    import pyarrow.parquet as pq
    import zarr

    sys.path.insert(0, str(ROOT / "docs"))
    import generated

    from mumo.stores import specs

    compared = set()
    for stage, parts in generated.PARTS.items():
        for places, spec in parts:
            for place in places.split(", "):
                item, _, part = place.replace("ID", "*").replace("ROW", "0").partition("/")
                here = sorted((demo / "store" / stage / "items").glob(f"{item}/*/{part}"))
                if spec is specs.BAG_PLACES:
                    continue  # stands in place of the pixels only with tiles.pixels = "none"
                assert here, f"{stage}/{place} is nowhere in the store"
                if isinstance(spec, specs.ArraySpec):
                    array = zarr.open_group(here[0], mode="r")[spec.name]
                    assert (str(array.dtype), array.ndim) == (spec.dtype, len(spec.dims))
                else:
                    names = pq.read_schema(here[0]).names
                    declared = [column.name for column in spec.columns]
                    assert names == declared or (spec.open_ended and names[: len(declared)] == declared)
                compared.add(spec.name)
    assert len(compared) >= 13


def test_cohort_fields__all_have_a_meaning() -> None:
    from mumo.config import ClinicalSettings
    from mumo.pipeline.cohorts import fields

    tables = (
        fields.patient_fields(ClinicalSettings()),
        fields.slide_fields(),
        fields.ct_fields(),
        fields.lesion_fields(),
    )
    assert {name for table in tables for name in table} == set(fields.MEANINGS)


def test_pages__are_all_in_the_navigation() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = {
        line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL) for line in block.split("\n")
    }
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert name == "index" or name in listed, f"{name} is not in docs/index.md"

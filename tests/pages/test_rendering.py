"""Pages from templates: what is escaped, what a page may load, how its parts are numbered."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import jinja2
import pytest

from mumo.commands.explain.patient import power
from mumo.pages.rendering import ENLARGING, SORTING, Numbering, policy, render


def test_numbering__counts_figures_and_tables_apart() -> None:
    numbering = Numbering()
    assert [numbering.next(kind) for kind in ("figure", "table", "figure")] == [1, 1, 2]


def test_policy__lets_in_these_scripts_and_pictures_only() -> None:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in (SORTING, ENLARGING)]
    allowed = dict(part.split(" ", 1) for part in policy([SORTING, ENLARGING], files=False).split("; "))
    assert allowed == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "script-src": " ".join(f"'sha256-{digest}'" for digest in digests),
    }
    assert "script-src" not in policy([], files=True) and "img-src 'self' file: data:" in policy([], files=True)


def test_render__numbers_each_page_from_one_and_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "__init__.py").touch()
    (tmp_path / "made_up" / "page.html.jinja").write_text(
        '{% extends "frame.html.jinja" %}{% from "parts.html.jinja" import table %}'
        "{% block main %}{% call table(text) %}<tr><td>{{ text }}</td></tr>{% endcall %}{% endblock %}"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for _ in range(2):
        page = render("made_up", "page.html.jinja", text="a < b")
        assert '<span class="number">Table 1.</span> a &lt; b' in page and "<td>a &lt; b</td>" in page
    with pytest.raises(jinja2.UndefinedError, match="text"):
        render("made_up", "page.html.jinja")


@pytest.mark.parametrize(("value", "text"), [(4.1e-7, "4 × 10⁻⁷"), (0.0, "0"), (25.0, "2 × 10¹")])
def test_power__writes_small_numbers_short(value: float, text: str) -> None:
    assert power(value) == text

"""Configuration of Sphinx for the site of mumo's documentation; `make docs` builds it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402 (a module of this folder)

from mumo import __version__  # noqa: E402

project = "mumo"
author = "The authors of mumo"
copyright = "BSD-3-Clause"
version = release = __version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["recorded"]
nitpicky = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"mumo {version}"
html_static_path = ["static"]
html_css_files = ["mumo.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
highlight_language = "text"
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

# DOIs of publishers answer scripts with a refusal; they are looked at by hand.
linkcheck_ignore = [r"https://doi\.org/.*"]
linkcheck_timeout = 20


def setup(app: Any) -> None:
    """Fill in generated parts, and turn `docs/page.md` in the text, which helps readers of the files, into a link."""
    app.connect("source-read", _fill)


def _fill(_app: Any, docname: str, source: list[str]) -> None:
    up = "../" * docname.count("/")

    def link(found: re.Match[str]) -> str:
        return f"[]({up}{found[1]})" if (HERE / found[1]).exists() else found[0]

    source[0] = re.sub(r"`docs/([\w/-]+\.md)`", link, generated.fill(source[0]))

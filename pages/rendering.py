"""Pages from templates; what enters them is escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from .. import __version__

SORTING = (Path(__file__).parent / "sorting.js").read_text(encoding="utf-8")
"""A click on the head of a column of a table with the class `sortable` sorts it, unknown values last."""

ENLARGING = (Path(__file__).parent / "enlarging.js").read_text(encoding="utf-8")
"""A click on a picture in a button with the class `enlarge` shows it as wide as the page, and small again."""


class Numbering:
    """Numbers of the figures and tables of one page, in the order in which they appear."""

    def __init__(self) -> None:
        self._last = {"figure": 0, "table": 0}

    def next(self, kind: str) -> int:
        """The next number of a `figure` or `table`.

        >>> numbering = Numbering()
        >>> numbering.next("figure"), numbering.next("table"), numbering.next("figure")
        (1, 1, 2)
        """
        self._last[kind] += 1
        return self._last[kind]


def render(package: str, template: str, *, scripts: Sequence[str] = (), files: bool = False, **values: Any) -> str:
    """The page of a template; a value that the template lacks is an error.

    Args:
        package: that holds the template; the templates of `mumo.pages` are found from everywhere.
        template: its file name.
        scripts: all that the page may run.
        files: whether the page shows pictures that lie beside it, not only such as it holds.
        values: what else the template names.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name, package_path="") for name in (package, __package__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        numbering=Numbering(), version=__version__, day=day, scripts=scripts, policy=policy(scripts, files=files)
    )
    return environment.get_template(template).render(**values)


def day(time: datetime) -> str:
    """A date as pages write it.

    >>> day(datetime(2026, 3, 9))
    '9 March 2026'
    """
    return f"{time.day} {time:%B %Y}"


def policy(scripts: Sequence[str], *, files: bool) -> str:
    """The content security policy of a page: its own style, these scripts, pictures inside it or beside it."""
    pictures = "img-src 'self' file: data:" if files else "img-src data:"
    parts = ["default-src 'none'", "style-src 'unsafe-inline'", pictures]
    if scripts:
        digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
        parts.append("script-src " + " ".join(f"'sha256-{digest}'" for digest in digests))
    return "; ".join(parts)

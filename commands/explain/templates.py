"""Pages from templates; what enters them is escaped."""

from __future__ import annotations

from typing import Any


def render(name: str, **values: Any) -> str:
    """The page of a template of this package; a value that the template lacks is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**values)

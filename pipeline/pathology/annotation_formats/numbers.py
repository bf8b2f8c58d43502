"""Numbers in attributes of XML."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?")


def number_in(element: Element, attribute: str) -> float | None:
    """A number, its decimal point perhaps a comma, as some locales write it; none for anything else or nothing."""
    text = element.get(attribute, "").strip()
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else None

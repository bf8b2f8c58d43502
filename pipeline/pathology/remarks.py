"""What a user should know of a slide although it stops nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ...errors import Problem

_SAID = {
    "used": ("nothing to look at", "It is used all the same."),
    "left out": ("outlines of areas on the slide", "What is left out is not used; all else in the file is."),
    "no bags": ("areas", "Draw areas, or leave the annotation empty: then tissue is found."),
}


@dataclass(frozen=True)
class Remark:
    """A sentence about a slide, and what becomes of what it names."""

    text: str
    kind: Literal["used", "left out", "no bags"] = "used"
    """Whether what it names is used, or left out, or leaves the slide without bags."""

    def problem(self, slide: str) -> Problem:
        """The same as a warning of `mumo check`."""
        expected, remedy = _SAID[self.kind]
        return Problem("slides", slide, "", self.text, expected, remedy, "warning")

"""Groups of annotations that the cohort file gives no class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...errors import Problem
from .slides import SlideError

_SHOWN_GROUPS = 20
"""How many groups the line of `mumo check` names."""


class UnmappedGroupsError(SlideError):
    """The annotation of a slide has groups that the cohort file does not map; the slide fails."""

    def __init__(self, groups: Sequence[str], slide: str, found: str, expected: str, remedy: str) -> None:
        self.groups = tuple(groups)
        super().__init__(slide, "annotation", found, expected, remedy)

    def __reduce__(self) -> tuple[type[UnmappedGroupsError], tuple[Any, ...]]:
        slide, _, found, expected, remedy = self.parts
        return (UnmappedGroupsError, (self.groups, slide, found, expected, remedy))


def mapped_groups(region_classes: Iterable[str]) -> str:
    """The groups that the cohort file maps, in words."""
    return ", ".join(map(repr, sorted(region_classes))) or "none, for none is mapped"


def unmapped_problem(slides: Mapping[str, Sequence[str]], region_classes: Mapping[str, int]) -> Problem:
    """All groups without a class as one line of `mumo check`; `slides` names the slides that have each group."""
    counted = [f"{name!r} ({len(ids)} slide{'' if len(ids) == 1 else 's'})" for name, ids in sorted(slides.items())]
    more = f" and {len(counted) - _SHOWN_GROUPS} more" if len(counted) > _SHOWN_GROUPS else ""
    return Problem(
        "slides",
        "",
        "annotation",
        f"groups that the cohort file does not map: {', '.join(counted[:_SHOWN_GROUPS])}{more}",
        f"groups among {mapped_groups(region_classes)}",
        'Map them under [slides.region_classes] in the cohort file (areas without a group: "None").',
        groups={name: tuple(ids) for name, ids in sorted(slides.items())},
    )

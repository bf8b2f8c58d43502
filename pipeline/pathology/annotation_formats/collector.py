"""What readers of all formats gather, and what they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from shapely.geometry.base import BaseGeometry

from ..crossings import cannot_be_repaired
from ..remarks import Remark
from ..slides import SlideError

NO_GROUP = "None"
"""Group of an annotation that has none; ASAP's own word for it."""

_AREAS = {"Polygon", "MultiPolygon"}
_MAX_COORDINATE = 1e9
_SHOWN_REMARKS = 10


@dataclass(frozen=True)
class Region:
    """One annotated area."""

    group: str
    """Name of its group (ASAP), layer (ImageScope) or class (QuPath)."""
    area: BaseGeometry
    """Valid polygon or multi-polygon, px at the scale of level 0."""


@dataclass(frozen=True)
class Annotations:
    """The areas of one annotation file, in the order of the file."""

    regions: tuple[Region, ...]
    remarks: tuple[Remark, ...]
    """What was repaired or left out, one sentence each."""


class Collector:
    """Gathers areas while a file is read, and refuses what is wrong with them."""

    def __init__(self, file: str, slide: str, max_vertices: int) -> None:
        self._file = file
        self._slide = slide
        self._max_vertices = max_vertices
        self._vertices = 0
        self._regions: list[Region] = []
        self._remarks: list[Remark] = []

    def count(self, vertices: int) -> None:
        """Count vertices that were read, before they are made anything of."""
        self._vertices += vertices
        if self._vertices > self._max_vertices:
            raise self.refused(
                f"more than {self._max_vertices:,} vertices",
                "fewer",
                "Simplify the polygons, or raise tiles.max_annotation_vertices.",
            )

    def outline(self, number: int, rings: Sequence[Sequence[tuple[float, float]]]) -> BaseGeometry | None:
        """The valid area with that outline (first ring) and those holes (the others); None where it has no extent."""
        rings = [ring for ring in rings if len(set(ring)) >= 3]
        area = shapely.Polygon(rings[0], rings[1:]) if rings else shapely.Polygon()
        if not area.is_valid:
            if cannot_be_repaired(area):
                raise self.refused(
                    f"area {number}, which crosses itself too often to be repaired", "a simple polygon", "Draw it anew."
                )
            try:
                area = polygons_of(shapely.make_valid(area))
            except shapely.errors.ShapelyError as error:
                raise self.refused(f"area {number}, which cannot be repaired", "a polygon", "Draw it anew.") from error
            if area.area > 0:
                self.repaired(f"area {number} crosses or touches itself and was repaired")
        if area.area == 0:
            self.left_out(f"area {number} has no extent and is left out")
            return None
        return area

    def keep(self, group: str, area: BaseGeometry) -> None:
        """Add a valid area."""
        self._regions.append(Region(group, area))

    def add(self, group: str, number: int, rings: Sequence[Sequence[tuple[float, float]]]) -> None:
        """Add the area with that outline (first ring) and those holes (the others), if it has an extent."""
        area = self.outline(number, rings)
        if area is not None:
            self.keep(group, area)

    def point(self, x: Any, y: Any, number: int) -> tuple[float, float]:
        """The coordinates as numbers."""
        for value in (x, y):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < _MAX_COORDINATE:
                raise self.refused(
                    f"a coordinate of area {number} that is no number or too large",
                    "pixels of level 0",
                    "Export it anew.",
                )
        return float(x), float(y)

    def no_area(self, number: int, kind: str) -> None:
        """Say that an object of that type is left out."""
        self.left_out(f"number {number} is of type {kind}, not an area, and is left out")

    def left_out(self, sentence: str) -> None:
        """Keep a sentence about what is not used."""
        self._remarks.append(Remark(f"annotation: {sentence}", "left out"))

    def repaired(self, sentence: str) -> None:
        """Keep a sentence about what is used all the same."""
        self._remarks.append(Remark(f"annotation: {sentence}"))

    def refused(self, found: str, expected: str, remedy: str) -> SlideError:
        """The error that this file cannot be used."""
        return refused(self._slide, f"{found} in {self._file}", expected, remedy)

    def annotations(self) -> Annotations:
        """All that was gathered; of many remarks of a kind the first ones and how many there are."""
        remarks: list[Remark] = []
        for kind in dict.fromkeys(remark.kind for remark in self._remarks):
            alike = [remark for remark in self._remarks if remark.kind == kind]
            remarks += alike[:_SHOWN_REMARKS]
            if len(alike) > _SHOWN_REMARKS:
                more = f"annotation: {len(alike) - _SHOWN_REMARKS} more remarks of this kind"
                remarks.append(Remark(more, kind))
        return Annotations(tuple(self._regions), tuple(remarks))


def refused(slide: str, found: str, expected: str, remedy: str) -> SlideError:
    """The error that an annotation cannot be used."""
    return SlideError(slide, "annotation", found, expected, remedy)


def polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The part of a geometry that has an extent: repair and cuts leave lines and points beside it."""
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in _AREAS]
    return shapely.union_all(parts) if parts else shapely.Polygon()

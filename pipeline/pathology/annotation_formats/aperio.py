"""Aperio ImageScope: `<Annotations>` with an `<Annotation>` a layer, in each `<Region>`s of `<Vertex X Y>`.

No specification of the format is public. What is relied on, and where it was seen:

- X and Y are px of level 0; `Type` of a region is 0 freehand, 1 rectangle, 2 ellipse, 3 arrow: the reader of ImageScope
  files quoted in laclouis5/globox (thread 3 of its tracker). Type 0 where there is none: README of pjl54/WSI_handling.
- An ellipse has two corners of its box as vertices: files in DeepMicroscopy/MITOS_WSI_CCMCT (thread 2), in which `Area`
  and `Length`, which ImageScope computes, are those of the ellipse in that box.
- `NegativeROA="1"` is a hole in the layer's other regions: `xml_to_mask.py` of paip-2019/challenge.
- A layer has its meaning in `Name` or in its `Attribute` "Description", which ncoudray/DeepPATH reads; Aperio's server
  writes "Layer " and the layer's Id where it has no name.

HALO writes a format of the same elements, with other types and `<V>` for a vertex; it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

import shapely
from shapely.geometry.base import BaseGeometry

from ..crossings import MAX_IN_UNION, cannot_be_joined
from .collector import NO_GROUP, Collector, polygons_of
from .numbers import number_in

_FREEHAND, _RECTANGLE, _ELLIPSE = "0", "1", "2"
_NAMES = {"3": " (arrow)"}
_ELLIPSE_VERTICES = 128
"""The polygon covers 99.96 % of the ellipse."""


@dataclass(frozen=True)
class _Drawn:
    """A region of a layer."""

    number: int
    text: str
    area: BaseGeometry


class AperioReader:
    """Reads the elements of an ImageScope file, one vertex at a time, and closes a layer when it is complete."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._number = 0
        self._in_region = False
        self._points: list[tuple[float, float]] = []
        self._areas: list[_Drawn] = []
        self._holes: list[_Drawn] = []
        self._description = ""
        self._nameless: set[str] = set()
        """Line colours of layers with areas that have no group."""

    def start(self, element: Element) -> None:
        """Begin a layer or a region."""
        if element.tag == "Annotation":
            self._areas, self._holes, self._description = [], [], ""
        elif element.tag == "Region":
            self._in_region, self._points = True, []

    def end(self, element: Element) -> None:
        """Take a vertex or a layer's description, or close a region, a layer or the file."""
        if element.tag == "Vertex":
            self._collector.count(1)
            x, y = number_in(element, "X"), number_in(element, "Y")
            self._points.append(self._collector.point(x, y, self._number + 1))
            element.clear()
        elif element.tag == "Attribute" and not self._in_region:
            if element.get("Name", "").casefold() == "description":
                self._description = element.get("Value", "").strip()
        elif element.tag == "Region":
            self._number, self._in_region = self._number + 1, False
            self._close_region(element)
            element.clear()
        elif element.tag == "Annotation":
            self._close_layer(element)
            element.clear()
        elif element.tag == "Annotations" and len(self._nameless) > 1:
            self._collector.repaired(
                f"layers of {len(self._nameless)} line colours have no name, so that all their areas are in the group "
                f"{NO_GROUP!r}; where they mean different things, name the layers in ImageScope"
            )

    def _close_region(self, element: Element) -> None:
        kind = element.get("Type", "").strip() or _FREEHAND
        if not kind.isdecimal():
            raise self._collector.refused(
                f"region {self._number} of type {kind[:40]!r}",
                "the types of Aperio ImageScope, which are numbers",
                "If it is from HALO, whose format looks alike, convert it to GeoJSON.",
            )
        if kind not in (_FREEHAND, _RECTANGLE, _ELLIPSE):
            self._collector.no_area(self._number, f"'{kind[:40]}'{_NAMES.get(kind, '')}")
            return
        ring = self._points
        if kind == _ELLIPSE and ring:
            self._collector.count(_ELLIPSE_VERTICES)
            ring = _ellipse(ring)
        elif kind == _RECTANGLE and len(ring) == 2:
            (left, top), (right, bottom) = ring
            ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
        area = self._collector.outline(self._number, [ring])
        if area is not None:
            drawn = _Drawn(self._number, element.get("Text", "").strip(), area)
            (self._holes if element.get("NegativeROA", "").strip() == "1" else self._areas).append(drawn)

    def _close_layer(self, element: Element) -> None:
        """Keep the layer's areas without its holes, each in its group."""
        name = element.get("Name", "").strip()
        meant = "" if name == f"Layer {element.get('Id', '')}" else name
        for drawn in self._without_holes():
            group = meant or self._description or drawn.text or name or NO_GROUP
            if group == NO_GROUP:
                self._nameless.add(element.get("LineColor", ""))
            self._collector.keep(group, drawn.area)

    def _without_holes(self) -> Sequence[_Drawn]:
        """The layer's areas, each without the holes that reach into it."""
        if not self._holes:
            return self._areas
        holes = [hole.area for hole in self._holes]
        kept = []
        used: set[int] = set()
        for drawn, cutting in zip(self._areas, self._meetings(holes), strict=True):
            used.update(cutting)
            rest = drawn.area
            if cutting:
                rest = polygons_of(shapely.difference(rest, shapely.union_all([holes[k] for k in cutting])))
            if rest.area == 0:
                self._collector.left_out(f"area {drawn.number} lies in holes of its layer and is left out")
            else:
                kept.append(_Drawn(drawn.number, drawn.text, rest))
        for k, hole in enumerate(self._holes):
            if k not in used:
                self._collector.left_out(f"area {hole.number}, a hole, lies in no area of its layer and cuts nothing")
        return kept

    def _meetings(self, holes: Sequence[BaseGeometry]) -> list[list[int]]:
        """For each of the layer's areas which holes meet it; refused where that is too much to be cut out."""
        tree, found, count = shapely.STRtree(holes), [], 0
        tangled = cannot_be_joined([*holes, *(drawn.area for drawn in self._areas)])
        for drawn in self._areas:
            if tangled or count > MAX_IN_UNION:
                what = f"a layer, before region {self._number + 1}, whose areas and holes cross each other too often"
                raise self._collector.refused(what, "outlines of regions", "Join or simplify the areas.")
            found.append(tree.query(drawn.area, predicate="intersects").tolist())
            count += len(found[-1])
        return found


def _ellipse(corners: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Vertices of the ellipse in the box of those points."""
    xs, ys = zip(*corners, strict=True)
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    a, b = (max(xs) - min(xs)) / 2, (max(ys) - min(ys)) / 2
    turns = (2 * math.pi * k / _ELLIPSE_VERTICES for k in range(_ELLIPSE_VERTICES))
    return [(x + a * math.cos(turn), y + b * math.sin(turn)) for turn in turns]

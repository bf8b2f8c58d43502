"""ASAP: `<ASAP_Annotations>` with `<Annotation Type PartOfGroup>`, in each `<Coordinate Order X Y>`.

Coordinates are px of level 0.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

from .collector import NO_GROUP, Collector
from .numbers import number_in

_AREAS = {"polygon", "spline", "rectangle"}


class AsapReader:
    """Reads the elements of an ASAP file, one coordinate at a time."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._points: list[tuple[float, tuple[float, float]]] = []
        self._number = 0

    def start(self, element: Element) -> None:
        """Nothing: all is known at the ends."""

    def end(self, element: Element) -> None:
        """Take a coordinate, or close an area."""
        if element.tag == "Coordinate":
            self._take(element)
            element.clear()
        elif element.tag == "Annotation":
            self._number += 1
            self._close(element)
            self._points.clear()
            element.clear()

    def _take(self, element: Element) -> None:
        number = self._number + 1
        self._collector.count(1)
        order = number_in(element, "Order") if "Order" in element.attrib else float(len(self._points))
        place = self._collector.point(number_in(element, "X"), number_in(element, "Y"), number)
        self._points.append((self._collector.point(order, 0, number)[0], place))

    def _close(self, element: Element) -> None:
        kind = element.get("Type", "")
        if kind.lower() not in _AREAS:
            self._collector.no_area(self._number, repr(kind[:40]))
            return
        ring = [point for _, point in sorted(self._points, key=lambda item: item[0])]
        if kind.lower() == "rectangle" and len(ring) == 2:
            (left, top), (right, bottom) = ring
            ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
        self._collector.add(element.get("PartOfGroup") or NO_GROUP, self._number, [ring])

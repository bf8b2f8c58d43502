"""Annotation files: polygons of ASAP (XML) and QuPath (GeoJSON) with the classes of their groups.

Coordinates are those of the file: pixels of level 0, but for what `geojson_frame` says of QuPath.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import shapely
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse
from shapely.geometry.base import BaseGeometry

from ...config import TilesSettings
from .crossings import cannot_be_repaired
from .slides import SlideError

NO_GROUP = "None"
"""Group of an annotation that has none; ASAP's own word for it."""

GEOJSON_SUFFIXES = (".geojson", ".json")
_AREAS_ASAP = {"polygon", "spline", "rectangle"}
_AREAS_GEOJSON = {"Polygon", "MultiPolygon"}
_GEOMETRIES_GEOJSON = _AREAS_GEOJSON | {"Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"}
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d{1,3})?")
_MAX_COORDINATE = 1e9


@dataclass(frozen=True)
class Region:
    """One annotated area."""

    group: str
    """Name of its group (ASAP) or class (QuPath)."""
    area: BaseGeometry
    """Valid polygon or multi-polygon, px at the scale of level 0."""


@dataclass(frozen=True)
class Annotations:
    """The areas of one annotation file, in the order of the file."""

    regions: tuple[Region, ...]
    notes: tuple[str, ...]
    """What was repaired or left out, one sentence each."""


def read_annotations(path: Path, slide: str, settings: TilesSettings) -> Annotations:
    """Areas of an annotation file: ASAP XML where it ends in `.xml`, GeoJSON where in `.geojson` or `.json`.

    Points, lines and measurements are left out with a note, as are areas without extent; areas that cross
    themselves are repaired with a note.

    Raises:
        SlideError: the file is missing, too large, of another kind, or damaged; or a coordinate is no number.
    """
    readers = {".xml": _read_asap, **dict.fromkeys(GEOJSON_SUFFIXES, _read_geojson)}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise _refused(slide, f"{path.name}", "an ASAP file (.xml) or a QuPath file (.geojson)", "Export it anew.")
    if not path.is_file():
        raise _refused(slide, f"no file {path.name}", "an annotation file", "Correct the path, or leave it empty.")
    size = path.stat().st_size
    if size > settings.max_annotation_bytes:
        raise _refused(
            slide,
            f"{path.name} with {size:,} bytes",
            f"at most {settings.max_annotation_bytes:,}",
            "Simplify the polygons, or raise tiles.max_annotation_bytes.",
        )
    collector = _Collector(path.name, slide, settings.max_annotation_vertices)
    try:
        reader(path, collector)
    except OSError as error:
        raise _refused(slide, f"{path.name}, which cannot be read", "a readable file", "Check its rights.") from error
    return collector.annotations()


def classify(annotations: Annotations, region_classes: Mapping[str, int], slide: str) -> list[tuple[int, BaseGeometry]]:
    """The areas with the classes of their groups, in the order of the file.

    Raises:
        SlideError: a group that the cohort file does not map.
    """
    unmapped = sorted({region.group for region in annotations.regions} - set(region_classes))
    if unmapped:
        raise SlideError(
            slide,
            "annotation",
            f"the groups {', '.join(map(repr, unmapped))}, which the cohort file does not map",
            f"groups among {', '.join(map(repr, sorted(region_classes))) or 'none, for none is mapped'}",
            'Map them under [slides.region_classes] in the cohort file (areas without a group: "None").',
        )
    return [(region_classes[region.group], region.area) for region in annotations.regions]


def check_place(annotations: Annotations, size_level0: tuple[int, int], slide: str) -> tuple[str, ...]:
    """Warnings about areas that reach over the edge of the slide, or that there are none.

    Raises:
        SlideError: no area touches the slide: the annotation belongs to another slide or another scale.
    """
    image = shapely.box(0, 0, *size_level0)
    outside = partly = 0
    for region in annotations.regions:
        share = shapely.intersection(region.area, image).area / region.area.area
        outside += share == 0
        partly += 0 < share < 1 - 1e-3
    if annotations.regions and outside == len(annotations.regions):
        bounds = shapely.union_all([region.area for region in annotations.regions]).bounds
        raise SlideError(
            slide,
            "annotation",
            f"all {outside} areas outside the slide, between ({bounds[0]:.0f}, {bounds[1]:.0f}) and "
            f"({bounds[2]:.0f}, {bounds[3]:.0f})",
            f"areas within {size_level0[0]} × {size_level0[1]} px of level 0",
            "Check that the annotation belongs to this slide and was drawn at full resolution.",
        )
    warnings = []
    if not annotations.regions:
        warnings.append("annotation: it holds no area, so the slide has no bags")
    if outside:
        warnings.append(f"annotation: {outside} of {len(annotations.regions)} areas lie outside the slide")
    if partly:
        warnings.append(f"annotation: {partly} areas reach over the edge of the slide and are cut there")
    return tuple(warnings)


class _Collector:
    """Gathers areas while a file is read, and refuses what is wrong with them."""

    def __init__(self, file: str, slide: str, max_vertices: int) -> None:
        self._file = file
        self._slide = slide
        self._max_vertices = max_vertices
        self._vertices = 0
        self._regions: list[Region] = []
        self._notes: list[str] = []

    def count(self, vertices: int) -> None:
        """Count vertices that were read, before they are made anything of."""
        self._vertices += vertices
        if self._vertices > self._max_vertices:
            raise self.refused(
                f"more than {self._max_vertices:,} vertices",
                "fewer",
                "Simplify the polygons, or raise tiles.max_annotation_vertices.",
            )

    def add(self, group: str, number: int, rings: Sequence[Sequence[tuple[float, float]]]) -> None:
        """Add the area with that outline (first ring) and those holes (the others)."""
        rings = [ring for ring in rings if len(set(ring)) >= 3]
        area = shapely.Polygon(rings[0], rings[1:]) if rings else shapely.Polygon()
        if not area.is_valid:
            if cannot_be_repaired(area):
                raise self.refused(
                    f"area {number}, which crosses itself too often to be repaired", "a simple polygon", "Draw it anew."
                )
            try:
                area = _polygons_of(shapely.make_valid(area))
            except shapely.errors.ShapelyError as error:
                raise self.refused(f"area {number}, which cannot be repaired", "a polygon", "Draw it anew.") from error
            self.note(f"area {number} crosses or touches itself and was repaired")
        if area.area == 0:
            self.note(f"area {number} has no extent and is left out")
        else:
            self._regions.append(Region(group, area))

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

    def note(self, sentence: str) -> None:
        """Keep a sentence for the user."""
        self._notes.append(f"annotation: {sentence}")

    def refused(self, found: str, expected: str, remedy: str) -> SlideError:
        """The error that this file cannot be used."""
        return _refused(self._slide, f"{found} in {self._file}", expected, remedy)

    def annotations(self) -> Annotations:
        """All that was gathered; of many notes the first ones and how many there are."""
        notes = self._notes
        if len(notes) > 10:
            notes = [*notes[:10], f"annotation: {len(self._notes) - 10} more notes of this kind"]
        return Annotations(tuple(self._regions), tuple(notes))


def _refused(slide: str, found: str, expected: str, remedy: str) -> SlideError:
    return SlideError(slide, "annotation", found, expected, remedy)


def _read_asap(path: Path, collector: _Collector) -> None:
    """ASAP: `<Annotation Type PartOfGroup>` with `<Coordinate Order X Y>` in it, read one coordinate at a time."""
    points: list[tuple[float, tuple[float, float]]] = []
    number, root = 0, ""
    try:
        with path.open("rb") as stream:
            for event, element in iterparse(stream, events=("start", "end"), forbid_dtd=True):
                root = root or element.tag
                if root != "ASAP_Annotations":
                    raise collector.refused(f"<{root[:40]}>", "<ASAP_Annotations>", "Export it from ASAP.")
                if event == "end" and element.tag == "Coordinate":
                    collector.count(1)
                    order = _plain_number(element.get("Order", str(len(points))))
                    place = collector.point(
                        _plain_number(element.get("X")), _plain_number(element.get("Y")), number + 1
                    )
                    points.append((collector.point(order, 0, number + 1)[0], place))
                    element.clear()
                elif event == "end" and element.tag == "Annotation":
                    number += 1
                    _add_asap(element, number, points, collector)
                    points.clear()
                    element.clear()
    except DefusedXmlException as error:
        raise collector.refused(
            "a document type or entities", "plain XML, for safety", "Remove the declaration."
        ) from error
    except (ParseError, UnicodeError, ValueError) as error:
        raise collector.refused(f"no well-formed XML ({error})", "an ASAP file", "Export it anew.") from error


def _add_asap(
    element: Element, number: int, points: Sequence[tuple[float, tuple[float, float]]], collector: _Collector
) -> None:
    kind = element.get("Type", "")
    if kind.lower() not in _AREAS_ASAP:
        collector.note(f"number {number} is of type {kind[:40]!r}, not an area, and is left out")
        return
    ring = [point for _, point in sorted(points, key=lambda item: item[0])]
    if kind.lower() == "rectangle" and len(ring) == 2:
        (left, top), (right, bottom) = ring
        ring = [(left, top), (right, top), (right, bottom), (left, bottom)]
    collector.add(element.get("PartOfGroup") or NO_GROUP, number, [ring])


def _plain_number(text: str) -> float | None:
    """A number, its decimal point perhaps a comma, as some locales write it; none for anything else."""
    stripped = text.strip()
    return float(stripped.replace(",", ".")) if _NUMBER.fullmatch(stripped) else None


def _read_geojson(path: Path, collector: _Collector) -> None:
    """GeoJSON as QuPath writes it: a FeatureCollection, a Feature, a geometry, or a list of features or geometries."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise collector.refused("no well-formed JSON", "GeoJSON in UTF-8", "Export it anew.") from error
    if isinstance(document, dict) and document.get("crs") is not None:
        raise collector.refused("a coordinate system (crs)", "pixels of level 0", "Export it from QuPath.")
    for number, (group, geometry) in enumerate(_features(document, collector), start=1):
        _add_geometry(group, number, geometry, collector)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _features(document: Any, collector: _Collector) -> Iterator[tuple[str, Any]]:
    """Group and geometry of every feature."""
    entries = document.get("features") if _type_of(document) == "FeatureCollection" else document
    for entry in entries if isinstance(entries, list) else [entries]:
        kind = _type_of(entry)
        if kind == "Feature":
            properties = entry.get("properties")
            yield _class_name(properties if isinstance(properties, dict) else {}), entry.get("geometry")
        elif kind in _GEOMETRIES_GEOJSON:
            yield NO_GROUP, entry
        else:
            raise collector.refused(f"an entry of type {kind[:40]!r}", "GeoJSON features", "Export it anew.")


def _type_of(entry: Any) -> str:
    """What a piece of GeoJSON says it is; the kind of JSON where it says nothing."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    return kind if isinstance(kind, str) else type(entry).__name__


def _class_name(properties: Mapping[str, Any]) -> str:
    """QuPath's class of an object: {"classification": {"name": ...}}, or the bare name."""
    classification = properties.get("classification")
    if isinstance(classification, dict):
        classification = classification.get("name")
    return classification if isinstance(classification, str) and classification else NO_GROUP


def _add_geometry(group: str, number: int, geometry: Any, collector: _Collector) -> None:
    kind = _type_of(geometry)
    if kind not in _AREAS_GEOJSON:
        if kind not in _GEOMETRIES_GEOJSON:
            raise collector.refused(f"a geometry of type {kind[:40]!r}", "polygons", "Export it anew.")
        collector.note(f"number {number} is of type {kind!r}, not an area, and is left out")
        return
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    try:
        parts = [[[(point[0], point[1]) for point in ring] for ring in polygon] for polygon in polygons]
    except (TypeError, IndexError, KeyError) as error:
        raise collector.refused(f"area {number} without coordinates", "rings of [x, y]", "Export it anew.") from error
    collector.count(sum(len(ring) for rings in parts for ring in rings))
    for rings in parts:
        collector.add(group, number, [[collector.point(x, y, number) for x, y in ring] for ring in rings])


def _polygons_of(geometry: BaseGeometry) -> BaseGeometry:
    """The part of a geometry that has an extent: repair leaves lines and points beside it."""
    parts = [part for part in shapely.get_parts(geometry) if part.geom_type in _AREAS_GEOJSON]
    return shapely.union_all(parts) if parts else shapely.Polygon()

"""GeoJSON as QuPath writes it.

Coordinates are px at the scale of level 0; where they count from, `geojson_frame` knows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .collector import NO_GROUP, Collector

_AREAS = {"Polygon", "MultiPolygon"}
_GEOMETRIES = _AREAS | {"Point", "MultiPoint", "LineString", "MultiLineString", "GeometryCollection"}


def read_geojson(path: Path, collector: Collector) -> None:
    """Read a FeatureCollection, a Feature, a geometry, or a list of features or geometries.

    Raises:
        SlideError: it is no GeoJSON, names a coordinate system, or holds what is no geometry.
        OSError: it cannot be read.
    """
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


def _features(document: Any, collector: Collector) -> Iterator[tuple[str, Any]]:
    """Group and geometry of every feature."""
    entries = document.get("features") if _type_of(document) == "FeatureCollection" else document
    for entry in entries if isinstance(entries, list) else [entries]:
        kind = _type_of(entry)
        if kind == "Feature":
            properties = entry.get("properties")
            yield _class_name(properties if isinstance(properties, dict) else {}), entry.get("geometry")
        elif kind in _GEOMETRIES:
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


def _add_geometry(group: str, number: int, geometry: Any, collector: Collector) -> None:
    kind = _type_of(geometry)
    if kind not in _AREAS:
        if kind not in _GEOMETRIES:
            raise collector.refused(f"a geometry of type {kind[:40]!r}", "polygons", "Export it anew.")
        collector.no_area(number, repr(kind))
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

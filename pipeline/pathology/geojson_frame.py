"""Where GeoJSON counts from: not always the corner of level 0.

MIRAX, Leica SCN and some other files name the area that was scanned, and QuPath cuts slides to it and counts from its
corner (`openslide.bounds-x`, `-y`), unless the slide is opened with `--no-crop`. No file of its says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from shapely import affinity

from ...config import TilesSettings
from .annotation_formats.collector import Annotations
from .annotations import GEOJSON_SUFFIXES
from .remarks import Remark

SCANNED_CORNER = "scanned_corner_level0"
"""What the summary of a `tiles` item calls the corner (x, y) of the scanned area, px of level 0."""


def geojson_corner(scanned_corner_level0: tuple[int, int], tiles: TilesSettings) -> tuple[int, int]:
    """The place (x, y) that GeoJSON calls (0, 0), px of level 0."""
    return scanned_corner_level0 if tiles.geojson_origin == "scanned" else (0, 0)


def geojson_corner_of(summary: Mapping[str, Any], tiles: TilesSettings) -> tuple[int, int]:
    """The same for a stored slide, from the summary of its `tiles` record."""
    x, y = summary.get(SCANNED_CORNER, (0, 0))
    return geojson_corner((int(x), int(y)), tiles)


def to_level0(
    annotations: Annotations, path: Path, scanned_corner_level0: tuple[int, int], tiles: TilesSettings
) -> Annotations:
    """Annotations of a file, moved to pixels of level 0, with a remark where the file could mean another frame."""
    if path.suffix.lower() not in GEOJSON_SUFFIXES or scanned_corner_level0 == (0, 0):
        return annotations
    x, y = geojson_corner(scanned_corner_level0, tiles)
    if (x, y) == (0, 0):
        said = (
            "annotation: counted from the corner of level 0, as tiles.geojson_origin says; this slide names a scanned "
            f"area from {scanned_corner_level0} on, and QuPath counts from there unless opened with --no-crop"
        )
    else:
        said = (
            f"annotation: counted from ({x}, {y}) px of level 0, the corner of the scanned area, as QuPath does; look "
            "at quality.png, and if it was drawn with --no-crop or by another program, set tiles.geojson_origin=level0"
        )
    moved = tuple(replace(region, area=affinity.translate(region.area, x, y)) for region in annotations.regions)
    return Annotations(moved, (*annotations.remarks, Remark(said)))

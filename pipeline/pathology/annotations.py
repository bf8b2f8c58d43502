"""Annotation files, read by `annotation_formats`: their areas, the classes of their groups, and whether they fit the
slide.

Coordinates are those of the file: pixels of level 0, but for what `geojson_frame` says of QuPath.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import shapely
from shapely.geometry.base import BaseGeometry

from ...config import TilesSettings
from .annotation_formats.collector import Annotations, Collector, refused
from .annotation_formats.geojson import read_geojson
from .annotation_formats.xml import read_xml
from .groups import UnmappedGroupsError, mapped_groups
from .remarks import Remark
from .slides import SlideError

GEOJSON_SUFFIXES = (".geojson", ".json")


def read_annotations(path: Path, slide: str, settings: TilesSettings) -> Annotations:
    """Areas of an annotation file: ASAP's or ImageScope's where it ends in `.xml`, GeoJSON in `.geojson` or `.json`.

    Points, lines and measurements are left out with a remark, as are areas without extent; areas that cross
    themselves are repaired with a remark.

    Raises:
        SlideError: the file is missing, too large, of another kind, or damaged; or a coordinate is no number.
    """
    readers = {".xml": read_xml, **dict.fromkeys(GEOJSON_SUFFIXES, read_geojson)}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        expected = "a file of ASAP or Aperio ImageScope (.xml), of QuPath (.geojson), or a label image"
        raise refused(slide, path.name, expected, "Export it anew.")
    if not path.is_file():
        raise refused(slide, f"no file {path.name}", "an annotation file", "Correct the path, or leave it empty.")
    size = path.stat().st_size
    if size > settings.max_annotation_bytes:
        raise refused(
            slide,
            f"{path.name} with {size:,} bytes",
            f"at most {settings.max_annotation_bytes:,}",
            "Simplify the polygons, or raise tiles.max_annotation_bytes.",
        )
    collector = Collector(path.name, slide, settings.max_annotation_vertices)
    try:
        reader(path, collector)
    except OSError as error:
        raise refused(slide, f"{path.name}, which cannot be read", "a readable file", "Check its rights.") from error
    return collector.annotations()


def classify(annotations: Annotations, region_classes: Mapping[str, int], slide: str) -> list[tuple[int, BaseGeometry]]:
    """The areas with the classes of their groups, in the order of the file.

    Raises:
        UnmappedGroupsError: a group that the cohort file does not map.
    """
    unmapped = sorted({region.group for region in annotations.regions} - set(region_classes))
    if unmapped:
        raise UnmappedGroupsError(
            unmapped,
            slide,
            f"the groups {', '.join(map(repr, unmapped))}, which the cohort file does not map",
            f"groups among {mapped_groups(region_classes)}",
            'Map them under [slides.region_classes] in the cohort file (areas without a group: "None").',
        )
    return [(region_classes[region.group], region.area) for region in annotations.regions]


def check_place(annotations: Annotations, size_level0: tuple[int, int], slide: str) -> tuple[Remark, ...]:
    """Remarks on areas that reach over the edge of the slide, or that there are none.

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
    remarks = []
    if not annotations.regions:
        remarks.append(Remark("annotation: it holds no area, so the slide has no bags", "no bags"))
    if outside:
        said = f"annotation: {outside} of {len(annotations.regions)} areas lie outside the slide"
        remarks.append(Remark(said, "left out"))
    if partly:
        remarks.append(Remark(f"annotation: {partly} areas reach over the edge of the slide and are cut there"))
    return tuple(remarks)

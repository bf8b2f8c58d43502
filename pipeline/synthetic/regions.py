"""Annotated regions of synthetic slides, and their files as ASAP and QuPath write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
import shapely

from .noise import Field
from .tissue import Piece

GROUP_CLASSES: Mapping[str, int] = {"HER2 0/1+": 1, "HER2 2+": 1, "HER2 2+ FISH+": 2, "HER2 3+": 3, "Normal mucosa": 0}
"""Annotation group → region class, as in the cohort file; several groups share a class."""

_GROUP_COLOURS = ("#4575B4", "#91BFDB", "#FEE090", "#D73027", "#AAAAAA")
_TUMOUR_GROUPS = tuple(group for group, region_class in GROUP_CLASSES.items() if region_class)
_GROUP_SHARES = (0.25, 0.2, 0.15, 0.4)


@dataclass(frozen=True)
class Region:
    """One annotated polygon."""

    group: str
    polygon: shapely.Polygon
    """Corners in µm from the top left corner of the slide."""


def draw_regions(rng: np.random.Generator, piece: Piece, hole: bool) -> tuple[Region, ...]:
    """One or two tumour regions that fill the piece, sometimes with a strip of normal mucosa at its edge.

    With `hole`, the largest region leaves out a round area, as around necrosis.
    """
    left, top, right, bottom = (
        float(value) for value in (*piece.outline_um.min(axis=0), *piece.outline_um.max(axis=0))
    )
    tumour = shapely.Polygon(piece.outline_um).buffer(-8.0)
    regions: list[Region] = []
    if rng.random() < 0.25:
        strip_um = rng.uniform(70, 110)
        mucosa = shapely.intersection(tumour, shapely.box(left, bottom - strip_um, right, bottom))
        tumour = shapely.difference(tumour, shapely.box(left, bottom - strip_um - 4.0, right, bottom))
        regions += [Region("Normal mucosa", part) for part in _polygons(mucosa)]
    groups = rng.choice(_TUMOUR_GROUPS, size=2, replace=False, p=_GROUP_SHARES)
    parts = [tumour]
    if rng.random() < 0.45:
        across = left + (right - left) * rng.uniform(0.4, 0.6)
        halves = shapely.box(left, top, across, bottom), shapely.box(across + 3.0, top, right, bottom)
        parts = [shapely.intersection(tumour, half) for half in halves]
    if hole:
        centre = parts[0].representative_point()
        parts[0] = shapely.difference(parts[0], centre.buffer(rng.uniform(60, 90), quad_segs=6))
    for group, part in zip(groups, parts, strict=False):
        regions += [Region(str(group), polygon) for polygon in _polygons(part)]
    return tuple(regions)


def _polygons(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """Polygons of a geometry, without slivers."""
    parts = shapely.get_parts(shape)
    return [part for part in parts if isinstance(part, shapely.Polygon) and part.area > 2000.0]


def eosin_by_class(regions: Sequence[Region], piece: Piece, shape: tuple[int, int]) -> Field:
    """Factor (height, width) on the eosin of tumour cells: the higher the class, the pinker, so it can be learnt."""
    factor = np.ones(shape, dtype=np.float32)
    scale = shape[1] / piece.width_um
    y, x = np.mgrid[4 : shape[0] : 8, 4 : shape[1] : 8]
    for region in regions:
        inside = shapely.contains_xy(region.polygon, x / scale, y / scale)
        # Blocks of 8 px are fine enough for a change of shade.
        blocks = np.repeat(np.repeat(inside, 8, axis=0), 8, axis=1)
        blocks = np.pad(blocks, ((0, 8), (0, 8)), mode="edge")[: shape[0], : shape[1]]
        factor[blocks] = 0.82 + 0.2 * GROUP_CLASSES[region.group]
    return factor


def write_asap(file: Path, regions: Sequence[Region], mpp: float) -> None:
    """Write regions as ASAP does: one XML element a polygon, coordinates in pixels of level 0, one group a class.

    ASAP knows no holes; regions written here must not have any.
    """
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "\t<Annotations>"]
    for number, region in enumerate(regions):
        colour = _GROUP_COLOURS[list(GROUP_CLASSES).index(region.group)]
        lines.append(
            f'\t\t<Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup={quoteattr(region.group)} '
            f'Color="{colour}">'
        )
        lines.append("\t\t\t<Coordinates>")
        for order, (x, y) in enumerate(_corners_px(region.polygon.exterior, mpp)[:-1]):
            lines.append(f'\t\t\t\t<Coordinate Order="{order}" X="{x}" Y="{y}" />')
        lines += ["\t\t\t</Coordinates>", "\t\t</Annotation>"]
    lines += ["\t</Annotations>", "\t<AnnotationGroups>"]
    for group, colour in zip(GROUP_CLASSES, _GROUP_COLOURS, strict=True):
        lines.append(f'\t\t<Group Name={quoteattr(group)} PartOfGroup="None" Color="{colour}">')
        lines += ["\t\t\t<Attributes />", "\t\t</Group>"]
    lines += ["\t</AnnotationGroups>", "</ASAP_Annotations>", ""]
    file.write_text("\n".join(lines), encoding="utf-8")


def write_qupath(file: Path, regions: Sequence[Region], mpp: float) -> None:
    """Write regions as QuPath does: a GeoJSON feature a polygon, coordinates in pixels of level 0, holes as rings."""
    features = [
        {
            "type": "Feature",
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    _corners_px(ring, mpp) for ring in (region.polygon.exterior, *region.polygon.interiors)
                ],
            },
            "properties": {
                "objectType": "annotation",
                "classification": {"name": region.group, "color": [215, 48, 39]},
                "isLocked": False,
            },
        }
        for number, region in enumerate(regions)
    ]
    file.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=1) + "\n", encoding="utf-8")


def _corners_px(ring: shapely.LinearRing, mpp: float) -> list[list[float]]:
    """Corners (n, 2) of a closed ring in pixels of level 0, to a hundredth."""
    corners: npt.NDArray[np.float64] = shapely.get_coordinates(ring) / mpp
    return [[round(float(x), 2), round(float(y), 2)] for x, y in corners]

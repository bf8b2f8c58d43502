"""The bags of a store as annotations, so that a pathologist can look at them over the slide in QuPath or ASAP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from ...config import TilesSettings
from ...errors import ConfigError
from ...stores import tables
from ...stores.records import Store
from ...stores.specs import BAGS
from .geojson_frame import geojson_corner_of
from .quality import CLASS_COLOURS

Row = Mapping[str, Any]


def export_bags(store: Store, out: Path, tiles: TilesSettings) -> list[Path]:
    """Write every slide's bags as `OUT/slide-<id>.geojson` (QuPath) and `.xml` (ASAP); returns the files.

    Coordinates are pixels of level 0, in GeoJSON counted from where `tiles.geojson_origin` says. A bag's class becomes
    its group: `class 0` to `class 3`, or `bag` where the slide has no annotation.

    Raises:
        ConfigError: `out` exists and is not an empty folder.
        StoreError: a table of bags cannot be read.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: exists and is no empty folder; choose another one")
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for item, record in store.records("tiles").items():
        if "bags.parquet" not in record.parts:
            continue
        rows = tables.read_rows(store.part("tiles", item, "bags.parquet"), BAGS)
        corner = geojson_corner_of(record.summary, tiles)
        for suffix, text in (("geojson", qupath_text(rows, corner)), ("xml", asap_text(rows))):
            files.append(out / f"{item}.{suffix}")
            files[-1].write_text(text, encoding="utf-8")
    return files


def qupath_text(rows: Sequence[Row], corner: tuple[int, int] = (0, 0)) -> str:
    """GeoJSON that QuPath imports: one annotation a bag, with its shares as measurements.

    `corner`: the place (x, y) that it calls (0, 0), px of level 0.
    """

    def ring(row: Row) -> list[tuple[float, float]]:
        points = [(x - corner[0], y - corner[1]) for x, y in corners(row)]
        return [*points, points[0]]

    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring(row)]},
            "properties": {
                "objectType": "annotation",
                "name": f"bag {row['bag']}",
                "classification": {"name": _group(row), "color": list(_colour(row))},
                "measurements": {
                    "region_share": float(row["region_share"]),
                    "tissue_share": float(row["tissue_share"]),
                },
                "isLocked": True,
            },
        }
        for row in rows
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1)


def asap_text(rows: Sequence[Row]) -> str:
    """ASAP's XML: one polygon a bag, in the group of its class."""
    annotations, groups = [], {}
    for row in rows:
        groups[_group(row)] = "#{:02x}{:02x}{:02x}".format(*_colour(row))
        points = "".join(
            f'<Coordinate Order="{order}" X="{x!r}" Y="{y!r}"/>' for order, (x, y) in enumerate(corners(row))
        )
        annotations.append(
            f'<Annotation Name="bag {row["bag"]}" Type="Polygon" PartOfGroup={quoteattr(_group(row))} '
            f'Color="{groups[_group(row)]}"><Coordinates>{points}</Coordinates></Annotation>'
        )
    named = "".join(
        f'<Group Name={quoteattr(name)} PartOfGroup="None" Color="{colour}"><Attributes/></Group>'
        for name, colour in sorted(groups.items())
    )
    return (
        '<?xml version="1.0"?>\n<ASAP_Annotations>\n<Annotations>\n'
        + "\n".join(annotations)
        + f"\n</Annotations>\n<AnnotationGroups>{named}</AnnotationGroups>\n</ASAP_Annotations>\n"
    )


def corners(row: Row) -> list[tuple[float, float]]:
    """The four corners of a bag from the upper left one on, clockwise on the screen; px of level 0."""
    left, top, side = float(row["x_level0"]), float(row["y_level0"]), float(row["size_level0"])
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


def _group(row: Row) -> str:
    return "bag" if row["region_class"] < 0 else f"class {row['region_class']}"


def _colour(row: Row) -> tuple[int, int, int]:
    return CLASS_COLOURS[max(int(row["region_class"]), 0)]

"""Annotation files as Aperio ImageScope writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEADERS = (
    '<RegionAttributeHeaders><AttributeHeader Id="1" Name="Description" ColumnWidth="-1"/></RegionAttributeHeaders>'
)


def aperio(*layers: str) -> str:
    """A file of those layers."""
    return f'<Annotations MicronsPerPixel="0.5">{"".join(layers)}</Annotations>'


def layer(
    *regions: str, name: str | None = "Tumor", description: str = "", colour: int = 65280, number: int = 1
) -> str:
    """A layer of those regions."""
    named = "" if name is None else f'Name="{name}"'
    attributes = f'<Attributes><Attribute Name="Description" Id="0" Value="{description}"/></Attributes>'
    return (
        f'<Annotation Id="{number}" {named} ReadOnly="0" Type="4" LineColor="{colour}" Visible="1">{attributes}'
        f"<Regions>{_HEADERS}{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def drawn(points: Sequence[tuple[Any, Any]], kind: str | None = "0", *, negative: bool = False, text: str = "") -> str:
    """A region with those vertices; `kind` is ImageScope's number of its type."""
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    typed = "" if kind is None else f'Type="{kind}"'
    attributes = '<Attributes><Attribute Name="Description" Id="9" Value="of the region"/></Attributes>'
    return (
        f'<Region Id="1" {typed} Zoom="1" Text="{text}" NegativeROA="{int(negative)}" Analyze="1">{attributes}'
        f"<Vertices>{vertices}</Vertices></Region>"
    )

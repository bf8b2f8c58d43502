"""Regions of a slide: the classes that polygons or a label image give to places.

Coordinates are pixels of level 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, UnidentifiedImageError
from shapely.geometry.base import BaseGeometry

from ...config import TilesSettings
from ..jit import compiled
from .groups import UnmappedGroupsError, mapped_groups
from .remarks import Remark
from .slides import SlideError

LABEL_SUFFIXES = (".png", ".tif", ".tiff")
"""Endings of annotations that are label images."""

_LABEL_MODES = ("1", "L", "P", "I;16", "I")
_SHAPE_TOLERANCE = 0.01


class PolygonRegions:
    """Region classes of places, from areas with classes. Places that are in no area, or in one of class 0, have 0.

    Overlaps are settled by `region_priority`: the highest class, the lowest, or that of the area drawn last.
    """

    def __init__(
        self,
        areas: Sequence[tuple[int, BaseGeometry]],
        size_level0: tuple[int, int],
        priority: Literal["highest", "lowest", "last"],
    ) -> None:
        """Keep the areas (class, px of level 0), in the order in which they were drawn, cut to the slide's size."""
        slide = shapely.box(0, 0, *size_level0)
        cut = [(kind, shapely.intersection(area, slide)) for kind, area in areas]
        layers = [(kind, area) for kind, area in _layers(cut, priority) if area.area > 0]
        self._layers = [(kind, _edges(area)) for kind, area in layers]
        inside = shapely.union_all([area for kind, area in layers if kind > 0])
        self.bounds_level0: tuple[float, float, float, float] | None = None if inside.is_empty else inside.bounds
        """Left, top, right, bottom of all areas of a class above 0, px of level 0; none where there are none."""

    def class_map(
        self, x_level0: float, y_level0: float, step_level0: float, shape: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """Classes at the centres of a grid of `shape` (y, x) squares of side `step_level0` whose upper left corner
        is (x_level0, y_level0)."""
        classes = np.zeros(shape, np.uint8)
        top, bottom = y_level0, y_level0 + shape[0] * step_level0
        for kind, edges in self._layers:
            near = edges[(edges[:, 1] <= bottom) & (edges[:, 3] >= top)]
            if len(near):
                inside = np.zeros(shape, np.bool_)
                _fill(near, x_level0, y_level0, step_level0, inside)
                classes[inside] = kind
        return classes


class LabelRegions:
    """Region classes of places from a picture of classes that covers the whole slide, whatever its size."""

    def __init__(self, classes: npt.NDArray[np.uint8], size_level0: tuple[int, int]) -> None:
        """Keep `classes` (y, x), which cover a slide of `size_level0` (width, height)."""
        self._classes = classes
        self._step_x, self._step_y = size_level0[0] / classes.shape[1], size_level0[1] / classes.shape[0]

    @property
    def bounds_level0(self) -> tuple[float, float, float, float] | None:
        """Left, top, right, bottom of all places of a class above 0, px of level 0; none where there are none."""
        columns, rows = (np.flatnonzero((self._classes > 0).any(axis=axis)) for axis in (0, 1))
        if not len(rows):
            return None
        left, right = (float(column) * self._step_x for column in (columns[0], columns[-1] + 1))
        top, bottom = (float(row) * self._step_y for row in (rows[0], rows[-1] + 1))
        return left, top, right, bottom

    def class_map(
        self, x_level0: float, y_level0: float, step_level0: float, shape: tuple[int, int]
    ) -> npt.NDArray[np.uint8]:
        """Classes at the centres of a grid of `shape` (y, x) squares of side `step_level0` whose upper left corner
        is (x_level0, y_level0); 0 beyond the slide."""
        rows, columns = (
            np.floor((start + (np.arange(count) + 0.5) * step_level0) / step).astype(np.int64)
            for start, count, step in ((y_level0, shape[0], self._step_y), (x_level0, shape[1], self._step_x))
        )
        inside_rows = (rows >= 0) & (rows < self._classes.shape[0])
        inside_columns = (columns >= 0) & (columns < self._classes.shape[1])
        found = np.zeros(shape, np.uint8)
        found[np.ix_(inside_rows, inside_columns)] = self._classes[np.ix_(rows[inside_rows], columns[inside_columns])]
        return found


def read_label_regions(
    path: Path, slide: str, region_classes: Mapping[str, int], size_level0: tuple[int, int], settings: TilesSettings
) -> tuple[LabelRegions, tuple[Remark, ...]]:
    """Regions of a label image: one channel, at any downsample, its values mapped like groups ("1" = class 2).

    The value 0 is outside all regions. Returns the regions and remarks.

    Raises:
        SlideError: the file cannot be read, is too large or in colours, has another shape than the slide, or holds
            a value that the cohort file does not map.
    """
    labels = _read_labels(path, slide, settings.max_label_pixels)
    height, width = labels.shape
    stretch = (size_level0[0] / width) / (size_level0[1] / height)
    if abs(stretch - 1) > _SHAPE_TOLERANCE + 1 / min(width, height):
        raise SlideError(
            slide,
            "annotation",
            f"{path.name} of {width} × {height} px",
            f"the shape of the slide, {size_level0[0]} × {size_level0[1]} px, at some downsample",
            "Check that the label image belongs to this slide and covers all of it.",
        )
    seen = np.zeros(1 << 16, np.bool_)
    seen[labels] = True
    values = [int(value) for value in np.flatnonzero(seen) if value != 0]
    unmapped = [str(value) for value in values if str(value) not in region_classes]
    if unmapped:
        raise UnmappedGroupsError(
            unmapped,
            slide,
            f"the values {', '.join(unmapped[:10])} in {path.name}, which the cohort file does not map",
            f"0 or values among {mapped_groups(region_classes)}",
            'Map them under [slides.region_classes] in the cohort file, for example "1" = 2.',
        )
    table = np.zeros(max(values, default=0) + 1, np.uint8)
    for value in values:
        table[value] = region_classes[str(value)]
    empty = Remark("annotation: the label image holds no value but 0, so the slide has no bags", "no bags")
    return LabelRegions(table[labels], size_level0), () if values else (empty,)


def _read_labels(path: Path, slide: str, max_pixels: int) -> npt.NDArray[np.uint16]:
    expected = f"a label image of one channel and at most {max_pixels:,} px"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "TIFF")) as image:
                if image.width * image.height > max_pixels or image.mode not in _LABEL_MODES:
                    found = f"{path.name} of {image.width} × {image.height} px, mode {image.mode}"
                    raise SlideError(slide, "annotation", found, expected, "Export it smaller, as one channel.")
                labels = np.array(image)
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        found = f"{path.name}, which cannot be read as an image"
        raise SlideError(slide, "annotation", found, expected, "Export it anew.") from error
    if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
        raise SlideError(slide, "annotation", f"values outside 0–65535 in {path.name}", expected, "Export it anew.")
    return labels.astype(np.uint16)


def _layers(areas: Sequence[tuple[int, BaseGeometry]], priority: str) -> list[tuple[int, BaseGeometry]]:
    """Areas joined to as few layers as can be, in the order in which they are painted, the last on top."""
    if priority == "last":
        runs: list[tuple[int, list[BaseGeometry]]] = []
        for kind, area in areas:
            if not runs or runs[-1][0] != kind:
                runs.append((kind, []))
            runs[-1][1].append(area)
    else:
        kinds = sorted({kind for kind, _ in areas}, reverse=priority == "lowest")
        runs = [(kind, [area for other, area in areas if other == kind]) for kind in kinds]
    return [(kind, shapely.union_all(parts)) for kind, parts in runs]


def _edges(area: BaseGeometry) -> npt.NDArray[np.float64]:
    """Edges of all rings as rows (x, y, x, y), the upper end first; level edges, which no row crosses, left out."""
    rings = shapely.get_rings(shapely.get_parts(area))
    points = [shapely.get_coordinates(ring) for ring in rings]
    if not points:
        return np.empty((0, 4))
    edges = np.concatenate([np.hstack([ring[:-1], ring[1:]]) for ring in points])
    upward = edges[:, 1] > edges[:, 3]
    edges[upward] = edges[upward][:, [2, 3, 0, 1]]
    return edges[edges[:, 1] < edges[:, 3]]


@compiled
def _fill(
    edges: npt.NDArray[np.float64], x_low: float, y_low: float, step: float, inside: npt.NDArray[np.bool_]
) -> None:
    """Even-odd rule at the centres of squares: each edge flips all centres to its right in the rows it crosses.

    A centre exactly on an edge belongs to the area on its right or below, so areas that touch share no centre.
    """
    height, width = inside.shape
    for k in range(edges.shape[0]):
        x0, y0, x1, y1 = edges[k, 0], edges[k, 1], edges[k, 2], edges[k, 3]
        slope = (x1 - x0) / (y1 - y0)
        first = max(math.ceil((y0 - y_low) / step - 0.5), 0)
        last = min(math.ceil((y1 - y_low) / step - 0.5), height)
        for i in range(first, last):
            x = x0 + (y_low + (i + 0.5) * step - y0) * slope
            j = max(math.ceil((x - x_low) / step - 0.5), 0)
            if j < width:
                inside[i, j] = not inside[i, j]
    for i in range(height):
        state = False
        for j in range(width):
            state = state != inside[i, j]
            inside[i, j] = state

"""Boxes as another annotator might have drawn them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..cohorts.cohort import Lesion
from ..cohorts.variation import Variation
from .geometry import ImageError
from .lesions import box_region
from .volumes import VolumeHeader


def vary_box(
    header: VolumeHeader, lesion: Lesion, ct: str, variation: Variation
) -> tuple[float, float, float, float, float, float]:
    """The box of a lesion with each face moved by a normal draw of deviation `share` times the box's length there.

    Corners in voxels stay whole. A move that would leave the volume, or turn the box inside out, is not made.
    """
    assert lesion.box is not None
    corners = np.array(lesion.box)
    sides = corners[3:] - corners[:3] + (1 if lesion.box_unit == "voxel" else 0)
    moves = variation.draws(ct, lesion.lesion).normal(0, variation.share, 6) * np.tile(sides, 2)
    if lesion.box_unit == "voxel":
        moves = np.rint(moves)
    geometry, box = header.stored.upright().to_lps(), lesion.box
    for face, move in enumerate(moves):
        changed = list(box)
        changed[face] += float(move)
        x0, y0, z0, x1, y1, z1 = changed
        moved = replace(lesion, box=(x0, y0, z0, x1, y1, z1))
        try:
            box_region(geometry, header.stored, moved, name="box")
        except ImageError:
            continue
        box = (x0, y0, z0, x1, y1, z1)
    return box

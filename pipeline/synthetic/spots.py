"""Where the planted signal of a cohort with hot spots lies, in the frames of what mumo stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import RoisSettings
from ..radiology.crops import Frame, View, crop_frame, crop_planes
from ..radiology.lesions import IndexBox
from .anatomy import Volume, render_volume
from .plan import CtPlan

Floats = npt.NDArray[np.float64]

_STEPS = 64


def shares_in_spot(
    bags: Sequence[Mapping[str, Any]], x_um: float, y_um: float, radius_um: float, mpp_level0: float
) -> Floats:
    """[bag] share of each bag's area inside a round spot.

    Args:
        bags: rows of `specs.BAGS`.
        x_um, y_um, radius_um: the spot, from the slide's top left corner.
        mpp_level0: size of a pixel of level 0, µm.
    """
    inner = (np.arange(_STEPS) + 0.5) / _STEPS
    shares = []
    for bag in bags:
        side = bag["size_level0"] * mpp_level0
        x = bag["x_level0"] * mpp_level0 + side * inner
        y = bag["y_level0"] * mpp_level0 + side * inner
        shares.append((np.hypot(x[None] - x_um, y[:, None] - y_um) < radius_um).mean())
    return np.array(shares)


def lesion_in_crop(
    plan: CtPlan, seed: int, number: int, row: Mapping[str, Any], settings: RoisSettings
) -> npt.NDArray[np.bool_]:
    """[y, x] whether each pixel of the plain crop lies in the planted lesion, in the widest slice.

    Args:
        number: of the lesion in its plan, from 1.
        row: the lesion's row of `specs.LESIONS`, which has the box that was given.
    """
    volume = render_volume(plan, seed)
    plane = 255 * (volume.labels[row["slice_z"]] == number).astype(np.float32)
    frame, spacing_yx = frame_of_box(volume, row["box_mm"], settings)
    inside: npt.NDArray[np.bool_] = crop_planes(plane[None], frame, View(), spacing_yx, settings.crop_px)[0] > 127
    return inside


def frame_of_box(volume: Volume, box_mm: Sequence[float], settings: RoisSettings) -> tuple[Frame, tuple[float, float]]:
    """Where the crop of a box lies in the volume's axial planes, and the size of a voxel (y, x) in mm.

    Args:
        box_mm: x, y, z low; x, y, z high, as in `specs.LESIONS`.
    """
    origin, spacing = np.array(volume.origin_mm), np.array(volume.spacing_mm)
    corners = [(np.array(box_mm[part]) - origin) / spacing for part in (slice(0, 3), slice(3, 6))]
    low, high = np.rint(corners[0]).astype(int), np.rint(corners[1]).astype(int) + 1
    box = IndexBox((int(low[2]), int(low[1]), int(low[0])), (int(high[2]), int(high[1]), int(high[0])))
    spacing_yx = (volume.spacing_mm[1], volume.spacing_mm[0])
    return crop_frame(box, spacing_yx, volume.labels.shape[1:], settings), spacing_yx


def centre_of_mass(values: Floats, shape: tuple[int, int]) -> tuple[int, int]:
    """Pixel (y, x) of an image of `shape` that the centre of mass of a coarse, non-negative map falls on."""
    y, x = np.indices(values.shape)
    total = values.sum()
    places = ((y * values).sum() / total + 0.5) / values.shape[0], ((x * values).sum() / total + 0.5) / values.shape[1]
    return min(int(places[0] * shape[0]), shape[0] - 1), min(int(places[1] * shape[1]), shape[1] - 1)

"""Pictures for people who check: a sheet of a study's lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .crops import Frame, View, crop_planes, neighbouring_slices, windowed
from .lesions import LesionMask
from .volumes import Volume

PANEL_PX = 256
_SURROUNDINGS_MM = 30.0
_GAP_PX = 6
_TITLE_PX = 34
_INK, _BOX, _MASK, _PAPER = 0, 253, 254, 255
_PALETTE = [value for grey in range(_BOX) for value in [round(grey * 255 / (_BOX - 1))] * 3]
_PALETTE += [255, 196, 0, 0, 220, 255, 255, 255, 255]
"""Grey up to 252, then the colours of the box, the mask's edge and the paper: a byte a pixel."""


@dataclass(frozen=True)
class Strip:
    """One lesion on the sheet."""

    title: tuple[str, str]
    """Two lines of text: ids and numbers only, nothing of a header."""
    panels: npt.NDArray[np.uint8]
    """(3, side, side), colours of the palette: the slice below, the widest, and the one above."""


def lesion_strip(
    volume: Volume, found: LesionMask, slice_z: int, window_hu: tuple[float, float], title: tuple[str, str]
) -> Strip:
    """Three slices around a lesion in its window, with its box (yellow) and the edge of its mask (cyan).

    The picture is the widest slice's box with 30 mm around it, square; a slice that the volume lacks is repeated.
    """
    spacing_yx = (volume.spacing_mm[1], volume.spacing_mm[0])
    box = found.box
    low, high = np.array(box.low_zyx[1:]) - 0.5, np.array(box.high_zyx[1:]) - 0.5
    side_mm = float(((high - low) * spacing_yx).max()) + 2 * _SURROUNDINGS_MM
    centre = (low + high) / 2
    frame = Frame((float(centre[0]), float(centre[1])), (side_mm, side_mm))
    slices, _ = neighbouring_slices(slice_z, volume.array.shape[0])
    planes = windowed(np.stack([volume.array[z] for z in slices]), *window_hu)
    grey = crop_planes(planes, frame, View(), spacing_yx, PANEL_PX)
    masks = np.zeros_like(planes)
    for plane, z in zip(masks, slices, strict=True):
        if box.low_zyx[0] <= z < box.high_zyx[0]:
            plane[box.slices[1:]] = 255 * found.mask[z - box.low_zyx[0]]
    inside = crop_planes(masks, frame, View(), spacing_yx, PANEL_PX) > 127
    panels = np.rint(grey * ((_BOX - 1) / 255)).astype(np.uint8)
    corners = np.stack([low, high])
    corners_px = ((corners - centre) * spacing_yx / side_mm + 0.5) * PANEL_PX
    for panel, shape, z in zip(panels, inside, slices, strict=True):
        panel[shape & ~ndimage.binary_erosion(shape)] = _MASK
        if box.low_zyx[0] <= z < box.high_zyx[0]:
            _outline(panel, corners_px)
    return Strip(title, panels)


def write_sheet(file: Path, study: str, strips: Sequence[Strip]) -> None:
    """Write the PNG of a study: its lesions one below the other."""
    width = 3 * PANEL_PX + 4 * _GAP_PX
    height = _TITLE_PX + len(strips) * (PANEL_PX + _TITLE_PX + _GAP_PX)
    sheet = Image.new("P", (width, height), _PAPER)
    sheet.putpalette(_PALETTE)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.fontmode = "1"  # blended letters would need greys between ink and paper
    draw.text((_GAP_PX, 8), f"{study}: slice below, widest slice, slice above; box yellow, mask cyan", _INK, font)
    y = _TITLE_PX
    for strip in strips:
        for number, line in enumerate(strip.title):
            draw.text((_GAP_PX, y + 16 * number), line, _INK, font)
        for number, panel in enumerate(strip.panels):
            sheet.paste(Image.fromarray(panel), (_GAP_PX + number * (PANEL_PX + _GAP_PX), y + _TITLE_PX))
        y += PANEL_PX + _TITLE_PX + _GAP_PX
    sheet.save(file, optimize=False, compress_level=3)


def _outline(panel: npt.NDArray[np.uint8], corners_px: npt.NDArray[np.float64]) -> None:
    """Draw a rectangle from its low and high corner (2: y x); what lies outside the panel is left out."""
    (y0, x0), (y1, x1) = np.clip(np.rint(corners_px), 0, PANEL_PX - 1).astype(int)
    panel[[y0, y1], x0 : x1 + 1] = _BOX
    panel[y0 : y1 + 1, [x0, x1]] = _BOX

"""Leica SCN files: a scanned area somewhere on a slide, which the file's XML places in nanometres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import tifffile

_NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"
_IMAGE = """<image name="{name}" uuid="urn:uuid:{uuid}">
<creationDate>2024-01-01T00:00:00.000Z</creationDate><device model="Leica SCN400;Leica SCN" version="1.5"/>
<pixels sizeX="{width}" sizeY="{height}"><dimension sizeX="{width}" sizeY="{height}" r="0" ifd="{ifd}"/></pixels>
<view sizeX="{size_x}" sizeY="{size_y}" offsetX="{left}" offsetY="{top}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image>"""


def _described(
    number: int, pixels: npt.NDArray[np.uint8], corner: tuple[int, int], size: tuple[int, int], nm: int
) -> str:
    """What the XML says of an image: its pixels, and the area of the slide that it shows, px of `nm` nanometres."""
    return _IMAGE.format(
        name=f"image {number}",
        uuid=f"00000000-0000-0000-0000-00000000000{number}",
        ifd=number,
        width=pixels.shape[1],
        height=pixels.shape[0],
        objective=20 if number else 0.6,
        size_x=size[0] * nm,
        size_y=size[1] * nm,
        left=corner[0] * nm,
        top=corner[1] * nm,
    )


def write_scn(
    path: Path, area: npt.NDArray[np.uint8], corner: tuple[int, int], size: tuple[int, int], mpp: float
) -> None:
    """Write a slide of `size` (width, height), scanned only in `area` (y, x, 3) with its upper left at `corner`; px."""
    nm = round(1000 * mpp)
    macro = np.full((size[1] // 8, size[0] // 8, 3), 240, np.uint8)
    described = _described(0, macro, (0, 0), size, nm)
    described += _described(1, area, corner, (area.shape[1], area.shape[0]), nm)
    description = (
        f'<?xml version="1.0"?><scn xmlns="{_NAMESPACE}" uuid="urn:uuid:0"><collection name="c" uuid="urn:uuid:1" '
        f'sizeX="{size[0] * nm}" sizeY="{size[1] * nm}">{described}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for number, pixels in enumerate((macro, area)):
            file.write(
                pixels, tile=(256, 256), photometric="rgb", compression="jpeg", compressionargs={"level": 95},
                description=description if number == 0 else None, metadata=None,
                resolution=(1e4 / mpp, 1e4 / mpp), resolutionunit="CENTIMETER",
            )  # fmt: skip

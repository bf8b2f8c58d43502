"""Lesions of a CT study in its volume: masks from label files, boxes, or both, and the fallback where only a box is.

Boxes and masks meet the volume as points in the patient, never by the order of an array.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ...config import RoisSettings
from ..cohorts.cohort import CtStudy, Lesion
from ..stage import Source
from .formats import data_file
from .geometry import Geometry, ImageError
from .masks import LabelReader, Labels
from .segment import segment_box
from .volumes import Volume, read_volume

MaskSource = Literal["given", "network", "threshold"]
Bits = npt.NDArray[np.bool_]

_MAX_LABELS_NAMED = 20
_ROUNDING_MM = 1e-3
_CROSS_IN_PLANE = ndimage.generate_binary_structure(2, 1)[None]


@dataclass(frozen=True)
class IndexBox:
    """A box of voxels of an LPS array: `low_zyx` inside, `high_zyx` the first outside."""

    low_zyx: tuple[int, int, int]
    high_zyx: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along z, y, x."""
        z, y, x = (high - low for low, high in zip(self.low_zyx, self.high_zyx, strict=True))
        return (z, y, x)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box in a (z, y, x) array."""
        z, y, x = (slice(low, high) for low, high in zip(self.low_zyx, self.high_zyx, strict=True))
        return (z, y, x)

    def moved(self, by_zyx: tuple[int, int, int]) -> IndexBox:
        """The box counted from another first voxel."""
        low = [a + b for a, b in zip(self.low_zyx, by_zyx, strict=True)]
        high = [a + b for a, b in zip(self.high_zyx, by_zyx, strict=True)]
        return IndexBox((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def grown(self, voxels_zyx: tuple[int, int, int], shape_zyx: tuple[int, ...]) -> IndexBox:
        """The box with a margin, cut to an array of `shape_zyx`."""
        low = [max(0, a - m) for a, m in zip(self.low_zyx, voxels_zyx, strict=True)]
        high = [min(n, b + m) for b, m, n in zip(self.high_zyx, voxels_zyx, shape_zyx, strict=True)]
        return IndexBox((low[0], low[1], low[2]), (high[0], high[1], high[2]))

    def to_mm(self, geometry: Geometry) -> tuple[float, float, float, float, float, float]:
        """Low and high corner in mm (LPS) of the upright box around the centres of the box's corner voxels."""
        ends = [(low, high - 1) for low, high in zip(self.low_zyx[::-1], self.high_zyx[::-1], strict=True)]
        corners = geometry.to_mm(list(product(*ends)))
        low, high = corners.min(axis=0), corners.max(axis=0)
        return (float(low[0]), float(low[1]), float(low[2]), float(high[0]), float(high[1]), float(high[2]))


@dataclass(frozen=True, eq=False)
class LesionMask:
    """One lesion in the LPS array of its volume."""

    mask: npt.NDArray[np.uint8]
    """(z, y, x) over `box` only; 1 inside the lesion."""
    box: IndexBox
    """The given box, or the smallest one around the mask."""
    source: MaskSource
    warnings: tuple[str, ...] = ()
    """Sentences on how the mask was read."""


def read_study(study: CtStudy, settings: RoisSettings) -> Volume:
    """The volume of a CT study; see `volumes.read_volume` for the errors, which name the study."""
    return read_volume(
        study.path,
        max_voxels=settings.max_voxels,
        series_uid=study.series_uid,
        slice_tolerance=settings.slice_tolerance,
        name=f"CT study {study.ct}, volume",
    )


def lesion_mask(
    volume: Volume, lesion: Lesion, settings: RoisSettings, *, labels: LabelReader | None = None, name: str = ""
) -> LesionMask:
    """The voxels of one lesion.

    A label mask gives them directly; with a box too, only those inside the box. A box alone goes to
    the network of the configuration, or where there is none, or it finds nothing, to `threshold_mask`; the result is
    marked `network` or `threshold`.

    Args:
        labels: where masks are read; give one for all lesions of a study.
        name: what comes before the lesion's id in errors, for example `CT study C1, `.

    Raises:
        ImageError: neither mask nor box; a mask that cannot be read, is empty, lacks the label or has another grid;
            a box outside the volume.
    """
    name = f"{name}lesion {lesion.lesion}"
    if lesion.mask is not None:
        reader = labels or LabelReader(settings)
        found = reader.read(lesion, volume.geometry, name=f"{name}, mask", frame_uid=volume.frame_uid)
        return given_mask(volume.geometry, volume.stored, lesion, found, name=name)
    box, region = box_region(volume.geometry, volume.stored, lesion, name=name)
    if settings.segmentation.network is not None:
        found_by_network = segment_box(volume, box.slices, settings.segmentation) & region
        if found_by_network.any():
            return LesionMask(found_by_network.astype(np.uint8), box, "network")
    mask = threshold_mask(volume.array[box.slices], region, settings.fallback_threshold_hu)
    return LesionMask(mask, box, "threshold")


def measured_dice(volume: Volume, lesion: Lesion, given: LesionMask, settings: RoisSettings) -> dict[str, float]:
    """How well each way of segmenting the lesion's box finds its given mask: method → Dice (0–1).

    The box is the lesion's own or the smallest one around the mask.
    """
    box, region = given.box, np.ones(given.mask.shape, dtype=bool)
    if lesion.box is not None:
        _, region = box_region(volume.geometry, volume.stored, lesion, name=lesion.lesion)
    found = {"threshold": threshold_mask(volume.array[box.slices], region, settings.fallback_threshold_hu) > 0}
    if settings.segmentation.network is not None:
        found["network"] = segment_box(volume, box.slices, settings.segmentation) & region
    truth = given.mask > 0
    return {
        method: 2 * int((mask & truth).sum()) / (int(mask.sum()) + int(truth.sum())) for method, mask in found.items()
    }


def given_mask(geometry: Geometry, stored: Geometry, lesion: Lesion, labels: Labels, *, name: str) -> LesionMask:
    """The voxels of a lesion that has a label mask; needs the volume's grids, not its voxels. Errors: `lesion_mask`."""
    label = labels.label
    what = "voxels other than 0" if label is None else f"voxels of label {label}"
    if lesion.box is None:
        box = _tight_box(labels.array, label)
        if box is None:
            raise _no_voxels(labels.array, what, name)
        return LesionMask(_selected(labels.array[box.slices], label).astype(np.uint8), box, "given", labels.warnings)
    box, region = box_region(geometry, stored, lesion, name=name)
    inside = _selected(labels.array[box.slices], label) & region
    if not inside.any():
        raise _no_voxels(labels.array[box.slices], f"{what} inside the lesion's box", name)
    return LesionMask(inside.astype(np.uint8), box, "given", labels.warnings)


def box_region(geometry: Geometry, stored: Geometry, lesion: Lesion, *, name: str) -> tuple[IndexBox, Bits]:
    """A lesion's box in LPS voxels, and which voxels of it (z, y, x) belong to the lesion's box.

    Corners in voxels count the file's own grid and belong to the box. A box in mm holds the voxels whose centres lie
    in it; where it is thinner than a voxel, it is taken to be one voxel thick. In an oblique grid the voxels of
    a box in mm do not fill their index box; elsewhere they do.

    Raises:
        ImageError: no box, corners in the wrong order, or a box that reaches outside the volume.
    """
    if lesion.box is None:
        raise ImageError(name, "neither mask nor box", "a mask, a box, or both", "Give one in the lesions' table.")
    low, high = np.array(lesion.box[:3]), np.array(lesion.box[3:])
    if not np.isfinite(lesion.box).all() or (low > high).any():
        raise ImageError(
            name,
            f"a box from {_point(low)} to {_point(high)}",
            "low corners that are not above high ones",
            "Swap them.",
        )
    if lesion.box_unit == "voxel":
        return _voxel_box(geometry, stored, low, high, name)
    return _mm_box(geometry, low, high, name)


def threshold_mask(intensity: npt.NDArray[Any], region: Bits, range_hu: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """The classical fallback: the largest connected piece of a range of intensities inside a box.

    Thin bridges are cut first (opening with a cross in the axial plane, so that thick slices are not lost); a step
    that would leave nothing is left out, down to the whole box.

    Args:
        intensity: (z, y, x) over the box, HU.
        region: (z, y, x), voxels that may belong to the lesion.
        range_hu: lowest and highest intensity of lesions.

    Returns:
        (z, y, x), 1 inside the lesion, never empty where `region` is not.
    """
    inside = (intensity >= range_hu[0]) & (intensity <= range_hu[1]) & region
    if not inside.any():
        return region.astype(np.uint8)
    opened = ndimage.binary_opening(inside, structure=_CROSS_IN_PLANE)
    pieces, count = ndimage.label(opened if opened.any() else inside)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    return np.asarray(pieces == int(sizes.argmax()) + 1, dtype=np.uint8)


def study_sources(study: CtStudy, settings: RoisSettings) -> tuple[Source, ...]:
    """The files that a study's lesions are computed from: its volume, each mask once, and the network."""
    sources = [Source("volume", study.path), *_second_file("volume-data", study.path, full=False)]
    for number, mask in enumerate(_masks(study)):
        sources += [Source(f"mask-{number}", mask, full=True), *_second_file(f"mask-{number}-data", mask, full=True)]
    if settings.segmentation.network is not None and study.lesions:
        sources.append(Source("segmentation", settings.segmentation.network, full=True))
    return tuple(sources)


def rois_settings(settings: RoisSettings) -> dict[str, Any]:
    """The section `rois`, JSON-able, without the network's path: its content is a source."""
    return settings.model_dump(mode="json", exclude={"segmentation": {"network"}})


def study_inputs(study: CtStudy) -> dict[str, Any]:
    """What the cohort says of a study and its lesions, JSON-able; of the series UID and of names of
    regions, which may identify, a digest."""
    masks = _masks(study)
    uid = study.series_uid
    return {
        "ct": study.ct,
        "patient": study.patient,
        "centre": study.centre,
        "series": None if uid is None else hashlib.sha256(uid.encode()).hexdigest()[:16],
        "lesions": [
            {
                "lesion": lesion.lesion,
                "lesion_type": lesion.lesion_type,
                "mask": None if lesion.mask is None else masks.index(lesion.mask),
                "label": lesion.label,
                "roi": None if lesion.roi is None else hashlib.sha256(lesion.roi.encode()).hexdigest()[:16],
                "box": None if lesion.box is None else list(lesion.box),
                "box_unit": lesion.box_unit,
            }
            for lesion in study.lesions
        ],
    }


def _masks(study: CtStudy) -> list[Path]:
    """Mask files of a study, each once, in the order of its lesions."""
    return list(dict.fromkeys(lesion.mask for lesion in study.lesions if lesion.mask is not None))


def _second_file(role: str, path: Path, *, full: bool) -> list[Source]:
    """The data file of a `.mhd` header; none for others, nor for a header that reading will refuse."""
    try:
        data = data_file(path)
    except ImageError:
        return []
    return [] if data is None else [Source(role, data, full)]


def _voxel_box(
    geometry: Geometry, stored: Geometry, low: npt.NDArray[Any], high: npt.NDArray[Any], name: str
) -> tuple[IndexBox, Bits]:
    low, high = np.rint(low), np.rint(high)
    if (low < 0).any() or (high >= stored.size_xyz).any():
        raise ImageError(
            name,
            f"a box from {_point(low)} to {_point(high)} voxels",
            f"a box inside the volume of {_point(np.array(stored.size_xyz))} voxels, counted from 0 as stored",
            "Correct the box, or say with box_unit that it is in mm.",
        )
    corners = np.rint(geometry.to_index(stored.to_mm(list(product(*zip(low, high, strict=True))))))
    box = _index_box(corners.min(axis=0), corners.max(axis=0))
    return box, np.ones(box.shape, dtype=bool)


def _mm_box(geometry: Geometry, low: npt.NDArray[Any], high: npt.NDArray[Any], name: str) -> tuple[IndexBox, Bits]:
    outer = geometry.corners_mm(outer=True)
    ends = outer.min(axis=0) - _ROUNDING_MM, outer.max(axis=0) + _ROUNDING_MM
    thin = np.maximum(0, (geometry.reach_mm() - (high - low)) / 2) + _ROUNDING_MM
    corners = geometry.to_index(list(product(*zip(low - thin, high + thin, strict=True))))
    first = np.maximum(np.ceil(corners.min(axis=0)), 0)
    last = np.minimum(np.floor(corners.max(axis=0)), np.array(geometry.size_xyz) - 1)
    inner = None
    if (low >= ends[0]).all() and (high <= ends[1]).all() and (first <= last).all():
        around = _index_box(first, last)
        region = _centres_inside(geometry, around, low - thin, high + thin)
        inner = _tight_box(region, None)
    if inner is None:
        raise ImageError(
            name,
            f"a box from {_point(low)} to {_point(high)} mm",
            f"a box inside the volume, which reaches from {_point(ends[0])} to {_point(ends[1])} mm (LPS)",
            "Correct the box, or say with box_unit that it is in voxels.",
        )
    return inner.moved(around.low_zyx), region[inner.slices]


def _centres_inside(geometry: Geometry, box: IndexBox, low: npt.NDArray[Any], high: npt.NDArray[Any]) -> Bits:
    """Which voxels (z, y, x) of a box have their centre between two corners in mm; slice by slice, to bound memory."""
    region = np.empty(box.shape, dtype=bool)
    y, x = np.indices(box.shape[1:], dtype=float)
    for number in range(box.shape[0]):
        plane = np.stack([x, y, np.full(x.shape, float(number))], axis=-1) + np.array(box.low_zyx[::-1])
        centres = geometry.to_mm(plane)
        region[number] = ((centres >= low) & (centres <= high)).all(axis=-1)
    return region


def _index_box(first_xyz: npt.NDArray[Any], last_xyz: npt.NDArray[Any]) -> IndexBox:
    """From first and last voxel, both inside."""
    x, y, z = (int(v) for v in first_xyz)
    x_last, y_last, z_last = (int(v) for v in last_xyz)
    return IndexBox((z, y, x), (z_last + 1, y_last + 1, x_last + 1))


def _selected(labels: npt.NDArray[Any], label: int | None) -> Bits:
    return np.asarray(labels != 0 if label is None else labels == label)


def _tight_box(labels: npt.NDArray[Any], label: int | None) -> IndexBox | None:
    """The smallest box around a label, slice by slice, to need no second array; none when there is no voxel."""
    rows = np.zeros(labels.shape[1], dtype=bool)
    columns = np.zeros(labels.shape[2], dtype=bool)
    planes = np.zeros(labels.shape[0], dtype=bool)
    for number, plane in enumerate(labels):
        inside = _selected(plane, label)
        row = inside.any(axis=1)
        if row.any():
            planes[number] = True
            rows |= row
            columns |= inside.any(axis=0)
    if not planes.any():
        return None
    ends = [(int(np.flatnonzero(line)[0]), int(np.flatnonzero(line)[-1]) + 1) for line in (planes, rows, columns)]
    return IndexBox((ends[0][0], ends[1][0], ends[2][0]), (ends[0][1], ends[1][1], ends[2][1]))


def _no_voxels(labels: npt.NDArray[Any], what: str, name: str) -> ImageError:
    present = [int(v) for v in np.unique(labels) if v != 0]
    named = ", ".join(map(str, present[:_MAX_LABELS_NAMED])) + (", …" if len(present) > _MAX_LABELS_NAMED else "")
    return ImageError(
        f"{name}, mask",
        f"labels {named}" if present else "an empty mask",
        what,
        "Correct the label in the lesions' table, or give the mask that holds it.",
    )


def _point(values: npt.NDArray[Any]) -> str:
    return "(" + ", ".join(f"{float(v):g}" for v in values) + ")"

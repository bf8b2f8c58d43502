"""The `rois` stage: the lesions of a CT study to crops for the network and volumes for radiomics.

A study is one item: it fails as a whole when one of its lesions cannot be used, so that no patient is stored with
some of the lesions missing. Memory is bounded by one volume, one mask and one lesion.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..config import RoisSettings, Settings
from ..errors import ConfigError, Problem
from ..stores.arrays import create_array, create_group, write_array
from ..stores.records import Store
from ..stores.specs import LESION_CROPS, LESION_INTENSITY, LESION_MASK, LESIONS, WINDOWS
from ..stores.tables import read_rows, write_table
from .radiology.contact import Strip, lesion_strip, write_sheet
from .radiology.crops import crop_frame, crop_planes, draw_view, neighbouring_slices, widest_slice, windowed
from .radiology.geometry import ImageError
from .radiology.lesions import (
    LesionMask,
    box_region,
    given_mask,
    lesion_mask,
    measured_dice,
    read_study,
    rois_settings,
    study_inputs,
    study_sources,
)
from .radiology.masks import LabelReader
from .radiology.segment import load_network
from .radiology.volumes import Volume, VolumeHeader, read_header
from .stage import Item, Outcome, Stage, Upstream
from .windows import NO_LESIONS, find_window

if TYPE_CHECKING:
    import zarr

    from .cohorts.cohort import Cohort, CtStudy, Lesion


SATURATED_HU = 3071
"""Highest intensity of 12-bit CT: metal, or an intensity that the scanner cut off."""


class RoisStage(Stage):
    """CT studies to lesions: three-slice crops with views, intensities with masks, and a table."""

    name: ClassVar[str] = "rois"
    version: ClassVar[int] = 3

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a study; studies without lesions wait for no windows."""
        own = rois_settings(settings.rois)
        windows = (Upstream("windows", "cohort", "windows.parquet"),)
        return [
            Item(
                self.name,
                f"ct-{study.ct}",
                payload=study,
                settings=own,
                inputs=study_inputs(study),
                sources=study_sources(study, settings.rois),
                upstream=windows if study.lesions else (),
            )
            for study in cohort.ct_studies
        ]

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """A network that cannot be loaded, volumes that their headers rule out, masks and boxes that cannot be used."""
        problems = []
        if settings.rois.segmentation.network is not None and cohort.ct_studies:
            try:
                load_network(settings.rois.segmentation)
            except ConfigError as error:
                remedy = "Correct it in the configuration."
                found = str(error)
                problems.append(Problem("configuration", "", "rois.segmentation", found, "a network", remedy))
        return problems + [
            replace(problem, column=cohort.columns.get(problem.table, {}).get(problem.column, problem.column))
            for study in cohort.ct_studies
            for problem in check_study(study, settings.rois)
        ]

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Write `crops.zarr`, `volumes.zarr`, `lesions.parquet` and the picture `contact.png` of a study.

        Raises:
            ImageError: the volume or one of its lesions cannot be used; names the lesion.
        """
        study: CtStudy = item.payload
        shape = (len(study.lesions), settings.rois.views + 1, 3, settings.rois.crop_px, settings.rois.crop_px)
        crops = create_array(create_group(out / "crops.zarr"), LESION_CROPS, shape)
        volumes = create_group(out / "volumes.zarr", {"lesions": len(study.lesions)})
        rows: list[dict[str, Any]] = []
        strips: list[Strip] = []
        notes: list[str] = []
        dice: dict[str, dict[str, float]] = defaultdict(dict)
        if study.lesions:
            windows = read_rows(store.part("windows", "cohort", "windows.parquet"), WINDOWS)
            volume, labels = read_study(study, settings.rois), LabelReader(settings.rois)
            notes += volume.warnings
            for number, lesion in enumerate(study.lesions):
                found = lesion_mask(volume, lesion, settings.rois, labels=labels, name=f"CT study {study.ct}, ")
                roi = Roi(study, lesion, found, find_window(windows, lesion.lesion_type, study.centre))
                crops[number] = roi.crops(volume, settings.rois)
                roi.write_volume(volumes, str(number), volume, settings.rois)
                rows.append(roi.row(volume))
                strips.append(roi.strip(volume))
                notes += roi.notes(volume)
                if found.source == "given":
                    for method, value in measured_dice(volume, lesion, found, settings.rois).items():
                        dice[method][lesion.lesion] = round(value, 4)
            write_sheet(out / "contact.png", f"CT study {study.ct}", strips)
        else:
            _read_header(study, settings.rois)  # a volume that cannot be read is no study without lesions
            notes.append(NO_LESIONS)
        write_table(out / "lesions.parquet", rows, LESIONS)
        levels = dict(sorted(Counter(row["window_level"] for row in rows).items()))
        summary = {"lesions": len(rows), "warnings": [*notes, *_warnings(rows)], "windows": levels, "dice": dict(dice)}
        return Outcome("ok" if rows else "empty", summary)


@dataclass(frozen=True, eq=False)
class Roi:
    """One lesion in its volume, with the window that it is shown in."""

    study: CtStudy
    lesion: Lesion
    found: LesionMask
    window: tuple[float, float, str]
    """Low and high end in HU, and the level that it comes from."""

    @property
    def slice_z(self) -> int:
        """The axial slice of the volume with the largest lesion area."""
        return self.found.box.low_zyx[0] + widest_slice(self.found.mask)

    def crops(self, volume: Volume, settings: RoisSettings) -> npt.NDArray[np.uint8]:
        """All views (view, slice, y, x) of the lesion, the plain one first."""
        low_hu, high_hu, _ = self.window
        slices, _ = neighbouring_slices(self.slice_z, volume.array.shape[0])
        planes = windowed(np.stack([volume.array[z] for z in slices]), low_hu, high_hu)
        spacing_yx_mm = (volume.spacing_mm[1], volume.spacing_mm[0])
        frame = crop_frame(self.found.box, spacing_yx_mm, planes.shape[1:], settings)
        views = (
            draw_view(self.study.patient, self.lesion.lesion, number, settings) for number in range(settings.views + 1)
        )
        return np.stack([crop_planes(planes, frame, view, spacing_yx_mm, settings.crop_px) for view in views])

    def write_volume(self, group: zarr.Group, name: str, volume: Volume, settings: RoisSettings) -> None:
        """The intensities around the lesion, and its mask, with the margin on all sides that the volume allows."""
        box = self.found.box
        x, y, z = (int(np.ceil(settings.volume_margin_mm / spacing)) for spacing in volume.spacing_mm)
        around = box.grown((z, y, x), volume.array.shape)
        mask = np.zeros(around.shape, dtype=np.uint8)
        mask[box.moved(_negative(around.low_zyx)).slices] = self.found.mask
        own = group.create_group(name)
        ids = {"patient": self.study.patient, "ct": self.study.ct, "lesion": self.lesion.lesion}
        own.attrs.update({**ids, "spacing_mm": list(volume.spacing_mm)})
        write_array(own, LESION_INTENSITY, volume.array[around.slices].astype(np.float32))
        write_array(own, LESION_MASK, mask)

    def strip(self, volume: Volume) -> Strip:
        """The lesion on the contact sheet."""
        row, (low_hu, high_hu, level) = self.row(volume), self.window
        title = (
            f"lesion {self.lesion.lesion}, {self.lesion.lesion_type}: slice {row['slice_z']} of "
            f"{volume.array.shape[0]}, {row['volume_mm3'] / 1000:.2f} ml, mask: {self.found.source}",
            f"window {low_hu:.0f} to {high_hu:.0f} HU ({level})" + (", edge slice repeated" * row["edge_slice"]),
        )
        return lesion_strip(volume, self.found, self.slice_z, (low_hu, high_hu), title)

    def notes(self, volume: Volume) -> list[str]:
        """Sentences on how the mask was read, and on intensities at the end of the scanner's range."""
        name = self.lesion.lesion
        inside = volume.array[self.found.box.slices][self.found.mask > 0]
        saturated = int((inside >= SATURATED_HU).sum())
        notes = [f"{text}: lesion {name}" for text in self.found.warnings]
        if saturated:
            notes.append(
                f"{saturated} voxel(s) at {SATURATED_HU} HU or above, where 12-bit CT is cut off: lesion {name}"
            )
        return notes

    def row(self, volume: Volume) -> dict[str, Any]:
        """The lesion's row of `LESIONS`."""
        spacing_x, spacing_y, _ = volume.spacing_mm
        z = self.slice_z
        area = int(self.found.mask[z - self.found.box.low_zyx[0]].sum(dtype=np.int64))
        low_hu, high_hu, level = self.window
        return {
            "patient": self.study.patient,
            "ct": self.study.ct,
            "lesion": self.lesion.lesion,
            "lesion_type": self.lesion.lesion_type,
            "centre": self.study.centre,
            "slice_z": z,
            "edge_slice": neighbouring_slices(z, volume.array.shape[0])[1],
            "area_mm2": area * spacing_x * spacing_y,
            "volume_mm3": int(self.found.mask.sum(dtype=np.int64)) * volume.geometry.voxel_mm3(),
            "box_mm": list(self.found.box.to_mm(volume.geometry)),
            "spacing_mm": list(volume.spacing_mm),
            "mask_source": self.found.source,
            "window_level": level,
            "low_hu": low_hu,
            "high_hu": high_hu,
        }


def check_study(study: CtStudy, settings: RoisSettings) -> list[Problem]:
    """What is wrong with a study: its volume by the header alone, its masks in full; columns have mumo's names."""
    try:
        header = _read_header(study, settings)
    except ImageError as error:
        return [error.problem("ct", study.ct, "path")]
    labels, problems = LabelReader(settings), []
    for lesion in study.lesions:
        try:
            _check_lesion(header, lesion, labels)
        except ImageError as error:
            column = "box" if lesion.mask is None else "mask"
            problems.append(error.problem("lesions", f"{study.ct}/{lesion.lesion}", column))
    return problems


def _read_header(study: CtStudy, settings: RoisSettings) -> VolumeHeader:
    """The study's volume as its header says it; ImageError where it cannot be used."""
    return read_header(
        study.path,
        max_voxels=settings.max_voxels,
        series_uid=study.series_uid,
        slice_tolerance=settings.slice_tolerance,
        name=f"CT study {study.ct}",
    )


def _check_lesion(header: VolumeHeader, lesion: Lesion, labels: LabelReader) -> None:
    stored, geometry = header.stored, header.stored.upright().to_lps()
    if lesion.mask is None:
        box_region(geometry, stored, lesion, name="box")
    else:
        found = labels.read(lesion, geometry, name="mask", frame_uid=header.frame_uid)
        given_mask(geometry, stored, lesion, found, name="lesion")


def _warnings(rows: list[dict[str, Any]]) -> list[str]:
    """Sentences on lesions whose mask or slices are makeshift."""
    fallback = [row["lesion"] for row in rows if row["mask_source"] == "threshold"]
    network = [row["lesion"] for row in rows if row["mask_source"] == "network"]
    edge = [row["lesion"] for row in rows if row["edge_slice"]]
    sentences = []
    if fallback:
        sentences.append(f"mask by threshold inside the box, none was given: lesion {', '.join(fallback)}")
    if network:
        sentences.append(f"mask by the network inside the box, none was given: lesion {', '.join(network)}")
    if edge:
        sentences.append(
            f"largest slice at the edge of the volume, repeated for its neighbour: lesion {', '.join(edge)}"
        )
    return sentences


def _negative(zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    return (-zyx[0], -zyx[1], -zyx[2])

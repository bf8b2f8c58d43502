"""The `windows` stage: a grey-level window for each lesion type and centre, from the lesions of the cohort.

Each study gives a histogram of every lesion; the item `cohort` adds them up and takes percentiles. No task ever holds
more than one volume, and the voxels of a cohort are never in one place.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..config import Settings, WindowsSettings
from ..errors import ConfigError, InputError, Problem, StoreError
from ..stores.records import Store
from ..stores.specs import HISTOGRAMS, WINDOWS
from ..stores.tables import read_rows, write_table
from .radiology.lesions import lesion_mask, read_study, rois_settings, study_inputs, study_sources
from .radiology.masks import LabelReader
from .stage import Item, Outcome, Source, Stage, Upstream

if TYPE_CHECKING:
    from .cohorts.cohort import Cohort, CtStudy

Row = dict[str, Any]

_FAR_HU = 1e9
"""Larger intensities count as this one, so that whatever a file holds fits into 32 bits."""

NO_LESIONS = "the study has no lesions"
"""Why nothing is computed of a study."""

MASK_SETTINGS = (
    "fallback_threshold_hu",
    "segmentation",
    "geometry_tolerance_mm",
    "resample_tolerance_mm",
    "slice_tolerance",
    "max_voxels",
)
"""Settings of the section `rois` that decide which voxels are a lesion's."""


class WindowsStage(Stage):
    """CT studies to histograms of their lesions, then one table of windows."""

    name: ClassVar[str] = "windows"
    version: ClassVar[int] = 2

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a study; none when the windows come from another store."""
        if settings.windows.table is not None:
            return []
        return [self._study_item(study, settings) for study in cohort.ct_studies]

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """Whether the split file, or the table of windows, can be read."""
        problems = []
        for key in ("split_file", "table"):
            file = getattr(settings.windows, key)
            if file is None or not cohort.ct_studies:
                continue
            try:
                _training_studies(cohort, file) if key == "split_file" else _read_windows(file)
            except (ConfigError, InputError) as error:
                remedy = f"Correct windows.{key} in the configuration."
                problems.append(Problem("configuration", "", f"windows.{key}", str(error), "a readable table", remedy))
        return problems

    def finalise(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """The item `cohort`, from the histograms of all studies that did not fail; none for a cohort without CT.

        Raises:
            ConfigError: the split file cannot be read, or none of its training patients has a CT study.
        """
        if not cohort.ct_studies:
            return []
        if settings.windows.table is not None:
            source = Source("windows", settings.windows.table, full=True)
            return [Item(self.name, "cohort", (), {"taken": True}, sources=(source,))]
        split, failed = settings.windows.split_file, store.failures(self.name)
        studies = cohort.ct_studies if split is None else _training_studies(cohort, split)
        items = [f"ct-{study.ct}" for study in studies if f"ct-{study.ct}" not in failed]
        if not items:
            return []
        return [
            Item(
                self.name,
                "cohort",
                payload=tuple(items),
                settings=settings.windows.model_dump(mode="json", exclude={"split_file", "table"}),
                sources=() if split is None else (Source("split", split, full=True),),
                upstream=tuple(Upstream(self.name, item, "histograms.parquet") for item in items),
            )
        ]

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Write `histograms.parquet` of a study, or `windows.parquet` of the cohort."""
        if item.item != "cohort":
            rows = histogram_rows(item.payload, settings)
            write_table(out / "histograms.parquet", rows, HISTOGRAMS)
            return Outcome("ok", {"lesions": len(rows)}) if rows else Outcome("empty", _nothing(NO_LESIONS))
        if settings.windows.table is not None:
            rows = _read_windows(settings.windows.table)
            summary: dict[str, Any] = {"taken": True}
        else:
            parts = [store.part(self.name, name, "histograms.parquet") for name in item.payload]
            histograms = [row for part in parts for row in read_rows(part, HISTOGRAMS)]
            rows = fit_windows(histograms, settings.windows)
            summary = {"lesions": len(histograms), "patients": len({row["patient"] for row in histograms})}
            if histograms:
                from .radiology.window_picture import write_picture

                write_picture(out / "windows.png", histograms, rows)
        write_table(out / "windows.parquet", rows, WINDOWS)
        return Outcome("ok", summary) if rows else Outcome("empty", summary | _nothing("no study has lesions"))

    def _study_item(self, study: CtStudy, settings: Settings) -> Item:
        return Item(
            self.name,
            f"ct-{study.ct}",
            payload=study,
            settings={name: value for name, value in rois_settings(settings.rois).items() if name in MASK_SETTINGS},
            inputs=study_inputs(study),
            sources=study_sources(study, settings.rois),
        )


def _nothing(reason: str) -> dict[str, Any]:
    """The summary of an item that is empty."""
    return {"lesions": 0, "warnings": [reason]}


def histogram_rows(study: CtStudy, settings: Settings) -> list[Row]:
    """Rows of `HISTOGRAMS` for one study: the intensities of each lesion's voxels, rounded to whole HU.

    Raises:
        ImageError: the volume or one of the lesions cannot be used; names the lesion.
    """
    if not study.lesions:
        return []
    volume, labels = read_study(study, settings.rois), LabelReader(settings.rois)
    rows = []
    for lesion in study.lesions:
        found = lesion_mask(volume, lesion, settings.rois, labels=labels, name=f"CT study {study.ct}, ")
        intensity = volume.array[found.box.slices][found.mask > 0]
        hu, voxels = np.unique(np.clip(np.rint(intensity), -_FAR_HU, _FAR_HU).astype(np.int32), return_counts=True)
        rows.append(
            {
                "patient": study.patient,
                "ct": study.ct,
                "lesion": lesion.lesion,
                "lesion_type": lesion.lesion_type,
                "centre": study.centre,
                "hu": hu.tolist(),
                "voxels": voxels.tolist(),
            }
        )
    return rows


def fit_windows(histograms: Sequence[Mapping[str, Any]], settings: WindowsSettings) -> list[Row]:
    """Rows of `WINDOWS` from rows of `HISTOGRAMS`: the cohort's window, then those of types and pairs.

    The voxels of a group's lesions are pooled; with the weighting `lesions` those of a lesion count for one together.
    Types and pairs with fewer than
    `min_lesions` lesions get no row: whoever looks them up falls back (`find_window`). The cohort always has one,
    unless there are no lesions at all.
    """
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in histograms:
        groups["cohort", "", ""].append(row)
        groups["type", row["lesion_type"], ""].append(row)
        groups["pair", row["lesion_type"], row["centre"]].append(row)
    rows = []
    for (level, lesion_type, centre), members in sorted(groups.items()):
        if level != "cohort" and len(members) < settings.min_lesions:
            continue
        percentiles = (settings.low_percentile, settings.high_percentile)
        if settings.weighting == "lesions":
            low, high = lesion_percentiles(members, percentiles)
        else:
            low, high = histogram_percentiles(*pool_histograms(members), percentiles)
        missing = max(0.0, settings.min_width_hu - (high - low)) / 2
        rows.append(
            {
                "level": level,
                "lesion_type": lesion_type,
                "centre": centre,
                "low_hu": float(low - missing),
                "high_hu": float(high + missing),
                "lesions": len(members),
            }
        )
    return rows


def find_window(rows: Iterable[Mapping[str, Any]], lesion_type: str, centre: str) -> tuple[float, float, str]:
    """The window (low, high, level) of a lesion, HU: its pair's if there is one, else its type's, else the cohort's.

    Raises:
        InputError: the table has no window at all.
    """
    windows = {(row["level"], row["lesion_type"], row["centre"]): row for row in rows}
    for key in (("pair", lesion_type, centre), ("type", lesion_type, ""), ("cohort", "", "")):
        if key in windows:
            return float(windows[key]["low_hu"]), float(windows[key]["high_hu"]), key[0]
    raise InputError("windows: expected at least the window of the cohort, found none; run the windows stage again")


def pool_histograms(
    rows: Iterable[Mapping[str, Any]],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Intensities (n,), increasing, and voxels (n,) of several histograms together."""
    pairs = [(np.asarray(row["hu"], np.int64), np.asarray(row["voxels"], np.int64)) for row in rows]
    hu, place = np.unique(np.concatenate([values for values, _ in pairs]), return_inverse=True)
    voxels = np.zeros(hu.size, dtype=np.int64)
    np.add.at(voxels, place, np.concatenate([counts for _, counts in pairs]))
    return hu, voxels


def histogram_percentiles(
    hu: npt.NDArray[np.int64], voxels: npt.NDArray[np.int64], percentiles: Sequence[float]
) -> npt.NDArray[np.float64]:
    """Percentiles of the voxels behind a histogram, linear between neighbours.

    The p-th of n sorted values lies at position p/100 · (n − 1), counted from 0; between two positions it is
    interpolated (Hyndman and Fan's type 7, the default of `numpy.percentile`).

    Args:
        hu: (n,) intensities, increasing.
        voxels: (n,) how often each occurs, not 0.
    """
    last = np.cumsum(voxels) - 1  # position of the last voxel with each intensity
    position = np.asarray(percentiles) / 100 * last[-1]
    below = np.floor(position)
    lower = hu[np.searchsorted(last, below)]
    upper = hu[np.searchsorted(last, np.ceil(position))]
    return np.asarray(lower + (position - below) * (upper - lower), dtype=np.float64)


def lesion_percentiles(rows: Iterable[Mapping[str, Any]], percentiles: Sequence[float]) -> npt.NDArray[np.float64]:
    """Percentiles of intensities where every lesion has the same weight, spread evenly over its voxels.

    The p-th is the lowest intensity at or below which p % of the weight lies (the inverse of the distribution function,
    Hyndman and Fan's type 1).
    """
    pairs = [(np.asarray(row["hu"], np.int64), np.asarray(row["voxels"], float)) for row in rows]
    hu = np.concatenate([values for values, _ in pairs])
    weights = np.concatenate([counts / counts.sum() for _, counts in pairs])
    order = np.argsort(hu, kind="stable")
    share = np.cumsum(weights[order]) / len(pairs)
    place = np.searchsorted(share, np.asarray(percentiles) / 100 - 1e-12)
    return np.asarray(hu[order][np.minimum(place, hu.size - 1)], dtype=np.float64)


def training_patients(split_file: Path) -> frozenset[str]:
    """Patients of the part `train` of a split: a CSV with the columns `patient` and `part`.

    Raises:
        ConfigError: the file cannot be read, lacks a column, or has no training patient.
    """
    try:
        with split_file.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"windows.split_file {split_file.name}: cannot be read ({type(error).__name__})") from error
    train = frozenset(row["patient"] for row in rows if row.get("patient") and row.get("part") == "train")
    if not train:
        raise ConfigError(
            f"windows.split_file {split_file.name}: expected columns patient and part with patients of part train, "
            f"found {len(rows)} row(s) without one; give the split.csv of a run"
        )
    return train


def _training_studies(cohort: Cohort, split_file: Path) -> tuple[CtStudy, ...]:
    train = training_patients(split_file)
    studies = tuple(study for study in cohort.ct_studies if study.patient in train)
    if not studies:
        raise ConfigError(
            f"windows.split_file {split_file.name}: expected training patients with a CT study, found none of the "
            f"{len(train)}; give the split of this cohort"
        )
    return studies


def _read_windows(file: Path) -> list[Row]:
    """The table of windows of another store."""
    try:
        rows = read_rows(file, WINDOWS)
    except StoreError:
        raise InputError(
            f"windows.table {file.name}: expected a windows.parquet of this format, found something else"
        ) from None
    if not rows or any(not row["low_hu"] < row["high_hu"] for row in rows):
        raise InputError(f"windows.table {file.name}: expected windows whose low end is below the high one")
    return [{column.name: row[column.name] for column in WINDOWS.columns} for row in rows]

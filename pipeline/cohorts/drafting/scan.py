"""Which files a folder holds, by what they could be."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...radiology.dicom_header import is_dicom

SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".tif", ".tiff")
ANNOTATIONS = (".xml", ".geojson")
VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
TABLES = (".csv", ".tsv", ".xlsx", ".xls", ".ods", ".parquet")
_DICOM = (".dcm", ".dicom", ".ima")
_LITTER = ("thumbs.db", "desktop.ini")
_OURS = ("store.json", "run.json")
"""Files that mark a folder as a feature store or a training run of mumo."""


@dataclass
class Scan:
    """The files of a folder, as paths from it."""

    folder: Path
    slides: list[Path] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)
    volumes: list[Path] = field(default_factory=list)
    """Volumes and masks that are single files."""
    dicom: dict[Path, list[Path]] = field(default_factory=dict)
    """Folder → its DICOM files."""
    tables: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Ending → number of files that are none of these."""


def scan_folder(folder: Path, *, leave_out: frozenset[str] = frozenset()) -> Scan:
    """Everything below `folder`, links followed; hidden files, stores and runs of mumo are passed over.

    `leave_out` names files of the folder itself that are not looked at.
    """
    scan = Scan(folder)
    for place, names in _walk(folder):
        relative = place.relative_to(folder)
        for name in names:
            if relative == Path() and name in leave_out:
                continue
            _sort(scan, relative / name)
    return scan


def ending(path: Path) -> str:
    """The file's ending in lower case, `.nii.gz` as one."""
    return ".nii.gz" if path.name.lower().endswith(".nii.gz") else path.suffix.lower()


def stem(path: Path) -> str:
    """The file's name without its ending."""
    return path.name[: len(path.name) - len(ending(path))]


def _walk(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, both in order; a folder that links lead to twice is looked at once."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or (place != str(folder) and set(_OURS) & set(names)):
            folders.clear()
            continue
        seen.add(real)
        mirax = {name[: -len(".mrxs")] for name in names if name.lower().endswith(".mrxs")}
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in mirax)
        yield Path(place), sorted(n for n in names if not n.startswith(".") and n.lower() not in _LITTER)


def _sort(scan: Scan, path: Path) -> None:
    kind = ending(path)
    for endings, found in (
        (SLIDES, scan.slides),
        (ANNOTATIONS, scan.annotations),
        (VOLUMES, scan.volumes),
        (TABLES, scan.tables),
    ):
        if kind in endings:
            found.append(path)
            return
    # slices of archives often have no ending, or a number after a point
    unnamed = not kind or kind[1:].isdecimal()
    if kind in _DICOM or (unnamed and is_dicom(scan.folder / path)):
        scan.dicom.setdefault(path.parent, []).append(path)
    else:
        scan.others[kind or "no ending"] += 1

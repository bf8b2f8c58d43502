"""Rows of the table of slides: which files are slides, which annotation belongs to each, what is still to fill in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ....config import TilesSettings
from ...pathology.annotations import read_annotations
from ...pathology.slides import SlideError, open_image, resolve_mpp
from .naming import Naming, NoPatient, SafeIds
from .scan import Scan, stem


@dataclass(frozen=True)
class SlideRow:
    """A row of the table of slides."""

    slide: str
    patient: str
    """As it stands in the path."""
    path: Path
    annotation: Path | None
    has_mpp: bool
    """Whether the file records its resolution."""


@dataclass(frozen=True)
class Slides:
    """The slides of a folder."""

    rows: tuple[SlideRow, ...]
    groups: tuple[str, ...]
    """Groups of all annotations."""
    unplaced: tuple[tuple[Path, str], ...]
    """Files that could be slides or annotations, and why they are none."""


def draft_slides(
    scan: Scan, naming: Naming, study_ids: dict[str, str], looked_at: Callable[[], None] = lambda: None
) -> Slides:
    """The slides of `scan`; `study_ids` maps patients to ids that may stand in the slides' own.

    `looked_at` is called after each file that could be a slide.
    """
    settings = TilesSettings()
    ids = SafeIds("slide")
    rows, unplaced, groups = [], [], set()
    left = set(scan.annotations)
    folders = _slide_folders(scan)
    for path in sorted([*scan.slides, *folders]):
        if path not in folders:
            looked_at()
        try:
            patient = naming.patient_of(path)
            has_mpp = _has_mpp(scan.folder / path, settings)
        except NoPatient as reason:
            unplaced.append((path, str(reason)))
            continue
        except SlideError as error:
            unplaced.append((path, error.parts[2].removeprefix(f"{path.name}, which is ")))
            continue
        annotation = _annotation_of(path, [one for one in scan.annotations if one in left], scan.slides)
        if annotation is not None:
            left.discard(annotation)
            try:
                found = read_annotations(scan.folder / annotation, "", settings)
                groups |= {region.group for region in found.regions}
            except SlideError as error:
                unplaced.append((annotation, error.parts[2]))
                annotation = None
        name = stem(path).replace(patient, study_ids.get(patient, patient))
        rows.append(SlideRow(ids.of_name(name), patient, path, annotation, has_mpp))
    unplaced += [(path, "an annotation that is named like no slide, or like several") for path in sorted(left)]
    return Slides(tuple(rows), tuple(sorted(groups)), tuple(unplaced))


def _slide_folders(scan: Scan) -> list[Path]:
    """Folders of DICOM instances that are one slide."""
    import openslide

    return [
        folder
        for folder, files in scan.dicom.items()
        if any(openslide.OpenSlide.detect_format(str(scan.folder / file)) == "dicom" for file in files[:1])
    ]


def _has_mpp(file: Path, settings: TilesSettings) -> bool:
    """Whether a slide says its resolution; SlideError where it is none."""
    with open_image(file, "", settings.max_pixels) as image:
        try:
            resolve_mpp(image.properties, None, settings, "")
        except SlideError as error:
            if error.parts[1] != "mpp":
                raise
            return False
    return True


def _annotation_of(slide: Path, annotations: Sequence[Path], slides: Sequence[Path]) -> Path | None:
    """The annotation that is named like the slide: the same name, or its name and more after a sign; one only."""
    fitting = [one for one in annotations if _like(one, slide)]
    beside = [one for one in fitting if one.parent == slide.parent]
    chosen = beside or fitting
    if len(chosen) != 1:
        return None
    better = [
        other for other in slides if other != slide and _like(chosen[0], other) and len(stem(other)) > len(stem(slide))
    ]
    return None if better else chosen[0]


def _like(annotation: Path, slide: Path) -> bool:
    own, wanted = stem(annotation).casefold(), stem(slide).casefold()
    return own == wanted or (own.startswith(wanted) and not own[len(wanted)].isalnum())

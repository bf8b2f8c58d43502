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
    """Whether the file records its resolution; not known of one that cannot be read."""
    unreadable: str = ""
    """Why the file cannot be read, where that is so: it has a row all the same, so that its failure is recorded."""

    @property
    def needs_mpp(self) -> bool:
        """Whether the resolution is the user's to fill in."""
        return not self.has_mpp and not self.unreadable


@dataclass(frozen=True)
class Slides:
    """The slides of a folder."""

    rows: tuple[SlideRow, ...]
    groups: tuple[str, ...]
    """Groups of all annotations."""
    unplaced: tuple[tuple[Path, str], ...]
    """Slides of no patient and annotations of no slide, and why."""


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
        except NoPatient as reason:
            unplaced.append((path, str(reason)))
            continue
        has_mpp, unreadable = _look_at(scan.folder / path, settings)
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
        rows.append(SlideRow(ids.of_name(name), patient, path, annotation, has_mpp, unreadable))
    unplaced += [(path, "an annotation that is named like no slide, or like several") for path in sorted(left)]
    return Slides(tuple(rows), tuple(sorted(groups)), tuple(unplaced))


def _slide_folders(scan: Scan) -> list[Path]:
    """Folders of DICOM instances that are one slide."""
    import openslide

    return [
        folder
        for folder, files in scan.dicom.items()
        # the last one, too, for the first may be damaged
        if any(openslide.OpenSlide.detect_format(scan.folder / file) == "dicom" for file in {files[0], files[-1]})
    ]


def _look_at(file: Path, settings: TilesSettings) -> tuple[bool, str]:
    """Whether a slide says its resolution, and why it cannot be read, empty where it can."""
    try:
        with open_image(file, "", settings.max_pixels) as image:
            resolve_mpp(image.properties, None, settings, "")
    except SlideError as error:
        return False, "" if error.parts[1] == "mpp" else error.parts[2].removeprefix(f"{file.name}, which is ")
    return True, ""


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

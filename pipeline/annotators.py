"""Other annotators, simulated: outlines and boxes moved a little, and a store in which only what they touch is new.

The moves are relative to the size of what is outlined, so that they mean the same on any slide or scan; see
`pathology.varied` for outlines and `radiology.varied` for boxes.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..config import RoisSettings
from ..errors import ConfigError
from ..stores.places import Place
from ..stores.records import Store
from .cohorts.cohort import Cohort, CtStudy
from .cohorts.variation import Variation
from .pathology.regions import LABEL_SUFFIXES
from .radiology.geometry import ImageError
from .radiology.varied import vary_box
from .radiology.volumes import read_header

STAGES = ("tiles", "rois", "embed", "radiomics")
"""What is extracted anew; the windows stay those that the model was trained with."""

_NOT_COPIED = {"runs", "packed", "drivers", "leases", "staging"}


@dataclass(frozen=True)
class Varied:
    """A cohort as another annotator might have drawn it."""

    cohort: Cohort
    slides: int
    """Slides whose outlines are moved."""
    lesions: int
    """Lesions whose boxes are moved."""
    left: int
    """Slides with a label image, and lesions with a mask and no box: taken as they are."""
    patients: frozenset[str]
    """Patients with a slide or lesion that is moved."""


def vary_cohort(cohort: Cohort, variation: Variation, settings: RoisSettings) -> Varied:
    """The cohort with the outlines of its annotation files and the boxes of its lesions moved.

    Label images and masks of lesions stay as they are, and so does a lesion whose volume cannot be read.
    """
    slides, studies = [], []
    outlined = boxes = left = 0
    patients: set[str] = set()
    for slide in cohort.slides:
        polygons = slide.annotation is not None and slide.annotation.suffix.lower() not in LABEL_SUFFIXES
        slides.append(replace(slide, variation=variation) if polygons else slide)
        outlined += polygons
        left += slide.annotation is not None and not polygons
        patients |= {slide.patient} if polygons else set()
    for study in cohort.ct_studies:
        moved = _vary_study(study, variation, settings)
        changed = sum(new.box != old.box for new, old in zip(moved.lesions, study.lesions, strict=True))
        studies.append(moved)
        boxes += changed
        left += sum(lesion.box is None for lesion in study.lesions)
        patients |= {study.patient} if changed else set()
    varied = replace(cohort, slides=tuple(slides), ct_studies=tuple(studies))
    return Varied(varied, outlined, boxes, left, frozenset(patients))


def seed_store(store: Place, target: Path, variation: Variation) -> Store:
    """A store in `target` that has everything of `store`, as links to the same files: nothing is copied.

    Files of a store are replaced, never changed, so what is extracted anew in one of them leaves the other alone.
    A store of the same variation that is there already, of a run that was cut short, is taken as it is.

    Raises:
        ConfigError: `store` is a URL, lies on another disk, or `target` is something else.
    """
    mark = target / "variation.json"
    wanted = json.dumps({"store": str(store), **asdict(variation)}, sort_keys=True)
    if not isinstance(store, Path):
        raise ConfigError(f"{store}: is a URL; copy the store to a local folder first")
    if mark.is_file() and mark.read_text() == wanted:
        return Store.open(target)
    if target.exists():
        raise ConfigError(f"{target}: is there already and of something else; choose another folder, or delete it")
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        shutil.copytree(store, unfinished, copy_function=os.link, ignore=_passed_over)
    except (OSError, shutil.Error) as error:
        raise ConfigError(
            f"{target}: the files of the store cannot be linked there; choose a folder on the same disk"
        ) from error
    (unfinished / mark.name).write_text(wanted)
    unfinished.rename(target)
    return Store.open(target)


def _passed_over(folder: str, names: list[str]) -> set[str]:
    """What belongs to runs and processes, not to the content of a store."""
    return _NOT_COPIED & set(names)


def _vary_study(study: CtStudy, variation: Variation, settings: RoisSettings) -> CtStudy:
    if not any(lesion.box is not None for lesion in study.lesions):
        return study
    try:
        header = read_header(
            study.path,
            max_voxels=settings.max_voxels,
            series_uid=study.series_uid,
            slice_tolerance=settings.slice_tolerance,
        )
    except (ImageError, OSError):
        return study
    lesions = (
        lesion if lesion.box is None else replace(lesion, box=vary_box(header, lesion, study.ct, variation))
        for lesion in study.lesions
    )
    return replace(study, lesions=tuple(lesions))

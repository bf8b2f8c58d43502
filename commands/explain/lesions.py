"""Grad-CAM of a patient's lesions: the trained head in front, the backbone that made the features behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...config import EmbedSettings, Settings
from ...errors import ConfigError, InputError
from ...stores import arrays
from ...stores.specs import LESION_CROPS

if TYPE_CHECKING:
    from ...fusion.explain import Explained, Explainer
    from ...pipeline.networks.backbone import Backbone
    from ...stores.records import Store

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LesionMap:
    """One lesion as the network sees it."""

    item: str
    name: str
    slices: npt.NDArray[np.uint8]
    """[slice, y, x] of the plain view of the stored crop."""
    cam: Floats
    """[y, x] signed Grad-CAM, coarse."""


def backbone_of_run(explainer: Explainer, store: Store, settings: Settings, device: str) -> Backbone:
    """The backbone that made the features that the run was trained on.

    Its name is what the store says; its weights are those of the settings or, where these are silent, what the store
    says, unless that is a file, which must be given.

    Raises:
        ConfigError: weights of another SHA-256 than those that the run was trained with, or a file that is not given.
        InputError: weights that cannot be had.
    """
    from ...pipeline.networks.backbone import load_backbone

    embed, run = settings.embed, explainer.members[0].run.info
    given = embed.model_fields_set
    item = next((item for item in store.records("embed") if item.startswith("ct-")), "")
    record = store.record("embed", item)
    found = "" if record is None else str(record.summary.get("backbone", ""))
    changes: dict[str, Any] = {}
    if found and "backbone" not in given:
        changes["backbone"] = found
    if "weights" not in given:
        named = str(run["weights"])
        if named != "imagenet" and not named.startswith("random:"):
            raise ConfigError(
                f"Grad-CAM needs the weights of the backbone, the file {named}: name it with --set embed.weights=PATH, "
                "or leave Grad-CAM out with --no-grad-cam"
            )
        changes["weights"] = named
    chosen = EmbedSettings(**{**embed.model_dump(), **changes})
    try:
        backbone = load_backbone(chosen, device)
    except InputError as error:
        raise InputError(f"{error}; or leave Grad-CAM out with --no-grad-cam") from error
    trained = str(run["weights_sha256"])
    if backbone.weights_sha256 != trained:
        raise ConfigError(
            f"Grad-CAM: the weights {backbone.weights_name} of {backbone.name} have SHA-256 "
            f"{backbone.weights_sha256[:12]}…, expected those that the run was trained with, {run['weights']} "
            f"({trained[:12]}…); set embed.backbone and embed.weights to these, or leave it out with --no-grad-cam"
        )
    return backbone


def lesion_maps(store: Store, explained: Explained, backbone: Backbone, average: Floats) -> list[LesionMap]:
    """Grad-CAM of the output that is explained, for each lesion of a patient, from the stored crops.

    The gradient is that of the mean over the members that explain the patient, and over the path from lesions of
    `average` [width] features, the mean of all lesions; maps are 0 for tissue like these, and for a backbone whose
    features are plain means of its last maps, all maps of a patient sum to the output less that of average lesions.
    """
    from ...pipeline.networks.grad_cam import grad_cam

    slopes = explained.lesion_slopes
    if slopes is None:
        return []
    maps, row = [], 0
    sources = explained.sources["radiology"]
    for item in dict.fromkeys(item for item, _ in sources):
        names = [name for source, name in sources if source == item]
        crops = arrays.open_array(arrays.open_group(store.part("rois", item, "crops.zarr")), LESION_CROPS)
        slices = np.asarray(crops[:, 0])  # (lesion, slice, y, x)
        cams = grad_cam(backbone, np.moveaxis(slices, 1, -1), slopes[row : row + len(names)], average)
        maps += [LesionMap(item, *found) for found in zip(names, slices, cams, strict=True)]
        row += len(names)
    return maps


def write_lesion_maps(folder: Path, maps: list[LesionMap], explained: Explained) -> list[dict[str, Any]]:
    """A picture of each lesion; returns what the page says of it."""
    from .pictures import write_lesion

    shown, noun = [], explained.wording.noun
    parts = explained.units["radiology"]
    for number, found in enumerate(maps):
        file = f"{found.item}-lesion-{number + 1}.png"
        write_lesion(folder / file, found.slices, found.cam, f"{found.item}, lesion {found.name}", noun)
        shown.append(
            {
                "file": file,
                "name": f"{found.item}, lesion {found.name}",
                "weight": float(parts.weight[number]),
                "effect": float(parts.effect[number]),
            }
        )
    return shown

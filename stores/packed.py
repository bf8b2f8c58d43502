"""The trainer's arrays as they lie in a pack, and how a pack is read.

Features of all bags (or lesions) lie one after another, patient after patient; `offsets` says where each patient's
begin. Deep features and omics are memory-mapped, the small arrays are read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import StoreError

PACK_VERSION = 1
"""Raised when the files of a pack change; part of the key."""

MODALITIES = ("pathology", "radiology")
"""Imaging modalities, in the order of everything that is kept for each."""

TIME_CLASSES = 3
"""Acquisition-time classes."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CodeItem:
    """One item of a report or of patient information."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Codes:
    """The items of one group (`pathology_report`, `radiology_report`, `patient_information`)."""

    items: tuple[CodeItem, ...]
    values: Array
    """[patient, class of the first item, …, class of the last] float32; all zero within an item: unknown."""

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of classes of each item."""
        return tuple(len(item.classes) for item in self.items)


@dataclass(frozen=True, eq=False)
class Units:
    """The bags (pathology) or lesions (radiology) of all patients, patient after patient."""

    features: Array
    """[unit, word or view, feature] float16; view 0 of a lesion is the plain one."""
    offsets: Array
    """[patient + 1] int64: the units of patient p are `offsets[p]` to `offsets[p + 1]`."""
    classes: Array
    """[unit] int8: region class of a bag (−1 unknown), or index of a lesion's type in `config.LESION_TYPES`."""
    word_classes: Array
    """[unit, word] int8: region class of words, −1 unknown; [unit, 0] for lesions."""
    omics: Array
    """[unit, column] float32; NaN where a value is missing."""
    omics_known: Array
    """[unit] bool: false where all omics values are missing."""
    sources: Array
    """[unit] text: the item of the store, `slide-<id>` or `ct-<id>`."""
    names: Array
    """[unit] text: number of the bag in its slide, or id of the lesion in its study."""
    omics_columns: tuple[str, ...]

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """[patient] number of units."""
        return np.diff(self.offsets)

    @property
    def has_words(self) -> bool:
        """Whether the middle axis of `features` counts words (of a bag) and not views (of a lesion)."""
        return bool(self.word_classes.shape[1])


@dataclass(frozen=True, eq=False)
class Packed:
    """Everything that training reads."""

    key: str
    """Fingerprint of the content."""
    patients: tuple[str, ...]
    centres: tuple[str, ...]
    labels: Array
    """[patient] int8: 1 responder, 0 non-responder, −1 unknown."""
    days: dict[str, Array]
    """`pfs` and `os`: [patient] float64 days, NaN unknown."""
    events: dict[str, Array]
    """`pfs` and `os`: [patient] int8: 1 event observed, 0 censored, −1 unknown."""
    units: dict[str, Units]
    """For each of `MODALITIES`."""
    times: dict[str, Array]
    """For each of `MODALITIES`: [patient, 3] float32, one-hot acquisition time, all zero when unknown."""
    codes: dict[str, Codes]
    """For each group."""
    weights: str
    """Name of the backbone's weights; empty without deep features."""
    weights_sha256: str
    windows_digest: str
    """Digest of the grey-level windows of the CT; empty without any."""
    warnings: tuple[str, ...] = field(default=())
    """What is missing and how often, as sentences."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """[patient] imaging modalities that are there: `both`, `pathology`, `radiology` or `none`."""
        have = {name: units.counts > 0 for name, units in self.units.items()}
        names = {(True, True): "both", (True, False): "pathology", (False, True): "radiology", (False, False): "none"}
        pairs = zip(have["pathology"].tolist(), have["radiology"].tolist(), strict=True)
        return tuple(names[pair] for pair in pairs)


def load_pack(folder: Path, missing: Sequence[str]) -> Packed:
    """The pack in `folder`; `missing` are further warnings that it carries."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise StoreError(f"packed/{folder.name}: not readable ({error}); delete this folder") from error
    units = {
        modality: Units(
            omics_columns=tuple(meta["omics_columns"][modality]),
            **{
                name: _array(folder, f"{modality}_{name}", mapped=name in ("features", "omics"))
                for name in (
                    "features",
                    "offsets",
                    "classes",
                    "word_classes",
                    "omics",
                    "omics_known",
                    "sources",
                    "names",
                )
            },
        )
        for modality in MODALITIES
    }
    codes = {
        group: Codes(
            tuple(CodeItem(item["name"], tuple(item["classes"])) for item in items), _array(folder, f"{group}_codes")
        )
        for group, items in meta["codes"].items()
    }
    return Packed(
        key=meta["key"],
        patients=tuple(meta["patients"]),
        centres=tuple(meta["centres"]),
        labels=_array(folder, "labels"),
        days={endpoint: _array(folder, f"{endpoint}_days") for endpoint in ("pfs", "os")},
        events={endpoint: _array(folder, f"{endpoint}_events") for endpoint in ("pfs", "os")},
        units=units,
        times={modality: _array(folder, f"{modality}_times") for modality in MODALITIES},
        codes=codes,
        weights=meta["weights"],
        weights_sha256=meta["weights_sha256"],
        windows_digest=meta["windows_digest"],
        warnings=(*missing, *meta["warnings"]),
    )


def _array(folder: Path, name: str, *, mapped: bool = False) -> Array:
    file = folder / f"{name}.npy"
    try:
        array: Array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"packed/{folder.name}/{name}.npy: not readable ({error}); delete this folder") from error
    return array

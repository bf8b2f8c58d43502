"""Every array and every table column of every store, declared once.

A store is a folder, or the same names under a prefix of an object store:

    STORE/
      store.json                        format version
      <stage>/items/<item>/<folder>/<part>   what one task wrote: Zarr groups and Parquet tables
      <stage>/records/<item>.json       completion record; only items that have one exist for readers
      <stage>/failures/<item>.json      why an item failed, until it succeeds
      <stage>/staging/                  unfinished work; swept by the next run
      <stage>/leases/                   which driver is at which item
      drivers/                          signs of life of the drivers at work
      runs/<time>/                      what each `extract` did
      packed/<key>/                     contiguous arrays for the trainer

Items are named `slide-<slide id>`, `ct-<study id>` or `cohort`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

FORMAT_VERSION = 1
"""Version of everything written below STORE; readers refuse any other."""

STAGES = ("tiles", "windows", "rois", "embed", "radiomics", "clinical")
"""Stages in the order of their dependencies."""


@dataclass(frozen=True)
class ArraySpec:
    """One array of a Zarr group."""

    name: str
    dtype: Literal["uint8", "int16", "int64", "float16", "float32"]
    dims: tuple[str, ...]
    unit: str
    meaning: str
    chunk: tuple[int | None, ...]
    """Chunk length along each dimension; None = the whole length."""


@dataclass(frozen=True)
class Column:
    """One column of a Parquet table."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    nullable: bool = False


@dataclass(frozen=True)
class TableSpec:
    """One Parquet table. `open_ended` tables take further float64 columns (features) after the declared ones."""

    name: str
    columns: tuple[Column, ...]
    open_ended: bool = False
    metadata: dict[str, str] = field(default_factory=dict)

    def schema(self, extra: tuple[str, ...] = ()) -> pa.Schema:
        """Arrow schema, with `extra` float64 columns appended for an open-ended table."""
        if extra and not self.open_ended:
            raise ValueError(f"table {self.name} takes no further columns, got {extra[:3]}")
        fields = [pa.field(c.name, c.type, nullable=c.nullable) for c in self.columns]
        fields += [pa.field(name, pa.float64(), nullable=False) for name in extra]
        return pa.schema(fields, metadata={"format_version": str(FORMAT_VERSION), "table": self.name})


def _text(name: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, pa.string(), "", meaning, nullable)


def _number(name: str, kind: pa.DataType, unit: str, meaning: str, nullable: bool = False) -> Column:
    return Column(name, kind, unit, meaning, nullable)


_triple = pa.list_(pa.float32(), 3)
_PATIENT = _text("patient", "study id of the patient")
_SLIDE = _text("slide", "id of the slide")
_CT = _text("ct", "id of the CT study")
_LESION = _text("lesion", "id of the lesion, unique within the study")
_CENTRE = _text("centre", "centre that treated the patient")
_LESION_TYPE = _text("lesion_type", "one of the lesion types of the configuration")

# --- tiles: item slide-<id> ------------------------------------------------------------------------------
BAG_PIXELS = ArraySpec(
    "pixels",
    "uint8",
    ("bag", "y", "x", "rgb"),
    "0–255",
    "bags at the working resolution after colour normalisation",
    (1, 512, 2048, 3),
)
"""In the Zarr group `pixels.zarr`; attributes `mpp`, `word_px`."""

BAG_PLACES = ArraySpec("places", "int64", ("bag", "xy"), "px, level 0", "upper left corners of the bags", (None, None))
"""In `pixels.zarr` in place of the pixels where `tiles.pixels` is `none`; attributes as `pipeline.bags` writes them."""

BAGS = TableSpec(
    "bags",
    (
        _PATIENT,
        _SLIDE,
        _number("bag", pa.int32(), "", "number of the bag in the slide, from 0, in the order of `pixels`"),
        _number("x_level0", pa.int64(), "px, level 0", "left edge"),
        _number("y_level0", pa.int64(), "px, level 0", "top edge"),
        _number("size_level0", pa.float64(), "px, level 0", "side"),
        _number("mpp", pa.float64(), "µm/px", "working resolution"),
        _number("region_class", pa.int8(), "", "majority class of the bag's pixels, 0–3; −1 without annotation"),
        _number("region_share", pa.float32(), "", "share of the bag inside the regions"),
        _number("tissue_share", pa.float32(), "", "share of the bag that is tissue"),
        _number(
            "word_classes",
            pa.list_(pa.int8()),
            "",
            "majority class of each word, row-major; −1 without annotation",
        ),
        _number("lab_mean", _triple, "CIE Lab", "mean over tissue before normalisation; NaN without tissue"),
        _number("lab_std", _triple, "CIE Lab", "standard deviation over tissue before; NaN without tissue"),
        _number("lab_mean_after", _triple, "CIE Lab", "mean over tissue after normalisation"),
        _number("lab_std_after", _triple, "CIE Lab", "standard deviation over tissue after"),
        _number("normalised", pa.bool_(), "", "false where there was too little tissue to normalise"),
        _number("white_balanced", pa.bool_(), "", "whether white balance was applied first"),
    ),
)

# --- windows: items ct-<id> (histograms) and cohort (windows) ---------------------------------------------
HISTOGRAMS = TableSpec(
    "histograms",
    (
        _PATIENT,
        _CT,
        _LESION,
        _LESION_TYPE,
        _CENTRE,
        _number("hu", pa.list_(pa.int32()), "HU", "intensities that occur in the lesion, rounded, increasing"),
        _number("voxels", pa.list_(pa.int64()), "", "number of voxels with that intensity"),
    ),
)

WINDOWS = TableSpec(
    "windows",
    (
        _text("level", "`pair` (type and centre), `type`, or `cohort`: the first that exists is used"),
        _text("lesion_type", "lesion type; empty on level `cohort`"),
        _text("centre", "centre; empty on levels `type` and `cohort`"),
        _number("low_hu", pa.float64(), "HU", "lower end of the window"),
        _number("high_hu", pa.float64(), "HU", "upper end of the window"),
        _number("lesions", pa.int32(), "", "number of lesions behind it"),
    ),
)

# --- rois: item ct-<id> -----------------------------------------------------------------------------------
LESION_CROPS = ArraySpec(
    "crops",
    "uint8",
    ("lesion", "view", "slice", "y", "x"),
    "0–255 over the window",
    "three-slice crops; view 0 is plain, the others are augmented for training",
    (1, None, None, None, None),
)
"""In the Zarr group `crops.zarr`."""

LESION_INTENSITY = ArraySpec(
    "intensity", "float32", ("z", "y", "x"), "HU", "intensities around one lesion", (None, None, None)
)
LESION_MASK = ArraySpec("mask", "uint8", ("z", "y", "x"), "", "1 inside the lesion", (None, None, None))
"""In one Zarr group a lesion, `volumes.zarr/<row number in lesions.parquet>`. Attribute of the whole: `lesions`, their
number; attributes of each: `patient`, `ct`, `lesion`, `spacing_mm` (x, y, z). Radiomics reads nothing else, so that new
windows do not touch it."""

LESIONS = TableSpec(
    "lesions",
    (
        _PATIENT,
        _CT,
        _LESION,
        _LESION_TYPE,
        _CENTRE,
        _number("slice_z", pa.int32(), "voxel", "axial slice with the largest lesion area, in LPS order"),
        _number("edge_slice", pa.bool_(), "", "a neighbour was missing and the slice itself stands for it"),
        _number("area_mm2", pa.float64(), "mm²", "lesion area in that slice"),
        _number("volume_mm3", pa.float64(), "mm³", "lesion volume"),
        _number(
            "box_mm",
            pa.list_(pa.float64(), 6),
            "mm, LPS",
            "corners of the lesion's box: x, y, z low; x, y, z high",
        ),
        _number("spacing_mm", pa.list_(pa.float64(), 3), "mm", "voxel size x, y, z"),
        _text("mask_source", "`given`, `network` or `threshold` (the classical fallback inside the box)"),
        _text("window_level", "level of the window that was used: `pair`, `type` or `cohort`"),
        _number("low_hu", pa.float64(), "HU", "lower end of the window that was used"),
        _number("high_hu", pa.float64(), "HU", "upper end of the window that was used"),
    ),
)

# --- embed: items slide-<id> and ct-<id>, group `features.zarr` --------------------------------------------
WORD_FEATURES = ArraySpec(
    "words", "float16", ("bag", "word", "feature"), "", "deep features of words", (16, None, None)
)
LESION_FEATURES = ArraySpec(
    "lesions", "float16", ("lesion", "view", "feature"), "", "deep features of lesion views", (16, None, None)
)

# --- radiomics: items slide-<id> and ct-<id>, table `features.parquet` -------------------------------------
OMICS = TableSpec(
    "omics",
    (
        _PATIENT,
        _text("source", "id of the slide or CT study"),
        _text("unit", "number of the bag or id of the lesion, in the order of the upstream table"),
        _text("engine", "`fast` or `pyradiomics`"),
        _text("reason", "why the features are NaN; empty when they are there"),
    ),
    open_ended=True,
)

# --- clinical: item cohort ---------------------------------------------------------------------------------
PATIENTS = TableSpec(
    "patients",
    (
        _PATIENT,
        _CENTRE,
        _text("treatment_group", "treatment group, which sets the cut-off of the label rule"),
        _number("label", pa.int8(), "", "1 responder, 0 non-responder, null unknown", nullable=True),
        _text("label_rule", "which rule gave the label: `recist`, `pfs`, `censored` or `missing`"),
        _number("pfs_days", pa.float64(), "days", "progression-free survival", nullable=True),
        _number("pfs_event", pa.bool_(), "", "progression or death observed", nullable=True),
        _number("os_days", pa.float64(), "days", "overall survival", nullable=True),
        _number("os_event", pa.bool_(), "", "death observed", nullable=True),
        _number(
            "pathology_time",
            pa.int8(),
            "",
            "acquisition class 0–2 of the slides, null unknown",
            nullable=True,
        ),
        _number("radiology_time", pa.int8(), "", "acquisition class 0–2 of the CT, null unknown", nullable=True),
    ),
)

IMAGES = TableSpec(
    "images",
    (_PATIENT, _text("item", "`slide-<id>` or `ct-<id>`: the patient's slides and CT studies in the cohort")),
)
"""What the cohort holds now: items of a store that are not listed have left the cohort and are not trained on."""

MEASURES = TableSpec(
    "measures",
    (
        _PATIENT,
        _text("item", "age, tils, tumour_proportion or metastatic_lesions"),
        _text("unit", "unit of the value; empty for counts and shares"),
        _number("value", pa.float64(), "", "the number as the cohort's tables have it; unknown ones have no row"),
    ),
)
"""Numbers behind the codes, for describing the cohort; the model reads the codes alone."""

CodeGroup = Literal["pathology_report", "radiology_report", "patient_information"]


@dataclass(frozen=True)
class CodeSpec:
    """One item of a report or of patient information: a vector with one place a class, all zero when unknown."""

    group: CodeGroup
    name: str
    classes: tuple[str, ...]
    kind: Literal["one-hot", "multi-hot", "shares"]
    meaning: str


CODES_SCHEMA = pa.schema(
    [
        pa.field("patient", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("classes", pa.list_(pa.string()), nullable=False),
        pa.field("code", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={"format_version": str(FORMAT_VERSION), "table": "codes"},
)
"""Table `codes.parquet`: one row a patient and item (see `CodeSpec`), every patient having every item, so that the
trainer learns names and widths from the store."""

# --- run folders ------------------------------------------------------------------------------------------
PREDICTIONS = TableSpec(
    "predictions",
    (
        _PATIENT,
        _CENTRE,
        _text("part", "train, validation, test, or external"),
        _text("modalities", "imaging modalities present: `both`, `pathology`, `radiology` or `none`"),
        _number("probability", pa.float64(), "", "predicted probability of response"),
        _number("risk", pa.float64(), "log hazard", "predicted relative risk; higher is worse"),
        _number("label", pa.int8(), "", "1 responder, 0 non-responder, null unknown", nullable=True),
        _number("pfs_days", pa.float64(), "days", "progression-free survival", nullable=True),
        _number("pfs_event", pa.bool_(), "", "progression or death observed", nullable=True),
        _number("os_days", pa.float64(), "days", "overall survival", nullable=True),
        _number("os_event", pa.bool_(), "", "death observed", nullable=True),
    ),
)

EXPLANATIONS = TableSpec(
    "explanations",
    (
        _PATIENT,
        _text(
            "kind",
            "`prediction`, or `bag`, `word`, `lesion`, `item` or the name of a table with ` weight` or ` effect` "
            "after it, or `omics`",
        ),
        _text("item", "`slide-<id>` or `ct-<id>`, group of an item, or modality of omics features"),
        _text("name", "number of the bag, bag/word, id of the lesion, name of the item or of the feature"),
        _number(
            "value",
            pa.float64(),
            "",
            "weight: share of 1; effect and omics: log hazard of the risk or log odds of the response, as `of` in "
            "`explain.json` says, omics features summed over bags or lesions",
        ),
    ),
)
"""`explanations.parquet` of `mumo explain`."""

CLINICAL = TableSpec(
    "clinical",
    (
        _PATIENT,
        _text("group", "group of the item's code, or `measures`"),
        _text("item", "name of the report item, item of patient information, or measure"),
        _text("unit", "unit of a measure"),
        _number("classes", pa.list_(pa.string()), "", "classes of the code; none for a measure"),
        _number("code", pa.list_(pa.float32()), "", "the code, all zero when unknown; none for a measure"),
        _number("value", pa.float64(), "", "value of a measure; null for codes", nullable=True),
    ),
)
"""`clinical.parquet` of a run: what describes its patients in the report."""

RUN_ITEMS = TableSpec(
    "run_items",
    (
        _text("stage", "stage"),
        _text("item", "item"),
        _text("result", "`ok`, `empty`, `failed`, or `skipped`"),
        _text("reason", "why it was skipped, or what the error was", nullable=True),
        _text("error", "class of the error", nullable=True),
        _number("attempts", pa.int32(), "", "how often it was tried; 0 when it was not"),
        _number("seconds", pa.float64(), "s", "time of all attempts with their waits"),
        _number("compute_s", pa.float64(), "s", "the stage's own work in the last attempt"),
        _number("commit_s", pa.float64(), "s", "digests, flush, move and record"),
        _number("peak_mb", pa.float64(), "MB", "highest resident memory of the item's process", nullable=True),
        _number("bytes", pa.int64(), "B", "size of what was stored"),
    ),
)
"""`runs/<time>/items.parquet`: every planned item of one run."""


def record_fields() -> dict[str, Any]:
    """Fields of a completion record and their meaning."""
    return {
        "format_version": "version of the store's format",
        "stage": "stage that wrote the item",
        "item": "id of the item",
        "status": "`ok`, or `empty` when there was nothing to compute (a slide without tissue)",
        "fingerprint": "SHA-256 of `depends`",
        "depends": "everything that the item depends on: stage version, settings, sources, upstream parts",
        "parts": "digest of each file or Zarr group of the item",
        "summary": "small facts for reports: counts, warnings, names of weights",
        "seconds": "time of computing and writing",
        "folder": "folder below `items/<item>` that holds the parts",
        "bytes": "size of the parts",
        "mumo_version": "version of mumo that wrote it",
    }

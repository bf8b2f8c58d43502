"""Small packs with a known content, in memory and as stores, for tests of packing and of the trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mumo.config import LESION_TYPES
from mumo.stores import arrays, specs, tables
from mumo.stores.packed import CodeItem, Codes, Packed, Units
from mumo.stores.records import Store

ITEMS: dict[str, dict[str, int]] = {
    "pathology_report": {"tils": 10, "her2_heterogeneity": 4},
    "radiology_report": {"primary_present": 2, "lymph_node_sites": 5, "peritoneal_metastasis": 2},
    "patient_information": {"sex": 2, "age": 2, "lauren": 3, "disease_sites": 13},
}
"""Group → item → number of classes."""


def make_packed(
    patients: int = 12,
    *,
    seed: int = 0,
    signal: float = 0.0,
    missing: bool = True,
    width: int = 16,
    words: int = 4,
    views: int = 3,
    omics: int = 6,
    bags: int = 4,
    lesions: int = 3,
) -> Packed:
    """A pack of random numbers. `signal` is added to some features, omics and report items of responders.

    With `missing`, every pattern of images (both, pathology, radiology, none) occurs, labels, outcomes, report items,
    omics rows and acquisition times are missing here and there. Nobody has CT where there are 0 `lesions`.
    """
    rng = np.random.default_rng(seed)
    names = tuple(f"P{number:03d}" for number in range(patients))
    truth = np.arange(patients) % 2
    patterns = rng.permutation(np.arange(patients) % 4) if missing else np.zeros(patients, dtype=int)
    has = {"pathology": np.isin(patterns, (0, 1)), "radiology": np.isin(patterns, (0, 2)) & (lesions > 0)}
    labels = np.where(missing & (rng.random(patients) < 0.1), -1, truth).astype("int8")
    days, events = {}, {}
    for endpoint in ("pfs", "os"):
        days[endpoint] = np.ceil(rng.exponential(np.exp(signal * truth) * 200.0))
        events[endpoint] = (rng.random(patients) < 0.7).astype("int8")
        if missing:
            gone = rng.random(patients) < 0.1
            days[endpoint][gone], events[endpoint][gone] = np.nan, -1
    units = {
        "pathology": _units(
            rng, has["pathology"], truth, names, "pathology", (words, width, omics, bags), signal, missing
        ),
        "radiology": _units(
            rng, has["radiology"], truth, names, "radiology", (views, width, omics, lesions), signal, missing
        ),
    }
    times = {}
    for modality in units:
        classes = rng.integers(0, 4 if missing else 3, patients)
        times[modality] = np.eye(4, 3, dtype="float32")[classes]
    codes = {group: _codes(rng, group, truth, has, signal, missing) for group in ITEMS}
    centres = tuple("AB"[number] for number in rng.integers(0, 2, patients))
    return Packed(
        "0" * 64, names, centres, labels, days, events, units, times, codes, "random:0", "1" * 64, "", warnings=()
    )


def _units(
    rng: np.random.Generator,
    has: np.ndarray,
    truth: np.ndarray,
    names: Sequence[str],
    modality: str,
    sizes: tuple[int, int, int, int],
    signal: float,
    missing: bool,
) -> Units:
    middle, width, omics, most = sizes
    counts = np.where(has, rng.integers(1, max(most, 1) + 1, len(names)), 0)
    total, of = int(counts.sum()), np.repeat(np.arange(len(names)), counts)
    features = rng.normal(size=(total, middle, width))
    features[:, :, : width // 4] += signal * truth[of][:, None, None]
    values = rng.normal(size=(total, omics)).astype("float32")
    values[:, 0] += signal * truth[of]
    if missing and total:
        values[rng.random(total) < 0.2] = np.nan
        values[0, -1] = np.nan
    pathology = modality == "pathology"
    prefix = "slide-S" if pathology else "ct-C"
    positions = np.concatenate([np.arange(count) for count in counts]) if total else np.zeros(0, dtype=int)
    return Units(
        features=features.astype("float16"),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype("int64"),
        classes=rng.integers(-1 if pathology else 0, 4 if pathology else len(LESION_TYPES), total).astype("int8"),
        word_classes=rng.integers(-1, 4, (total, middle if pathology else 0)).astype("int8"),
        omics=values,
        omics_known=~np.isnan(values).all(axis=1),
        sources=np.array([f"{prefix}{names[p]}" for p in of], dtype=str),
        names=np.array([str(n) if pathology else f"L{n}" for n in positions], dtype=str),
        omics_columns=tuple(f"original_firstorder_F{n}" for n in range(omics)),
    )


def _codes(
    rng: np.random.Generator, group: str, truth: np.ndarray, has: dict[str, np.ndarray], signal: float, missing: bool
) -> Codes:
    patients, blocks = len(truth), []
    for number, (_, classes) in enumerate(ITEMS[group].items()):
        chosen = rng.integers(0, classes, patients)
        if number == 0:
            chosen = np.where(rng.random(patients) < min(0.9, signal / 2), truth % classes, chosen)
        block = np.eye(classes, dtype="float32")[chosen]
        if missing:
            block[rng.random(patients) < 0.3] = 0.0
        blocks.append(block)
    values = np.concatenate(blocks, axis=1)
    modality = group.removesuffix("_report")
    if modality in has:
        values[~has[modality]] = 0.0
    items = tuple(CodeItem(name, tuple(f"class {n}" for n in range(classes))) for name, classes in ITEMS[group].items())
    return Codes(items, values)


# --- as a store -------------------------------------------------------------------------------------------


def commit(
    store: Store,
    stage: str,
    item: str,
    write: Any,
    *,
    upstream: Sequence[tuple[str, str, str]] = (),
    status: Any = "ok",
    summary: dict[str, Any] | None = None,
) -> None:
    """Write one item as a stage would, with the digests of its upstream parts in its record."""
    digests = {}
    for up_stage, up_item, part in upstream:
        record = store.record(up_stage, up_item)
        assert record is not None
        digests[f"{up_stage}/{up_item}/{part}"] = record.parts[part]
    staging = store.begin(stage, item)
    write(staging)
    depends = {"stage": stage, "version": 1, "settings": {}, "inputs": {}, "upstream": digests, "sources": {}}
    store.commit(stage, item, staging, depends=depends, status=status, summary=summary or {}, seconds=0.0)


def write_store(path: Path, packed: Packed) -> Store:
    """A store whose pack has the content of `packed`."""
    store = Store.create(path)
    write_clinical(store, packed)
    for modality, units in packed.units.items():
        for patient, (low, high) in enumerate(zip(units.offsets[:-1], units.offsets[1:], strict=True)):
            if high > low:
                write_unit_items(store, packed, modality, packed.patients[patient], int(low), int(high))
    return store


def write_unit_items(
    store: Store, packed: Packed, modality: str, patient: str, low: int, high: int, *, item: str | None = None
) -> None:
    """The items of one slide or CT study, which has the units `low` to `high` of a pack."""
    units = packed.units[modality]
    item = item or str(units.sources[low])
    if modality == "pathology":
        index_stage, part, spec = "tiles", "bags.parquet", specs.BAGS
        rows = [_bag_row(patient, item, number, units, low + number) for number in range(high - low)]
    else:
        index_stage, part, spec = "rois", "lesions.parquet", specs.LESIONS
        rows = [_lesion_row(patient, item, units, number) for number in range(low, high)]
    commit(store, index_stage, item, lambda out: tables.write_table(out / part, rows, spec))
    upstream = [(index_stage, item, part)]
    features = specs.WORD_FEATURES if modality == "pathology" else specs.LESION_FEATURES

    def embed(out: Path) -> None:
        arrays.write_array(arrays.create_group(out / "features.zarr"), features, np.array(units.features[low:high]))

    commit(
        store,
        "embed",
        item,
        embed,
        upstream=upstream,
        summary={"weights": packed.weights, "weights_sha256": packed.weights_sha256},
    )
    unit = [row["bag" if modality == "pathology" else "lesion"] for row in rows]
    write_omics(
        store, item, patient, [str(name) for name in unit], units.omics[low:high], units.omics_columns, upstream
    )


def write_omics(
    store: Store,
    item: str,
    patient: str,
    unit: Sequence[str],
    values: Any,
    columns: Sequence[str],
    upstream: Sequence[tuple[str, str, str]] = (),
) -> None:
    """The `radiomics` item of one slide or CT study."""
    rows = [
        {
            "patient": patient,
            "source": item,
            "unit": name,
            "engine": "fast",
            "reason": "",
            **dict(zip(columns, row, strict=True)),
        }
        for name, row in zip(unit, np.asarray(values, dtype="float64").tolist(), strict=True)
    ]
    commit(
        store,
        "radiomics",
        item,
        lambda out: tables.write_table(out / "features.parquet", rows, specs.OMICS, extra=columns),
        upstream=upstream,
    )


def write_clinical(store: Store, packed: Packed) -> None:
    """The `clinical` item."""
    images: list[tuple[str, str]] = []
    for units in packed.units.values():
        for patient, (low, high) in enumerate(zip(units.offsets[:-1], units.offsets[1:], strict=True)):
            images += [(packed.patients[patient], item) for item in dict.fromkeys(map(str, units.sources[low:high]))]

    def known(value: Any) -> Any:
        return None if value < 0 or np.isnan(value) else value

    rows = []
    for p, patient in enumerate(packed.patients):
        row: dict[str, Any] = {
            "patient": patient,
            "centre": packed.centres[p],
            "treatment_group": "anti-HER2",
            "label": known(int(packed.labels[p])),
            "label_rule": "recist",
        }
        for endpoint in ("pfs", "os"):
            event = known(int(packed.events[endpoint][p]))
            row[f"{endpoint}_days"] = known(float(packed.days[endpoint][p]))
            row[f"{endpoint}_event"] = None if event is None else bool(event)
        for modality, one_hot in packed.times.items():
            row[f"{modality}_time"] = int(one_hot[p].argmax()) if one_hot[p].any() else None
        rows.append(row)
    code_rows = []
    for group, codes in packed.codes.items():
        ends = np.cumsum(codes.widths)
        for p, patient in enumerate(packed.patients):
            parts = np.split(codes.values[p], ends[:-1])
            code_rows += [
                {
                    "patient": patient,
                    "group": group,
                    "item": item.name,
                    "classes": list(item.classes),
                    "code": part.tolist(),
                }
                for item, part in zip(codes.items, parts, strict=True)
            ]

    def write(out: Path) -> None:
        tables.write_table(out / "patients.parquet", rows, specs.PATIENTS)
        tables.write_rows(out / "codes.parquet", code_rows, specs.CODES_SCHEMA)
        image_rows = [{"patient": patient, "item": item} for patient, item in images]
        tables.write_table(out / "images.parquet", image_rows, specs.IMAGES)

    commit(store, "clinical", "cohort", write)


def list_images(store: Store, patient: str, *items: str) -> None:
    """Let the `clinical` item name further slides or studies of a patient as parts of the cohort."""
    parts = {name: store.part("clinical", "cohort", f"{name}.parquet") for name in ("patients", "codes", "images")}
    rows = tables.read_rows(parts["images"], specs.IMAGES) + [{"patient": patient, "item": item} for item in items]
    kept = {name: parts[name].read_bytes() for name in ("patients", "codes")}

    def write(out: Path) -> None:
        for name, content in kept.items():
            (out / f"{name}.parquet").write_bytes(content)
        tables.write_table(out / "images.parquet", rows, specs.IMAGES)

    commit(store, "clinical", "cohort", write)


def without_images(packed: Packed, modality: str) -> Packed:
    """The same pack of a cohort that has no images of a modality at all."""
    units = packed.units[modality]
    empty = dataclasses.replace(
        units,
        features=np.zeros((0, 0, 0), dtype="float16"),
        offsets=np.zeros_like(units.offsets),
        classes=units.classes[:0],
        word_classes=np.zeros((0, 0), dtype="int8"),
        omics=np.zeros((0, 0), dtype="float32"),
        omics_known=units.omics_known[:0],
        sources=units.sources[:0],
        names=units.names[:0],
        omics_columns=(),
    )
    return dataclasses.replace(packed, units={**packed.units, modality: empty})


def _bag_row(patient: str, item: str, number: int, units: Units, row: int) -> dict[str, Any]:
    triple = [0.0, 0.0, 0.0]
    return {
        "patient": patient,
        "slide": item.removeprefix("slide-"),
        "bag": number,
        "x_level0": 2048 * number,
        "y_level0": 0,
        "size_level0": 2048.0,
        "mpp": 0.5,
        "region_class": int(units.classes[row]),
        "region_share": 1.0,
        "tissue_share": 1.0,
        "word_classes": units.word_classes[row].tolist(),
        "lab_mean": triple,
        "lab_std": triple,
        "lab_mean_after": triple,
        "lab_std_after": triple,
        "normalised": True,
        "white_balanced": False,
    }


def _lesion_row(patient: str, item: str, units: Units, row: int) -> dict[str, Any]:
    return {
        "patient": patient,
        "ct": item.removeprefix("ct-"),
        "lesion": str(units.names[row]),
        "lesion_type": LESION_TYPES[units.classes[row]],
        "centre": "A",
        "slice_z": 0,
        "edge_slice": False,
        "area_mm2": 1.0,
        "volume_mm3": 1.0,
        "box_mm": [0.0] * 6,
        "spacing_mm": [1.0] * 3,
        "mask_source": "given",
        "window_level": "cohort",
        "low_hu": 0.0,
        "high_hu": 1.0,
    }

"""From the items of a store to the trainer's arrays: contiguous, ragged, memory-mapped, keyed by content.

A pack is a folder `STORE/packed/<key>/` of `.npy` files and one `meta.json`. The key is a fingerprint of the digests of
every part that was read, so that a pack is built once, found again from the completion records alone, and never
stands for other content. It is written to staging and renamed, so a pack that can be seen is whole. The trainer maps it
into memory, so packs of an object store lie in this machine's cache instead (`places.cache_folder`).

Packing costs the disk space of the features once more, and the memory of one block of bags.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import LESION_TYPES
from ..errors import StoreError
from .arrays import open_array, open_group
from .flush import flush
from .packed import MODALITIES, PACK_VERSION, TIME_CLASSES, Array, Packed, load_pack
from .places import cache_folder
from .records import Record, Store, fingerprint
from .specs import (
    BAGS,
    CODES_SCHEMA,
    IMAGES,
    LESION_FEATURES,
    LESIONS,
    OMICS,
    PATIENTS,
    WORD_FEATURES,
    ArraySpec,
    TableSpec,
)
from .tables import read_rows, read_table

_BLOCK = 64
_NAMED = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kind:
    """Where the units of a modality come from."""

    modality: str
    prefix: str
    index_stage: str
    index_part: str
    index_spec: TableSpec
    unit_column: str
    class_column: str
    features: ArraySpec


_KINDS = (
    _Kind("pathology", "slide-", "tiles", "bags.parquet", BAGS, "bag", "region_class", WORD_FEATURES),
    _Kind("radiology", "ct-", "rois", "lesions.parquet", LESIONS, "lesion", "lesion_type", LESION_FEATURES),
)


@dataclass(frozen=True)
class _Source:
    """One slide or CT study with units, as its index table says."""

    item: str
    patient: str
    names: list[str]
    classes: list[int]
    word_classes: list[list[int]]
    has_omics: bool


def pack(store: Store) -> Packed:
    """The packed arrays of a store: built when its content has changed, found again otherwise.

    Slides and studies whose stages failed are missing modalities, omics that failed are missing values; both are
    logged with their number.

    Raises:
        StoreError: no clinical table; an item whose upstream has changed since (stale); features of several
            backbones or widths; tables and arrays of one item that contradict each other.
    """
    stages = ("tiles", "windows", "rois", "embed", "radiomics", "clinical")
    records = {stage: store.records(stage) for stage in stages}
    if "cohort" not in records["clinical"]:
        raise StoreError(f"{store.path.name}: has no clinical table; run `mumo extract clinical` first")
    records, left = _in_cohort(store, records)
    _refuse_stale(records)
    chosen = {kind.modality: _choose(kind, records) for kind in _KINDS}
    key = fingerprint({"version": PACK_VERSION, "parts": _used_parts(records, chosen)})
    missing = [*_missing(store, records), *left]
    home = _home(store)
    target = home / "packed" / key
    if not target.exists():
        _build(store, records, chosen, key, target)
    packed = load_pack(target, missing)
    for warning in packed.warnings:
        _log.warning("%s", warning)
    return packed


def _home(store: Store) -> Path:
    """The folder that holds `packed`: the store itself or, for an object store, one in this machine's cache."""
    if isinstance(store.path, Path):
        return store.path
    return cache_folder() / "stores" / hashlib.sha256(str(store.path).encode()).hexdigest()[:16]


# --- what is there ----------------------------------------------------------------------------------------


def _in_cohort(
    store: Store, records: Mapping[str, Mapping[str, Record]]
) -> tuple[dict[str, dict[str, Record]], list[str]]:
    """The records without those of slides and studies that are no longer in the cohort, and a warning about them."""
    rows = read_rows(store.part("clinical", "cohort", "images.parquet"), IMAGES)
    listed = {"cohort", *(row["item"] for row in rows)}
    kept = {stage: {item: r for item, r in own.items() if item in listed} for stage, own in records.items()}
    left = sorted({item for own in records.values() for item in own} - listed)
    note = f"{len(left)} item(s) of the store are not in the cohort and are left out: {_some(left)}"
    return kept, [note] if left else []


def _refuse_stale(records: Mapping[str, Mapping[str, Record]]) -> None:
    stale = []
    for stage in ("rois", "embed", "radiomics"):
        for item, record in records[stage].items():
            for name, digest in record.depends.get("upstream", {}).items():
                upstream_stage, upstream_item, part = name.split("/", 2)
                upstream = records.get(upstream_stage, {}).get(upstream_item)
                if upstream is not None and upstream.parts.get(part) != digest:
                    stale.append(f"{stage}/{item} (made from another {name})")
    if stale:
        raise StoreError(
            f"{len(stale)} item(s) are older than what they were made from: {_some(stale)}; "
            "run `mumo extract all` again"
        )


def _choose(kind: _Kind, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    """Items of a modality that have units and deep features."""
    embedded = records["embed"]
    return [
        item
        for item, record in records[kind.index_stage].items()
        if item.startswith(kind.prefix) and record.status == "ok" and item in embedded
    ]


def _used_parts(records: Mapping[str, Mapping[str, Record]], chosen: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    used: dict[str, Any] = {"clinical/cohort": records["clinical"]["cohort"].parts}
    for kind in _KINDS:
        for item in chosen[kind.modality]:
            used[f"{kind.index_stage}/{item}"] = records[kind.index_stage][item].parts.get(kind.index_part)
            used[f"embed/{item}"] = records["embed"][item].parts
            used[f"radiomics/{item}"] = records["radiomics"][item].parts if item in records["radiomics"] else None
    windows = records["windows"].get("cohort")
    if windows is not None:
        used["windows/cohort"] = windows.parts
    return used


def _missing(store: Store, records: Mapping[str, Mapping[str, Record]]) -> list[str]:
    """Sentences on items that failed or were never computed."""
    warnings = []
    for stage in ("tiles", "rois"):
        failed = sorted(store.failures(stage))
        if failed:
            what = "slides" if stage == "tiles" else "CT studies"
            warnings.append(f"{len(failed)} of the {what} could not be extracted and count as missing: {_some(failed)}")
    for kind in _KINDS:
        index = [item for item, record in records[kind.index_stage].items() if record.status == "ok"]
        lost = [item for item in index if item.startswith(kind.prefix) and item not in records["embed"]]
        if lost:
            warnings.append(f"{len(lost)} item(s) have no deep features and are missing modalities: {_some(lost)}")
        plain = [item for item in index if item in records["embed"] and item not in records["radiomics"]]
        if plain:
            warnings.append(f"{len(plain)} item(s) have no omics features: {_some(plain)}")
    return warnings


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


# --- building ---------------------------------------------------------------------------------------------


def _build(
    store: Store,
    records: Mapping[str, Mapping[str, Record]],
    chosen: Mapping[str, list[str]],
    key: str,
    target: Path,
) -> None:
    home = Store(target.parent.parent)
    home.sweep("packed")
    staging = home.begin("packed", key)
    try:
        meta: dict[str, Any] = {"version": PACK_VERSION, "key": key, "warnings": [], "omics_columns": {}}
        meta["weights"], meta["weights_sha256"] = _weights(records["embed"], chosen)
        windows = records["windows"].get("cohort")
        meta["windows_digest"] = windows.parts.get("windows.parquet", "") if windows and chosen["radiology"] else ""
        patients = _pack_clinical(store, staging, meta)
        for kind in _KINDS:
            sources = [_index(store, kind, item, item in records["radiomics"]) for item in chosen[kind.modality]]
            _pack_units(store, kind, [source for source in sources if source.names], patients, staging, meta)
        (staging / "meta.json").write_text(json.dumps(meta, indent=1, ensure_ascii=False), encoding="utf-8")
        flush([staging])
        try:
            staging.rename(target)
        except OSError:
            # Another process has packed the same content in the meantime; its pack is as good as this one.
            if not target.exists():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _weights(embedded: Mapping[str, Record], chosen: Mapping[str, list[str]]) -> tuple[str, str]:
    """Name and SHA-256 of the backbone's weights, which must be the same for everything."""
    seen: dict[tuple[str, str], str] = {}
    for items in chosen.values():
        for item in items:
            summary = embedded[item].summary
            seen.setdefault((summary.get("weights", ""), summary.get("weights_sha256", "")), item)
    if len(seen) > 1:
        kinds = "; ".join(f"embed/{item}: {name} ({digest[:12]})" for (name, digest), item in sorted(seen.items()))
        raise StoreError(f"deep features come from {len(seen)} different weights: {kinds}; run `mumo extract embed`")
    return next(iter(seen), ("", ""))


def _pack_clinical(store: Store, staging: Path, meta: dict[str, Any]) -> list[str]:
    rows = read_rows(store.part("clinical", "cohort", "patients.parquet"), PATIENTS)
    patients = [row["patient"] for row in rows]
    if len(set(patients)) != len(patients):
        raise StoreError("clinical/cohort: a patient has more than one row; run `mumo extract clinical --force`")
    meta["patients"], meta["centres"] = patients, [row["centre"] for row in rows]

    def column(name: str, unknown: float, dtype: str) -> Array:
        return np.array([unknown if row[name] is None else row[name] for row in rows], dtype=dtype)

    np.save(staging / "labels.npy", column("label", -1, "int8"))
    for endpoint in ("pfs", "os"):
        np.save(staging / f"{endpoint}_days.npy", column(f"{endpoint}_days", np.nan, "float64"))
        np.save(staging / f"{endpoint}_events.npy", column(f"{endpoint}_event", -1, "int8"))
    for modality in MODALITIES:
        # one row of the identity for each class; the last row, of zeros, stands for an unknown time
        one_hot = np.eye(TIME_CLASSES + 1, TIME_CLASSES, dtype="float32")
        np.save(staging / f"{modality}_times.npy", one_hot[column(f"{modality}_time", TIME_CLASSES, "int64")])
    _pack_codes(store, patients, staging, meta)
    return patients


def _pack_codes(store: Store, patients: Sequence[str], staging: Path, meta: dict[str, Any]) -> None:
    table = read_table(store.part("clinical", "cohort", "codes.parquet"))
    if not table.schema.equals(CODES_SCHEMA, check_metadata=False):
        raise StoreError("clinical/cohort/codes.parquet: its columns are not those of this mumo; extract again")
    groups: dict[str, dict[str, list[str]]] = {}
    codes: dict[tuple[str, str, str], list[float]] = {}
    for row in table.to_pylist():
        items = groups.setdefault(row["group"], {})
        if items.setdefault(row["item"], row["classes"]) != row["classes"] or len(row["code"]) != len(row["classes"]):
            raise StoreError(f"clinical/cohort: item {row['group']}/{row['item']} has two lists of classes")
        codes[row["group"], row["item"], row["patient"]] = row["code"]
    for group, items in groups.items():
        try:
            rows = [[value for item in items for value in codes[group, item, patient]] for patient in patients]
        except KeyError as error:
            raise StoreError(f"clinical/cohort: no code for {error}; run `mumo extract clinical --force`") from error
        np.save(staging / f"{group}_codes.npy", np.array(rows, dtype="float32").reshape(len(patients), -1))
    meta["codes"] = {
        group: [{"name": item, "classes": classes} for item, classes in items.items()]
        for group, items in groups.items()
    }


def _index(store: Store, kind: _Kind, item: str, has_omics: bool) -> _Source:
    rows = read_rows(store.part(kind.index_stage, item, kind.index_part), kind.index_spec)
    patients = sorted({row["patient"] for row in rows})
    if len(patients) > 1:
        raise StoreError(f"{kind.index_stage}/{item}: belongs to {len(patients)} patients, expected one")
    names = [str(row[kind.unit_column]) for row in rows]
    if kind.modality == "pathology":
        classes = [row["region_class"] for row in rows]
        words = [row["word_classes"] for row in rows]
    else:
        unknown = sorted({row["lesion_type"] for row in rows} - set(LESION_TYPES))
        if unknown:
            raise StoreError(f"{kind.index_stage}/{item}: lesion types {unknown}, expected some of {LESION_TYPES}")
        classes = [LESION_TYPES.index(row["lesion_type"]) for row in rows]
        words = [[] for _ in rows]
    return _Source(item, patients[0] if patients else "", names, classes, words, has_omics)


def _pack_units(
    store: Store,
    kind: _Kind,
    sources: Sequence[_Source],
    patients: Sequence[str],
    staging: Path,
    meta: dict[str, Any],
) -> None:
    order = {patient: number for number, patient in enumerate(patients)}
    strangers = [source.item for source in sources if source.patient not in order]
    if strangers:
        meta["warnings"].append(
            f"{len(strangers)} item(s) of patients without a clinical row are left out: {_some(strangers)}"
        )
    used = [source for source in sources if source.patient in order]
    used.sort(key=lambda source: (order[source.patient], source.item))
    counts = np.zeros(len(patients) + 1, dtype="int64")
    for source in used:
        counts[order[source.patient] + 1] += len(source.names)
    save = {
        "offsets": np.cumsum(counts),
        "classes": np.array([value for source in used for value in source.classes], dtype="int8"),
        "sources": np.array([source.item for source in used for _ in source.names], dtype=str),
        "names": np.array([name for source in used for name in source.names], dtype=str),
    }
    for name, values in save.items():
        np.save(staging / f"{kind.modality}_{name}.npy", values)
    total = int(counts.sum())
    middle = _pack_features(store, kind, used, total, staging / f"{kind.modality}_features.npy")
    word_classes = np.full((total, middle if kind.modality == "pathology" else 0), -1, dtype="int8")
    _fill_word_classes(used, word_classes)
    np.save(staging / f"{kind.modality}_word_classes.npy", word_classes)
    _pack_omics(store, kind, used, total, staging, meta)


def _fill_word_classes(used: Sequence[_Source], out: Array) -> None:
    row = 0
    for source in used:
        for words in source.word_classes:
            if len(words) != out.shape[1]:
                raise StoreError(
                    f"{source.item}: a bag has classes of {len(words)} words and features of {out.shape[1]}; "
                    "run `mumo extract all` again"
                )
            out[row] = words
            row += 1


def _pack_features(store: Store, kind: _Kind, used: Sequence[_Source], total: int, file: Path) -> int:
    """Copy the deep features of all units into one file, block by block; returns the length of the middle axis."""
    out: np.memmap[Any, Any] | None = None
    first, row = "", 0
    for source in used:
        array = open_array(open_group(store.part("embed", source.item, "features.zarr")), kind.features)
        if array.shape[0] != len(source.names):
            raise StoreError(
                f"embed/{source.item}: features of {array.shape[0]} units, "
                f"{kind.index_stage} has {len(source.names)}; run `mumo extract all` again"
            )
        if out is None:
            first = source.item
            out = np.lib.format.open_memmap(file, "w+", np.dtype("float16"), (total, *array.shape[1:]))
        if array.shape[1:] != out.shape[1:]:
            raise StoreError(
                f"embed/{source.item}: features of shape {array.shape[1:]} a unit, embed/{first} has "
                f"{out.shape[1:]}; run `mumo extract all` with one configuration"
            )
        for start in range(0, array.shape[0], _BLOCK):
            block = np.asarray(array[start : start + _BLOCK])
            out[row : row + len(block)] = block
            row += len(block)
    if out is None:
        np.save(file, np.zeros((0, 0, 0), dtype="float16"))
        return 0
    out.flush()
    return int(out.shape[1])


def _pack_omics(
    store: Store, kind: _Kind, used: Sequence[_Source], total: int, staging: Path, meta: dict[str, Any]
) -> None:
    columns: list[str] | None = None
    declared = {column.name for column in OMICS.columns}
    out = np.zeros((total, 0), dtype="float32")
    row, first = 0, ""
    for source in used:
        if source.has_omics:
            table = read_table(store.part("radiomics", source.item, "features.parquet"), OMICS)
            names = [name for name in table.schema.names if name not in declared]
            if table.column("unit").to_pylist() != source.names:
                raise StoreError(
                    f"radiomics/{source.item}: its rows are not those of {kind.index_stage}; extract again"
                )
            if columns is None:
                columns, first = names, source.item
                out = np.full((total, len(names)), np.nan, dtype="float32")
            if names != columns:
                odd = sorted(set(names) ^ set(columns)) or names
                raise StoreError(
                    f"radiomics/{source.item}: other features than radiomics/{first} ({_some(odd)}); "
                    "run `mumo extract radiomics` with one configuration"
                )
            with np.errstate(over="ignore"):
                values = np.array([table.column(name).to_numpy() for name in names], dtype="float32").T
            out[row : row + len(source.names)] = np.where(np.isfinite(values), values, np.nan).reshape(-1, len(names))
        row += len(source.names)
    meta["omics_columns"][kind.modality] = columns or []
    known = ~np.isnan(out).all(axis=1) if out.shape[1] else np.zeros(total, dtype=bool)
    if columns and not known.all():
        meta["warnings"].append(f"{int((~known).sum())} of {total} units of {kind.modality} have no omics features")
    np.save(staging / f"{kind.modality}_omics.npy", out)
    np.save(staging / f"{kind.modality}_omics_known.npy", known)

"""Further modalities from tables of numbers (gene expression, laboratory values), beside what a store holds.

A row is one sample of a patient; several rows a patient are several samples or points of time. Rows become units of
the pack, as lesions are, with their numbers where omics features stand: standardised with the training patients'
statistics, missing values and constant columns handled the same way.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import FitError
from ..stores.packed import MODALITIES, TIME_CLASSES, Packed, Units

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 2**31
"""Largest table that is read."""

_NAMED = 5

_log = logging.getLogger(__name__)


def add_tables(packed: Packed, tables: Mapping[str, Path]) -> Packed:
    """The pack with one more modality for each table: name → CSV or Parquet file with `patient` and numbers.

    Rows of patients that the pack does not have are left out, and logged. Rows without any number are left out, too.

    Raises:
        FitError: a name that is taken, a table that cannot be read, has no column `patient` or a column of words.
    """
    units, times = dict(packed.units), dict(packed.times)
    for name, file in tables.items():
        if name in MODALITIES:
            raise FitError(f"fit.tables: {name} is a modality of the store already; choose another name")
        units[name] = _units(name, _read(name, file), packed)
        times[name] = np.zeros((len(packed.patients), TIME_CLASSES), dtype="float32")
    return replace(packed, units=units, times=times)


def table_digests(tables: Mapping[str, Path]) -> dict[str, str]:
    """Name → SHA-256 of each table's file."""
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in tables.items()}


def _read(name: str, file: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        if file.stat().st_size > MAX_BYTES:
            raise FitError(f"table {name}: {file.name} is larger than {MAX_BYTES >> 30} GiB; leave out columns")
        if file.suffix == ".parquet":
            frame = pd.read_parquet(file)
        else:
            frame = pd.read_csv(file, dtype={"patient": str}, sep="\t" if file.suffix == ".tsv" else ",")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise FitError(f"table {name}: {file.name} cannot be read: {error}") from error
    if "patient" not in frame:
        raise FitError(f"table {name}: {file.name} has no column patient; it has {list(frame.columns)[:_NAMED]}")
    words = [str(column) for column in frame.columns if column != "patient" and frame[column].dtype.kind not in "iufb"]
    if words:
        raise FitError(f"table {name}: columns {words[:_NAMED]} of {file.name} hold words, expected numbers")
    if frame.shape[1] < 2:
        raise FitError(f"table {name}: {file.name} has no column of numbers")
    return frame


def _units(name: str, frame: pd.DataFrame, packed: Packed) -> Units:
    order = {patient: number for number, patient in enumerate(packed.patients)}
    patients = frame["patient"].astype(str).str.strip()
    strangers = sorted(set(patients) - order.keys())
    if strangers:
        _log.warning("table %s: %d patient(s) are not in the store: %s", name, len(strangers), strangers[:_NAMED])
    columns = [str(column) for column in frame.columns if column != "patient"]
    values = frame.drop(columns="patient").to_numpy(dtype="float32")
    values = np.where(np.isfinite(values), values, np.nan)
    place = np.array([order.get(patient, -1) for patient in patients], dtype="int64")
    kept = np.flatnonzero((place >= 0) & ~np.isnan(values).all(axis=1))
    kept = kept[np.argsort(place[kept], kind="stable")]
    counts = np.bincount(place[kept], minlength=len(packed.patients))
    return Units(
        features=np.zeros((len(kept), 0, 0), dtype="float16"),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype("int64"),
        classes=np.full(len(kept), -1, dtype="int8"),
        word_classes=np.zeros((len(kept), 0), dtype="int8"),
        omics=values[kept],
        omics_known=np.ones(len(kept), dtype=bool),
        sources=np.full(len(kept), f"table-{name}", dtype=object).astype(str),
        names=np.array([str(row) for row in kept], dtype=str),
        omics_columns=tuple(columns),
    )

"""Parquet tables with declared schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import StoreError
from .places import Place
from .specs import FORMAT_VERSION, TableSpec


def write_table(path: Path, rows: Sequence[Mapping[str, Any]], spec: TableSpec, *, extra: Iterable[str] = ()) -> None:
    """Write `rows` under the schema of `spec`; `extra` names the float64 columns of an open-ended table.

    Raises:
        StoreError: a row lacks a column, has one too many, or a value does not fit the column's type.
    """
    schema = spec.schema(tuple(extra))
    names = set(schema.names)
    for row in rows:
        if set(row) != names:
            raise StoreError(f"table {spec.name}: a row has columns {sorted(set(row) ^ names)} too many or missing")
    write_rows(path, rows, schema)


def write_feature_table(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    values: npt.NDArray[np.float64],
    spec: TableSpec,
    *,
    names: Sequence[str],
) -> None:
    """Write an open-ended table: `rows` hold its declared columns, `values` (row, feature) those called `names`.

    The matrix goes in as it is, without an object for each number. Raises StoreError as `write_rows`.
    """
    if values.shape != (len(rows), len(names)):
        raise StoreError(f"table {spec.name}: {len(rows)} rows of {len(names)} features, but values {values.shape}")
    schema = spec.schema(tuple(names))
    declared = _table(path, rows, pa.schema(list(schema)[: len(spec.columns)]))
    features = [pa.array(np.ascontiguousarray(column), pa.float64()) for column in values.T]
    columns = [declared.column(number).combine_chunks() for number in range(declared.num_columns)]
    pq.write_table(pa.Table.from_arrays([*columns, *features], schema=schema), path, compression="zstd")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` under an Arrow schema; null in a column that has none is refused."""
    pq.write_table(_table(path, rows, schema), path, compression="zstd")


def _table(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        table = pa.Table.from_pylist(list(rows), schema=schema)
        table.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise StoreError(f"{path.name}: a value does not fit its column: {error}") from error
    for column in schema:
        if not column.nullable and table.column(column.name).null_count:
            raise StoreError(f"{path.name}: column {column.name} has missing values but may have none")
    return table


def read_table(path: Place, spec: TableSpec | None = None) -> pa.Table:
    """Read a table and check its format version and, when `spec` is given, its columns and their types."""
    try:
        with path.open("rb") as stream:
            table = pq.read_table(stream)
    except (OSError, pa.ArrowInvalid) as error:
        raise StoreError(f"{path}: not a readable Parquet table: {error}") from error
    version = (table.schema.metadata or {}).get(b"format_version", b"none").decode()
    if version != str(FORMAT_VERSION):
        raise StoreError(f"{path}: format version {version}, this mumo reads {FORMAT_VERSION}; extract again with it")
    for column in spec.columns if spec else ():
        if column.name not in table.schema.names or table.schema.field(column.name).type != column.type:
            raise StoreError(f"{path}: column {column.name} of type {column.type} is missing")
    return table


def read_rows(path: Place, spec: TableSpec | None = None) -> list[dict[str, Any]]:
    """The rows of a small table as dictionaries; checked as in `read_table`."""
    rows: list[dict[str, Any]] = read_table(path, spec).to_pylist()
    return rows

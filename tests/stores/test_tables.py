from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mumo.errors import StoreError
from mumo.stores.specs import BAGS, OMICS, WINDOWS
from mumo.stores.tables import read_rows, read_table, write_feature_table, write_table

ROW: dict[str, Any] = {
    "level": "type",
    "lesion_type": "liver",
    "centre": "",
    "low_hu": -10.5,
    "high_hu": 140.0,
    "lesions": 7,
}


def test_write_table__comes_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [ROW, {**ROW, "level": "cohort"}], WINDOWS)
    assert read_rows(tmp_path / "t.parquet", WINDOWS)[0] == ROW


def test_write_table__same_bytes_for_same_rows(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, [ROW], WINDOWS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_table__no_rows_keep_the_schema(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [], BAGS)
    assert read_table(tmp_path / "t.parquet", BAGS).num_rows == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in ROW.items() if k != "centre"}, "centre"),
        ({**ROW, "surplus": 1}, "surplus"),
        ({**ROW, "lesions": "many"}, "does not fit"),
        ({**ROW, "lesions": 2**40}, "does not fit"),
        ({**ROW, "centre": None}, "missing values"),
    ],
)
def test_write_table__refuses_what_does_not_fit(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=message):
        write_table(tmp_path / "t.parquet", [row], WINDOWS)


def test_write_table__features_follow_the_declared_columns(tmp_path: Path) -> None:
    row = {"patient": "P", "source": "S", "unit": "0", "engine": "fast", "reason": "", "original_x": 1.5}
    write_table(tmp_path / "t.parquet", [row], OMICS, extra=["original_x"])
    assert read_rows(tmp_path / "t.parquet", OMICS) == [row]
    with pytest.raises(ValueError, match="no further columns"):
        write_table(tmp_path / "t.parquet", [], WINDOWS, extra=["original_x"])


def test_read_table__refuses_another_version_and_other_columns(tmp_path: Path) -> None:
    pq.write_table(pa.table({"level": ["type"]}), tmp_path / "plain.parquet")
    with pytest.raises(StoreError, match="format version none"):
        read_table(tmp_path / "plain.parquet")
    write_table(tmp_path / "t.parquet", [ROW], WINDOWS)
    with pytest.raises(StoreError, match="column patient"):
        read_table(tmp_path / "t.parquet", BAGS)


def test_read_table__damaged_file(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", [ROW], WINDOWS)
    data = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="not a readable"):
        read_table(tmp_path / "t.parquet")


HEAD = {"patient": "P", "source": "S", "unit": "0", "engine": "fast", "reason": ""}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_write_feature_table__equals_write_table(count: int, tmp_path: Path) -> None:
    heads = [{**HEAD, "unit": str(number)} for number in range(count)]
    values = np.arange(2.0 * count).reshape(count, 2)
    write_feature_table(tmp_path / "a.parquet", heads, values, OMICS, names=["x", "y"])
    rows = [{**head, "x": x, "y": y} for head, (x, y) in zip(heads, values.tolist(), strict=True)]
    write_table(tmp_path / "b.parquet", rows, OMICS, extra=["x", "y"])
    assert read_table(tmp_path / "a.parquet", OMICS).equals(read_table(tmp_path / "b.parquet", OMICS))
    assert read_table(tmp_path / "a.parquet").schema.equals(read_table(tmp_path / "b.parquet").schema, True)


def test_write_feature_table__keeps_nan_as_nan(tmp_path: Path) -> None:
    write_feature_table(tmp_path / "t.parquet", [HEAD], np.array([[np.nan]]), OMICS, names=["x"])
    column = read_table(tmp_path / "t.parquet", OMICS).column("x")
    assert column.null_count == 0
    assert np.isnan(column.to_numpy()).all()


def test_write_feature_table__refuses_a_matrix_of_another_shape(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"1 rows of 2 features, but values \(1, 3\)"):
        write_feature_table(tmp_path / "t.parquet", [HEAD], np.zeros((1, 3)), OMICS, names=["x", "y"])


def test_write_feature_table__refuses_missing_values_in_declared_columns(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="missing values"):
        write_feature_table(tmp_path / "t.parquet", [{**HEAD, "reason": None}], np.zeros((1, 1)), OMICS, names=["x"])

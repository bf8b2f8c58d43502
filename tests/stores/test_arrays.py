from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mumo.errors import StoreError
from mumo.stores import arrays
from mumo.stores.specs import BAG_PIXELS, WORD_FEATURES


def test_write_array__comes_back_bitwise(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float16)
    group = arrays.create_group(tmp_path / "g", {"weights": "random:0"})
    arrays.write_array(group, WORD_FEATURES, values)
    back = arrays.open_group(tmp_path / "g")
    assert back.attrs["weights"] == "random:0"
    np.testing.assert_array_equal(arrays.open_array(back, WORD_FEATURES)[...], values)


def test_write_array__holds_nothing(tmp_path: Path) -> None:
    arrays.write_array(arrays.create_group(tmp_path / "g"), WORD_FEATURES, np.zeros((0, 64, 1280), np.float16))
    assert arrays.open_array(arrays.open_group(tmp_path / "g"), WORD_FEATURES).shape == (0, 64, 1280)


def test_create_array__zeros_are_written_too(tmp_path: Path) -> None:
    array = arrays.create_array(arrays.create_group(tmp_path / "g"), BAG_PIXELS, (1, 512, 512, 3))
    array[...] = np.zeros((1, 512, 512, 3), np.uint8)
    assert list((tmp_path / "g" / "pixels" / "c").rglob("*"))


def test_write_array__refuses_another_dtype(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected float16, got float64"):
        arrays.write_array(arrays.create_group(tmp_path / "g"), WORD_FEATURES, np.zeros((1, 1, 1)))


def test_create_array__refuses_another_number_of_dimensions(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected dimensions"):
        arrays.create_array(arrays.create_group(tmp_path / "g"), WORD_FEATURES, (1, 2))


def test_open_group__refuses_another_format_version(tmp_path: Path) -> None:
    arrays.create_group(tmp_path / "g", {"format_version": 99})
    with pytest.raises(StoreError, match="format version 99"):
        arrays.open_group(tmp_path / "g")


def test_open_group__missing_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a readable Zarr group"):
        arrays.open_group(tmp_path / "nowhere")
    arrays.create_group(tmp_path / "g")
    (tmp_path / "g" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="not a readable Zarr group"):
        arrays.open_group(tmp_path / "g")


def test_open_array__missing_or_of_another_kind(tmp_path: Path) -> None:
    group = arrays.create_group(tmp_path / "g")
    with pytest.raises(StoreError, match="is missing"):
        arrays.open_array(group, WORD_FEATURES)
    group.create_array("words", shape=(1, 2, 3), dtype="float32")
    with pytest.raises(StoreError, match="is float32"):
        arrays.open_array(group, WORD_FEATURES)

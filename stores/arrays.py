"""Zarr v3 groups with declared arrays: one group an item part, written by one task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
import zarr.storage
from zarr.codecs import ZstdCodec

from ..errors import StoreError
from .jpeg import JpegCodec
from .places import Place
from .specs import FORMAT_VERSION, ArraySpec


def create_group(path: Path, attributes: Mapping[str, Any] | None = None) -> zarr.Group:
    """A new group at `path` (which must not exist), with its format version among the attributes."""
    group = zarr.open_group(store=str(path), mode="w-", zarr_format=3)
    group.attrs.update({"format_version": FORMAT_VERSION, **(attributes or {})})
    return group


def create_array(
    group: zarr.Group, spec: ArraySpec, shape: tuple[int, ...], *, zstd_level: int = 3, jpeg_quality: int | None = None
) -> zarr.Array[Any]:
    """A new array of `shape` under the declaration `spec`; empty chunks are written too.

    Chunks are compressed by Zstandard or, where `jpeg_quality` is given, kept as JPEG, which is not exact.
    """
    if len(shape) != len(spec.dims):
        raise StoreError(f"array {spec.name}: expected dimensions {spec.dims}, got shape {shape}")
    chunks = tuple(
        max(1, size if chunk is None else min(chunk, size)) for size, chunk in zip(shape, spec.chunk, strict=True)
    )
    return group.create_array(
        spec.name,
        shape=shape,
        dtype=spec.dtype,
        chunks=chunks,
        serializer="auto" if jpeg_quality is None else JpegCodec(jpeg_quality),
        compressors=[ZstdCodec(level=zstd_level)] if jpeg_quality is None else None,
        dimension_names=spec.dims,
        attributes={"unit": spec.unit, "meaning": spec.meaning},
        config={"write_empty_chunks": True},
    )


def write_array(group: zarr.Group, spec: ArraySpec, values: npt.NDArray[Any], *, zstd_level: int = 3) -> None:
    """Create the array `spec` with the shape of `values` and fill it; values must have the declared dtype."""
    if values.dtype != np.dtype(spec.dtype):
        raise StoreError(f"array {spec.name}: expected {spec.dtype}, got {values.dtype}")
    array = create_array(group, spec, values.shape, zstd_level=zstd_level)
    if values.size:
        array[...] = values


def open_group(path: Place) -> zarr.Group:
    """An existing group, read-only, on a disk or in an object store; an unknown format version is refused."""
    try:
        group = zarr.open_group(store=_zarr_store(path), mode="r", zarr_format=3)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(f"{path}: not a readable Zarr group: {error}") from error
    version = group.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise StoreError(f"{path}: format version {version}, this mumo reads {FORMAT_VERSION}; extract again with it")
    return group


def open_array(group: zarr.Group, spec: ArraySpec) -> zarr.Array[Any]:
    """The array `spec` of a group; its dtype and dimensions are checked."""
    array = group.get(spec.name)
    if not isinstance(array, zarr.Array):
        raise StoreError(f"{group.store_path}: array {spec.name!r} is missing")
    if array.dtype != np.dtype(spec.dtype) or array.ndim != len(spec.dims):
        raise StoreError(
            f"{group.store_path}: array {spec.name!r} is {array.dtype} with {array.ndim} dimensions, "
            f"expected {spec.dtype} with {spec.dims}"
        )
    return array


def _zarr_store(place: Place) -> Any:
    if isinstance(place, Path):
        return str(place)
    return zarr.storage.FsspecStore.from_url(str(place), storage_options=dict(place.storage_options), read_only=True)

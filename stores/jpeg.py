"""A Zarr codec that keeps chunks of pictures as JPEG: smaller than lossless compression, and not exact."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Self

import imagecodecs
import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.registry import register_codec

NAME = "imagecodecs_jpeg"
"""Name of the codec in the metadata of arrays."""


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Chunks of shape (1, y, x, 3), uint8, as JPEG files of full colour resolution (4:4:4)."""

    is_fixed_size = False

    level: int = 90
    """Quality, 1–100."""

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The codec of an array's metadata."""
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """What the array's metadata says of it."""
        return {"name": NAME, "configuration": {"level": self.level}}

    async def _encode_single(self, chunk_array: Any, chunk_spec: Any) -> Any:
        encoded = await asyncio.to_thread(self._encode, np.asarray(chunk_array.as_numpy_array()))
        return chunk_spec.prototype.buffer.from_bytes(encoded)

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        pixels = await asyncio.to_thread(imagecodecs.jpeg8_decode, chunk_bytes.to_bytes())
        if (1, *pixels.shape) != tuple(chunk_spec.shape):
            raise ValueError(f"JPEG chunk of shape {pixels.shape}, expected {tuple(chunk_spec.shape[1:])}")
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels[None])

    def _encode(self, chunk: np.ndarray[Any, Any]) -> bytes:
        if chunk.ndim != 4 or chunk.shape[0] != 1 or chunk.shape[3] != 3 or chunk.dtype != np.uint8:
            raise ValueError(f"JPEG takes chunks of shape (1, y, x, 3), uint8; got {chunk.shape}, {chunk.dtype}")
        pixels = np.ascontiguousarray(chunk[0])
        return bytes(imagecodecs.jpeg8_encode(pixels, level=self.level, colorspace="rgb", subsampling="444"))

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
        """Not known before encoding."""
        raise NotImplementedError


register_codec(NAME, JpegCodec)

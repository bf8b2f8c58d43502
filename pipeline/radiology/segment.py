"""The user's segmentation network on boxes without a mask: TorchScript or ONNX, in patches of a fixed size.

The network is given a patch (1, 1, y, x) or (1, 1, z, y, x), float32, and returns scores of the same size for one
class or several: (1, classes, …).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from ...config import SegmentationSettings
from ...errors import ConfigError, InputError
from .volumes import Volume

Patch = npt.NDArray[np.float32]
Network = Callable[[Patch], npt.NDArray[Any]]

MAX_BYTES = 4 << 30
"""Largest network file."""


def load_network(settings: SegmentationSettings) -> Network:
    """The network of the configuration, loaded once a process.

    Raises:
        ConfigError: none, no such file, another ending, another SHA-256 than stated, or the file cannot be loaded.
    """
    path = settings.network
    if path is None or not path.is_file():
        raise ConfigError("rois.segmentation.network: expected a file, found none; correct the path")
    status = path.stat()
    if status.st_size > MAX_BYTES:
        raise ConfigError(f"rois.segmentation.network: found {status.st_size} bytes; at most {MAX_BYTES}")
    return _load(path, settings.sha256, status.st_size, status.st_mtime_ns)


def segment_box(
    volume: Volume, box: tuple[slice, slice, slice], settings: SegmentationSettings
) -> npt.NDArray[np.bool_]:
    """Which voxels of a box (z, y, x, of the volume's array) the network takes for the lesion's.

    Intensities are sampled at the network's spacing (linear; a network of two dimensions sees the volume's own slices),
    in patches around the box, as many as cover it; scores are sampled back the same way.

    Raises:
        ConfigError: the network cannot be loaded.
        InputError: it fails on a patch, or returns what does not fit.
    """
    network = load_network(settings)
    spacing_zyx = np.array(volume.spacing_mm[::-1])
    wanted_zyx = np.array([spacing_zyx[0], *settings.spacing_mm[::-1]][-3:])
    patch_zyx = np.array([1, *settings.input_size[::-1]][-3:])
    step = wanted_zyx / spacing_zyx  # voxels of the volume a voxel of the network
    low, high = np.array([(part.start, part.stop) for part in box]).T
    patches = np.maximum(1, np.ceil((high - low) / step / patch_zyx - 1e-6)).astype(int)
    size = patches * patch_zyx
    # One sample lies on the box's first voxel, so that equal spacings need no interpolation.
    before = np.rint(((size - 1) * step - (high - low - 1)) / 2 / step)
    first = low - before * step
    sampled = (_sampled(volume.array, first, step, size) - settings.mean) / settings.std
    scores = np.empty(tuple(size), dtype=np.float32)
    for block in _blocks(patches, patch_zyx):
        scores[block] = _lesion_score(network, sampled[block], settings)
    back = ndimage.affine_transform(
        scores, 1 / step, (low - first) / step, output_shape=tuple(high - low), order=1, mode="nearest"
    )
    return np.asarray(back >= settings.threshold)


def _sampled(array: npt.NDArray[Any], first: npt.NDArray[Any], step: npt.NDArray[Any], size: npt.NDArray[Any]) -> Patch:
    """Samples (z, y, x) from a volume, clipped at its faces; only what they need of it becomes floating point."""
    last = first + (size - 1) * step
    shape = np.array(array.shape)
    low = np.clip(np.floor(first).astype(int) - 1, 0, shape - 1)
    high = np.clip(np.ceil(last).astype(int) + 2, low + 1, shape)
    part = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    sampled = ndimage.affine_transform(part, step, first - low, output_shape=tuple(size), order=1, mode="nearest")
    return np.asarray(sampled, dtype=np.float32)


def _blocks(patches: npt.NDArray[Any], patch_zyx: npt.NDArray[Any]) -> Iterator[tuple[slice, ...]]:
    for place in product(*(range(count) for count in patches)):
        yield tuple(slice(n * side, (n + 1) * side) for n, side in zip(place, patch_zyx, strict=True))


def _lesion_score(network: Network, patch: Patch, settings: SegmentationSettings) -> npt.NDArray[np.float32]:
    """Probability of lesion (z, y, x) in one patch."""
    clipped = np.clip(patch, *_scaled_range(settings))
    given = clipped[0] if len(settings.input_size) == 2 else clipped
    try:
        scores = np.asarray(network(np.ascontiguousarray(given[None, None])), dtype=np.float32)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"segmentation network: fails on a patch {given.shape} ({type(error).__name__})") from None
    if scores.shape[:1] + scores.shape[2:] != (1, *given.shape) or settings.channel >= scores.shape[1]:
        raise InputError(
            f"segmentation network: expected scores (1, more than {settings.channel}, {given.shape}), found "
            f"{scores.shape}; correct rois.segmentation.input_size or .channel"
        )
    if settings.output == "logits":
        scores = _probabilities(scores)
    return np.asarray(scores[0, settings.channel].reshape(patch.shape), dtype=np.float32)


def _scaled_range(settings: SegmentationSettings) -> tuple[float, float]:
    low, high = settings.clip_hu
    return (low - settings.mean) / settings.std, (high - settings.mean) / settings.std


def _probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Sigmoid of one class, softmax over several."""
    if logits.shape[1] == 1:
        return np.asarray(0.5 * (1 + np.tanh(logits / 2)), dtype=np.float32)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


@lru_cache(maxsize=1)
def _load(path: Path, sha256: str | None, size: int, changed_ns: int) -> Network:
    """Size and time of change are part of the cache's key."""
    if sha256 is not None:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != sha256.lower():
            raise ConfigError(f"rois.segmentation.network: expected SHA-256 {sha256}, found {found}")
    if path.suffix.lower() == ".onnx":
        return _onnx(path)
    if path.suffix.lower() not in (".pt", ".ts"):
        raise ConfigError("rois.segmentation.network: expected a file .pt, .ts (TorchScript) or .onnx")
    if sha256 is None:
        # A TorchScript file is a program.
        raise ConfigError(
            "rois.segmentation.sha256: expected the SHA-256 of the TorchScript file, found nothing; state it for a "
            "file that you trust"
        )
    return _torchscript(path)


def _torchscript(path: Path) -> Network:
    import torch

    try:
        with warnings.catch_warnings():
            # torch advises exporters to write another format; the files that exist are in this one
            warnings.simplefilter("ignore", FutureWarning)
            network = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError):
        raise ConfigError("rois.segmentation.network: expected a TorchScript file, found something else") from None

    def run(patch: Patch) -> npt.NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(patch)).numpy())

    return run


def _onnx(path: Path) -> Network:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(
            "rois.segmentation.network: ONNX needs onnxruntime; in your copy of mumo, run: pip install '.[onnx]'"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 (its errors have no common base; the message would name the path)
        raise ConfigError("rois.segmentation.network: expected an ONNX file, found something else") from None
    name = session.get_inputs()[0].name

    def run(patch: Patch) -> npt.NDArray[Any]:
        try:
            return np.asarray(session.run(None, {name: patch})[0])
        except Exception as error:  # noqa: BLE001 (the same)
            raise ValueError(type(error).__name__) from None

    return run

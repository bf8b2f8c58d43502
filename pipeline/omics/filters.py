"""Image types: the filters that PyRadiomics applies before it computes features, with its numbers and names.

A filter is given the whole image, since maxima, recursive filters and periods reach far, and gives the box that holds
the region, in the precision that PyRadiomics has: that decides on which side of a bin's edge a value falls.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..jit import compiled
from . import gaussian, wavelet

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]
Images = Iterator[tuple[str, Array]]
Filter = Callable[[Array, Box, Spacing, Mapping[str, Any]], Images]


def image_types(
    image: Array, box: Box, spacing_mm: Spacing, settings: Mapping[str, Any], wanted: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Array, Mapping[str, Any]]]:
    """Filtered images in the order of `wanted`.

    Args:
        image: Intensities (z, y, x).
        box: The part that is wanted.
        spacing_mm: Size of a voxel along x, y, z.
        settings: PyRadiomics' `setting`.
        wanted: PyRadiomics' `imageType`: names of FILTERS, each with settings of its own.

    Yields:
        PyRadiomics' name of the image, as features carry it; the box of the filtered image; the settings for its
        features. Filters that an image is too small for give nothing, as in PyRadiomics.
    """
    for kind, own in wanted.items():
        chosen = {**settings, **own}
        for name, filtered in FILTERS[kind](image, box, spacing_mm, chosen):
            yield name, filtered, chosen


def _original(image: Array, box: Box, _spacing: Spacing, _settings: Mapping[str, Any]) -> Images:
    yield "original", image[box]


def _square(image: Array, box: Box, _spacing: Spacing, _settings: Mapping[str, Any]) -> Images:
    """(c x)² with c = 1 / √max|x|."""
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "square", (1 / np.sqrt(_largest(image)) * image[box].astype(np.float64)) ** 2


def _square_root(image: Array, box: Box, _spacing: Spacing, _settings: Mapping[str, Any]) -> Images:
    """sign(x) √(c |x|) with c = max|x|."""
    part = image[box].astype(np.float64)
    yield "squareroot", np.copysign(np.sqrt(np.abs(part) * _largest(image)), part)


def _logarithm(image: Array, box: Box, _spacing: Spacing, _settings: Mapping[str, Any]) -> Images:
    """sign(x) c log(|x| + 1) with c = max|x| / log(max|x| + 1)."""
    largest = _largest(image)
    part = image[box].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # One element in an array: NumPy's logarithm of arrays may differ from that of a number in its last bit.
        scale = largest / np.log(np.array([largest + 1]))[0]
        yield "logarithm", np.copysign(np.log(np.abs(part) + 1), part) * scale


def _exponential(image: Array, box: Box, _spacing: Spacing, _settings: Mapping[str, Any]) -> Images:
    """exp(c x) with c = log(max|x|) / max|x|."""
    largest = _largest(image)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        yield "exponential", np.exp(np.log(largest) / largest * image[box].astype(np.float64))


def _largest(image: Array) -> np.float64:
    low, high = image.min(), image.max()
    return np.float64(max(abs(float(low)), abs(float(high))))


def _wavelet(image: Array, box: Box, _spacing: Spacing, settings: Mapping[str, Any]) -> Images:
    """Sub-bands of a stationary wavelet transform: the approximation of the last level, details of all levels.

    L and H name the low-pass and high-pass filters along x, y, z; with `force2D` along the two axes of the slice.
    """
    axes = [2, 1, 0]
    if settings.get("force2D", False):
        axes.remove(settings.get("force2Ddimension", 0))
    levels = settings.get("level", 1)
    bands = wavelet.sub_bands(
        image, box, settings.get("wavelet", "coif1"), axes, levels, settings.get("start_level", 0)
    )
    number = 2 ** len(axes)
    for level in range(levels):
        prefix = "wavelet" if level == 0 else f"wavelet{level + 1}"
        for code in range(1, number):
            name = f"{code:0{len(axes)}b}".replace("0", "L").replace("1", "H")
            yield f"{prefix}-{name}", bands[level * number + code]
    prefix = "wavelet" if levels == 1 else f"wavelet{levels}"
    yield f"{prefix}-{'L' * len(axes)}", bands[(levels - 1) * number]


def _laplacian(image: Array, box: Box, spacing_mm: Spacing, settings: Mapping[str, Any]) -> Images:
    """Laplacian of Gaussian for each `sigma` (mm), in three dimensions."""
    size, spacing = np.array(image.shape[::-1]), np.array(spacing_mm)
    if size.min() < gaussian.MIN_SIZE:
        logger.debug("LoG needs %d voxels along each axis, the image has %s", gaussian.MIN_SIZE, size)
        return
    for sigma in settings.get("sigma", []):
        if sigma <= 0 or np.any(size < np.ceil(sigma / spacing) + 1):
            logger.debug("LoG of sigma %s mm needs a larger image than %s", sigma, size)
            continue
        name = f"log-sigma-{str(sigma).replace('.', '-')}-mm-3D"
        yield name, gaussian.laplacian(image, spacing_mm, sigma)[box]


def _gradient(image: Array, box: Box, spacing_mm: Spacing, settings: Mapping[str, Any]) -> Images:
    """Length of the gradient from central differences, in grey levels a mm (or a voxel: `gradientUseSpacing`)."""
    x, y, z = spacing_mm if settings.get("gradientUseSpacing", True) else (1.0, 1.0, 1.0)
    starts = np.array([part.start for part in box])
    gradient = np.empty([part.stop - part.start for part in box], np.float32)
    _gradient_length(np.ascontiguousarray(image), starts, 0.5 * (1.0 / x), 0.5 * (1.0 / y), 0.5 * (1.0 / z), gradient)
    yield "gradient", gradient


@compiled
def _gradient_length(
    image: Array, starts: npt.NDArray[np.int64], half_x: float, half_y: float, half_z: float, gradient: Array
) -> None:
    depth, height, width = image.shape
    for z in range(gradient.shape[0]):
        at_z = z + starts[0]
        for y in range(gradient.shape[1]):
            at_y = y + starts[1]
            row = image[at_z, at_y]
            above, below = image[at_z, max(at_y - 1, 0)], image[at_z, min(at_y + 1, height - 1)]
            front, behind = image[max(at_z - 1, 0), at_y], image[min(at_z + 1, depth - 1), at_y]
            for x in range(gradient.shape[2]):
                at_x = x + starts[2]
                before, after = float(row[max(at_x - 1, 0)]), float(row[min(at_x + 1, width - 1)])
                along_x = after * half_x - before * half_x
                along_y = float(below[at_x]) * half_y - float(above[at_x]) * half_y
                along_z = float(behind[at_x]) * half_z - float(front[at_x]) * half_z
                gradient[z, y, x] = np.sqrt(along_x * along_x + along_y * along_y + along_z * along_z)


def _local_binary_pattern(image: Array, box: Box, _spacing: Spacing, settings: Mapping[str, Any]) -> Images:
    """Local binary patterns in slices, by scikit-image as in PyRadiomics; values keep the type of the image."""
    from skimage.feature import local_binary_pattern

    pattern: Callable[..., Array] = local_binary_pattern
    axis = settings.get("force2Ddimension", 0)
    radius = settings.get("lbp2DRadius", 1)
    reach = int(np.ceil(radius)) + 1
    cut = tuple(
        part if n == axis else slice(max(part.start - reach, 0), min(part.stop + reach, size))
        for n, (part, size) in enumerate(zip(box, image.shape, strict=True))
    )
    # PyRadiomics exchanges the slice axis with the first; slices of axis 2 are transposed by that.
    slices = image[cut].swapaxes(0, axis)
    patterns = np.empty(slices.shape, image.dtype)
    samples, method = settings.get("lbp2DSamples", 8), settings.get("lbp2DMethod", "uniform")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # scikit-image prefers integers
        for number, plane in enumerate(slices):
            patterns[number] = pattern(np.ascontiguousarray(plane), P=samples, R=radius, method=method)
    inner = tuple(
        slice(part.start - whole.start, part.stop - whole.start) for part, whole in zip(box, cut, strict=True)
    )
    yield "lbp-2D", patterns.swapaxes(0, axis)[inner]


FILTERS: Mapping[str, Filter] = {
    "Original": _original,
    "Wavelet": _wavelet,
    "LoG": _laplacian,
    "Square": _square,
    "SquareRoot": _square_root,
    "Logarithm": _logarithm,
    "Exponential": _exponential,
    "Gradient": _gradient,
    "LBP2D": _local_binary_pattern,
}
"""PyRadiomics' image types, less LBP3D."""

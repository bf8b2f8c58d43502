"""Bags in grey levels: one number a pixel for radiomics, averaged over areas."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Grey = Literal["luma", "hematoxylin", "od"]

_LUMA_THOUSANDTHS = np.array([299, 587, 114])
_OPTICAL_DENSITY = -100.0 * np.log10((np.arange(256) + 1.0) / 256.0)
"""Optical density of a channel's value, in hundredths; white is 0."""
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in R, G, B of hematoxylin, eosin, and what is left (Ruifrok and Johnston 2001)."""
_HEMATOXYLIN = np.linalg.inv(_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True))[:, 0]


def grey_bag(rgb: npt.NDArray[np.uint8], size_px: int, grey: Grey = "luma") -> npt.NDArray[np.float64]:
    """Grey levels of a square bag (y, x, 3), averaged down to `size_px`.

    Args:
        rgb: The bag.
        size_px: Side of the result; a bag that is not larger keeps its size.
        grey: `luma` is ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B, 0–255. Its sums are of integers, so a grey level that
            falls on the edge of a bin falls there on every machine. `od` is the mean optical density of the three
            channels, `hematoxylin` that of the stain after colour deconvolution (A. C. Ruifrok and D. A. Johnston,
            Anal. Quant. Cytol. Histol. 23(4):291–299, 2001), not below 0; both in hundredths, so that a bin width of 25
            is a quarter of a unit.
    """
    if grey == "luma":
        return _averaged(rgb.astype(np.int64) @ _LUMA_THOUSANDTHS, size_px, 1000.0)
    density = _OPTICAL_DENSITY[rgb]  # (y, x, 3)
    values = density.mean(axis=2) if grey == "od" else np.maximum(density @ _HEMATOXYLIN, 0.0)
    return _averaged(values, size_px, 1.0)


def _averaged(values: npt.NDArray[Any], size: int, divisor: float) -> npt.NDArray[np.float64]:
    """A square (n, n) over a divisor, averaged to (size, size); rounded once where whole pixels are averaged."""
    side = len(values)
    if side <= size:
        return np.asarray(values / divisor)
    if side % size == 0:
        factor = side // size
        blocks = values.reshape(size, factor, size, factor)  # (row, y, column, x)
        return np.asarray(blocks.sum(axis=(1, 3)) / (divisor * factor * factor))
    return area_average(area_average(values.T, size).T, size) / divisor


def area_average(values: npt.NDArray[Any], size: int) -> npt.NDArray[np.float64]:
    """Columns (n, m) averaged to (size, m): each result is the mean of its share of the n rows, fractions included."""
    rows = len(values)
    sums = np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0, dtype=np.float64)])
    edges = np.arange(size + 1) * rows / size
    whole = np.minimum(edges.astype(int), rows - 1)
    integral = sums[whole] + (edges - whole)[:, None] * values[whole]  # (size + 1, m): sum of all rows up to the edge
    return np.asarray(np.diff(integral, axis=0) * size / rows)

"""Laplacian of Gaussian by recursive filters, with the numbers of ITK's LaplacianRecursiveGaussianImageFilter.

Gaussian and second derivative are recursive filters of fourth order (R. Deriche, INRIA RR-1893, 1993), normalised as
in Farnebäck and Westin, "Improving Deriche-style recursive Gaussian filters", J. Math. Imaging Vision 26:293–299,
2006. ITK keeps single precision between passes and filters each line in double precision; here many lines are filtered
at once.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..jit import compiled
from .columns import from_columns, to_columns

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

MIN_SIZE = 4
"""Voxels that each axis must have."""


class _Series(NamedTuple):
    """One damped oscillation pair of Deriche's approximation: Σ (a cos(w x / σ) + b sin(w x / σ)) exp(l x / σ)."""

    a1: float
    b1: float
    a2: float
    b2: float


_W1, _L1 = 0.6681, -1.3932
_W2, _L2 = 2.0787, -1.3732
_SMOOTH = _Series(1.3530, 1.8151, -0.3531, 0.0902)
_SECOND = _Series(-1.3563, 5.2318, 0.3446, -2.2355)


class Recursion(NamedTuple):
    """Coefficients of a recursive filter."""

    causal: Floats
    """Of the input and its three predecessors."""
    anticausal: Floats
    """Of the four successors of the input."""
    feedback: Floats
    """Of the four outputs before; the same in both directions."""
    causal_edge: Floats
    """Of the first value in place of outputs before the first."""
    anticausal_edge: Floats
    """Of the last value in place of outputs after the last."""


def laplacian(image: npt.NDArray[Any], spacing_mm: tuple[float, float, float], sigma_mm: float) -> Singles:
    """Laplacian of Gaussian of `image` (z, y, x), multiplied by σ² (normalised across scales).

    Args:
        image: Any real type; at least MIN_SIZE voxels along each axis. Values outside repeat the border's.
        spacing_mm: Size of a voxel along x, y, z.
        sigma_mm: σ of the Gaussian.
    """
    total = np.zeros(image.shape, np.float32)
    first, second = np.empty(image.shape, np.float32), np.empty(image.shape, np.float32)
    source = np.ascontiguousarray(image, None if image.dtype in (np.float32, np.float64) else np.float64)
    for direction in range(3):
        derivative = recursion(sigma_mm, spacing_mm[direction], second_derivative=True)
        _filter(source, 2 - direction, derivative, first)
        for other in range(3):
            if other != direction:
                _filter(first, 2 - other, recursion(sigma_mm, spacing_mm[other], second_derivative=False), second)
                first, second = second, first
        _add(total.ravel(), first.ravel(), 1.0 / spacing_mm[direction] ** 2)
    return total


@functools.lru_cache(maxsize=64)
def recursion(sigma_mm: float, spacing_mm: float, second_derivative: bool) -> Recursion:
    """Coefficients of the Gaussian, or of its second derivative multiplied by σ², for voxels of this size."""
    sigma = sigma_mm / spacing_mm
    cos1, cos2 = math.cos(_W1 / sigma), math.cos(_W2 / sigma)
    exp1, exp2 = math.exp(_L1 / sigma), math.exp(_L2 / sigma)
    d4 = exp1 * exp1 * exp2 * exp2
    d3 = -2 * cos1 * exp1 * exp2 * exp2
    d3 += -2 * cos2 * exp2 * exp1 * exp1
    d2 = 4 * cos2 * cos1 * exp1 * exp2
    d2 += exp1 * exp1 + exp2 * exp2
    d1 = -2 * (exp2 * cos2 + exp1 * cos1)
    d = (d1, d2, d3, d4)
    sum_d = 1.0 + d1 + d2 + d3 + d4
    n, moments = _numerator(sigma, _SMOOTH)
    if second_derivative:
        n, scale = _second_numerator(sigma, d, sum_d, n, moments)
        factor = sigma_mm * sigma_mm / scale
    else:
        factor = 1.0 / (2 * moments[0] / sum_d - n[0])
    n0, n1, n2, n3 = (value * factor for value in n)
    m = (n1 - d1 * n0, n2 - d2 * n0, n3 - d3 * n0, -d4 * n0)
    sum_n, sum_m = n0 + n1 + n2 + n3, m[0] + m[1] + m[2] + m[3]
    return Recursion(
        np.array([n0, n1, n2, n3]),
        np.array(m),
        np.array(d),
        np.array([value * sum_n / sum_d for value in d]),
        np.array([value * sum_m / sum_d for value in d]),
    )


def _numerator(sigma: float, series: _Series) -> tuple[tuple[float, ...], tuple[float, float, float]]:
    """Numerator of the causal filter's transfer function, and its moments of order 0, 1 and 2 at z = 1."""
    a1, b1, a2, b2 = series
    sin1, sin2 = math.sin(_W1 / sigma), math.sin(_W2 / sigma)
    cos1, cos2 = math.cos(_W1 / sigma), math.cos(_W2 / sigma)
    exp1, exp2 = math.exp(_L1 / sigma), math.exp(_L2 / sigma)
    n0 = a1 + a2
    n1 = exp2 * (b2 * sin2 - (a2 + 2 * a1) * cos2)
    n1 += exp1 * (b1 * sin1 - (a1 + 2 * a2) * cos1)
    n2 = (a1 + a2) * cos2 * cos1
    n2 -= b1 * cos2 * sin1 + b2 * cos1 * sin2
    n2 *= 2 * exp1 * exp2
    n2 += a2 * exp1 * exp1 + a1 * exp2 * exp2
    n3 = exp2 * exp1 * exp1 * (b2 * sin2 - a2 * cos2)
    n3 += exp1 * exp2 * exp2 * (b1 * sin1 - a1 * cos1)
    return (n0, n1, n2, n3), (n0 + n1 + n2 + n3, n1 + 2 * n2 + 3 * n3, n1 + 4 * n2 + 9 * n3)


def _second_numerator(
    sigma: float,
    d: tuple[float, float, float, float],
    sum_d: float,
    n: tuple[float, ...],
    moments: tuple[float, float, float],
) -> tuple[tuple[float, ...], float]:
    """Numerator of the second derivative, made to have sum 0, and its second moment."""
    d1, d2, d3, d4 = d
    first_d, second_d = d1 + 2 * d2 + 3 * d3 + 4 * d4, d1 + 4 * d2 + 9 * d3 + 16 * d4
    of_second, moments_second = _numerator(sigma, _SECOND)
    beta = -(2 * moments_second[0] - sum_d * of_second[0]) / (2 * moments[0] - sum_d * n[0])
    numerator = tuple(two + beta * zero for two, zero in zip(of_second, n, strict=True))
    sn, dn, en = (two + beta * zero for two, zero in zip(moments_second, moments, strict=True))
    scale = en * sum_d * sum_d - second_d * sn * sum_d - 2 * dn * first_d * sum_d + 2 * first_d * first_d * sn
    return numerator, scale / (sum_d * sum_d * sum_d)


def _filter(source: npt.NDArray[Any], axis: int, r: Recursion, target: Singles) -> None:
    """Filter along an axis of (z, y, x) into `target`."""
    z, y, x = source.shape
    if axis == 2:
        _filter_rows(source.reshape(z * y, x), *r, target.reshape(z * y, x))
    else:
        outer, inner = ((1, y * x), (z, x))[axis]
        _filter_across(source.ravel(), outer, source.shape[axis], inner, *r, target.ravel())


_BLOCK = 128
"""Lines filtered at once: enough to keep vector units busy, few enough for the cache."""


@compiled
def _filter_across(
    source: npt.NDArray[Any],
    outer: int,
    length: int,
    inner: int,
    n: Floats,
    m: Floats,
    d: Floats,
    bn: Floats,
    bm: Floats,
    target: Singles,
) -> None:
    """Filter flat (outer, length, inner) along the middle."""
    for o in range(outer):
        for start in range(0, inner, _BLOCK):
            width = min(_BLOCK, inner - start)
            first = o * length * inner + start
            causal = np.empty((length, width))
            _recurse(source, first, inner, width, n, d, bn, causal)
            _recurse_back(source, first, inner, causal, m, d, bm, target)


@compiled
def _filter_rows(
    source: npt.NDArray[Any], n: Floats, m: Floats, d: Floats, bn: Floats, bm: Floats, target: Singles
) -> None:
    """Filter each row of (rows, length)."""
    rows, length = source.shape
    for start in range(0, rows, _BLOCK):
        width = min(_BLOCK, rows - start)
        lines = np.empty(length * width)
        to_columns(source, start, width, lines)
        causal = np.empty((length, width))
        result = np.empty(length * width, np.float32)
        _recurse(lines, 0, width, width, n, d, bn, causal)
        _recurse_back(lines, 0, width, causal, m, d, bm, result)
        from_columns(result, width, target, start)


@compiled
def _recurse(
    source: npt.NDArray[Any], first: int, pitch: int, width: int, n: Floats, d: Floats, bn: Floats, causal: Floats
) -> None:
    """The causal filter down `width` columns of a flat array; row i starts at `first` + i · `pitch`.

    Outputs before the first are the first value times the border's coefficients.
    """
    n0, n1, n2, n3 = n[0], n[1], n[2], n[3]
    border = np.empty(width)
    for x in range(width):
        border[x] = source[first + x]
    # The three inputs before the present place, and room for the present one.
    in0, in1, in2, in3 = border.copy(), border.copy(), border.copy(), border.copy()
    for i in range(causal.shape[0]):
        row = source[first + i * pitch : first + i * pitch + width]
        for x in range(width):
            in0[x] = row[x]
        out1, k1 = (causal[i - 1], d[0]) if i > 0 else (border, bn[0])
        out2, k2 = (causal[i - 2], d[1]) if i > 1 else (border, bn[1])
        out3, k3 = (causal[i - 3], d[2]) if i > 2 else (border, bn[2])
        out4, k4 = (causal[i - 4], d[3]) if i > 3 else (border, bn[3])
        out = causal[i]
        for x in range(width):
            forward = in0[x] * n0 + in1[x] * n1 + in2[x] * n2 + in3[x] * n3
            out[x] = forward - (out1[x] * k1 + out2[x] * k2 + out3[x] * k3 + out4[x] * k4)
        in3, in2, in1, in0 = in2, in1, in0, in3


@compiled
def _recurse_back(
    source: npt.NDArray[Any],
    first: int,
    pitch: int,
    causal: Floats,
    m: Floats,
    d: Floats,
    bm: Floats,
    target: Singles,
) -> None:
    """The anticausal filter, and its sum with `causal` into a flat `target` laid out as `source`."""
    length, width = causal.shape
    m1, m2, m3, m4 = m[0], m[1], m[2], m[3]
    k1, k2, k3, k4 = bm[0], bm[1], bm[2], bm[3]
    last = first + (length - 1) * pitch
    out1 = np.empty(width)
    for x in range(width):
        out1[x] = source[last + x]
    # The four outputs after the present place, and room for the present one.
    out2, out3, out4, out0 = out1.copy(), out1.copy(), out1.copy(), out1.copy()
    for i in range(length - 1, -1, -1):
        at0 = first + i * pitch
        at1, at2 = min(at0 + pitch, last), min(at0 + 2 * pitch, last)
        at3, at4 = min(at0 + 3 * pitch, last), min(at0 + 4 * pitch, last)
        in1, in2 = source[at1 : at1 + width], source[at2 : at2 + width]
        in3, in4 = source[at3 : at3 + width], source[at4 : at4 + width]
        for x in range(width):
            after = in1[x] * m1 + in2[x] * m2 + in3[x] * m3 + in4[x] * m4
            out0[x] = after - (out1[x] * k1 + out2[x] * k2 + out3[x] * k3 + out4[x] * k4)
        forward, out = causal[i], target[at0 : at0 + width]
        for x in range(width):
            out[x] = forward[x] + out0[x]
        out4, out3, out2, out1, out0 = out3, out2, out1, out0, out4
        # Outputs beyond the border are the border's value until real ones have moved up.
        k1 = d[0]
        k2 = d[1] if i <= length - 2 else k2
        k3 = d[2] if i <= length - 3 else k3
        k4 = d[3] if i <= length - 4 else k4


@compiled
def _add(total: Singles, part: Singles, factor: float) -> None:
    for i in range(len(total)):
        total[i] = np.float32(total[i] + part[i] * factor)

"""First-order statistics (IBSI UHIW) of a region's intensities, under PyRadiomics' names.

IBSI identifiers: Mean Q4LE, Variance ECT3, Skewness KE2A, Median Y12H, Minimum 1GSF, 10Percentile QG58,
90Percentile 8DWT, Maximum 84IY, InterquartileRange SALO, Range 2OJQ, MeanAbsoluteDeviation 4FUA,
RobustMeanAbsoluteDeviation 1128, Energy N8CA, RootMeanSquared 5ZWQ; of the grey levels: Entropy TLU2, Uniformity BJ5W.
Kurtosis is IPH6 plus 3. Percentiles are interpolated between the two values beside them, where IBSI takes one.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from ...jit import compiled
from ..names import FIRST_ORDER
from .discretise import Levels
from .glcm import entropy

Floats = npt.NDArray[np.float64]

FEATURES = FIRST_ORDER
ON_REQUEST = ("StandardDeviation",)
"""Computed only when asked for by name."""

_PERCENTILES = (10.0, 25.0, 50.0, 75.0, 90.0)
_BUCKETS = 4096


def features(
    values: Floats, levels: Levels, shift: float, voxel_mm3: float, wanted: Collection[str]
) -> dict[str, float]:
    """First-order features.

    Args:
        values: Intensities of the region, flat, without NaN.
        levels: The same region in grey levels.
        shift: Added to intensities for the features of energy (`voxelArrayShift`).
        voxel_mm3: Volume of a voxel.
        wanted: Names of features.

    Of a region of one intensity, Skewness and Kurtosis are 0.
    """
    low, high = float(values.min()), float(values.max())
    p10, p25, median, p75, p90 = percentiles(values, _PERCENTILES)
    number = len(values)
    mean, energy, inner_mean = _means(values, shift, p10, p90)
    if low == high:
        mean = inner_mean = low
    m2, m3, m4, deviation, inner_deviation = _central(values, mean, inner_mean, p10, p90)
    p = levels.counts / number
    result = {
        "10Percentile": p10,
        "90Percentile": p90,
        "Energy": energy,
        "Entropy": entropy(p),
        "InterquartileRange": p75 - p25,
        "Kurtosis": m4 / m2**2 if m2 else 0.0,
        "Maximum": high,
        "Mean": mean,
        "MeanAbsoluteDeviation": deviation,
        "Median": median,
        "Minimum": low,
        "Range": high - low,
        "RobustMeanAbsoluteDeviation": inner_deviation,
        "RootMeanSquared": np.sqrt(energy / number),
        "Skewness": m3 / m2**1.5 if m2 else 0.0,
        "StandardDeviation": np.sqrt(m2),
        "TotalEnergy": energy * voxel_mm3,
        "Uniformity": (p**2).sum(),
        "Variance": m2,
    }
    return {name: float(result[name]) for name in wanted}


@compiled
def _means(values: Floats, shift: float, p10: float, p90: float) -> tuple[float, float, float]:
    """Mean, Σ (value + shift)², and the mean of the values from p10 to p90."""
    total, energy, inner, inside = 0.0, 0.0, 0.0, 0
    for value in values:
        total += value
        energy += (value + shift) ** 2
        if p10 <= value <= p90:
            inner += value
            inside += 1
    return total / len(values), energy, inner / inside if inside else np.nan


@compiled
def _central(
    values: Floats, mean: float, inner_mean: float, p10: float, p90: float
) -> tuple[float, float, float, float, float]:
    """Central moments 2, 3, 4, the mean absolute deviation, and that of the values from p10 to p90."""
    m2, m3, m4, deviation, inner, inside = 0.0, 0.0, 0.0, 0.0, 0.0, 0
    for value in values:
        away = value - mean
        square = away * away
        m2 += square
        m3 += square * away
        m4 += square * square
        deviation += abs(away)
        if p10 <= value <= p90:
            inner += abs(value - inner_mean)
            inside += 1
    n = len(values)
    return m2 / n, m3 / n, m4 / n, deviation / n, inner / inside if inside else np.nan


def percentiles(values: Floats, shares: tuple[float, ...]) -> tuple[float, ...]:
    """Percentiles `shares` (0–100), linear between neighbours in order as NumPy's.

    Only the values near the wanted ones are sorted: all are counted in buckets first.
    """
    places = [share / 100 * (len(values) - 1) for share in shares]
    ranks = np.unique(np.clip([place for spot in places for place in (int(spot), int(spot) + 1)], 0, len(values) - 1))
    ordered = dict(zip(ranks.tolist(), _at_ranks(values, ranks).tolist(), strict=True))
    results = []
    for spot in places:
        below, above = ordered[int(spot)], ordered[min(int(spot) + 1, len(values) - 1)]
        share = spot - int(spot)
        # From the nearer end, as NumPy does, so that equal neighbours give exactly their value.
        results.append(below + (above - below) * share if share < 0.5 else above - (above - below) * (1 - share))
    return tuple(results)


def _at_ranks(values: Floats, ranks: npt.NDArray[np.int64]) -> Floats:
    """Values at places `ranks` (from 0, increasing) of the values in increasing order."""
    low, high = values.min(), values.max()
    scale = (_BUCKETS - 1) / (high - low) if high > low else 0.0
    if len(values) <= _BUCKETS or not 0 < scale < np.inf:
        return np.asarray(np.sort(values)[ranks])
    ends = np.cumsum(_bucket_counts(values, low, scale, _BUCKETS))
    bucket_of = np.searchsorted(ends, ranks, side="right")
    buckets = np.unique(bucket_of)
    starts = np.where(buckets > 0, ends[buckets - 1], 0)
    sizes = ends[buckets] - starts
    segments = np.split(_from_buckets(values, low, scale, _BUCKETS, buckets, sizes), np.cumsum(sizes)[:-1])
    return np.concatenate(
        [
            _at_ranks(segment, ranks[bucket_of == bucket] - start)
            for bucket, start, segment in zip(buckets, starts, segments, strict=True)
        ]
    )


@compiled
def _bucket_counts(values: Floats, low: float, scale: float, number: int) -> npt.NDArray[np.int64]:
    counts = np.zeros(number, np.int64)
    for value in values:
        counts[int((value - low) * scale)] += 1
    return counts


@compiled
def _from_buckets(
    values: Floats, low: float, scale: float, number: int, buckets: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
) -> Floats:
    """The values of some buckets, bucket by bucket."""
    spot = np.full(number, -1, np.int64)
    total = 0
    for n in range(len(buckets)):
        spot[buckets[n]] = total
        total += sizes[n]
    chosen = np.empty(total)
    for value in values:
        bucket = int((value - low) * scale)
        if spot[bucket] >= 0:
            chosen[spot[bucket]] = value
            spot[bucket] += 1
    return chosen

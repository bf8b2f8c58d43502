"""Features of the grey-level co-occurrence matrix (IBSI LFYI), under PyRadiomics' names.

Each is computed for every direction and averaged (IBSI aggregation IAZD in 3-D, BTW3 in slices of one plane). IBSI
identifiers: JointAverage 60VM, JointEnergy 8ZQL, JointEntropy TU9B, SumSquares (joint variance) UR99,
MaximumProbability GYBY, DifferenceAverage TF7R, DifferenceVariance D3YU, DifferenceEntropy NTRS, SumAverage ZGXS,
SumEntropy P6QZ, Contrast ACUI, Id IB1Z, Idn NDRX, Idm WF0Z, Idmn 1QCO, InverseVariance E8JP, Correlation NI2N,
Autocorrelation QWB0, ClusterTendency DG8W, ClusterShade 7NFM, ClusterProminence AE86, Imc1 R8DG, Imc2 JN9H. MCC is
Haralick's maximal correlation coefficient (feature 14 of IEEE Trans. SMC 3(6):610–621, 1973), which IBSI leaves out.

PyRadiomics adds 2⁻⁵² inside logarithms and to some divisors; so does this module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...jit import compiled
from .discretise import Levels
from .matrices import Counts
from .offsets import Offsets, weights

Floats = npt.NDArray[np.float64]

FEATURES = (
    "Autocorrelation",
    "ClusterProminence",
    "ClusterShade",
    "ClusterTendency",
    "Contrast",
    "Correlation",
    "DifferenceAverage",
    "DifferenceEntropy",
    "DifferenceVariance",
    "Id",
    "Idm",
    "Idmn",
    "Idn",
    "Imc1",
    "Imc2",
    "InverseVariance",
    "JointAverage",
    "JointEnergy",
    "JointEntropy",
    "MCC",
    "MaximumProbability",
    "SumAverage",
    "SumEntropy",
    "SumSquares",
)
"""All features, in PyRadiomics' order."""

EPSILON = float(np.spacing(1.0))
"""2⁻⁵², which PyRadiomics adds to arguments of logarithms."""

_ENTROPIES = frozenset({"JointEntropy", "Imc1", "Imc2"})
_MUTUAL = frozenset({"Imc1", "Imc2"})


@dataclass(frozen=True)
class Merging:
    """What happens to the matrices of the directions before features are computed."""

    symmetrical: bool = True
    """Whether pairs count in both orders."""
    norm: str | None = None
    """Weight each direction by exp(−length²) and add up; the length by this norm. None: no merging."""
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Size of a voxel along z, y, x, mm."""


def features(
    levels: Levels, pairs: Counts, offsets: Offsets, merging: Merging, wanted: Collection[str]
) -> dict[str, float]:
    """Co-occurrence features of a region.

    Args:
        levels: The region.
        pairs: Counts (n, K, K) of pairs for each offset, as `matrices.cooccurrence` gives them.
        offsets: The n offsets (n, 3).
        merging: Symmetry and weights.
        wanted: Names of features.

    Returns:
        The features; NaN where no voxel has a neighbour, but MCC is 1 where there is one grey level only
        and InverseVariance 0 where it is the lowest and directions are merged.
    """
    by_direction = probabilities(pairs, offsets, merging)
    if len(by_direction) == 0:
        return {name: _of_nothing(name, levels, len(offsets) == 1 or merging.norm is not None) for name in wanted}
    values = _moment_features(by_direction, levels)

    def exact() -> Floats:
        return exact_probabilities(pairs, offsets, merging)

    if _ENTROPIES.intersection(wanted):
        values |= _information(by_direction, exact, bool(_MUTUAL.intersection(wanted)))
    if "MCC" in wanted:
        values["MCC"] = maximal_correlation(exact())
    return {name: float(values[name]) for name in wanted}


def _of_nothing(name: str, levels: Levels, single: bool) -> float:
    """What PyRadiomics makes of matrices without a pair: of a single one, or of none that is left."""
    if single:
        return 0.0 if name == "InverseVariance" and levels.highest == 1 else np.nan  # a sum without terms
    return 1.0 if name == "MCC" and len(levels.values) == 1 else np.nan


def probabilities(pairs: Counts, offsets: Offsets, merging: Merging) -> Floats:
    """Probabilities (n, K, K) of pairs for each direction that has any; weighted, (1, K, K) for all together."""
    if merging.norm is not None:
        table = exact_probabilities(pairs, offsets, merging)
        return np.ascontiguousarray(table[0].transpose(2, 0, 1)) if not np.isnan(table[0, 0, 0, 0]) else table[0, :0]
    totals = pairs.sum(axis=(1, 2))
    used = np.flatnonzero(totals)
    table = np.empty((len(used), *pairs.shape[1:]))
    _normalise(pairs, used, totals, merging.symmetrical, table)
    return table


@compiled
def _normalise(pairs: Counts, used: Counts, totals: Counts, symmetrical: bool, table: Floats) -> None:
    size = table.shape[1]
    for n in range(len(used)):
        counts, total = pairs[used[n]], float(totals[used[n]])
        for i in range(size):
            for j in range(size):
                table[n, i, j] = (counts[i, j] + counts[j, i]) / (2 * total) if symmetrical else counts[i, j] / total


def exact_probabilities(pairs: Counts, offsets: Offsets, merging: Merging) -> Floats:
    """The same as (1, K, K, n), or NaN where there is only one direction and it has no pair.

    Sums over the result are rounded as PyRadiomics' are: it has the same leading axis and the same order in memory.
    """
    table = pairs.transpose(2, 1, 0).astype(np.float64, order="C")[:, None].transpose(1, 2, 0, 3)
    if merging.symmetrical:
        table += table.transpose(0, 2, 1, 3).copy()
    if merging.norm is not None:
        lengths = weights(offsets, merging.spacing, merging.norm)
        known = merging.norm in {"manhattan", "euclidean", "infinity"}
        table = np.sum(table * (np.exp(-(lengths**2)) if known else lengths), 3, keepdims=True)
    totals = np.sum(table, (1, 2))
    if table.shape[3] > 1 and not totals.all():
        used = totals[0] != 0
        table, totals = table[:, :, :, used], totals[:, used]
    totals[totals == 0] = np.nan
    table /= totals[:, None, None, :]
    return np.asarray(table)


def _moment_features(by_direction: Floats, levels: Levels) -> dict[str, Any]:
    highest = levels.highest
    directions = len(by_direction)
    moments = np.zeros((directions, _MOMENTS))
    differences = np.zeros((directions, highest))
    sums = np.zeros((directions, 2 * highest + 1))
    _accumulate(by_direction, levels.values.astype(np.float64), levels.values, moments, differences, sums)
    mean_i, var_i, var_j, covariance, tendency, shade, prominence, product, contrast, energy, peak = moments.T
    deviation = np.sqrt(var_i) * np.sqrt(var_j)
    correlation = np.where(deviation == 0, 1.0, covariance / (deviation + EPSILON))
    k = np.arange(highest, dtype=np.float64)
    weighted = differences @ _difference_weights(highest).T
    average = weighted[:, 0]
    values = {
        "Autocorrelation": product,
        "ClusterProminence": prominence,
        "ClusterShade": shade,
        "ClusterTendency": tendency,
        "Contrast": contrast,
        "Correlation": correlation,
        "JointAverage": mean_i,
        "JointEnergy": energy,
        "MaximumProbability": peak,
        "SumSquares": var_i,
        "DifferenceAverage": average,
        "DifferenceEntropy": entropy(differences),
        "DifferenceVariance": (differences * (k - average[:, None]) ** 2).sum(axis=1),
        "Id": weighted[:, 1],
        "Idm": weighted[:, 2],
        "Idmn": weighted[:, 3],
        "Idn": weighted[:, 4],
        "InverseVariance": weighted[:, 5],
        "SumAverage": sums @ np.arange(2 * highest + 1, dtype=np.float64),
        "SumEntropy": entropy(sums),
    }
    return dict(zip(values, np.stack(list(values.values())).mean(axis=1).tolist(), strict=True))


def _difference_weights(highest: int) -> Floats:
    """Weights of |i − j| = 0, 1, …: DifferenceAverage, Id, Idm, Idmn, Idn, InverseVariance."""
    k = np.arange(highest, dtype=np.float64)
    squares = k**2
    inverse = 1 / np.maximum(squares, 1)
    inverse[0] = 0
    return np.stack([k, 1 / (1 + k), 1 / (1 + squares), 1 / (1 + squares / highest**2), 1 / (1 + k / highest), inverse])


def entropy(probabilities: Floats) -> Floats:
    """−Σ p log₂(p + ε) over the last axis."""
    return np.asarray(-(probabilities * np.log2(probabilities + EPSILON)).sum(axis=-1))


_MOMENTS = 11


@compiled
def _accumulate(
    table: Floats, level: Floats, whole: Counts, moments: Floats, differences: Floats, sums: Floats
) -> None:
    """Moments of each direction's probabilities (n, K, K), and the distributions of |i − j| and i + j."""
    for n in range(table.shape[0]):
        mean_i, mean_j = 0.0, 0.0
        for i in range(len(level)):
            for j in range(len(level)):
                p = table[n, i, j]
                mean_i += p * level[i]
                mean_j += p * level[j]
        out = moments[n]
        out[0] = mean_i
        for i in range(len(level)):
            for j in range(len(level)):
                p = table[n, i, j]
                if p == 0:
                    continue
                from_i, from_j = level[i] - mean_i, level[j] - mean_j
                both = level[i] + level[j] - mean_i - mean_j
                square = both * both
                out[1] += p * from_i * from_i
                out[2] += p * from_j * from_j
                out[3] += p * from_i * from_j
                out[4] += p * square
                out[5] += p * square * both
                out[6] += p * square * square
                out[7] += p * level[i] * level[j]
                out[8] += p * (level[i] - level[j]) ** 2
                out[9] += p * p
                out[10] = max(out[10], p)
                differences[n, abs(whole[i] - whole[j])] += p
                sums[n, whole[i] + whole[j]] += p


def _information(by_direction: Floats, exact: Callable[[], Floats], mutual: bool) -> dict[str, Any]:
    """Joint entropy and the two informational measures of correlation.

    `by_direction` is (n, K, K); `exact` gives the same as `exact_probabilities` does.
    """
    p_i, p_j = by_direction.sum(axis=2), by_direction.sum(axis=1)
    joint, crossed = np.zeros(len(p_i)), np.zeros(len(p_i))
    _entropies(by_direction, p_i, p_j, joint, crossed)
    if not mutual:
        return {"JointEntropy": joint.mean()}
    of_i, of_j = entropy(p_i), entropy(p_j)
    largest = np.maximum(of_i, of_j)
    first = np.where(largest == 0, 0.0, (joint - crossed) / np.where(largest == 0, 1.0, largest))
    information = of_i + of_j - joint
    clear = information.min() > _CLEARLY_DEPENDENT
    second = np.sqrt(1 - np.exp(-2 * information)) if clear else _second_measure(exact())
    return {"JointEntropy": joint.mean(), "Imc1": first.mean(), "Imc2": _mean_of_defined(second)}


_CLEARLY_DEPENDENT = 1e-4
"""Mutual information, in bits, from which rounding errors of sums no longer show in its root."""


@compiled
def _entropies(by_direction: Floats, p_i: Floats, p_j: Floats, joint: Floats, crossed: Floats) -> None:
    """−Σ p log₂(p + ε) and −Σ p log₂(pᵢ pⱼ + ε) of each direction, over cells that are not 0."""
    for n in range(by_direction.shape[0]):
        for i in range(by_direction.shape[1]):
            for j in range(by_direction.shape[2]):
                p = by_direction[n, i, j]
                if p > 0:
                    joint[n] -= p * math.log2(p + EPSILON)
                    crossed[n] -= p * math.log2(p_i[n, i] * p_j[n, j] + EPSILON)


def _second_measure(table: Floats) -> npt.NDArray[Any]:
    """Imc2 of each direction of (1, K, K, n).

    Where levels are independent it is the root of rounding errors, so sums run over the same cells in the same order as
    PyRadiomics', zeros included.
    """
    joint = -np.sum(table * np.log2(table + EPSILON), (1, 2))
    p_i, p_j = table.sum(2, keepdims=True), table.sum(1, keepdims=True)
    apart = -np.sum((p_i * p_j) * np.log2(p_i * p_j + EPSILON), (1, 2))
    with np.errstate(invalid="ignore"):
        second = (1 - np.e ** (-2 * (apart - joint))) ** 0.5
    second[apart == joint] = 0
    return np.asarray(second[0])


def _mean_of_defined(values: npt.NDArray[Any]) -> Any:
    defined = values[~np.isnan(values)]
    return defined.mean() if len(defined) else np.nan


def maximal_correlation(table: Floats) -> float:
    """Mean over directions of the root of the second largest eigenvalue of Q; `table` is (1, K, K, n).

    Q(i, j) = Σₖ p(i, k) p(j, k) / (pᵢ(i) pⱼ(k) + ε). Where the eigenvalue is 0, its root shows the rounding errors of
    Q: terms are therefore added in the order of PyRadiomics.
    """
    _, size, _, directions = table.shape
    if size < 2:
        return 1.0
    p_i, p_j = table.sum(2)[0], table.sum(1)[0]
    q = np.zeros((directions, size, size))
    transposed = np.ascontiguousarray(table[0].transpose(2, 1, 0))
    _fill_q(transposed, np.ascontiguousarray(p_i.T), np.ascontiguousarray(p_j.T), q)
    eigenvalues: npt.NDArray[Any] = np.linalg.eigvals(q)
    eigenvalues.sort()
    with np.errstate(invalid="ignore"):
        return float(_mean_of_defined(np.sqrt(eigenvalues[:, -2])).real)


@compiled
def _fill_q(transposed: Floats, p_i: Floats, p_j: Floats, q: Floats) -> None:
    for n in range(q.shape[0]):
        for i in range(q.shape[1]):
            for k in range(q.shape[1]):
                p = transposed[n, k, i]
                if p > 0:
                    divisor = p_i[n, i] * p_j[n, k] + 2.220446049250313e-16
                    for j in range(q.shape[1]):
                        q[n, i, j] += p * transposed[n, k, j] / divisor

"""Features of the grey-level run-length matrix (IBSI TP0I), under PyRadiomics' names.

Each is computed for every direction and averaged. IBSI identifiers: ShortRunEmphasis 22OV, LongRunEmphasis W4KF,
LowGrayLevelRunEmphasis V3SW, HighGrayLevelRunEmphasis G3QZ, ShortRunLowGrayLevelEmphasis HTZT,
ShortRunHighGrayLevelEmphasis GD3A, LongRunLowGrayLevelEmphasis IVPO, LongRunHighGrayLevelEmphasis 3KUM,
GrayLevelNonUniformity R5YN, GrayLevelNonUniformityNormalized OVBL, RunLengthNonUniformity W92Y,
RunLengthNonUniformityNormalized IC23, RunPercentage 9ZK5, GrayLevelVariance 8CE5, RunVariance SXLW, RunEntropy HJ9O.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from .discretise import Levels
from .glcm import EPSILON, Merging
from .matrices import Counts
from .offsets import Offsets, weights

FEATURES = (
    "GrayLevelNonUniformity",
    "GrayLevelNonUniformityNormalized",
    "GrayLevelVariance",
    "HighGrayLevelRunEmphasis",
    "LongRunEmphasis",
    "LongRunHighGrayLevelEmphasis",
    "LongRunLowGrayLevelEmphasis",
    "LowGrayLevelRunEmphasis",
    "RunEntropy",
    "RunLengthNonUniformity",
    "RunLengthNonUniformityNormalized",
    "RunPercentage",
    "RunVariance",
    "ShortRunEmphasis",
    "ShortRunHighGrayLevelEmphasis",
    "ShortRunLowGrayLevelEmphasis",
)
"""All features, in PyRadiomics' order."""


def features(
    levels: Levels,
    runs: Counts,
    paired: npt.NDArray[np.bool_],
    offsets: Offsets,
    merging: Merging,
    wanted: Collection[str],
) -> dict[str, float]:
    """Run-length features of a region.

    Args:
        levels: The region.
        runs: Counts (n, K, R) of runs for each offset, as `matrices.run_lengths` gives them.
        paired: Which offsets have lines with more than one voxel; the others are left out.
        offsets: The n offsets (n, 3).
        merging: Weights; runs of the directions are multiplied by the length of the offset and added up.
        wanted: Names of features.

    Returns:
        The features; NaN where no direction has a line with two voxels of the region, but 0 for RunEntropy and
        RunVariance where there is only one direction, or weights.
    """
    table: npt.NDArray[Any] = runs * paired[:, None, None].astype(np.float64)
    if merging.norm is not None:
        table = np.tensordot(weights(offsets, merging.spacing, merging.norm), table, axes=1)[None]
    single = len(table) == 1
    table = table[table.any(axis=(1, 2))]
    if not len(table):
        # A single empty matrix leaves PyRadiomics sums of nothing.
        return {name: 0.0 if single and name in {"RunEntropy", "RunVariance"} else np.nan for name in wanted}
    by_length = table.sum(axis=1)
    used = np.flatnonzero(by_length.any(axis=0))
    values = _values(
        table[:, :, used], by_length[:, used], levels.values.astype(np.float64), (used + 1).astype(np.float64)
    )
    means = dict(zip(values, np.stack(list(values.values())).mean(axis=1).tolist(), strict=True))
    return {name: means[name] for name in wanted}


def _values(
    table: npt.NDArray[np.float64],
    by_length: npt.NDArray[np.float64],
    level: npt.NDArray[np.float64],
    length: npt.NDArray[np.float64],
) -> dict[str, npt.NDArray[Any]]:
    """Features of each direction: `table` is (n, K, R), `by_length` (n, R)."""
    by_level = table.sum(axis=2)
    number = by_level.sum(axis=1)
    level_square, length_square = level**2, length**2
    p_level, p_length = by_level / number[:, None], by_length / number[:, None]
    mean_level, mean_length = p_level @ level, p_length @ length
    p = table[table > 0]
    direction = np.nonzero(table)[0]
    p = p / number[direction]
    entropies = -np.bincount(direction, p * np.log2(p + EPSILON), len(table))
    # (n, 2, 2): levels squared or inversely squared, lengths likewise.
    by_both = np.stack([level_square, 1 / level_square]) @ (table @ np.stack([length_square, 1 / length_square]).T)
    by_both /= number[:, None, None]
    squares_of_level, squares_of_length = (by_level**2).sum(axis=1), (by_length**2).sum(axis=1)
    return {
        "GrayLevelNonUniformity": squares_of_level / number,
        "GrayLevelNonUniformityNormalized": squares_of_level / number**2,
        "GrayLevelVariance": (p_level * (level - mean_level[:, None]) ** 2).sum(axis=1),
        "HighGrayLevelRunEmphasis": p_level @ level_square,
        "LongRunEmphasis": p_length @ length_square,
        "LongRunHighGrayLevelEmphasis": by_both[:, 0, 0],
        "LongRunLowGrayLevelEmphasis": by_both[:, 1, 0],
        "LowGrayLevelRunEmphasis": p_level @ (1 / level_square),
        "RunEntropy": entropies,
        "RunLengthNonUniformity": squares_of_length / number,
        "RunLengthNonUniformityNormalized": squares_of_length / number**2,
        "RunPercentage": number / (by_length @ length),
        "RunVariance": (p_length * (length - mean_length[:, None]) ** 2).sum(axis=1),
        "ShortRunEmphasis": p_length @ (1 / length_square),
        "ShortRunHighGrayLevelEmphasis": by_both[:, 0, 1],
        "ShortRunLowGrayLevelEmphasis": by_both[:, 1, 1],
    }

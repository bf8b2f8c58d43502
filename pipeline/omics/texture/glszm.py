"""Features of the grey-level size-zone matrix (IBSI 9SAK), under PyRadiomics' names.

IBSI identifiers: SmallAreaEmphasis 5QRC, LargeAreaEmphasis 48P8, LowGrayLevelZoneEmphasis XMSY,
HighGrayLevelZoneEmphasis 5GN9, SmallAreaLowGrayLevelEmphasis 5RAI, SmallAreaHighGrayLevelEmphasis HW1V,
LargeAreaLowGrayLevelEmphasis YH51, LargeAreaHighGrayLevelEmphasis J17V, GrayLevelNonUniformity JNSA,
GrayLevelNonUniformityNormalized Y1RO, SizeZoneNonUniformity 4JP3, SizeZoneNonUniformityNormalized VB3A,
ZonePercentage P30P, GrayLevelVariance BYLV, ZoneVariance 3NSA, ZoneEntropy GU8N.

The matrix is kept as its cells that are not 0: one large zone would make it as wide as the region.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from .discretise import Levels
from .glcm import entropy
from .matrices import Counts

FEATURES = (
    "GrayLevelNonUniformity",
    "GrayLevelNonUniformityNormalized",
    "GrayLevelVariance",
    "HighGrayLevelZoneEmphasis",
    "LargeAreaEmphasis",
    "LargeAreaHighGrayLevelEmphasis",
    "LargeAreaLowGrayLevelEmphasis",
    "LowGrayLevelZoneEmphasis",
    "SizeZoneNonUniformity",
    "SizeZoneNonUniformityNormalized",
    "SmallAreaEmphasis",
    "SmallAreaHighGrayLevelEmphasis",
    "SmallAreaLowGrayLevelEmphasis",
    "ZoneEntropy",
    "ZonePercentage",
    "ZoneVariance",
)
"""All features, in PyRadiomics' order."""


def features(levels: Levels, zones: tuple[Counts, Counts, Counts], wanted: Collection[str]) -> dict[str, float]:
    """Size-zone features of a region whose zones are given as `matrices.zones` does: rank, size, number."""
    rank, size, zones_of_both = zones
    number = zones_of_both.sum()
    p = zones_of_both / number
    level, area = levels.values[rank].astype(np.float64), size.astype(np.float64)
    by_level = np.bincount(rank, zones_of_both)
    _, same_size = np.unique(size, return_inverse=True)
    by_size = np.bincount(same_size, zones_of_both)
    level_square, area_square = level**2, area**2
    mean_level, mean_area = p @ level, p @ area
    values = {
        "GrayLevelNonUniformity": (by_level**2).sum() / number,
        "GrayLevelNonUniformityNormalized": (by_level**2).sum() / number**2,
        "GrayLevelVariance": p @ (level - mean_level) ** 2,
        "HighGrayLevelZoneEmphasis": p @ level_square,
        "LargeAreaEmphasis": p @ area_square,
        "LargeAreaHighGrayLevelEmphasis": p @ (level_square * area_square),
        "LargeAreaLowGrayLevelEmphasis": p @ (area_square / level_square),
        "LowGrayLevelZoneEmphasis": p @ (1 / level_square),
        "SizeZoneNonUniformity": (by_size**2).sum() / number,
        "SizeZoneNonUniformityNormalized": (by_size**2).sum() / number**2,
        "SmallAreaEmphasis": p @ (1 / area_square),
        "SmallAreaHighGrayLevelEmphasis": p @ (level_square / area_square),
        "SmallAreaLowGrayLevelEmphasis": p @ (1 / (level_square * area_square)),
        "ZoneEntropy": entropy(p),
        "ZonePercentage": number / levels.voxels,
        "ZoneVariance": p @ (area - mean_area) ** 2,
    }
    return {name: float(values[name]) for name in wanted}

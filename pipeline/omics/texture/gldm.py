"""Features of the grey-level dependence matrix (IBSI REK0, there neighbouring grey-level dependence).

IBSI identifiers: SmallDependenceEmphasis SODN, LargeDependenceEmphasis IMOQ, LowGrayLevelEmphasis TL9H,
HighGrayLevelEmphasis OAE7, SmallDependenceLowGrayLevelEmphasis EQ3F, SmallDependenceHighGrayLevelEmphasis JA6D,
LargeDependenceLowGrayLevelEmphasis NBZI, LargeDependenceHighGrayLevelEmphasis 9QMG, GrayLevelNonUniformity FP8K,
DependenceNonUniformity Z87G, DependenceNonUniformityNormalized OKJI, GrayLevelVariance 1PFV, DependenceVariance DNX2,
DependenceEntropy FCBV. Their names are PyRadiomics'.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from .discretise import Levels
from .glcm import entropy
from .matrices import Counts

FEATURES = (
    "DependenceEntropy",
    "DependenceNonUniformity",
    "DependenceNonUniformityNormalized",
    "DependenceVariance",
    "GrayLevelNonUniformity",
    "GrayLevelVariance",
    "HighGrayLevelEmphasis",
    "LargeDependenceEmphasis",
    "LargeDependenceHighGrayLevelEmphasis",
    "LargeDependenceLowGrayLevelEmphasis",
    "LowGrayLevelEmphasis",
    "SmallDependenceEmphasis",
    "SmallDependenceHighGrayLevelEmphasis",
    "SmallDependenceLowGrayLevelEmphasis",
)
"""All features, in PyRadiomics' order."""


def features(levels: Levels, dependent: Counts, wanted: Collection[str]) -> dict[str, float]:
    """Dependence features of a region; `dependent` (K, D) as `matrices.neighbourhoods` gives it.

    A voxel depends on itself: one without dependent neighbours has dependence 1.
    """
    number = levels.voxels
    p = dependent / number
    p_level, p_dependence = p.sum(axis=1), p.sum(axis=0)
    level = levels.values.astype(np.float64)
    dependence = np.arange(1.0, dependent.shape[1] + 1)
    level_square, dependence_square = level**2, dependence**2

    def both(of_level: npt.NDArray[np.float64], of_dependence: npt.NDArray[np.float64]) -> float:
        return float(of_level @ p @ of_dependence)

    values = {
        "DependenceEntropy": entropy(p.ravel()),
        "DependenceNonUniformity": (p_dependence**2).sum() * number,
        "DependenceNonUniformityNormalized": (p_dependence**2).sum(),
        "DependenceVariance": p_dependence @ (dependence - p_dependence @ dependence) ** 2,
        "GrayLevelNonUniformity": (p_level**2).sum() * number,
        "GrayLevelVariance": p_level @ (level - p_level @ level) ** 2,
        "HighGrayLevelEmphasis": p_level @ level_square,
        "LargeDependenceEmphasis": p_dependence @ dependence_square,
        "LargeDependenceHighGrayLevelEmphasis": both(level_square, dependence_square),
        "LargeDependenceLowGrayLevelEmphasis": both(1 / level_square, dependence_square),
        "LowGrayLevelEmphasis": p_level @ (1 / level_square),
        "SmallDependenceEmphasis": p_dependence @ (1 / dependence_square),
        "SmallDependenceHighGrayLevelEmphasis": both(level_square, 1 / dependence_square),
        "SmallDependenceLowGrayLevelEmphasis": both(1 / level_square, 1 / dependence_square),
    }
    return {name: float(values[name]) for name in wanted}

"""Features of the neighbourhood grey-tone difference matrix (IBSI IPET), under PyRadiomics' names.

IBSI identifiers: Coarseness QCDE, Contrast 65HE, Busyness NQ30, Complexity HDEZ, Strength 1X9X. A voxel without
neighbours counts in PyRadiomics, with a difference of 0; IBSI leaves it out.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from ...jit import compiled
from .discretise import Levels

FEATURES = ("Busyness", "Coarseness", "Complexity", "Contrast", "Strength")
"""All features, in PyRadiomics' order."""

_COARSENESS_OF_FLAT = 1e6


def features(levels: Levels, differences: npt.NDArray[np.float64], wanted: Collection[str]) -> dict[str, float]:
    """Tone-difference features of a region; `differences` (K,) as `matrices.neighbourhoods` gives them."""
    voxels = levels.voxels
    p = levels.counts / voxels
    present = len(p)
    level = levels.values.astype(np.float64)
    weighted, total = float(p @ differences), float(differences.sum())
    spread, imbalance, complexity, strength = _over_pairs(p, differences, level)
    values = {
        "Busyness": weighted / imbalance if imbalance else 0.0,
        "Coarseness": 1 / weighted if weighted else _COARSENESS_OF_FLAT,
        "Complexity": complexity / voxels,
        "Contrast": spread * total / voxels / (present * (present - 1)) if present > 1 else 0.0,
        "Strength": strength / total if total else 0.0,
    }
    return {name: float(values[name]) for name in wanted}


@compiled
def _over_pairs(
    p: npt.NDArray[np.float64], differences: npt.NDArray[np.float64], level: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Sums over all pairs of levels: of pᵢ pⱼ (i − j)², |i pᵢ − j pⱼ|, |i − j| (pᵢ sᵢ + pⱼ sⱼ) / (pᵢ + pⱼ), and
    (pᵢ + pⱼ) (i − j)²."""
    spread, imbalance, complexity, strength = 0.0, 0.0, 0.0, 0.0
    for i in range(len(p)):
        for j in range(len(p)):
            apart = abs(level[i] - level[j])
            spread += p[i] * p[j] * apart**2
            imbalance += abs(level[i] * p[i] - level[j] * p[j])
            complexity += apart * (p[i] * differences[i] + p[j] * differences[j]) / (p[i] + p[j])
            strength += (p[i] + p[j]) * apart**2
    return spread, imbalance, complexity, strength

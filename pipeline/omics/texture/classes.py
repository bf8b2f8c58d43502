"""Texture features by class, the matrices of a region computed once and only where they are wanted."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from . import glcm, gldm, glrlm, glszm, matrices, ngtdm
from .discretise import Levels
from .glcm import Merging
from .matrices import Counts
from .offsets import Offsets, half_offsets


class NoNeighboursError(ValueError):
    """No direction leads from one voxel of the region's box to another."""


class Textures:
    """Texture features of one region in grey levels."""

    def __init__(self, levels: Levels, distances: Sequence[int], merging: Merging, dependence_tolerance: int) -> None:
        """Prepare; nothing is computed yet.

        Args:
            levels: The region.
            distances: Distances of neighbours, in the infinity norm; runs and zones always have 1.
            merging: What happens to matrices of several directions.
            dependence_tolerance: Largest difference of levels at which a neighbour depends on a voxel (`gldm_a`).
        """
        self._levels = levels
        self._distances = distances
        self._merging = merging
        self._tolerance = dependence_tolerance
        self._classes: Mapping[str, Callable[[Collection[str]], dict[str, float]]] = {
            "glcm": self._glcm,
            "glrlm": self._glrlm,
            "glszm": self._glszm,
            "gldm": self._gldm,
            "ngtdm": self._ngtdm,
        }

    def features(self, name: str, wanted: Collection[str]) -> dict[str, float]:
        """The wanted features of a class (`glcm`, `glrlm`, `glszm`, `gldm`, `ngtdm`).

        Raises:
            NoNeighboursError: no offset of the class stays inside the region's box.
        """
        return self._classes[name](wanted)

    def _offsets(self, distances: Sequence[int]) -> Offsets:
        offsets = half_offsets(self._levels.box, distances, self._levels.flat)
        if len(offsets) == 0:
            raise NoNeighboursError(
                f"the region's box of {self._levels.box} voxels (z, y, x) has no neighbours at distance "
                f"{', '.join(map(str, distances))}"
            )
        return offsets

    @cached_property
    def _near(self) -> Offsets:
        return self._offsets((1,))

    @cached_property
    def _far(self) -> Offsets:
        return self._offsets(self._distances)

    @cached_property
    def _neighbourhoods(self) -> tuple[Counts, npt.NDArray[np.float64]]:
        return matrices.neighbourhoods(self._levels, self._far, self._tolerance)

    def _glcm(self, wanted: Collection[str]) -> dict[str, float]:
        pairs = matrices.cooccurrence(self._levels, self._far)
        return glcm.features(self._levels, pairs, self._far, self._merging, wanted)

    def _glrlm(self, wanted: Collection[str]) -> dict[str, float]:
        runs, paired = matrices.run_lengths(self._levels, self._near)
        return glrlm.features(self._levels, runs, paired, self._near, self._merging, wanted)

    def _glszm(self, wanted: Collection[str]) -> dict[str, float]:
        zones = matrices.zones(self._levels, self._near)
        return glszm.features(self._levels, zones, wanted)

    def _gldm(self, wanted: Collection[str]) -> dict[str, float]:
        return gldm.features(self._levels, self._neighbourhoods[0], wanted)

    def _ngtdm(self, wanted: Collection[str]) -> dict[str, float]:
        return ngtdm.features(self._levels, self._neighbourhoods[1], wanted)

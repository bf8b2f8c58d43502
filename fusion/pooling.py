"""Means of units and of patients: what simple predictors and distances between patients start from."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from ..stores.packed import Units
from .estimates import Numbers


def unit_features(units: Units) -> Numbers:
    """[unit, feature] of each bag the mean over its words, of each lesion the plain view; block by block."""
    out = np.empty((len(units.features), units.features.shape[2]))
    for start in range(0, len(out), 256):
        block = units.features[start : start + 256]
        out[start : start + 256] = block.mean(axis=1, dtype=np.float32) if units.has_words else block[:, 0]
    return out


def patient_means(values: Numbers, offsets: npt.NDArray[np.int64]) -> Numbers:
    """[patient, feature] mean over each patient's units, of the known values; NaN without any."""
    out = np.full((len(offsets) - 1, values.shape[1]), np.nan)
    for patient, (first, end) in enumerate(itertools.pairwise(offsets)):
        rows = values[first:end]
        known = ~np.isnan(rows)
        count = known.sum(axis=0)
        np.divide(np.where(known, rows, 0).sum(axis=0), count, out=out[patient], where=count > 0)
    return out

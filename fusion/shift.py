"""How another cohort's inputs and predictions differ from those of the patients that a model was made on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..stores.packed import Packed
from .dataset import OmicsScaler
from .estimates import numbers
from .subgroups import standardised_difference

if TYPE_CHECKING:
    import pandas as pd

FAR = 0.5
"""Shift of a feature's median, in interquartile ranges of the training patients, from which it is called shifted."""


@dataclass(frozen=True)
class Shift:
    """One predicted number in two cohorts, summarised."""

    name: str
    development: tuple[float, float, float]
    """Quartiles: low, median, high."""
    external: tuple[float, float, float]
    smd: float
    """Standardised difference, external − development."""
    distance: float
    """Largest distance of the two distribution functions (Kolmogorov–Smirnov)."""
    p: float


def predicted_shift(development: Mapping[str, ArrayLike], external: Mapping[str, ArrayLike]) -> list[Shift]:
    """Distributions of predictions in two cohorts: what was predicted → [patient] values."""
    from scipy.stats import ks_2samp

    found = []
    for name, values in development.items():
        first, second = numbers(values), numbers(external[name])
        test = ks_2samp(first, second)
        low, high = _quartiles(first), _quartiles(second)
        smd = standardised_difference([first[:, None], second[:, None]])
        found.append(Shift(name, low, high, smd, float(test.statistic), float(test.pvalue)))
    return found


def omics_shift(packed: Packed, scalers: Mapping[str, OmicsScaler], chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """Every omics feature that a model reads, in the scale that was frozen with it.

    Args:
        packed: pack of the other cohort.
        scalers: modality → statistics of the training patients.
        chosen: [patient] whose bags or lesions are looked at.

    Returns:
        A row a feature: `modality`, `feature`, `units` (bags or lesions), `median` and `spread` (median and
        interquartile range in interquartile ranges of the training patients, where they are 0 and 1; NaN where no unit
        has a value), `missing` and `cut` (shares without a value, and beyond the limit at which values are cut).
    """
    import pandas as pd

    columns = ("modality", "feature", "units", "median", "spread", "missing", "cut")
    frames = [pd.DataFrame(columns=columns)]
    for name, scaler in scalers.items():
        units = packed.units.get(name)
        rows = np.flatnonzero(np.repeat(chosen, units.counts)) if units is not None else np.array([], dtype=int)
        if units is None or not len(rows) or not scaler.width or units.omics_columns != scaler.columns:
            continue
        kept = scaler.kept
        scaled = (np.asarray(units.omics[rows][:, kept], np.float64) - scaler.median[kept]) / scaler.scale[kept]
        there = ~np.isnan(scaled)
        known = there.any(axis=0)
        quartiles = np.full((3, scaled.shape[1]), math.nan)
        quartiles[:, known] = np.nanpercentile(scaled[:, known], (25, 50, 75), axis=0)
        cut = (np.abs(np.where(there, scaled, 0.0)) > scaler.limit).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        facts = (name, np.array(scaler.columns)[kept], len(rows), quartiles[1], quartiles[2] - quartiles[0])
        frames.append(pd.DataFrame(dict(zip(columns, (*facts, 1 - there.mean(axis=0), cut), strict=True))))
    return pd.concat(frames[1:] or frames, ignore_index=True)


def omics_summary(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table of `omics_shift` by modality: counts, and the features whose medians moved furthest."""
    found = []
    for name, rows in table.groupby("modality", sort=False):
        moved = rows["median"].abs().fillna(0.0)
        furthest = rows.assign(moved=moved).sort_values(["moved", "feature"], ascending=[False, True]).head(5)
        found.append(
            {
                "modality": str(name),
                "features": len(rows),
                "units": int(rows["units"].iloc[0]),
                "shifted": int((moved > FAR).sum()),
                "median": float(moved.median()),
                "missing": float(rows["missing"].mean()),
                "cut": float(rows["cut"].mean()),
                "furthest": [
                    (str(row["feature"]), float(row["median"]))
                    for row in furthest.to_dict("records")
                    if row["moved"] > FAR
                ],
            }
        )
    return found


@dataclass(frozen=True)
class Distance:
    """How far two cohorts' patients lie from the training patients in the deep features of one modality."""

    modality: str
    patients: tuple[int, int]
    """Of the run's held-out patients, and external ones."""
    development: tuple[float, float, float]
    """Quartiles: low, median, high."""
    external: tuple[float, float, float]
    distance: float
    """Largest distance of the two distribution functions (Kolmogorov–Smirnov)."""
    p: float
    beyond: float
    """Share of external patients that lie farther than `USUAL` of the held-out ones."""


USUAL = 0.9


def deep_shift(development: pd.DataFrame, external: pd.DataFrame) -> list[Distance]:
    """Modalities that both cohorts have, from their tables of distances (see `feature_space`)."""
    from scipy.stats import ks_2samp

    found = []
    for name, rows in external.groupby("modality", sort=True):
        second = rows["distance"].to_numpy(dtype=np.float64)
        first = development.loc[development["modality"] == name, "distance"].to_numpy(dtype=np.float64)
        if not len(first):
            continue
        test = ks_2samp(first, second)
        beyond = float((second > np.quantile(first, USUAL)).mean())
        counts = len(first), len(second)
        quartiles = _quartiles(first), _quartiles(second)
        found.append(Distance(str(name), counts, *quartiles, float(test.statistic), float(test.pvalue), beyond))
    return found


def _quartiles(values: NDArray[np.float64]) -> tuple[float, float, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)

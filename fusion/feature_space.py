"""Where the training patients lie among all deep features, and how far from them another patient is.

A patient is the mean of its bags' features, or of its lesions'. The distance is Mahalanobis' under the covariance of
the training patients, shrunk after Ledoit and Wolf (2004), because there are fewer patients than features; Lee et al.
(2018) find inputs that a network was not trained on by it. Patients of training are nearer than new ones of the same
kind, so distances of other cohorts are set beside those of held-out patients.

    RUN/
      feature_space.safetensors   the statistics
      distance.csv                patient, part, modality, distance: of the patients that were not trained on
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from ..stores.packed import Packed
from .estimates import Numbers
from .pooling import patient_means, unit_features
from .splits import Split

if TYPE_CHECKING:
    import pandas as pd

SPACE_FILE, DISTANCE_FILE = "feature_space.safetensors", "distance.csv"

FEWEST = 20
"""Training patients with a modality, below which there is no space of it."""

_COLUMNS = ("patient", "part", "modality", "distance")


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """Mean and shrunk covariance of the patients' standardised features, as directions and what is left."""

    mean: Numbers
    """[feature]"""
    scale: Numbers
    """[feature] standard deviation; 1 where it is 0."""
    directions: Numbers
    """[direction, feature] eigenvectors of the covariance, of length 1."""
    variances: Numbers
    """[direction] shrunk variance along each."""
    rest: Numbers
    """[1] shrunk variance along every other direction."""

    @classmethod
    def fit(cls, means: Numbers) -> Self | None:
        """The space of patients [patient, feature] that all have features; none of fewer than `FEWEST`."""
        from sklearn.covariance import ledoit_wolf_shrinkage

        if len(means) < FEWEST:
            return None
        mean, spread = means.mean(axis=0), means.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        scaled = (means - mean) / scale
        shrinkage = float(ledoit_wolf_shrinkage(scaled, assume_centered=True))
        _, lengths, directions = np.linalg.svd(scaled / np.sqrt(len(scaled)), full_matrices=False)
        rest = shrinkage * float(np.sum(lengths**2)) / scaled.shape[1]
        if rest <= 0:  # all patients the same
            return None
        return cls(mean, scale, directions, (1 - shrinkage) * lengths**2 + rest, np.array([rest]))

    def distance(self, means: Numbers) -> Numbers:
        """[patient] root of the mean square over directions, in standard deviations; NaN where features are."""
        scaled = (means - self.mean) / self.scale
        along = scaled @ self.directions.T  # (patient, direction)
        beside = (scaled**2).sum(axis=1) - (along**2).sum(axis=1)
        squared = (along**2 / self.variances).sum(axis=1) + np.maximum(beside, 0.0) / self.rest[0]
        return np.asarray(np.sqrt(squared / scaled.shape[1]))


def deep_means(packed: Packed, modalities: Iterable[str]) -> dict[str, Numbers]:
    """Modality → [patient, feature] mean deep features; NaN for patients without it."""
    units = {name: packed.units[name] for name in modalities if name in packed.units}
    return {name: patient_means(unit_features(own), own.offsets) for name, own in units.items() if own.features.size}


def save_spaces(run: Path, packed: Packed, split: Split, modalities: Iterable[str]) -> None:
    """Write the space of each modality, and how far the patients lie that were not trained on."""
    from safetensors.numpy import save_file

    from .checkpoint import write_atomically

    means = deep_means(packed, modalities)
    parts = np.array([split.part(patient) for patient in packed.patients])
    spaces = {}
    for modality, values in means.items():
        trained = (parts == "train") & ~np.isnan(values).any(axis=1)
        if (space := FeatureSpace.fit(values[trained])) is not None:
            spaces[modality] = space
    tensors = {
        f"{modality}.{entry.name}": np.ascontiguousarray(getattr(space, entry.name), dtype=np.float32)
        for modality, space in spaces.items()
        for entry in fields(space)
    }
    write_atomically(run / SPACE_FILE, lambda file: save_file(tensors, file))
    table = _distances(packed, spaces, means, parts != "train", parts)
    write_atomically(run / DISTANCE_FILE, lambda file: table.to_csv(file, index=False))


def load_spaces(run: Path) -> dict[str, FeatureSpace]:
    """Modality → space; empty for runs that kept none.

    Raises:
        FitError: the file is broken.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = run / SPACE_FILE
    if not file.is_file():
        return {}
    try:
        tensors = load_file(file)
        names = dict.fromkeys(name.split(".")[0] for name in tensors)
        return {
            name: FeatureSpace(
                **{entry.name: tensors[f"{name}.{entry.name}"].astype(np.float64) for entry in fields(FeatureSpace)}
            )
            for name in names
        }
    except (OSError, KeyError, SafetensorError) as error:
        raise FitError(f"{SPACE_FILE}: not readable: {error}; run `mumo fit` again") from error


def distances(
    packed: Packed, spaces: Mapping[str, FeatureSpace], chosen: npt.NDArray[np.bool_], part: str
) -> pd.DataFrame:
    """A row a chosen patient and modality that it has: `patient`, `part`, `modality`, `distance`.

    Args:
        chosen: [patient] whether.
        part: what to call the patients' part.

    Raises:
        FitError: features of another width than those of the space.
    """
    means = deep_means(packed, spaces)
    for modality, values in means.items():
        if values.shape[1] != (expected := len(spaces[modality].mean)):
            raise FitError(f"{modality}: {values.shape[1]} deep features, expected {expected} as in training")
    return _distances(packed, spaces, means, chosen, np.full(len(packed.patients), part))


def _distances(
    packed: Packed,
    spaces: Mapping[str, FeatureSpace],
    means: Mapping[str, Numbers],
    chosen: npt.NDArray[np.bool_],
    parts: npt.NDArray[np.str_],
) -> pd.DataFrame:
    import pandas as pd

    frames = [pd.DataFrame(columns=_COLUMNS)]
    patients = np.array(packed.patients, dtype=str)
    for modality in means.keys() & spaces.keys():
        rows = chosen & ~np.isnan(means[modality]).any(axis=1)
        found = (patients[rows], parts[rows], modality, spaces[modality].distance(means[modality][rows]))
        frames.append(pd.DataFrame(dict(zip(_COLUMNS, found, strict=True))))
    table = pd.concat(frames[1:] or frames, ignore_index=True)
    return table.sort_values(["modality", "patient"], kind="stable", ignore_index=True)


def distance_file(run: Path) -> Path:
    """Of a run or an external validation, or of many trainings that of the first."""
    own = run / DISTANCE_FILE
    return own if own.is_file() else next(iter(sorted((run / "members").glob(f"*/{DISTANCE_FILE}"))), own)


def read_distances(run: Path) -> pd.DataFrame | None:
    """What `distance_file` holds; none where there is none.

    Raises:
        FitError: the file is broken.
    """
    import pandas as pd

    file = distance_file(run)
    if not file.is_file():
        return None
    try:
        table = pd.read_csv(file, dtype={"patient": str, "part": str, "modality": str, "distance": np.float64})
    except (OSError, ValueError) as error:
        raise FitError(f"run folder: {DISTANCE_FILE}: not readable: {error}") from error
    if tuple(table.columns) != _COLUMNS:
        raise FitError(f"run folder: {DISTANCE_FILE}: expected columns {', '.join(_COLUMNS)}, found {list(table)}")
    return table

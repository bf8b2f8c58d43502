"""PyRadiomics itself on arrays, and comparison of its features with another engine's."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from radiomics.featureextractor import RadiomicsFeatureExtractor

Triple = tuple[float, float, float]


def by_pyradiomics(image: np.ndarray, mask: np.ndarray, spacing: Triple, values: Mapping[str, Any]) -> dict[str, float]:
    """Features of the region (z, y, x) by PyRadiomics' own extractor."""
    voxels = sitk.GetImageFromArray(image)
    voxels.SetSpacing(spacing)
    labels = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels.SetSpacing(spacing)
    logging.getLogger("radiomics").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        setting = {**values.get("setting", {}), "additionalInfo": False}
        features = RadiomicsFeatureExtractor({**values, "setting": setting}).execute(voxels, labels)
    return {str(name): float(value) for name, value in features.items()}


def apart(found: Mapping[str, float], expected: Mapping[str, float], ignored: Iterable[str] = ()) -> list[str]:
    """Features that differ by more than 1e-6 of their value and 1e-9; NaN equals NaN."""
    left_out = set(ignored)
    return [
        f"{name}: {found[name]!r}, expected {value!r}"
        for name, value in expected.items()
        if name not in left_out
        and not (math.isnan(value) and math.isnan(found[name]))
        and not abs(found[name] - value) <= 1e-9 + 1e-6 * abs(value)
    ]


def sample_volume(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, Triple]:
    """Image, mask (z, y, x) and spacing (x, y, z) of one of PyRadiomics' test volumes."""
    file = folder / f"{name}_image{'_roi' if name == 'lung2' else ''}.nrrd"
    image = sitk.ReadImage(str(file))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{name}_label.nrrd"))) == 1
    return sitk.GetArrayFromImage(image), mask, image.GetSpacing()

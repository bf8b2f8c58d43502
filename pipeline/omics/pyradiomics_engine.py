"""The engine `pyradiomics`: PyRadiomics' own filters and features, with the grey levels of an image shared.

PyRadiomics discretises an image anew for each of its six intensity and texture classes, and finds minimum and maximum
with Python's built-in functions: half of its time. Here it is done once for each image, by the same formula, so every
value stays as PyRadiomics computes it.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pykwalify.errors
import radiomics
import SimpleITK as sitk
from radiomics import featureextractor

from ...errors import ConfigError, RegionError
from .limits import check_matrices, expected_levels
from .presets import Parameters

VERSION = str(radiomics.__version__).removeprefix("v")


@dataclass(frozen=True)
class Bins:
    """An image in grey levels from 1; 0 outside the region."""

    image: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    """Grey levels that occur, increasing."""

    @property
    def highest(self) -> int:
        """Highest grey level: the side of a co-occurrence matrix."""
        return int(self.levels[-1])


def validated(values: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The three sections of a parameter file after PyRadiomics' own validation, with its defaults filled in."""
    try:
        with _quiet():
            extractor = featureextractor.RadiomicsFeatureExtractor(_plain(values))
    except (pykwalify.errors.PyKwalifyException, TypeError, ValueError, KeyError, AttributeError) as error:
        text = " ".join(str(getattr(error, "msg", error)).split())
        raise ConfigError(f"radiomics.parameter_file: {name} is refused by PyRadiomics: {text}") from error
    return {
        "setting": dict(values.get("setting") or {}),
        "imageType": {key: dict(custom or {}) for key, custom in extractor.enabledImagetypes.items()},
        "featureClass": {key: list(chosen or []) for key, chosen in extractor.enabledFeatures.items()},
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def compute(
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
) -> dict[str, float]:
    """Features of the region `mask` of `image` (z, y, x) by PyRadiomics' names; arguments must have been checked.

    Raises:
        RegionError: PyRadiomics refuses the region, or its matrices would be too large.
    """
    voxels = sitk.GetImageFromArray(image)
    voxels.SetSpacing(spacing_mm)
    labels = sitk.GetImageFromArray(mask.astype(np.uint8))
    labels.CopyInformation(voxels)
    try:
        with _quiet():
            values = _extractor(parameters).execute(voxels, labels)
    except RegionError:
        raise
    except (ValueError, RuntimeError, ArithmeticError, LookupError, MemoryError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise RegionError(f"PyRadiomics refuses the region: {text[:300]}") from error
    return {str(name): float(value) for name, value in values.items()}


@functools.lru_cache(maxsize=8)
def _extractor(parameters: Parameters) -> _Extractor:
    values = parameters.as_dict()
    return _Extractor(parameters.max_matrix_mb, {**values, "setting": {**values["setting"], "additionalInfo": False}})


class _Extractor(featureextractor.RadiomicsFeatureExtractor):  # type: ignore[misc]  # PyRadiomics has no types
    """PyRadiomics' extractor with the grey levels of each image computed once."""

    def __init__(self, max_matrix_mb: float, parameters: dict[str, Any]) -> None:
        super().__init__(parameters)
        self.max_matrix_mb = max_matrix_mb

    def computeFeatures(  # noqa: N802 - PyRadiomics' name
        self, image: Any, mask: Any, imageTypeName: str, **settings: Any
    ) -> dict[str, Any]:
        region = sitk.GetArrayFromImage(mask) == settings.get("label", 1)
        bins = discretise(sitk.GetArrayFromImage(image), region, settings, imageTypeName, self.max_matrix_mb)
        features = {}
        for name, chosen in self.enabledFeatures.items():
            if name.startswith("shape"):
                continue  # PyRadiomics computes shape apart, once
            calculator = _sharing(radiomics.getFeatureClasses()[name])(image, mask, mumo_bins=bins, **settings)
            for feature in chosen or ():
                calculator.enableFeatureByName(feature)
            for feature, value in calculator.execute().items():
                features[f"{imageTypeName}_{name}_{feature}"] = value
        return features


class _SharedBins:
    """Takes the grey levels from the settings in place of computing them."""

    settings: dict[str, Any]
    coefficients: dict[str, Any]

    def _applyBinning(self, _matrix: Any) -> Any:  # noqa: N802 - PyRadiomics' name
        bins: Bins = self.settings["mumo_bins"]
        self.coefficients["grayLevels"] = bins.levels
        self.coefficients["Ng"] = bins.highest
        return bins.image


@functools.cache
def _sharing(feature_class: type) -> type:
    return type(feature_class.__name__, (_SharedBins, feature_class), {"__module__": feature_class.__module__})


def discretise(
    image: npt.NDArray[Any],
    region: npt.NDArray[np.bool_],
    settings: Mapping[str, Any],
    image_type: str,
    max_matrix_mb: float,
) -> Bins:
    """Grey levels of `image` inside `region`, as PyRadiomics' `getBinEdges` and `binImage` define them.

    Raises:
        RegionError: values that are not finite, or so many levels that the matrices would exceed `max_matrix_mb`.
    """
    values = image[region]
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RegionError(f"the image type {image_type} has values that are not finite inside the region")
    count, width = settings.get("binCount"), settings.get("binWidth", 25)
    levels = expected_levels(float(low), float(high), settings)
    check_matrices(levels, 0, max(image.shape), settings, image_type, max_matrix_mb)
    if count is not None:
        edges = np.histogram(values, count)[1]
        edges[-1] += 1
    else:
        edges = np.arange(low - (low % width), high + 2 * width, width)
        if len(edges) == 1:
            edges = np.array([edges[0] - 0.5, edges[0] + 0.5])
    binned = np.zeros(image.shape, dtype=np.int64)
    inside = np.digitize(values, edges)
    binned[region] = inside
    voxels = np.bincount(inside)
    occurring = np.flatnonzero(voxels)
    check_matrices(int(occurring[-1]), int(voxels.max()), max(image.shape), settings, image_type, max_matrix_mb)
    return Bins(binned, occurring)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the messages of PyRadiomics and its schema checker, which would repeat for every region."""
    loggers = [logging.getLogger(name) for name in ("radiomics", "pykwalify")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)

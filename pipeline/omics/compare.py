"""Both radiomics engines on one image: every feature, the time of each, and how far they are apart.

The other side is PyRadiomics as it comes, not mumo's engine `pyradiomics`, which saves it some work.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import RadiomicsSettings
from ...errors import ConfigError, InputError, RegionError
from ..radiology.formats import check_file, image_io
from ..radiomics import BAG_SPACING, unusable
from . import fast_engine
from .grey_bags import grey_bag
from .presets import Parameters, bag_parameters, lesion_parameters

Engine = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_], tuple[float, float, float], Parameters], dict[str, float]]

SMALL = 1e-9
"""Values closer to 0 than this are compared as they are, not relative to each other."""

_FAST_RUNS = 3
"""Runs of the fast engine for each of PyRadiomics: short times are the easier disturbed."""
_PICTURES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_MAX_VOXELS = 1_000_000_000
_MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Feature:
    """One feature by both engines."""

    name: str
    fast: float
    pyradiomics: float

    @property
    def difference(self) -> float:
        """Relative difference; absolute where PyRadiomics' value is below SMALL; 0 where both are NaN."""
        if math.isnan(self.fast) and math.isnan(self.pyradiomics):
            return 0.0
        apart = abs(self.fast - self.pyradiomics)
        return apart / abs(self.pyradiomics) if abs(self.pyradiomics) > SMALL else apart


@dataclass(frozen=True)
class Comparison:
    """Both engines on one image."""

    features: tuple[Feature, ...]
    """In PyRadiomics' order."""
    fast_s: float
    """Shortest time of the fast engine, without compilation."""
    pyradiomics_s: float
    """Shortest time of PyRadiomics."""
    first_s: float
    """Time of the fast engine's first run in this process: includes loading compiled kernels, or compiling them."""

    @property
    def ratio(self) -> float:
        """How many times faster the fast engine is."""
        return self.pyradiomics_s / self.fast_s

    @property
    def worst(self) -> Feature:
        """The feature that is furthest apart."""
        return max(self.features, key=lambda feature: (math.isnan(feature.difference), feature.difference))


def compare_files(
    image: Path, mask: Path | None = None, parameter_file: Path | None = None, label: int | None = None, runs: int = 1
) -> Comparison:
    """Compare both engines on a volume, or on a picture as a bag.

    Args:
        image: A volume (NIfTI, NRRD, MetaImage), or a picture (PNG, TIFF, JPEG; colours become luma).
        mask: A label volume of the same grid, or a picture; none: the whole image is the region.
        parameter_file: A PyRadiomics parameter file; none: the preset.
        label: The label that is the region; none: every label.
        runs: How often PyRadiomics runs, in turns with the fast engine; the shortest times count.

    Raises:
        InputError: a file cannot be used, or the two do not fit.
        RegionError: the region has no features.
        ConfigError: the parameter file cannot be used, or the fast engine does not cover it.
    """
    settings = RadiomicsSettings(parameter_file=parameter_file)
    picture = image.suffix.lower() in _PICTURES
    parameters = bag_parameters(settings) if picture else lesion_parameters(settings)
    voxels, spacing_mm = _read(image, "image")
    if mask is None:
        region = np.ones(voxels.shape, np.bool_)
    else:
        labels, _ = _read(mask, "mask")
        region = labels != 0 if label is None else labels == label
    if voxels.shape != region.shape:
        raise InputError(
            f"mask {mask.name if mask else ''}: {region.shape} voxels (z, y, x), the image {image.name} has "
            f"{voxels.shape}; use a mask drawn on this image"
        )
    return compare(voxels, region, spacing_mm, parameters, runs)


def compare(
    image: npt.NDArray[Any],
    region: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
    runs: int = 1,
) -> Comparison:
    """Compare both engines on a region of an image (z, y, x); see `compare_files`."""
    reason = fast_engine.unsupported(parameters)
    if reason:
        raise ConfigError(f"radiomics.parameter_file: the fast engine does not cover {reason}; PyRadiomics computes it")
    unfit = unusable(image, region, spacing_mm)
    if unfit:
        raise RegionError(unfit)
    with _one_thread():
        first_s, _ = _timed(fast_engine.compute, image, region, spacing_mm, parameters)
        fast, slow = [], []
        for _ in range(runs):  # in turns, so that other work on the machine meets both
            slow.append(_timed(reference, image, region, spacing_mm, parameters))
            fast += [_timed(fast_engine.compute, image, region, spacing_mm, parameters) for _ in range(_FAST_RUNS)]
    found, expected = fast[0][1], slow[0][1]
    names = [*expected, *(name for name in found if name not in expected)]
    features = tuple(Feature(name, found.get(name, math.nan), expected.get(name, math.nan)) for name in names)
    return Comparison(features, min(seconds for seconds, _ in fast), min(seconds for seconds, _ in slow), first_s)


def reference(
    image: npt.NDArray[Any],
    region: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
) -> dict[str, float]:
    """PyRadiomics' own extractor, without its notes on versions and images; RegionError where it refuses the region."""
    import SimpleITK as sitk
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    voxels = sitk.GetImageFromArray(image)
    voxels.SetSpacing(spacing_mm)
    labels = sitk.GetImageFromArray(region.astype(np.uint8))
    labels.SetSpacing(spacing_mm)
    values = parameters.as_dict()
    values["setting"]["additionalInfo"] = False
    with _quiet():
        extractor = RadiomicsFeatureExtractor(values)
        try:
            features = extractor.execute(voxels, labels)
        except (ValueError, RuntimeError, LookupError) as error:
            raise RegionError(f"PyRadiomics refuses the region: {error}") from error
    return {str(name): float(value) for name, value in features.items()}


def _read(path: Path, what: str) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    """Voxels (z, y, x) and spacing (x, y, z) of a volume or picture."""
    if not path.is_file():
        raise InputError(f"{what} {path.name}: there is no such file")
    if path.suffix.lower() in _PICTURES:
        return _read_picture(path, what)
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io(path, what))
    check_file(path, _MAX_VOXELS, what)
    reader.SetFileName(str(path))
    try:
        volume = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{what} {path.name}: cannot be read as a volume; check that it is complete") from error
    dimensions, components = volume.GetDimension(), volume.GetNumberOfComponentsPerPixel()
    if dimensions != 3 or components != 1:
        raise InputError(
            f"{what} {path.name}: {dimensions} dimensions, {components} values a voxel; expected 3 dimensions and one"
        )
    x_mm, y_mm, z_mm = volume.GetSpacing()
    return sitk.GetArrayFromImage(volume), (x_mm, y_mm, z_mm)


def _read_picture(path: Path, what: str) -> tuple[npt.NDArray[Any], tuple[float, float, float]]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise InputError(f"{what} {path.name}: {picture.size} pixels, at most {_MAX_PIXELS:,} in all; crop it")
            colours = picture.mode not in {"L", "I", "I;16", "F", "1"}
            pixels: npt.NDArray[Any] = np.asarray(picture.convert("RGB") if colours and what == "image" else picture)
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{what} {path.name}: cannot be read as a picture; check that it is complete") from error
    if pixels.ndim == 3:
        pixels = grey_bag(pixels, max(pixels.shape)) if what == "image" else (pixels != 0).any(axis=2)
    return (pixels.astype(np.float64) if what == "image" else pixels)[None], BAG_SPACING


def _timed(
    engine: Engine,
    image: npt.NDArray[Any],
    region: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
) -> tuple[float, dict[str, float]]:
    began = time.perf_counter()
    features = engine(image, region, spacing_mm, parameters)
    return time.perf_counter() - began, features


@contextmanager
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("radiomics")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Both engines with one thread: of ITK, which PyRadiomics filters with, and of linear algebra."""
    import SimpleITK as sitk
    from threadpoolctl import threadpool_limits

    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)

"""The engine `fast`: PyRadiomics' features with PyRadiomics' numbers, by compiled kernels.

The image is prepared once, filtered once for each image type, and discretised once for all texture classes of an image
type. What is not covered is named by `unsupported`; PyRadiomics computes that. Known differences are listed in
docs/radiomics.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RegionError
from .filters import FILTERS, image_types
from .omics_presets import SHAPE_CLASSES, Parameters
from .preparation import Region, prepare
from .texture import discretise, firstorder, glcm, gldm, glrlm, glszm, matrices, ngtdm
from .texture.discretise import Levels
from .texture.offsets import half_offsets

CLASSES: Mapping[str, tuple[str, ...]] = {
    "firstorder": firstorder.FEATURES,
    "glcm": glcm.FEATURES,
    "glrlm": glrlm.FEATURES,
    "glszm": glszm.FEATURES,
    "gldm": gldm.FEATURES,
    "ngtdm": ngtdm.FEATURES,
}
"""Classes of intensity and texture features, and the features of each."""

WITHOUT_VALUES: Mapping[str, tuple[str, ...]] = {
    "glcm": ("Dissimilarity", "Homogeneity1", "Homogeneity2", "SumVariance"),
    "gldm": ("DependencePercentage", "GrayLevelNonUniformityNormalized"),
}
"""Features that PyRadiomics knows but computes no more: another has the same value, or it is always 1."""

_NORMS = ("manhattan", "euclidean", "infinity", "no_weighting")
_INTERPOLATORS = (
    "sitkNearestNeighbor",
    "sitkLinear",
    "sitkBSpline",
    "sitkGaussian",
    "sitkLabelGaussian",
    "sitkHammingWindowedSinc",
    "sitkCosineWindowedSinc",
    "sitkWelchWindowedSinc",
    "sitkLanczosWindowedSinc",
    "sitkBlackmanWindowedSinc",
)


def unsupported(parameters: Parameters) -> str | None:
    """Why this engine cannot compute these parameters, or none when it can."""
    values = parameters.as_dict()
    settings = values["setting"]
    for kind, own in values["imageType"].items():
        if kind not in FILTERS:
            return f"image type {kind}"
        reason = _unsupported_settings({**settings, **own})
        if reason:
            return reason
    for name, chosen in values["featureClass"].items():
        if name not in CLASSES and name not in SHAPE_CLASSES:
            return f"feature class {name}"
        known = {*CLASSES.get(name, ()), *WITHOUT_VALUES.get(name, ()), *firstorder.ON_REQUEST}
        unknown = [feature for feature in chosen or () if feature not in known]
        if unknown and name not in SHAPE_CLASSES:
            return f"feature {unknown[0]} of class {name}"
    return None


def _unsupported_settings(settings: Mapping[str, Any]) -> str | None:
    distances = settings.get("distances", [1])
    if len(set(distances)) < len(distances):
        return f"repeated distances {distances}"
    if not all(isinstance(distance, int) and distance > 0 for distance in distances):
        return f"distances {distances}"
    if settings.get("weightingNorm") not in (None, *_NORMS):
        return f"weightingNorm {settings['weightingNorm']}"
    if settings.get("force2Ddimension", 0) not in (0, 1, 2):
        return f"force2Ddimension {settings['force2Ddimension']}"
    interpolator = settings.get("interpolator")
    if interpolator is not None and interpolator not in _INTERPOLATORS:
        return f"interpolator {interpolator}"
    if not isinstance(settings.get("gldm_a", 0), int):
        return f"gldm_a {settings['gldm_a']}"
    if settings.get("binCount") is not None and not isinstance(settings["binCount"], int):
        return f"binCount {settings['binCount']}"
    return None


def compute(
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
) -> dict[str, float]:
    """Features of the region `mask` of `image`, both (z, y, x), by PyRadiomics' names and in its order.

    Args:
        image: Intensities; the type decides how values are rounded, as in PyRadiomics.
        mask: Where the region is.
        spacing_mm: Size of a voxel along x, y, z.
        parameters: What to compute; must be supported (see `unsupported`).

    Raises:
        RegionError: the region has no features; the message is the reason.
    """
    values = parameters.as_dict()
    wanted = _features_by_class(values["featureClass"])
    prepared = prepare(image, mask, spacing_mm, values["setting"])
    features: dict[str, float] = {}
    if any(name in SHAPE_CLASSES for name in wanted):
        features |= _shape(prepared.shape, values["setting"], wanted)
    region = prepared.texture
    for name, filtered, settings in image_types(
        region.image, region.box, region.spacing_mm, values["setting"], values["imageType"]
    ):
        for feature, value in _of_image(filtered, region, settings, wanted, name, parameters.max_matrix_mb).items():
            features[f"{name}_{feature}"] = value
    return features


def _features_by_class(chosen: Mapping[str, Sequence[str] | None]) -> dict[str, tuple[str, ...]]:
    """Features wanted of each class: those listed, or all; without those that PyRadiomics computes no more."""
    wanted = {}
    for name, features in chosen.items():
        dropped = WITHOUT_VALUES.get(name, ())
        wanted[name] = tuple(f for f in features or CLASSES.get(name, ()) if f not in dropped)
    return wanted


def _of_image(
    image: npt.NDArray[Any],
    region: Region,
    settings: Mapping[str, Any],
    wanted: Mapping[str, tuple[str, ...]],
    name: str,
    max_matrix_mb: float,
) -> dict[str, float]:
    """Intensity and texture features of one image type, inside the box of the region."""
    mask = region.crop
    inside = image[mask]
    low, high = inside.min(), inside.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RegionError(f"the image type {name} has values that are not finite inside the region")
    edges = _edges(low, high, inside, settings, name)
    flat = bool(settings.get("force2D", False))
    axis = settings.get("force2Ddimension", 0) if flat else 0
    spacing = region.spacing_mm[::-1]
    # Slices along any axis are handled as slices along z.
    turned, turned_mask = np.moveaxis(image, axis, 0), np.moveaxis(mask, axis, 0)
    turned_spacing = (spacing[axis], *(size for n, size in enumerate(spacing) if n != axis))
    distances = tuple(settings.get("distances", [1]))
    levels = discretise.to_levels(turned, turned_mask, edges, max(distances), flat)
    features: dict[str, float] = {}
    for feature_class, names in wanted.items():
        if feature_class == "firstorder":
            voxel_mm3 = float(np.multiply.reduce(region.spacing_mm))
            shift = settings.get("voxelArrayShift", 0)
            values = firstorder.features(inside.astype(np.float64), levels, shift, voxel_mm3, names)
        elif feature_class in CLASSES:
            values = _TextureClasses(levels, distances, settings, turned_spacing).features(feature_class, names)
        else:
            continue
        features |= {f"{feature_class}_{feature}": value for feature, value in values.items()}
    return features

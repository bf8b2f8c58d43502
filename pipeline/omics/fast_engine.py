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

from ...errors import RegionError
from . import shape3d
from .filters import FILTERS, image_types
from .limits import check_matrices, expected_levels
from .preparation import Region, prepare
from .presets import SHAPE_CLASSES, Parameters
from .texture import discretise, firstorder, glcm, gldm, glrlm, glszm, ngtdm
from .texture.classes import NoNeighboursError, Textures
from .texture.discretise import Levels

CLASSES: Mapping[str, tuple[str, ...]] = {
    "shape": shape3d.FEATURES,
    "firstorder": firstorder.FEATURES,
    "glcm": glcm.FEATURES,
    "glrlm": glrlm.FEATURES,
    "glszm": glszm.FEATURES,
    "gldm": gldm.FEATURES,
    "ngtdm": ngtdm.FEATURES,
}
"""Classes of features, and the features of each; shape2D is left to PyRadiomics."""

ON_REQUEST: Mapping[str, tuple[str, ...]] = {"shape": shape3d.ON_REQUEST, "firstorder": firstorder.ON_REQUEST}
"""Features that are functions of others, computed only when asked for by name."""

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
        if name == "shape2D":
            continue
        if name not in CLASSES:
            return f"feature class {name}"
        known = (*CLASSES[name], *ON_REQUEST.get(name, ()), *WITHOUT_VALUES.get(name, ()))
        unknown = [feature for feature in chosen or () if feature not in known]
        if unknown:
            return f"feature {unknown[0]} of class {name}"
    return None


def _unsupported_settings(settings: Mapping[str, Any]) -> str | None:
    distances = settings.get("distances", [1])
    count = settings.get("binCount")
    allowed = {
        "distances": len(set(distances)) == len(distances) and all(isinstance(d, int) and d > 0 for d in distances),
        "weightingNorm": settings.get("weightingNorm") in (None, *_NORMS),
        "force2Ddimension": settings.get("force2Ddimension", 0) in (0, 1, 2),
        "interpolator": settings.get("interpolator") in (None, *_INTERPOLATORS),
        "gldm_a": isinstance(settings.get("gldm_a", 0), int),
        "binCount": count is None or isinstance(count, int),
    }
    return next((f"{name} = {settings.get(name)}" for name, fine in allowed.items() if not fine), None)


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
    axis = settings.get("force2Ddimension", 0) if settings.get("force2D", False) else 0
    spacing = list(region.spacing_mm[::-1])
    across, (down, along) = spacing.pop(axis), spacing
    merging = glcm.Merging(settings.get("symmetricalGLCM", True), settings.get("weightingNorm"), (across, down, along))
    # Slices along any axis are handled as slices along z.
    turned, turned_mask = _turned(image, axis, np.float64), _turned(mask, axis, np.bool_)
    levels = _levels(turned, turned_mask, inside, settings, name, max_matrix_mb)
    textures = Textures(levels, settings.get("distances", [1]), merging, settings.get("gldm_a", 0))
    features: dict[str, float] = {}
    for feature_class, names in wanted.items():
        if feature_class in SHAPE_CLASSES:
            continue
        if feature_class == "firstorder":
            volume = float(np.multiply.reduce(region.spacing_mm))
            shift = settings.get("voxelArrayShift", 0)
            values = firstorder.features(inside.astype(np.float64), levels, shift, volume, names)
        else:
            try:
                values = textures.features(feature_class, names)
            except NoNeighboursError as error:
                raise RegionError(str(error)) from error
        features |= {f"{feature_class}_{feature}": value for feature, value in values.items()}
    return features


def _levels(
    image: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_],
    inside: npt.NDArray[Any],
    settings: Mapping[str, Any],
    name: str,
    max_matrix_mb: float,
) -> Levels:
    """The region in grey levels; RegionError where there are too many, or values that are not finite."""
    low, high = inside.min(), inside.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RegionError(f"the image type {name} has values that are not finite inside the region")
    expected, side = expected_levels(float(low), float(high), settings), max(image.shape)
    check_matrices(expected, 0, side, settings, name, max_matrix_mb)
    if expected > discretise.MAX_LEVELS:
        raise RegionError(f"too many grey levels: {expected} in the image type {name}, at most {discretise.MAX_LEVELS}")
    edges = discretise.bin_edges(low, high, inside, settings)
    levels = discretise.to_levels(image, mask, edges, settings.get("distances", [1]), bool(settings.get("force2D")))
    check_matrices(levels.highest, int(levels.counts.max()), side, settings, name, max_matrix_mb)
    return levels


def _turned(values: npt.NDArray[Any], axis: int, dtype: type) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(values, axis, 0), dtype)


def _shape(region: Region, settings: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
    """Shape features of the region's box."""
    values: dict[str, dict[str, float]] = {}
    if "shape" in wanted:
        spacing = region.spacing_mm[::-1]
        values["shape"] = shape3d.features(region.crop, spacing, wanted["shape"])
    if "shape2D" in wanted and _has_plane(region, settings):
        values["shape2D"] = _shape2d(region, settings, wanted["shape2D"])
    return {f"original_{kind}_{name}": value for kind, of in values.items() for name, value in of.items()}


def _shape2d(region: Region, settings: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, float]:
    """By PyRadiomics itself; RegionError where the region has more than one slice."""
    import radiomics
    import SimpleITK as sitk

    labels = sitk.GetImageFromArray(region.crop.astype(np.uint8))
    labels.SetSpacing(region.spacing_mm)
    try:
        calculator = radiomics.getFeatureClasses()["shape2D"](labels, labels, **{**settings, "label": 1})
    except ValueError as error:
        raise RegionError(f"PyRadiomics refuses the region: {error}") from error
    for name in wanted:
        calculator.enableFeatureByName(name)
    return {str(name): float(value) for name, value in calculator.execute().items()}


def _has_plane(region: Region, settings: Mapping[str, Any]) -> bool:
    """Whether PyRadiomics tries shape2D: only with force2D, and it looks at x, y, z where it means z, y, x."""
    part = region.box[::-1][settings.get("force2Ddimension", 0)]
    return bool(settings.get("force2D", False)) and part.stop - part.start > 1

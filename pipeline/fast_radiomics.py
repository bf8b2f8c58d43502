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
from . import shape3d
from .filters import FILTERS, image_types
from .omics_presets import SHAPE_CLASSES, Parameters
from .preparation import Region, prepare
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

_COPIES = 8
"""Arrays of the size of the co-occurrence matrices that are alive at once."""
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
    edges = _edges(inside, settings, name)
    flat = bool(settings.get("force2D", False))
    axis = settings.get("force2Ddimension", 0) if flat else 0
    spacing = region.spacing_mm[::-1]
    merging = glcm.Merging(
        settings.get("symmetricalGLCM", True),
        settings.get("weightingNorm"),
        (spacing[axis], *(size for n, size in enumerate(spacing) if n != axis)),
    )
    distances = tuple(settings.get("distances", [1]))
    # Slices along any axis are handled as slices along z.
    turned, turned_mask = _turned(image, axis, np.float64), _turned(mask, axis, np.bool_)
    levels = discretise.to_levels(turned, turned_mask, edges, distances, flat)
    _limit(levels, distances, name, max_matrix_mb)
    textures = Textures(levels, distances, merging, settings.get("gldm_a", 0))
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


def _turned(values: npt.NDArray[Any], axis: int, dtype: type) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(values, axis, 0), dtype)


def _edges(inside: npt.NDArray[Any], settings: Mapping[str, Any], name: str) -> npt.NDArray[np.float64]:
    """Edges of the grey-level bins; RegionError where there are too many, or values that are not finite."""
    low, high = inside.min(), inside.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RegionError(f"the image type {name} has values that are not finite inside the region")
    count, width = settings.get("binCount"), settings.get("binWidth", 25)
    number = count if count is not None else (float(high) - float(low)) / width + 1
    if number > discretise.MAX_LEVELS:
        raise RegionError(
            f"too many grey levels: {number:,.0f} in the image type {name}, at most {discretise.MAX_LEVELS:,}; "
            "use a larger bin width"
        )
    return discretise.bin_edges(low, high, inside, settings)


def _limit(levels: Levels, distances: tuple[int, ...], name: str, max_matrix_mb: float) -> None:
    """Refuse a region whose matrices would not fit: co-occurrence with its working copies, run lengths."""
    axes = 2 if levels.flat else 3
    angles = sum(((2 * d + 1) ** axes - (2 * d - 1) ** axes) // 2 for d in distances)
    number = len(levels.values)
    megabytes = 8e-6 * number * (_COPIES * number * angles + 3 * max(levels.box) * (4 if levels.flat else 13))
    if megabytes > max_matrix_mb:
        raise RegionError(
            f"too many grey levels: {number} in the image type {name} need about {megabytes:,.0f} MB for "
            f"matrices, at most {max_matrix_mb:,.0f} (radiomics.max_matrix_mb); use a larger bin width"
        )


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

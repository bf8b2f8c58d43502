"""The `radiomics` stage: intensity and texture features of bags and lesions, under PyRadiomics' names.

`extract` computes one region by one of two engines with the same values: `fast` (`omics.fast_engine`) or PyRadiomics
itself (`omics.pyradiomics_engine`). What is accepted, and what PyRadiomics does with it:

- Values that are not finite anywhere in the image, an empty or one-voxel mask, and a region of one value are refused
  with a reason. PyRadiomics would raise from deep inside for the first two, and return numbers without meaning for
  the last.
- A mask that fills the image (a bag's) needs no padding and no background for intensity and texture features.
- Filters (wavelet, square, ...) see the whole image, not the region alone, so the margin around a lesion matters.
- Bags are measured in pixels: their spacing is 1. In millimetres the gradient of a bag would be a thousand times
  larger, and its grey levels without number.
- LoG and LBP-3D are three-dimensional filters: PyRadiomics computes them on no image with fewer than four slices, so
  bags have no such features whatever the parameter file says.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import zarr

from ..errors import ConfigError, Problem, RegionError, StoreError
from ..stores import arrays, tables
from ..stores.places import Place
from ..stores.specs import BAGS, LESION_INTENSITY, LESION_MASK, OMICS
from .omics.grey_bags import area_average, grey_bag
from .omics.presets import Parameters, bag_parameters, lesion_parameters
from .pathology.bags import BagOrigin, SlideFile, bag_origins, open_bags
from .stage import Item, Outcome, Stage, Upstream

if TYPE_CHECKING:
    from ..config import RadiomicsSettings, Settings
    from ..stores.records import Store
    from .cohorts.cohort import Cohort

logger = logging.getLogger(__name__)

__all__ = ["RadiomicsStage", "area_average", "extract", "feature_names", "grey_bag", "usable_engine"]

Engine = Literal["fast", "pyradiomics"]
Kind = Literal["bag", "lesion"]

BAG_SPACING = (1.0, 1.0, 1.0)
"""Spacing of a bag for radiomics: pixels of the averaged bag, not millimetres."""

_IMAGE_TYPE_PREFIXES = {
    "LoG": "log-sigma",
    "SquareRoot": "squareroot_",
    "Square": "square_",
    "LBP2D": "lbp-2D",
    "LBP3D": "lbp-3D",
}
_SECONDS_A_VOXEL: Mapping[Engine, float] = {"fast": 5e-8, "pyradiomics": 1e-6}
"""Time of one voxel in one image type, measured on bags of 256² to 1024² px."""


# --- one region ---------------------------------------------------------------------------------------------
def extract(
    image: npt.NDArray[Any],
    mask: npt.NDArray[Any],
    spacing_mm: tuple[float, float, float],
    parameters: Parameters,
    engine: Engine = "fast",
) -> dict[str, float]:
    """Features of one region under PyRadiomics' names, for example `wavelet-LH_glcm_Contrast`.

    Args:
        image: Intensities (z, y, x); a bag has one slice. Integers are taken as they are (PyRadiomics rounds them
            again after resampling), everything else as float64.
        mask: Same shape; the region is where it is not 0.
        spacing_mm: Size of a voxel along x, y, z.
        parameters: What to compute.
        engine: What computes it; parameters that `fast` does not cover go to PyRadiomics.

    Returns:
        One value a feature; NaN where PyRadiomics leaves a feature undefined.

    Raises:
        RegionError: the region has no features; the message is the reason.
    """
    region = np.asarray(mask) != 0
    reason = unusable(image, region, spacing_mm)
    if reason:
        raise RegionError(reason)
    values = image if np.issubdtype(image.dtype, np.integer) else image.astype(np.float64, copy=False)
    if usable_engine(parameters, engine)[0] == "fast":
        from .omics import fast_engine

        return fast_engine.compute(values, region, spacing_mm, parameters)
    from .omics import pyradiomics_engine

    return pyradiomics_engine.compute(values, region, spacing_mm, parameters)


@functools.lru_cache(maxsize=16)
def usable_engine(parameters: Parameters, wanted: Engine) -> tuple[Engine, str]:
    """The engine that computes these parameters, and why it is not the wanted one; nothing where it is."""
    if wanted == "pyradiomics":
        return wanted, ""
    from .omics.fast_engine import unsupported

    reason = unsupported(parameters)
    return ("pyradiomics", reason) if reason else ("fast", "")


def unusable(
    image: npt.NDArray[Any], region: npt.NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> str | None:
    """Why a region can have no features, or none when nothing speaks against it."""
    if image.ndim != 3 or image.shape != region.shape:
        return f"geometry mismatch: image of shape {image.shape}, mask of shape {region.shape}; expected one 3-D shape"
    if len(spacing_mm) != 3 or not all(math.isfinite(size) and size > 0 for size in spacing_mm):
        return f"geometry mismatch: voxel size {spacing_mm}; expected three positive numbers"
    if not np.issubdtype(image.dtype, np.integer):
        bad = image.size - int(np.count_nonzero(np.isfinite(image)))
        if bad:
            return f"{bad} of {image.size} voxels are NaN or infinite"
    values = image[region]
    if values.size < 2:
        return "the mask has only one voxel" if values.size else "the mask is empty"
    if values.min() == values.max():
        return f"the region is constant: all {values.size} voxels are {values[0]:g}"
    return None


@functools.lru_cache(maxsize=16)
def feature_names(parameters: Parameters, kind: Kind) -> tuple[str, ...]:
    """Names of the features that `extract` gives for a bag (one slice) or lesion, in order.

    Found by computing them on a small synthetic image, since which image types exist depends on parameters in ways
    that only PyRadiomics knows. Settings that could spoil a small image but name no feature are left out.

    Raises:
        ConfigError: PyRadiomics gives no features at all, or none for an image type that lesions should have.
    """
    values = parameters.as_dict()
    sigmas = values["imageType"].get("LoG", {}).get("sigma") or values["setting"].get("sigma") or [1]
    side = max(12, math.ceil(max(sigmas)) + 3)
    shape = (1, 16, 16) if kind == "bag" else (side, side, side)
    image = np.random.default_rng(0).normal(100.0, 30.0, shape)
    region = np.ones(shape, np.uint8)
    if kind == "lesion" and "shape2D" in values["featureClass"]:
        region[1:] = 0  # two-dimensional shape exists in single slices only
    plain = parameters.updated(
        **dict.fromkeys(("resampledPixelSpacing", "resegmentRange", "minimumROISize", "binCount")),
        normalize=False,
        preCrop=False,
        minimumROIDimensions=2,
        binWidth=25.0,
    )
    try:
        names = tuple(extract(image, region, BAG_SPACING, plain))
    except RegionError as error:
        raise ConfigError(f"radiomics parameters give no features: {error}") from error
    absent = absent_image_types(parameters, names)
    if not names or (absent and kind == "lesion"):
        raise ConfigError(
            f"radiomics parameters: PyRadiomics gives no features for {', '.join(absent) or 'any image type'} (LoG "
            "needs sigma, LBP3D needs packages that are not installed); take it out of the parameter file"
        )
    return names


def absent_image_types(parameters: Parameters, names: tuple[str, ...]) -> list[str]:
    """Image types of the parameters without any feature among `names`."""
    wanted = parameters.as_dict()["imageType"]
    return [
        kind for kind in wanted if not any(n.startswith(_IMAGE_TYPE_PREFIXES.get(kind, kind.lower())) for n in names)
    ]


@dataclass(frozen=True)
class OmicsPayload:
    """What a worker needs to know of an item."""

    parameters: Parameters
    slide: SlideFile | None
    """Where the pixels of bags are read where the store keeps none."""


# --- the stage --------------------------------------------------------------------------------------------------
class RadiomicsStage(Stage):
    """Radiomics features of every slide and CT study of the cohort."""

    name: ClassVar[str] = "radiomics"
    version: ClassVar[int] = 2

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a slide and one a CT study; ConfigError when the parameter file cannot be used."""
        items = []
        for warning in parameter_warnings(cohort, settings.radiomics):
            logger.warning("radiomics: %s", warning)
        if cohort.slides:
            bag = bag_parameters(settings.radiomics)
            grey = {"slide": settings.radiomics.slide.model_dump(mode="json")}
            origins = bag_origins(cohort.slides, store, settings.tiles.max_pixels)
            for slide, origin in origins.items():
                parts = ("pixels.zarr", "bags.parquet")
                more = {"engine": settings.radiomics.engine, **grey}
                items.append(self._item(f"slide-{slide}", "tiles", parts, bag, more, origin))
        if cohort.ct_studies:
            lesion = lesion_parameters(settings.radiomics)
            for study in cohort.ct_studies:
                more = {"engine": settings.radiomics.engine}
                items.append(self._item(f"ct-{study.ct}", "rois", ("volumes.zarr",), lesion, more, BagOrigin()))
        return items

    def _item(
        self,
        item: str,
        stage: str,
        parts: tuple[str, ...],
        parameters: Parameters,
        more: Mapping[str, Any],
        origin: BagOrigin,
    ) -> Item:
        """An item that carries its parameters, so that a file that changes later changes no item half way."""
        return Item(
            stage=self.name,
            item=item,
            payload=OmicsPayload(parameters, origin.slide),
            settings={"parameters": parameters.as_dict(), "max_matrix_mb": parameters.max_matrix_mb, **more},
            sources=origin.sources,
            upstream=tuple(Upstream(stage, item, part) for part in parts),
        )

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """Whether a parameter file can be used, and what of it bags cannot have."""
        try:
            found = [(text, "warning") for text in parameter_warnings(cohort, settings.radiomics)]
        except ConfigError as error:
            found = [(str(error), "error")]
        return [
            Problem(
                table="configuration",
                row="",
                column="radiomics.parameter_file",
                found=text,
                expected="a PyRadiomics parameter file that gives features of all that the cohort has",
                remedy="Change the file, or leave the setting out to use the preset.",
                severity="error" if severity == "error" else "warning",
            )
            for text, severity in found
        ]

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Write `features.parquet` of one slide (a row a bag) or CT study (a row a lesion).

        A bag or lesion without features is a row of NaN with its reason; the item as a whole is fine.
        """
        parts = [store.part(source.stage, source.item, source.part) for source in item.upstream]
        kind: Kind = "bag" if item.upstream[0].stage == "tiles" else "lesion"
        payload: OmicsPayload = item.payload
        job = RegionJob(item.item, kind, payload.parameters, settings.radiomics, payload.slide)
        rows = list(job.bags(*parts) if kind == "bag" else job.lesions(*parts))
        values = np.array([row.values for row in rows]).reshape(len(rows), len(job.names))
        heads = [row.head() for row in rows]
        tables.write_feature_table(out / "features.parquet", heads, values, OMICS, names=job.names)
        return Outcome("ok" if rows else "empty", _summary(rows, job))


def parameter_warnings(cohort: Cohort, settings: RadiomicsSettings) -> list[str]:
    """What a parameter file asks for in vain; ConfigError when it cannot be used. The preset is known to be right."""
    if settings.parameter_file is None:
        return []
    if cohort.ct_studies:
        feature_names(lesion_parameters(settings), "lesion")
    if not cohort.slides:
        return []
    bag = bag_parameters(settings)
    absent = absent_image_types(bag, feature_names(bag, "bag"))
    return [f"{name} gives no features on bags: it is a filter in three dimensions" for name in absent]


@dataclass(frozen=True)
class Row:
    """One bag or lesion."""

    patient: str
    source: str
    unit: str
    reason: str
    """Why features are NaN; empty when all are there."""
    values: npt.NDArray[np.float64]
    """Features in the order of their names."""
    engine: Engine
    """What computed them."""

    def head(self) -> dict[str, str]:
        """The declared columns of the table."""
        row = {"patient": self.patient, "source": self.source, "unit": self.unit}
        return {**row, "engine": self.engine, "reason": self.reason}


@dataclass(frozen=True)
class RegionJob:
    """The regions of one item, read one at a time, so that memory is bounded by one of them."""

    item: str
    kind: Kind
    parameters: Parameters
    settings: RadiomicsSettings
    slide: SlideFile | None = None
    """Where the pixels of bags are read where the store keeps none."""

    @property
    def engine(self) -> Engine:
        """What computes the features."""
        return usable_engine(self.parameters, self.settings.engine)[0]

    @property
    def names(self) -> tuple[str, ...]:
        """Features of every row."""
        return feature_names(self.parameters, self.kind)

    def bags(self, pixels: Place, table: Place) -> Iterator[Row]:
        """One row a bag of `pixels.zarr`, in the order of `bags.parquet`."""
        rows = tables.read_rows(table, BAGS)
        with open_bags(pixels, self.item, self.slide) as bags:
            if len(rows) != bags.count:
                raise StoreError(f"{self.item}: {len(rows)} rows for {bags.count} bags; extract tiles again")
            for number, row in enumerate(rows):
                grey = grey_bag(bags.read(number, number + 1)[0], self.settings.slide.size_px, self.settings.slide.grey)
                reason, values = self._features(str(row["bag"]), grey[None], None, BAG_SPACING)
                yield Row(row["patient"], row["slide"], str(row["bag"]), reason, values, self.engine)

    def lesions(self, volumes: Place) -> Iterator[Row]:
        """One row a lesion of `volumes.zarr`, in its order."""
        root = arrays.open_group(volumes)
        count: Any = root.attrs.get("lesions")
        for number in range(count):
            group = root.get(str(number))
            if not isinstance(group, zarr.Group):
                raise StoreError(f"{self.item}: volume {number} is missing; extract rois again")
            image = np.asarray(arrays.open_array(group, LESION_INTENSITY)[:])
            mask = np.asarray(arrays.open_array(group, LESION_MASK)[:])
            missing = {"patient", "ct", "lesion", "spacing_mm"} - set(group.attrs)
            if missing:
                raise StoreError(f"{self.item}: volume {number} lacks {sorted(missing)}; extract rois again")
            about: dict[str, Any] = dict(group.attrs)
            x_mm, y_mm, z_mm = (float(size) for size in about["spacing_mm"])
            reason, values = self._features(about["lesion"], image, mask, (x_mm, y_mm, z_mm))
            yield Row(about["patient"], about["ct"], about["lesion"], reason, values, self.engine)

    def _features(
        self,
        unit: str,
        image: npt.NDArray[Any],
        mask: npt.NDArray[Any] | None,
        spacing_mm: tuple[float, float, float],
    ) -> tuple[str, npt.NDArray[np.float64]]:
        """Reason and values; a region without features, or an undefined feature, is NaN."""
        self._announce(unit, image.size)
        region = np.ones(image.shape, np.uint8) if mask is None else mask
        try:
            found = extract(image, region, spacing_mm, self.parameters, self.engine)
        except RegionError as error:
            return str(error), np.full(len(self.names), np.nan)
        values = np.array([found.get(name, math.nan) for name in self.names])
        values[~np.isfinite(values)] = np.nan
        undefined = [name for name, value in zip(self.names, values, strict=True) if math.isnan(value)]
        if undefined:
            return f"{len(undefined)} features are undefined here: {', '.join(undefined[:3])}", values
        return "", values

    def _announce(self, unit: str, voxels: int) -> None:
        image_types = len({name.split("_")[0] for name in self.names})
        seconds = voxels * image_types * _SECONDS_A_VOXEL[self.engine]
        if seconds > self.settings.max_seconds_hint:
            logger.warning("radiomics/%s: %s %s may take %.0f s", self.item, self.kind, unit, seconds)


def _summary(rows: list[Row], job: RegionJob) -> dict[str, Any]:
    from .omics.pyradiomics_engine import VERSION

    reasons = [row.reason for row in rows if row.reason]
    warnings = []
    if reasons:
        warnings.append(f"{len(reasons)} of {len(rows)} {job.kind}s lack radiomics features; the first: {reasons[0]}")
    engine, uncovered = usable_engine(job.parameters, job.settings.engine)
    if uncovered:
        warnings.append(f"PyRadiomics computed the features: the fast engine does not cover {uncovered}")
    summary: dict[str, Any] = {f"{job.kind}s": len(rows), "features": len(job.names)}
    summary |= {"engine": engine, "pyradiomics": VERSION}
    return {**summary, "warnings": warnings} if warnings else summary

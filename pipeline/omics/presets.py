"""What radiomics features are computed and how: the built-in preset, or a PyRadiomics parameter file.

PyRadiomics itself is imported only to validate a user's file, so that planning with the preset stays cheap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from .names import FIRST_ORDER

if TYPE_CHECKING:
    from ...config import RadiomicsSettings

SHAPE_CLASSES = ("shape", "shape2D")
"""Feature classes that look at the mask alone; never computed on bags, whose mask is the whole square."""

_MAX_FILE_BYTES = 1_000_000
_OWN_SETTINGS = ("label", "label_channel", "additionalInfo", "geometryTolerance", "correctMask")
"""Settings of a file about how images and masks are read; mumo hands both over itself, with 1 as the only label."""


@dataclass(frozen=True)
class Parameters:
    """PyRadiomics parameters in frozen, hashable form."""

    document: str
    """JSON with the keys `setting`, `imageType` and `featureClass`, as in a PyRadiomics parameter file."""
    max_matrix_mb: float = 2048.0
    """A region whose grey-level matrices would take more memory is refused."""

    def as_dict(self) -> dict[str, dict[str, Any]]:
        """The parameters as nested dictionaries, new ones each time."""
        values: dict[str, dict[str, Any]] = json.loads(self.document)
        return values

    def setting(self, name: str, default: Any = None) -> Any:
        """One value of `setting`, or `default` where the file is silent."""
        return self.as_dict()["setting"].get(name, default)

    def updated(self, **settings: Any) -> Parameters:
        """The same parameters with other values of `setting`."""
        values = self.as_dict()
        values["setting"].update(settings)
        return _parameters(values, self.max_matrix_mb)

    def without_classes(self, names: tuple[str, ...]) -> Parameters:
        """The same parameters less some feature classes."""
        values = self.as_dict()
        values["featureClass"] = {key: value for key, value in values["featureClass"].items() if key not in names}
        return _parameters(values, self.max_matrix_mb)


def mumo_736(bin_width: float = 25.0) -> dict[str, dict[str, Any]]:
    """The preset: 8 image types × 92 intensity and texture features in 2-D slices.

    Original, four wavelet sub-bands (coif1: LL, LH, HL, HH), square, square root and gradient; PyRadiomics' 93 features
    less first-order TotalEnergy, which is Energy times the volume of a voxel.
    """
    return {
        "setting": {"binWidth": bin_width, "force2D": True, "force2Ddimension": 0},
        "imageType": {"Original": {}, "Wavelet": {}, "Square": {}, "SquareRoot": {}, "Gradient": {}},
        "featureClass": {
            # by name: the order of the features of stores that exist
            "firstorder": sorted(name for name in FIRST_ORDER if name != "TotalEnergy"),
            **{name: [] for name in ("glcm", "glrlm", "glszm", "gldm", "ngtdm")},
        },
    }


def bag_parameters(settings: RadiomicsSettings) -> Parameters:
    """Parameters for bags: those of the settings less shape features; ConfigError when nothing is left."""
    parameters = _chosen(settings).without_classes(SHAPE_CLASSES)
    if not parameters.as_dict()["featureClass"]:
        raise ConfigError(
            "radiomics.parameter_file: has shape features only, which are not computed on slides; "
            "add an intensity or texture class, or extract radiomics of a cohort without slides"
        )
    return parameters


def lesion_parameters(settings: RadiomicsSettings) -> Parameters:
    """Parameters for lesions: those of the settings, resampled where `lesion_resampled_mm` says so."""
    parameters = _chosen(settings)
    if settings.lesion_resampled_mm is None:
        return parameters
    interpolator = parameters.setting("interpolator") or "sitkBSpline"
    return parameters.updated(resampledPixelSpacing=list(settings.lesion_resampled_mm), interpolator=interpolator)


def _chosen(settings: RadiomicsSettings) -> Parameters:
    if settings.parameter_file is None:
        return _parameters(mumo_736(settings.bin_width), settings.max_matrix_mb)
    return read_parameter_file(settings.parameter_file, settings.max_matrix_mb)


def read_parameter_file(path: Path, max_matrix_mb: float = 2048.0) -> Parameters:
    """Parameters from a PyRadiomics parameter file (YAML or JSON); ConfigError when it cannot be used."""
    import yaml

    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ConfigError(f"radiomics.parameter_file: {path.name} is larger than {_MAX_FILE_BYTES} bytes")
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"radiomics.parameter_file: {path.name} cannot be read: {error}") from error
    return parse_parameters(values, path.name, max_matrix_mb)


def parse_parameters(values: object, name: str = "parameters", max_matrix_mb: float = 2048.0) -> Parameters:
    """Parameters from the content of a parameter file.

    They are checked against PyRadiomics' own schema; `name` is for messages. Where the file is silent, PyRadiomics'
    defaults are filled in: the original image, all feature classes.

    Raises:
        ConfigError: `voxelSetting` (mumo computes one value a region, not maps), or anything that PyRadiomics refuses.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"radiomics.parameter_file: {name} must have the keys setting, imageType and featureClass")
    if "voxelSetting" in values:
        raise ConfigError(
            f"radiomics.parameter_file: {name} has voxelSetting; mumo computes one value for each region, not maps: "
            "take that section out"
        )
    from .pyradiomics_engine import validated

    checked = validated(values, name)
    checked["setting"] = {key: value for key, value in checked["setting"].items() if key not in _OWN_SETTINGS}
    return _parameters(checked, max_matrix_mb)


def _parameters(values: Mapping[str, Any], max_matrix_mb: float) -> Parameters:
    try:
        # In the order of the file, which is the order of the features.
        document = json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"radiomics.parameter_file: a value is neither text, number nor list: {error}") from error
    return Parameters(document, max_matrix_mb)

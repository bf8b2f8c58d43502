"""Both engines side by side on files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from mumo.errors import ConfigError, InputError, RegionError
from mumo.pipeline.omics.compare import Feature, compare_files


@pytest.fixture
def volume(tmp_path: Path) -> tuple[Path, Path]:
    """A volume of noise and a mask with labels 1 and 2."""
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.integers(-200, 200, (8, 16, 18), dtype=np.int16))
    image.SetSpacing((0.8, 0.8, 3.0))
    labels = np.zeros((8, 16, 18), np.uint8)
    labels[2:6, 3:12, 4:13], labels[2:6, 12:14, 4:13] = 1, 2
    mask = sitk.GetImageFromArray(labels)
    mask.CopyInformation(image)
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    sitk.WriteImage(mask, str(tmp_path / "mask.nrrd"))
    return tmp_path / "image.nrrd", tmp_path / "mask.nrrd"


def parameter_file(folder: Path, text: str) -> Path:
    path = folder / "parameters.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_compare_files__of_a_volume(volume: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = parameter_file(tmp_path, "imageType: {Original: {}, Gradient: {}}\n")
    result = compare_files(*volume, parameters, label=1)
    names = [feature.name for feature in result.features]
    assert len(names) == len(set(names)) == 14 + 2 * 93
    assert result.worst.difference < 1e-6
    assert result.ratio == pytest.approx(result.pyradiomics_s / result.fast_s)
    assert min(result.fast_s, result.pyradiomics_s, result.first_s) > 0


def test_compare_files__label_chooses_the_region(volume: tuple[Path, Path], tmp_path: Path) -> None:
    parameters = parameter_file(tmp_path, "featureClass: {shape: [VoxelVolume]}\n")
    sizes = [compare_files(*volume, parameters, label).features[0].fast / (0.8 * 0.8 * 3) for label in (1, 2, None)]
    assert sizes == pytest.approx([4 * 9 * 9, 4 * 2 * 9, 4 * 11 * 9])


def test_compare_files__of_a_colour_picture_uses_the_preset(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "bag.png")
    result = compare_files(tmp_path / "bag.png")
    assert len(result.features) == 736
    assert result.worst.difference < 1e-6
    mean = next(feature.fast for feature in result.features if feature.name == "original_firstorder_Mean")
    assert mean == pytest.approx((picture @ [0.299, 0.587, 0.114]).mean())


def test_compare_files__picture_with_a_mask(tmp_path: Path) -> None:
    Image.fromarray(np.random.default_rng(2).integers(0, 256, (20, 20), dtype=np.uint8)).save(tmp_path / "bag.png")
    region = np.zeros((20, 20), np.uint8)
    region[3:9, 4:14] = 255
    Image.fromarray(region).save(tmp_path / "mask.png")
    parameters = parameter_file(tmp_path, "featureClass: {firstorder: [Mean, Energy]}\nsetting: {force2D: true}\n")
    assert compare_files(tmp_path / "bag.png", tmp_path / "mask.png", parameters).worst.difference < 1e-12


def test_compare_files__says_what_is_wrong(volume: tuple[Path, Path], tmp_path: Path) -> None:
    image, mask = volume
    with pytest.raises(InputError, match=r"image nothing\.nrrd: there is no such file"):
        compare_files(tmp_path / "nothing.nrrd")
    small = sitk.GetImageFromArray(np.ones((4, 4, 4), np.uint8))
    sitk.WriteImage(small, str(tmp_path / "small.nrrd"))
    with pytest.raises(InputError, match=r"mask small\.nrrd: \(4, 4, 4\) voxels .* has \(8, 16, 18\)"):
        compare_files(image, tmp_path / "small.nrrd")
    with pytest.raises(RegionError, match="the mask is empty"):
        compare_files(image, mask, label=9)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"image broken\.png: cannot be read as a picture"):
        compare_files(tmp_path / "broken.png")
    repeated = parameter_file(tmp_path, "setting: {distances: [1, 1]}\n")
    with pytest.raises(ConfigError, match=r"the fast engine does not cover distances = \[1, 1\]"):
        compare_files(image, mask, repeated)


@pytest.mark.parametrize(
    ("fast", "pyradiomics", "difference"),
    [(2.0, 4.0, 0.5), (1e-12, 3e-12, 2e-12), (math.nan, math.nan, 0.0), (-1.0, -1.0, 0.0)],
)
def test_feature__difference(fast: float, pyradiomics: float, difference: float) -> None:
    assert Feature("f", fast, pyradiomics).difference == pytest.approx(difference)


def test_feature__missing_in_one_engine_is_the_worst() -> None:
    assert math.isnan(Feature("f", 1.0, math.nan).difference)

"""Slides in other containers than a tiled TIFF: written here, opened by OpenSlide, read at a working resolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from mumo.config import TilesSettings
from mumo.pipeline.cohorts.cohort import Slide
from mumo.pipeline.pathology.slides import SlideError, open_image, open_reader, slide_sources
from tests.support.dicom_slides import write_dicom_slide

MPP = 0.25


def smooth_picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(0).integers(60, 230, (height // 32, width // 32, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("named", ["folder", "finest", "coarsest"])
def test_open_reader__dicom_slide_of_two_levels(tmp_path: Path, named: str) -> None:
    pixels = smooth_picture(640, 960)
    folder = write_dicom_slide(tmp_path / "series", pixels, MPP, (1, 4))
    path = {"folder": folder, "finest": folder / "level-1.dcm", "coarsest": folder / "level-2.dcm"}[named]
    with open_reader(Slide("S1", "P1", path, None, None, False), TilesSettings()) as reader:
        assert reader.size_level0 == (960, 640)
        assert reader.mpp_level0 == pytest.approx(MPP)
        assert (reader.level_for(MPP), reader.level_for(4 * MPP)) == (0, 1)
        found = reader.read(128, 64, (200, 300), 2 * MPP)
    expected = np.asarray(Image.fromarray(pixels[64:464, 128:728]).reduce(2))
    assert np.abs(found.astype(int) - expected).mean() < 2


def test_open_reader__dicom_slide_with_a_damaged_level_fails_by_itself(tmp_path: Path) -> None:
    folder = write_dicom_slide(tmp_path / "series", smooth_picture(512, 512), MPP, (1,))
    file = folder / "level-1.dcm"
    file.write_bytes(file.read_bytes()[:2000])
    with (
        pytest.raises(SlideError, match="S1"),
        open_reader(Slide("S1", "P1", file, None, None, False), TilesSettings()) as reader,
    ):
        reader.read(0, 0, (256, 256), 2 * MPP)


def test_slide_sources__name_every_instance_of_a_dicom_slide(tmp_path: Path) -> None:
    folder = write_dicom_slide(tmp_path / "series", smooth_picture(256, 256), MPP, (1,))
    assert [source.path for source in slide_sources(folder / "level-1.dcm")] == [folder / "level-1.dcm", folder]


def write_ndpi(path: Path, pixels: npt.NDArray[np.uint8]) -> Path:
    """A Hamamatsu slide of one level: one JPEG strip, with the maker's tags (65420 format, 65421 lens, 65424 focus)."""
    tags = [(65420, "I", 1, 1, True), (65421, "f", 1, 40.0, True), (65424, "i", 1, 0, True)]
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        compression="jpeg",
        rowsperstrip=pixels.shape[0],
        software=False,
        metadata=None,
        extratags=tags,
        resolution=(1e4 / MPP,) * 2,
        resolutionunit="CENTIMETER",
    )
    return path


def test_open_reader__hamamatsu_slide(tmp_path: Path) -> None:
    pixels = smooth_picture(512, 768)
    path = write_ndpi(tmp_path / "s.ndpi", pixels)
    with open_image(path, "S1", 10**9) as image:
        assert image.properties["openslide.vendor"] == "hamamatsu"
    with open_reader(Slide("S1", "P1", path, None, None, False), TilesSettings()) as reader:
        assert reader.mpp_level0 == pytest.approx(MPP)
        found = reader.read(64, 32, (100, 150), 2 * MPP)
    expected = np.asarray(Image.fromarray(pixels[32:232, 64:364]).reduce(2))
    assert np.abs(found.astype(int) - expected).mean() < 4

"""Label images as regions; polygons are tested with the annotations that they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from mumo.config import TilesSettings
from mumo.pipeline.pathology.regions import LabelRegions, read_label_regions
from mumo.pipeline.pathology.slides import SlideError

CLASSES = {"1": 2, "7": 3}


def labels(tmp_path: Path, values: npt.NDArray[Any], suffix: str = ".png") -> Path:
    path = tmp_path / f"labels{suffix}"
    Image.fromarray(values).save(path)
    return path


def picture() -> npt.NDArray[np.uint8]:
    """20 × 30 values; 1 in a square, 7 in a line at the lower edge."""
    values = np.zeros((20, 30), np.uint8)
    values[5:10, 5:10] = 1
    values[19, :] = 7
    return values


def read(path: Path, size: tuple[int, int] = (3000, 2000), **settings: Any) -> tuple[LabelRegions, tuple[str, ...]]:
    return read_label_regions(path, "S1", CLASSES, size, TilesSettings(**settings))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_regions__classes_lie_at_their_places_in_level_0(tmp_path: Path, suffix: str, dtype: Any) -> None:
    regions, notes = read(labels(tmp_path, picture().astype(dtype), suffix))
    found = regions.class_map(0, 0, 100, (20, 30))
    np.testing.assert_array_equal(found, np.where(picture() == 1, 2, np.where(picture() == 7, 3, 0)))
    assert regions.bounds_level0 == (0.0, 500.0, 3000.0, 2000.0)
    assert notes == ()


def test_label_regions__any_downsample_gives_the_same_classes(tmp_path: Path) -> None:
    coarse = read(labels(tmp_path, picture()))[0].class_map(130, 70, 40, (40, 60))
    fine = read(labels(tmp_path, np.kron(picture(), np.ones((3, 3), np.uint8))))[0].class_map(130, 70, 40, (40, 60))
    np.testing.assert_array_equal(coarse, fine)


def test_label_regions__beyond_the_slide_there_is_nothing(tmp_path: Path) -> None:
    regions, _ = read(labels(tmp_path, np.ones((20, 30), np.uint8)))
    found = regions.class_map(-200, -100, 100, (3, 4))
    np.testing.assert_array_equal(found, [[0, 0, 0, 0], [0, 0, 2, 2], [0, 0, 2, 2]])


def test_label_regions__palette_images_count_by_index(tmp_path: Path) -> None:
    image = Image.fromarray(picture(), mode="L").convert("P")
    image.putpalette([200, 30, 60] * 256)
    image.putdata(picture().reshape(-1).tolist())
    image.save(tmp_path / "p.png")
    assert read(tmp_path / "p.png")[0].class_map(0, 0, 100, (20, 30)).max() == 3


def test_label_regions__empty_one_is_a_warning(tmp_path: Path) -> None:
    regions, (note,) = read(labels(tmp_path, np.zeros((20, 30), np.uint8)))
    assert regions.bounds_level0 is None
    assert "no value but 0" in note.text
    assert note.kind == "no bags"


def test_label_regions__of_another_slide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="shape of the slide"):
        read(labels(tmp_path, picture()), size=(2000, 3000))


def test_label_regions__unmapped_values_are_named(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="the values 4"):
        read(labels(tmp_path, np.full((20, 30), 4, np.uint8)))


def test_label_regions__colours_and_large_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="mode RGB"):
        read(labels(tmp_path, np.zeros((20, 30, 3), np.uint8)))
    with pytest.raises(SlideError, match="at most 599 px"):
        read(labels(tmp_path, picture()), max_label_pixels=599)


def test_label_regions__truncated_file_and_other_kinds_are_refused(tmp_path: Path) -> None:
    path = labels(tmp_path, np.random.default_rng(0).integers(0, 2, (200, 300), np.uint8))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(SlideError, match="cannot be read"):
        read(path)
    (tmp_path / "x.png").write_text("text")
    with pytest.raises(SlideError, match="cannot be read"):
        read(tmp_path / "x.png")

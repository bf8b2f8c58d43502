"""The page of one slide: what it holds, and how large it gets. `tests/pages` opens it in a browser."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_pages import COLOURS, SIDE, slide, write_slide_page
from PIL import Image

from mumo.commands.explain.mosaic import put_together, word_corners, word_side
from mumo.commands.explain.pictures import write_heat_map, write_lesion_thumbnail, write_thumbnail
from mumo.commands.explain.viewer import BAG_SIDES, BAGS_BYTES, BYTES_A_PIXEL, bag_side
from mumo.errors import StoreError
from mumo.fusion.explained import WORDING


def written(path: Path, pixels: bool = True) -> dict[str, Any]:
    """The numbers in the page of the made-up slide."""
    text = write_slide_page(path, pixels).read_text(encoding="utf-8")
    found = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return dict(json.loads(found[1]))


def test_mosaic__has_every_bag_in_its_place() -> None:
    mosaic = put_together(slide())
    for colour, (x, y) in zip(COLOURS, ((0.5, 0.5), (1.5, 0.5), (0.5, 1.5)), strict=True):
        at = (round(y * 2 * SIDE * mosaic.scale), round(x * 2 * SIDE * mosaic.scale))
        assert tuple(mosaic.image[at]) == colour
    empty = mosaic.image[round(1.5 * 2 * SIDE * mosaic.scale), round(1.5 * 2 * SIDE * mosaic.scale)]
    assert len(set(empty.tolist())) == 1 and empty[0] > 240


def test_word_corners__run_row_by_row_within_the_bag() -> None:
    corners = word_corners(slide(), 16)
    assert corners.shape == (3, 16, 2)
    assert corners[1, 0].tolist() == [1024, 0]
    assert corners[0, 5].tolist() == [256, 256]
    with pytest.raises(StoreError, match="bags of 10 words"):
        word_side(10)


def test_write_viewer__holds_numbers_and_pixels_of_every_bag(tmp_path: Path) -> None:
    data = written(tmp_path / "slide.html")
    assert (data["width"], data["height"], data["side"], data["words"]) == (2048, 2048, 1024, 4)
    assert data["mpp"] == 0.25
    assert [bag["rank"] for bag in data["bags"]] == [0, 0, 1]
    assert sum(bag["weight"] for bag in data["bags"]) == pytest.approx(3, rel=1e-3)  # even shares are 1
    assert data["bags"][2]["words"]["effect"][-1] == pytest.approx(0.3)
    (level,) = data["levels"]  # the store has nothing finer
    for number, colour in enumerate(COLOURS):
        image = Image.open(io.BytesIO(base64.b64decode(level["tiles"][str(number)].partition(",")[2])))
        assert image.size == (SIDE, SIDE)
        assert np.abs(np.asarray(image)[100, 100].astype(int) - colour).max() < 6


def test_write_viewer__without_pixels_draws_bags_alone(tmp_path: Path) -> None:
    data = written(tmp_path / "slide.html", pixels=False)
    assert data["overview"] is None and data["levels"] == [] and len(data["bags"]) == 3


@pytest.mark.parametrize("count", [1, 30, 100, 400, 1500])
def test_bag_side__keeps_the_file_small(count: int) -> None:
    side = bag_side(count, 2048)
    assert side in BAG_SIDES
    assert count * side**2 * BYTES_A_PIXEL * 4 / 3 <= BAGS_BYTES or side == BAG_SIDES[-1]
    assert bag_side(count, 64) == 64


def test_heat_map__is_drawn_with_and_without_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 16))
    for pixels in (True, False):
        bags = slide(pixels)
        mosaic = put_together(bags)
        write_heat_map(tmp_path / "map.png", bags, mosaic, np.abs(values) / 48, values, {1: 2}, 48, WORDING["risk"])
        assert Image.open(tmp_path / "map.png").width > 1000
        write_thumbnail(tmp_path / "small.jpg", bags, mosaic, values)
        assert max(Image.open(tmp_path / "small.jpg").size) == 220


def test_lesion_thumbnail__orange_raises_and_purple_lowers(tmp_path: Path) -> None:
    slices = np.full((3, 64, 64), 128, np.uint8)
    cam = np.array([[1.0, 1.0], [-1.0, -1.0]])
    write_lesion_thumbnail(tmp_path / "small.jpg", slices, cam)
    pixels = np.asarray(Image.open(tmp_path / "small.jpg")).astype(int)
    assert pixels.shape == (64, 64, 3)
    assert (pixels[:10, :, 0] > pixels[:10, :, 2] + 20).all()
    assert (pixels[-10:, :, 2] > pixels[-10:, :, 1] + 20).all()

"""Opening slides, their resolution, and reading at a working resolution."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mumo.config import TilesSettings
from mumo.errors import InputError
from mumo.pipeline.cohorts.cohort import Slide
from mumo.pipeline.pathology import slides
from mumo.pipeline.pathology.slides import Resolution, SlideError, SlideReader, open_image, open_reader, resolve_mpp


class PictureSlide:
    """A slide without a file: pictures (y, x, 3 or 4) as levels; remembers what was read."""

    def __init__(self, *levels: npt.NDArray[np.uint8], properties: Mapping[str, str] | None = None) -> None:
        self.levels = [with_alpha(level) for level in levels]
        self.properties: Mapping[str, str] = properties or {}
        self.reads: list[tuple[tuple[int, int], int, tuple[int, int]]] = []
        self.closed = False

    @property
    def level_dimensions(self) -> Sequence[tuple[int, int]]:
        return [(level.shape[1], level.shape[0]) for level in self.levels]

    @property
    def level_downsamples(self) -> Sequence[float]:
        return [self.levels[0].shape[1] / level.shape[1] for level in self.levels]

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        self.reads.append((location, level, size))
        picture = self.levels[level]
        x, y = (round(value / self.level_downsamples[level]) for value in location)
        region = np.zeros((size[1], size[0], 4), np.uint8)
        inside = picture[max(y, 0) : max(y + size[1], 0), max(x, 0) : max(x + size[0], 0)]
        region[max(-y, 0) : max(-y, 0) + inside.shape[0], max(-x, 0) : max(-x, 0) + inside.shape[1]] = inside
        return Image.fromarray(region, "RGBA")

    def close(self) -> None:
        self.closed = True


def with_alpha(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if picture.shape[2] == 4:
        return picture
    return np.concatenate([picture, np.full((*picture.shape[:2], 1), 255, np.uint8)], axis=2)


def noise(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def block_mean(picture: npt.NDArray[Any], factor: int) -> npt.NDArray[np.float64]:
    height, width = picture.shape[0] // factor, picture.shape[1] // factor
    cut = picture[: height * factor, : width * factor].astype(np.float64)
    return cut.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))


def reader(image: PictureSlide, mpp: float = 0.5) -> SlideReader:
    return SlideReader(image, "S1", Resolution(mpp, "file"))


def write_tiff(path: Path, picture: npt.NDArray[np.uint8], mpp: float | None, **options: Any) -> Path:
    """A tiled TIFF of one level that OpenSlide reads, with its resolution where one is given."""
    if mpp is not None:
        options |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, picture, tile=(64, 64), photometric="rgb", **options)
    return path


def slide(path: Path, mpp: float | None = None) -> Slide:
    return Slide("S1", "P1", path, None, mpp, white_balance=False)


# --- opening ----------------------------------------------------------------------------------------------


def test_open_image__missing_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slide S1: found no file gone\.svs") as caught:
        open_image(tmp_path / "gone.svs", "S1", 10**9)
    assert str(tmp_path) not in str(caught.value)


def test_open_image__picture_named_as_a_slide_is_refused(tmp_path: Path) -> None:
    Image.fromarray(noise(64, 64)).save(tmp_path / "picture.svs", "JPEG")
    with pytest.raises(SlideError, match=r"picture\.svs, which is no slide that OpenSlide reads"):
        open_image(tmp_path / "picture.svs", "S1", 10**9)


def test_open_image__too_many_declared_pixels_are_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "large.tif", noise(128, 256), 0.5)
    with pytest.raises(SlideError, match="256 × 128 px declared; expected at most 32,767 px"):
        open_image(path, "S1", 128 * 256 - 1)
    open_image(path, "S1", 128 * 256).close()


def test_open_image__file_without_its_directory_is_refused(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", noise(128, 128), 0.5)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SlideError, match=r"slide S1: found slide\.tif") as caught:
        open_image(path, "S1", 10**9)
    assert str(tmp_path) not in str(caught.value)


def test_reader__damaged_tile_fails_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as writer:
        for level, picture in enumerate((noise(512, 512), noise(128, 128))):
            writer.write(picture, tile=(128, 128), photometric="rgb", compression="zlib", subfiletype=level)
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[-1]
    content = bytearray(path.read_bytes())
    content[start : start + 2000] = bytes(2000)
    path.write_bytes(content)
    with open_reader(slide(path, 0.5), TilesSettings()) as opened:
        opened.read(0, 0, (64, 64), 0.5)
        with pytest.raises(SlideError, match=r"slide S1: found damage at x 400, y 448 \(level 0\)") as caught:
            opened.read(400, 448, (64, 64), 0.5)
    assert str(tmp_path) not in str(caught.value)


def test_slide_error__survives_the_way_between_processes() -> None:
    error = SlideError("S1", "path", "nothing", "something", "Look.")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error) == "slide S1: found nothing; expected something. Look."
    assert copy.problem().row == "S1"
    assert copy.problem().column == "path"


# --- resolution -------------------------------------------------------------------------------------------


def recorded(mpp_x: object, mpp_y: object = None) -> dict[str, str]:
    return {"openslide.mpp-x": str(mpp_x), "openslide.mpp-y": str(mpp_x if mpp_y is None else mpp_y)}


def test_resolution__comes_from_the_file(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", noise(64, 64), 0.4)
    with open_reader(slide(path), TilesSettings()) as opened:
        assert opened.mpp_level0 == pytest.approx(0.4, rel=1e-6)
        assert opened.resolution.source == "file"


def test_resolution__comes_from_the_cohort_where_the_file_has_none(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", noise(64, 64), None)
    with open_reader(slide(path, 0.25), TilesSettings()) as opened:
        assert opened.resolution == Resolution(0.25, "cohort")


def test_resolution__missing_everywhere_is_refused() -> None:
    with pytest.raises(SlideError, match="no resolution, neither in the file nor in the cohort file") as caught:
        resolve_mpp({}, None, TilesSettings(), "S1")
    assert caught.value.problem().column == "mpp"


@pytest.mark.parametrize("text", ["352.77", "0", "nan", "inf", "-0.5", "half"])
def test_resolution__values_of_no_microscope_count_as_none(text: str) -> None:
    assert resolve_mpp(recorded(text), 0.5, TilesSettings(), "S1") == Resolution(0.5, "cohort")


def test_resolution__small_difference_leaves_the_files() -> None:
    assert resolve_mpp(recorded(0.5), 0.54, TilesSettings(), "S1") == Resolution(0.5, "file")


def test_resolution__large_difference_is_refused_or_a_warning() -> None:
    with pytest.raises(SlideError, match=r"0\.5 µm/px in the file and 0\.25 in the cohort file, 50% apart"):
        resolve_mpp(recorded(0.5), 0.25, TilesSettings(), "S1")
    found = resolve_mpp(recorded(0.5), 0.25, TilesSettings(on_mpp_mismatch="warn"), "S1")
    assert (found.mpp, found.source) == (0.25, "cohort")
    assert "50% apart" in found.warnings[0]


def test_resolution__pixels_that_are_not_square_are_refused() -> None:
    with pytest.raises(SlideError, match=r"pixels of 0\.25 × 0\.5 µm"):
        resolve_mpp(recorded(0.25, 0.5), None, TilesSettings(), "S1")


def test_open_reader__refuses_a_slide_that_is_too_coarse(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "slide.tif", noise(64, 64), 1.0)
    with pytest.raises(SlideError, match=r"1 µm/px at the finest level; expected at most 0\.625 µm/px"):
        open_reader(slide(path), TilesSettings())
    open_reader(slide(path), TilesSettings(working_mpp=0.8)).close()


# --- reading ----------------------------------------------------------------------------------------------


def test_read__same_resolution_gives_the_pixels_themselves() -> None:
    picture = noise(40, 60)
    np.testing.assert_array_equal(reader(PictureSlide(picture)).read(7, 5, (20, 30), 0.5), picture[5:25, 7:37])


def test_read__whole_factor_equals_the_mean_of_blocks() -> None:
    picture = noise(120, 96)
    pixels = reader(PictureSlide(picture)).read(6, 9, (25, 20), 1.5)
    expected = block_mean(picture[9:, 6:], 3)[:25, :20]
    assert np.abs(pixels - expected).max() <= 0.5 + 1e-3


def test_read__fractional_factor_equals_the_exact_area_average() -> None:
    picture = noise(60, 60)
    pixels = reader(PictureSlide(picture)).read(0, 0, (40, 40), 0.75)
    # 1.5 pixels a side: each pixel doubled, then the mean of blocks of three.
    expected = block_mean(picture.repeat(2, axis=0).repeat(2, axis=1), 3)
    assert np.abs(pixels - expected).max() <= 0.5 + 1e-3


def test_read__finer_than_the_slide_repeats_pixels_by_area() -> None:
    picture = noise(16, 16)
    pixels = reader(PictureSlide(picture)).read(0, 0, (20, 20), 0.4)
    expected = block_mean(picture.repeat(5, axis=0).repeat(5, axis=1), 4)
    assert np.abs(pixels - expected).max() <= 0.5 + 1e-3


def test_read__20x_and_40x_scans_cover_the_same_micrometres() -> None:
    scan_40x = noise(512, 512)
    scan_20x = np.floor(block_mean(scan_40x, 2) + 0.5).astype(np.uint8)
    fine, coarse = reader(PictureSlide(scan_40x), 0.25), reader(PictureSlide(scan_20x), 0.5)
    for mpp in (0.5, 1.0):
        x_um, y_um = 13.0, 21.0
        from_40x = fine.read(x_um / 0.25, y_um / 0.25, (64, 64), mpp)
        from_20x = coarse.read(x_um / 0.5, y_um / 0.5, (64, 64), mpp)
        # The 20× scan was rounded to whole values before it was averaged.
        assert np.abs(from_40x.astype(int) - from_20x).max() <= (0 if mpp == 0.5 else 1)


def test_read__edge_of_tissue_lies_at_its_micrometres_whatever_the_scan() -> None:
    for mpp_level0 in (0.2, 0.25, 0.37, 0.5):
        columns = int(200 / mpp_level0)
        # Dark left of 100 µm; the pixel that 100 µm cut has a value in between.
        dark = np.clip(100 / mpp_level0 - np.arange(columns), 0, 1)
        picture = np.broadcast_to((255 * (1 - dark))[None, :, None], (columns, columns, 3)).astype(np.uint8)
        pixels = reader(PictureSlide(np.ascontiguousarray(picture)), mpp_level0).read(
            40 / mpp_level0, 40 / mpp_level0, (200, 200), 0.5
        )
        dark_um = (255 - pixels[100, :, 0].astype(float)).sum() / 255 * 0.5
        assert dark_um == pytest.approx(60, abs=0.02)


@given(
    scale=st.floats(0.8, 9.0),
    left=st.floats(0, 5),
    top=st.floats(0, 5),
    value=st.integers(0, 255),
)
@settings(max_examples=40, deadline=None)
def test_read__even_colour_stays_even(scale: float, left: float, top: float, value: int) -> None:
    picture = np.full((100, 100, 3), value, np.uint8)
    pixels = reader(PictureSlide(picture)).read(left, top, (9, 9), 0.5 * scale)
    np.testing.assert_array_equal(pixels, value)


def test_read__takes_the_coarsest_level_that_is_fine_enough() -> None:
    picture = noise(64, 64)
    image = PictureSlide(picture, picture[::2, ::2], picture[::4, ::4])
    opened = reader(image, 0.25)
    assert [opened.level_for(mpp) for mpp in (0.2, 0.25, 0.49, 0.5, 0.9, 1.0, 8.0)] == [0, 0, 0, 1, 1, 2, 2]
    np.testing.assert_array_equal(opened.read(8, 16, (10, 10), 0.5), picture[::2, ::2][8:18, 4:14])


def test_read__level_whose_size_contradicts_its_downsample_is_left_alone() -> None:
    picture = noise(64, 64)
    assert reader(PictureSlide(picture, picture[::4, ::2]), 0.25).level_for(0.5) == 0


def test_read__blocks_make_the_same_picture_as_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = noise(300, 280)
    whole = reader(PictureSlide(picture)).read(3, 5, (90, 80), 1.55)
    monkeypatch.setattr(slides, "_BLOCK_PX", 4000)
    monkeypatch.setattr(slides, "_BLOCK_WIDTH", 100)
    image = PictureSlide(picture)
    np.testing.assert_array_equal(reader(image).read(3, 5, (90, 80), 1.55), whole)
    assert len(image.reads) > 10


def test_read__decodes_each_pixel_once_and_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "_BLOCK_PX", 1 << 14)
    image = PictureSlide(noise(512, 512))
    reader(image, 0.25).read(0, 0, (256, 256), 0.5)
    decoded = np.zeros((512, 512), int)
    for (x, y), _, (width, height) in image.reads:
        assert width * height <= 1 << 14
        decoded[y : y + height, x : x + width] += 1
    np.testing.assert_array_equal(decoded, 1)


def test_read__beyond_the_edge_is_background() -> None:
    picture = np.zeros((20, 20, 3), np.uint8)
    opened = reader(PictureSlide(picture))
    pixels = opened.read(-5, 10, (20, 30), 0.5)
    expected = np.full((20, 30, 3), 255)
    expected[:10, 5:25] = 0
    np.testing.assert_array_equal(pixels, expected)
    named = reader(PictureSlide(picture, properties={"openslide.background-color": "F0E0D0"}))
    np.testing.assert_array_equal(named.read(20, 0, (2, 2), 0.5), np.broadcast_to([0xF0, 0xE0, 0xD0], (2, 2, 3)))


def test_read__half_transparent_pixels_are_laid_on_white() -> None:
    picture = np.full((8, 8, 4), 100, np.uint8)
    picture[..., 3] = 51
    np.testing.assert_array_equal(reader(PictureSlide(picture)).read(0, 0, (8, 8), 0.5), 224)


def test_reader__closes_its_slide() -> None:
    image = PictureSlide(noise(8, 8))
    with reader(image):
        assert not image.closed
    assert image.closed


@pytest.mark.realdata
def test_read__real_slide_equals_openslides_own_pixels(shared_data: Path) -> None:
    path = shared_data / "slides" / "CMU-1-Small-Region.svs"
    with open_reader(slide(path), TilesSettings()) as opened:
        assert opened.mpp_level0 == pytest.approx(0.499)
        pixels = opened.read(700, 900, (128, 200), opened.mpp_level0)
    image = open_image(path, "S1", 10**9)
    np.testing.assert_array_equal(pixels, np.asarray(image.read_region((700, 900), 0, (200, 128)))[..., :3])


@pytest.mark.realdata
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_reader__truncated_real_slide_fails_cleanly(shared_data: Path, tmp_path: Path, share: float) -> None:
    content = (shared_data / "slides" / "CMU-1-Small-Region.svs").read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match="slide S1: "), open_reader(slide(path, 0.5), TilesSettings()) as opened:
        opened.read(0, 0, opened.size_level0[::-1], 0.5)


@pytest.mark.realdata
def test_reader__resolution_that_a_real_slide_lacks_must_be_given(shared_data: Path) -> None:
    path = shared_data / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(SlideError, match="no resolution"):
        open_reader(slide(path), TilesSettings())
    with open_reader(slide(path, 0.5), TilesSettings()) as opened:
        assert opened.resolution == Resolution(0.5, "cohort")


def test_reader__names_the_corner_of_the_scanned_area_where_the_file_does() -> None:
    picture = np.zeros((64, 64, 3), dtype=np.uint8)
    bounds = {"openslide.bounds-x": "10778", "openslide.bounds-y": "35096"}
    assert reader(PictureSlide(picture, properties=bounds)).scanned_corner_level0 == (10778, 35096)
    assert reader(PictureSlide(picture)).scanned_corner_level0 == (0, 0)
    assert reader(PictureSlide(picture, properties={"openslide.bounds-x": "no"})).scanned_corner_level0 == (0, 0)

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import shapely
from defusedxml import ElementTree
from numpy.typing import NDArray
from skimage.color import rgb2lab
from skimage.draw import polygon2mask

from mumo.pipeline.synthetic.plan import SlidePlan, plan_cohort
from mumo.pipeline.synthetic.regions import GROUP_CLASSES
from mumo.pipeline.synthetic.slides import annotation_file, draw_outline, render_slide, slide_file, write_slide


def one_slide(**changes: object) -> SlidePlan:
    plan = plan_cohort(16, 0, signal=True).slides[5]
    return replace(plan, mpp=1.0, tissue="strip", white_balance=False, annotation="asap", **changes)


def read_at_1_um(file: Path, mpp: float) -> NDArray[np.uint8]:
    """The whole slide, read by OpenSlide at 1 µm/px."""
    with openslide.OpenSlide(str(file)) as slide:
        level = slide.get_best_level_for_downsample(1.0 / mpp + 1e-6)
        image = slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB")
        size = [round(side * mpp) for side in slide.dimensions]
    return np.asarray(image.resize(size))


def tissue_of(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return rgb.min(axis=2) < 205


def test_write_slide__openslide_reports_levels_and_resolution(written) -> None:
    assert written.plan.slides
    for plan in written.plan.slides:
        with openslide.OpenSlide(str(written.folder / slide_file(plan))) as slide:
            assert slide.level_downsamples == pytest.approx((1, 2, 4))
            recorded = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
            if plan.in_file:
                assert float(recorded) == pytest.approx(plan.mpp, rel=1e-6)
                assert float(slide.properties[openslide.PROPERTY_NAME_MPP_Y]) == pytest.approx(plan.mpp, rel=1e-6)
            else:
                assert recorded is None


def test_write_slide__is_tiled_jpeg(written) -> None:
    import tifffile

    with tifffile.TiffFile(written.folder / slide_file(written.plan.slides[0])) as file:
        for page in file.pages:
            assert page.is_tiled and page.tile == (256, 256) and page.compression.name == "JPEG"


def test_write_slide__levels_show_the_same_picture(written) -> None:
    with openslide.OpenSlide(str(written.folder / slide_file(written.plan.slides[0]))) as slide:
        fine, coarse = (
            np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("RGB"), dtype=float)
            for level in (0, 2)
        )
    height, width = coarse.shape[:2]
    averaged = fine.reshape(height, 4, width, 4, 3).mean(axis=(1, 3))
    same = np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1]
    shifted = np.corrcoef(averaged[:, 1:].ravel(), coarse[:, :-1].ravel())[0, 1]
    assert same > 0.97 and same > shifted + 0.02


def test_render_slide__looks_like_stained_tissue_on_glass(written) -> None:
    for plan in written.plan.slides:
        rgb = read_at_1_um(written.folder / slide_file(plan), plan.mpp)
        tissue = tissue_of(rgb)
        assert 0.35 < tissue.mean() < 0.9
        red, green, blue = rgb[tissue].mean(axis=0)
        assert green < red and green < blue  # pink to purple
        hematoxylin_like = (rgb[..., 0] < 130) & (rgb[..., 2].astype(int) > rgb[..., 0])
        assert 0.03 < hematoxylin_like[tissue].mean() < 0.7  # nuclei


def test_render_slide__colour_cast_shows_on_glass_of_flagged_slides(written) -> None:
    for plan in written.plan.slides:
        corner = read_at_1_um(written.folder / slide_file(plan), plan.mpp)[2:12, 2:12].reshape(-1, 3).mean(axis=0)
        cast = corner[0] - corner[2]
        assert cast > 15 if plan.white_balance else abs(cast) < 5


def test_render_slide__stains_vary_between_slides() -> None:
    slides = [plan for plan in plan_cohort(24, 0, signal=True).slides if plan.mpp == 1.0 and not plan.white_balance]
    pixels = [render_slide(plan, 0).pixels[::4, ::4] for plan in slides[:10]]
    means = [rgb2lab(rgb)[tissue_of(rgb)].mean(axis=0) for rgb in pixels]
    assert (np.std(means, axis=0) > 1.0).all()


def test_render_slide__score_changes_texture_but_not_colour() -> None:
    def contrast_between_neighbours(lightness: NDArray[np.float64], size_px: int) -> float:
        height, width = lightness.shape
        blocks = lightness.reshape(height // size_px, size_px, width // size_px, size_px).mean(axis=(1, 3))
        return float(np.diff(blocks, axis=1).std())

    colours, fineness = [], []
    for seed in range(1, 5):
        for score in (-1.5, 1.5):
            lab = rgb2lab(render_slide(one_slide(score=score), seed).pixels[144:464, 200:840])
            colours.append(lab.mean(axis=(0, 1)))
            fineness.append(contrast_between_neighbours(lab[..., 0], 2) / contrast_between_neighbours(lab[..., 0], 8))
    assert np.abs(np.subtract(colours[0::2], colours[1::2])).max() < 4
    assert np.mean(np.divide(fineness[1::2], fineness[0::2])) > 1.1


def test_write_slide__is_the_same_to_the_byte(tmp_path: Path) -> None:
    plan = one_slide(score=0.3)
    contents = []
    for name in ("first", "second"):
        for part in ("slides", "annotations"):
            (tmp_path / name / part).mkdir(parents=True)
        write_slide(tmp_path / name, plan, 4)
        contents.append([(tmp_path / name / file(plan)).read_bytes() for file in (slide_file, annotation_file)])
    assert contents[0] == contents[1]


def read_polygons(file: Path) -> list[tuple[str, shapely.Polygon]]:
    if file.suffix == ".geojson":
        features = json.loads(file.read_text(encoding="utf-8"))["features"]
        return [
            (feature["properties"]["classification"]["name"], shapely.geometry.shape(feature["geometry"]))
            for feature in features
        ]
    found = []
    for annotation in ElementTree.parse(file).getroot().iter("Annotation"):
        corners = sorted(annotation.iter("Coordinate"), key=lambda corner: int(corner.get("Order")))
        points = [(float(corner.get("X")), float(corner.get("Y"))) for corner in corners]
        found.append((annotation.get("PartOfGroup"), shapely.Polygon(points)))
    return found


def test_write_slide__annotations_parse_and_cover_the_tissue(written) -> None:
    groups = set()
    for plan in written.plan.slides:
        file = written.folder / annotation_file(plan)
        if not plan.annotation:
            assert annotation_file(plan) == "" and not list(written.folder.glob(f"annotations/{plan.slide}*"))
            continue
        polygons = read_polygons(file)
        assert all(polygon.is_valid for _, polygon in polygons)
        groups |= {group for group, _ in polygons}
        tissue = tissue_of(read_at_1_um(written.folder / slide_file(plan), plan.mpp))
        covered = np.zeros_like(tissue)
        for _, polygon in polygons:
            corners = shapely.get_coordinates(polygon.exterior) * plan.mpp
            covered |= polygon2mask(tissue.shape, corners[:, ::-1])
        assert tissue[covered].mean() > 0.8
        assert covered[tissue].mean() > 0.85
    assert groups <= set(GROUP_CLASSES)
    assert {GROUP_CLASSES[group] for group in groups} >= {1, 3}


def test_write_slide__asap_declares_the_groups_it_uses(written) -> None:
    for file in written.folder.glob("annotations/*.xml"):
        root = ElementTree.parse(file).getroot()
        declared = {group.get("Name") for group in root.iter("Group")}
        assert {group for group, _ in read_polygons(file)} <= declared


def test_write_slide__geojson_has_a_hole(written) -> None:
    (file,) = written.folder.glob("annotations/*.geojson")
    assert sum(len(polygon.interiors) for _, polygon in read_polygons(file)) == 1


def test_regions__regions_of_a_slide_do_not_overlap() -> None:
    for plan in plan_cohort(40, 1, signal=True).slides:
        polygons = [region.polygon for region in draw_outline(plan, 1)[1]]
        assert sum(polygon.area for polygon in polygons) - shapely.unary_union(polygons).area < 1.0


def test_plan__every_group_occurs_in_the_demo() -> None:
    slides = plan_cohort(120, 0, signal=True).slides
    groups = {region.group for slide in slides if slide.annotation for region in draw_outline(slide, 0)[1]}
    assert groups == set(GROUP_CLASSES)

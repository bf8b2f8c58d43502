"""Annotation files of Aperio ImageScope."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from aperio_files import aperio, drawn, layer

from mumo.config import TilesSettings
from mumo.pipeline.pathology.annotation_formats.collector import Annotations
from mumo.pipeline.pathology.annotations import read_annotations
from mumo.pipeline.pathology.remarks import Remark
from mumo.pipeline.pathology.slides import SlideError

SQUARE = [(10, 10), (30, 10), (30, 30), (10, 30)]
HOLE = [(15, 15), (20, 15), (20, 20), (15, 20)]


def read(tmp_path: Path, text: str, **limits: int) -> Annotations:
    path = tmp_path / "annotation.xml"
    path.write_text(text)
    return read_annotations(path, "S1", TilesSettings(**limits))


def found_areas(annotations: Annotations) -> list[tuple[str, float]]:
    return [(region.group, region.area.area) for region in annotations.regions]


def moved(points: list[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(x + by, y) for x, y in points]


def test_aperio__freehand_regions_keep_layer_and_place(tmp_path: Path) -> None:
    closed = [*SQUARE, SQUARE[0]]
    text = aperio(layer(drawn(closed), drawn(moved(SQUARE, 100), None)), layer(drawn(SQUARE), name="Stroma", number=2))
    found = read(tmp_path, text)
    assert found_areas(found) == [("Tumor", 400), ("Tumor", 400), ("Stroma", 400)]
    assert [region.area.bounds[0] for region in found.regions] == [10, 110, 10]
    assert found.remarks == ()


def test_aperio__rectangle_has_the_area_that_aperio_computed(tmp_path: Path) -> None:
    """Vertices and `Area` of an export of Aperio's server."""
    corners = [(12039.2397, 4246.2397), (12438.7603, 4246.2397), (12438.7603, 4645.7603), (12039.2397, 4645.7603)]
    found = read(tmp_path, aperio(layer(drawn(corners, "1"), drawn([corners[0], corners[2]], "1"))))
    assert [area for _, area in found_areas(found)] == pytest.approx([159616.7, 159616.7], abs=0.1)


def test_aperio__ellipse_has_the_area_and_length_that_imagescope_computed(tmp_path: Path) -> None:
    """Corners, `Area` and `Length` of a file in DeepMicroscopy/MITOS_WSI_CCMCT."""
    (region,) = read(tmp_path, aperio(layer(drawn([(7032, 26205), (7074, 26239)], "2")))).regions
    assert region.area.area == pytest.approx(1121.5, rel=1e-3)
    assert region.area.length == pytest.approx(119.7, rel=1e-3)
    assert region.area.bounds == pytest.approx((7032, 26205, 7074, 26239))


def test_aperio__ellipse_of_four_corners_is_the_same(tmp_path: Path) -> None:
    found = read(tmp_path, aperio(layer(drawn(SQUARE, "2"), drawn([(30, 30), (10, 10)], "2"))))
    assert [area for _, area in found_areas(found)] == pytest.approx([100 * math.pi] * 2, rel=1e-3)


@pytest.mark.parametrize(("kind", "said"), [("3", "'3' (arrow)"), ("4", "'4'"), ("5", "'5'")])
def test_aperio__what_is_no_area_is_left_out_with_a_remark(tmp_path: Path, kind: str, said: str) -> None:
    found = read(tmp_path, aperio(layer(drawn(SQUARE[:2], kind), drawn(SQUARE))))
    assert found_areas(found) == [("Tumor", 400)]
    text = f"annotation: number 1 is of type {said}, not an area, and is left out"
    assert found.remarks == (Remark(text, "left out"),)


def test_aperio__negative_regions_are_cut_out_of_their_own_layer_alone(tmp_path: Path) -> None:
    first = layer(drawn(HOLE, negative=True), drawn(SQUARE), drawn(moved(SQUARE, 50)))
    found = read(tmp_path, aperio(first, layer(drawn(SQUARE), name="Other", number=2)))
    assert found_areas(found) == [("Tumor", 375), ("Tumor", 400), ("Other", 400)]
    assert found.remarks == ()


def test_aperio__a_hole_may_split_an_area(tmp_path: Path) -> None:
    across = [(18, 0), (22, 0), (22, 50), (18, 50)]
    (region,) = read(tmp_path, aperio(layer(drawn(SQUARE), drawn(across, negative=True)))).regions
    assert (region.area.geom_type, region.area.area) == ("MultiPolygon", 320)


def test_aperio__holes_that_cut_nothing_or_everything_are_told(tmp_path: Path) -> None:
    text = aperio(layer(drawn(HOLE), drawn(SQUARE, negative=True), drawn(moved(SQUARE, 90), "2", negative=True)))
    found = read(tmp_path, text)
    assert found.regions == ()
    assert found.remarks == (
        Remark("annotation: area 1 lies in holes of its layer and is left out", "left out"),
        Remark("annotation: area 3, a hole, lies in no area of its layer and cuts nothing", "left out"),
    )


@pytest.mark.parametrize(
    ("name", "description", "text", "group"),
    [
        ("Tumor", "d", "t", "Tumor"),
        (" Tumor ", "", "", "Tumor"),
        ("", "Follicle", "t", "Follicle"),
        (None, "", "Mitosis", "Mitosis"),
        ("Layer 7", "Follicle", "", "Follicle"),
        ("Layer 7", "", "", "Layer 7"),
        ("Layer 8", "Follicle", "", "Layer 8"),
        ("", "", "", "None"),
    ],
)
def test_aperio__group(tmp_path: Path, name: str | None, description: str, text: str, group: str) -> None:
    content = layer(drawn(SQUARE, text=text), name=name, description=description, number=7)
    assert found_areas(read(tmp_path, aperio(content))) == [(group, 400)]


def test_aperio__layers_told_apart_by_colour_alone_are_reported(tmp_path: Path) -> None:
    first, second = (layer(drawn(SQUARE), name="", colour=colour) for colour in (65280, 255))
    assert read(tmp_path, aperio(first, first)).remarks == ()
    (remark,) = read(tmp_path, aperio(first, second)).remarks
    assert "layers of 2 line colours have no name" in remark.text


def test_aperio__description_of_one_layer_is_not_the_next_ones(tmp_path: Path) -> None:
    bare = f"<Annotation><Regions>{drawn(SQUARE)}</Regions></Annotation>"
    found = read(tmp_path, aperio(layer(drawn(SQUARE), name="", description="A"), bare))
    assert [group for group, _ in found_areas(found)] == ["A", "None"]


def test_aperio__self_crossing_region_is_repaired(tmp_path: Path) -> None:
    found = read(tmp_path, aperio(layer(drawn([(0, 0), (20, 20), (20, 0), (0, 20)]))))
    assert found_areas(found) == [("Tumor", pytest.approx(200))]
    assert found.remarks == (Remark("annotation: area 1 crosses or touches itself and was repaired"),)


def test_aperio__region_without_extent_is_left_out(tmp_path: Path) -> None:
    found = read(tmp_path, aperio(layer(drawn([]), drawn([], "2"), drawn([(1, 1), (1, 9)], "2"), drawn(SQUARE))))
    assert len(found.regions) == 1
    assert ["has no extent" in remark.text for remark in found.remarks] == [True] * 3


def test_aperio__decimal_commas_are_read(tmp_path: Path) -> None:
    points = [("10,5", "10"), ("30,5", "10,0"), ("30,5", "3e1"), ("10,5", "30")]
    (region,) = read(tmp_path, aperio(layer(drawn(points)))).regions
    assert region.area.bounds == (10.5, 10, 30.5, 30)


@pytest.mark.parametrize("value", ["ten", "", "nan", "inf", "1e99"])
def test_aperio__coordinates_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SlideError, match=r"slide S1: found a coordinate of area 2 .* in annotation\.xml"):
        read(tmp_path, aperio(layer(drawn(SQUARE), drawn([(value, 0), *SQUARE]))))


def test_aperio__missing_coordinate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="a coordinate of area 1"):
        read(tmp_path, aperio(layer(drawn(SQUARE))).replace('X="30"', ""))


def test_aperio__file_of_halo_is_refused(tmp_path: Path) -> None:
    region = '<Region Type="Polygon" HasEndcaps="0" NegativeROA="0"><Vertices><V X="1" Y="2"/></Vertices></Region>'
    with pytest.raises(SlideError, match=r"region 1 of type 'Polygon'.*HALO"):
        read(tmp_path, aperio(layer(region)))


def test_aperio__document_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="a document type or entities"):
        read(tmp_path, '<!DOCTYPE a [<!ENTITY a "aaaa">]><Annotations>&a;</Annotations>')


def test_aperio__vertices_are_limited_those_of_ellipses_too(tmp_path: Path) -> None:
    text = aperio(layer(drawn(SQUARE), drawn(SQUARE)))
    assert len(read(tmp_path, text, max_annotation_vertices=8).regions) == 2
    with pytest.raises(SlideError, match="more than 7 vertices"):
        read(tmp_path, text, max_annotation_vertices=7)
    with pytest.raises(SlideError, match="more than 259 vertices"):
        read(tmp_path, aperio(layer(*[drawn(SQUARE[::2], "2")] * 2)), max_annotation_vertices=259)


def test_aperio__many_areas_in_many_holes_are_refused_in_reasonable_time(tmp_path: Path) -> None:
    squares = [[(-k, -k), (1000 + k, -k), (1000 + k, 1000 + k), (-k, 1000 + k)] for k in range(600)]
    holes = [[(x, y), (x + 5, y), (x, y + 5)] for x in range(0, 200, 10) for y in range(0, 200, 10)]
    text = aperio(layer(*(drawn(ring) for ring in squares), *(drawn(ring, negative=True) for ring in holes)))
    start = time.process_time()
    with pytest.raises(SlideError, match=r"a layer, before region 1001, .* cross each other too often"):
        read(tmp_path, text)
    assert time.process_time() - start < 20

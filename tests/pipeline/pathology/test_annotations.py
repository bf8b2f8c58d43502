"""Annotation files of ASAP and QuPath, and what files of all formats share; ImageScope's are in `test_aperio`."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from aperio_files import aperio, drawn, layer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mumo.config import TilesSettings
from mumo.errors import InputError
from mumo.pipeline.pathology.annotation_formats.collector import Annotations, Region
from mumo.pipeline.pathology.annotations import check_place, classify, read_annotations
from mumo.pipeline.pathology.regions import PolygonRegions
from mumo.pipeline.pathology.remarks import Remark
from mumo.pipeline.pathology.slides import SlideError

SQUARE = [(10, 10), (30, 10), (30, 30), (10, 30)]


def asap(*annotations: str) -> str:
    return (
        f"<?xml version='1.0'?><ASAP_Annotations><Annotations>{''.join(annotations)}</Annotations></ASAP_Annotations>"
    )


def asap_area(points: Any, group: str | None = "Tumor", kind: str = "Polygon") -> str:
    coordinates = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
    attribute = "" if group is None else f'PartOfGroup="{group}"'
    return f'<Annotation Name="A" Type="{kind}" {attribute}><Coordinates>{coordinates}</Coordinates></Annotation>'


def feature(*rings: Any, name: str | None = "Tumor", kind: str = "Polygon") -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    closed = [[*ring, ring[0]] for ring in rings]
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": closed}, "properties": properties}


def read(tmp_path: Path, content: str | bytes | dict[str, Any] | list[Any], suffix: str = ".xml", **limits: int) -> Any:
    if isinstance(content, dict | list):
        content, suffix = json.dumps(content), ".geojson"
    path = tmp_path / f"annotation{suffix}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_annotations(path, "S1", TilesSettings(**limits))


def texts(annotations: Annotations) -> list[str]:
    return [remark.text for remark in annotations.remarks]


def single(annotations: Annotations) -> Region:
    (region,) = annotations.regions
    return region


# --- ASAP -------------------------------------------------------------------------------------------------


def test_asap__polygons_keep_group_and_place(tmp_path: Path) -> None:
    other = [(x + 100, y) for x, y in SQUARE]
    found = read(tmp_path, asap(asap_area(SQUARE), asap_area(other), asap_area(SQUARE, "HER2 3+")))
    assert [region.group for region in found.regions] == ["Tumor", "Tumor", "HER2 3+"]
    assert [region.area.bounds for region in found.regions] == [(10, 10, 30, 30), (110, 10, 130, 30), (10, 10, 30, 30)]
    assert found.remarks == ()


@pytest.mark.parametrize("kind", ["Polygon", "Spline", "Rectangle"])
def test_asap__areas_of_every_type_are_taken(tmp_path: Path, kind: str) -> None:
    assert single(read(tmp_path, asap(asap_area(SQUARE, kind=kind)))).area.area == 400


def test_asap__rectangle_of_two_corners_is_taken(tmp_path: Path) -> None:
    assert single(read(tmp_path, asap(asap_area([(10, 10), (30, 25)], kind="Rectangle")))).area.area == 300


@pytest.mark.parametrize("kind", ["Dot", "PointSet", "Measurement", "None"])
def test_asap__what_is_no_area_is_left_out_with_a_note(tmp_path: Path, kind: str) -> None:
    found = read(tmp_path, asap(asap_area(SQUARE[:1], kind=kind), asap_area(SQUARE)))
    assert len(found.regions) == 1
    assert texts(found) == [f"annotation: number 1 is of type {kind!r}, not an area, and is left out"]


@pytest.mark.parametrize("group", [None, "", "None"])
def test_asap__missing_group_is_called_none(tmp_path: Path, group: str | None) -> None:
    assert single(read(tmp_path, asap(asap_area(SQUARE, group)))).group == "None"


def test_asap__decimal_commas_are_read(tmp_path: Path) -> None:
    points = [("10,5", "10"), ("30,5", "10,0"), ("30,5", "3e1"), ("10,5", "30")]
    assert single(read(tmp_path, asap(asap_area(points)))).area.bounds == (10.5, 10, 30.5, 30)


def test_asap__order_counts_and_not_the_sequence(tmp_path: Path) -> None:
    text = asap(asap_area(SQUARE)).replace('Order="1"', 'Order="x"').replace('Order="2"', 'Order="1"')
    swapped = text.replace('Order="x"', 'Order="2"')
    found = read(tmp_path, swapped)
    assert "crosses or touches itself and was repaired" in texts(found)[0]


@pytest.mark.parametrize("value", ["ten", "1.000,5", "", "nan", "inf", "0x10", "1e99", "1e999"])
def test_asap__coordinates_that_are_no_numbers_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SlideError, match=r"slide S1: found a coordinate of area 1 .* in annotation\.xml"):
        read(tmp_path, asap(asap_area([(value, 0), *SQUARE])))


def test_asap__missing_coordinate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match="a coordinate of area 1"):
        read(tmp_path, asap(asap_area(SQUARE)).replace('X="30"', "", 1))


def test_asap__document_type_is_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><ASAP_Annotations>&b;</ASAP_Annotations>'
    with pytest.raises(SlideError, match="a document type or entities"):
        read(tmp_path, bomb)


def test_asap__external_entity_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    text = f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{secret}">]><ASAP_Annotations>&x;</ASAP_Annotations>'
    with pytest.raises(SlideError, match="a document type or entities"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["", "<ASAP_Annotations>", "no xml", "<a/>", "\0\0", "<html></html>"])
def test_asap__other_content_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SlideError, match="slide S1: found"):
        read(tmp_path, text)


# --- QuPath -----------------------------------------------------------------------------------------------


def test_geojson__feature_collection_with_hole(tmp_path: Path) -> None:
    hole = [(15, 15), (20, 15), (20, 20), (15, 20)]
    found = read(tmp_path, {"type": "FeatureCollection", "features": [feature(SQUARE, hole), feature(hole, name="B")]})
    assert [(region.group, region.area.area) for region in found.regions] == [("Tumor", 375), ("B", 25)]


def test_geojson__multi_polygon_gives_one_area_a_part(tmp_path: Path) -> None:
    ring = [*SQUARE, SQUARE[0]]
    geometry = {"type": "MultiPolygon", "coordinates": [[ring], [[[x + 50, y] for x, y in ring]]]}
    entry = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "T"}}}
    assert [region.area.area for region in read(tmp_path, entry).regions] == [400, 400]


def test_geojson__bare_feature_geometry_and_lists_are_taken(tmp_path: Path) -> None:
    bare = feature(SQUARE)
    geometry = bare["geometry"]
    for content, group in ((bare, "Tumor"), ([bare], "Tumor"), (geometry, "None"), ([geometry], "None")):
        assert single(read(tmp_path, content)).group == group


@pytest.mark.parametrize(
    ("properties", "group"),
    [
        (None, "None"),
        ({}, "None"),
        ({"classification": None}, "None"),
        ({"classification": {}}, "None"),
        ({"classification": {"name": "A: B", "colorRGB": -1}}, "A: B"),
        ({"classification": "Plain"}, "Plain"),
    ],
)
def test_geojson__class_names(tmp_path: Path, properties: Any, group: str) -> None:
    assert single(read(tmp_path, feature(SQUARE) | {"properties": properties})).group == group


def test_geojson__points_and_lines_are_left_out_with_a_note(tmp_path: Path) -> None:
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {}}
    found = read(tmp_path, [point, feature(SQUARE)])
    assert len(found.regions) == 1
    assert "number 1 is of type 'Point'" in texts(found)[0]


@pytest.mark.parametrize(
    "content",
    [
        {"type": "FeatureCollection"},
        {"type": "FeatureCollection", "features": [None]},
        {"type": "Feature", "geometry": None},
        {"type": "Polygon"},
        {"type": "Polygon", "coordinates": [[1, 2, 3]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, "4"], [5, 6]]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, True], [5, 6]]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [3, 10**400], [5, 6]]]},
        {"type": "Polygon", "coordinates": {"a": 1}},
        {"type": "Circle", "coordinates": []},
        feature(SQUARE) | {"crs": {"type": "name", "properties": {"name": "EPSG:4326"}}},
    ],
)
def test_geojson__malformed_content_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(SlideError, match=r"slide S1: found .* in annotation\.geojson"):
        read(tmp_path, content)


@pytest.mark.parametrize("text", ["", "{", "[NaN]", '{"a": Infinity}', "[" * 100_000, "\xff\xfe"])
def test_geojson__broken_json_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SlideError, match="no well-formed JSON"):
        read(tmp_path, text.encode("latin-1"), ".geojson")


def test_geojson__a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + json.dumps(feature(SQUARE)).encode()
    assert len(read(tmp_path, content, ".geojson").regions) == 1


# --- both -------------------------------------------------------------------------------------------------


def test_read_annotations__xml_of_another_program_is_refused_with_both_that_are_read(tmp_path: Path) -> None:
    with pytest.raises(SlideError, match=r"found <svg> .*; expected <ASAP_Annotations> of ASAP or <Annotations> of Ap"):
        read(tmp_path, "<svg/>")
    with pytest.raises(SlideError, match="expected a file of ASAP or Aperio ImageScope"):
        read(tmp_path, "<Annotations>")


def test_read_annotations__missing_file_and_other_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"slide S1: found no file gone\.xml"):
        read_annotations(tmp_path / "gone.xml", "S1", TilesSettings())
    with pytest.raises(InputError, match=r"slide S1: found notes\.txt; expected a file of ASAP or Aperio ImageScope"):
        read_annotations(tmp_path / "notes.txt", "S1", TilesSettings())


def test_read_annotations__unreadable_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xml").write_text(asap())

    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError("denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SlideError, match=r"slide S1: found a\.xml, which cannot be read"):
        read_annotations(tmp_path / "a.xml", "S1", TilesSettings())


def test_read_annotations__size_and_vertices_are_limited(tmp_path: Path) -> None:
    text = asap(asap_area(SQUARE), asap_area(SQUARE))
    with pytest.raises(SlideError, match="expected at most 100"):
        read(tmp_path, text, max_annotation_bytes=100)
    with pytest.raises(SlideError, match="more than 7 vertices"):
        read(tmp_path, text, max_annotation_vertices=7)
    with pytest.raises(SlideError, match="more than 9 vertices"):
        read(tmp_path, [feature(SQUARE), feature(SQUARE)], max_annotation_vertices=9)
    assert len(read(tmp_path, text, max_annotation_vertices=8).regions) == 2


def test_read_annotations__bow_tie_is_repaired_and_reported(tmp_path: Path) -> None:
    bow_tie = [(0, 0), (20, 20), (20, 0), (0, 20)]
    for content in (asap(asap_area(bow_tie)), feature(bow_tie)):
        found = read(tmp_path, content)
        assert single(found).area.is_valid
        assert single(found).area.area == pytest.approx(200)
        assert texts(found) == ["annotation: area 1 crosses or touches itself and was repaired"]


def test_read_annotations__areas_without_extent_are_left_out(tmp_path: Path) -> None:
    flat = [(0, 0), (10, 10), (20, 20)]
    found = read(tmp_path, asap(asap_area(flat), asap_area([]), asap_area([(1, 1)] * 5), asap_area(SQUARE)))
    assert len(found.regions) == 1
    assert sum("has no extent" in note for note in texts(found)) == 3


def test_read_annotations__many_notes_are_cut(tmp_path: Path) -> None:
    found = read(tmp_path, asap(*[asap_area(SQUARE[:1], kind="Dot")] * 50))
    assert len(found.remarks) == 11
    assert found.remarks[-1] == Remark("annotation: 40 more remarks of this kind", "left out")


def test_read_annotations__remarks_of_each_kind_are_counted_by_themselves(tmp_path: Path) -> None:
    bow_tie = [(0, 0), (20, 20), (20, 0), (0, 20)]
    found = read(tmp_path, asap(*[asap_area(SQUARE[:1], kind="Dot")] * 12, *[asap_area(bow_tie)] * 13))
    more = [remark for remark in found.remarks if "more remarks of this kind" in remark.text]
    assert [(remark.text, remark.kind) for remark in more] == [
        ("annotation: 2 more remarks of this kind", "left out"),
        ("annotation: 3 more remarks of this kind", "used"),
    ]


@pytest.mark.slow
def test_read_annotations__many_vertices_take_little_memory(tmp_path: Path) -> None:
    turns = np.linspace(0, 2 * np.pi, 200_000, endpoint=False)
    points = np.stack([1000 + 900 * np.cos(turns), 1000 + 900 * np.sin(turns)], axis=1).round(3).tolist()
    text = asap(asap_area(points))
    (tmp_path / "large.xml").write_text(text)
    tracemalloc.start()
    found = read_annotations(tmp_path / "large.xml", "S1", TilesSettings())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert single(found).area.area == pytest.approx(np.pi * 900**2, rel=1e-4)
    assert peak < 120e6


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_annotations__any_bytes_are_refused_cleanly(tmp_path: Path, content: bytes) -> None:
    for suffix in (".xml", ".geojson"):
        with pytest.raises(SlideError):
            read(tmp_path, content + b"}", suffix)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.sampled_from(["Polygon", "Feature"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "features", "geometry", "coordinates", "properties"]), inner)
    ),
    max_leaves=20,
)


@given(_json)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_read_annotations__any_json_gives_areas_or_a_clean_error(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "any.geojson"
    path.write_text(json.dumps(content))
    try:
        found = read_annotations(path, "S1", TilesSettings())
    except SlideError:
        return
    assert all(region.area.area > 0 for region in found.regions)


# --- classes and place ------------------------------------------------------------------------------------


def region(group: str, *bounds: float) -> Region:
    return Region(group, shapely.box(*bounds))


def test_classify__maps_groups_in_the_order_of_the_file() -> None:
    found = Annotations((region("A", 0, 0, 1, 1), region("B", 2, 2, 3, 3), region("A", 4, 4, 5, 5)), ())
    assert [kind for kind, _ in classify(found, {"A": 2, "B": 0}, "S1")] == [2, 0, 2]


def test_classify__unmapped_groups_are_named_with_the_mapped_ones() -> None:
    found = Annotations((region("A", 0, 0, 1, 1), region("None", 2, 2, 3, 3), region("Z", 2, 2, 3, 3)), ())
    with pytest.raises(SlideError, match=r"groups 'None', 'Z', which .* expected groups among 'A', 'B'"):
        classify(found, {"B": 1, "A": 3}, "S1")


def test_check_place__wholly_outside_is_an_error() -> None:
    found = Annotations((region("A", 200, 10, 220, 20), region("A", -20, -20, -10, -10)), ())
    with pytest.raises(SlideError, match="all 2 areas outside the slide") as caught:
        check_place(found, (100, 100), "S1")
    assert caught.value.problem().column == "annotation"


def test_check_place__file_without_areas_is_a_warning() -> None:
    assert "holds no area" in check_place(Annotations((), ()), (100, 100), "S1")[0].text


def test_check_place__partly_outside_is_a_warning() -> None:
    inside, over, out = region("A", 0, 0, 10, 10), region("A", 90, 0, 110, 10), region("A", 200, 10, 220, 20)
    assert check_place(Annotations((inside,), ()), (100, 100), "S1") == ()
    assert check_place(Annotations((inside, over, out), ()), (100, 100), "S1") == (
        Remark("annotation: 1 of 3 areas lie outside the slide", "left out"),
        Remark("annotation: 1 areas reach over the edge of the slide and are cut there"),
    )


# --- class maps -------------------------------------------------------------------------------------------


def test_class_map__equals_shapelys_answer_at_every_centre() -> None:
    rng = np.random.default_rng(3)
    areas = []
    for kind in (1, 2, 3):
        turns = np.sort(rng.uniform(0, 2 * np.pi, 30))
        radius = rng.uniform(8, 40, 30)
        outline = np.stack([50 + radius * np.cos(turns), 45 + radius * np.sin(turns)], axis=1)
        areas.append((kind, shapely.Polygon(outline, [[(49, 44), (52, 44), (52, 47), (49, 47)]])))
    regions = PolygonRegions(areas, (100, 90), "highest")
    step, shape = 1.7, (40, 50)
    found = regions.class_map(11.3, 7.9, step, shape)
    x, y = np.meshgrid(11.3 + (np.arange(50) + 0.5) * step, 7.9 + (np.arange(40) + 0.5) * step)
    expected = np.zeros(shape, int)
    for kind, area in areas:
        inside = shapely.contains_xy(area, x, y) & (x < 100) & (y < 90)
        expected[inside] = kind
    np.testing.assert_array_equal(found, expected)
    assert set(np.unique(found)) == {0, 1, 2, 3}


def test_class_map__share_of_a_slanted_area_is_its_area() -> None:
    area = shapely.Polygon([(3, 2), (97, 31), (60, 88), (8, 70)])
    regions = PolygonRegions([(1, area)], (100, 100), "highest")
    assert regions.class_map(0, 0, 0.25, (400, 400)).mean() == pytest.approx(area.area / 1e4, abs=2e-4)


def test_class_map__areas_that_touch_share_no_point_and_leave_none_out() -> None:
    slanted = [(0, 0), (60, 0), (40, 100), (0, 100)]
    rest = [(60, 0), (100, 0), (100, 100), (40, 100)]
    left, right = (
        PolygonRegions([(1, shapely.Polygon(points))], (100, 100), "highest").class_map(0, 0, 1, (100, 100))
        for points in (slanted, rest)
    )
    np.testing.assert_array_equal(left + right, 1)


@pytest.mark.parametrize(("priority", "kind"), [("highest", 3), ("lowest", 1), ("last", 2)])
def test_class_map__overlaps_are_settled_by_the_setting(priority: Any, kind: int) -> None:
    areas = [(number, shapely.box(0, 0, 10, 10)) for number in (3, 1, 2)]
    assert (PolygonRegions(areas, (10, 10), priority).class_map(0, 0, 1, (10, 10)) == kind).all()


def test_class_map__overlapping_areas_of_one_class_are_joined() -> None:
    areas = [(1, shapely.box(0, 0, 6, 10)), (1, shapely.box(4, 0, 10, 10))]
    for priority in ("highest", "lowest", "last"):
        assert (PolygonRegions(areas, (10, 10), priority).class_map(0, 0, 1, (10, 10)) == 1).all()


def test_class_map__class_0_cuts_a_hole_where_it_wins() -> None:
    areas = [(2, shapely.box(0, 0, 10, 10)), (0, shapely.box(0, 0, 10, 5))]
    last = PolygonRegions(areas, (10, 10), "last").class_map(0, 0, 1, (10, 10))
    assert (last[:5] == 0).all()
    assert (last[5:] == 2).all()
    assert (PolygonRegions(areas, (10, 10), "highest").class_map(0, 0, 1, (10, 10)) == 2).all()


def test_class_map__areas_end_at_the_edge_of_the_slide() -> None:
    regions = PolygonRegions([(1, shapely.box(-10, -10, 50, 50))], (20, 30), "highest")
    assert regions.bounds_level0 == (0, 0, 20, 30)
    found = regions.class_map(-5, -5, 1, (50, 50))
    assert found.sum() == 20 * 30
    assert (found[5:35, 5:25] == 1).all()


def test_bounds__are_none_without_an_area_above_class_0() -> None:
    assert PolygonRegions([(0, shapely.box(0, 0, 5, 5))], (20, 30), "highest").bounds_level0 is None
    assert PolygonRegions([], (20, 30), "last").bounds_level0 is None


# --- real files -------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "areas"),
    [
        ("asap-polygon.xml", [28616.8]),
        ("asap-dot.xml", []),
        ("qupath-rectangle.geojson", [210 * 176]),
        ("qupath-polygon.geojson", [94491.5]),
        ("qupath-brush.geojson", [10071.9]),
    ],
)
def test_read_annotations__real_exports(shared_data: Path, name: str, areas: list[float]) -> None:
    path = shared_data / "slides" / "annotations" / f"wsidicom_{name}"
    found = read_annotations(path, "S1", TilesSettings())
    assert [region.group for region in found.regions] == ["None"] * len(areas)
    assert [region.area.area for region in found.regions] == pytest.approx(areas, rel=1e-4)


@pytest.mark.realdata
def test_read_annotations__real_tumour_outlines(shared_data: Path) -> None:
    path = shared_data / "slides" / "annotations" / "camelyon16_tumor_001.level5px.xml"
    found = read_annotations(path, "S1", TilesSettings())
    assert [region.group for region in found.regions] == ["Tumor", "Tumor"]
    assert texts(found) == ["annotation: area 2 crosses or touches itself and was repaired"]
    assert check_place(found, (3072, 7168), "S1") == ()


# --- hostile files --------------------------------------------------------------------------------------------


def test_read_annotations__scribble_that_cannot_be_repaired_is_refused(tmp_path: Path) -> None:
    points = np.random.default_rng(0).uniform(0, 1e4, (2000, 2)).round(1).tolist()
    with pytest.raises(SlideError, match="crosses itself too often"):
        read(tmp_path, feature(points))


MUTATIONS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=6)), min_size=1, max_size=5)


def mutated(content: bytes, mutations: list[tuple[float, bytes]]) -> bytes:
    """The content with pieces of it overwritten; the last mutation also cuts it where it falls."""
    for place, piece in mutations:
        start = int(place * len(content))
        content = content[:start] + piece + content[start + len(piece) :]
    return content if len(mutations) % 2 else content[: int(mutations[-1][0] * len(content))]


GOOD = {
    "asap": (".xml", asap(asap_area(SQUARE), asap_area(SQUARE[:3], "Hole"))),
    "aperio": (".xml", aperio(layer(drawn(SQUARE), drawn(SQUARE[:2], "2"), drawn(SQUARE[1:], negative=True)))),
    "geojson": (".geojson", json.dumps([feature(SQUARE, [(15, 15), (20, 15), (20, 20)])])),
}


@pytest.mark.parametrize("kind", GOOD)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations=MUTATIONS)
def test_read_annotations__any_damage_is_read_or_refused(
    tmp_path: Path, kind: str, mutations: list[tuple[float, bytes]]
) -> None:
    suffix, good = GOOD[kind]
    try:
        found = read(tmp_path, mutated(good.encode(), mutations), suffix)
    except SlideError:
        return
    assert all(region.area.is_valid and region.area.area > 0 for region in found.regions)


_ATTRIBUTES = st.dictionaries(
    st.sampled_from(["Type", "PartOfGroup", "X", "Y", "Order", "Name", "Value", "Text", "NegativeROA", "Id"]),
    st.sampled_from(["", "0", "1", "2", "3", "1e300", "-7,5", "Polygon", "Rectangle", "Description", "\u00e9"]),
    max_size=4,
)
_ELEMENTS = st.sampled_from(
    ["Annotations", "Annotation", "Attribute", "Region", "Vertex", "V", "Coordinate", "Coordinates", "Vertices"]
)


def element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    said = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return f"<{tag}{said}>{''.join(children)}</{tag}>"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    root=st.sampled_from(["ASAP_Annotations", "Annotations"]),
    children=st.lists(
        st.recursive(
            st.builds(element, _ELEMENTS, _ATTRIBUTES, st.just([])),
            lambda inner: st.builds(element, _ELEMENTS, _ATTRIBUTES, st.lists(inner, max_size=5)),
            max_leaves=20,
        ),
        max_size=4,
    ),
)
def test_read_annotations__any_xml_is_read_or_refused(tmp_path: Path, root: str, children: list[str]) -> None:
    try:
        found = read(tmp_path, element(root, {}, children))
    except SlideError as error:
        assert error.parts[1] == "annotation"
        return
    assert all(region.area.is_valid and region.area.area > 0 for region in found.regions)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["type", "features", "geometry", "coordinates", "properties", "classification", "crs"]),
                inner | st.sampled_from(["Feature", "FeatureCollection", "Polygon", "MultiPolygon"]),
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_read_annotations__any_json_is_read_or_refused(tmp_path: Path, document: Any) -> None:
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(document))
    try:
        read_annotations(path, "S1", TilesSettings())
    except SlideError as error:
        assert error.parts[1] == "annotation"

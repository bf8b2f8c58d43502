"""GeoJSON against RFC 7946, and against what QuPath's reader asks for (`PathObjectTypeAdapters`, from version 0.4)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mumo.commands.explain.mosaic import SlideBags
from mumo.commands.explain.qupath import write_geojson

SIDE = 1433.6
"""Of a bag at 0.5 µm/px on a slide of 0.7143 µm/px: words do not end on whole pixels of level 0."""

PLACES = [(1000, 40), (1000 + 1433, 40), (5000, 3000)]
WORDS = 4
WEIGHT = np.array([[0.1, 0.2, 0.05, 0.05], [0.3, 0.1, 0.0, 0.1], [0.025, 0.025, 0.025, 0.025]])
EFFECT = np.array([[0.5, -0.25, 0.0, 0.1], [0.0, 0.0, 0.0, 0.0], [-0.5, 0.01, 0.02, 0.03]])


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    rows = tuple({"x_level0": x, "y_level0": y, "size_level0": SIDE} for x, y in PLACES)
    file = tmp_path_factory.mktemp("geojson") / "slide.geojson"
    write_geojson(file, SlideBags("slide-S1", rows, None), WEIGHT, EFFECT, np.array([0.7, -0.2, 0.0]), [1])
    return read(file)


def read(file: Path) -> list[dict[str, Any]]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["type"] == "FeatureCollection" and set(content) == {"type", "features"}
    found: list[dict[str, Any]] = content["features"]
    return found


def ring(feature: dict[str, Any]) -> np.ndarray:
    assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
    (only,) = feature["geometry"]["coordinates"]
    return np.array(only)


def test_write_geojson__rings_are_closed_and_counterclockwise(features: list[dict[str, Any]]) -> None:
    """RFC 7946, 3.1.6: four or more positions, the last the first, exterior rings counterclockwise."""
    for feature in features:
        points = ring(feature)
        assert points.shape == (5, 2) and (points[0] == points[-1]).all()
        (x, y), (nx, ny) = points[:-1].T, points[1:].T
        assert (x * ny - nx * y).sum() > 0


def test_write_geojson__bags_and_words_lie_where_the_table_says_in_pixels_of_level_0(
    features: list[dict[str, Any]],
) -> None:
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds == ["annotation"] * 3 + ["detection"] * 12
    for (x, y), bag in zip(PLACES, features[:3], strict=True):
        assert ring(bag).min(axis=0).tolist() == [x, y]
        assert ring(bag).max(axis=0) == pytest.approx([x + SIDE, y + SIDE])
    for number, word in enumerate(features[3:]):
        (x, y), place = PLACES[number // WORDS], number % WORDS
        corner = [x + SIDE / 2 * (place % 2), y + SIDE / 2 * (place // 2)]  # row-major: to the right, then down
        assert ring(word).min(axis=0) == pytest.approx(corner)
        assert ring(word).max(axis=0) == pytest.approx([corner[0] + SIDE / 2, corner[1] + SIDE / 2])


def test_write_geojson__counts_from_the_corner_of_the_scanned_area(
    features: list[dict[str, Any]], tmp_path: Path
) -> None:
    """QuPath cuts MIRAX and Leica SCN slides to the scanned area."""
    rows = tuple({"x_level0": x, "y_level0": y, "size_level0": SIDE} for x, y in PLACES)
    bags = SlideBags("slide-S1", rows, None, geojson_corner=(900, 30))
    write_geojson(tmp_path / "a.geojson", bags, WEIGHT, EFFECT, np.array([0.7, -0.2, 0.0]), [1])
    for cut, whole in zip(read(tmp_path / "a.geojson"), features, strict=True):
        np.testing.assert_allclose(ring(cut), ring(whole) - np.array((900, 30)))


def test_write_geojson__measurements_are_the_numbers_given(features: list[dict[str, Any]]) -> None:
    measured = [feature["properties"]["measurements"] for feature in features]
    assert all(math.isfinite(value) for own in measured for value in own.values())
    assert [own["weight"] for own in measured[:3]] == pytest.approx([0.4, 0.5, 0.1])
    assert [own["effect"] for own in measured[:3]] == [0.7, -0.2, 0.0]
    assert [own["weight"] for own in measured[3:]] == WEIGHT.ravel().tolist()
    assert [own["effect"] for own in measured[3:]] == EFFECT.ravel().tolist()


def test_write_geojson__properties_are_what_qupath_reads(features: list[dict[str, Any]]) -> None:
    """A classification that is an object needs a name and a colour; colours are three numbers; measurements a map."""
    for feature in features:
        properties = feature["properties"]
        assert properties["objectType"] in ("annotation", "detection") and isinstance(properties["name"], str)
        assert isinstance(properties["classification"]["name"], str)
        for colour in (properties["color"], properties["classification"]["color"]):
            assert len(colour) == 3 and all(isinstance(part, int) and 0 <= part <= 255 for part in colour)
        assert all(isinstance(value, float) for value in properties["measurements"].values())
        assert properties["isLocked"] is True
    names = [feature["properties"]["classification"]["name"] for feature in features[:4]]
    assert names == ["mumo: bag", "mumo: important bag", "mumo: bag", "mumo: word"]


def test_write_geojson__colours_say_the_sign_of_the_effect(features: list[dict[str, Any]]) -> None:
    raises, lowers, neutral = (feature["properties"]["color"] for feature in features[:3])
    assert raises[0] > raises[2] and lowers[2] > lowers[0]  # orange, purple
    assert max(neutral) - min(neutral) <= 3

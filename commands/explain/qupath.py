"""Bags and words with their importance as GeoJSON that QuPath imports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .mosaic import SlideBags, word_corners
from .pictures import EFFECT_COLOURS, effect_limit, palette

Floats = npt.NDArray[np.float64]


def write_geojson(
    path: Path, bags: SlideBags, weight: Floats, effect: Floats, bag_effect: Floats, ranked: Sequence[int]
) -> None:
    """Write an annotation a bag and a detection a word; pixels of level 0, counted from `bags.geojson_corner`.

    Measurements: `weight` (share of 1 over the patient) and `effect` (log hazard or log odds); colours are those of
    effects, orange raises the output, purple lowers it. The most important bags are classified `mumo: important bag`.

    Args:
        weight, effect: [bag, word] of this slide.
        bag_effect: [bag].
        ranked: the most important bags.
    """
    origin = bags.origin - np.asarray(bags.geojson_corner)
    words = effect.shape[1]
    step = bags.side / round(words**0.5)
    bag_colours, word_colours = _colours(bag_effect), _colours(effect.ravel())
    features: list[dict[str, Any]] = []
    for bag, corner in enumerate(bags.corners + origin):
        name = "mumo: important bag" if bag in ranked else "mumo: bag"
        measured = {"weight": float(weight[bag].sum()), "effect": float(bag_effect[bag])}
        features.append(_feature("annotation", f"bag {bag}", name, corner, bags.side, bag_colours[bag], measured))
    for number, corner in enumerate((word_corners(bags, words) + origin).reshape(-1, 2)):
        bag, word = divmod(number, words)
        measured = {"weight": float(weight[bag, word]), "effect": float(effect[bag, word])}
        features.append(
            _feature("detection", f"bag {bag}, word {word}", "mumo: word", corner, step, word_colours[number], measured)
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")


def _feature(
    kind: str, name: str, group: str, corner: Floats, side: float, colour: list[int], measured: dict[str, float]
) -> dict[str, Any]:
    (left, top), (right, bottom) = corner.tolist(), (corner + side).tolist()
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": kind,
            "name": name,
            "classification": {"name": group, "color": [90, 90, 90]},
            "color": colour,
            "measurements": measured,
            "isLocked": True,
        },
    }


def _colours(values: Floats) -> list[list[int]]:
    """R, G, B of each value on the symmetric scale of effects."""
    steps = [[int(text[place : place + 2], 16) for place in (1, 3, 5)] for text in palette(EFFECT_COLOURS)]
    share = (values / effect_limit(values) + 1) / 2
    return [steps[number] for number in np.rint(share * (len(steps) - 1)).astype(int).tolist()]

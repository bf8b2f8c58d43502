"""The drawings of the report: well-formed, deterministic, and showing the numbers that they were given."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from defusedxml import ElementTree

from mumo.fusion import figures, figures_quality

DAYS = np.array([30.0, 60, 90, 200, 400, 30, 45, 500, 700, 900])
EVENTS = np.array([1, 1, 0, 1, 0, 1, 1, 0, 1, 1], dtype=bool)
HIGH = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)


def survival_figure(**changes: Any) -> str:
    values: dict[str, Any] = {"name": "test-pfs", "outcome": "survival", "note": "log-rank p = 0.123"} | changes
    return figures.survival_curves(
        values.pop("days", DAYS), values.pop("events", EVENTS), values.pop("high_risk", HIGH), **values
    )


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def all_figures() -> dict[str, str]:
    labels, probability = np.array([0.0, 1, 1, 0, np.nan]), np.array([0.2, 0.7, 0.4, 0.5, 0.1])
    known = ~np.isnan(labels)
    point = {
        "sensitivity": {"value": 0.5, "low": 0.1, "high": 0.9},
        "specificity": {"value": 1.0, "low": 0.3, "high": 1.0},
    }
    return {
        "roc": figures.roc({"test": (labels[known], probability[known])}, {"test": "test 0.75"}, {"test": point}),
        "probability": figures.probabilities(labels, probability, 0.45, "test"),
        "survival": survival_figure(),
        "learning": figures.learning([1, 2, 3], {"train": [3.0, 2.0, 1.0]}, averaged=[2], name="loss", label="loss"),
    }


def test_figures__are_well_formed_svg_without_metadata_or_scripts() -> None:
    for svg in all_figures().values():
        root = ElementTree.fromstring(svg)
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert not tags & {"metadata", "script", "image", "date"}


def test_figures__are_the_same_when_drawn_again() -> None:
    assert all_figures() == all_figures()


def test_figures__do_not_change_the_callers_matplotlib_settings() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    survival_figure()
    assert dict(mpl.rcParams) == before


def test_figures__ids_of_two_drawings_differ_and_references_resolve() -> None:
    first, second = survival_figure(name="test-pfs"), survival_figure(name="test-os")
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', first)) <= ids[0]


def test_figures__escape_text() -> None:
    svg = survival_figure(note='<script>"&', outcome="a < b $x$")
    ElementTree.fromstring(svg)
    assert "<script>" not in svg
    assert "a < b $x$" in texts(svg)


def test_survival_curves__show_numbers_at_risk_counted_by_hand() -> None:
    svg = survival_figure()
    found = texts(svg)
    ticks = [float(tick) for tick in ("0", "6", "12", "18", "24")]
    expected = {
        "low": [5, 3, 3, 2, 1],  # 30 and 45 days end before 6 months, 500 before 18, 700 before 24
        "high": [5, 2, 1, 0, 0],
    }
    for group, counts in expected.items():
        place = found.index(group)
        assert [int(text) for text in found[place + 1 : place + 1 + len(ticks)]] == counts
    assert "log-rank p = 0.123" in found
    assert {"low risk (5)", "high risk (5)"} <= set(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"days": np.array([0.0]), "events": np.array([True]), "high_risk": np.array([True])},
        {"events": np.zeros(10, dtype=bool)},
        {"high_risk": np.zeros(10, dtype=bool)},
        {"days": DAYS * 100},
    ],
)
@pytest.mark.filterwarnings("error")
def test_survival_curves__draw_degenerate_groups(changes: dict[str, Any]) -> None:
    ElementTree.fromstring(survival_figure(**changes))


def test_learning__leaves_out_curves_without_values() -> None:
    curves = {"response": [1.0, np.nan], "alignment": [np.nan, np.nan]}
    found = texts(figures.learning([1, 2], curves, averaged=[], name="terms", label="loss"))
    assert "response" in found
    assert "alignment" not in found
    assert "averaged" not in found


def test_probabilities__count_patients_by_label() -> None:
    found = texts(figures.probabilities(np.array([1.0, 0, 0, np.nan]), np.full(4, 0.5), None, "test"))
    assert {"responders (1)", "non-responders (2)", "label unknown (1)"} <= set(found)


def test_readers__legend_names_every_reader_whatever_the_name() -> None:
    share = {"reader": {"value": 0.5, "low": 0.2, "high": 0.8}}
    names = ["_Dr A", "<b>&", "$x_1$"]
    points = [(name, {"sensitivity": share, "specificity": share}) for name in names]
    drawn = figures_quality.readers(np.array([0.0, 1, 0, 1]), np.array([0.1, 0.7, 0.6, 0.9]), points, name="model")
    assert {"model", *names} <= set(texts(drawn))

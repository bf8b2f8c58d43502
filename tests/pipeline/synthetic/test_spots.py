"""Planted places: in the pixels, in the tables, and in the frames of what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.pipeline.synthetic.ct import write_study
from mumo.pipeline.synthetic.plan import plan_cohort
from mumo.pipeline.synthetic.slides import draw_outline, draw_spot, render_slide
from mumo.pipeline.synthetic.spots import centre_of_mass, shares_in_spot
from mumo.pipeline.synthetic.tables import spot_table

PLAN = plan_cohort(8, 4, signal=True, hot_spots=("slides", "ct"))
WITH, WITHOUT = (
    next(slide for slide in PLAN.slides if (slide.spot_score is not None) == there) for there in (True, False)
)


def test_render_slide__differs_from_the_same_slide_without_a_spot_in_the_spot_alone() -> None:
    spot = draw_spot(WITH, draw_outline(WITH, PLAN.seed)[0], PLAN.seed)
    assert spot is not None
    pixels = render_slide(WITH, PLAN.seed).pixels.astype(float)
    inside = spot.inside(pixels.shape[:2], 1.0)
    darkness = 255 - pixels.mean(axis=2)
    plain = render_slide(dataclasses.replace(WITH, spot_score=None), PLAN.seed).pixels.astype(float)
    assert (255 - pixels[inside, 0]).mean() > 1.15 * (255 - plain[inside, 0]).mean()  # nuclei take the red light
    outside = ~spot.inside(pixels.shape[:2], 1.0) & (plain.mean(axis=2) < 200)
    assert darkness[outside].mean() == pytest.approx((255 - plain.mean(axis=2))[outside].mean(), rel=0.05)


def test_spot_table__names_the_place_that_was_drawn() -> None:
    table = spot_table(PLAN).set_index("slide")
    assert WITHOUT.slide not in table.index
    spot = draw_spot(WITH, draw_outline(WITH, PLAN.seed)[0], PLAN.seed)
    assert spot is not None
    assert tuple(table.loc[WITH.slide, ["x_um", "y_um"]]) == pytest.approx((spot.x_um, spot.y_um), abs=0.01)
    piece = draw_outline(WITH, PLAN.seed)[0]
    assert (piece.outline_um.min(axis=0) < (spot.x_um - spot.radius_um, spot.y_um - spot.radius_um)).all()
    assert (piece.outline_um.max(axis=0) > (spot.x_um + spot.radius_um, spot.y_um + spot.radius_um)).all()


def test_shares_in_spot__add_up_to_the_spots_area() -> None:
    side, mpp = 200.0, 0.5
    bags = [
        {"x_level0": x, "y_level0": y, "size_level0": side} for y in range(0, 2000, 200) for x in range(0, 2000, 200)
    ]
    shares = shares_in_spot(bags, 500.0, 470.0, 180.0, mpp)
    assert shares.sum() * (side * mpp) ** 2 == pytest.approx(np.pi * 180.0**2, rel=1e-2)
    centre = bags[int(shares.argmax())]
    assert centre["x_level0"] * mpp <= 500.0 <= (centre["x_level0"] + side) * mpp
    assert shares[0] == 0


def test_centre_of_mass__is_a_pixel_of_the_fine_image() -> None:
    values = np.zeros((4, 4))
    values[1, 3] = 2.0
    assert centre_of_mass(values, (80, 80)) == (30, 70)
    assert centre_of_mass(np.ones((7, 7)), (224, 224)) == (112, 112)


def test_write_study__loose_boxes_hold_the_lesion_away_from_their_middle(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "masks").mkdir()
    study = PLAN.ct[0]
    loose = np.array(write_study(tmp_path, study, PLAN.seed).boxes_mm["L1"])
    tight = np.array(write_study(tmp_path, dataclasses.replace(study, loose_mm=0.0), PLAN.seed).boxes_mm["L1"])
    low, high = tight[:2] - loose[:2], loose[3:5] - tight[3:5]
    for before, after in zip(low, high, strict=True):
        assert sorted((before > 1, after > 1)) == [False, True]  # one side of each axis
    assert loose[2] == loose[5]
    assert tight[2] <= loose[2] <= tight[5]


def test_write_cohort__keeps_the_places_beside_the_truth(tmp_path: Path) -> None:
    made = write_cohort(tmp_path / "cohort", patients=8, seed=4, hot_spots=("slides", "ct"))
    spots = pd.read_csv(tmp_path / "cohort" / "hot_spots.csv")
    truth = pd.read_csv(made.truth)
    assert set(spots["patient"]) == set(truth[truth["appearance"] == 1]["patient"])

from __future__ import annotations

import numpy as np
import pytest
from lifelines.statistics import logrank_test

from mumo.pipeline.synthetic.outcomes import CUTOFF_DAYS, Outcome, OutcomeKind, draw_outcome

CUTOFF = CUTOFF_DAYS["anti-HER2"]


def draw(response: int, kind: OutcomeKind, count: int = 300) -> list[Outcome]:
    return [draw_outcome(np.random.default_rng([7, place]), response, kind, CUTOFF) for place in range(count)]


def label_of(outcome: Outcome) -> int | None:
    """The label rule of the paper, written down a second time."""
    if outcome.recist in ("CR", "PR"):
        return 1
    if outcome.recist == "PD":
        return 0
    if outcome.pfs_days is None:
        return None
    if outcome.pfs_days > CUTOFF:
        return 1
    return 0 if outcome.pfs_event else None


@pytest.mark.parametrize("kind", ["known", "at cut-off", "censored", "missing"])
@pytest.mark.parametrize("response", [0, 1])
def test_draw_outcome__label_rule_gives_the_drawn_label(response: int, kind: OutcomeKind) -> None:
    for outcome in draw(response, kind):
        assert outcome.label == (response if kind in ("known", "at cut-off") else None)
        assert label_of(outcome) == outcome.label


def test_draw_outcome__progression_on_the_day_of_the_cut_off_is_no_response() -> None:
    for outcome in draw(0, "at cut-off"):
        assert (outcome.pfs_days, outcome.pfs_event, outcome.label) == (int(CUTOFF), 1, 0)


def test_draw_outcome__every_recist_word_occurs() -> None:
    words = {outcome.recist for response in (0, 1) for outcome in draw(response, "known")}
    assert words == {"CR", "PR", "SD", "PD", "non-CR/non-PD", ""}


def test_draw_outcome__nobody_dies_before_progression() -> None:
    for response in (0, 1):
        for outcome in draw(response, "known"):
            assert outcome.pfs_days is not None
            assert outcome.os_days >= outcome.pfs_days > 0
            assert outcome.pfs_event or not outcome.os_event


@pytest.mark.parametrize("times", ["pfs", "os"])
def test_draw_outcome__responders_do_better(times: str) -> None:
    days = {r: [getattr(outcome, f"{times}_days") for outcome in draw(r, "known")] for r in (0, 1)}
    events = {r: [getattr(outcome, f"{times}_event") for outcome in draw(r, "known")] for r in (0, 1)}
    assert np.median(days[1]) > 1.5 * np.median(days[0])
    assert logrank_test(days[1], days[0], events[1], events[0]).p_value < 1e-6
    # Neither all deaths are seen nor none.
    assert 0.3 < np.mean(events[0] + events[1]) < 0.95

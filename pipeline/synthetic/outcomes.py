"""Outcomes of synthetic patients: RECIST, progression-free and overall survival that agree with a drawn response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

CUTOFF_DAYS: Mapping[str, float] = {"anti-HER2": 240.0, "anti-HER2+immunotherapy": 300.0}
"""Treatment group → PFS beyond which a patient without a decisive RECIST response counts as responder."""

OutcomeKind = Literal["known", "at cut-off", "censored", "missing"]
"""`known`: the tables give the response. `at cut-off`: progression on the very day of the cut-off, a
non-responder's. `censored`: no decisive RECIST, censored before the cut-off. `missing`: neither RECIST nor PFS."""

_RECIST = {
    1: {"CR": 0.07, "PR": 0.5, "SD": 0.22, "non-CR/non-PD": 0.06, "": 0.15},
    0: {"PD": 0.33, "SD": 0.42, "non-CR/non-PD": 0.07, "": 0.18},
}
_UNDECIDED = {"SD": 0.5, "non-CR/non-PD": 0.15, "": 0.35}


@dataclass(frozen=True)
class Outcome:
    """What is known of a patient after therapy; times in days, `None` where unknown."""

    response: int
    """True response, 1 or 0, whether or not the tables show it."""
    label: int | None
    """The response as the tables show it; none: unknown."""
    recist: str
    """Best response, empty when unknown."""
    pfs_days: int | None
    pfs_event: int | None
    os_days: int
    os_event: int


def draw_outcome(rng: np.random.Generator, response: int, kind: OutcomeKind, cutoff_days: float) -> Outcome:
    """Draw an outcome that the label rule turns back into `response`, or into unknown where `kind` says so.

    Progression-free survival is longer for responders, and so is survival after progression. A patient drawn
    `at cut-off` who is a responder gets an ordinary outcome.
    """
    recist = _choose(rng, _RECIST[response] if kind == "known" else _UNDECIDED)
    days, event = _progression(rng, response, kind, recist, cutoff_days)
    if kind == "at cut-off" and response:
        recist, (days, event) = "PR", _progression(rng, response, "known", "PR", cutoff_days)
    os_days, os_event = _survival(rng, response, days, event)
    known = kind in ("known", "at cut-off")
    return Outcome(
        response=response,
        label=response if known else None,
        recist="" if kind == "missing" else recist,
        pfs_days=None if kind == "missing" else days,
        pfs_event=None if kind == "missing" else event,
        os_days=os_days,
        os_event=os_event,
    )


def _progression(
    rng: np.random.Generator, response: int, kind: OutcomeKind, recist: str, cutoff_days: float
) -> tuple[int, int]:
    """Days to progression or censoring, and whether it was observed."""
    if kind == "at cut-off" and not response:
        return int(cutoff_days), 1
    if kind in ("censored", "missing"):
        return int(rng.integers(20, int(cutoff_days) - 10)), 0
    if not response:
        typical_days = 55.0 if recist == "PD" else 130.0
        return int(np.clip(rng.gamma(4.0, typical_days / 4.0), 20, cutoff_days - 1)), 1
    # A decisive RECIST response needs no particular PFS; any other must outlast the cut-off.
    floor_days = 90.0 if recist in ("CR", "PR") else cutoff_days + 1
    return int(floor_days + rng.gamma(1.6, 140.0)), int(rng.random() < 0.7)


def _survival(rng: np.random.Generator, response: int, pfs_days: int, pfs_event: int) -> tuple[int, int]:
    """Days to death or censoring, and whether death was observed; never before progression."""
    if not pfs_event:
        return pfs_days + int(rng.integers(0, 60)), 0
    if rng.random() < 0.06:
        return pfs_days, 1  # The event of PFS was death.
    after_days = 10 + int(rng.exponential(330.0 if response else 170.0))
    follow_up_days = 60 + int(rng.exponential(700.0))
    return pfs_days + min(after_days, follow_up_days), int(after_days <= follow_up_days)


def _choose(rng: np.random.Generator, shares: Mapping[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))

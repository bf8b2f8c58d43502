"""Does an importance mean something? Two checks over a cohort.

*Deletion*: leaving out the most important parts of a patient should move the risk more than leaving out as many parts
drawn at random (Samek et al., 2017). *Randomisation*: a model whose weights were drawn anew should give another map,
else the map shows the input and not what was learnt (Adebayo et al., 2018). What such a model calls a high risk is a
matter of chance, so its map may as well come out reversed: maps are alike when their rank correlation is far from 0,
on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import ModelSettings
from .attribution import Floats, Probe
from .dataset import Layout
from .model import MuMo

COUNTS = {"bags": (1, 2, 4, 8, 16), "words": (1, 4, 16, 64, 256)}
"""Numbers of parts that are left out."""

RANDOM_STREAM = 0x6D756D6F
"""Sets the random numbers of `randomised` apart from those of training."""


@dataclass(frozen=True)
class Move:
    """How far the risk of one patient moves when parts are left out."""

    count: int
    """Number of parts left out; always fewer than there are."""
    by: str
    """Which parts: `weight`, `effect` or `random`."""
    moved: float
    """|change of the risk|, log hazard; of random parts the mean over draws."""
    spread: float
    """Standard deviation over draws; 0 where nothing is drawn."""


def deletion(
    probe: Probe, level: str, importances: dict[str, Floats], *, draws: int, rng: np.random.Generator
) -> list[Move]:
    """Moves of the risk at each of `COUNTS[level]` that leaves something, for each importance and for random parts.

    Args:
        level: `bags` or `words` of the patient's slides.
        importances: name → [bag] or [bag, word]; the largest are left out first (see `one_way` for effects).
        draws: number of random draws.
    """
    shape = next(iter(importances.values())).shape
    total = int(np.prod(shape))
    moves = []
    for count in COUNTS[level]:
        if count >= total:
            break
        for name, importance in importances.items():
            order = np.argsort(-importance.ravel(), kind="stable")[:count]
            moves.append(Move(count, name, float(_moved(probe, level, [order], shape)[0]), 0.0))
        drawn = [rng.choice(total, size=count, replace=False) for _ in range(draws)]
        moved = _moved(probe, level, drawn, shape)
        moves.append(Move(count, "random", float(moved.mean()), float(moved.std(ddof=1)) if draws > 1 else 0.0))
    return moves


def one_way(effect: Floats) -> Floats:
    """Effects with the sign that makes those positive which weigh more in sum.

    Parts that raise the risk and parts that lower it, left out together, would make up for each other.
    """
    raises, lowers = effect.clip(min=0).sum(), -effect.clip(max=0).sum()
    return effect if raises >= lowers else -effect


def _moved(probe: Probe, level: str, removed: Sequence[npt.NDArray[np.int64]], shape: tuple[int, ...]) -> Floats:
    """|Risk without the parts less risk| for each set of parts (indices of the flattened `shape`)."""
    kept = torch.ones(len(removed), int(np.prod(shape)), dtype=torch.bool, device=probe.batch.labels.device)
    for row, parts in zip(kept, removed, strict=True):
        row[torch.from_numpy(parts).to(row.device)] = False
    ask: Callable[[Tensor], Floats] = probe.without_words
    if level == "bags":
        ask = lambda sets: probe.without_units("pathology", sets)  # noqa: E731, one name for both ways to ask
    return np.abs(ask(kept.view(len(removed), *shape)) - probe.value)


def randomised(layout: Layout, settings: ModelSettings, number: int) -> MuMo:
    """The `number`-th model of the same form with random weights; the global generator is left as it was.

    Weights are drawn from a stream of their own. Drawn from small seeds, which runs have too, they could be the very
    weights that training began with, and these a trained model still resembles.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.default_rng([RANDOM_STREAM, number]).integers(2**63)))
        return MuMo(layout, settings).eval()


def rank_correlation(first: Floats, second: Floats) -> float:
    """Spearman's correlation of two maps of equal shape; NaN with fewer than three parts or a constant map."""
    from scipy import stats

    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(stats.spearmanr(first.ravel(), second.ravel()).statistic)


def likeness(first: Floats, second: Floats) -> float:
    """|Spearman's correlation|: 1 where two maps are the same or one is the other's reverse; NaN as there."""
    return abs(rank_correlation(first, second))


def likeness_by_chance(parts: int, *, draws: int, rng: np.random.Generator) -> float:
    """Mean likeness of two random orders of so many parts, which is far above 0 for few; NaN below three."""
    order = np.arange(parts, dtype=np.float64)
    return float(np.mean([likeness(order, rng.permutation(order)) for _ in range(draws)]))


@dataclass(frozen=True)
class Curve:
    """Means over patients of `Move`s with one count and one way to choose."""

    level: str
    count: int
    by: str
    patients: int
    moved: float
    spread: float
    """Of random parts: mean over patients of the standard deviation over draws; else 0."""
    wins: float
    """Share of patients whose risk moves further than with random parts; NaN for random parts themselves."""


def curves(level: str, moves: Sequence[Sequence[Move]]) -> list[Curve]:
    """Mean curves of all patients' moves, each count over the patients that have more parts than that."""
    rows = []
    for count in COUNTS[level]:
        of_patients = [{move.by: move for move in own if move.count == count} for own in moves]
        there = [own for own in of_patients if own]
        for by in there[0] if there else ():
            moved = np.array([own[by].moved for own in there])
            chance = np.array([own["random"].moved for own in there])
            wins = float("nan") if by == "random" else float((moved > chance).mean())
            spread = float(np.mean([own[by].spread for own in there]))
            rows.append(Curve(level, count, by, len(there), float(moved.mean()), spread, wins))
    return rows

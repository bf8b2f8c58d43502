"""Groups of patients set against each other by what is known of them: Table 1, and risk groups by clinical item.

Numbers: two-sided Mann–Whitney test (of more than two groups Kruskal–Wallis); classes: χ² without correction, with a
note where an expected count is below 5. Patients whose item is unknown are left out of its test and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .characteristics import Characteristic
from .estimates import Estimate, Numbers

Flags = NDArray[np.bool_]

SMALL = 5
"""Expected counts below this make χ² inexact."""

_INEXACT = f"χ², expected counts below {SMALL}"


@dataclass(frozen=True)
class Line:
    """One line of a table: a class or a number, in every group."""

    text: str
    cells: tuple[str, ...]
    p: float = math.nan
    """Of this class alone, where a patient can have several."""
    smd: float = math.nan
    """Standardised difference of this class alone, where a patient can have several."""
    small: bool = False
    """Whether an expected count of this class's test is below `SMALL`."""


@dataclass(frozen=True)
class Block:
    """One characteristic in every group."""

    group: str
    name: str
    lines: tuple[Line, ...]
    unknown: tuple[int, ...]
    """[group] patients whose item is unknown."""
    test: Estimate = field(default_factory=Estimate)
    """p in `value`; the method names the test."""
    smd: float = math.nan
    """Standardised difference between two groups; NaN where there are not two."""

    @property
    def small(self) -> bool:
        """Whether an expected count of the test of all classes is below `SMALL`."""
        return self.test.method == _INEXACT


def compare(items: Sequence[Characteristic], groups: Mapping[str, Flags]) -> list[Block]:
    """Every characteristic by group, with the test between the groups.

    Args:
        items: characteristics of all patients.
        groups: name → [patient] who belongs to it; groups must not overlap.
    """
    return [_block(item, list(groups.values())) for item in items if item.known.any()]


def _block(item: Characteristic, groups: list[Flags]) -> Block:
    unknown = tuple(int(np.sum(group & ~item.known)) for group in groups)
    rows = [item.values[group & item.known] for group in groups]
    name = f"{item.name}, {item.unit}" if item.unit else item.name
    if item.kind in ("number", "shares"):
        lines = [
            Line(text, tuple(_summary(values[:, column]) for values in rows))
            for column, text in enumerate(item.classes or ("median (quartiles)",))
        ]
        # shares sum to 1; the last class (the highest HER2 level) stands for all
        last = [values[:, -1] for values in rows]
        smd = standardised_difference([values[:, None] for values in last])
        return Block(item.group, name, tuple(lines), unknown, rank_test(last), smd)
    counts = np.array([values.sum(axis=0) for values in rows])  # [group, class]
    totals = np.array([len(values) for values in rows])
    several = item.kind == "multi-hot"
    lines = []
    for place, (text, column) in enumerate(zip(item.classes, counts.T, strict=True)):
        cells = tuple(_share(int(count), int(total)) for count, total in zip(column, totals, strict=True))
        if not several:
            lines.append(Line(text, cells))
            continue
        alone = chi_squared(np.stack([column, totals - column], axis=1))
        gap = standardised_difference([values[:, [place]] for values in rows])
        lines.append(Line(text, cells, alone.value, gap, alone.method == _INEXACT))
    test = Estimate(reason="several classes a patient, tested one by one") if several else chi_squared(counts)
    smd = math.nan if several else _classes_apart(rows)
    return Block(item.group, name, tuple(lines), unknown, test, smd)


def standardised_difference(groups: Sequence[Numbers]) -> float:
    """Distance of two groups' means in standard deviations, of the two groups' mean covariance; NaN if undefined.

    The sample's size plays no part in it, unlike in a p. Of one number it has a sign (second − first) and is Cohen's d;
    of k classes it is the Mahalanobis distance of their k − 1 shares (Yang and Dalton, SAS Global Forum 2012, 335).

    Args:
        groups: for each group [patient, column]: a number, or all classes but one as 0 and 1.
    """
    if len(groups) != 2 or min(map(len, groups)) < 2:
        return math.nan
    gap = groups[1].mean(axis=0) - groups[0].mean(axis=0)
    covariance = np.mean([np.atleast_2d(np.cov(values, rowvar=False)) for values in groups], axis=0)
    if not gap.any():
        return 0.0
    if np.linalg.matrix_rank(covariance) < len(gap):  # a class that nobody has, or no spread
        varies = np.diag(covariance) > 0
        if (gap[~varies] != 0).any() or not varies.any() or varies.all():
            return math.nan
        return standardised_difference([values[:, varies] for values in groups])
    distance = math.sqrt(float(gap @ np.linalg.solve(covariance, gap)))
    return math.copysign(distance, float(gap[0])) if len(gap) == 1 else distance


def _classes_apart(groups: Sequence[Numbers]) -> float:
    """`standardised_difference` of one-hot codes [patient, class]; classes that nobody has are left out."""
    there = np.flatnonzero(np.any([values.any(axis=0) for values in groups], axis=0))
    columns = there[1:] if len(there) > 1 else there  # all but one say it all
    return standardised_difference([values[:, columns] for values in groups])


def holm(p_values: Sequence[float]) -> Numbers:
    """p values corrected for their number after Holm (Scand J Stat 6:65, 1979); NaN stays NaN and is not counted."""
    given = np.asarray(p_values, dtype=np.float64)
    corrected = np.full(len(given), math.nan)
    order = [place for place in np.argsort(given, kind="stable") if not math.isnan(given[place])]
    highest = 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, given[place] * (len(order) - rank)))
        corrected[place] = highest
    return corrected


def rank_test(groups: Sequence[Numbers]) -> Estimate:
    """p of the two-sided Mann–Whitney test, or of Kruskal–Wallis for more than two groups; no interval."""
    from scipy.stats import kruskal, mannwhitneyu

    filled = [values for values in groups if len(values)]
    method = "Mann–Whitney" if len(groups) == 2 else "Kruskal–Wallis"
    if len(filled) < 2:
        return Estimate(method=method, reason="fewer than two groups have known values")
    if np.ptp(np.concatenate(filled)) == 0:
        return Estimate(method=method, reason="all values are the same")
    result = mannwhitneyu(*filled, alternative="two-sided") if len(groups) == 2 else kruskal(*filled)
    return Estimate(float(result.pvalue), method=method)


def chi_squared(counts: Numbers) -> Estimate:
    """p of the χ² test of a table [group, class] of counts; no interval.

    Groups and classes without anybody are left out. The method says so where an expected count is below 5.
    """
    from scipy.stats import chi2_contingency

    table = np.asarray(counts)
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return Estimate(method="χ²", reason="fewer than two groups or classes have patients")
    result = chi2_contingency(table, correction=False)
    small = result.expected_freq.min() < SMALL
    return Estimate(float(result.pvalue), method=_INEXACT if small else "χ²")


def _summary(values: Numbers) -> str:
    if not len(values):
        return "–"
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    digits = 2 if np.max(np.abs(values)) <= 1 else 0 if (values == np.round(values)).all() else 1
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.0f} %)" if total else "–"

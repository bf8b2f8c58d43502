"""Tests between groups against scipy, and the cells of Table 1 against counts by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mumo.fusion.characteristics import Characteristic
from mumo.fusion.subgroups import chi_squared, compare, holm, rank_test, standardised_difference

NAN = np.nan
SEX = Characteristic(
    "patient_information", "sex", "one-hot", "", ("male", "female"),
    np.array([[1, 0], [0, 1], [1, 0], [NAN, NAN], [0, 1], [1, 0]]),
)  # fmt: skip
AGE = Characteristic("measures", "age", "number", "years", (), np.array([[50.0], [60], [70], [65], [NAN], [40]]))
SITES = Characteristic(
    "patient_information", "disease_sites", "multi-hot", "", ("liver", "lung"),
    np.array([[1, 1], [1, 0], [0, 1], [1, 0], [0, 0.0], [1, 1]]),
)  # fmt: skip
HIGH = np.array([True, True, True, False, False, False])


def test_compare__counts_shares_of_the_known_and_the_unknown_apart() -> None:
    (sex,) = compare([SEX], {"high": HIGH, "low": ~HIGH})
    assert [(line.text, line.cells) for line in sex.lines] == [
        ("male", ("2 (67 %)", "1 (50 %)")),
        ("female", ("1 (33 %)", "1 (50 %)")),
    ]
    assert sex.unknown == (0, 1)
    assert sex.test.value == pytest.approx(stats.chi2_contingency([[2, 1], [1, 1]], correction=False).pvalue)
    assert sex.test.method == "χ², expected counts below 5"


def test_compare__describes_numbers_by_quartiles_and_ranks() -> None:
    (age,) = compare([AGE], {"high": HIGH, "low": ~HIGH})
    assert age.name == "age, years"
    assert age.lines[0].cells == ("60 (55–65)", "52 (46–59)")
    assert age.unknown == (0, 1)
    assert age.test.value == pytest.approx(stats.mannwhitneyu([50, 60, 70], [65, 40]).pvalue)


def test_compare__tests_each_class_of_an_item_with_several() -> None:
    (sites,) = compare([SITES], {"high": HIGH, "low": ~HIGH})
    assert sites.lines[0].cells == ("2 (67 %)", "2 (67 %)")
    assert [line.p for line in sites.lines] == pytest.approx(
        [stats.chi2_contingency([[a, 3 - a], [b, 3 - b]], correction=False).pvalue for a, b in ((2, 2), (2, 1))]
    )
    assert "one by one" in sites.test.reason


def test_compare__marks_small_counts_of_the_test_that_they_are_in() -> None:
    many = np.tile(HIGH, 20)
    rare = np.zeros(120)
    rare[:4] = 1
    both = np.stack([np.ones(120), np.tile([1.0, 0, 0], 40), rare], axis=1)
    sites = Characteristic("patient_information", "sites", "multi-hot", "", ("all", "some", "rare"), both)
    (block,) = compare([sites], {"high": many, "low": ~many})
    assert [line.small for line in block.lines] == [False, False, True]
    assert not block.small
    (sex,) = compare([SEX], {"high": HIGH, "low": ~HIGH})
    assert sex.small


def test_compare__standardised_difference_does_not_need_the_first_class() -> None:
    shares = {"first": (30, 20), "second": (10, 40)}
    groups = np.repeat([True, False], 50)
    taken = np.concatenate([np.repeat([0, 1], counts) for counts in shares.values()])
    two, three = np.eye(2)[taken], np.eye(3)[taken + 1]
    smd = [
        compare(
            [Characteristic("g", "i", "one-hot", "", tuple("abc")[: code.shape[1]], code)], {"a": groups, "b": ~groups}
        )
        for code in (two, three)
    ]
    assert smd[0][0].smd > 0.5
    assert smd[1][0].smd == pytest.approx(smd[0][0].smd)


def test_compare__leaves_out_what_nobody_has() -> None:
    nothing = Characteristic("measures", "age", "number", "", (), np.full((2, 1), NAN))
    assert compare([nothing], {"all": np.ones(2, dtype=bool)}) == []


def test_rank_test__takes_kruskal_for_three_groups() -> None:
    groups = [np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), np.array([2.0, 5, 9])]
    assert rank_test(groups).value == pytest.approx(stats.kruskal(*groups).pvalue)
    assert rank_test(groups).method == "Kruskal–Wallis"


def test_rank_test__says_why_there_is_no_test() -> None:
    assert "fewer than two" in rank_test([np.array([1.0]), np.array([])]).reason
    assert "the same" in rank_test([np.array([1.0]), np.array([1.0])]).reason


def test_chi_squared__leaves_out_empty_classes_and_says_why_there_is_no_test() -> None:
    table = np.array([[20, 0, 30], [30, 0, 20]])
    assert chi_squared(table).value == pytest.approx(stats.chi2_contingency(table[:, [0, 2]], correction=False).pvalue)
    assert chi_squared(table).method == "χ²"
    assert "fewer than two" in chi_squared(table[:, :1]).reason


def test_standardised_difference__of_a_number_is_cohens_d() -> None:
    first, second = np.array([1.0, 2, 3, 4]), np.array([3.0, 5, 7])
    d = (second.mean() - first.mean()) / np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    assert standardised_difference([first[:, None], second[:, None]]) == pytest.approx(d)
    assert standardised_difference([second[:, None], first[:, None]]) == pytest.approx(-d)
    assert standardised_difference([first[:, None], first[:, None]]) == 0


def test_standardised_difference__of_classes_is_the_formula_of_yang_and_dalton() -> None:
    rng = np.random.default_rng(0)
    groups = [np.eye(3)[rng.choice(3, size, p=p)] for size, p in ((400, (0.5, 0.3, 0.2)), (300, (0.2, 0.5, 0.3)))]
    shares = [group.mean(axis=0)[1:] for group in groups]
    # covariance of multinomial shares, with n − 1 in place of n as samples have it
    covariances = [(np.diag(p) - np.outer(p, p)) * n / (n - 1) for p, n in zip(shares, (400, 300), strict=True)]
    gap = shares[1] - shares[0]
    expected = np.sqrt(gap @ np.linalg.inv((covariances[0] + covariances[1]) / 2) @ gap)
    assert standardised_difference([group[:, 1:] for group in groups]) == pytest.approx(expected)
    # which class is left out does not matter, nor a class that nobody has
    assert standardised_difference([group[:, :2] for group in groups]) == pytest.approx(expected)
    wider = [np.column_stack([group[:, 1:], np.zeros(len(group))]) for group in groups]
    assert standardised_difference(wider) == pytest.approx(expected)


def test_standardised_difference__is_undefined_without_spread_or_patients() -> None:
    assert np.isnan(standardised_difference([np.zeros((3, 1)), np.ones((3, 1))]))
    assert np.isnan(standardised_difference([np.zeros((1, 1)), np.ones((3, 1))]))
    assert np.isnan(standardised_difference([np.ones((3, 1))]))


def test_holm__equals_the_published_procedure() -> None:
    # Holm 1979: of n p values the smallest is multiplied by n, the next by n − 1, …; never below one before
    found = holm([0.01, 0.04, NAN, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, 0.06, NAN, 0.06, 0.02])
    assert holm([]).tolist() == []
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])

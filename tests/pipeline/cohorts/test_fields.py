"""Fields of the cohort's tables: accepted words, parsers, messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mumo.config import LESION_TYPES, ClinicalSettings
from mumo.pipeline.cohorts.fields import (
    CellError,
    ct_fields,
    lesion_fields,
    parse_her2,
    parse_number,
    patient_fields,
    slide_fields,
)

FIELDS = patient_fields(ClinicalSettings())


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("recist", "cr", "CR"),
        ("recist", "Non-CR/Non-PD", "non-CR/non-PD"),
        ("recist", "ＰＲ", "PR"),
        ("sex", " Female ", "female"),
        ("site", "non-gej", "non-GEJ"),
        ("line", "FIRST", "first"),
        ("differentiation", "Poor", "poor"),
        ("lauren", "mixed", "mixed"),
        ("lymph_nodes", "none", "none"),
        ("multiple_metastases", "both", "both"),
        ("pfs_days", "240.5", 240.5),
        ("pfs_event", "1", True),
        ("pfs_event", "No", False),
        ("os_event", "TRUE", True),
        ("os_event", "0", False),
        ("primary_present", "yes", True),
        ("gastrectomy", "false", False),
        ("pathology_time", "2", 2),
        ("age", "61.5", 61.5),
        ("start_year", "2019", 2019),
        ("start_year", "2019-12-31", 2019),
        ("start_year", "2007-01-01T12:30:00", 2007),
        ("start_year", "31.12.2019", 2019),
        ("start_year", "3/5/2019", 2019),
        ("tils", "0.35", 0.35),
        ("tils", "35%", 0.35),
        ("tumour_proportion", "1", 1.0),
        ("her2_share_3", "60％", 0.6),
        ("metastatic_lesions", "6", 6),
        ("disease_sites", "1000000000010", (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0)),
        ("lymph_node_sites", "0", (0,)),
        ("lymph_node_sites", "312", (1, 2, 3)),
    ],
)
def test_patient_fields__accepted_cells(field: str, cell: str, value: object) -> None:
    assert FIELDS[field].parse(cell) == value


@pytest.mark.parametrize(
    ("field", "cell", "expected"),
    [
        ("recist", "CRR", "CR, PR, SD, PD, non-CR/non-PD"),
        ("sex", "m", "male, female"),
        ("pfs_event", "2", "yes"),
        ("pfs_days", "-1", "from 0 to 50000 (days)"),
        ("pfs_days", "1_000", "number"),
        ("pfs_days", "inf", "number"),
        ("pfs_days", "nan", "number"),
        ("pfs_days", "1e999", "number"),
        ("age", "121", "from 0 to 120 (years)"),
        ("pathology_time", "3", "from 0 to 2"),
        ("pathology_time", "1.5", "whole"),
        ("start_year", "19", "year"),
        ("start_year", "2019-13-01", "year"),
        ("start_year", "03/2019", "year"),
        ("tils", "1.01", "0 to 1"),
        ("tils", "101%", "0 to 1"),
        ("tils", "-0.1", "0 to 1"),
        ("metastatic_lesions", "7", "from 0 to 6"),
        ("disease_sites", "100000000010", "13 digits"),
        ("disease_sites", "1000000000020", "13 digits"),
        ("disease_sites", "1e12", "13 digits"),
        ("lymph_node_sites", "5", "from 1 to 4"),
        ("lymph_node_sites", "01", "0 for none"),
        ("lymph_node_sites", "11", "each once"),
        ("lymph_node_sites", "1,2", "digits"),
        ("lymph_node_sites", "two", "digits"),
        ("centre", "A\nB", "line breaks"),
        ("centre", "x" * 1001, "1000 characters"),
    ],
)
def test_patient_fields__refused_cells_say_what_is_accepted(field: str, cell: str, expected: str) -> None:
    with pytest.raises(CellError) as caught:
        FIELDS[field].parse(cell)
    assert expected in caught.value.expected
    assert caught.value.severity == "error"


def test_patient_fields__near_words_are_suggested() -> None:
    with pytest.raises(CellError) as caught:
        FIELDS["lauren"].parse("intestinale")
    assert "'intestinal'" in caught.value.hint


def test_patient_fields__decimal_comma_is_explained() -> None:
    with pytest.raises(CellError) as caught:
        FIELDS["age"].parse("61,5")
    assert "point" in caught.value.hint


def test_patient_fields__year_outside_the_periods_is_a_warning() -> None:
    for year in ("2006", "2024", "2025-02-03"):
        with pytest.raises(CellError) as caught:
            FIELDS["start_year"].parse(year)
        assert caught.value.severity == "warning"
        assert "2007 to 2023" in caught.value.expected


def test_patient_fields__limits_follow_the_settings() -> None:
    fields = patient_fields(
        ClinicalSettings(max_metastatic_lesions=9, disease_sites=3, start_year_edges=(1990, 2000, 2010, 2020))
    )
    assert fields["metastatic_lesions"].parse("9") == 9
    assert fields["disease_sites"].parse("010") == (0, 1, 0)
    assert fields["start_year"].parse("1995") == 1995


def test_image_fields__required_fields_and_first_is_the_id() -> None:
    required = {
        name: [field for field, spec in fields.items() if spec.required]
        for name, fields in (("slide", slide_fields()), ("ct", ct_fields()), ("lesion", lesion_fields()))
    }
    assert required == {
        "slide": ["slide", "patient", "path"],
        "ct": ["ct", "patient", "path"],
        "lesion": ["lesion", "ct"],  # a type may come from the table of labels
    }
    assert all(next(iter(fields)) == name for name, fields in (("slide", slide_fields()), ("ct", ct_fields())))


def test_lesion_fields__every_lesion_type_is_accepted() -> None:
    parse = lesion_fields()["lesion_type"].parse
    assert [parse(word.upper()) for word in LESION_TYPES] == list(LESION_TYPES)
    with pytest.raises(CellError, match="lymph node"):
        parse("brain")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_parse_number__reads_back_what_python_writes(value: float) -> None:
    assert parse_number(repr(value)) == value


# --- HER2 notation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "shares"),
    [
        ("none（all3+）", (0, 0, 0, 1)),
        ("none（all0+）", (1, 0, 0, 0)),
        ("None (all 2+)", (0, 0, 1, 0)),
        ("all1+", (0, 1, 0, 0)),
        ("heterogeneity（3+10%，2+90%）", (0, 0, 0.9, 0.1)),
        ("heterogeneity（3+10%，2+30%，1+20%，0+40%）", (0.4, 0.2, 0.3, 0.1)),
        ("Heterogeneity(3+ 62.5%, 0+ 37.5%)", (0.375, 0, 0, 0.625)),
        ("2+90%;3+10%", (0, 0, 0.9, 0.1)),
        ("none（all3+", (0, 0, 0, 1)),
        ("heterogeneity（3＋50％、2＋50％）", (0, 0, 0.5, 0.5)),
    ],
)
def test_parse_her2__published_notation(cell: str, shares: tuple[float, ...]) -> None:
    assert parse_her2(cell) == pytest.approx(shares)


@pytest.mark.parametrize("cell", ["heterogeneity（3+60%，1+%）", "heterogeneity（3+60%，1+30%）", "3+60%, 1+"])
def test_parse_her2__incomplete_entries_are_warnings(cell: str) -> None:
    with pytest.raises(CellError) as caught:
        parse_her2(cell)
    assert caught.value.severity == "warning"


@pytest.mark.parametrize(
    "cell", ["strong", "4+100%", "3+60%，3+40%", "3+60%，2+60%", "heterogeneity（）", "60%", "3+60%，", "none"]
)
def test_parse_her2__another_notation_is_an_error(cell: str) -> None:
    with pytest.raises(CellError) as caught:
        parse_her2(cell)
    assert caught.value.severity == "error"


@st.composite
def her2_entries(draw: st.DrawFn) -> tuple[str, tuple[float, ...]]:
    """An entry in the published notation and the shares it was written from, which sum to 100 %."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=3, max_size=3)))
    percents = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    levels = draw(st.permutations([level for level, percent in enumerate(percents) if percent]))
    comma, left, right, percent_sign = draw(st.sampled_from([("，", "（", "）", "％"), (",", "(", ")", "%")]))
    blank = draw(st.sampled_from(["", " "]))
    entries = f"{comma}{blank}".join(f"{level}+{percents[level]}{percent_sign}" for level in levels)
    word = draw(st.sampled_from(["heterogeneity", "Heterogeneity", "HETEROGENEITY "]))
    return f"{word}{left}{entries}{right}", tuple(percent / 100 for percent in percents)


@given(her2_entries())
def test_parse_her2__reads_back_any_written_shares(entry: tuple[str, tuple[float, ...]]) -> None:
    cell, shares = entry
    assert parse_her2(cell) == pytest.approx(shares)


@given(st.text(alphabet="heterognity（）()all0123+%％，,、; .", max_size=40))
def test_parse_her2__any_text_gives_shares_that_sum_to_1_or_a_cell_error(cell: str) -> None:
    try:
        shares = parse_her2(cell)
    except CellError:
        return
    assert len(shares) == 4
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1, abs=0.0051)

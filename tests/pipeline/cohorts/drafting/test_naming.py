"""Whose file is it, and which ids may become names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mumo.errors import ConfigError
from mumo.pipeline.cohorts.drafting.naming import ByFolder, ByIds, ByPattern, Naming, NoPatient, SafeIds
from mumo.stores.records import is_safe_id


@pytest.mark.parametrize(
    ("path", "patient"),
    [
        ("slides/P1_HE.svs", "P1"),
        ("slides/p1 HE.svs", "P1"),
        ("P12/ct.nii.gz", "P12"),
        ("P12/P12-mask.nii.gz", "P12"),
        ("slides/Mu\u0308ller.svs", "Müller"),
    ],
)
def test_by_ids__id_stands_between_other_signs(path: str, patient: str) -> None:
    assert ByIds(["P1", "P12", "Müller"]).patient_of(Path(path)) == patient


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("slides/P123_HE.svs", "no patient"),
        ("slides/XP1.svs", "no patient"),
        ("P1/P12_HE.svs", "2 patients"),
    ],
)
def test_by_ids__other_paths_have_no_patient(path: str, reason: str) -> None:
    with pytest.raises(NoPatient, match=reason):
        ByIds(["P1", "P12"]).patient_of(Path(path))


def test_by_ids__an_id_within_another_is_not_found_twice() -> None:
    assert ByIds(["A", "P-1", "P-1-a"]).patient_of(Path("P-1-a/x.svs")) == "P-1-a"


def test_by_ids__short_numbers_are_not_looked_for() -> None:
    with pytest.raises(NoPatient):
        ByIds(["1", "20", "7"]).patient_of(Path("1/slide.svs"))
    assert ByIds(["101"]).patient_of(Path("101/slide.svs")) == "101"


@pytest.mark.parametrize(
    ("pattern", "path", "patient"),
    [
        ("slides/{patient}_*.svs", "slides/P1_HE_2.svs", "P1"),
        ("{patient}/**", "P1/ct/series/1.dcm", "P1"),
        ("**/{patient}.svs", "P1.svs", "P1"),
        ("**/{patient}.svs", "a/b/P1.svs", "P1"),
        ("case-??-{patient}.svs", "case-07-P1.svs", "P1"),
        ("a(1)/{patient}.svs", "a(1)/P1.svs", "P1"),
    ],
)
def test_by_pattern__takes_the_field(pattern: str, path: str, patient: str) -> None:
    assert ByPattern([pattern]).patient_of(Path(path)) == patient


def test_by_pattern__the_first_that_fits_counts() -> None:
    naming: Naming = ByPattern(["slides/{patient}_*", "{patient}/**"])
    assert naming.patient_of(Path("slides/P1_a.svs")) == "P1"
    assert naming.patient_of(Path("P2/x.svs")) == "P2"
    with pytest.raises(NoPatient, match="no --patient pattern"):
        naming.patient_of(Path("x.svs"))


@pytest.mark.parametrize("pattern", ["slides/*.svs", "{patient}/{patient}.svs"])
def test_by_pattern__field_once(pattern: str) -> None:
    with pytest.raises(ConfigError, match="once"):
        ByPattern([pattern])


def test_by_folder__first_folder() -> None:
    assert ByFolder().patient_of(Path("P1/ct/x.nii")) == "P1"
    with pytest.raises(NoPatient):
        ByFolder().patient_of(Path("x.nii"))


def test_safe_ids__patients_keep_study_ids_and_lose_others() -> None:
    ids = SafeIds("patient", ["P1", "patient-1", "Jane Doe"])
    assert [ids.of_patient(one) for one in ("P1", "Jane Doe", "Müller", "x" * 95)] == [
        "P1",
        "patient-2",
        "patient-3",
        "patient-4",
    ]


def test_safe_ids__names_are_made_safe_and_unlike() -> None:
    ids = SafeIds("slide")
    found = [ids.of_name(one) for one in ("a b", "a_b", "A B", "Läsion", "…", ".x.", "y" * 200, "y" * 200)]
    assert found[:6] == ["a_b", "a_b-2", "A_B-3", "Lasion", "slide", "x"]
    assert all(is_safe_id(one) and len(one) <= 94 for one in found)
    assert len({one.casefold() for one in found}) == len(found)

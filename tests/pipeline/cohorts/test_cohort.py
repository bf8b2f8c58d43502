"""Loading a cohort: what is accepted, and every way in which it can be wrong."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest

from mumo.config import ClinicalSettings
from mumo.errors import CohortError, Problem, problem_lines
from mumo.pipeline.cohorts.cohort import Cohort, load_cohort, missing_files
from mumo.pipeline.cohorts.cohort_file import expand_variables

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "mumo-2024" / "cohort.toml"

HEAD = """
format_version = 1
name = "test"
[labels]
cutoff_days = { "anti-HER2" = 240 }
"""
PATIENTS = """
[patients]
table = "patients.csv"
[patients.columns]
patient = "id"
"""
SLIDES = """
[slides]
table = "slides.csv"
[slides.columns]
slide = "slide"
patient = "patient"
path = "file"
annotation = "regions"
mpp = "mpp"
white_balance = "wb"
[slides.region_classes]
tumour = 3
"""
CT = """
[ct]
table = "ct.csv"
[ct.columns]
ct = "study"
patient = "patient"
path = "folder"
mask = "seg"
series_uid = "uid"
[lesions]
table = "lesions.csv"
[lesions.columns]
lesion = "lesion"
ct = "study"
lesion_type = "organ"
mask = "seg"
label = "value"
x_low = "x0"
y_low = "y0"
z_low = "z0"
x_high = "x1"
y_high = "y1"
z_high = "z1"
"""
SLIDE_HEAD = "slide,patient,file,regions,mpp,wb"
CT_HEAD = "study,patient,folder,seg,uid"
LESION_HEAD = "lesion,study,organ,seg,value,x0,y0,z0,x1,y1,z1"


def write(folder: Path, toml: str, tables: Mapping[str, Iterable[str]]) -> Path:
    """A cohort file and its CSV tables, given as lines."""
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    file = folder / "cohort.toml"
    file.write_text(toml, encoding="utf-8")
    return file


def load(folder: Path, toml: str, tables: Mapping[str, Iterable[str]]) -> Cohort:
    return load_cohort(write(folder, toml, tables))


def problems(folder: Path, toml: str, tables: Mapping[str, Iterable[str]]) -> tuple[Problem, ...]:
    with pytest.raises(CohortError) as caught:
        load(folder, toml, tables)
    return caught.value.problems


def with_columns(**columns: str) -> str:
    return HEAD + PATIENTS + "".join(f'{field} = "{column}"\n' for field, column in columns.items())


def image_tables(**changes: list[str]) -> dict[str, list[str]]:
    """Tables of two patients: P1 with a slide and a study of two lesions, P2 with nothing."""
    tables = {
        "patients": ["id", "P1", "P2"],
        "slides": [SLIDE_HEAD, "S1,P1,a.svs,a.xml,0.5,yes"],
        "ct": [CT_HEAD, "C1,P1,c1,c1.nii.gz,1.2.3"],
        "lesions": [LESION_HEAD, "L1,C1,liver,,1,,,,,,", "L2,C1,Lymph Node,,,1,2,3,4,5,6"],
    }
    return {f"{name}.csv": lines for name, lines in (tables | changes).items()}


# --- what is accepted ------------------------------------------------------------------------------------


def test_load_cohort__patients_alone_with_defaults(tmp_path: Path) -> None:
    cohort = load(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id", "P1", "P2"]})
    assert [patient.patient for patient in cohort.patients] == ["P1", "P2"]
    assert {patient.centre for patient in cohort.patients} == {"centre"}
    assert {patient.treatment_group for patient in cohort.patients} == {"anti-HER2"}
    assert set(cohort.patients[0].fields.values()) == {None}
    assert cohort.slides == cohort.ct_studies == cohort.warnings == ()
    assert cohort.data == tmp_path.resolve()
    assert cohort.tables == (tmp_path / "patients.csv",)


def test_load_cohort__slides_studies_and_lesions(tmp_path: Path) -> None:
    cohort = load(tmp_path, HEAD + PATIENTS + SLIDES + CT, image_tables())
    (slide,) = cohort.slides
    assert (slide.slide, slide.patient, slide.mpp, slide.white_balance) == ("S1", "P1", 0.5, True)
    assert (slide.path, slide.annotation) == (tmp_path / "a.svs", tmp_path / "a.xml")
    assert cohort.region_classes == {"tumour": 3}
    (study,) = cohort.ct_studies
    assert (study.ct, study.patient, study.centre, study.series_uid) == ("C1", "P1", "centre", "1.2.3")
    first, second = study.lesions
    assert (first.lesion_type, first.mask, first.label, first.box) == ("liver", tmp_path / "c1.nii.gz", 1, None)
    assert (second.lesion_type, second.box, second.box_unit) == ("lymph node", (1, 2, 3, 4, 5, 6), "voxel")
    assert cohort.warnings == ()
    assert pickle.loads(pickle.dumps(cohort)) == cohort


@pytest.mark.parametrize(("slides", "ct"), [(False, False), (True, False), (False, True), (True, True)])
def test_load_cohort__every_subset_of_modalities(tmp_path: Path, slides: bool, ct: bool) -> None:
    toml = HEAD + PATIENTS + SLIDES * slides + CT * ct
    cohort = load(tmp_path, toml, image_tables())
    assert (len(cohort.patients), len(cohort.slides), len(cohort.ct_studies)) == (2, int(slides), int(ct))


def test_load_cohort__tables_without_rows_but_patients(tmp_path: Path) -> None:
    tables = image_tables(slides=[SLIDE_HEAD], ct=[CT_HEAD], lesions=[LESION_HEAD])
    cohort = load(tmp_path, HEAD + PATIENTS + SLIDES + CT, tables)
    assert cohort.slides == cohort.ct_studies == ()


def test_load_cohort__reports_are_joined_by_patient(tmp_path: Path) -> None:
    toml = with_columns(sex="sex") + (
        '[[reports]]\ntable = "path.csv"\ncolumns = { patient = "pid", tils = "TIL" }\n'
        '[[reports]]\ntable = "rad.csv"\ncolumns = { patient = "case", lymph_nodes = "LN" }\n'
        "constants = { primary_present = true }\n"
    )
    cohort = load(
        tmp_path,
        toml,
        {
            "patients.csv": ["id,sex", "P1,male", "P2,female", "P3,"],
            "path.csv": ["pid,TIL", "P2,0.3"],
            "rad.csv": ["case,LN", "P3,fused", "P2,none"],
        },
    )
    values = [
        [patient.fields[name] for name in ("sex", "tils", "lymph_nodes", "primary_present")]
        for patient in cohort.patients
    ]
    assert values == [
        ["male", None, None, None],
        ["female", 0.3, "none", True],
        [None, None, "fused", True],
    ]
    assert [table.name for table in cohort.tables] == ["patients.csv", "path.csv", "rad.csv"]


def test_load_cohort__her2_shares_become_one_field(tmp_path: Path) -> None:
    columns = {f"her2_share_{level}": f"h{level}" for level in range(4)}
    lines = ["id,h0,h1,h2,h3", "P1,0.1,0.2,0.3,0.4", "P2,,,40%,60%", "P3,,,,", "P4,0.1,,,"]
    cohort = load(tmp_path, with_columns(**columns), {"patients.csv": lines})
    shares = [patient.fields["her2_heterogeneity"] for patient in cohort.patients]
    assert shares == [(0.1, 0.2, 0.3, 0.4), (0, 0, 0.4, 0.6), None, None]
    assert "her2_share_0" not in cohort.patients[0].fields
    (warning,) = cohort.warnings
    assert (warning.row, warning.column, warning.severity) == ("P4 (line 5)", "h0", "warning")


def test_load_cohort__data_folder_from_file_variable_and_argument(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sub", "elsewhere"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "patients.csv").write_text(f"id\n{name}\n")
    file = tmp_path / "cohort.toml"
    file.write_text('data = "sub"' + HEAD + PATIENTS)
    assert load_cohort(file).patients[0].patient == "sub"
    assert load_cohort(file, tmp_path / "elsewhere").patients[0].patient == "elsewhere"
    monkeypatch.setenv("MUMO_TEST_ROOT", str(tmp_path))
    file.write_text('data = "${MUMO_TEST_ROOT}/elsewhere"' + HEAD + PATIENTS)
    assert load_cohort(file).patients[0].patient == "elsewhere"
    monkeypatch.delenv("MUMO_TEST_ROOT")
    with pytest.raises(CohortError, match=r"unset variable\(s\) MUMO_TEST_ROOT.*--data"):
        load_cohort(file)
    assert load_cohort(file, tmp_path / "sub").patients[0].patient == "sub"


def test_expand_variables__leaves_everything_else() -> None:
    assert expand_variables("$A ${A}${B} ${", {"A": "1"}) == ("$A 1${B} ${", ("B",))


def test_load_cohort__settings_widen_what_fields_take(tmp_path: Path) -> None:
    file = write(tmp_path, with_columns(metastatic_lesions="n"), {"patients.csv": ["id,n", "P1,8"]})
    with pytest.raises(CohortError, match="from 0 to 6"):
        load_cohort(file)
    cohort = load_cohort(file, clinical=ClinicalSettings(max_metastatic_lesions=8))
    assert cohort.patients[0].fields["metastatic_lesions"] == 8


# --- the cohort file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "place", "message"),
    [
        ("format_version = ", "", "no valid TOML"),
        (HEAD.replace("= 1", "= 2") + PATIENTS, "format_version", "expected 1"),
        (HEAD, "patients", "found nothing"),
        (HEAD + '[patients]\ntable = "patients.csv"\n', "columns", "found nothing"),
        (HEAD + PATIENTS + "sex = 3\n", "columns.sex", "found '3'"),
        (HEAD + PATIENTS + SLIDES.replace("= 3", "= 4"), "region_classes.tumour", "less than 4"),
        (HEAD.replace("240", "-1") + PATIENTS, "cutoff_days.anti-HER2", "greater than 0"),
        (
            HEAD + PATIENTS + CT.replace('"lesions.csv"', '"lesions.csv"\nbox_unit = "cm"'),
            "box_unit",
            "'voxel' or 'mm'",
        ),
    ],
)
def test_load_cohort__bad_cohort_files(tmp_path: Path, toml: str, place: str, message: str) -> None:
    found = problems(tmp_path, toml, image_tables())
    assert [problem.column for problem in found] == [place]
    assert message in str(found[0])


def test_load_cohort__missing_and_large_cohort_files(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"cohort\.toml: found No such file"):
        load_cohort(tmp_path / "cohort.toml")
    with pytest.raises(CohortError, match="at most 1048576 bytes"):
        load(tmp_path, "#" * (1 << 21), {})
    (tmp_path / "cohort.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(CohortError, match="not UTF-8"):
        load_cohort(tmp_path / "cohort.toml")


def test_load_cohort__unknown_keys_have_near_matches_and_hide_nothing_else(tmp_path: Path) -> None:
    toml = "nme = 1" + HEAD + '[slide]\ntable = "x"\n' + PATIENTS.replace("[patients]", "[patients]\nunkown = []")
    found = problems(tmp_path, toml + 'sex = "sex"\n', {"patients.csv": ["id,sex", "P1,x"]})
    assert {(problem.table, problem.column) for problem in found} == {
        ("cohort.toml", "nme"),
        ("cohort.toml", "slide"),
        ("patients", "unkown"),
        ("patients", "sex"),
    }
    remedies = " ".join(problem.remedy for problem in found)
    assert all(f"Did you mean {word!r}?" in remedies for word in ("name", "slides", "unknown"))


def test_load_cohort__data_folder_that_is_not_there(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, 'data = "nowhere"' + HEAD + PATIENTS, image_tables())
    assert (problem.column, problem.expected) == ("data", "a folder")


def test_load_cohort__missing_tables_are_all_named(tmp_path: Path) -> None:
    found = problems(tmp_path, HEAD + PATIENTS + SLIDES + CT, {})
    assert [(problem.table, problem.found) for problem in found] == [
        (name, f"no such file: '{name}.csv'") for name in ("patients", "slides", "ct", "lesions")
    ]
    (problem,) = problems(tmp_path, HEAD + PATIENTS, {"patient.csv": ["id"]})
    assert problem.remedy.startswith("Did you mean 'patient.csv'?")


def test_load_cohort__ct_and_lesions_need_each_other(tmp_path: Path) -> None:
    ct, lesions = CT.split("[lesions]")
    for name, section in (("ct", ct), ("lesions", f"[lesions]{lesions}")):
        (problem,) = problems(tmp_path, HEAD + PATIENTS + section, image_tables())
        assert problem.table == name
        assert "no section" in problem.found


# --- patients --------------------------------------------------------------------------------------------


def test_load_cohort__no_patients(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id"]})
    assert (problem.table, problem.found) == ("patients", "no rows")


def test_load_cohort__duplicate_ids(tmp_path: Path) -> None:
    found = problems(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id", "P1", "P2", "P1", "p2"]})
    assert [(problem.row, problem.found) for problem in found] == [
        ("P1 (line 4)", "'P1', which stands in line 2 too"),
        ("p2 (line 5)", "'p2', which stands in line 3 too"),
    ]


@pytest.mark.parametrize("patient", ["Jane Doe", "../x", ".x", "a/b", "-x", "患者", "x."])
def test_load_cohort__unsafe_ids(tmp_path: Path, patient: str) -> None:
    (problem,) = problems(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id", patient]})
    assert (problem.row, problem.column) == ("line 2", "id")
    assert "letters, digits" in problem.expected


def test_load_cohort__long_ids(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id", "x" * 95]})
    assert "at most 94" in problem.expected


@pytest.mark.parametrize("patient", ["P1", "12.0", "a_b-c.d", "x" * 94])
def test_load_cohort__safe_ids(tmp_path: Path, patient: str) -> None:
    cohort = load(tmp_path, HEAD + PATIENTS, {"patients.csv": ["id", patient]})
    assert cohort.patients[0].patient == patient.removesuffix(".0")


def test_load_cohort__event_needs_a_time_and_a_time_an_event(tmp_path: Path) -> None:
    toml = with_columns(pfs_days="PFS", pfs_event="P", os_days="OS", os_event="D")
    lines = ["id,PFS,P,OS,D", "P1,,1,,yes", "P2,,0,,", "P3,100,,200,0"]
    cohort = load(tmp_path, toml, {"patients.csv": lines})
    assert [(problem.row, problem.column, problem.severity) for problem in cohort.warnings] == [
        ("P1 (line 2)", "P", "warning"),
        ("P1 (line 2)", "D", "warning"),
        ("P2 (line 3)", "PFS", "warning"),
        ("P3 (line 4)", "PFS", "warning"),
    ]
    assert [cohort.patients[0].fields[name] for name in ("pfs_event", "os_event")] == [None, None]


def test_load_cohort__censored_patients_without_a_time_are_named(tmp_path: Path) -> None:
    toml = with_columns(pfs_event="P") + '[patients.intervals]\npfs_days = ["start", "progression"]\n'
    tables = {"patients.csv": ["id,start,progression,contact,P", "P1,1.1.2020,1.3.2020,,1", "P2,1.1.2020,,1.5.2020,0"]}
    (warning,) = load(tmp_path, toml, tables).warnings
    assert (warning.row, warning.found) == ("P2 (line 3)", "no event, and no pfs_days")
    assert "survival looks worse" in warning.remedy and "last follow-up" in warning.remedy
    cohort = load(tmp_path, toml.replace('"progression"]', '"progression", "contact"]'), tables)
    assert cohort.warnings == ()
    assert [patient.fields["pfs_days"] for patient in cohort.patients] == [60, 121]


def test_load_cohort__an_event_dated_by_the_last_column_is_named(tmp_path: Path) -> None:
    toml = with_columns(pfs_event="P") + '[patients.intervals]\npfs_days = ["start", "progression", "contact"]\n'
    lines = ["id,start,progression,contact,P", "P1,1.1.2020,1.3.2020,1.5.2020,1", "P2,1.1.2020,,1.5.2020,1"]
    cohort = load(tmp_path, toml, {"patients.csv": lines})
    assert [(problem.row, problem.expected) for problem in cohort.warnings] == [("P2 (line 3)", "the event's date")]
    assert [patient.fields["pfs_event"] for patient in cohort.patients] == [True, True]


def test_load_cohort__a_bad_time_is_not_reported_twice(tmp_path: Path) -> None:
    toml = with_columns(pfs_days="PFS", pfs_event="P")
    (problem,) = problems(tmp_path, toml, {"patients.csv": ["id,PFS,P", "P1,long,1"]})
    assert problem.column == "PFS"
    found = problems(tmp_path, toml, {"patients.csv": ["id,pfs,P", "P1,100,1"]})
    assert [problem.column for problem in found] == ["PFS"]


def test_load_cohort__pfs_longer_than_os_is_a_warning(tmp_path: Path) -> None:
    toml = with_columns(pfs_days="PFS", pfs_event="P", os_days="OS", os_event="D")
    cohort = load(tmp_path, toml, {"patients.csv": ["id,PFS,P,OS,D", "P1,201,0,200,0", "P2,200,1,200,1"]})
    assert [(problem.row, problem.severity) for problem in cohort.warnings] == [("P1 (line 2)", "warning")]


def test_load_cohort__treatment_group(tmp_path: Path) -> None:
    two = HEAD.split("[labels]")[0] + PATIENTS
    (problem,) = problems(tmp_path, two, {"patients.csv": ["id", "P1", "P2"]})
    assert (problem.row, problem.expected) == ("", "one of: anti-HER2, anti-HER2+immunotherapy")
    lines = ["id,arm", "P1,anti-HER2", "P2,anti-HER", "P3,"]
    found = problems(tmp_path, two + 'treatment_group = "arm"\n', {"patients.csv": lines})
    assert [(problem.row, problem.found) for problem in found] == [
        ("P2 (line 3)", "'anti-HER'"),
        ("P3 (line 4)", "nothing"),
    ]
    assert "'anti-HER2'" in found[0].remedy
    cohort = load(tmp_path, two + '[patients.constants]\ntreatment_group = "anti-HER2"\n', {"patients.csv": lines})
    assert cohort.cutoff_days == {"anti-HER2": 240, "anti-HER2+immunotherapy": 300}


def test_load_cohort__reports_of_strangers_duplicates_and_fields_given_twice(tmp_path: Path) -> None:
    toml = with_columns(sex="sex") + (
        '[[reports]]\ntable = "rad.csv"\ncolumns = { patient = "id", lymph_nodes = "LN", sex = "sex" }\n'
    )
    tables = {
        "patients.csv": ["id,sex", "P1,male"],
        "rad.csv": ["id,LN,sex", "P1,none,male", "P1,fused,male", "P11,none,male"],
    }
    found = problems(tmp_path, toml, tables)
    assert {(problem.table, problem.row, problem.column) for problem in found} == {
        ("reports 1", "P1 (line 3)", "id"),
        ("reports 1", "P11 (line 4)", "id"),
        ("reports 1", "", "sex"),
    }
    assert any("'P1'" in problem.remedy for problem in found)


def test_load_cohort__two_ways_of_giving_her2(tmp_path: Path) -> None:
    toml = with_columns(her2_heterogeneity="h", her2_share_3="s")
    found = problems(tmp_path, toml, {"patients.csv": ["id,h,s", "P1,,"]})
    assert [problem.column for problem in found] == ["her2_heterogeneity"]


def test_load_cohort__her2_shares_over_1(tmp_path: Path) -> None:
    toml = with_columns(her2_share_2="two", her2_share_3="three")
    (problem,) = problems(tmp_path, toml, {"patients.csv": ["id,two,three", "P1,0.6,0.6"]})
    assert (problem.row, problem.column, problem.found) == ("P1 (line 2)", "two", "shares that sum to 1.2")


# --- slides, studies, lesions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "lines", "column", "row", "found"),
    [
        ("slides", [SLIDE_HEAD, "S1,P9,a.svs,,,"], "patient", "S1 (line 2)", "'P9'"),
        ("slides", [SLIDE_HEAD, "S 1,P1,a.svs,,,"], "slide", "line 2", "'S 1'"),
        ("slides", [SLIDE_HEAD, "S1,P1,a,,,", "S1,P2,b,,,"], "slide", "S1 (line 3)", "line 2"),
        ("slides", [SLIDE_HEAD, "S1,P1,,,,"], "file", "S1 (line 2)", "''"),
        ("slides", [SLIDE_HEAD, "S1,P1,a.svs,,0,"], "mpp", "S1 (line 2)", "'0'"),
        ("slides", [SLIDE_HEAD, "S1,P1,a.svs,,,maybe"], "wb", "S1 (line 2)", "'maybe'"),
        ("ct", [CT_HEAD, "C1,P1,c1,c1.nii.gz,", "C1,P1,c1,,"], "study", "C1 (line 3)", "line 2"),
        ("ct", [CT_HEAD, "C1,p1,c1,c1.nii.gz,"], "patient", "C1 (line 2)", "'p1'"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,1,,,,,,", "L2,C2,liver,m,1,,,,,,"], "study", "L2 (line 3)", "'C2'"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,1,,,,,,", "L1,C1,bone,,2,,,,,,"], "lesion", "L1 (line 3)", "line 2"),
        ("lesions", [LESION_HEAD, "L1,C1,brain,,1,,,,,,"], "organ", "L1 (line 2)", "'brain'"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,0,,,,,,"], "value", "L1 (line 2)", "'0'"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,,5,2,3,4,5,6"], "x0", "L1 (line 2)", "5, above x_high = 4"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,,1,2,3,4,5,2"], "z0", "L1 (line 2)", "3, above z_high = 2"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,,-1,2,3,4,5,6"], "x0", "L1 (line 2)", "-1"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,,1,2,3,4,5,"], "z1", "L1 (line 2)", "a box without z_high"),
        ("lesions", [LESION_HEAD, "L1,C1,liver,,,a,2,3,4,5,6"], "x0", "L1 (line 2)", "'a'"),
    ],
)
def test_load_cohort__bad_rows_of_images(
    tmp_path: Path, table: str, lines: list[str], column: str, row: str, found: str
) -> None:
    all_found = problems(tmp_path, HEAD + PATIENTS + SLIDES + CT, image_tables(**{table: lines}))
    (problem,) = [problem for problem in all_found if problem.severity == "error"]
    assert (problem.table, problem.row, problem.column) == (table, row, column)
    assert found in problem.found


def test_load_cohort__lesion_without_box_and_mask(tmp_path: Path) -> None:
    tables = image_tables(ct=[CT_HEAD, "C1,P1,c1,,"], lesions=[LESION_HEAD, "L1,C1,liver,,1,,,,,,"])
    (problem,) = problems(tmp_path, HEAD + PATIENTS + CT, tables)
    assert (problem.row, problem.found) == ("L1 (line 2)", "neither box nor mask")


def test_load_cohort__lesions_that_nothing_tells_apart(tmp_path: Path) -> None:
    lesions = [
        LESION_HEAD,
        "L1,C1,liver,,,,,,,,",
        "L2,C1,bone,,,,,,,,",
        "L3,C1,bone,own.nii,,,,,,,",
        "L4,C1,other,,4,,,,,,",
    ]
    found = problems(tmp_path, HEAD + PATIENTS + CT, image_tables(lesions=lesions))
    assert [(problem.row, problem.column) for problem in found] == [("L1 (line 2)", "value"), ("L2 (line 3)", "value")]


def test_load_cohort__lesions_with_the_same_label(tmp_path: Path) -> None:
    rows = ["L1,C1,liver,,1,,,,,,", "L2,C1,bone,,1,,,,,,", "L3,C1,bone,,2,,,,,,", "L4,C1,other,,1,1,2,3,4,5,6"]
    found = problems(tmp_path, HEAD + PATIENTS + CT, image_tables(lesions=[LESION_HEAD, *rows]))
    assert [(problem.row, problem.column) for problem in found] == [("L1 (line 2)", "value"), ("L2 (line 3)", "value")]


LABELS = '1 255 0 0 1 1 1 "Liver"\n2 0 255 0 1 1 1 "LN left"\n3 0 0 255 1 1 1 "aorta"\n'
WITH_LABELS = CT.replace('uid = "uid"', 'uid = "uid"\nlabel_table = "names"').replace(
    'label = "value"', 'label = "value"\nroi = "roi"'
)


def named(lesions: list[str]) -> dict[str, list[str]]:
    """Tables with a study that has a table of labels, and lesions `id, type, label, roi`."""
    rows = []
    for line in lesions:
        lesion, lesion_type, label, roi = line.split(",")
        rows.append(f"{lesion},C1,{lesion_type},,{label},,,,,,,{roi}")
    return image_tables(
        ct=[f"{CT_HEAD},names", "C1,P1,c1,c1.nii.gz,1.2.3,labels.txt"], lesions=[f"{LESION_HEAD},roi", *rows]
    )


def test_load_cohort__label_table_gives_labels_and_types(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    toml = HEAD + PATIENTS + WITH_LABELS + '[lesions.values.lesion_type]\n"LN*" = "lymph node"\n'
    lesions = load(tmp_path, toml, named(["L1,,1,", "L2,,,ln LEFT", "L3,bone,,aorta"])).ct_studies[0].lesions
    assert [(one.lesion_type, one.label) for one in lesions] == [("liver", 1), ("lymph node", 2), ("bone", 3)]


def test_load_cohort__label_table_without_the_name_or_a_type(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(LABELS)
    found = problems(tmp_path, HEAD + PATIENTS + WITH_LABELS, named(["L1,,3,", "L2,liver,,spleen", "L3,,9,"]))
    assert [(problem.row, problem.column) for problem in found] == [
        ("L1 (line 2)", "organ"),
        ("L2 (line 3)", "roi"),
        ("L3 (line 4)", "organ"),
    ]


def test_load_cohort__unreadable_label_table_is_reported_once(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, HEAD + PATIENTS + WITH_LABELS, named(["L1,,1,", "L2,,2,"]))
    assert (problem.table, problem.column) == ("ct", "names")


def test_load_cohort__regions_of_one_structure_set_are_told_apart_by_name(tmp_path: Path) -> None:
    tables = image_tables(
        lesions=[f"{LESION_HEAD},roi", "L1,C1,liver,rs.dcm,,,,,,,,GTV 1", "L2,C1,liver,rs.dcm,,,,,,,,GTV 2"]
    )
    toml = HEAD + PATIENTS + WITH_LABELS.replace('label_table = "names"\n', "")
    assert [one.roi for one in load(tmp_path, toml, tables).ct_studies[0].lesions] == ["GTV 1", "GTV 2"]
    tables["lesions.csv"][2] = tables["lesions.csv"][1].replace("L1", "L2")
    assert [problem.column for problem in problems(tmp_path, toml, tables)] == ["value", "value"]


@pytest.mark.parametrize("table", ["ct", "lesions"])
def test_load_cohort__a_missing_mask_column_is_reported_once(tmp_path: Path, table: str) -> None:
    heads = {"ct": CT_HEAD.replace("seg", "SEG"), "lesions": LESION_HEAD.replace("seg", "SEG")}
    rows = {"ct": ["C1,P1,c1,,"], "lesions": ["L1,C1,liver,,1,,,,,,", "L2,C1,bone,,2,,,,,,"]}
    tables = image_tables(**{"ct": [CT_HEAD, *rows["ct"]], table: [heads[table], *rows[table]]})
    (problem,) = problems(tmp_path, HEAD + PATIENTS + CT, tables)
    assert (problem.table, problem.column) == (table, "seg")


def test_load_cohort__same_lesion_id_in_two_studies(tmp_path: Path) -> None:
    tables = image_tables(
        ct=[CT_HEAD, "C1,P1,c1,a.nii,", "C2,P2,c2,b.nii,"],
        lesions=[LESION_HEAD, "L1,C1,liver,,1,,,,,,", "L1,C2,liver,,1,,,,,,"],
    )
    cohort = load(tmp_path, HEAD + PATIENTS + CT, tables)
    assert [[lesion.lesion for lesion in study.lesions] for study in cohort.ct_studies] == [["L1"], ["L1"]]


def test_load_cohort__negative_corners_in_mm(tmp_path: Path) -> None:
    toml = HEAD + PATIENTS + CT.replace('"lesions.csv"', '"lesions.csv"\nbox_unit = "mm"')
    tables = image_tables(lesions=[LESION_HEAD, "L1,C1,liver,,,-10,-20.5,-30,4,5,6"])
    (lesion,) = load(tmp_path, toml, tables).ct_studies[0].lesions
    assert (lesion.box, lesion.box_unit) == ((-10, -20.5, -30, 4, 5, 6), "mm")


def test_load_cohort__more_targets_than_recist_are_warnings(tmp_path: Path) -> None:
    organs = ["liver", "liver", "liver", "bone", "stomach", "spleen"]
    lesions = [f"L{k},C1,{organ},,{k},,,,,," for k, organ in enumerate(organs, start=1)]
    others = [f"M{k},C2,other,,{k},,,,,," for k in range(1, 6)]
    tables = image_tables(ct=[CT_HEAD, "C1,P1,c1,a.nii,", "C2,P2,c2,b.nii,"], lesions=[LESION_HEAD, *lesions, *others])
    cohort = load(tmp_path, HEAD + PATIENTS + CT, tables)
    assert [(problem.row, problem.found, problem.severity) for problem in cohort.warnings] == [
        ("P1", "6 lesions", "warning"),
        ("P1", "3 in liver", "warning"),
    ]
    assert len(cohort.ct_studies[0].lesions) == 6


def test_load_cohort__study_without_lesions_is_a_warning(tmp_path: Path) -> None:
    tables = image_tables(ct=[CT_HEAD, "C1,P1,c1,a.nii,", "C2,P2,c2,b.nii,"])
    (warning,) = load(tmp_path, HEAD + PATIENTS + CT, tables).warnings
    assert (warning.row, warning.severity) == ("C2 (line 3)", "warning")


def test_load_cohort__an_unreadable_table_of_patients_is_not_blamed_on_the_others(tmp_path: Path) -> None:
    tables = image_tables(patients=["number", "P1"])
    found = problems(tmp_path, HEAD + PATIENTS + SLIDES + CT, tables)
    assert [(problem.table, problem.column) for problem in found] == [("patients", "id")]


# --- all at once -----------------------------------------------------------------------------------------


def test_load_cohort__all_problems_of_all_tables_at_once(tmp_path: Path) -> None:
    toml = (
        "extra = 1"
        + with_columns(sex="Sex", age="Age", tils="TILs", her2_heterogeneity="HER2", pfs_event="event", lauren="Lauren")
        + '[[reports]]\ntable = "gone.xlsx"\ncolumns = { patient = "id", line = "Line" }\n'
        + SLIDES
        + CT
    )
    tables = image_tables(
        patients=[
            "id,Sex,Age,TILs,HER2,event",
            "P1,mal,61,0.5,none（all3+）,0",
            'P1,female,-1,1.5,"heterogeneity（3+60%，1+%）",0',
            "P 3,female,50,0.1,strong,1",
        ],
        slides=[SLIDE_HEAD, "S1,P9,a.svs,,0.5,", "S1,P1,b.svs,,x,"],
        ct=[CT_HEAD, "C1,P1,c1,,"],
        lesions=[LESION_HEAD, "L1,C1,liver,,,,,,,,", "L2,C9,brain,,,9,2,3,4,5,6"],
    )
    found = problems(tmp_path, toml, tables)
    assert {(problem.table, problem.row, problem.column) for problem in found} == {
        ("cohort.toml", "", "extra"),
        ("patients", "", "Lauren"),
        ("patients", "P1 (line 2)", "Sex"),
        ("patients", "P1 (line 3)", "id"),
        ("patients", "P1 (line 3)", "Age"),
        ("patients", "P1 (line 3)", "TILs"),
        ("patients", "P1 (line 3)", "HER2"),
        ("patients", "P1 (line 3)", "pfs_days"),
        ("patients", "line 4", "id"),
        ("patients", "line 4", "HER2"),
        ("patients", "line 4", "event"),
        ("reports 1", "", ""),
        ("slides", "S1 (line 2)", "patient"),
        ("slides", "S1 (line 3)", "slide"),
        ("slides", "S1 (line 3)", "mpp"),
        ("lesions", "L1 (line 2)", ""),
        ("lesions", "L2 (line 3)", "study"),
        ("lesions", "L2 (line 3)", "organ"),
        ("lesions", "L2 (line 3)", "x0"),
    }
    assert len(found) == 19
    severities = [problem.severity for problem in found]
    assert severities == ["error"] * 16 + ["warning"] * 3
    assert all(problem.expected and problem.found and problem.remedy for problem in found)


def test_cohort_error__lists_every_problem(tmp_path: Path) -> None:
    with pytest.raises(CohortError) as caught:
        load(tmp_path, with_columns(sex="s"), {"patients.csv": ["id,s", "P1,x", "P2,y"]})
    assert [problem.row for problem in caught.value.problems] == ["P1 (line 2)", "P2 (line 3)"]
    place = "patients, row P1 (line 2) and 1 more, column 's'"
    assert f"{place}: found 'x', 'y'; expected one of: male, female." in str(caught.value)


def test_problem_lines__rows_with_the_same_problem_share_a_line() -> None:
    def problem(row: int, column: str, found: str, severity: Literal["error", "warning"] = "error") -> Problem:
        return Problem("patients", f"P{row}", column, found, "a word", "Map it.", severity)

    many = [problem(row, "sex", f"'w{row % 9}'") for row in range(30)]
    lines = problem_lines([*many, problem(3, "age", "'x'"), problem(4, "sex", "'y'", "warning")])
    assert [severity for severity, _ in lines] == ["error", "error", "warning"]
    assert lines[0][1] == (
        "patients, row P0 and 29 more, column 'sex': found 'w0', 'w1', 'w2', 'w3', 'w4', 'w5' and 3 more; "
        "expected a word. Map it."
    )
    assert lines[1][1] == str(problem(3, "age", "'x'"))


def test_load_cohort__times_that_look_like_months_are_warned_of(tmp_path: Path) -> None:
    def warnings(scale: float, patients: int) -> list[str]:
        rows = ["id,t,e", *(f"P{n},{(n + 1) * scale},1" for n in range(patients))]
        cohort = load(tmp_path, with_columns(pfs_days="t", pfs_event="e"), {"patients.csv": rows})
        return [str(problem) for problem in cohort.warnings]

    (warning,) = warnings(2.5, 12)
    assert warning.startswith("patients, column 't': found no time longer than 30; expected days.")
    assert warnings(30, 12) == warnings(2.5, 9) == []


@pytest.mark.parametrize(
    ("content", "remedy"), [(b"id;sex\nP1;x\n", "name the spreadsheet itself"), (b"id,s\xe9\nP1,x\n", "CSV UTF-8")]
)
def test_load_cohort__tables_of_spreadsheet_programs_say_what_to_do(
    tmp_path: Path, content: bytes, remedy: str
) -> None:
    (tmp_path / "cohort.toml").write_text(with_columns())
    (tmp_path / "patients.csv").write_bytes(content)
    with pytest.raises(CohortError, match=remedy):
        load_cohort(tmp_path / "cohort.toml")


# --- source files ----------------------------------------------------------------------------------------


def test_missing_files__names_each_file_with_the_users_column(tmp_path: Path) -> None:
    cohort = load(tmp_path, HEAD + PATIENTS + SLIDES + CT, image_tables())
    found = missing_files(cohort)
    assert [(problem.table, problem.row, problem.column, problem.found) for problem in found] == [
        ("slides", "S1", "file", "no file 'a.svs'"),
        ("slides", "S1", "regions", "no file 'a.xml'"),
        ("ct", "C1", "folder", "no file 'c1'"),
        ("lesions", "C1/L1", "seg", "no file 'c1.nii.gz'"),
    ]
    for name in ("a.svs", "a.xml", "c1", "c1.nii.gz"):
        (tmp_path / name).touch()
    assert missing_files(cohort) == []


# --- the published table ---------------------------------------------------------------------------------


def published(shared_data: Path) -> pd.DataFrame:
    """The published table, every cell as text."""
    return pd.read_csv(shared_data / "tables" / "anti-her2.csv", dtype=str, keep_default_na=False)


@pytest.mark.realdata
def test_load_cohort__published_table(shared_data: Path) -> None:
    cohort = load_cohort(EXAMPLE, shared_data / "tables")
    frame = pd.DataFrame([dict(patient.fields) for patient in cohort.patients])
    assert len(frame) == 271
    assert frame["sex"].value_counts().to_dict() == {"male": 225, "female": 46}
    assert frame["site"].value_counts().to_dict() == {"GEJ": 82, "non-GEJ": 189}
    assert frame["lauren"].value_counts(dropna=False).to_dict() == {
        "intestinal": 173,
        "diffuse": 34,
        "mixed": 43,
        None: 21,
    }
    assert {patient.treatment_group for patient in cohort.patients} == {"anti-HER2"}
    table = published(shared_data)
    assert [patient.patient for patient in cohort.patients] == table["patient"].tolist()
    assert frame["age"].tolist() == table["Age"].astype(float).tolist()
    assert frame["pathology_time"].isna().sum() == (table["Pathology collection time"] == "-1").sum()
    first = table["Treatment lines"].str.startswith("1")
    assert (frame["line"] == "first").tolist() == first.tolist()


@pytest.mark.realdata
def test_load_cohort__published_table_has_one_incomplete_entry(shared_data: Path) -> None:
    cohort = load_cohort(EXAMPLE, shared_data / "tables")
    table = published(shared_data)
    incomplete = table.loc[table["Heterogeneity of HER2 expression"].str.contains(r"\+%"), "patient"].tolist()
    assert [(problem.row.split()[0], problem.severity) for problem in cohort.warnings] == [
        (patient, "warning") for patient in incomplete
    ]


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["tsv", "parquet"])
def test_load_cohort__published_table_in_another_format(shared_data: Path, tmp_path: Path, kind: str) -> None:
    """Read by pandas with its own guesses of types, as a user would, and saved again: the same cohort."""
    frame = pd.read_csv(shared_data / "tables" / "anti-her2.csv", dtype={"Transfer site finishing": str})
    if kind == "tsv":
        frame.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    else:
        frame.to_parquet(tmp_path / "t.parquet")
    shutil.copy(EXAMPLE, tmp_path / "cohort.toml")
    text = (tmp_path / "cohort.toml").read_text(encoding="utf-8").replace("anti-her2.csv", f"t.{kind}")
    (tmp_path / "cohort.toml").write_text(text, encoding="utf-8")
    again = load_cohort(tmp_path / "cohort.toml", tmp_path)
    assert again.patients == load_cohort(EXAMPLE, shared_data / "tables").patients


def test_example__maps_every_field_of_the_published_table() -> None:
    """Fields that the example leaves out are those that its comments name."""
    from mumo.pipeline.cohorts.cohort_file import read_cohort_file
    from mumo.pipeline.cohorts.fields import patient_fields

    content, found = read_cohort_file(EXAMPLE)
    assert content is not None
    assert found == []
    given: set[Any] = {*content.patients.columns, *content.patients.constants}
    shares = {f"her2_share_{level}" for level in range(4)}
    assert set(patient_fields(ClinicalSettings())) - given - shares == {
        "centre",
        "primary_present",
        "metastatic_lesions",
    }

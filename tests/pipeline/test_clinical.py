"""The `clinical` stage: the label rule, the encoders, and the published table."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mumo.config import ClinicalSettings, Settings
from mumo.errors import CohortError, InputError
from mumo.pipeline.clinical import ClinicalStage, code_specs, encode, label, tenth
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.stores.records import Store
from mumo.stores.specs import MEASURES, PATIENTS
from mumo.stores.tables import read_rows

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "mumo-2024" / "cohort.toml"
DEFAULTS = ClinicalSettings()

# --- labels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recist", "pfs_days", "pfs_event", "expected"),
    [
        ("CR", None, None, (1, "recist")),
        ("PR", 10.0, True, (1, "recist")),
        ("PD", 999.0, False, (0, "recist")),
        ("SD", 241.0, True, (1, "pfs")),
        ("SD", 241.0, False, (1, "pfs")),
        ("SD", 240.5, None, (1, "pfs")),
        ("SD", 240.0, True, (0, "pfs")),
        ("SD", 240.0, False, (None, "censored")),
        ("SD", 0.0, False, (None, "censored")),
        ("SD", 240.0, None, (None, "missing")),
        ("SD", None, None, (None, "missing")),
        ("non-CR/non-PD", 300.0, False, (1, "pfs")),
        ("non-CR/non-PD", 100.0, True, (0, "pfs")),
        (None, 241.0, False, (1, "pfs")),
        (None, 100.0, True, (0, "pfs")),
        (None, 100.0, False, (None, "censored")),
        (None, None, None, (None, "missing")),
    ],
)
def test_label__rule_of_the_paper(
    recist: str | None, pfs_days: float | None, pfs_event: bool | None, expected: tuple[int | None, str]
) -> None:
    assert label(recist, pfs_days, pfs_event, 240.0) == expected


def test_label__cutoff_of_the_treatment_group() -> None:
    assert label("SD", 270.0, True, 240.0) == (1, "pfs")
    assert label("SD", 270.0, True, 300.0) == (0, "pfs")


# --- encoders --------------------------------------------------------------------------------------------


def test_code_specs__items_and_widths_of_the_paper() -> None:
    widths: dict[str, dict[str, int]] = {}
    for spec in code_specs(DEFAULTS):
        widths.setdefault(spec.group, {})[spec.name] = len(spec.classes)
    assert widths == {
        "pathology_report": {"tils": 10, "her2_heterogeneity": 4, "tumour_proportion": 10},
        "radiology_report": {
            "primary_present": 2,
            "metastatic_lesions": 7,
            "lymph_nodes": 3,
            "lymph_node_sites": 5,
            "multiple_metastases": 4,
            "peritoneal_metastasis": 2,
            "gastrectomy": 2,
        },
        "patient_information": {
            "sex": 2,
            "age": 2,
            "site": 2,
            "line": 2,
            "start": 3,
            "differentiation": 4,
            "lauren": 3,
            "disease_sites": 13,
        },
    }


def test_code_specs__classes_are_distinct_and_named_after_the_settings() -> None:
    specs = {spec.name: spec for spec in code_specs(DEFAULTS)}
    assert all(len(set(spec.classes)) == len(spec.classes) for spec in specs.values())
    assert specs["age"].classes == ("≤ 60", "> 60")
    assert specs["start"].classes == ("2007–2011", "2012–2016", "2017–2023")
    assert specs["tils"].classes[0] == "0–0.1"
    assert {spec.name for spec in specs.values() if spec.kind == "multi-hot"} == {"lymph_node_sites", "disease_sites"}


@pytest.mark.parametrize(
    ("field", "value", "item", "ones"),
    [
        ("tils", 0.0, "tils", [0]),
        ("tils", 0.35, "tils", [3]),
        ("tumour_proportion", 1.0, "tumour_proportion", [9]),
        ("primary_present", False, "primary_present", [0]),
        ("primary_present", True, "primary_present", [1]),
        ("metastatic_lesions", 0, "metastatic_lesions", [0]),
        ("metastatic_lesions", 6, "metastatic_lesions", [6]),
        ("lymph_nodes", "fused", "lymph_nodes", [2]),
        ("lymph_node_sites", (0,), "lymph_node_sites", [0]),
        ("lymph_node_sites", (1, 2, 3), "lymph_node_sites", [1, 2, 3]),
        ("multiple_metastases", "both", "multiple_metastases", [3]),
        ("gastrectomy", True, "gastrectomy", [1]),
        ("sex", "female", "sex", [1]),
        ("age", 60.0, "age", [0]),
        ("age", 60.5, "age", [1]),
        ("site", "non-GEJ", "site", [1]),
        ("line", "later", "line", [1]),
        ("start_year", 2007, "start", [0]),
        ("start_year", 2011, "start", [0]),
        ("start_year", 2012, "start", [1]),
        ("start_year", 2017, "start", [2]),
        ("start_year", 2023, "start", [2]),
        ("differentiation", "diffuse", "differentiation", [3]),
        ("lauren", "mixed", "lauren", [2]),
        ("disease_sites", (1, *(0,) * 10, 1, 0), "disease_sites", [0, 11]),
        ("disease_sites", (0,) * 13, "disease_sites", []),
    ],
)
def test_encode__one_field_sets_its_places_and_no_other_item(
    field: str, value: object, item: str, ones: list[int]
) -> None:
    codes = {name: code for (_, name), code in encode({field: value}, DEFAULTS).items()}
    assert np.flatnonzero(codes.pop(item)).tolist() == ones
    assert all(code.sum() == 0 for code in codes.values())
    assert all(code.dtype == np.float32 for code in codes.values())


def test_encode__shares_are_kept() -> None:
    codes = encode({"her2_heterogeneity": (0.1, 0.2, 0.3, 0.4)}, DEFAULTS)
    np.testing.assert_allclose(codes["pathology_report", "her2_heterogeneity"], [0.1, 0.2, 0.3, 0.4], rtol=1e-6)


def test_encode__every_item_is_there_and_zero_when_unknown() -> None:
    codes = encode({}, DEFAULTS)
    assert list(codes) == [(spec.group, spec.name) for spec in code_specs(DEFAULTS)]
    assert all(code.sum() == 0 for code in codes.values())
    assert encode(dict.fromkeys(["sex", "age", "tils"]), DEFAULTS).keys() == codes.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("metastatic_lesions", 7),
        ("lymph_node_sites", (5,)),
        ("start_year", 2024),
        ("start_year", 2006),
        ("lauren", "other"),
        ("disease_sites", (0,) * 13 + (1,)),
    ],
)
def test_encode__value_outside_the_classes(field: str, value: object) -> None:
    with pytest.raises(InputError, match="expected one of"):
        encode({field: value}, DEFAULTS)


def test_encode__settings_move_edges_and_widths() -> None:
    settings = ClinicalSettings(
        age_edge_years=70, start_year_edges=(2000, 2010, 2020, 2030), tenths=4, max_metastatic_lesions=2
    )
    codes = encode({"age": 65.0, "start_year": 2025, "tils": 0.5, "metastatic_lesions": 2}, settings)
    assert codes["patient_information", "age"].tolist() == [1, 0]
    assert codes["patient_information", "start"].tolist() == [0, 0, 1]
    assert codes["pathology_report", "tils"].tolist() == [0, 0, 1, 0]
    assert codes["radiology_report", "metastatic_lesions"].tolist() == [0, 0, 1]


@given(st.integers(0, 1000))
def test_tenth__agrees_with_decimal_arithmetic(thousandths: int) -> None:
    """Shares as they are written, with up to three digits; binary fractions must not shift an edge."""
    exact = Decimal(thousandths) / 1000 * 10
    assert tenth(float(f"{thousandths / 1000:.3f}"), 10) == min(int(exact), 9)


@given(st.floats(0, 1), st.integers(1, 100))
def test_tenth__any_share_falls_into_the_part_that_holds_it(share: float, classes: int) -> None:
    place = tenth(share, classes)
    assert 0 <= place < classes
    assert place / classes <= share + 1e-9
    assert share < (place + 1) / classes + 1e-9


@given(st.integers(1, 100))
def test_tenth__one_falls_into_the_top_and_zero_into_the_first(classes: int) -> None:
    assert tenth(1.0, classes) == classes - 1
    assert tenth(0.0, classes) == 0


# --- the stage -------------------------------------------------------------------------------------------

COHORT = """
format_version = 1
name = "test"
[labels]
cutoff_days = { old = 240, new = 300 }
[patients]
table = "patients.csv"
[patients.columns]
patient = "id"
centre = "centre"
treatment_group = "arm"
recist = "recist"
pfs_days = "pfs"
pfs_event = "event"
pathology_time = "time"
sex = "sex"
her2_heterogeneity = "her2"
[[reports]]
table = "rad.csv"
columns = { patient = "id", lymph_nodes = "LN" }
"""


@pytest.fixture
def cohort_file(tmp_path: Path) -> Path:
    """A cohort of four patients in two treatment groups."""
    (tmp_path / "patients.csv").write_text(
        "id,centre,arm,recist,pfs,event,time,sex,her2\n"
        "P1,A,old,SD,270,1,0,male,3+60%\n"
        "P2,B,new,SD,270,1,,female,all3+\n"
        "P3,A,old,PR,,,2,,\n"
        "P4,A,old,,30,0,,male,\n"
    )
    (tmp_path / "rad.csv").write_text("id,LN\nP2,fused\n")
    (tmp_path / "cohort.toml").write_text(COHORT)
    return tmp_path / "cohort.toml"


def run_stage(file: Path, folder: Path) -> tuple[list[dict[str, object]], list[dict[str, object]], dict[str, object]]:
    """Patients, codes and summary of a cohort, as the stage writes them."""
    settings, stage = Settings(), ClinicalStage()
    store = Store.create(folder / "store")
    (item,) = stage.plan(load_cohort(file), settings, store)
    out = folder / "out"
    out.mkdir()
    outcome = stage.run(item, settings, store, out)
    names = ["codes.parquet", "images.parquet", "measures.parquet", "patients.parquet"]
    assert sorted(path.name for path in out.iterdir()) == names
    return read_rows(out / "patients.parquet", PATIENTS), read_rows(out / "codes.parquet"), outcome.summary


def test_clinical_stage__patients(cohort_file: Path, tmp_path: Path) -> None:
    patients, _, summary = run_stage(cohort_file, tmp_path)
    names = ("patient", "centre", "treatment_group", "label", "label_rule", "pathology_time", "radiology_time")
    assert [tuple(row[name] for name in names) for row in patients] == [
        ("P1", "A", "old", 1, "pfs", 0, None),
        ("P2", "B", "new", 0, "pfs", None, None),
        ("P3", "A", "old", 1, "recist", 2, None),
        ("P4", "A", "old", None, "censored", None, None),
    ]
    assert [(row["pfs_days"], row["pfs_event"], row["os_days"]) for row in patients] == [
        (270, True, None),
        (270, True, None),
        (None, None, None),
        (30, False, None),
    ]
    assert {name: summary[name] for name in ("patients", "responders", "non_responders", "unknown")} == {
        "patients": 4,
        "responders": 2,
        "non_responders": 1,
        "unknown": 1,
    }
    assert summary["cutoff_days"] == load_cohort(cohort_file, None, ClinicalSettings()).cutoff_days


def test_clinical_stage__codes_of_every_patient_and_item(cohort_file: Path, tmp_path: Path) -> None:
    _, codes, _ = run_stage(cohort_file, tmp_path)
    specs = code_specs(DEFAULTS)
    assert [(row["patient"], row["group"], row["item"]) for row in codes] == [
        (patient, spec.group, spec.name) for patient in ("P1", "P2", "P3", "P4") for spec in specs
    ]
    assert [row["classes"] for row in codes] == [list(spec.classes) for spec in specs] * 4
    found = {(row["patient"], row["item"]): row["code"] for row in codes}
    assert found["P2", "lymph_nodes"] == [0, 0, 1]
    assert found["P1", "lymph_nodes"] == [0, 0, 0]
    assert found["P2", "sex"] == [0, 1]
    assert found["P2", "her2_heterogeneity"] == [0, 0, 0, 1]
    assert found["P1", "her2_heterogeneity"] == [0, 0, 0, 0]


def test_clinical_stage__keeps_the_numbers_behind_the_codes(cohort_file: Path, tmp_path: Path) -> None:
    cohort_file.write_text(COHORT.replace('pfs_days = "pfs"', 'pfs_days = "pfs"\nage = "time"'))
    run_stage(cohort_file, tmp_path)
    rows = read_rows(tmp_path / "out" / "measures.parquet", MEASURES)
    assert [(row["patient"], row["item"], row["unit"], row["value"]) for row in rows] == [
        ("P1", "age", "years", 0.0),
        ("P3", "age", "years", 2.0),
    ]


def test_clinical_stage__stored_warnings_name_the_cell_but_do_not_repeat_it(cohort_file: Path, tmp_path: Path) -> None:
    _, _, summary = run_stage(cohort_file, tmp_path)
    (warning,) = summary["warnings"]
    assert "row P1 (line 2), column 'her2'" in warning
    assert "3+60%" not in warning


def test_clinical_stage__plan_names_the_settings_and_every_table_it_reads(cohort_file: Path, tmp_path: Path) -> None:
    settings = Settings()
    (item,) = ClinicalStage().plan(load_cohort(cohort_file), settings, Store.create(tmp_path / "store"))
    assert (item.stage, item.item) == ("clinical", "cohort")
    assert item.settings == settings.clinical.model_dump(mode="json")
    assert [(source.role, source.path.name, source.full) for source in item.sources] == [
        ("cohort", "cohort.toml", True),
        ("patients", "patients.csv", True),
        ("table 1", "rad.csv", True),
    ]
    assert item.upstream == ()


def test_clinical_stage__tables_broken_since_the_plan_fail_without_their_content(
    cohort_file: Path, tmp_path: Path
) -> None:
    settings, stage, store = Settings(), ClinicalStage(), Store.create(tmp_path / "store")
    (item,) = stage.plan(load_cohort(cohort_file), settings, store)
    (tmp_path / "patients.csv").write_text("id,recist\nJane Doe,secret\n")
    with pytest.raises(CohortError, match="secret"):
        load_cohort(cohort_file)
    with pytest.raises(InputError, match="see `mumo check`") as caught:
        stage.run(item, settings, store, tmp_path)
    assert "secret" not in str(caught.value)
    assert "Jane" not in str(caught.value)
    assert caught.value.__suppress_context__


# --- the published table ---------------------------------------------------------------------------------


def published(shared_data: Path) -> pd.DataFrame:
    """The published table with pandas' own types, and short names for its long columns."""
    frame = pd.read_csv(shared_data / "tables" / "anti-her2.csv", dtype={"Transfer site finishing": str})
    short = {
        "Metastatic lymph nodes": "nodes",
        "Metastatic lymph node location": "node_sites",
        "Multiple liver": "multiple",
        "Peritoneal": "peritoneal",
    }
    return frame.rename(
        columns={column: name for column in frame for start, name in short.items() if column.startswith(start)}
    )


def counts(codes: list[dict[str, object]], item: str) -> list[int]:
    """How many patients have each place of an item's code above 0."""
    vectors = np.array([row["code"] for row in codes if row["item"] == item])
    return [int(count) for count in (vectors > 0).sum(axis=0)]


@pytest.fixture(scope="module")
def published_run(
    shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, object]], list[dict[str, object]]]:
    """Patients and codes of the published table."""
    folder = tmp_path_factory.mktemp("published")
    settings, stage = Settings(), ClinicalStage()
    (item,) = stage.plan(load_cohort(EXAMPLE, shared_data / "tables"), settings, Store.create(folder / "store"))
    (folder / "out").mkdir()
    stage.run(item, settings, Store.open(folder / "store"), folder / "out")
    return read_rows(folder / "out" / "patients.parquet", PATIENTS), read_rows(folder / "out" / "codes.parquet")


@pytest.mark.realdata
def test_clinical_stage__labels_of_the_published_table(
    shared_data: Path, published_run: tuple[list[dict[str, object]], list[dict[str, object]]]
) -> None:
    """All but one equal the published `label`: A271 has SD and progressed after 86 days, yet stands as a responder."""
    patients, _ = published_run
    table = published(shared_data)
    derived = [-1 if row["label"] is None else row["label"] for row in patients]
    differ = table.loc[table["label"] != derived]
    assert [(row.patient, row.RECIST, row.PFS, row.PFSCensor, row.label) for row in differ.itertuples()] == [
        ("A271", "SD", 86, 1, 1)
    ]
    assert Counter(derived) == {1: 143, 0: 65, -1: 63}
    decisive = table["RECIST"].isin(["CR", "PR", "PD"]).sum()
    rules = Counter(row["label_rule"] for row in patients)
    assert rules["recist"] == decisive
    assert rules["censored"] == (table["label"] == -1).sum()
    assert rules.total() == 271


@pytest.mark.realdata
def test_clinical_stage__outcomes_of_the_published_table(
    shared_data: Path, published_run: tuple[list[dict[str, object]], list[dict[str, object]]]
) -> None:
    patients = pd.DataFrame(published_run[0])
    table = published(shared_data)
    assert patients["pfs_days"].tolist() == table["PFS"].tolist()
    assert patients["os_days"].tolist() == table["OS"].tolist()
    assert patients["pfs_event"].tolist() == (table["PFSCensor"] == 1).tolist()
    assert int((patients["pfs_event"] != (table["Progressive state"] == 1)).sum()) == 2
    assert patients["os_event"].tolist() == (table["Dead or not"] == "yes").tolist()
    for name, column in (("pathology_time", "Pathology"), ("radiology_time", "Radiology")):
        assert patients[name].fillna(-1).tolist() == table[f"{column} collection time"].tolist()


@pytest.mark.realdata
def test_clinical_stage__counts_of_the_published_table(
    shared_data: Path, published_run: tuple[list[dict[str, object]], list[dict[str, object]]]
) -> None:
    codes = published_run[1]
    table = published(shared_data)

    def by_value(column: str, values: list[object]) -> list[int]:
        return [int((table[column] == value).sum()) for value in values]

    assert counts(codes, "sex") == [225, 46] == by_value("Sex", ["male", "female"])
    assert counts(codes, "site") == [82, 189] == by_value("Tumor site", ["GEJ", "non-GJE"])
    assert counts(codes, "lauren") == [173, 34, 43] == by_value("LAUREN classification", [0, 1, 2])
    assert counts(codes, "age") == [int((table["Age"] <= 60).sum()), int((table["Age"] > 60).sum())]
    year = table["Start date of anti-HER2 therapy"]
    assert counts(codes, "start") == [
        int(year.between(*period).sum()) for period in ((2007, 2011), (2012, 2016), (2017, 2023))
    ]
    assert counts(codes, "differentiation") == [*by_value("differentiated degree", [0, 1, 2]), 0]
    first = int(table["Treatment lines"].str.match("1").sum())
    assert counts(codes, "line") == [first, 271 - first]
    assert counts(codes, "lymph_nodes") == by_value("nodes", [0, 1, 2])
    assert counts(codes, "multiple_metastases") == by_value("multiple", [0, 1, 2, 3])
    assert counts(codes, "peritoneal_metastasis") == by_value("peritoneal", [0, 1])
    assert counts(codes, "gastrectomy") == by_value("postoperative", [0, 1])
    sites = table["node_sites"].dropna().astype(int).astype(str)
    assert counts(codes, "lymph_node_sites") == [int(sites.str.contains(str(site)).sum()) for site in range(5)]
    disease = table["Transfer site finishing"]
    assert counts(codes, "disease_sites") == [int((disease.str[place] == "1").sum()) for place in range(13)]
    assert counts(codes, "primary_present") == [0, 0]
    assert counts(codes, "metastatic_lesions") == [0] * 7


@pytest.mark.realdata
def test_clinical_stage__pathology_shares_of_the_published_table(
    shared_data: Path, published_run: tuple[list[dict[str, object]], list[dict[str, object]]]
) -> None:
    codes = published_run[1]
    table = published(shared_data)
    for item, column in (("tils", "Tumor-associated lymphocyte TILs"), ("tumour_proportion", "Tumor proportion")):
        # the table's shares are whole twentieths, so hundredths as whole numbers are exact
        tenths = (table[column].dropna() * 100).round().astype(int).floordiv(10).clip(upper=9)
        assert counts(codes, item) == [int((tenths == k).sum()) for k in range(10)]
    her2 = table["Heterogeneity of HER2 expression"]
    whole = her2[~her2.str.contains("+%", regex=False, na=True)]
    by_level = [whole[whole.str.contains(f"{level}+", regex=False)] for level in range(4)]
    assert counts(codes, "her2_heterogeneity") == [len(entries) for entries in by_level]
    totals = [math.fsum(row["code"]) for row in codes if row["item"] == "her2_heterogeneity" and any(row["code"])]
    assert len(totals) == len(whole)
    assert totals == pytest.approx([1.0] * len(whole), abs=1e-6)

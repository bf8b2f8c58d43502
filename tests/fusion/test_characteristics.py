"""A run's table of characteristics: written from a store, read back in the order of the patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from packs import make_packed, write_store

from mumo.fusion.characteristics import THERAPY, Characteristic, described, joined, read_clinical, save_clinical
from mumo.stores import tables
from mumo.stores.pack import pack
from mumo.stores.records import Store
from mumo.stores.specs import CLINICAL, PATIENTS


def test_save_clinical__codes_come_back_as_they_were_packed(tmp_path: Path) -> None:
    write_store(tmp_path / "store", make_packed(10, seed=1))
    packed = pack(Store.open(tmp_path / "store"))
    save_clinical(tmp_path / "clinical.parquet", packed, tmp_path / "store")
    order = list(reversed(packed.patients))
    found = {(item.group, item.name): item for item in read_clinical(tmp_path / "clinical.parquet", order)}
    for group, codes in packed.codes.items():
        parts = np.split(codes.values, np.cumsum(codes.widths)[:-1], axis=1)
        for item, values in zip(codes.items, parts, strict=True):
            there = values[::-1].any(axis=1)
            assert found[group, item.name].classes == item.classes
            np.testing.assert_array_equal(found[group, item.name].known, there)
            np.testing.assert_array_equal(found[group, item.name].values[there], values[::-1][there])


def test_save_clinical__has_the_treatment_and_leaves_out_whom_it_is_told_to(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", make_packed(10, seed=1))
    packed = pack(Store.open(tmp_path / "store"))
    gone = packed.patients[3]
    save_clinical(tmp_path / "clinical.parquet", packed, tmp_path / "store", without={gone})
    found = {item.name: item for item in read_clinical(tmp_path / "clinical.parquet", packed.patients)}
    rows = tables.read_rows(store.part("clinical", "cohort", "patients.parquet"), PATIENTS)
    groups = {row["patient"]: row["treatment_group"] for row in rows}
    treatment = found["treatment_group"]
    assert treatment.group == THERAPY
    for patient, code, known in zip(packed.patients, treatment.values, treatment.known, strict=True):
        assert known == (patient != gone)
        assert not known or treatment.classes[int(np.argmax(code))] == groups[patient]
    assert not found["sex"].known[3]


def test_joined__stacks_two_cohorts_and_widens_treatments_alone() -> None:
    def item(group: str, name: str, classes: str, *codes: list[float]) -> Characteristic:
        return Characteristic(group, name, "one-hot", "", tuple(classes), np.array(codes, dtype=float))

    nan = np.nan
    first = [item("p", "sex", "fm", [1, 0], [nan, nan]), item("p", "odd", "ab", [1, 0], [0, 1]),
             item(THERAPY, "treatment_group", "xy", [1, 0], [0, 1])]  # fmt: skip
    second = [item("p", "sex", "fm", [0, 1]), item("p", "odd", "abc", [0, 0, 1]),
              item(THERAPY, "treatment_group", "zx", [1, 0])]  # fmt: skip
    sex, treatment = joined(first, second)
    np.testing.assert_array_equal(sex.values, [[1, 0], [nan, nan], [0, 1]])
    assert treatment.classes == ("x", "y", "z")
    np.testing.assert_array_equal(treatment.values, [[1, 0, 0], [0, 1, 0], [0, 0, 1]])


def row(patient: str, item: str, code: list[float], value: float | None = None) -> dict[str, object]:
    group = "measures" if value is not None else "patient_information"
    classes = [f"class {number}" for number in range(len(code))]
    return {
        "patient": patient, "group": group, "item": item, "unit": "", "classes": classes, "code": code, "value": value,
    }  # fmt: skip


def test_read_clinical__tells_the_kinds_apart_and_leaves_out_strangers(tmp_path: Path) -> None:
    rows = [
        row("A", "one", [1, 0]), row("B", "one", [0, 0]), row("C", "one", [0, 1]),
        row("A", "several", [1, 1]), row("B", "several", [0, 1]), row("C", "several", [0, 0]),
        row("A", "shares", [0.25, 0.75]), row("B", "shares", [0, 1]), row("C", "shares", [0, 0]),
        row("A", "age", [], 61.5),
    ]  # fmt: skip
    tables.write_table(tmp_path / "clinical.parquet", rows, CLINICAL)
    found = {item.name: item for item in read_clinical(tmp_path / "clinical.parquet", ["B", "A"])}
    kinds = {name: item.kind for name, item in found.items()}
    assert kinds == {"one": "one-hot", "several": "multi-hot", "shares": "shares", "age": "number"}
    assert found["one"].known.tolist() == [False, True]
    assert found["age"].values[1, 0] == 61.5
    assert np.isnan(found["age"].values[0, 0])


def test_read_clinical__is_empty_without_a_file(tmp_path: Path) -> None:
    assert read_clinical(tmp_path / "clinical.parquet", ["A"]) == []


def test_described__numbers_stand_in_place_of_codes_with_many_classes() -> None:
    def item(group: str, name: str, classes: int) -> Characteristic:
        return Characteristic(group, name, "one-hot", "", tuple("abcdefghij"[:classes]), np.ones((1, max(1, classes))))

    items = [
        item("patient_information", "age", 2), item("measures", "age", 0), item("measures", "tils", 0),
        item("measures", "weight", 0), item("pathology_report", "tils", 10),
    ]  # fmt: skip
    assert [(shown.group, shown.name, len(shown.classes)) for shown in described(items)] == [
        ("patient_information", "age", 0),
        ("patient_information", "age", 2),
        ("measures", "weight", 0),
        ("pathology_report", "tils", 0),
    ]

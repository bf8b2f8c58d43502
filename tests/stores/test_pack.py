"""Packing: what comes out equals what the items hold; what cannot be trusted is refused by name."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from packs import (
    commit,
    list_images,
    make_packed,
    without_images,
    write_clinical,
    write_omics,
    write_store,
    write_unit_items,
)

from mumo.errors import StoreError
from mumo.stores import arrays, pack, packed, specs
from mumo.stores.pack import pack as pack_store
from mumo.stores.packed import Packed
from mumo.stores.records import Failure, Store


@pytest.fixture(scope="module")
def original() -> Packed:
    return make_packed(8)


@pytest.fixture(scope="module")
def master(original: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packing") / "store"
    write_store(path, original)
    return path


@pytest.fixture
def store(master: Path, tmp_path: Path) -> Store:
    """A store of its own for a test that changes it."""
    shutil.copytree(master, tmp_path / "store", ignore=shutil.ignore_patterns("packed"))
    return Store.open(tmp_path / "store")


def assert_same(found: Packed, expected: Packed) -> None:
    for name in ("patients", "centres", "modalities", "weights", "weights_sha256"):
        assert getattr(found, name) == getattr(expected, name), name
    np.testing.assert_array_equal(found.labels, expected.labels)
    for name in ("days", "events", "times"):
        for key, values in getattr(expected, name).items():
            np.testing.assert_array_equal(getattr(found, name)[key], values, err_msg=f"{name} {key}")
    for group, codes in expected.codes.items():
        assert found.codes[group].items == codes.items
        np.testing.assert_array_equal(found.codes[group].values, codes.values)
    for modality, units in expected.units.items():
        for field in dataclasses.fields(units):
            one, two = getattr(found.units[modality], field.name), getattr(units, field.name)
            np.testing.assert_array_equal(one, two, err_msg=f"{modality} {field.name}")


def slide_of(original: Packed, number: int = 0) -> str:
    return str(sorted(set(original.units["pathology"].sources))[number])


def test_pack__holds_what_the_items_hold(master: Path, original: Packed) -> None:
    found = pack_store(Store.open(master))
    assert_same(found, original)
    assert found.units["pathology"].features.dtype == np.float16
    assert found.units["pathology"].omics.dtype == np.float32
    assert isinstance(found.units["pathology"].features, np.memmap)
    assert isinstance(found.units["pathology"].omics, np.memmap)


def test_pack__of_the_same_store_is_found_without_reading_an_item(store: Store, original: Packed) -> None:
    first = pack_store(store)
    for stage in ("tiles", "rois", "embed", "radiomics"):
        shutil.rmtree(store.path / stage / "items")
    started = time.perf_counter()
    second = pack_store(store)
    assert time.perf_counter() - started < 1.0
    assert second.key == first.key
    assert_same(second, original)
    assert [p.name for p in (store.path / "packed").iterdir() if p.name != "staging"] == [first.key]


def test_pack__of_changed_content_gets_another_key(store: Store, original: Packed) -> None:
    before = pack_store(store)
    changed = dataclasses.replace(original, labels=np.where(original.labels == 1, 0, original.labels))
    write_clinical(store, changed)
    after = pack_store(store)
    assert after.key != before.key
    np.testing.assert_array_equal(after.labels, changed.labels)


def test_pack__killed_while_building_leaves_no_pack(
    store: Store, original: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pack, "_pack_omics", stop)
        with pytest.raises(KeyboardInterrupt):
            pack_store(store)
    assert not [p for p in (store.path / "packed").rglob("*") if p.is_file()]
    left = store.path / "packed" / "staging" / "abc~gone~1"
    left.mkdir()
    assert_same(pack_store(store), original)
    assert not left.exists()


def test_pack__of_several_slides_and_studies_of_one_patient_puts_them_together(tmp_path: Path) -> None:
    whole = make_packed(3, missing=False)
    store = Store.create(tmp_path / "store")
    write_clinical(store, whole)
    for modality, units in whole.units.items():
        for p, patient in enumerate(whole.patients):
            for number in range(int(units.offsets[p]), int(units.offsets[p + 1])):
                prefix = "slide" if modality == "pathology" else "ct"
                name = f"{prefix}-{patient}.{number:03d}"
                write_unit_items(store, whole, modality, patient, number, number + 1, item=name)
                list_images(store, patient, name)
    found = pack_store(store)
    for modality, units in whole.units.items():
        np.testing.assert_array_equal(found.units[modality].offsets, units.offsets)
        np.testing.assert_array_equal(found.units[modality].features, units.features)
        np.testing.assert_array_equal(found.units[modality].omics, units.omics)


def test_pack__follows_the_order_of_patients_and_not_of_slides(tmp_path: Path) -> None:
    packed_ = make_packed(4, missing=False)
    units = packed_.units["pathology"]
    backwards = np.repeat([f"slide-S{9 - number}" for number in range(4)], units.counts)
    expected = dataclasses.replace(
        packed_, units={**packed_.units, "pathology": dataclasses.replace(units, sources=backwards)}
    )
    assert_same(pack_store(write_store(tmp_path / "store", expected)), expected)


def test_pack__of_a_store_with_only_the_clinical_stage(tmp_path: Path) -> None:
    whole = make_packed(5)
    store = Store.create(tmp_path / "store")
    write_clinical(store, whole)
    found = pack_store(store)
    assert found.patients == whole.patients
    assert found.modalities == ("none",) * 5
    assert found.weights_sha256 == ""
    for units in found.units.values():
        assert units.features.shape == (0, 0, 0)
        assert units.counts.tolist() == [0] * 5


def test_pack__of_a_store_without_studies(tmp_path: Path) -> None:
    whole = without_images(make_packed(6, missing=False), "radiology")
    found = pack_store(write_store(tmp_path / "store", whole))
    assert_same(found, whole)


def test_pack__without_the_clinical_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no clinical table; run `mumo extract clinical`"):
        pack_store(Store.create(tmp_path / "store"))


def test_pack__skips_empty_items(store: Store, original: Packed) -> None:
    for stage in ("tiles", "embed", "radiomics"):
        commit(store, stage, "slide-EMPTY", lambda out: (out / "x").write_text(""), status="empty")
    assert_same(pack_store(store), original)


def test_pack__of_an_item_older_than_its_upstream_is_refused_by_name(store: Store, original: Packed) -> None:
    item = slide_of(original)
    commit(store, "tiles", item, lambda out: (out / "bags.parquet").write_text("another"))
    with pytest.raises(StoreError, match=rf"2 item\(s\) are older.*embed/{item}.*bags.parquet.*run `mumo extract all`"):
        pack_store(store)


def test_pack__of_features_of_two_weights_is_refused(store: Store, original: Packed) -> None:
    other = dataclasses.replace(original, weights="imagenet", weights_sha256="2" * 64)
    write_unit_items(store, other, "pathology", original.patients[0], 0, 1, item="slide-OTHER")
    list_images(store, original.patients[0], "slide-OTHER")
    with pytest.raises(StoreError, match=r"2 different weights.*imagenet \(222222222222\).*random:0"):
        pack_store(store)


def test_pack__of_features_of_two_widths_is_refused(store: Store) -> None:
    wide = make_packed(1, missing=False, width=32)
    write_unit_items(store, wide, "pathology", "P000", 0, 1, item="slide-ZWIDE")
    list_images(store, "P000", "slide-ZWIDE")
    with pytest.raises(StoreError, match=r"embed/slide-\w+: features of shape .* a unit, embed/slide"):
        pack_store(store)


def test_pack__of_other_omics_columns_is_refused(store: Store) -> None:
    other = make_packed(1, missing=False, omics=7)
    write_unit_items(store, other, "pathology", "P000", 0, 1, item="slide-ZOMICS")
    list_images(store, "P000", "slide-ZOMICS")
    with pytest.raises(StoreError, match=r"radiomics/slide-\w+: other features than .*original_firstorder_F6"):
        pack_store(store)


def test_pack__of_tables_that_contradict_each_other_is_refused(store: Store, original: Packed) -> None:
    item = slide_of(original)
    count = int((original.units["pathology"].sources == item).sum())
    features = np.zeros((count + 1, 4, 16), dtype="float16")
    commit(
        store,
        "embed",
        item,
        lambda out: arrays.write_array(arrays.create_group(out / "features.zarr"), specs.WORD_FEATURES, features),
        summary={"weights": original.weights, "weights_sha256": original.weights_sha256},
    )
    with pytest.raises(StoreError, match=rf"embed/{item}: features of {count + 1} units, tiles has {count}"):
        pack_store(store)


def test_pack__of_omics_rows_in_another_order_is_refused(store: Store, original: Packed) -> None:
    item = slide_of(original)
    units = original.units["pathology"]
    rows = np.flatnonzero(units.sources == item)
    wrong = [str(number + 1) for number in range(len(rows))]
    write_omics(store, item, "P000", wrong, units.omics[rows], units.omics_columns)
    with pytest.raises(StoreError, match=rf"radiomics/{item}: its rows are not those of tiles"):
        pack_store(store)


@pytest.mark.parametrize("stage", ["embed", "tiles"])
def test_pack__of_a_failed_slide_leaves_the_modality_missing_and_says_so(
    store: Store, original: Packed, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    item = slide_of(original)
    patient = original.patients.index(item.removeprefix("slide-S"))
    (store.path / stage / "records" / f"{item}.json").unlink()
    with caplog.at_level(logging.WARNING):
        found = pack_store(store)
    assert found.units["pathology"].counts[patient] == 0
    assert found.units["pathology"].counts.sum() == (original.units["pathology"].sources != item).sum()
    if stage == "embed":
        assert any(f"1 item(s) have no deep features and are missing modalities: {item}" in w for w in found.warnings)
        assert item in caplog.text


def test_pack__names_slides_and_studies_that_could_not_be_extracted(store: Store) -> None:
    slide, study = sorted(store.records("tiles"))[0], sorted(store.records("rois"))[0]
    store.fail(Failure("tiles", slide, "f", "SlideError", "cut short", 1))
    store.fail(Failure("rois", study, "f", "ImageError", "a slice is missing", 1))
    assert pack_store(store).warnings[:2] == (
        f"1 of the slides could not be extracted and count as missing: {slide}",
        f"1 of the CT studies could not be extracted and count as missing: {study}",
    )


def test_pack__of_a_slide_without_omics_has_missing_values(store: Store, original: Packed) -> None:
    item = slide_of(original, 1)
    (store.path / "radiomics" / "records" / f"{item}.json").unlink()
    found = pack_store(store)
    rows = original.units["pathology"].sources == item
    assert not found.units["pathology"].omics_known[rows].any()
    assert np.isnan(found.units["pathology"].omics[rows]).all()
    np.testing.assert_array_equal(found.units["pathology"].omics[~rows], original.units["pathology"].omics[~rows])
    assert any(f"1 item(s) have no omics features: {item}" in warning for warning in found.warnings)


def test_pack__of_infinite_omics_makes_them_missing(store: Store, original: Packed) -> None:
    item = slide_of(original)
    units = original.units["pathology"]
    rows = np.flatnonzero(units.sources == item)
    values = np.zeros((len(rows), 6))
    values[0, 1], values[0, 2] = np.inf, 1e300
    names = [str(number) for number in range(len(rows))]
    write_omics(store, item, "P000", names, values, units.omics_columns)
    found = pack_store(store).units["pathology"]
    assert np.isnan(found.omics[rows[0]]).tolist() == [False, True, True, False, False, False]
    assert found.omics_known[rows].all()


def test_pack__leaves_out_what_is_no_longer_in_the_cohort(store: Store, original: Packed) -> None:
    write_unit_items(store, original, "pathology", "P000", 0, 1, item="slide-GONE")
    found = pack_store(store)
    assert_same(found, original)
    assert any("1 item(s) of the store are not in the cohort and are left out: slide-GONE" in w for w in found.warnings)


def test_pack__leaves_out_slides_of_patients_without_a_clinical_row(store: Store, original: Packed) -> None:
    write_unit_items(store, original, "pathology", "STRANGER", 0, 1, item="slide-STRANGER")
    list_images(store, "STRANGER", "slide-STRANGER")
    found = pack_store(store)
    assert any("patients without a clinical row are left out: slide-STRANGER" in text for text in found.warnings)


def test_pack__of_codes_that_lack_a_patient_is_refused(store: Store, original: Packed) -> None:
    fewer = dataclasses.replace(original, patients=(*original.patients[:-1], "NEW"))

    def write(out: Path) -> None:
        whole = store.part("clinical", "cohort", "codes.parquet").read_bytes()
        (out / "codes.parquet").write_bytes(whole)
        shutil.copy(other.part("clinical", "cohort", "images.parquet"), out)
        shutil.copy(other.part("clinical", "cohort", "patients.parquet"), out)

    other = Store.create(store.path.parent / "other")
    write_clinical(other, fewer)
    commit(store, "clinical", "cohort", write)
    with pytest.raises(StoreError, match=r"no code for .*NEW"):
        pack_store(store)


def test_load_pack__of_a_damaged_pack_says_what_to_delete(store: Store) -> None:
    key = pack_store(store).key
    (store.path / "packed" / key / "labels.npy").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match=r"labels\.npy: not readable .* delete this folder"):
        packed.load_pack(store.path / "packed" / key, ())

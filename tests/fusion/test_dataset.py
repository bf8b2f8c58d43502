"""Layouts, omics standardisation, draws and batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from packs import make_packed, without_images
from sklearn.preprocessing import RobustScaler

from mumo.config import LESION_TYPES, ModelSettings
from mumo.errors import FitError
from mumo.fusion.dataset import (
    AUXILIARY_LESION_TYPES,
    Dataset,
    OmicsScaler,
    fit_scalers,
    known_items,
    layout_of,
)
from mumo.stores.packed import Packed


def dataset_of(packed: Packed, settings: ModelSettings | None = None, endpoint: str = "os") -> Dataset:
    scalers = fit_scalers(packed, np.arange(len(packed.patients)), 10.0)
    return Dataset(packed, layout_of(packed, scalers, settings or ModelSettings()), scalers, endpoint)


# --- omics ------------------------------------------------------------------------------------------------


def test_omics_scaler__equals_scikit_learns_robust_scaler() -> None:
    values = np.random.default_rng(0).gamma(2.0, 3.0, size=(101, 7))
    scaler = OmicsScaler.fit([f"f{n}" for n in range(7)], values, limit=1e9)
    np.testing.assert_allclose(scaler(values), RobustScaler().fit_transform(values), rtol=1e-6, atol=1e-6)


def test_omics_scaler__drops_and_lists_constant_and_missing_columns() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 5))
    values[:, 1] = 1e9
    values[:, 3] = np.nan
    values[::2, 4] = np.nan
    scaler = OmicsScaler.fit(["a", "b", "c", "d", "e"], values, limit=10.0)
    assert scaler.dropped == {"missing": ["d"], "constant": ["b"]}
    assert scaler.width == 3
    assert scaler(values).shape == (40, 3)
    assert (scaler(values)[::2, 2] == 0).all()


def test_omics_scaler__of_a_column_that_is_mostly_one_value_takes_the_standard_deviation() -> None:
    values = np.zeros((100, 1))
    values[:10] = 5.0
    scaler = OmicsScaler.fit(["sparse"], values, limit=10.0)
    assert scaler.dropped == {"missing": [], "constant": []}
    assert scaler.scale[0] == pytest.approx(values.std())


def test_omics_scaler__cuts_outliers_and_fills_missing_values_with_the_median() -> None:
    scaler = OmicsScaler.fit(["a"], np.arange(101.0)[:, None], limit=3.0)
    np.testing.assert_allclose(scaler(np.array([[50.0], [1e30], [-1e30], [np.nan]]))[:, 0], [0, 3, -3, 0])


def test_omics_scaler__of_no_rows_keeps_nothing() -> None:
    scaler = OmicsScaler.fit(["a", "b"], np.zeros((0, 2)), limit=3.0)
    assert (scaler.width, scaler.dropped) == (0, {"missing": ["a", "b"], "constant": []})


def test_fit_scalers__see_training_patients_only() -> None:
    packed = make_packed(20, missing=False)
    train = np.arange(10)
    units = packed.units["pathology"]
    other = units.omics.copy()
    other[units.offsets[10] :] = 1e6
    changed = dataclasses.replace(packed, units={**packed.units, "pathology": dataclasses.replace(units, omics=other)})
    before, after = fit_scalers(packed, train, 10.0), fit_scalers(changed, train, 10.0)
    np.testing.assert_array_equal(before["pathology"].median, after["pathology"].median)
    everyone = fit_scalers(changed, np.arange(20), 10.0)
    assert (everyone["pathology"].median != before["pathology"].median).all()


# --- batches ----------------------------------------------------------------------------------------------


def test_whole__holds_every_unit_where_slots_and_masks_say() -> None:
    packed = make_packed(12)
    dataset = dataset_of(packed)
    patients = np.array([7, 2, 9, 0, 4])
    batch = dataset.whole(patients)
    assert batch.patients.tolist() == patients.tolist()
    for name, imaging in batch.imaging.items():
        units, scaler = packed.units[name], dataset.scalers[name]
        assert imaging.mask.sum(dim=1).tolist() == units.counts[patients].tolist()
        most = imaging.mask.shape[1]
        for unit, slot in enumerate(imaging.slots.tolist()):
            patient, position = divmod(slot, most)
            row = units.offsets[patients[patient]] + position
            plain = units.features[row] if name == "pathology" else units.features[row, :1]
            np.testing.assert_array_equal(imaging.features[unit], plain)
            np.testing.assert_array_equal(imaging.omics[patient, position], scaler(units.omics[row : row + 1])[0])
            assert imaging.omics_mask[patient, position] == units.omics_known[row]
            np.testing.assert_array_equal(imaging.word_classes[unit], units.word_classes[row])
        assert not imaging.omics[~imaging.mask].any()
        assert not imaging.omics_mask[~imaging.mask].any()
        np.testing.assert_array_equal(imaging.time, packed.times[name][patients])
    for group, codes in packed.codes.items():
        np.testing.assert_array_equal(batch.codes[group], codes.values[patients])
        np.testing.assert_array_equal(batch.known[group], known_items(codes.values[patients], codes.widths))
    np.testing.assert_array_equal(batch.labels, packed.labels[patients])


def test_whole__folds_lesion_types_for_the_auxiliary_head() -> None:
    packed = make_packed(12)
    dataset = dataset_of(packed)
    batch = dataset.whole(np.arange(12))
    for stored, auxiliary in zip(packed.units["radiology"].classes, batch.imaging["radiology"].classes, strict=True):
        name = LESION_TYPES[stored]
        expected = name if name in AUXILIARY_LESION_TYPES else "other"
        assert AUXILIARY_LESION_TYPES[auxiliary] == expected


def test_whole__of_patients_without_any_image_has_masks_of_one_empty_place() -> None:
    packed = make_packed(12)
    none = np.array([p for p, pattern in enumerate(packed.modalities) if pattern == "none"])
    batch = dataset_of(packed).whole(none)
    for imaging in batch.imaging.values():
        assert imaging.features.shape[0] == 0
        assert imaging.features.shape[2] == 16
        assert imaging.mask.shape == (len(none), 1)
        assert not imaging.mask.any()


def test_training_batches__draw_the_asked_number_of_the_patients_own_units_and_views() -> None:
    packed = make_packed(16)
    dataset = dataset_of(packed)
    seen: dict[int, set[int]] = {}
    for epoch in range(30):
        rng = np.random.default_rng(epoch)
        batches = list(dataset.training_batches(np.arange(16), size=5, bags=6, lesions=4, rng=rng))
        assert [len(batch.labels) for batch in batches] == [5, 5, 5, 1]
        assert sorted(p for batch in batches for p in batch.patients.tolist()) == list(range(16))
        for batch in batches:
            for name, count in (("pathology", 6), ("radiology", 4)):
                imaging, units = batch.imaging[name], packed.units[name]
                has = units.counts[batch.patients.numpy()] > 0
                np.testing.assert_array_equal(imaging.mask.sum(dim=1), np.where(has, count, 0))
                rows = range(len(imaging.slots)) if imaging.rows is None else imaging.rows.tolist()
                for row, slot in zip(rows, imaging.slots.tolist(), strict=True):
                    features, place = imaging.features[row].numpy(), slot // imaging.mask.shape[1]
                    assert int(imaging.owner[row]) == place
                    patient = int(batch.patients[place])
                    own = units.features[units.offsets[patient] : units.offsets[patient + 1]]
                    if name == "pathology":
                        assert (own == features).all(axis=(1, 2)).any()
                    else:
                        _, views = np.nonzero((own == features).all(axis=2))
                        assert len(views) == 1
                        seen.setdefault(patient, set()).update(views.tolist())
    assert all(views == {0, 1, 2} for views in seen.values())


def test_training_batches__hold_what_was_drawn_twice_once() -> None:
    rng = np.random.default_rng(0)
    (batch,) = dataset_of(make_packed(16)).training_batches(np.arange(16), size=16, bags=6, lesions=4, rng=rng)
    imaging = batch.imaging["pathology"]
    assert imaging.rows is not None
    assert len(imaging.features) < len(imaging.rows)
    assert len(np.unique(imaging.features.numpy(), axis=0)) == len(imaging.features)


def test_training_batches__repeat_with_the_same_generator_and_differ_with_another() -> None:
    dataset = dataset_of(make_packed(16))

    def first(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        batches = dataset.training_batches(np.arange(16), size=8, bags=3, lesions=2, rng=rng)
        return next(iter(batches)).imaging["pathology"].features

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_evaluation_batches__hold_everyone_once_within_the_limits() -> None:
    packed = make_packed(40, bags=9)
    dataset = dataset_of(packed)
    patients = np.arange(3, 40)
    batches = list(dataset.evaluation_batches(patients, size=6, max_units=12))
    assert sorted(p for batch in batches for p in batch.patients.tolist()) == patients.tolist()
    assert any(len(batch.labels) > 1 for batch in batches)
    for batch in batches:
        assert len(batch.labels) <= 6
        for imaging in batch.imaging.values():
            assert imaging.mask.numel() <= 12 or len(batch.labels) == 1


@pytest.mark.parametrize(("endpoint", "known"), [("os", True), ("pfs", True), ("none", False)])
def test_dataset__takes_the_endpoint_asked_for(endpoint: str, known: bool) -> None:
    packed = make_packed(20)
    dataset = dataset_of(packed, endpoint=endpoint)
    if known:
        np.testing.assert_array_equal(dataset.days, packed.days[endpoint])
        np.testing.assert_array_equal(dataset.events, packed.events[endpoint] == 1)
    else:
        assert np.isnan(dataset.days).all()


def test_dataset__treats_a_time_without_an_event_status_as_unknown() -> None:
    packed = make_packed(4, missing=False)
    packed.events["os"][2] = -1
    assert np.isnan(dataset_of(packed).days).tolist() == [False, False, True, False]


# --- layout -----------------------------------------------------------------------------------------------


def test_layout_of__reads_widths_from_the_pack_and_leaves_out_ablated_parts() -> None:
    packed = make_packed(12)
    scalers = fit_scalers(packed, np.arange(12), 10.0)
    full = layout_of(packed, scalers, ModelSettings())
    assert [m.name for m in full.modalities] == ["pathology", "radiology"]
    assert (full.modalities[0].feature_width, full.modalities[0].omics_width) == (16, 6)
    assert full.modalities[1].report_widths == (2, 5, 2)
    assert full.information_widths == (2, 2, 3, 13)
    ablated = layout_of(
        packed,
        scalers,
        ModelSettings(modalities=("radiology",), omics=False, reports=False, patient_information=False),
    )
    assert [m.name for m in ablated.modalities] == ["radiology"]
    assert (ablated.modalities[0].omics_width, ablated.modalities[0].report_widths) == (0, ())
    assert ablated.information_widths == ()


def test_layout_of__a_cohort_without_images_of_a_modality_has_no_branch_for_them() -> None:
    packed = without_images(make_packed(12), "pathology")
    layout = layout_of(packed, fit_scalers(packed, np.arange(12), 10.0), ModelSettings())
    assert (layout.modalities[0].feature_width, layout.modalities[0].omics_width) == (0, 0)
    assert layout.modalities[0].report_widths == (10, 4)


def test_layout_of__a_modality_with_neither_images_nor_report_is_left_out() -> None:
    packed = without_images(make_packed(12), "pathology")
    layout = layout_of(packed, fit_scalers(packed, np.arange(12), 10.0), ModelSettings(reports=False))
    assert [m.name for m in layout.modalities] == ["radiology"]


def test_known_items__of_codes_with_other_widths_are_refused() -> None:
    with pytest.raises(FitError, match="expected 5 classes in all, found 4"):
        known_items(np.zeros((2, 4)), (2, 3))

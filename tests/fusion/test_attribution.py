"""Weights, effects and integrated gradients against asking the model about changed packs, and finite differences."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from packs import make_packed
from torch import Tensor, nn

from mumo.config import ModelSettings
from mumo.errors import FitError
from mumo.fusion.attribution import (
    Probe,
    Target,
    feature_gradients,
    item_parts,
    omics_attribution,
    unit_parts,
    word_parts,
)
from mumo.fusion.dataset import Batch, Dataset, fit_scalers, layout_of
from mumo.fusion.model import MuMo
from mumo.stores.packed import Packed

SMALL = ModelSettings(width=8, heads=2, feed_forward=12)
PACKED = make_packed(16, words=4, bags=5, lesions=5)
WITH_BOTH = int(np.argmax(np.min([units.counts for units in PACKED.units.values()], axis=0)))
"""A patient with several bags and several lesions."""


def build(packed: Packed = PACKED, settings: ModelSettings = SMALL) -> tuple[MuMo, Dataset]:
    scalers = fit_scalers(packed, np.arange(len(packed.patients)), 10.0)
    layout = layout_of(packed, scalers, settings)
    torch.manual_seed(0)
    model = MuMo(layout, settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.double().eval(), Dataset(packed, layout, scalers, "os")


def doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {name: doubled(item) for name, item in value.items()}
    if value is None:
        return None
    return dataclasses.replace(value, **{f.name: doubled(getattr(value, f.name)) for f in dataclasses.fields(value)})


def batch_of(dataset: Dataset, patient: int) -> Batch:
    whole: Batch = doubled(dataset.whole(np.array([patient])))
    return whole


def probe(patient: int = WITH_BOTH) -> Probe:
    model, dataset = build()
    return Probe(model, batch_of(dataset, patient))


def without_unit(packed: Packed, modality: str, patient: int, unit: int) -> Packed:
    """The pack without one unit of a patient."""
    units = packed.units[modality]
    row = int(units.offsets[patient]) + unit
    offsets = units.offsets.copy()
    offsets[patient + 1 :] -= 1
    kept = {
        name: np.delete(getattr(units, name), row, axis=0)
        for name in ("features", "classes", "word_classes", "omics", "omics_known", "sources", "names")
    }
    changed = dataclasses.replace(units, offsets=offsets, **kept)
    return dataclasses.replace(packed, units={**packed.units, modality: changed})


def risk(model: MuMo, batch: Batch) -> float:
    with torch.no_grad():
        return float(model(batch).risk[0])


@pytest.mark.parametrize("modality", ["pathology", "radiology"])
@pytest.mark.parametrize("target", ["risk", "response"])
def test_unit_parts__effects_sum_to_what_a_pack_without_the_units_lacks(modality: str, target: Target) -> None:
    model, dataset = build()
    asked = Probe(model, batch_of(dataset, WITH_BOTH), target)
    parts = unit_parts(asked, modality)
    assert len(parts.effect) == asked.units(modality) > 1
    packed = PACKED
    for _ in parts.effect:
        packed = without_unit(packed, modality, WITH_BOTH, 0)
    none = batch_of(Dataset(packed, dataset.layout, dataset.scalers, "os"), WITH_BOTH)
    assert parts.effect.sum() == pytest.approx(asked.value - output_of(model, none, target), abs=1e-9)


def test_unit_parts__drawn_orders_come_near_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = make_packed(16, words=4, bags=12, lesions=2, seed=2)
    model, dataset = build(packed)
    asked = Probe(model, batch_of(dataset, int(np.argmax(packed.units["pathology"].counts))))
    count = asked.units("pathology")
    assert 9 <= count <= 12
    drawn = unit_parts(asked, "pathology").effect
    assert drawn == pytest.approx(unit_parts(asked, "pathology").effect, abs=0)
    monkeypatch.setattr("mumo.fusion.attribution.EXACT_UNITS", count)
    exact = unit_parts(asked, "pathology").effect
    assert drawn.sum() == pytest.approx(exact.sum(), abs=1e-9)
    assert np.corrcoef(drawn, exact)[0, 1] > 0.95 and not np.allclose(drawn, exact)


def test_unit_parts__of_bags_that_say_the_same_each_gets_its_share() -> None:
    units = PACKED.units["pathology"]
    row = int(units.offsets[WITH_BOTH])
    features, omics = units.features.copy(), units.omics.copy()
    features[row + 1], omics[row + 1] = features[row], omics[row]
    known = units.omics_known.copy()
    known[row + 1] = known[row]
    twins = dataclasses.replace(units, features=features, omics=omics, omics_known=known)
    model, dataset = build(dataclasses.replace(PACKED, units={**PACKED.units, "pathology": twins}))
    first, second, *_ = unit_parts(Probe(model, batch_of(dataset, WITH_BOTH)), "pathology").effect
    assert first == pytest.approx(second, abs=1e-9) and abs(first) > 1e-3


def test_probe__says_the_risk_that_prediction_says() -> None:
    model, dataset = build()
    for patient in range(len(PACKED.patients)):
        batch = batch_of(dataset, patient)
        asked = Probe(model, batch)
        assert asked.value == risk(model, batch)
        everything = torch.ones(2, asked.units("pathology"), dtype=torch.bool)
        if asked.units("pathology"):
            assert asked.without_units("pathology", everything) == pytest.approx([asked.value] * 2, abs=1e-12)


def test_probe__takes_one_patient() -> None:
    model, dataset = build()
    with pytest.raises(FitError, match="takes one patient, found 2"):
        Probe(model, doubled(dataset.whole(np.array([0, 1]))))


def test_weights__sum_to_one_over_what_is_there_and_padding_gets_none() -> None:
    model, dataset = build()
    both = doubled(dataset.whole(np.arange(len(PACKED.patients))))
    output = model(both)
    for modality, units in PACKED.units.items():
        weights, mask = output.weights[f"{modality}/units"].detach(), both.imaging[modality].mask
        assert (weights[~mask] == 0).all()
        assert weights.sum(dim=1).tolist() == pytest.approx((units.counts > 0).astype(float).tolist())
        for patient in np.flatnonzero(units.counts):
            parts = unit_parts(Probe(model, batch_of(dataset, int(patient))), modality)
            assert parts.weight.sum() == pytest.approx(1)
            assert parts.weight == pytest.approx(weights[patient][mask[patient]].numpy(), abs=1e-12)


def test_word_parts__weights_sum_to_one_over_the_patient() -> None:
    parts = word_parts(probe())
    assert parts.weight.shape == (PACKED.units["pathology"].counts[WITH_BOTH], 4)
    assert parts.weight.sum() == pytest.approx(1)
    bags = unit_parts(probe(), "pathology").weight
    assert parts.weight.sum(axis=1) == pytest.approx(bags)


def test_without_words__is_a_pack_without_these_words() -> None:
    one_bag = make_packed(12, words=4, bags=1)
    patient = one_bag.modalities.index("both")
    model, dataset = build(one_bag)
    kept = torch.tensor([[[True, False, True, True]]])
    units = one_bag.units["pathology"]
    fewer = dataclasses.replace(
        units, features=units.features[:, [0, 2, 3]], word_classes=units.word_classes[:, [0, 2, 3]]
    )
    other = dataclasses.replace(one_bag, units={**one_bag.units, "pathology": fewer})
    expected = risk(model, batch_of(Dataset(other, dataset.layout, dataset.scalers, "os"), patient))
    assert Probe(model, batch_of(dataset, patient)).without_words(kept) == pytest.approx([expected], abs=1e-9)


def test_without_words__a_bag_without_words_is_no_bag() -> None:
    asked = probe()
    bags = asked.units("pathology")
    kept = torch.ones(1, bags, 4, dtype=torch.bool)
    kept[0, 0] = False
    expected = asked.without_units("pathology", kept.any(dim=2))
    assert asked.without_words(kept) == pytest.approx(expected, abs=1e-12)


def test_word_parts__effect_is_first_order_in_the_bags_token() -> None:
    """The effect equals the exact change where the token hardly moves the rest: with a small step towards it."""
    asked = probe()
    parts = word_parts(asked)
    branch = asked.model.modalities[0].branch
    batch = asked.batch.imaging["pathology"]
    step = 1e-5
    for bag, word in ((0, 0), (1, 3)):
        mask = torch.ones(len(batch.features), 4, dtype=torch.bool)
        mask[bag, word] = False
        with torch.no_grad():
            change = branch.tokens(batch, mask) - asked.tokens["pathology"]
        moved = asked.with_tokens("pathology", (asked.tokens["pathology"] + step * change)[None])[0]
        assert parts.effect[bag, word] == pytest.approx((asked.value - moved) / step, rel=1e-3, abs=1e-6)


def test_item_parts__effect_is_that_of_an_unknown_item() -> None:
    model, dataset = build()
    batch = batch_of(dataset, WITH_BOTH)
    parts = item_parts(Probe(model, batch), "patient_information", "patient_information")
    known = batch.known["patient_information"][0]
    assert known.any() and parts.weight.sum() == pytest.approx(1)
    for item in range(len(known)):
        fewer = batch.known["patient_information"].clone()
        fewer[0, item] = False
        changed = dataclasses.replace(batch, known={**batch.known, "patient_information": fewer})
        expected = risk(model, batch) - risk(model, changed) if known[item] else 0.0
        assert parts.effect[item] == pytest.approx(expected, abs=1e-9)
        assert (parts.weight[item] == 0) == (not known[item])


def with_lesions(batch: Batch, features: Tensor) -> Batch:
    """The patient with lesions of other deep features [lesion, width]."""
    changed = dataclasses.replace(batch.imaging["radiology"], features=features[:, None])
    return dataclasses.replace(batch, imaging={**batch.imaging, "radiology": changed})


def output_of(model: MuMo, batch: Batch, target: Target) -> float:
    """The risk, or log p / (1 - p) of the probability of response p."""
    with torch.no_grad():
        output = model(batch)
    if target == "risk":
        return float(output.risk[0])
    none, some = torch.softmax(output.logits[0], dim=0)
    return float(torch.log(some / none))


@pytest.mark.parametrize("target", ["risk", "response"])
def test_feature_gradients__are_those_of_finite_differences_where_the_path_is_a_point(target: Target) -> None:
    model, dataset = build()
    batch = batch_of(dataset, int(np.argmax(PACKED.units["radiology"].counts == 1)))
    features = batch.imaging["radiology"].features[:, 0].double()
    assert len(features) == 1
    slopes = feature_gradients(Probe(model, batch, target), features[0].numpy())
    assert slopes.shape == (1, 16)
    step = 1e-5
    for column in (0, 7, 15):
        values = []
        for sign in (1, -1):
            moved = features.clone()
            moved[0, column] += sign * step
            values.append(output_of(model, with_lesions(batch, moved), target))
        assert slopes[0, column] == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("target", ["risk", "response"])
def test_feature_gradients__share_out_the_difference_from_average_lesions(target: Target) -> None:
    model, dataset = build()
    batch = batch_of(dataset, WITH_BOTH)
    features = batch.imaging["radiology"].features[:, 0].double()
    average = np.random.default_rng(0).normal(size=16)
    slopes = feature_gradients(Probe(model, batch, target), average)
    starts = with_lesions(batch, torch.from_numpy(average).expand_as(features))
    difference = output_of(model, batch, target) - output_of(model, starts, target)
    assert abs(difference) > 0.01
    assert ((features.numpy() - average) * slopes).sum() == pytest.approx(difference, rel=1e-3)


def test_omics_attribution__is_complete() -> None:
    model, dataset = build()
    for patient in range(len(PACKED.patients)):
        batch = batch_of(dataset, patient)
        found = omics_attribution(Probe(model, batch))
        has = any(bool(entry.omics_mask.any()) for entry in batch.imaging.values())
        assert (found is not None) == has
        if found is None:
            continue
        medians = {
            name: dataclasses.replace(entry, omics=torch.zeros_like(entry.omics))
            for name, entry in batch.imaging.items()
        }
        expected = risk(model, batch) - risk(model, dataclasses.replace(batch, imaging=medians))
        assert found.difference == pytest.approx(expected, abs=1e-9)
        assert abs(found.gap) < 1e-5


def test_omics_attribution__of_a_linear_model_is_gradient_times_value() -> None:
    """With one unit, attention has nothing to weigh, so the risk is linear in its omics: the exact case."""
    alone = make_packed(12, bags=1, lesions=1, missing=False)
    model, dataset = build(alone, SMALL.model_copy(update={"modalities": ("pathology",), "patient_information": False}))
    batch = batch_of(dataset, 0)
    found = omics_attribution(Probe(model, batch))
    assert found is not None
    omics = batch.imaging["pathology"].omics.clone().requires_grad_()
    pathology = dataclasses.replace(batch.imaging["pathology"], omics=omics)
    model(dataclasses.replace(batch, imaging={"pathology": pathology})).risk.sum().backward()
    assert omics.grad is not None
    expected = (omics.grad * omics)[0].detach().numpy()
    assert found.values["pathology"] == pytest.approx(expected, abs=1e-7)


def test_omics_attribution__does_not_depend_on_units_without_omics() -> None:
    model, dataset = build()
    units = PACKED.units["pathology"]
    patient = next(p for p in np.flatnonzero(units.counts > 1))
    unknown = dataclasses.replace(units, omics_known=units.omics_known.copy())
    unknown.omics_known[units.offsets[patient]] = False
    other = dataclasses.replace(PACKED, units={**PACKED.units, "pathology": unknown})
    found = omics_attribution(Probe(model, batch_of(Dataset(other, dataset.layout, dataset.scalers, "os"), patient)))
    assert found is not None
    assert (found.values["pathology"][0] == 0).all() and (found.values["pathology"][1] != 0).any()

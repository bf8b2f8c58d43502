"""What `mumo explain` says, against a model in plain NumPy that reads the checkpoint's tensors and nothing else.

The oracle has no masks, copies or hooks: a part is left out by building the patient without it, integrals are sums,
gradients are differences.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from packs import make_packed
from plain_model import Array, Patient, PlainModel, patient_of
from torch import nn

from mumo.config import ModelSettings
from mumo.fusion.attribution import (
    Probe,
    Target,
    feature_gradients,
    item_parts,
    omics_attribution,
    unit_parts,
    word_parts,
)
from mumo.fusion.dataset import Dataset, fit_scalers, layout_of
from mumo.fusion.deletion import deletion
from mumo.fusion.model import MuMo

SETTINGS = ModelSettings(width=8, heads=2, feed_forward=12)
PACKED = make_packed(16, words=4, bags=5, lesions=4, seed=3)
EVERYONE = range(len(PACKED.patients))
MOST = int(np.argmax(np.min([units.counts for units in PACKED.units.values()], axis=0)))
"""A patient with several bags and several lesions."""
NEAR = pytest.approx


def make() -> tuple[MuMo, Dataset, PlainModel]:
    scalers = fit_scalers(PACKED, np.arange(len(PACKED.patients)), 10.0)
    layout = layout_of(PACKED, scalers, SETTINGS)
    torch.manual_seed(1)
    model = MuMo(layout, SETTINGS)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    state = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    return model.eval(), Dataset(PACKED, layout, scalers, "os"), PlainModel(state, SETTINGS.heads)


MODEL, DATASET, PLAIN = make()


TARGETS: tuple[Target, ...] = ("risk", "response")


def asked(number: int, target: Target) -> tuple[Probe, Patient, tuple[Array, ...]]:
    return Probe(MODEL, DATASET.whole(np.array([number])), target), *patient_of(PACKED, number)


def output_with(
    name: str, patient: Patient, information: tuple[Array, ...], target: Target, there: frozenset[int]
) -> float:
    """The plain model's output for the patient with some of the bags or lesions."""
    some = patient[name].of(np.isin(np.arange(len(patient[name].features)), list(there)))
    return PLAIN({**patient, name: some}, information).output(target)


def test_explain__outputs_and_weights_are_those_of_the_plain_model() -> None:
    assert set(PACKED.modalities) == {"both", "pathology", "radiology", "none"}
    for number in EVERYONE:
        probe, patient, information = asked(number, "risk")
        said = PLAIN(patient, information)
        for target in TARGETS:
            assert asked(number, target)[0].value == NEAR(said.output(target), abs=2e-5)
        for name, parts in patient.items():
            if len(parts.features):
                assert unit_parts(probe, name).weight == NEAR(said.weights[f"{name}/units"], abs=1e-5)
            weight = item_parts(probe, f"{name}_report", f"{name}/report").weight
            assert weight == NEAR(said.weights[f"{name}/report"], abs=1e-5)
        weight = item_parts(probe, "patient_information", "patient_information").weight
        assert weight == NEAR(said.weights["patient_information"], abs=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_explain__effects_of_units_are_means_over_all_orders_in_which_they_join(target: Target) -> None:
    """Of a patient's only bag or lesion as well, whose modality then rests on its report."""
    single = 0
    for number in EVERYONE:
        probe, patient, information = asked(number, target)
        for name, parts in patient.items():
            count = len(parts.features)
            if not count:
                continue
            single += count == 1

            output = functools.cache(functools.partial(output_with, name, patient, information, target))
            expected = np.zeros(count)
            orders = list(itertools.permutations(range(count)))
            for order in orders:
                for place, unit in enumerate(order):
                    joined = output(frozenset(order[: place + 1])) - output(frozenset(order[:place]))
                    expected[unit] += joined / len(orders)
            assert unit_parts(probe, name).effect == NEAR(expected, abs=5e-5)
    assert single


@pytest.mark.parametrize("target", TARGETS)
def test_explain__effects_of_items_are_those_of_patients_of_whom_they_are_unknown(target: Target) -> None:
    for number in EVERYONE:
        probe, patient, information = asked(number, target)
        whole = PLAIN(patient, information).output(target)
        for name, parts in patient.items():
            expected = [
                whole - PLAIN({**patient, name: replace(parts, report=unknown)}, information).output(target)
                for unknown in one_less(parts.report)
            ]
            assert item_parts(probe, f"{name}_report", f"{name}/report").effect == NEAR(expected, abs=5e-5)
        expected = [whole - PLAIN(patient, unknown).output(target) for unknown in one_less(information)]
        assert item_parts(probe, "patient_information", "patient_information").effect == NEAR(expected, abs=5e-5)


def one_less(codes: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    return [tuple(code * (place != item) for place, code in enumerate(codes)) for item in range(len(codes))]


@pytest.mark.parametrize("target", TARGETS)
def test_explain__words_have_the_weights_of_both_poolings_and_effects_of_first_order(target: Target) -> None:
    probe, patient, information = asked(MOST, target)
    bags, tokens = patient["pathology"], PLAIN.tokens(patient)
    parts = word_parts(probe)
    outer = PLAIN(patient, information).weights["pathology/units"]
    for bag, words in enumerate(bags.features):
        token, inner = PLAIN.bag(words, bags.time)
        assert parts.weight[bag] == NEAR(outer[bag] * inner, abs=1e-5)
        for word in range(len(words)):
            change = token - PLAIN.bag(np.delete(words, word, axis=0), bags.time)[0]
            outputs = []
            for step in (1e-4, -1e-4):
                moved = tokens["pathology"].copy()
                moved[bag] += step * change
                outputs.append(PLAIN(patient, information, {**tokens, "pathology": moved}).output(target))
            assert parts.effect[bag, word] == NEAR((outputs[0] - outputs[1]) / 2e-4, abs=2e-5, rel=1e-3)


@pytest.mark.parametrize("target", TARGETS)
def test_explain__omics_have_the_integrals_of_the_gradient_along_the_line_from_the_median(target: Target) -> None:
    """Midpoint sums of 100 central differences; features of a cohort's columns in all units of a patient together."""
    probe, patient, information = asked(MOST, target)
    tokens, points = PLAIN.tokens(patient), (np.arange(100) + 0.5) / 100

    def output(share: float, name: str = "", column: int = 0, step: float = 0.0) -> float:
        there = {}
        for own, parts in patient.items():
            omics = share * parts.omics
            if own == name:
                omics[:, column] += step * parts.omics[:, column]
            there[own] = replace(parts, omics=omics)
        return PLAIN(there, information, tokens).output(target)

    found = omics_attribution(probe)
    assert found is not None and set(found.values) == set(patient)
    assert found.difference == NEAR(output(1) - output(0), abs=2e-5)
    assert sum(values.sum() for values in found.values.values()) == NEAR(output(1) - output(0), abs=5e-5)
    for name, values in found.values.items():
        for column in range(values.shape[1]):
            slopes = [(output(at, name, column, 1e-4) - output(at, name, column, -1e-4)) / 2e-4 for at in points]
            assert values[:, column].sum() == NEAR(np.mean(slopes), abs=5e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_explain__slopes_of_lesions_are_means_along_the_line_from_the_average_lesion(target: Target) -> None:
    """Midpoint sums of 50 central differences, of each feature in all lesions together, and of all features."""
    probe, patient, information = asked(MOST, target)
    lesions, points = patient["radiology"], (np.arange(50) + 0.5) / 50
    average = PACKED.units["radiology"].features[:, 0].astype(float).mean(axis=0)
    away, tokens = lesions.features - average, PLAIN.tokens(patient)  # (lesion, 1, width)

    def output(share: float, column: int = 0, step: float = 0.0) -> float:
        features = average + share * away
        features[..., column] += step * away[..., column]
        own = np.array([PLAIN.gated(1, lesion, lesions.time)[0] for lesion in features])
        return PLAIN(patient, information, {**tokens, "radiology": own}).output(target)

    slopes = feature_gradients(probe, average)
    parts = away[:, 0] * slopes
    assert parts.sum() == NEAR(output(1) - output(0), abs=1e-4)
    for column in range(0, parts.shape[1], 3):
        changes = [(output(at, column, 1e-4) - output(at, column, -1e-4)) / 2e-4 for at in points]
        assert parts[:, column].sum() == NEAR(np.mean(changes), abs=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_deletion__moves_are_those_of_patients_without_the_parts(target: Target) -> None:
    """Equal importances go in the order of the pack; a random bag moves the output by the mean over all bags."""
    probe, patient, information = asked(int(np.argmax(PACKED.units["pathology"].counts)), target)
    bags = patient["pathology"]
    count = len(bags.features)
    assert count == 5
    importance = np.array([0.0, 2.0, 1.0, 2.0, 1.0])
    moves = deletion(probe, "bags", {"own": importance}, draws=400, rng=np.random.default_rng(0))

    def moved(*gone: int) -> float:
        kept = ~np.isin(np.arange(count), gone)
        return abs(
            PLAIN({**patient, "pathology": bags.of(kept)}, information).output(target)
            - PLAIN(patient, information).output(target)
        )

    own = {move.count: move.moved for move in moves if move.by == "own"}
    assert own == NEAR({1: moved(1), 2: moved(1, 3), 4: moved(1, 3, 2, 4)}, abs=5e-5)
    by_chance = {move.count: move for move in moves if move.by == "random"}
    alone = np.array([moved(bag) for bag in range(count)])
    assert by_chance[1].moved == NEAR(alone.mean(), abs=4 * alone.std() / 20)
    assert by_chance[1].spread == NEAR(alone.std(), rel=0.15)


@pytest.mark.parametrize("target", TARGETS)
def test_deletion__of_words_leaves_out_bags_that_have_lost_them_all(target: Target) -> None:
    probe, patient, information = asked(MOST, target)
    bags = patient["pathology"]
    count = len(bags.features)
    importance = np.zeros((count, 4))
    importance[0] = 4, 3, 2, 1  # all words of the first bag
    moves = deletion(probe, "words", {"own": importance}, draws=1, rng=np.random.default_rng(0))
    own = {move.count: move.moved for move in moves if move.by == "own"}
    whole = PLAIN(patient, information).output(target)
    without = PLAIN({**patient, "pathology": bags.without(0)}, information).output(target)
    assert own[4] == NEAR(abs(without - whole), abs=5e-5)
    tokens = PLAIN.tokens(patient)
    tokens["pathology"][0] = PLAIN.bag(bags.features[0][1:], bags.time)[0]
    assert own[1] == NEAR(abs(PLAIN(patient, information, tokens).output(target) - whole), abs=5e-5)

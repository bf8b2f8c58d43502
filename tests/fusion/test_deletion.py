"""Deletion and randomisation, on a cohort where one bag of a responder carries the signal, and on chance."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from packs import make_packed

from mumo.config import FitSettings, ModelSettings, Settings, SplitSettings
from mumo.fusion import train
from mumo.fusion.attribution import Probe, unit_parts, word_parts
from mumo.fusion.deletion import (
    COUNTS,
    Move,
    curves,
    deletion,
    likeness,
    likeness_by_chance,
    one_way,
    randomised,
    rank_correlation,
)
from mumo.fusion.model import MuMo
from mumo.stores.packed import Packed

BAGS = 12


def planted(patients: int = 60, seed: int = 0) -> Packed:
    """Every patient has 12 bags of 4 words; of responders, the first bag's first 4 features are raised."""
    packed = make_packed(patients, seed=seed, missing=False, bags=1)
    rng = np.random.default_rng(seed)
    labels = packed.labels.astype(int)
    features = rng.normal(size=(patients * BAGS, 4, 16)) * 0.5
    features[::BAGS, :, :4] += 4.0 * labels[:, None, None]
    total = patients * BAGS
    units = dataclasses.replace(
        packed.units["pathology"],
        features=features.astype("float16"),
        offsets=np.arange(patients + 1) * BAGS,
        classes=np.full(total, -1, dtype="int8"),
        word_classes=np.full((total, 4), -1, dtype="int8"),
        omics=np.zeros((total, 0), dtype="float32"),
        omics_known=np.zeros(total, dtype=bool),
        sources=np.repeat([f"slide-S{name}" for name in packed.patients], BAGS),
        names=np.tile([str(n) for n in range(BAGS)], patients),
        omics_columns=(),
    )
    days = np.where(labels == 1, 900.0, 100.0) + rng.uniform(0, 50, patients)
    return dataclasses.replace(
        packed,
        units={**packed.units, "pathology": units},
        days={"pfs": days, "os": days},
        events={"pfs": np.ones(patients, dtype="int8"), "os": np.ones(patients, dtype="int8")},
    )


@pytest.fixture(scope="module")
def trained() -> tuple[train.Prepared, torch.nn.Module]:
    settings = Settings(
        model=ModelSettings(
            width=16, heads=2, feed_forward=16, dropout=0.1, modalities=("pathology",), omics=False, reports=False,
            patient_information=False,
        ),
        fit=FitSettings(
            epochs=25, bags_per_patient=BAGS, learning_rate=5e-3, batch_patients=16, average_best=1,
            split=SplitSettings(test=0.3, validation=0.2),
        ),
    )  # fmt: skip
    prepared = train.prepare(planted(), settings)
    return prepared, train.train(prepared, settings, device=torch.device("cpu")).model.eval()


def probes(trained: tuple[train.Prepared, torch.nn.Module], label: int | None = None) -> list[Probe]:
    prepared, model = trained
    patients = prepared.patients("test")
    labels = prepared.dataset.labels[patients]
    chosen = patients if label is None else patients[labels == label]
    return [Probe(model, prepared.dataset.whole(np.array([p]))) for p in chosen]  # type: ignore[arg-type]


def test_unit_parts__find_the_planted_bag_of_held_out_responders(
    trained: tuple[train.Prepared, torch.nn.Module],
) -> None:
    found = [int(np.argmin(unit_parts(probe, "pathology").effect)) for probe in probes(trained, label=1)]
    assert len(found) >= 8 and np.mean(np.array(found) == 0) >= 0.9  # the bag that lowers the risk most


@pytest.mark.parametrize("level", ["bags", "words"])
def test_deletion__of_the_largest_effects_moves_the_risk_more_than_chance(
    trained: tuple[train.Prepared, torch.nn.Module], level: str
) -> None:
    rng = np.random.default_rng(0)
    moves = []
    for probe in probes(trained, label=1):
        parts = unit_parts(probe, "pathology") if level == "bags" else word_parts(probe)
        moves.append(deletion(probe, level, {"effect": one_way(parts.effect)}, draws=10, rng=rng))
    rows = {(row.count, row.by): row for row in curves(level, moves)}
    first = rows[1, "effect"]
    assert first.patients == len(moves) and first.wins >= 0.9
    assert first.moved > rows[1, "random"].moved + 2 * rows[1, "random"].spread


def test_deletion__of_parts_in_random_order_is_no_better_than_chance(
    trained: tuple[train.Prepared, torch.nn.Module],
) -> None:
    rng = np.random.default_rng(1)
    moves = [
        deletion(probe, "bags", {"effect": rng.permutation(BAGS).astype(float)}, draws=20, rng=rng)
        for probe in probes(trained)
    ]
    rows = {(row.count, row.by): row for row in curves("bags", moves)}
    assert rows[4, "effect"].moved == pytest.approx(rows[4, "random"].moved, rel=0.5)
    assert 0.1 < rows[4, "effect"].wins < 0.9


def test_deletion__always_leaves_something(trained: tuple[train.Prepared, torch.nn.Module]) -> None:
    moves = deletion(probes(trained)[0], "bags", {"effect": np.arange(BAGS)}, draws=2, rng=np.random.default_rng(0))
    assert sorted({move.count for move in moves}) == [count for count in COUNTS["bags"] if count < BAGS]


def test_randomised__gives_another_map_and_leaves_the_generator_alone(
    trained: tuple[train.Prepared, torch.nn.Module],
) -> None:
    _, model = trained
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    other = randomised(model.layout, ModelSettings(width=16, heads=2, feed_forward=16), 0)
    assert torch.rand(1) == expected
    own, strange = [], []
    for probe in probes(trained):
        again = Probe(other, probe.batch)
        own.append(rank_correlation(unit_parts(probe, "pathology").effect, unit_parts(probe, "pathology").effect))
        strange.append(rank_correlation(unit_parts(probe, "pathology").effect, unit_parts(again, "pathology").effect))
    assert own == pytest.approx([1.0] * len(own))
    assert np.mean(strange) < 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_randomised__is_never_the_model_that_training_began_with(
    trained: tuple[train.Prepared, torch.nn.Module], seed: int
) -> None:
    prepared, _ = trained
    settings = ModelSettings(width=16, heads=2, feed_forward=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as training with `fit.seed` does
        began = MuMo(prepared.layout, settings)
    for number in range(5):
        other = randomised(prepared.layout, settings, number)
        for own, strange in zip(began.parameters(), other.parameters(), strict=True):
            if own.dim() > 1:
                assert not torch.equal(own, strange)


def test_randomised__models_differ_and_come_again(trained: tuple[train.Prepared, torch.nn.Module]) -> None:
    layout, settings = trained[0].layout, ModelSettings(width=16, heads=2, feed_forward=16)
    first, second, again = (randomised(layout, settings, number).risk.weight for number in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_rank_correlation__is_undefined_for_constant_and_tiny_maps() -> None:
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0)))
    assert np.isnan(rank_correlation(np.arange(2.0), np.arange(2.0)))
    assert rank_correlation(np.array([1.0, 2, 3, 9]), np.array([0.0, 0.1, 0.2, 0.3])) == pytest.approx(1)


def test_likeness__of_a_map_and_its_reverse_is_one() -> None:
    values = np.array([[0.3, -1.0], [2.0, 0.1]])
    assert likeness(values, values) == likeness(values, -values) == pytest.approx(1)
    assert np.isnan(likeness(values, np.zeros((2, 2))))


def test_likeness_by_chance__is_the_mean_over_all_orders() -> None:
    """Of three parts, Spearman's correlation over the six orders is 1, 1/2, 1/2, −1/2, −1/2, −1; of many it nears 0."""
    rng = np.random.default_rng(0)
    assert likeness_by_chance(3, draws=4000, rng=rng) == pytest.approx(2 / 3, abs=0.02)
    # the correlation of n parts in random order has variance 1 / (n − 1), and is nearly normal
    assert likeness_by_chance(400, draws=500, rng=rng) == pytest.approx(np.sqrt(2 / np.pi / 399), rel=0.1)
    assert np.isnan(likeness_by_chance(2, draws=3, rng=rng))


def test_one_way__makes_the_heavier_sign_positive() -> None:
    assert one_way(np.array([1.0, -3.0, 0.5])).tolist() == [-1.0, 3.0, -0.5]
    assert one_way(np.array([4.0, -3.0])).tolist() == [4.0, -3.0]


def test_curves__average_over_the_patients_that_have_enough_parts() -> None:
    moves = [
        [Move(1, "effect", 2.0, 0), Move(1, "random", 1.0, 0.5), Move(2, "effect", 4.0, 0), Move(2, "random", 5.0, 1)],
        [Move(1, "effect", 0.0, 0), Move(1, "random", 1.0, 0.1)],
    ]
    one, chance, two, _ = curves("bags", moves)
    assert (one.count, one.by, one.patients, one.moved, one.wins) == (1, "effect", 2, 1.0, 0.5)
    assert (chance.moved, chance.spread) == (1.0, pytest.approx(0.3))
    assert (two.count, two.patients, two.wins) == (2, 1, 0.0)

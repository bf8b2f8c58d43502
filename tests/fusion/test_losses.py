"""Losses against independent implementations and identities."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from lifelines import CoxPHFitter
from packs import make_packed
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from mumo.config import FitSettings, ModelSettings
from mumo.fusion import losses
from mumo.fusion.dataset import Dataset, fit_scalers, layout_of
from mumo.fusion.losses import Terms, alignment, cox, fade, focal
from mumo.fusion.model import MuMo


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- focal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal__of_two_classes_equals_torchvisions(gamma: float) -> None:
    logits = torch.randn(50, 2, generator=generator(), dtype=torch.float64) * 3
    targets = torch.randint(0, 2, (50,), generator=generator(1))
    expected = sigmoid_focal_loss(
        logits[:, 1] - logits[:, 0], targets.double(), alpha=-1, gamma=gamma, reduction="mean"
    )
    torch.testing.assert_close(focal(logits, targets, gamma), expected)


def test_focal__without_focus_is_the_cross_entropy() -> None:
    logits = torch.randn(4, 7, 5, generator=generator(), dtype=torch.float64)
    targets = torch.randint(-1, 5, (4, 7), generator=generator(1))
    expected = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.testing.assert_close(focal(logits, targets, 0.0), expected)


def test_focal__weighs_certain_answers_down() -> None:
    targets = torch.zeros(1, dtype=torch.int64)
    sure = torch.tensor([[math.log(0.9), math.log(0.1)]], dtype=torch.float64)
    assert focal(sure, targets, 2.0) == pytest.approx(-(0.1**2) * math.log(0.9))


def test_focal__of_nothing_known_is_absent() -> None:
    assert focal(torch.randn(3, 2), torch.full((3,), -1), 2.0) is None
    assert focal(torch.randn(0, 2), torch.zeros(0, dtype=torch.int64), 2.0) is None


def test_focal__has_finite_gradients_at_extreme_logits() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]], requires_grad=True)
    loss = focal(logits, torch.tensor([0, 0, 1]), 2.0)
    assert loss is not None
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


# --- Cox --------------------------------------------------------------------------------------------------


def survival_data(ties: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    days = rng.integers(1, 8, 40).astype(float) if ties else rng.permutation(40) + 1.0
    return rng.normal(size=40), days, rng.random(40) < 0.7


def naive_cox(risk: np.ndarray, days: np.ndarray, events: np.ndarray, ties: str) -> float:
    """From the definition, one event time after another."""
    total = 0.0
    for day in sorted(set(days[events])):
        dying = [i for i in range(len(days)) if events[i] and days[i] == day]
        at_risk = sum(math.exp(risk[i]) for i in range(len(days)) if days[i] >= day)
        tied = sum(math.exp(risk[i]) for i in dying)
        for number, i in enumerate(dying):
            less = number / len(dying) * tied if ties == "efron" else 0.0
            total += risk[i] - math.log(at_risk - less)
    return -total / events.sum()


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("tied", [True, False])
def test_cox__equals_a_loop_over_event_times(ties: losses.Ties, tied: bool) -> None:
    risk, days, events = survival_data(tied)
    found = cox(torch.from_numpy(risk), torch.from_numpy(days), torch.from_numpy(events), ties)
    assert found is not None
    assert float(found) == pytest.approx(naive_cox(risk, days, events, ties), rel=1e-12)


@pytest.mark.parametrize("tied", [True, False])
def test_cox__equals_lifelines_log_likelihood_at_its_estimate(tied: bool) -> None:
    covariate, days, events = survival_data(tied)
    frame = pd.DataFrame({"x": covariate, "days": days, "event": events})
    fitted = CoxPHFitter().fit(frame, "days", "event")
    risk = torch.from_numpy(covariate * float(fitted.params_["x"]))
    found = cox(risk, torch.from_numpy(days), torch.from_numpy(events))
    assert found is not None
    assert -float(found) * events.sum() == pytest.approx(fitted.log_likelihood_, rel=1e-6)


def test_cox__does_not_change_when_all_risks_shift() -> None:
    risk, days, events = (torch.from_numpy(values) for values in survival_data(True))
    torch.testing.assert_close(cox(risk, days, events), cox(risk + 300.0, days, events))


def test_cox__leaves_out_unknown_times() -> None:
    risk, days, events = (torch.from_numpy(values) for values in survival_data(True))
    more = (
        torch.cat([risk, risk[:3] + 5]),
        torch.cat([days, torch.full((3,), torch.nan)]),
        torch.cat([events, events[:3]]),
    )
    torch.testing.assert_close(cox(*more), cox(risk, days, events))


def test_cox__without_an_event_is_absent() -> None:
    assert cox(torch.randn(3), torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.bool)) is None
    assert cox(torch.randn(1), torch.tensor([torch.nan]), torch.ones(1, dtype=torch.bool)) is None


def test_cox__has_finite_gradients_at_extreme_risks_and_when_everyone_is_tied() -> None:
    risk = torch.tensor([-200.0, 0.0, 200.0, 5.0], requires_grad=True)
    loss = cox(risk, torch.full((4,), 7.0), torch.ones(4, dtype=torch.bool))
    assert loss is not None
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(risk.grad).all()


# --- alignment --------------------------------------------------------------------------------------------


def naive_nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    def similarity(one: torch.Tensor, two: torch.Tensor) -> float:
        return float(one @ two / (one.norm() * two.norm())) / temperature

    vectors = [*first, *second]
    pairs = len(first)
    total = 0.0
    for i in range(2 * pairs):
        partner = (i + pairs) % (2 * pairs)
        others = [math.exp(similarity(vectors[i], vectors[k])) for k in range(2 * pairs) if k != i]
        total -= similarity(vectors[i], vectors[partner]) - math.log(sum(others))
    return total / (2 * pairs)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_alignment__equals_a_loop_over_pairs(temperature: float) -> None:
    first = torch.randn(6, 5, generator=generator(), dtype=torch.float64)
    second = torch.randn(6, 5, generator=generator(1), dtype=torch.float64)
    found = alignment(first, second, temperature)
    assert found is not None
    assert float(found) == pytest.approx(naive_nt_xent(first, second, temperature), rel=1e-12)
    torch.testing.assert_close(found, alignment(second, first, temperature))


def test_alignment__is_lower_for_matching_pairs() -> None:
    vectors = torch.randn(6, 5, generator=generator())
    matching, shuffled = alignment(vectors, vectors, 0.5), alignment(vectors, vectors.roll(1, 0), 0.5)
    assert matching is not None
    assert shuffled is not None
    assert matching < shuffled


def test_alignment__of_fewer_than_two_pairs_is_absent() -> None:
    assert alignment(torch.randn(1, 4), torch.randn(1, 4), 0.5) is None
    assert alignment(torch.randn(0, 4), torch.randn(0, 4), 0.5) is None


# --- all terms --------------------------------------------------------------------------------------------


def test_fade__follows_its_formula() -> None:
    assert fade(0, 100) == pytest.approx(1 - math.exp(-5))
    assert fade(50, 100) == pytest.approx(1 - math.exp(-5 * 0.25))
    assert fade(100, 100) == 0.0


def test_total__is_the_weighted_sum_of_what_is_there() -> None:
    settings = FitSettings(survival_weight=2.0, alignment_weight=3.0)
    one = torch.tensor(1.0)
    assert float(Terms(one, one, one, one, None, one).total(settings, 0.1)) == pytest.approx(6.2)  # type: ignore[arg-type]
    assert float(Terms(None, None, None, None, one, None).total(settings, 0.1)) == pytest.approx(0.1)  # type: ignore[arg-type]
    assert Terms(None, None, None, None, None, None).total(settings, 0.1) is None
    assert Terms(one, None, None, one, one, None).values() == {
        "response": 1.0,
        "survival": None,
        "alignment": None,
        "word": 1.0,
        "bag": 1.0,
        "lesion": None,
        "auxiliary": 2.0,
    }


def test_terms__of_a_mixed_batch_are_all_there_and_of_a_poor_one_absent() -> None:
    packed = make_packed(16)
    scalers = fit_scalers(packed, np.arange(16), 10.0)
    settings = ModelSettings(width=16)
    layout = layout_of(packed, scalers, settings)
    dataset = Dataset(packed, layout, scalers, "os")
    model = MuMo(layout, settings).eval()
    batch = dataset.whole(np.arange(16))
    found = losses.terms(model(batch), batch, FitSettings(), align=True)
    assert all(value is not None and math.isfinite(value) for value in found.values().values())
    assert losses.terms(model(batch), batch, FitSettings(), align=False).alignment is None

    bare = np.array([p for p, pattern in enumerate(packed.modalities) if pattern == "none"])
    batch = dataset.whole(bare)
    found = losses.terms(model(batch), batch, FitSettings(), align=True)
    assert (found.alignment, found.word, found.bag, found.lesion) == (None, None, None, None)
    assert found.response is not None


def test_terms__align_only_patients_with_both_modalities() -> None:
    packed = make_packed(16)
    scalers = fit_scalers(packed, np.arange(16), 10.0)
    settings = ModelSettings(width=16, reports=False)
    layout = layout_of(packed, scalers, settings)
    dataset = Dataset(packed, layout, scalers, "os")
    model = MuMo(layout, settings).eval()
    batch = dataset.whole(np.arange(16))
    output = model(batch)
    both = torch.tensor([pattern == "both" for pattern in packed.modalities])
    assert output.agnostic is not None
    expected = alignment(output.agnostic[both, 0], output.agnostic[both, 1], 0.5)
    torch.testing.assert_close(losses.terms(output, batch, FitSettings(), align=True).alignment, expected)

"""Building blocks of the model, against torch's own attention, numerical gradients and what they promise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mumo.config import ModelSettings
from mumo.fusion.layers import Attention, Dropout, Gate, Pooling, SelfAttention

SMALL = ModelSettings(width=8, heads=2, feed_forward=12)


def test_self_attention__gives_every_repetition_a_dropout_of_its_own() -> None:
    torch.manual_seed(0)
    attend = SelfAttention(SMALL.model_copy(update={"dropout": 0.5})).train()
    out = attend(torch.randn(1, 3, 8), rows=torch.tensor([0, 0]))
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.9])
def test_dropout__zeroes_the_share_and_keeps_the_mean_and_the_gradient(rate: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(333, 1001, requires_grad=True)
    out = Dropout(rate).train()(x)
    assert float((out == 0).double().mean()) == pytest.approx(rate, abs=0.005)  # standard error below 0.001
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 1 / (1 - rate)))
    out.sum().backward()
    torch.testing.assert_close(x.grad, out.detach())


def test_dropout__in_evaluation_is_nothing_and_repeats_with_the_seed() -> None:
    x, dropout = torch.randn(7, 5), Dropout(0.4)
    assert dropout.eval()(x) is x
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(dropout.train()(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_attention__equals_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2).double(), nn.MultiheadAttention(8, 2, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, tokens = torch.randn(3, 2, 8).double(), torch.randn(3, 5, 8).double()
    mask = torch.tensor([[1, 1, 0, 1, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]]).bool()
    expected, weights = theirs(queries, tokens, tokens, key_padding_mask=~mask)
    torch.testing.assert_close(ours(queries, tokens, mask), expected)
    torch.testing.assert_close(ours(queries, tokens), theirs(queries, tokens, tokens)[0])
    one, looked = ours.looking(queries[:, 0], tokens, mask)
    torch.testing.assert_close(one, expected[:, 0])
    torch.testing.assert_close(looked, weights[:, 0])


def test_attention__over_an_empty_set_is_zero_with_finite_gradients() -> None:
    attention = Attention(8, 2)
    tokens = torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[False, False, False], [True, False, True]])
    both = attention(tokens, tokens, mask)
    one, weights = attention.looking(tokens[:, 0], tokens, mask)
    assert not both[0].any()
    assert not one[0].any()
    assert weights[0].tolist() == [0, 0, 0]
    assert weights[1].sum().item() == pytest.approx(1.0)
    (both.sum() + one.sum()).backward()
    assert torch.isfinite(tokens.grad).all()


def test_pooling__weights_sum_to_one_over_what_is_there() -> None:
    pool = Pooling(SMALL).eval()
    tokens = torch.randn(2, 4, 8)
    mask = torch.tensor([[True, False, True, True], [False] * 4])
    pooled, weights = pool(tokens, mask)
    assert weights.sum(dim=1).tolist() == pytest.approx([1.0, 0.0])
    assert weights[0, 1] == 0
    assert not pooled[1].any()


def test_gate__gradients_equal_numerical_ones() -> None:
    gate = Gate(5, 3).double()
    features = torch.randn(11, 2, 5).half()
    time = torch.eye(3).double()[torch.arange(11) % 3]
    names = [name for name, _ in gate.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        return torch.func.functional_call(gate, dict(zip(names, values, strict=True)), (features, time))

    assert torch.autograd.gradcheck(run, [q.detach().clone().requires_grad_() for q in gate.parameters()])

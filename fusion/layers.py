"""Building blocks of the model: gate, attention, pooling, feed-forward, tokens of items.

d is the width of every token. Residual blocks are pre-norm, x + f(LayerNorm(x)), so that the gate's scaling survives
in x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..config import ModelSettings
from ..stores.packed import TIME_CLASSES


class _HalfLinear(torch.autograd.Function):
    """x · Wᵀ of float16 features [unit, word, width] in float32, without a float32 copy of all features.

    The copy is what costs most after the product itself; on a CPU, eight bags at a time stay in the cache. Features
    are data: they get no gradient.
    """

    @staticmethod
    def chunk(features: Tensor) -> int:
        """Units at a time."""
        return 8 if features.device.type == "cpu" else 1024

    @staticmethod
    def product_dtype(weight: Tensor) -> torch.dtype:
        """The type of the product: autocast's where it is on, else the weight's."""
        device = weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        ctx.dtype = _HalfLinear.product_dtype(weight)
        factor = weight.to(ctx.dtype).t()
        out = factor.new_empty(*features.shape[:-1], weight.shape[0])
        size = _HalfLinear.chunk(features)
        for part, result in zip(torch.split(features, size), torch.split(out, size), strict=True):
            torch.mm(part.to(ctx.dtype).flatten(0, -2), factor, out=result.flatten(0, -2))
        return out.to(weight.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (features,) = ctx.saved_tensors
        total = gradient.new_zeros(gradient.shape[-1], features.shape[-1])
        size = _HalfLinear.chunk(features)
        for part, outer in zip(torch.split(features, size), torch.split(gradient, size), strict=True):
            left, right = outer.to(ctx.dtype).flatten(0, -2).t(), part.to(ctx.dtype).flatten(0, -2)
            if ctx.dtype == total.dtype:
                total.addmm_(left, right)
            else:
                total += left @ right
        return None, total


class Dropout(nn.Module):
    """nn.Dropout with cheaper random numbers on a CPU, where drawing them costs as much as a matrix product.

    Four numbers of 16 bits come from each draw of 64, so the rate is exact to 1/65,536.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; in training each number is zero with probability `rate`, the others are scaled up."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu":
            return functional.dropout(x, self.rate)
        draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        kept = bits >= round(self.rate * 65536) - 32768
        return x * kept.to(x.dtype).mul_(1 / (1 - self.rate))


def repeat_rows(x: Tensor, rows: Tensor | None) -> Tensor:
    """`x[rows]`, or `x` itself where every unit has its own row."""
    if rows is None:
        return x
    # index_select adds its gradients up in no fixed order on CUDA, indexing on one core only on a CPU
    return x.index_select(0, rows) if x.device.type == "cpu" else x[rows]


class Gate(nn.Module):
    """g = sigmoid(w·[x, t] + b); x ← g·x; then a linear map to d.

    W(g·x) = g·(W·x), so one product with [W; w] gives both.
    """

    def __init__(self, feature_width: int, width: int) -> None:
        super().__init__()
        self.gate = nn.Linear(feature_width + TIME_CLASSES, 1)
        self.project = nn.Linear(feature_width, width)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        """[unit, word, d] of `features` [unit, word, width] float16 and `time` [unit, 3].

        Features get a gradient where they ask for one, which takes them in the type of the weights.
        """
        w_features, w_time = torch.split(self.gate.weight, [features.shape[-1], TIME_CLASSES], dim=1)
        weight = torch.cat([self.project.weight, w_features])
        # a program that is exported has no use for the custom product, and no way to say it
        plain = torch.compiler.is_exporting() or features.requires_grad
        product = functional.linear if plain else _HalfLinear.apply
        mapped = product(features, weight)  # (unit, word, d + 1)
        gate = torch.sigmoid(mapped[..., -1:] + functional.linear(time, w_time, self.gate.bias)[:, None])
        projected: Tensor = gate * mapped[..., :-1] + self.project.bias  # (unit, word, d)
        return projected


class Attention(nn.Module):
    """Multi-head attention of queries over a set of tokens; over an empty set it is zero, not NaN."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, Q, d] of `queries` [B, Q, d], `tokens` [B, T, d] and `mask` [B, T] bool (none: all are there)."""
        query, key, value = self._split(queries, tokens)  # (B, heads, Q or T, d / heads)
        if mask is None:
            mixed = functional.scaled_dot_product_attention(query, key, value)
            return self._join(mixed)
        some = mask.any(dim=1)  # (B,)
        # an empty set is attended as if full, for the softmax to be defined, and then struck out
        attended = (mask | ~some[:, None])[:, None, None]  # (B, 1, 1, T)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        return self._join(mixed).masked_fill(~some[:, None, None], 0.0)

    def looking(self, query: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The same for one query [B, d]: [B, d], and the weights [B, T], means over heads."""
        head_query, key, value = self._split(query[:, None], tokens)
        scores = head_query @ key.transpose(2, 3) / head_query.shape[-1] ** 0.5  # (B, heads, 1, T)
        weights = masked_softmax(scores, mask[:, None, None])  # (B, heads, 1, T)
        joined = self._join(weights @ value)[:, 0]  # (B, heads, 1, d / heads) → (B, d)
        return joined.masked_fill(~mask.any(dim=1)[:, None], 0.0), weights[:, :, 0].mean(dim=1)

    def _split(self, queries: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query = self.query(queries).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, Q, d / heads)
        key_value = self.key_value(tokens).unflatten(-1, (2, self.heads, -1))  # (B, T, 2, heads, d / heads)
        key, value = key_value.permute(2, 0, 3, 1, 4)  # each (B, heads, T, d / heads)
        return query, key, value

    def _join(self, mixed: Tensor) -> Tensor:
        joined: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, heads, Q, d / heads) → (B, Q, d)
        return joined


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last axis of `scores` where `mask` holds; zeros elsewhere, and where nothing is left."""
    lowest = torch.finfo(scores.dtype).min
    return functional.softmax(scores.masked_fill(~mask, lowest), dim=-1) * mask


class SelfAttention(nn.Module):
    """Tokens attend to each other: x + dropout(MHA(LayerNorm(x)))."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(settings.width)
        self.attention = Attention(settings.width, settings.heads)
        self.dropout = Dropout(settings.dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """[B, T, d] of the same; with `rows`, those sets of tokens, each with a dropout of its own."""
        normed = self.norm(tokens)
        attended: Tensor = self.attention(normed, normed, mask)
        out: Tensor = repeat_rows(tokens, rows) + self.dropout(repeat_rows(attended, rows))
        return out


class Pooling(nn.Module):
    """Softmax-weighted sum of tokens with a learnt scoring vector."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.score = nn.Linear(settings.width, 1, bias=False)  # a bias would not change the softmax
        self.dropout = Dropout(settings.pooling_dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """[B, d] of `tokens` [B, T, d], and the weights [B, T] before dropout; zeros where no token is there."""
        scores = self.score(tokens)[..., 0]  # (B, T, 1) → (B, T)
        weights = functional.softmax(scores, dim=1) if mask is None else masked_softmax(scores, mask)
        pooled = (self.dropout(weights)[:, None] @ tokens)[:, 0]  # (B, 1, T) @ (B, T, d) → (B, d)
        return pooled, weights


class FeedForward(nn.Module):
    """x + dropout(W₂ · GELU(W₁ · LayerNorm(x)))."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(settings.width),
            nn.Linear(settings.width, settings.feed_forward),
            nn.GELU(),
            nn.Linear(settings.feed_forward, settings.width),
            Dropout(settings.dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, d] of the same."""
        transformed: Tensor = x + self.block(x)
        return transformed


class ItemTokens(nn.Module):
    """One token an item: each item's code through a linear map of its own."""

    def __init__(self, widths: Sequence[int], width: int) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.maps = nn.ModuleList(nn.Linear(classes, width) for classes in widths)

    def forward(self, codes: Tensor) -> Tensor:
        """[B, item, d] of `codes` [B, classes of all items]."""
        parts = torch.split(codes, list(self.widths), dim=1)
        return torch.stack([item(part) for item, part in zip(self.maps, parts, strict=True)], dim=1)

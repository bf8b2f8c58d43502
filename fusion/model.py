"""MuMo: branches, fusion within and between modalities, patient information, heads; `layers` has the blocks.

d is the width of every token, MHA(q; kv) multi-head attention. Choices where the paper is silent:

- MHA over an empty set of tokens is zero, so a part that is missing adds nothing.
- A modality is present when its images, its omics or any item of its report are. Without images a learnt vector stands
  for q, so that a report alone still counts.
- With no modality present, a learnt vector stands for the agnostic part.
- Auxiliary heads read the tokens that the pooling sees. Dropout falls on the output of attention and feed-forward
  blocks, and on the weights of the pooling.
- Inter-modal product, sum and concatenation put a learnt vector in the place of a missing modality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..config import REGION_CLASSES, ModelSettings
from .dataset import INFORMATION, Batch, ImagingBatch, Layout, ModalityLayout, auxiliary_classes, report_group
from .layers import Attention, Dropout, FeedForward, Gate, ItemTokens, Pooling, SelfAttention, repeat_rows


@dataclass(frozen=True)
class Output:
    """What the model says of a batch. B patients, M modalities, S units (bags, lesions) at most a patient."""

    logits: Tensor
    """[B, class of response]; of two: non-responder, responder."""
    risk: Tensor
    """[B] log relative hazard."""
    agnostic: Tensor | None
    """[B, M, d] agnostic part of each modality, of no meaning where it is not present; none without such parts."""
    present: Tensor
    """[B, M] bool: which modalities are present."""
    auxiliary: dict[str, Tensor]
    """Head (`word`, `bag`, `lesion`) → logits [unit, (word,) class], in the order of the batch's units."""
    weights: dict[str, Tensor]
    """How much was looked at what, without dropout, each row with a sum of 1 or, where there is nothing, 0:
    `<modality>/words` [unit, word], `<modality>/units` [B, S], `<modality>/omics` [B, S],
    `<modality>/report` [B, item], `patient_information` [B, item]; attention's are means over heads."""

    def float(self) -> Output:
        """The same in float32 where it came out of autocast in a smaller type."""
        return replace(
            self,
            logits=_at_least_float32(self.logits),
            risk=_at_least_float32(self.risk),
            agnostic=None if self.agnostic is None else _at_least_float32(self.agnostic),
            auxiliary={head: _at_least_float32(logits) for head, logits in self.auxiliary.items()},
        )


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.float32) if x.dtype in (torch.float16, torch.bfloat16) else x


# --- branches: images of a modality to one vector ----------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """A branch's view of a batch."""

    vector: Tensor
    """q [B, d]; zeros where a patient has no images."""
    auxiliary: dict[str, Tensor]
    weights: dict[str, Tensor]


class UnitsToVector(nn.Module):
    """Units attend to each other; softmax-weighted sum; feed-forward. The auxiliary head reads the units."""

    def __init__(self, settings: ModelSettings, classes: int) -> None:
        super().__init__()
        self.attend = SelfAttention(settings)
        self.pool = Pooling(settings)
        self.feed_forward = FeedForward(settings)
        self.classify = nn.Linear(settings.width, classes)

    def forward(self, tokens: Tensor, batch: ImagingBatch) -> tuple[Tensor, Tensor, Tensor]:
        """q [B, d], auxiliary logits [unit, class] and weights [B, S], of `tokens` [unit, d]."""
        patients, most = batch.mask.shape
        padded = tokens.new_zeros(patients * most, tokens.shape[1]).index_copy(0, batch.slots, tokens)
        units = self.attend(padded.view(patients, most, -1), batch.mask)  # (B · S, d) → (B, S, d)
        pooled, weights = self.pool(units, batch.mask)
        vector = self.feed_forward(pooled).masked_fill(~batch.mask.any(dim=1)[:, None], 0.0)
        return vector, self.classify(units.flatten(0, 1)[batch.slots]), weights  # (B, S, d) → (unit, d)


class PathologyBranch(nn.Module):
    """Words attend within their bag and are pooled to it; bags attend within their patient and are pooled."""

    def __init__(self, layout: ModalityLayout, settings: ModelSettings) -> None:
        super().__init__()
        self.gate = Gate(layout.feature_width, settings.width)
        self.attend = SelfAttention(settings)
        self.pool = Pooling(settings)
        self.feed_forward = FeedForward(settings)
        self.classify = nn.Linear(settings.width, REGION_CLASSES)
        self.units = UnitsToVector(settings, auxiliary_classes(layout.name))

    def forward(self, batch: ImagingBatch) -> Encoded:
        """q and its weights; heads `word` and `bag`, of which those of words are left out where tokens are given."""
        if batch.tokens is not None:
            vector, bag_logits, weights = self.units(batch.tokens, batch)
            return Encoded(vector, {"bag": bag_logits}, {"units": weights})
        words, pooled, word_weights = self.read(batch)
        vector, bag_logits, weights = self.units(self.feed_forward(pooled), batch)
        return Encoded(
            vector, {"word": self.classify(words), "bag": bag_logits}, {"words": word_weights, "units": weights}
        )

    def read(self, batch: ImagingBatch, mask: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Words [bag, word, d] that attend to each other, pooled [bag, d] with weights [bag, word].

        `mask` [bag, word] bool says which words are there; none: all.
        """
        gated = self.gate(batch.features, batch.time[batch.owner])  # (row, word, d)
        words = self.attend(gated, mask, rows=batch.rows)  # (bag, word, d)
        return words, *self.pool(words, mask)

    def tokens(self, batch: ImagingBatch, mask: Tensor | None = None) -> Tensor:
        """Tokens of bags [bag, d] before bags attend to each other; `mask` as for `read`, where no row stands twice."""
        pooled = self.read(batch, mask)[1]
        token: Tensor = self.feed_forward(pooled)
        return token


class RadiologyBranch(nn.Module):
    """Lesions attend within their patient and are pooled."""

    def __init__(self, layout: ModalityLayout, settings: ModelSettings) -> None:
        super().__init__()
        self.gate = Gate(layout.feature_width, settings.width)
        self.units = UnitsToVector(settings, auxiliary_classes(layout.name))

    def forward(self, batch: ImagingBatch) -> Encoded:
        """q and its weights; head `lesion`."""
        lesions = self.tokens(batch) if batch.tokens is None else batch.tokens
        vector, logits, weights = self.units(lesions, batch)
        return Encoded(vector, {"lesion": logits}, {"units": weights})

    def tokens(self, batch: ImagingBatch) -> Tensor:
        """Tokens of lesions [lesion, d] before lesions attend to each other."""
        gated = self.gate(batch.features, batch.time[batch.owner])[:, 0]  # (row, 1, d) → (row, d)
        return repeat_rows(gated, batch.rows)  # (lesion, d)


class TableBranch(nn.Module):
    """Rows of a table (samples, points of time) attend within their patient and are pooled; there is no head."""

    def __init__(self, layout: ModalityLayout, settings: ModelSettings) -> None:
        super().__init__()
        self.enter = nn.Linear(layout.omics_width, settings.width)
        self.attend = SelfAttention(settings)
        self.pool = Pooling(settings)
        self.feed_forward = FeedForward(settings)

    def forward(self, batch: ImagingBatch) -> Encoded:
        """q and its weights."""
        rows = self.attend(self.enter(batch.omics), batch.mask)  # (B, S, column) → (B, S, d)
        pooled, weights = self.pool(rows, batch.mask)
        vector = self.feed_forward(pooled).masked_fill(~batch.mask.any(dim=1)[:, None], 0.0)
        return Encoded(vector, {}, {"units": weights})


BRANCHES: Mapping[str, type[nn.Module]] = {"pathology": PathologyBranch, "radiology": RadiologyBranch}
"""Branch of each modality: built from its layout and the settings, called with an ImagingBatch, returns Encoded.
Modalities that are not named here come from tables and have a TableBranch."""


# --- fusion -----------------------------------------------------------------------------------------------


class Modality(nn.Module):
    """One modality: its branch, then F = q + MHA(q; omics tokens) + MHA(q; report tokens), or one after the other.

    A layout has images or a report, or both.
    """

    def __init__(self, layout: ModalityLayout, settings: ModelSettings) -> None:
        super().__init__()
        self.layout = layout
        self.order = settings.intra_fusion
        width = settings.width
        if layout.has_units:
            self.branch = BRANCHES.get(layout.name, TableBranch)(layout, settings)
        if layout.feature_width and layout.omics_width:
            self.omics_tokens = nn.Linear(layout.omics_width, width)
            self.omics_attention = Attention(width, settings.heads)
        if layout.report_widths:
            self.report_tokens = ItemTokens(layout.report_widths, width)
            self.report_attention = Attention(width, settings.heads)
            self.no_images = nn.Parameter(torch.randn(width) * 0.02)
        self.dropout = Dropout(settings.dropout)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """F [B, d], whether the modality is present [B], auxiliary logits and weights."""
        name = self.layout.name
        auxiliary: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        if self.layout.has_units:
            encoded: Encoded = self.branch(batch.imaging[name])
            fused, present = encoded.vector, batch.imaging[name].mask.any(dim=1)
            auxiliary, weights = encoded.auxiliary, dict(encoded.weights)
            if self.layout.report_widths:
                fused = torch.where(present[:, None], fused, self.no_images)
        else:
            fused = self.no_images.expand(len(batch.labels), -1)  # (d,) → (B, d)
            present = torch.zeros_like(batch.labels, dtype=torch.bool)
        sides = self._sides(batch)
        query = fused
        for side in ("report", "omics") if self.order == "report-omics" else ("omics", "report"):
            if side not in sides:
                continue
            attention, tokens, mask = sides[side]
            seen, weights[side] = attention.looking(query if self.order == "parallel" else fused, tokens, mask)
            fused = fused + self.dropout(seen)
            present = present | mask.any(dim=1)
        return fused, present, auxiliary, {f"{name}/{part}": values for part, values in weights.items()}

    def _sides(self, batch: Batch) -> dict[str, tuple[Attention, Tensor, Tensor]]:
        """What joins the imaging vector: attention, tokens [B, T, d] and mask [B, T] of omics and report."""
        sides: dict[str, tuple[Attention, Tensor, Tensor]] = {}
        if self.layout.feature_width and self.layout.omics_width:
            imaging = batch.imaging[self.layout.name]
            sides["omics"] = (self.omics_attention, self.omics_tokens(imaging.omics), imaging.omics_mask)
        if self.layout.report_widths:
            group = report_group(self.layout.name)
            sides["report"] = (self.report_attention, self.report_tokens(batch.codes[group]), batch.known[group])
        return sides


class SpecificAgnostic(nn.Module):
    """The paper's fusion: each modality split into a specific and an agnostic part.

    The agnostic part of a patient is the mean over the modalities present, so that of a patient with CT alone is
    the CT's own. A missing modality's specific part is a learnt vector.
    """

    def __init__(self, modalities: int, width: int) -> None:
        super().__init__()
        self.enter = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        self.specific = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        self.agnostic = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        self.no_specific = nn.Parameter(torch.randn(modalities, width) * 0.02)
        self.no_agnostic = nn.Parameter(torch.randn(width) * 0.02)
        self.leave = nn.Linear((modalities + 1) * width, width)

    def forward(self, fused: Sequence[Tensor], present: Tensor) -> tuple[Tensor, Tensor | None]:
        """F_inter [B, d] and the agnostic parts [B, M, d], of each modality's F [B, d] and `present` [B, M]."""
        entered = [layer(vector) for layer, vector in zip(self.enter, fused, strict=True)]
        specific = torch.stack([layer(v) for layer, v in zip(self.specific, entered, strict=True)], dim=1)  # (B, M, d)
        agnostic = torch.stack([layer(v) for layer, v in zip(self.agnostic, entered, strict=True)], dim=1)  # (B, M, d)
        there = present[..., None]  # (B, M, 1)
        specific = torch.where(there, specific, self.no_specific)
        mean = (agnostic * there).sum(dim=1) / there.sum(dim=1).clamp(min=1)  # (B, d)
        mean = torch.where(present.any(dim=1, keepdim=True), mean, self.no_agnostic)
        return self.leave(torch.cat([specific.flatten(1), mean], dim=1)), agnostic  # (B, M · d + d) → (B, d)


class PlainFusion(nn.Module):
    """The ablations: product, sum or concatenation of the modalities, a learnt vector for a missing one."""

    def __init__(self, kind: str, modalities: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.enter = nn.ModuleList(nn.Linear(width, width) for _ in range(modalities))
        neutral = 1.0 if kind == "product" else 0.0
        self.missing = nn.Parameter(neutral + torch.randn(modalities, width) * 0.02)
        self.leave = nn.Linear(modalities * width, width) if kind == "concatenation" else nn.Identity()

    def forward(self, fused: Sequence[Tensor], present: Tensor) -> tuple[Tensor, Tensor | None]:
        """F_inter [B, d] and no agnostic parts, of each modality's F [B, d] and `present` [B, M]."""
        entered = torch.stack([layer(v) for layer, v in zip(self.enter, fused, strict=True)], dim=1)  # (B, M, d)
        entered = torch.where(present[..., None], entered, self.missing)
        if self.kind == "product":
            mixed = entered.prod(dim=1)
        elif self.kind == "sum":
            mixed = entered.sum(dim=1)
        else:
            mixed = entered.flatten(1)  # (B, M, d) → (B, M · d)
        return self.leave(mixed), None


class MuMo(nn.Module):
    """Predicts response and risk from whatever parts of a patient are there."""

    def __init__(self, layout: Layout, settings: ModelSettings) -> None:
        super().__init__()
        self.layout = layout
        width, count = settings.width, len(layout.modalities)
        self.modalities = nn.ModuleList(Modality(modality, settings) for modality in layout.modalities)
        if count == 0:
            self.no_modality = nn.Parameter(torch.randn(width) * 0.02)
        elif settings.inter_fusion == "full":
            self.inter: nn.Module = SpecificAgnostic(count, width)
        else:
            self.inter = PlainFusion(settings.inter_fusion, count, width)
        if layout.information_widths:
            self.information_tokens = ItemTokens(layout.information_widths, width)
            self.information_attention = Attention(width, settings.heads)
        self.dropout = Dropout(settings.dropout)
        self.classifier = nn.Linear(width, settings.classes)
        self.risk = nn.Linear(width, 1, bias=False)  # a constant cancels in the partial likelihood

    def forward(self, batch: Batch) -> Output:
        """Response, risk, auxiliary logits and weights; nothing is written or kept."""
        vectors: list[Tensor] = []
        there: list[Tensor] = []
        auxiliary: dict[str, Tensor] = {}
        weights: dict[str, Tensor] = {}
        for modality in self.modalities:
            vector, present, logits, looked = modality(batch)
            vectors.append(vector)
            there.append(present)
            auxiliary.update(logits)
            weights.update(looked)
        if vectors:
            present = torch.stack(there, dim=1)  # (B, M)
            fused, agnostic = self.inter(vectors, present)
        else:
            present = torch.zeros(len(batch.labels), 0, dtype=torch.bool, device=batch.labels.device)
            fused, agnostic = self.no_modality.expand(len(batch.labels), -1), None
        if self.layout.information_widths:
            tokens = self.information_tokens(batch.codes[INFORMATION])  # (B, item, d)
            seen, weights[INFORMATION] = self.information_attention.looking(fused, tokens, batch.known[INFORMATION])
            fused = fused + self.dropout(seen)
        risk = self.risk(fused)[:, 0]  # (B, 1) → (B,)
        return Output(self.classifier(fused), risk, agnostic, present, auxiliary, weights)

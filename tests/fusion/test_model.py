"""The model against a deliberately naive one, written from the formulas: one patient at a time, no batch, no mask."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packs import make_packed, without_images
from torch import Tensor, nn

from mumo.config import ModelSettings
from mumo.fusion.dataset import Batch, Dataset, ImagingBatch, Layout, ModalityLayout, fit_scalers, layout_of
from mumo.fusion.model import MuMo, Output, SpecificAgnostic
from mumo.stores.packed import Packed

SMALL = ModelSettings(width=8, heads=2, feed_forward=12)
VARIANTS = [
    {},
    {"intra_fusion": "omics-report"},
    {"intra_fusion": "report-omics"},
    {"inter_fusion": "product"},
    {"inter_fusion": "sum"},
    {"inter_fusion": "concatenation"},
    {"omics": False},
    {"reports": False},
    {"patient_information": False},
    {"modalities": ("radiology",)},
    {"modalities": ("pathology",)},
    {"modalities": ()},
]


def small(**changes: Any) -> ModelSettings:
    return ModelSettings(**{**SMALL.model_dump(), **changes})


def build(packed: Packed, settings: ModelSettings, seed: int = 0) -> tuple[MuMo, Dataset]:
    scalers = fit_scalers(packed, np.arange(len(packed.patients)), 10.0)
    layout = layout_of(packed, scalers, settings)
    torch.manual_seed(seed)
    model = MuMo(layout, settings)
    for parameter in model.parameters():  # larger than at the start of training, so that nothing hides in rounding
        nn.init.normal_(parameter, std=0.4)
    return model.double().eval(), Dataset(packed, layout, scalers, "os")


def doubled(value: Any) -> Any:
    """The same batch in double precision; features stay float16, as they always come."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if isinstance(value, dict):
        return {name: doubled(item) for name, item in value.items()}
    return dataclasses.replace(value, **{f.name: doubled(getattr(value, f.name)) for f in dataclasses.fields(value)})


def assert_same_output(found: Output, expected: Output, rows: Any = slice(None), **tolerance: float) -> None:
    """Compare what is said of patients; `rows` picks those of `expected`."""
    torch.testing.assert_close(found.logits, expected.logits[rows], **tolerance)
    torch.testing.assert_close(found.risk, expected.risk[rows], **tolerance)
    assert torch.equal(found.present, expected.present[rows])
    if found.agnostic is not None:
        assert expected.agnostic is not None
        there = found.present[..., None]
        torch.testing.assert_close(found.agnostic * there, (expected.agnostic[rows] * there), **tolerance)


# --- the naive model --------------------------------------------------------------------------------------


class Naive:
    """MuMo for one patient: plain lists of vectors, and None for what is not there."""

    def __init__(self, model: MuMo, settings: ModelSettings) -> None:
        self.p = {name: value.detach().numpy() for name, value in model.state_dict().items()}
        self.settings = settings
        self.layout = model.layout

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        y = self.p[f"{name}.weight"] @ x
        return y + self.p[f"{name}.bias"] if f"{name}.bias" in self.p else y

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        z = (x - x.mean()) / math.sqrt(x.var() + 1e-5)
        return z * self.p[f"{name}.weight"] + self.p[f"{name}.bias"]

    def mha(self, name: str, query: np.ndarray, tokens: list[np.ndarray]) -> np.ndarray:
        if not tokens:
            return np.zeros_like(query)
        d, heads = len(query), self.settings.heads
        size = d // heads
        q = self.linear(f"{name}.query", query)
        both = [self.linear(f"{name}.key_value", token) for token in tokens]
        mixed = []
        for head in range(heads):
            cut = slice(head * size, (head + 1) * size)
            scores = [q[cut] @ kv[:d][cut] / math.sqrt(size) for kv in both]
            weights = self.softmax(scores)
            mixed.append(sum(w * kv[d:][cut] for w, kv in zip(weights, both, strict=True)))
        return self.linear(f"{name}.out", np.concatenate(mixed))

    @staticmethod
    def softmax(scores: list[float]) -> list[float]:
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        return [power / sum(powers) for power in powers]

    def attend_each_other(self, name: str, tokens: list[np.ndarray]) -> list[np.ndarray]:
        normed = [self.norm(f"{name}.norm", token) for token in tokens]
        return [t + self.mha(f"{name}.attention", n, normed) for t, n in zip(tokens, normed, strict=True)]

    def pool(self, name: str, tokens: list[np.ndarray]) -> np.ndarray:
        weights = self.softmax([float(self.p[f"{name}.score.weight"][0] @ token) for token in tokens])
        return sum(weight * token for weight, token in zip(weights, tokens, strict=True))  # type: ignore[return-value]

    def feed_forward(self, name: str, x: np.ndarray) -> np.ndarray:
        hidden = self.linear(f"{name}.block.1", self.norm(f"{name}.block.0", x))
        gelu = np.array([h * 0.5 * (1 + math.erf(h / math.sqrt(2))) for h in hidden])
        return x + self.linear(f"{name}.block.3", gelu)

    def gated(self, name: str, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        g = 1 / (1 + math.exp(-float(self.linear(f"{name}.gate", np.concatenate([x, t]))[0])))
        return self.linear(f"{name}.project", g * x)

    def branch(self, m: int, bags: list[list[np.ndarray]], t: np.ndarray) -> tuple[np.ndarray, dict[str, list[Any]]]:
        name, auxiliary = f"modalities.{m}.branch", {}
        if self.layout.modalities[m].name == "pathology":
            vectors, auxiliary = [], {"word": [], "bag": []}
            for bag in bags:
                words = self.attend_each_other(f"{name}.attend", [self.gated(f"{name}.gate", w, t) for w in bag])
                auxiliary["word"].append([self.linear(f"{name}.classify", word) for word in words])
                vectors.append(self.feed_forward(f"{name}.feed_forward", self.pool(f"{name}.pool", words)))
            head = "bag"
        else:
            vectors, auxiliary, head = [self.gated(f"{name}.gate", bag[0], t) for bag in bags], {"lesion": []}, "lesion"
        units = self.attend_each_other(f"{name}.units.attend", vectors)
        auxiliary[head] = [self.linear(f"{name}.units.classify", unit) for unit in units]
        return self.feed_forward(f"{name}.units.feed_forward", self.pool(f"{name}.units.pool", units)), auxiliary

    def items(self, name: str, codes: list[np.ndarray]) -> list[np.ndarray]:
        """Tokens of the items that are known."""
        return [self.linear(f"{name}.maps.{k}", code) for k, code in enumerate(codes) if code.any()]

    def modality(self, m: int, patient: dict[str, Any]) -> tuple[np.ndarray | None, dict[str, list[Any]]]:
        layout, part = self.layout.modalities[m], patient[self.layout.modalities[m].name]
        name, auxiliary = f"modalities.{m}", {}
        omics = [self.linear(f"{name}.omics_tokens", o) for o in part["omics"]] if layout.omics_width else []
        report = self.items(f"{name}.report_tokens", part["report"]) if layout.report_widths else []
        if not (part["bags"] or omics or report):
            return None, {}
        if part["bags"]:
            q, auxiliary = self.branch(m, part["bags"], part["time"])
        else:
            q = self.p[f"{name}.no_images"]
        o, r = f"{name}.omics_attention", f"{name}.report_attention"
        if self.settings.intra_fusion == "parallel":
            return q + self.mha(o, q, omics) + self.mha(r, q, report), auxiliary
        for side, tokens in (
            ((o, omics), (r, report)) if self.settings.intra_fusion == "omics-report" else ((r, report), (o, omics))
        ):
            q = q + self.mha(side, q, tokens)
        return q, auxiliary

    def inter(self, fused: list[np.ndarray | None]) -> tuple[np.ndarray, list[np.ndarray | None]]:
        kind, d = self.settings.inter_fusion, self.settings.width
        z = [None if f is None else self.linear(f"inter.enter.{m}", f) for m, f in enumerate(fused)]
        if kind != "full":
            filled = [self.p["inter.missing"][m] if v is None else v for m, v in enumerate(z)]
            if kind == "product":
                return np.prod(filled, axis=0), []
            if kind == "sum":
                return np.sum(filled, axis=0), []
            return self.linear("inter.leave", np.concatenate(filled)), []
        specific = [
            self.p["inter.no_specific"][m] if v is None else self.linear(f"inter.specific.{m}", v)
            for m, v in enumerate(z)
        ]
        agnostic = [None if v is None else self.linear(f"inter.agnostic.{m}", v) for m, v in enumerate(z)]
        present = [a for a in agnostic if a is not None]
        mean = sum(present) / len(present) if present else self.p["inter.no_agnostic"]
        assert mean.shape == (d,)
        return self.linear("inter.leave", np.concatenate([*specific, mean])), agnostic

    def __call__(self, patient: dict[str, Any]) -> dict[str, Any]:
        auxiliary: dict[str, list[Any]] = {}
        fused: list[np.ndarray | None] = []
        for m in range(len(self.layout.modalities)):
            vector, logits = self.modality(m, patient)
            fused.append(vector)
            auxiliary.update(logits)
        f, agnostic = self.inter(fused) if fused else (self.p["no_modality"], [])
        if self.layout.information_widths:
            tokens = self.items("information_tokens", patient["information"])
            f = f + self.mha("information_attention", f, tokens)
        return {
            "logits": self.linear("classifier", f),
            "risk": float(self.linear("risk", f)[0]),
            "agnostic": agnostic,
            "auxiliary": auxiliary,
        }


def plain_patient(dataset: Dataset, p: int) -> dict[str, Any]:
    """What the pack holds of a patient, as lists."""
    packed = dataset.packed

    def items(group: str) -> list[np.ndarray]:
        codes = packed.codes[group]
        return [part.astype(float) for part in np.split(codes.values[p], np.cumsum(codes.widths)[:-1])]

    patient: dict[str, Any] = {"information": items("patient_information")}
    for name, units in packed.units.items():
        rows = range(int(units.offsets[p]), int(units.offsets[p + 1]))
        scaler = dataset.scalers[name]
        bags = [[word.astype(float) for word in units.features[row]] for row in rows]
        patient[name] = {
            "bags": bags if name == "pathology" else [views[:1] for views in bags],
            "time": packed.times[name][p].astype(float),
            "omics": [scaler(units.omics[r : r + 1])[0].astype(float) for r in rows if units.omics_known[r]],
            "report": items(f"{name}_report"),
        }
    return patient


def packed_with_all_patterns() -> Packed:
    """128 patients: images of each modality, their omics, both reports and patient information, each there or not.

    Reports lack single items and times are unknown here and there, too.
    """
    packed = make_packed(128, missing=False, width=6, words=3, views=2, omics=4, bags=3, lesions=3)
    patterns = np.array(list(itertools.product((False, True), repeat=7)))
    units = {}
    for name, images, omics in (("pathology", 0, 1), ("radiology", 2, 3)):
        unit = packed.units[name]
        counts = np.where(patterns[:, images], unit.counts, 0)
        kept = np.repeat(patterns[:, images], unit.counts)
        values = np.where(np.repeat(patterns[:, omics], unit.counts)[:, None], unit.omics, np.nan)[kept]
        values[::5, 1] = np.nan
        arrays = {f: getattr(unit, f)[kept] for f in ("features", "classes", "word_classes", "sources", "names")}
        units[name] = dataclasses.replace(
            unit,
            **arrays,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype("int64"),
            omics=values.astype("float32"),
            omics_known=~np.isnan(values).all(axis=1),
        )
    codes = {}
    for group, column in (("pathology_report", 4), ("radiology_report", 5), ("patient_information", 6)):
        values = np.where(patterns[:, column][:, None], packed.codes[group].values, 0).astype("float32")
        values[::3, : packed.codes[group].widths[0]] = 0
        codes[group] = dataclasses.replace(packed.codes[group], values=values)
    times = {
        name: np.where(np.arange(128)[:, None] % 4 == 0, 0, one_hot).astype("float32")
        for name, one_hot in packed.times.items()
    }
    return dataclasses.replace(packed, units=units, codes=codes, times=times)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_mumo__equals_the_naive_model_for_every_pattern_of_missing_parts(changes: dict[str, Any]) -> None:
    packed = packed_with_all_patterns()
    settings = small(**changes)
    model, dataset = build(packed, settings)
    batch = doubled(dataset.whole(np.arange(128)))
    output = model(batch)
    naive = Naive(model, settings)
    for p in range(128):
        expected = naive(plain_patient(dataset, p))
        np.testing.assert_allclose(output.logits[p].detach(), expected["logits"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(output.risk[p].detach(), expected["risk"], rtol=1e-9, atol=1e-9)
        for m, part in enumerate(expected["agnostic"]):
            assert bool(output.present[p, m]) == (part is not None)
            if part is not None:
                assert output.agnostic is not None
                np.testing.assert_allclose(output.agnostic[p, m].detach(), part, rtol=1e-9, atol=1e-9)
        for head, imaging in (("word", "pathology"), ("bag", "pathology"), ("lesion", "radiology")):
            if expected["auxiliary"].get(head):
                part = batch.imaging[imaging]
                mine = part.slots // part.mask.shape[1] == p
                found = output.auxiliary[head][mine].detach()
                np.testing.assert_allclose(found, np.array(expected["auxiliary"][head]), rtol=1e-9, atol=1e-9)


# --- missing parts ----------------------------------------------------------------------------------------


def test_specific_agnostic__of_a_patient_with_ct_alone_the_agnostic_part_is_its_own() -> None:
    torch.manual_seed(0)
    fusion = SpecificAgnostic(2, 4)
    with torch.no_grad():  # let out the agnostic part alone
        fusion.leave.weight.copy_(torch.cat([torch.zeros(4, 8), torch.eye(4)], dim=1))
        fusion.leave.bias.zero_()
    pathology, radiology = torch.randn(3, 4), torch.randn(3, 4)
    present = torch.tensor([[False, True], [True, False], [True, True]])
    mean, agnostic = fusion([pathology, radiology], present)
    assert agnostic is not None
    own = fusion.agnostic[1](fusion.enter[1](radiology))
    torch.testing.assert_close(mean[0], own[0])
    assert mean[0].abs().min() > 0
    torch.testing.assert_close(mean[1], agnostic[1, 0])
    torch.testing.assert_close(mean[2], (agnostic[2, 0] + agnostic[2, 1]) / 2)


def test_mumo__of_a_patient_with_ct_alone_ignores_what_stands_for_pathology() -> None:
    packed = make_packed(8)
    model, dataset = build(packed, small())  # whoever has no images has no report either
    ct_only = np.array([p for p, pattern in enumerate(packed.modalities) if pattern == "radiology"])
    batch = doubled(dataset.whole(ct_only))
    before = model(batch)
    with torch.no_grad():
        model.modalities[0].no_images.add_(5.0)
        model.inter.no_agnostic.add_(5.0)
    assert_same_output(model(batch), before)
    with torch.no_grad():
        model.inter.no_specific[0].add_(5.0)
    assert not torch.allclose(model(batch).logits, before.logits)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_mumo__has_finite_outputs_and_gradients_for_every_pattern(changes: dict[str, Any]) -> None:
    packed = packed_with_all_patterns()
    model, dataset = build(packed, small(**changes))
    model.train()
    for p in (0, 1, 31, 64, 96, 126, 127):
        model.zero_grad()
        output = model(doubled(dataset.whole(np.array([p]))))
        total = output.logits.sum() + output.risk.sum() + sum(logits.sum() for logits in output.auxiliary.values())
        total.backward()
        assert torch.isfinite(total)
        assert all(torch.isfinite(q.grad).all() for q in model.parameters() if q.grad is not None)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_mumo__gives_every_parameter_a_gradient(changes: dict[str, Any]) -> None:
    packed = packed_with_all_patterns()
    model, dataset = build(packed, small(**changes))
    output = model(doubled(dataset.whole(np.arange(128))))
    heads = [logits.square().sum() for logits in output.auxiliary.values()]
    (output.logits[:, 1].square().sum() + output.risk.square().sum() + sum(heads)).backward()
    without = [name for name, q in model.named_parameters() if q.grad is None or not q.grad.abs().sum() > 1e-9]
    assert without == []


def test_mumo__of_a_cohort_without_any_images() -> None:
    packed = without_images(without_images(make_packed(8), "pathology"), "radiology")
    model, dataset = build(packed, small())
    batch = doubled(dataset.whole(np.arange(8)))
    assert batch.imaging == {}
    output = model(batch)
    naive = Naive(model, small())
    for p in range(8):
        expected = naive(plain_patient(dataset, p))
        np.testing.assert_allclose(output.logits[p].detach(), expected["logits"], rtol=1e-9)
    assert output.auxiliary == {}


# --- draws with replacement -------------------------------------------------------------------------------


def unshared(batch: Batch) -> Batch:
    """The same batch with a row of features of its own for every unit."""
    imaging = {
        name: part
        if part.rows is None
        else dataclasses.replace(part, features=part.features[part.rows], owner=part.owner[part.rows], rows=None)
        for name, part in batch.imaging.items()
    }
    return dataclasses.replace(batch, imaging=imaging)


def test_mumo__units_drawn_twice_share_their_work_and_change_neither_output_nor_gradient() -> None:
    model, dataset = build(packed_with_all_patterns(), SMALL)
    rng = np.random.default_rng(0)
    (batch,) = dataset.training_batches(np.arange(128), size=128, bags=5, lesions=4, rng=rng)
    assert all(part.rows is not None for part in batch.imaging.values())
    found = []
    for case in (doubled(batch), unshared(doubled(batch))):
        model.zero_grad()
        output = model(case)
        heads = sum(logits.square().sum() for logits in output.auxiliary.values())
        (output.logits.square().sum() + output.risk.sum() + heads).backward()
        found.append(
            (output, [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
        )
    (one, gradients), (two, others) = found
    assert_same_output(one, two, rtol=1e-10, atol=1e-10)
    for head, logits in one.auxiliary.items():
        torch.testing.assert_close(logits, two.auxiliary[head], rtol=1e-10, atol=1e-10)
    assert len(gradients) == len(others) > 30
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-8)


# --- invariances ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", VARIANTS[:6], ids=str)
def test_mumo__of_a_patient_alone_says_the_same_as_in_a_batch(changes: dict[str, Any]) -> None:
    packed = make_packed(16, bags=7, lesions=5)
    model, dataset = build(packed, small(**changes))
    together = model(doubled(dataset.whole(np.arange(16))))
    for p in range(16):
        assert_same_output(model(doubled(dataset.whole(np.array([p])))), together, [p], rtol=1e-10, atol=1e-10)


def padded(imaging: ImagingBatch, more: int) -> ImagingBatch:
    """The same units among `more` further empty places a patient, before and after, filled with garbage."""
    patients, most = imaging.mask.shape
    patient, position = imaging.slots // most, imaging.slots % most
    places = most + 2 * more

    def widen(values: Tensor, fill: Any) -> Tensor:
        out = torch.full((patients, places, *values.shape[2:]), fill, dtype=values.dtype)
        out[:, more : more + most] = values
        return out

    return dataclasses.replace(
        imaging,
        slots=patient * places + position + more,
        mask=widen(imaging.mask, False),
        omics=widen(imaging.omics, 1e3),
        omics_mask=widen(imaging.omics_mask, False),
    )


@pytest.mark.parametrize("changes", VARIANTS[:6], ids=str)
def test_mumo__does_not_see_padding(changes: dict[str, Any]) -> None:
    packed = make_packed(16, bags=5, lesions=4)
    model, dataset = build(packed, small(**changes))
    batch = doubled(dataset.whole(np.arange(16)))
    wide = dataclasses.replace(batch, imaging={name: padded(imaging, 3) for name, imaging in batch.imaging.items()})
    one, two = model(batch), model(wide)
    assert_same_output(two, one, rtol=1e-10, atol=1e-10)
    for head, logits in one.auxiliary.items():
        torch.testing.assert_close(two.auxiliary[head], logits, rtol=1e-10, atol=1e-10)


def test_mumo__does_not_depend_on_the_order_of_patients_or_of_their_units() -> None:
    packed = make_packed(16, bags=5, lesions=4)
    model, dataset = build(packed, small())
    order = np.random.default_rng(0).permutation(16)
    forward = model(doubled(dataset.whole(np.arange(16))))
    assert_same_output(model(doubled(dataset.whole(order))), forward, order, rtol=1e-10, atol=1e-10)

    flipped_units = {}
    for name, units in packed.units.items():
        rows = np.concatenate(
            [np.arange(a, b)[::-1] for a, b in zip(units.offsets[:-1], units.offsets[1:], strict=True)]
        )
        moved = {f: getattr(units, f)[rows] for f in ("features", "omics", "omics_known", "classes", "word_classes")}
        flipped_units[name] = dataclasses.replace(units, **moved)
    flipped = Dataset(dataclasses.replace(packed, units=flipped_units), dataset.layout, dataset.scalers, "os")
    assert_same_output(model(doubled(flipped.whole(np.arange(16)))), forward, rtol=1e-10, atol=1e-10)


def test_mumo__is_pure_in_evaluation_and_random_in_training() -> None:
    model, dataset = build(make_packed(8), small())
    batch = doubled(dataset.whole(np.arange(8)))
    assert torch.equal(model(batch).logits, model(batch).logits)
    model.train()
    assert not torch.equal(model(batch).logits, model(batch).logits)


# --- ablations --------------------------------------------------------------------------------------------


def changed(batch: Batch, part: str) -> Batch:
    """A batch in which one part has other content."""
    noise = torch.Generator().manual_seed(9)

    def other(values: Tensor) -> Tensor:
        return torch.rand(values.shape, generator=noise, dtype=torch.float64).to(values.dtype)

    imaging = dict(batch.imaging)
    codes, known = dict(batch.codes), dict(batch.known)
    if part in imaging:
        imaging[part] = dataclasses.replace(imaging[part], features=other(imaging[part].features))
    if part == "omics":
        imaging = {name: dataclasses.replace(item, omics=other(item.omics)) for name, item in imaging.items()}
    for group in codes:
        if part in group:
            codes[group], known[group] = other(codes[group]), torch.ones_like(known[group])
    return dataclasses.replace(batch, imaging=imaging, codes=codes, known=known)


ABLATIONS = [
    ({"modalities": ("radiology",)}, "pathology"),
    ({"modalities": ("pathology",)}, "radiology"),
    ({"omics": False}, "omics"),
    ({"reports": False}, "report"),
    ({"patient_information": False}, "patient_information"),
]


@pytest.mark.parametrize(("changes", "part"), ABLATIONS, ids=str)
def test_mumo__ignores_what_is_ablated_and_reads_it_otherwise(changes: dict[str, Any], part: str) -> None:
    packed = make_packed(8, missing=False)
    full, dataset = build(packed, small())
    batch = doubled(dataset.whole(np.arange(8)))
    assert not torch.allclose(full(batch).logits, full(changed(batch, part)).logits)
    ablated, _ = build(packed, small(**changes))
    # a batch made for the full model holds more than the ablated one reads
    assert torch.equal(ablated(batch).logits, ablated(changed(batch, part)).logits)


def test_output__weights_sum_to_one_where_something_is_there() -> None:
    packed = make_packed(16)
    model, dataset = build(packed, small())
    batch = doubled(dataset.whole(np.arange(16)))
    weights = model(batch).weights
    assert sorted(weights) == [
        "pathology/omics", "pathology/report", "pathology/units", "pathology/words", "patient_information",
        "radiology/omics", "radiology/report", "radiology/units",
    ]  # fmt: skip
    there = {
        "pathology/units": batch.imaging["pathology"].mask,
        "radiology/omics": batch.imaging["radiology"].omics_mask,
        "pathology/report": batch.known["pathology_report"],
        "patient_information": batch.known["patient_information"],
    }
    for name, mask in there.items():
        assert not weights[name][~mask].any()
        torch.testing.assert_close(weights[name].sum(dim=1), mask.any(dim=1).double())


def test_mumo__of_the_default_settings_has_the_papers_widths() -> None:
    packed = make_packed(4, missing=False, width=1280, words=64, omics=736, bags=1, lesions=1)
    scalers = fit_scalers(packed, np.arange(4), 10.0)
    layout: Layout = layout_of(packed, scalers, ModelSettings())
    model = MuMo(layout, ModelSettings())
    output = model(Dataset(packed, layout, scalers, "os").whole(np.arange(4)))
    assert output.agnostic is not None
    assert output.agnostic.shape == (4, 2, 128)
    assert output.auxiliary["word"].shape == (4, 64, 4)
    assert output.auxiliary["lesion"].shape == (4, 5)


def test_mumo__parameters_have_the_names_that_checkpoints_have() -> None:
    """A run that was trained once is read for good: names may be added for new parts, never changed."""
    layout = Layout(
        (ModalityLayout("pathology", 16, 6, (10, 4, 10)), ModalityLayout("radiology", 16, 6, (2, 7, 3, 5, 4, 2, 2))),
        (2, 2, 2, 2, 3, 4, 3, 13),
    )
    names = (Path(__file__).parents[1] / "data" / "parameters.txt").read_text(encoding="utf-8").split()
    assert sorted(MuMo(layout, SMALL).state_dict()) == names


def test_mumo__parameters_of_other_forms_have_the_names_that_checkpoints_have() -> None:
    layout = Layout((ModalityLayout("labs", 0, 6, ()),), ())
    names = list(MuMo(layout, small(inter_fusion="concatenation")).state_dict())
    table = {name.removeprefix("modalities.0.").rpartition(".")[0] for name in names if name.startswith("modalities")}
    assert table == {
        "branch.enter", "branch.attend.norm", "branch.attend.attention.query", "branch.attend.attention.key_value",
        "branch.attend.attention.out", "branch.pool.score", "branch.feed_forward.block.0",
        "branch.feed_forward.block.1", "branch.feed_forward.block.3",
    }  # fmt: skip
    assert [name for name in names if name.startswith("inter")] == [
        "inter.missing", "inter.enter.0.weight", "inter.enter.0.bias", "inter.leave.weight", "inter.leave.bias",
    ]  # fmt: skip
    assert "no_modality" in MuMo(Layout((), ()), SMALL).state_dict()

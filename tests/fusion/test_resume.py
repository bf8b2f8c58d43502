"""Training that is stopped, slowed, weighted, or goes on: what `epochs` keeps, and the options of the loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packs import make_packed, write_store

from mumo.config import FitSettings, ModelSettings, Settings, SplitSettings
from mumo.errors import FitError
from mumo.fusion import losses, train
from mumo.fusion.epochs import Checkpoint, step_size
from mumo.fusion.model import MuMo

CPU = torch.device("cpu")


def settings(model: dict[str, Any] | None = None, **fit: Any) -> Settings:
    quick: dict[str, Any] = {"epochs": 5, "batch_patients": 8, "average_best": 2, "bootstrap": 20}
    quick |= {"bags_per_patient": 2, "lesions_per_patient": 2, "checkpoint_seconds": 0.0}
    small = {"width": 16, "heads": 2, "feed_forward": 16, **(model or {})}
    return Settings(model=ModelSettings(**small), fit=FitSettings(**{**quick, **fit}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resuming") / "store"
    write_store(path, make_packed(24, signal=1.0, bags=2, lesions=2))
    return path


class Killed(BaseException):
    """Stands for a kill: nothing may catch it and clean up."""


def fit_until(store: Path, run: Path, chosen: Settings, epoch: int) -> None:
    """Train and be killed after an epoch, with the run left as it is then."""

    def kill(done: int, epochs: int, line: dict[str, Any]) -> None:
        if done == epoch:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.checkpoint, "fail", lambda *_: None)
        train.fit(store, run, chosen, device="cpu", progress=kill)


@pytest.mark.parametrize("stops", [(1,), (4,), (2, 3)], ids=str)
def test_fit__resumed_after_kills_gives_the_same_run(store: Path, tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    chosen = settings(schedule="cosine", warmup_epochs=1)
    train.fit(store, whole, chosen, device="cpu")
    fit_until(store, parts, chosen, stops[0])
    assert json.loads((parts / "run.json").read_text())["status"] == "running"
    for stop in stops[1:]:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(train.checkpoint, "fail", lambda *_: None)
            patch.setattr(train, "_recorder", _killing(stop))
            train.fit(store, parts, chosen, device="cpu", resume=True)
    train.fit(store, parts, chosen, device="cpu", resume=True)
    for name in ("model.safetensors", "predictions.parquet", "metrics.json", "split.csv"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name
    assert not (parts / "checkpoint").exists()
    if len(stops) == 1:
        epochs = [json.loads(line)["epoch"] for line in (parts / "history.jsonl").read_text().splitlines()]
        assert epochs == [1, 2, 3, 4, 5]


def _killing(stop: int) -> Any:
    """A recorder in the place of the real one that kills after an epoch."""

    def kill(done: int, epochs: int, line: dict[str, Any]) -> None:
        if done == stop:
            raise Killed

    return lambda *_: kill


def test_fit__resumed_with_other_settings_or_of_another_store_is_refused(store: Path, tmp_path: Path) -> None:
    fit_until(store, tmp_path / "run", settings(), 2)
    with pytest.raises(FitError, match=r"cannot be resumed.*fit\.learning_rate"):
        train.fit(store, tmp_path / "run", settings(learning_rate=1e-2), device="cpu", resume=True)
    write_store(tmp_path / "other", make_packed(24, seed=5))
    with pytest.raises(FitError, match=r"cannot be resumed.*store_digest"):
        train.fit(tmp_path / "other", tmp_path / "run", settings(), device="cpu", resume=True)
    with pytest.raises(FitError, match="go on with --resume"):
        train.fit(store, tmp_path / "run", settings(), device="cpu")


def test_fit__resumed_when_finished_trains_nothing(store: Path, tmp_path: Path) -> None:
    first = train.fit(store, tmp_path / "run", settings(epochs=1), device="cpu")
    seen: list[int] = []
    again = train.fit(
        store, tmp_path / "run", settings(epochs=1), device="cpu", resume=True, progress=lambda e, n, r: seen.append(e)
    )
    assert again == first
    assert seen == []


def test_checkpoint__that_is_damaged_is_refused_by_name(store: Path, tmp_path: Path) -> None:
    fit_until(store, tmp_path / "run", settings(), 2)
    (tmp_path / "run" / "checkpoint" / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(FitError, match="checkpoint: cannot be gone on from"):
        train.fit(store, tmp_path / "run", settings(), device="cpu", resume=True)


def test_checkpoint__keeps_only_the_files_that_it_names(store: Path, tmp_path: Path) -> None:
    fit_until(store, tmp_path / "run", settings(), 4)
    names = sorted(file.name for file in (tmp_path / "run" / "checkpoint").iterdir())
    assert len(names) == 3
    assert names[-1] == "state.safetensors"
    assert not Checkpoint(tmp_path).due(1e6)


# --- options of the loop ----------------------------------------------------------------------------------


def lines_of(chosen: Settings, device: torch.device = CPU) -> tuple[list[dict[str, Any]], train.Trained]:
    prepared = train.prepare(make_packed(24, missing=False), chosen)
    lines: list[dict[str, Any]] = []
    result = train.train(prepared, chosen, device=device, progress=lambda e, n, line: lines.append(line))
    return lines, result


def test_train__stops_when_no_better_epoch_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    areas = iter([0.5, 0.9, 0.6, 0.7, 0.8, 0.95, 0.0, 0.0])
    monkeypatch.setattr(train, "validate", lambda *_: {"auc": next(areas), "loss": 1.0, "c_index": 0.5})
    lines, result = lines_of(settings(patience=3, epochs=20))
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert result.epochs == 5
    assert result.selected == (2, 5)
    assert result.averaged["auc"] == 0.95  # the averaged weights are evaluated again, last


def test_step_size__warms_up_and_falls_along_half_a_cosine() -> None:
    fit = FitSettings(learning_rate=1.0, schedule="cosine", warmup_epochs=2, epochs=10)
    assert [step_size(done, fit) for done in (0.5, 1, 2, 6, 10)] == pytest.approx([0.25, 0.5, 1, 0.5, 0])
    assert step_size(4, fit) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    flat = FitSettings(learning_rate=1.0, warmup_epochs=2, epochs=10)
    assert [step_size(done, flat) for done in (1, 2, 9)] == [0.5, 1, 1]


def test_class_weights__balance_what_training_has() -> None:
    labels = np.array([0, 0, 0, 1, -1, -1])
    weights = losses.class_weights(labels, FitSettings(class_weights="balanced"), 2)
    assert weights is not None
    assert weights.tolist() == pytest.approx([2 / 3, 2.0])
    assert losses.class_weights(labels, FitSettings(), 2) is None
    given = losses.class_weights(labels, FitSettings(class_weights=(1.0, 3.0)), 2)
    assert given is not None
    assert given[1] / given[0] == pytest.approx(3)
    with pytest.raises(FitError, match="3 weights for 2 classes"):
        losses.class_weights(labels, FitSettings(class_weights=(1.0, 2.0, 3.0)), 2)


def test_focal__with_weights_and_no_focus_is_the_weighted_cross_entropy() -> None:
    torch.manual_seed(0)
    logits, targets, weights = torch.randn(9, 3), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2]), torch.tensor([0.5, 1, 2])
    found = losses.focal(logits, targets, 0.0, weights)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits, targets, weight=weights))


def test_train__in_bfloat16_stays_close_to_float32() -> None:
    plain, _ = lines_of(settings(epochs=3))
    small, _ = lines_of(settings(epochs=3, precision="bfloat16"))
    for one, two in zip(plain, small, strict=True):
        assert one["train"]["loss"] != two["train"]["loss"]
        assert one["train"]["loss"] == pytest.approx(two["train"]["loss"], rel=0.05)


def test_train__in_float16_needs_cuda() -> None:
    with pytest.raises(FitError, match="float16 needs CUDA"):
        lines_of(settings(precision="float16"))


def test_stepper__scales_the_loss_and_leaves_the_weights_where_a_gradient_overflows() -> None:
    chosen = settings()
    prepared = train.prepare(make_packed(24, missing=False), chosen)
    batch = prepared.dataset.whole(np.arange(8))
    states = []
    for scale in (None, 2.0**10, math.inf):
        torch.manual_seed(0)
        model = MuMo(prepared.layout, chosen.model).eval()
        stepper = train.Stepper(model, prepared, chosen, CPU)
        if scale is not None:
            stepper.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        stepper.step(batch, 0, 0)
        states.append([after.detach() - old for after, old in zip(model.parameters(), before, strict=True)])
    plain, scaled, overflown = states
    for one, two in zip(plain, scaled, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)
    assert all(not change.any() for change in overflown)


def test_train__with_three_classes_reads_their_number_from_the_settings() -> None:
    packed = make_packed(30, missing=False)
    packed.labels[:] = np.arange(30) % 3
    with pytest.raises(FitError, match=r"labels up to 2, the model 2 classes; set model\.classes"):
        train.prepare(packed, settings())
    chosen = settings({"classes": 3}, split=SplitSettings(test=0.0, validation=0.3))
    prepared = train.prepare(packed, chosen)
    result = train.train(prepared, chosen, device=CPU)
    scores = train.score(result.model, prepared.dataset, np.arange(30), device=CPU)
    assert scores.logits.shape == (30, 3)
    expected = 1 - torch.softmax(torch.from_numpy(scores.logits), dim=1)[:, 0].numpy()
    np.testing.assert_allclose(scores.probability, expected, rtol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_train__with_amp_on_cuda_stays_close_to_float32(precision: Any) -> None:
    ends = []
    for chosen in (settings(epochs=3), settings(epochs=3, precision=precision)):
        lines, _ = lines_of(chosen, device=torch.device("cuda"))
        ends.append(lines[-1]["train"]["loss"])
    assert ends[0] == pytest.approx(ends[1], rel=0.05)

"""Training: learns what is there, nothing where nothing is, repeats itself, and writes a whole run or none."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from packs import commit, make_packed, write_clinical, write_store
from torch import nn

from mumo.config import FitSettings, ModelSettings, Settings, SplitSettings
from mumo.errors import FitError, StoreError
from mumo.fusion import checkpoint, metrics, train
from mumo.fusion.epochs import BestEpochs, Means
from mumo.fusion.model import MuMo
from mumo.fusion.predict import score
from mumo.stores.packed import Packed
from mumo.stores.records import Store

CPU = torch.device("cpu")


def settings(model: dict[str, Any] | None = None, **fit: Any) -> Settings:
    quick: dict[str, Any] = {"epochs": 2, "batch_patients": 8, "average_best": 2, "bootstrap": 20}
    quick |= {"bags_per_patient": 2, "lesions_per_patient": 2}
    small = {"width": 16, "heads": 2, "feed_forward": 16, **(model or {})}
    return Settings(model=ModelSettings(**small), fit=FitSettings(**{**quick, **fit}))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("training") / "store"
    write_store(path, make_packed(24, signal=1.0, bags=2, lesions=2))
    return path


def trained(packed: Packed, chosen: Settings) -> tuple[train.Prepared, train.Trained]:
    prepared = train.prepare(packed, chosen)
    return prepared, train.train(prepared, chosen, device=CPU)


def held_out_auc(packed: Packed, chosen: Settings) -> float:
    prepared, result = trained(packed, chosen)
    patients = prepared.patients("test")
    scores = score(result.model, prepared.dataset, patients, device=CPU)
    labels = packed.labels[patients].astype(float)
    return metrics.auc(np.where(labels < 0, np.nan, labels), scores.probability)


# --- does it learn? ---------------------------------------------------------------------------------------

LEARNING = {
    "epochs": 15, "batch_patients": 16, "learning_rate": 2e-3, "average_best": 5, "split": SplitSettings(test=0.4)
}  # fmt: skip


@pytest.mark.slow
def test_train__finds_a_planted_signal_in_patients_it_has_not_seen() -> None:
    assert held_out_auc(make_packed(160, signal=1.5), settings(**LEARNING)) > 0.8


@pytest.mark.slow
def test_train__finds_nothing_where_nothing_is() -> None:
    found = [held_out_auc(make_packed(160, seed=seed), settings(**{**LEARNING, "epochs": 6})) for seed in range(5)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.1)  # standard error of five AUCs on 58 patients: 0.034


def test_train__lowers_the_loss_and_ranks_risk_as_planted() -> None:
    packed = make_packed(60, signal=2.0, missing=False, bags=2, lesions=2)
    chosen = settings(epochs=12, learning_rate=3e-3, split=SplitSettings(validation=0.4, test=0.0))
    lines: list[dict[str, Any]] = []
    prepared = train.prepare(packed, chosen)
    train.train(prepared, chosen, device=CPU, progress=lambda e, n, line: lines.append(line))
    assert lines[-1]["train"]["loss"] < 0.8 * lines[0]["train"]["loss"]
    assert lines[-1]["validation"]["c_index"] > 0.6
    assert lines[-1]["validation"]["auc"] > 0.9


# --- repeats itself ---------------------------------------------------------------------------------------


def test_train__with_the_same_seed_gives_the_same_weights_and_with_another_others() -> None:
    packed = make_packed(24)
    state = torch.random.get_rng_state()
    one, two = (trained(packed, settings(seed=1))[1] for _ in range(2))
    other = trained(packed, settings(seed=2, split=SplitSettings(seed=0)))[1]
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.selected == two.selected
    for (name, first), second in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    assert any(
        not torch.equal(first, second)
        for first, second in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


def test_train__draws_of_an_epoch_do_not_depend_on_what_was_drawn_before(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = make_packed(24)
    _, plain = trained(packed, settings())
    original = train.validate

    def drawing(*args: Any) -> dict[str, float]:
        torch.rand(17)
        return original(*args)

    monkeypatch.setattr(train, "validate", drawing)
    _, disturbed = trained(packed, settings())
    for first, second in zip(plain.model.parameters(), disturbed.model.parameters(), strict=True):
        assert torch.equal(first, second)


def test_train__has_dropout_in_every_step_and_in_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []
    original = MuMo.forward

    def spy(self: MuMo, batch: Any) -> Any:
        seen.append((self.training, torch.is_grad_enabled()))
        return original(self, batch)

    monkeypatch.setattr(MuMo, "forward", spy)
    _, result = trained(make_packed(24), settings(epochs=3))
    assert set(seen) == {(True, True), (False, False)}
    assert seen.count((True, True)) == 3 * 2  # epochs × steps of eight patients among fifteen
    assert not result.model.training


def test_train__weights_are_the_mean_of_the_selected_epochs() -> None:
    packed = make_packed(24)
    chosen = settings(epochs=4, average_best=2)
    prepared = train.prepare(packed, chosen)
    states: dict[int, dict[str, torch.Tensor]] = {}
    scores: dict[int, dict[str, float]] = {}
    original = BestEpochs.offer

    def spy(self: BestEpochs, epoch: int, found: Any, state: Any) -> None:
        states[epoch] = {name: value.clone() for name, value in state.items()}
        scores[epoch] = dict(found)
        original(self, epoch, found, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BestEpochs, "offer", spy)
        result = train.train(prepared, chosen, device=CPU)
    best = sorted(scores, key=lambda e: (scores[e]["auc"], -scores[e]["loss"]), reverse=True)[:2]
    assert result.selected == tuple(best)
    for name, value in result.model.state_dict().items():
        torch.testing.assert_close(value, (states[best[0]][name] + states[best[1]][name]) / 2)


def test_best_epochs__rank_by_auc_then_loss_then_the_later() -> None:
    def offered(rows: list[tuple[float, float]], count: int = 2) -> tuple[int, ...]:
        best = BestEpochs(count)
        for epoch, (auc, loss) in enumerate(rows, start=1):
            best.offer(epoch, {"auc": auc, "loss": loss}, {"w": torch.tensor(float(epoch))})
        return best.epochs

    assert offered([(0.7, 1.0), (0.9, 3.0), (0.8, 1.0), (0.9, 2.0)]) == (4, 2)
    assert offered([(math.nan, 1.0), (math.nan, 0.5), (math.nan, 2.0)]) == (2, 1)
    assert offered([(math.nan, math.nan)] * 4) == (4, 3)
    assert offered([(0.5, 1.0)], count=7) == (1,)


def test_best_epochs__average_keeps_counters_of_the_best() -> None:
    best = BestEpochs(2)
    for epoch, auc in ((1, 0.5), (2, 0.9)):
        best.offer(epoch, {"auc": auc, "loss": 1.0}, {"w": torch.tensor([float(epoch)]), "n": torch.tensor(epoch * 10)})
    average = best.average()
    assert average["w"].tolist() == [1.5]
    assert average["n"].item() == 20


def test_means__leave_out_what_is_absent() -> None:
    means = Means()
    means.add({"a": 1.0, "b": None, "c": None})
    means.add({"a": 3.0, "b": 5.0, "c": None})
    assert means.values() == {"a": 2.0, "b": 5.0, "c": None}


# --- every option runs ------------------------------------------------------------------------------------

OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"modalities": ("radiology",)}, {}),
    ({"modalities": ("pathology",)}, {}),
    ({"modalities": ()}, {}),
    ({"inter_fusion": "product"}, {}),
    ({"inter_fusion": "sum"}, {}),
    ({"inter_fusion": "concatenation"}, {}),
    ({"intra_fusion": "omics-report"}, {}),
    ({"intra_fusion": "report-omics"}, {}),
    ({"alignment": False}, {}),
    ({"omics": False}, {}),
    ({"reports": False}, {}),
    ({"patient_information": False}, {}),
    ({}, {"survival_endpoint": "pfs"}),
    ({}, {"survival_endpoint": "none"}),
    ({}, {"auxiliary_weight": 0.0}),
]


@pytest.mark.parametrize(("model", "fit"), OPTIONS, ids=str)
def test_train__runs_with_every_option_and_logs_the_terms_it_has(model: dict[str, Any], fit: dict[str, Any]) -> None:
    chosen = settings(model, epochs=1, batch_patients=16, **fit)
    lines: list[dict[str, Any]] = []
    prepared = train.prepare(make_packed(32), chosen)
    train.train(prepared, chosen, device=CPU, progress=lambda e, n, line: lines.append(line))
    terms = lines[0]["train"]
    absent = {name for name, value in terms.items() if value is None}
    expected = set()
    modalities = model.get("modalities", ("pathology", "radiology"))
    if "pathology" not in modalities:
        expected |= {"word", "bag"}
    if "radiology" not in modalities:
        expected |= {"lesion"}
    if not modalities:
        expected |= {"auxiliary"}
    if len(modalities) < 2 or model.get("inter_fusion") or "alignment" in model:
        expected |= {"alignment"}
    if fit.get("survival_endpoint") == "none":
        expected |= {"survival"}
    assert absent == expected
    assert all(math.isfinite(value) for value in terms.values() if value is not None)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ({"modalities": ("radiology",)}, "pathology"),
        ({"modalities": ("pathology",)}, "radiology"),
        ({"omics": False}, "omics"),
        ({"reports": False}, "reports"),
        ({"patient_information": False}, "patient_information"),
    ],
    ids=str,
)
def test_train__ignores_what_is_ablated(model: dict[str, Any], part: str) -> None:
    packed = make_packed(24)
    chosen = settings(model, epochs=1, split=SplitSettings(seed=1))
    other = changed(packed, part)
    _, one = trained(packed, chosen)
    _, two = trained(other, chosen)
    for (name, first), second in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    _, full = trained(packed, settings(epochs=1, split=SplitSettings(seed=1)))
    _, full_other = trained(other, settings(epochs=1, split=SplitSettings(seed=1)))
    assert any(
        not torch.equal(a, b) for a, b in zip(full.model.parameters(), full_other.model.parameters(), strict=True)
    )


def changed(packed: Packed, part: str) -> Packed:
    """The same cohort with other numbers in one part."""
    units, codes = dict(packed.units), dict(packed.codes)
    for name, unit in packed.units.items():
        if part == name:
            units[name] = dataclasses.replace(unit, features=unit.features[::-1].copy())
        if part == "omics":
            units[name] = dataclasses.replace(unit, omics=unit.omics[::-1].copy())
    for group, entry in packed.codes.items():
        if part == group or (part == "reports" and group.endswith("report")):
            codes[group] = dataclasses.replace(entry, values=entry.values[::-1].copy())
    return dataclasses.replace(packed, units=units, codes=codes)


# --- the run folder ---------------------------------------------------------------------------------------


def test_fit__writes_a_whole_run(store: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    result = train.fit(
        store, tmp_path / "run", settings(), device="cpu", progress=lambda e, n, line: seen.append((e, n))
    )
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        "MODEL_CARD.md", "clinical.parquet",
        "config.json", "distance.csv", "feature_space.safetensors", "flow.json",
        "history.jsonl", "inputs.json", "metrics.json", "model.safetensors",
        "predictions.parquet", "run.json", "scaler.safetensors", "split.csv",
    ]  # fmt: skip
    assert seen == [(1, 2), (2, 2)]
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in history] == [1, 2]
    assert set(history[0]["validation"]) == {"loss", "auc", "c_index"}
    assert {"loss", "response", "survival", "alignment", "word", "bag", "lesion"} <= set(history[0]["train"])

    info = json.loads((run / "run.json").read_text())
    assert info["status"] == "finished"
    assert info["seed"] == 0
    assert info["weights_sha256"] == "1" * 64
    assert len(info["selected_epochs"]) == 2
    assert info["omics_dropped"] == {name: {"missing": [], "constant": []} for name in ("pathology", "radiology")}
    assert sum(part["patients"] for part in info["patients"].values()) == 24
    assert str(tmp_path) not in (run / "run.json").read_text()

    split = pd.read_csv(run / "split.csv")
    predictions = pq.read_table(run / "predictions.parquet").to_pandas()
    assert predictions["patient"].tolist() == split["patient"].tolist()
    assert predictions["part"].tolist() == split["part"].tolist()
    assert predictions["probability"].between(0, 1).all()
    assert result["parts"].keys() == {"train", "validation", "test"}
    assert json.loads((run / "metrics.json").read_text()) == result
    assert result["threshold"] == info["threshold"]


def test_fit__says_on_whose_lesions_the_windows_were_fitted(tmp_path: Path) -> None:
    packed = make_packed(24, signal=1.0)
    store = write_store(tmp_path / "store", packed)
    items = sorted(set(map(str, packed.units["radiology"].sources)))
    for item in items[1:]:
        commit(store, "windows", item, lambda out: (out / "histograms.parquet").write_bytes(b"h"))
    upstream = [("windows", item, "histograms.parquet") for item in items[1:]]
    commit(store, "windows", "cohort", lambda out: (out / "windows.parquet").write_bytes(b"w"), upstream=upstream)
    train.fit(tmp_path / "store", tmp_path / "run", settings(), device="cpu")
    split = pd.read_csv(tmp_path / "run" / "split.csv").set_index("patient")["part"]
    expected = split[[item.removeprefix("ct-C") for item in items[1:]]].value_counts().to_dict()
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["windows_fitted_on"] == expected
    assert sum(expected.values()) == len(items) - 1


@pytest.mark.parametrize(("test_share", "part"), [(0.3, "validation"), (0.0, "train")])
def test_fit__freezes_the_threshold_on_patients_that_are_not_held_out(
    store: Path, tmp_path: Path, test_share: float, part: str
) -> None:
    chosen = settings(split=SplitSettings(validation=0.3, test=test_share))
    result = train.fit(store, tmp_path / "run", chosen, device="cpu")
    rows = pq.read_table(tmp_path / "run" / "predictions.parquet").to_pandas()
    rows = rows[rows["part"] == part]
    assert result["threshold"] == metrics.youden_threshold(rows["label"], rows["probability"])
    # the report can tell which figures are of untouched patients
    assert result["chosen_on"] == {"weights": "validation", "threshold": part}
    assert result["headline"] == ("test" if test_share else None)
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert ("Nobody was held out" in card) == (not test_share)


def test_fit__again_into_a_finished_run_gives_the_same_run(store: Path, tmp_path: Path) -> None:
    files = ("model.safetensors", "scaler.safetensors", "predictions.parquet", "metrics.json", "split.csv")
    contents = []
    for _ in range(2):
        train.fit(store, tmp_path / "run", settings(), device="cpu")
        contents.append([(tmp_path / "run" / name).read_bytes() for name in files])
    assert contents[0] == contents[1]


def test_fit__of_a_store_with_only_the_clinical_stage(tmp_path: Path) -> None:
    write_clinical(Store.create(tmp_path / "store"), make_packed(24))
    result = train.fit(tmp_path / "store", tmp_path / "run", settings(), device="cpu")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["weights"] == ""
    assert result["parts"].keys() == {"train", "validation", "test"}


def test_fit__that_fails_marks_the_run_and_lets_it_be_replaced(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(train, "validate", broken)
        with pytest.raises(RuntimeError, match="out of luck"):
            train.fit(store, tmp_path / "run", settings(), device="cpu")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (info["status"], info["error"], info["message"]) == ("failed", "RuntimeError", "out of luck")
    train.fit(store, tmp_path / "run", settings(), device="cpu")
    assert checkpoint.load_run(tmp_path / "run").info["status"] == "finished"


def test_fit__into_a_folder_that_is_taken_starts_nothing(store: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FitError, match="is not empty and holds no run"):
        train.fit(store, tmp_path, settings(), device="cpu")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    train.fit(store, tmp_path, settings(), device="cpu", force=True)
    assert (tmp_path / "thesis.txt").exists()


def test_fit__of_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a mumo store"):
        train.fit(tmp_path / "nothing", tmp_path / "run", settings(), device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("label", "message"), [(-1, "no known label"), (1, "only label 1"), (0, "only label 0")])
def test_prepare__without_two_classes_to_learn_from_is_refused(label: int, message: str) -> None:
    packed = dataclasses.replace(make_packed(20), labels=np.full(20, label, dtype="int8"))
    with pytest.raises(FitError, match=message):
        train.prepare(packed, settings())


def test_prepare__of_nobody_is_refused() -> None:
    with pytest.raises(FitError, match="no patients"):
        train.prepare(make_packed(0), settings())


def test_train__with_a_loss_that_is_not_finite_is_stopped() -> None:
    packed = make_packed(20, missing=False)
    packed.units["pathology"].features[:] = np.inf
    chosen = settings()
    with pytest.raises(FitError, match="epoch 1: the loss is nan, expected a finite number"):
        train.train(train.prepare(packed, chosen), chosen, device=CPU)


def test_train__clips_the_norm_of_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    original = nn.utils.clip_grad_norm_

    def spy(parameters: Any, limit: float) -> torch.Tensor:
        kept = list(parameters)
        result = original(kept, limit)
        norms.append(float(torch.cat([p.grad.flatten() for p in kept if p.grad is not None]).norm()))
        return result

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    trained(make_packed(20), settings(max_gradient_norm=0.01))
    assert norms
    assert max(norms) <= 0.01 * 1.0001


def test_import__of_the_trainer_brings_nothing_of_the_pipeline() -> None:
    code = (
        "import sys; import mumo.fusion.train; "
        "unwanted = ('dask', 'distributed', 'openslide', 'SimpleITK', 'radiomics', 'mumo.pipeline'); "
        "print([name for name in unwanted if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

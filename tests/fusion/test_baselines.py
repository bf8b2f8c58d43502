"""Baselines: they find a planted signal, learn nothing from held-out patients, and know every pattern of missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from packs import make_packed, without_images, write_store
from sklearn.preprocessing import StandardScaler

from mumo.errors import FitError
from mumo.fusion import baselines, metrics, mil
from mumo.fusion.comparison import MODEL, compare_predictors, paired_delong
from mumo.fusion.mil import GatedAttention
from mumo.fusion.pooling import patient_means
from mumo.fusion.predict import Scores, prediction_frame, prediction_rows, save_predictions
from mumo.stores.pack import pack
from mumo.stores.packed import Packed
from mumo.stores.records import Store

NAMES = {
    "clinical-logistic", "clinical-boosting", "pooled-logistic", "pooled-boosting", "mil-pathology", "mil-radiology",
    "late-fusion",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mil, "EPOCHS", 15)


def parts_for(packed: Packed) -> np.ndarray:
    return np.array([("train", "train", "train", "validation", "test")[p // 2 % 5] for p in range(len(packed.labels))])


def test_predict_all__finds_the_planted_signal_with_every_pattern_of_missing_parts() -> None:
    packed = make_packed(80, signal=1.5)
    parts = parts_for(packed)
    found = baselines.predict_all(packed, parts, seed=0)
    assert set(found) == NAMES
    labels = np.where(packed.labels < 0, np.nan, packed.labels)[parts != "train"]
    for name, probability in found.items():
        assert ((probability > 0) & (probability < 1)).all(), name
    for name in ("clinical-logistic", "pooled-logistic", "pooled-boosting", "late-fusion"):
        assert metrics.auc(labels, found[name][parts != "train"]) > 0.75, name


def test_predict_all__learns_nothing_from_held_out_patients() -> None:
    packed = make_packed(40, signal=1.0, missing=False)
    parts = parts_for(packed)
    held_out = np.flatnonzero(parts == "test")
    rng = np.random.default_rng(0)
    changed = {}
    for name, units in packed.units.items():
        features, omics = units.features.copy(), units.omics.copy()
        for p in held_out:
            rows = slice(units.offsets[p], units.offsets[p + 1])
            features[rows] = 50 * rng.normal(size=features[rows].shape)
            omics[rows] = 1e6 * rng.normal(size=omics[rows].shape)
        changed[name] = dataclasses.replace(units, features=features, omics=omics)
    labels = packed.labels.copy()
    labels[held_out] = 1 - labels[held_out]
    other = dataclasses.replace(packed, units=changed, labels=labels)
    before, after = (baselines.predict_all(p, parts, seed=0) for p in (packed, other))
    for name in NAMES:
        np.testing.assert_array_equal(before[name][parts != "test"], after[name][parts != "test"], err_msg=name)


def test_predict_splits__predicts_each_patient_by_the_split_that_held_it_out() -> None:
    packed = without_images(without_images(make_packed(40, signal=1.0), "radiology"), "pathology")
    splits = [np.where(np.arange(40) // 2 % 2 == fold, "test", "train") for fold in (0, 1)]
    found = baselines.predict_splits(packed, splits, seed=0)
    alone = [baselines.predict_all(packed, parts, seed=0) for parts in splits]
    assert set(found) == {"clinical-logistic", "clinical-boosting"}
    for fold, parts in enumerate(splits):
        for name, probability in found.items():
            np.testing.assert_allclose(probability[parts == "test"], alone[fold][name][parts == "test"])
    with pytest.raises(FitError, match="some never held out"):
        baselines.predict_splits(packed, [splits[0], splits[0]], seed=0)


def test_predict_all__leaves_out_what_nobody_has() -> None:
    packed = without_images(make_packed(40, signal=1.0), "radiology")
    found = baselines.predict_all(packed, parts_for(packed), seed=0)
    assert set(found) == NAMES - {"mil-radiology"}


def test_predict_all__of_patients_without_the_modality_knows_only_the_share_of_responders() -> None:
    packed = make_packed(40, signal=1.0)
    parts = parts_for(packed)
    probability = baselines.predict_all(packed, parts, seed=0)["mil-pathology"]
    without = packed.units["pathology"].counts == 0
    expected = packed.labels[(parts == "train") & (packed.labels >= 0)].mean()
    assert probability[without] == pytest.approx(expected)
    assert len(set(probability[~without])) > 5


def test_logistic__needs_two_training_patients_of_each_label() -> None:
    blocks = baselines.Blocks(np.eye(4), {})
    with pytest.raises(FitError, match="at least two training patients of each label"):
        baselines.logistic(blocks, np.array([1, 0, 0, 0]), np.ones(4, dtype=bool), 0)


def test_patient_means__are_those_of_the_known_values() -> None:
    values = np.array([[1.0, np.nan], [3.0, 4.0], [7.0, np.nan]])
    found = patient_means(values, np.array([0, 2, 2, 3]))
    np.testing.assert_array_equal(found, [[2.0, 4.0], [np.nan, np.nan], [7.0, np.nan]])


def test_gated_attention__equals_its_formula_and_ignores_padding() -> None:
    torch.manual_seed(0)
    model = GatedAttention(5).eval()
    units = torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    with torch.no_grad():
        found = model(units, mask)
        h = torch.relu(model.hidden[0](units[0, :2]))
        gated = torch.tanh(model.value(h)) * torch.sigmoid(model.gate(h))
        weights = torch.softmax(model.score(gated)[:, 0], dim=0)
        expected = model.out(weights @ h)
        units[0, 2] = 1e3
        again = model(units, mask)
    assert float(found[0]) == pytest.approx(float(expected), abs=1e-6)
    torch.testing.assert_close(found, again)


def test_reduced__components_are_those_of_the_training_patients() -> None:
    generator = np.random.default_rng(0)
    block = generator.normal(size=(30, 4)) @ generator.normal(size=(4, 12))
    block[5] = np.nan
    train = np.arange(30) < 20
    found = baselines.reduced(block, train)
    assert np.isnan(found[5]).all()
    known = train & ~np.isnan(block).any(axis=1)
    scaled = StandardScaler().fit_transform(block[known])
    total = np.square(scaled).sum()
    assert np.square(found[known]).sum() == pytest.approx(total, rel=1e-6)  # 12 components keep everything
    np.testing.assert_allclose(found[known].mean(axis=0), 0, atol=1e-9)


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A store, and a finished run on it whose model is the label with noise."""
    write_store(tmp_path / "store", make_packed(40, signal=1.0))
    packed = pack(Store.open(tmp_path / "store"))
    parts, folder = parts_for(packed), tmp_path / "run"
    folder.mkdir()
    logits = np.random.default_rng(0).normal(size=40) + packed.labels
    rows = prediction_rows(packed, Scores(np.column_stack([0 * logits, logits]), -logits), list(parts))
    save_predictions(folder / "predictions.parquet", rows)
    evaluated = metrics.evaluate(prediction_frame(rows), threshold=0.5, replicates=50, seed=0)
    content: dict[str, Any] = {
        "metrics": evaluated,
        "run": {"status": "finished", "store_digest": packed.key},
        "config": {"fit": {"seed": 0, "bootstrap": 50}},
    }
    for name, values in content.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    split = pd.DataFrame({"patient": packed.patients, "part": parts})
    split.to_csv(folder / "split.csv", index=False)
    return folder


@pytest.mark.slow
def test_baselines__writes_predictions_and_a_comparison_with_the_model(run: Path) -> None:
    said: list[str] = []
    table = baselines.baselines(run.parent / "store", run, said=said.append)
    assert set(said) == NAMES - {"late-fusion"}
    assert {path.stem for path in (run / "baselines").glob("*.parquet")} == NAMES
    test = table[table["part"] == "test"].set_index("predictor")
    assert set(test.index) == NAMES | {MODEL}
    model, other = (
        pd.read_parquet(path) for path in (run / "predictions.parquet", run / "baselines" / "late-fusion.parquet")
    )
    assert model["patient"].tolist() == other["patient"].tolist()
    chosen = (model["part"] == "test").to_numpy()
    expected = paired_delong(model["label"][chosen], model["probability"][chosen], other["probability"][chosen])
    assert test.loc["late-fusion", "difference"] == pytest.approx(expected.difference.value)
    assert test.loc["late-fusion", "p"] == pytest.approx(expected.p)
    assert np.isnan(test.loc[MODEL, "p"])
    assert len(json.loads((run / "baselines" / "comparison.json").read_text())) == len(table)


@pytest.mark.slow
def test_baselines__refuses_another_store(run: Path) -> None:
    write_store(run.parent / "other", make_packed(40, seed=5))
    with pytest.raises(FitError, match=r"is not .* the store that"):
        baselines.baselines(run.parent / "other", run)
    assert not (run / "baselines").exists()


def test_compare_predictors__says_why_there_is_no_comparison() -> None:
    packed = make_packed(12, missing=False)
    one_class = dataclasses.replace(packed, labels=np.ones(12, dtype="int8"))
    rows = prediction_rows(one_class, Scores(np.zeros((12, 2)), np.zeros(12)), ["test"] * 12)
    frame = prediction_frame(rows)
    table = compare_predictors({MODEL: frame, "other": frame}, replicates=10, seed=0)
    assert np.isnan(table["auc"]).all()
    assert table["reason"].tolist() == ["only responders among the labelled patients"] * 2

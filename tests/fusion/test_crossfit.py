"""Folds, seeds and ablations: nobody is predicted by a model that has seen them, and the numbers are the members'."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clusters import hand_made_cluster
from quick_fits import quick_settings, write_quick_store

from mumo.config import SplitSettings
from mumo.errors import FitError
from mumo.fusion import ablate, crossfit, members, metrics
from mumo.fusion.predict import predict, read_predictions
from mumo.fusion.splits import Split, centre_folds, draw_folds, fold_split, read_split, split_for
from mumo.pipeline.running.training import training_pool
from mumo.stores.pack import pack
from mumo.stores.records import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_store(tmp_path_factory.mktemp("folds"))


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    folder = store.parent / "run"
    crossfit.fit_folds(store, folder, quick_settings(), folds=3, seeds=2, device="cpu", workers=1)
    return folder


# --- splits -----------------------------------------------------------------------------------------------


def test_draw_folds__put_everyone_in_one_fold_and_every_stratum_in_all() -> None:
    patients = [f"P{n}" for n in range(53)]
    labels = [(n % 5 == 0,) for n in range(53)]
    folds = draw_folds(patients, labels, 5, 0)
    assert list(folds) == patients
    for stratum in (True, False):
        counts = np.unique([folds[p] for p, (label,) in zip(patients, labels, strict=True) if label == stratum],
                           return_counts=True)[1]  # fmt: skip
        assert len(counts) == 5
        assert counts.max() - counts.min() <= 1
    assert folds != draw_folds(patients, labels, 5, 1)
    with pytest.raises(FitError, match="stands twice"):
        draw_folds(["a", "a", "b"], [(0,)] * 3, 2, 0)
    with pytest.raises(FitError, match="expected 2 to 3"):
        draw_folds(["a", "b", "c"], [(0,)] * 3, 4, 0)


def test_centre_folds__need_two_centres() -> None:
    assert centre_folds(["a", "b"], ["X", "Y"]) == {"a": "X", "b": "Y"}
    with pytest.raises(FitError, match="of one centre"):
        centre_folds(["a", "b"], ["X", "X"])


def test_fold_split__validates_on_a_share_of_the_others() -> None:
    patients = [f"P{n}" for n in range(50)]
    split = fold_split(patients, [(n % 2,) for n in range(50)], set(patients[:10]), SplitSettings(validation=0.25))
    assert set(split.indices(patients, "test")) == set(range(10))
    assert len(split.indices(patients, "validation")) == 10
    assert len(split.indices(patients, "train")) == 30


# --- folds × seeds ----------------------------------------------------------------------------------------


def test_fit_folds__predict_everyone_once_by_models_that_have_not_seen_them(run: Path) -> None:
    pooled = read_predictions(run / "predictions.parquet")
    folds = pd.read_csv(run / "folds.csv", dtype=str).set_index("patient")["fold"]
    assert pooled["patient"].tolist() == [f"P{n:03d}" for n in range(40)]
    assert set(pooled["part"]) == {"test"}
    for fold in "123":
        parts = [read_split(run / "members" / f"fold-{fold}-seed-{seed}" / "split.csv").parts for seed in (0, 1)]
        assert parts[0] == parts[1]
        assert {p for p, part in parts[0].items() if part == "test"} == set(folds[folds == fold].index)
        said = [
            read_predictions(run / "members" / f"fold-{fold}-seed-{seed}" / "predictions.parquet").set_index("patient")
            for seed in (0, 1)
        ]
        mine = pooled[pooled["patient"].map(folds) == fold].set_index("patient")
        expected = (said[0]["probability"] + said[1]["probability"]) / 2
        np.testing.assert_allclose(mine["probability"], expected[mine.index])


def test_fit_folds__threshold_of_a_fold_is_chosen_on_its_own_validation(run: Path) -> None:
    info = json.loads((run / "run.json").read_text())
    found = json.loads((run / "metrics.json").read_text())
    pooled = read_predictions(run / "predictions.parquet").set_index("patient")
    folds = pd.read_csv(run / "folds.csv", dtype=str).set_index("patient")["fold"]
    calls = pd.Series(False, index=pooled.index)
    for fold, threshold in info["thresholds"].items():
        said = [read_predictions(run / "members" / f"fold-{fold}-seed-{s}" / "predictions.parquet") for s in (0, 1)]
        chosen = said[0]["part"] == "validation"
        mean = (said[0]["probability"] + said[1]["probability"]) / 2
        assert threshold == metrics.youden_threshold(said[0]["label"][chosen], mean[chosen])
        mine = folds[folds == fold].index
        calls[mine] = pooled["probability"][mine] >= threshold
    labels = pooled["label"].astype(float)
    sensitivity = (calls & (labels == 1)).sum() / (labels == 1).sum()
    assert found["parts"]["test"]["sensitivity"]["value"] == pytest.approx(sensitivity)


def test_fit_folds__spread_is_that_of_the_members(run: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())["spread"]
    frames = [
        pd.concat(
            frame[frame["part"] == "test"]
            for fold in "123"
            for frame in [read_predictions(run / "members" / f"fold-{fold}-seed-{seed}" / "predictions.parquet")]
        )
        for seed in (0, 1)
    ]
    areas = [metrics.auc(frame["label"], frame["probability"]) for frame in frames]
    assert found["auc_of_seeds"] == {"0": pytest.approx(areas[0]), "1": pytest.approx(areas[1])}
    assert found["seeds"]["mean"] == pytest.approx(np.mean(areas))
    assert found["seeds"]["sd"] == pytest.approx(np.std(areas, ddof=1))
    assert set(found["auc_of_folds"]) == {"1", "2", "3"}


def test_fit_folds__writes_a_card_of_everyone_out_of_fold(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = json.loads((run / "metrics.json").read_text())
    part = found["parts"]["test"]
    assert "6 models: 3 folds by patient, 2 training(s) each" in card
    assert f"| all | {part['patients']} | {part['responders']} |" in card
    assert f"| all, out of fold | {part['auc']['value']:.3f} (" in card
    assert f"| pairs within a fold | {part['auc_within_folds']['value']:.3f} (" in card
    assert all(f"{fold}: {threshold:.3f}" in card for fold, threshold in found["thresholds"].items())
    assert "AUC of single folds, test patients: mean" in card
    assert "held out from all of them" in card
    assert "Nobody was held out from everything" not in card


def test_predict__of_folds_averages_the_members(run: Path, store: Path, tmp_path: Path) -> None:
    frame = predict(run, store, tmp_path / "all.parquet", device="cpu")
    each = [predict(folder, store, tmp_path / "one.parquet", device="cpu") for folder in (run / "members").iterdir()]
    np.testing.assert_allclose(frame["probability"], np.mean([f["probability"] for f in each], axis=0))
    assert set(frame["part"]) == {"train"}


def test_fit_folds__resumed_keeps_what_is_finished(run: Path, store: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.glob("members/*/model.safetensors")}
    again = crossfit.fit_folds(store, run, quick_settings(), folds=3, seeds=2, device="cpu", workers=1, resume=True)
    assert {file: file.stat().st_mtime_ns for file in run.glob("members/*/model.safetensors")} == before
    assert again["spread"].keys() == {"part", "auc_of_seeds", "auc_of_folds", "seeds", "folds"}
    with pytest.raises(FitError, match=r"cannot be resumed.*members"):
        crossfit.fit_folds(store, run, quick_settings(), folds=4, seeds=2, device="cpu", workers=1, resume=True)


def test_fit_folds__by_centre_holds_out_one_centre_at_a_time(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    crossfit.fit_folds(store, folder, quick_settings(), folds=0, seeds=1, by_centre=True, device="cpu", workers=1)
    for number, centre in ((1, "A"), (2, "B")):
        frame = read_predictions(folder / "members" / f"fold-{number}-seed-0" / "predictions.parquet")
        assert set(frame["centre"][frame["part"] == "test"]) == {centre}
        assert centre not in set(frame["centre"][frame["part"] != "test"])


@pytest.mark.slow
def test_train_members__in_processes_are_those_trained_here(run: Path, store: Path, tmp_path: Path) -> None:
    crossfit.fit_folds(store, tmp_path / "run", quick_settings(), folds=3, seeds=2, device="cpu", workers=2)
    one, two = (read_predictions(folder / "predictions.parquet") for folder in (run, tmp_path / "run"))
    np.testing.assert_allclose(one["probability"], two["probability"], rtol=1e-4)


@pytest.mark.slow
def test_train_members__on_a_cluster_are_those_trained_here(run: Path, store: Path, tmp_path: Path) -> None:
    names: list[str] = []
    with (
        hand_made_cluster(tmp_path / "cluster") as cluster,
        training_pool(str(cluster.file), quick_settings()) as pool,
    ):
        crossfit.fit_folds(
            store, tmp_path / "run", quick_settings(), folds=3, seeds=2, device="cpu", pool=pool,
            done=lambda number, of, name: names.append(name),
        )  # fmt: skip
    assert len(set(names)) == 6
    one, two = (read_predictions(folder / "predictions.parquet") for folder in (run, tmp_path / "run"))
    np.testing.assert_allclose(one["probability"], two["probability"], rtol=1e-4)


@pytest.mark.slow
def test_train_members__a_training_that_fails_on_a_cluster_ends_the_rest(store: Path, tmp_path: Path) -> None:
    broken = quick_settings(tables={"labs": tmp_path / "none.csv"})
    split = read_split_of(store)
    with (
        hand_made_cluster(tmp_path / "cluster") as cluster,
        training_pool(str(cluster.file), quick_settings()) as pool,
        pytest.raises(FitError, match=r"none\.csv"),
    ):
        members.train_members(store, tmp_path / "run", [members.Member("a", broken, split)], device="cpu", pool=pool)


def read_split_of(store: Path) -> Split:
    return split_for(pack(Store.open(store)), SplitSettings(test=0.3))


def test_fit_folds__without_folds_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="expected two or more"):
        crossfit.fit_folds(store, tmp_path / "run", quick_settings(), folds=0, seeds=2)
    assert members.MEMBER_BOOTSTRAP > 0
    assert not (tmp_path / "run").exists()


# --- ablations --------------------------------------------------------------------------------------------


def test_ablate__sets_each_against_the_full_model(store: Path, tmp_path: Path) -> None:
    chosen = quick_settings(split=SplitSettings(test=0.4))
    table = ablate.ablate(store, tmp_path / "run", chosen, names=("sum", "no-images"), device="cpu", workers=1)
    assert table["ablation"].tolist() == ["full", "no-images", "sum"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "run" / "ablations.parquet"), table)
    saved = json.loads((tmp_path / "run" / "ablations.json").read_text())
    assert saved[0]["difference"] is None
    for row in saved:
        frame = read_predictions(tmp_path / "run" / "members" / f"{row['ablation']}-seed-0" / "predictions.parquet")
        frame = frame[frame["part"] == "test"]
        assert row["auc"] == pytest.approx(metrics.auc(frame["label"], frame["probability"]))
        assert row["patients"] == len(frame)
    assert saved[2]["difference"] == pytest.approx(saved[2]["auc"] - saved[0]["auc"])
    config = json.loads((tmp_path / "run" / "members" / "sum-seed-0" / "config.json").read_text())
    assert config["model"]["inter_fusion"] == "sum"
    lines = ablate.table_lines(table)
    assert len(lines) == 5
    assert lines[1].startswith("full")
    assert lines[-1].endswith("test patients")
    assert "optimistic" in ablate.table_lines(table.assign(part="validation"))[-1]


def test_ablate__names_what_there_is(store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="expected some of full, radiology-only"):
        ablate.ablate(store, tmp_path / "run", quick_settings(), names=("nonsense",))


def test_predict__of_ablations_is_refused(store: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"kind": "ablations", "status": "finished"}')
    with pytest.raises(FitError, match="holds ablations"):
        predict(tmp_path / "run", store, tmp_path / "o.parquet", device="cpu")

"""Seeds on one split: the ensemble is the mean of its members, and its threshold is chosen where theirs are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from quick_fits import quick_settings, write_quick_store

from mumo.commands.listings import print_metrics
from mumo.config import Settings, SplitSettings
from mumo.errors import FitError
from mumo.fusion import baselines, metrics, report, seeds
from mumo.fusion.predict import predict, read_predictions
from mumo.fusion.splits import read_split


def settings(test: float = 0.3) -> Settings:
    return quick_settings(seed=3, split=SplitSettings(validation=0.3, test=test))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_store(tmp_path_factory.mktemp("seeds"))


@pytest.fixture(scope="module")
def run(store: Path) -> Path:
    folder = store.parent / "run"
    seeds.fit_many(store, folder, settings(), seeds=3, device="cpu", workers=1)
    return folder


def test_fit_many__averages_the_seeds_on_one_split(run: Path) -> None:
    names = ["seed-3", "seed-4", "seed-5"]
    assert sorted(folder.name for folder in (run / "members").iterdir()) == names
    split = read_split(run / "split.csv").parts
    said = []
    for name in names:
        assert read_split(run / "members" / name / "split.csv").parts == split
        said.append(read_predictions(run / "members" / name / "predictions.parquet"))
    mean = read_predictions(run / "predictions.parquet")
    assert dict(zip(mean["patient"], mean["part"], strict=True)) == split
    for column in ("probability", "risk"):
        np.testing.assert_allclose(mean[column], np.mean([frame[column] for frame in said], axis=0))
    assert not np.allclose(said[0]["probability"], said[1]["probability"])


@pytest.mark.parametrize(("test", "chooser"), [(0.3, "validation"), (0.0, "train")])
def test_fit_many__threshold_is_that_of_the_mean_on_patients_that_are_not_held_out(
    store: Path, tmp_path: Path, test: float, chooser: str
) -> None:
    found = seeds.fit_many(store, tmp_path / "run", settings(test), seeds=2, device="cpu", workers=1)
    mean = read_predictions(tmp_path / "run" / "predictions.parquet")
    chosen = mean[mean["part"] == chooser]
    expected = metrics.youden_threshold(chosen["label"], chosen["probability"])
    assert found["threshold"] == expected
    assert json.loads((tmp_path / "run" / "run.json").read_text())["threshold"] == expected
    assert found["chosen_on"] == {"weights": "validation", "threshold": chooser}
    assert found["headline"] == ("test" if test else None)
    assert found["spread"]["part"] == ("test" if test else "validation")


def test_fit_many__spread_is_that_of_the_members(run: Path) -> None:
    found = json.loads((run / "metrics.json").read_text())
    areas = {}
    for seed in (3, 4, 5):
        frame = read_predictions(run / "members" / f"seed-{seed}" / "predictions.parquet")
        rows = frame[frame["part"] == "test"]
        areas[str(seed)] = metrics.auc(rows["label"], rows["probability"])
    assert found["spread"]["auc_of_seeds"] == pytest.approx(areas)
    assert found["spread"]["seeds"]["sd"] == pytest.approx(np.std(list(areas.values()), ddof=1))


def test_predict__of_seeds_keeps_parts_and_threshold(run: Path, store: Path, tmp_path: Path) -> None:
    frame = predict(run, store, tmp_path / "all.parquet", device="cpu")
    own = read_predictions(run / "predictions.parquet")
    np.testing.assert_allclose(frame["probability"], own["probability"], rtol=1e-5)
    assert frame["part"].tolist() == own["part"].tolist()
    said, trained = (
        json.loads(file.read_text()) for file in (tmp_path / "all.parquet.metrics.json", run / "metrics.json")
    )
    assert said["threshold"] == trained["threshold"]
    assert said["parts"]["test"]["sensitivity"] == trained["parts"]["test"]["sensitivity"]


def test_report__of_seeds_has_risk_groups_and_the_spread(run: Path, store: Path) -> None:
    baselines.baselines(store, run)
    page = report.write_report(run).read_text(encoding="utf-8")
    assert "Spread of the AUC, test patients" in page
    assert "3 trainings on the one split, predictions averaged" in page
    assert "Simpler predictors, test patients" in page
    assert (run / "report" / "survival-test-os.svg").exists()


def test_fit_many__resumed_keeps_what_is_finished(run: Path, store: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.glob("members/*/model.safetensors")}
    seeds.fit_many(store, run, settings(), seeds=3, device="cpu", workers=1, resume=True)
    assert {file: file.stat().st_mtime_ns for file in run.glob("members/*/model.safetensors")} == before
    with pytest.raises(FitError, match=r"cannot be resumed.*members"):
        seeds.fit_many(store, run, settings(), seeds=4, device="cpu", workers=1, resume=True)


def test_print_metrics__says_what_each_part_was_used_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((run / "metrics.json").read_text())
    print_metrics(found, as_json=False)
    said = capsys.readouterr().out
    lines = {line.partition(":")[0]: line for line in said.splitlines()}
    assert "[held out from training and every choice]" in lines["test"]
    assert "[chose the weights; chose the threshold]" in lines["validation"]
    assert "[fitted to]" in lines["train"]
    assert "AUC of seeds, test patients: mean" in said
    assert "optimistic" not in said
    del found["parts"]["test"]
    print_metrics(found | {"headline": None}, as_json=False)
    assert "nobody was held out from everything" in capsys.readouterr().out


def test_fit_many__says_which_weights_the_deep_features_come_from(run: Path) -> None:
    found = json.loads((run / "run.json").read_text())
    member = json.loads((run / "members" / "seed-3" / "run.json").read_text())
    assert found["weights"] == member["weights"] == "random:0"
    assert found["weights_sha256"] == member["weights_sha256"]
    assert "had learnt nothing" in (run / "report.html").read_text(encoding="utf-8")


def test_fit_many__writes_a_card_of_the_ensemble(run: Path) -> None:
    card = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    found = json.loads((run / "metrics.json").read_text())
    member = json.loads((run / "members" / "seed-3" / "run.json").read_text())
    assert "3 models: 3 trainings on one split; seeds 3, 4, 5; store digest " + member["store_digest"] in card
    area = found["parts"]["test"]["auc"]
    assert f"| test | {area['value']:.3f} ({area['low']:.3f}–{area['high']:.3f}) |" in card
    for part, counts in member["patients"].items():
        assert f"| {part} | {counts['patients']} | {counts['responders']} | {counts['non_responders']} |" in card
    assert f"that of the mean over the members: {found['threshold']:.3f}." in card
    spread = found["spread"]["seeds"]
    assert f"AUC of single seeds, test patients: mean {spread['mean']:.3f}, {spread['low']:.3f} to" in card
    assert "nan" not in card.lower().split()

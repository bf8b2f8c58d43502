"""The model card of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quick_fits import quick_settings, write_quick_store

from mumo.fusion import train
from mumo.fusion.card import write_card
from mumo.fusion.checkpoint import read_metrics
from mumo.fusion.report_methods import LEARNT_NOTHING


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card")
    train.fit(write_quick_store(folder), folder / "run", quick_settings(), device="cpu")
    return folder / "run"


@pytest.mark.parametrize(("weights", "said"), [("random:0", True), ("imagenet", False), ("random.safetensors", False)])
def test_write_card__says_whose_weights_the_deep_features_are_of(
    run: Path, tmp_path: Path, weights: str, said: bool
) -> None:
    info = json.loads((run / "run.json").read_text()) | {"weights": weights, "weights_sha256": "ab12"}
    write_card(tmp_path / "card.md", info, quick_settings(), read_metrics(run))
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert f"- Deep features: of the backbone weights {weights}, SHA-256 ab12" in card
    assert (LEARNT_NOTHING in card) is said

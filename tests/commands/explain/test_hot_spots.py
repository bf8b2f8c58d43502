"""What is planted at a known place is found there, through the whole pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
def test_explain__finds_hot_spots_of_held_out_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import explain

    settings = explain.train_backbone(tmp_path, explain.make(tmp_path, "slides", 60), "slides")
    explain.fill(tmp_path, settings, "slides")
    assert explain.train(tmp_path, settings) > 0.8  # a model that knows nothing explains nothing
    found = explain.judge_slides(tmp_path, "risk")
    assert len(found.bags) >= 10 and np.mean(found.bags) > 30
    for measure in ("weight", "|effect|"):
        assert np.mean(found.hits[measure]) >= 0.9
        assert np.mean(found.hits[f"{measure}, random models"]) < np.mean(found.hits[measure])


@pytest.mark.slow
def test_explain__grad_cam_lies_in_lesions_of_held_out_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import explain

    settings = explain.train_backbone(tmp_path, explain.make(tmp_path, "ct"), "ct")
    explain.fill(tmp_path, settings, "ct")
    assert explain.train(tmp_path, settings) > 0.9
    found = explain.judge_lesions(tmp_path, settings, "response")
    assert len(found.areas) >= 30 and np.mean(found.areas) < 0.2  # lesions are small, so that it could be elsewhere
    assert np.mean(found.in_lesion[explain.RAISES]) >= 0.85
    assert np.mean(found.in_lesion["the middle of the crop, for comparison"]) < 0.5

"""What is planted at a known place is found there, through the whole pipeline and weights drawn from a seed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_explain__finds_hot_spots_of_held_out_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import explain

    settings, metrics = explain.make(tmp_path, 60)
    assert metrics["parts"]["test"]["auc"]["value"] > 0.8  # an untrained model has nothing to explain
    found = explain.judge_slides(tmp_path, settings)
    assert len(found.bags) >= 10 and np.mean(found.bags) > 30
    assert np.mean(found.hits["weight"]) >= 0.9
    assert np.mean(found.hits["|effect|"]) >= 0.9
    assert np.mean(found.hits["weight, random models"]) < 0.6
    assert "mumo.explain" in sys.modules

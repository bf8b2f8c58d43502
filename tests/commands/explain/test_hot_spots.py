"""What is planted at a known place is found there, through the whole pipeline and weights drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_explain__finds_hot_spots_of_held_out_patients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import explain

    settings = explain.make(tmp_path, 60)
    assert explain.fit_alone(tmp_path, settings, "pathology") > 0.8  # a model that knows nothing explains nothing
    found = explain.judge_slides(tmp_path)
    assert len(found.bags) >= 10 and np.mean(found.bags) > 30
    assert np.mean(found.hits["|effect|"]) >= 0.9
    assert np.mean(found.hits["|effect|, random models"]) < np.mean(found.hits["|effect|"])

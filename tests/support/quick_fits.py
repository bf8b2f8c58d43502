"""A small store and settings that train in a moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from packs import make_packed, write_store

from mumo.config import FitSettings, ModelSettings, Settings
from mumo.fusion import train
from mumo.stores.packed import Packed

ONE_EPOCH = Settings(
    model=ModelSettings(width=16, heads=2, feed_forward=16),
    fit=FitSettings(epochs=1, batch_patients=8, bags_per_patient=2, lesions_per_patient=2, bootstrap=20),
)
"""For tests of what is done with a model, whatever it has learnt."""


def quick_settings(**fit: Any) -> Settings:
    """One epoch of a narrow model on one bag and one lesion a patient; `fit` gives further fields of that section."""
    quick: dict[str, Any] = {"epochs": 1, "batch_patients": 16, "average_best": 1, "bootstrap": 20}
    quick |= {"bags_per_patient": 1, "lesions_per_patient": 1}
    model = ModelSettings(width=8, heads=2, feed_forward=8)
    return Settings(model=model, fit=FitSettings(**{**quick, **fit}))


def write_quick_store(folder: Path) -> Path:
    """A store of 40 patients with a signal, one bag and one lesion each, below `folder`."""
    path = folder / "store"
    write_store(path, make_packed(40, signal=1.0, bags=1, lesions=1))
    return path


def store_and_run(packed: Packed, settings: Settings = ONE_EPOCH) -> tuple[Any, Any]:
    """Fixtures `store` and `run` of a module: a store of `packed`, and a run of `settings` on it."""

    @pytest.fixture(scope="module")
    def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("store") / "store"
        write_store(path, packed)
        return path

    @pytest.fixture(scope="module")
    def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("run") / "run"
        train.fit(store, path, settings, device="cpu")
        return path

    return store, run

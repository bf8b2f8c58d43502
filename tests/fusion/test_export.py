"""A model that leaves PyTorch says the same; trackers and the model card say what happened."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packs import make_packed, write_store

from mumo.config import FitSettings, ModelSettings, Settings
from mumo.errors import FitError
from mumo.fusion import checkpoint, train
from mumo.fusion.dataset import Dataset
from mumo.fusion.export import export_onnx, inputs_of
from mumo.fusion.predict import score
from mumo.stores.pack import pack
from mumo.stores.records import Store

PACKED = make_packed(24, bags=4, lesions=3)


def fitted(folder: Path, **fit: Any) -> Path:
    write_store(folder / "store", PACKED)
    quick: dict[str, Any] = {"epochs": 2, "batch_patients": 16, "average_best": 2, "bootstrap": 20}
    model = ModelSettings(width=16, heads=2, feed_forward=16)
    train.fit(folder / "store", folder / "run", Settings(model=model, fit=FitSettings(**quick, **fit)), device="cpu")
    return folder / "run"


@pytest.mark.slow
def test_export_onnx__says_the_same_of_every_patient(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    run = fitted(tmp_path)
    names = export_onnx(run, tmp_path / "model.onnx")
    loaded, packed = checkpoint.load_run(run), pack(Store.open(tmp_path / "store"))
    assert set(packed.modalities) == {"both", "pathology", "radiology", "none"}
    dataset = Dataset(packed, loaded.layout, loaded.scalers, "os")
    expected = score(loaded.model, dataset, np.arange(24), device=torch.device("cpu"))
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    assert [entry.name for entry in session.get_inputs()] == names
    for patient in range(24):
        probability, logits, risk = session.run(None, inputs_of(names, dataset, patient))
        np.testing.assert_allclose(probability, expected.probability[[patient]], atol=1e-5)
        np.testing.assert_allclose(logits[0], expected.logits[patient], atol=1e-4)
        np.testing.assert_allclose(risk, expected.risk[[patient]], atol=1e-4)
    facts = json.loads(session.get_modelmeta().custom_metadata_map["mumo"])
    assert facts["weights_sha256"] == "1" * 64


def test_export_onnx__without_the_packages_says_which_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(FitError, match=r"\.\[onnx\]"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_fit__writes_a_card_that_says_on_whom_and_how_well(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    text = (run / "MODEL_CARD.md").read_text()
    info = json.loads((run / "run.json").read_text())
    area = json.loads((run / "metrics.json").read_text())["parts"]["train"]["auc"]["value"]
    train_part = info["patients"]["train"]
    row = " | ".join(str(train_part[name]) for name in ("patients", "responders", "non_responders", "unlabelled"))
    assert f"| train | {row} |" in text
    assert f"| train | {area:.3f}" in text
    assert info["store_digest"] in text
    assert "not a medical device" in text


def test_fit__with_tensorboard_logs_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = fitted(tmp_path, trackers=("tensorboard",))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    logged = [event.value for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(logged, [line["train"]["loss"] for line in history], rtol=1e-6)


def test_fit__with_a_tracker_that_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(FitError, match=r"\.\[mlflow\]"):
        fitted(tmp_path, trackers=("mlflow",))


def test_fit__with_mlflow_logs_settings_and_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    params: dict[str, Any] = {}

    class Run:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    class Stub:
        start_run = staticmethod(lambda run_name: Run())
        log_params = staticmethod(params.update)
        log_metrics = staticmethod(lambda values, step: logged.append((step, values)))

    monkeypatch.setitem(sys.modules, "mlflow", Stub())  # type: ignore[arg-type]
    fitted(tmp_path, trackers=("mlflow",))
    assert [step for step, _ in logged] == [1, 2]
    assert "validation/loss" in logged[0][1]
    assert params["fit.epochs"] == 2
    assert params["model.width"] == 16

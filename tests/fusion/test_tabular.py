"""A third modality from a table: configuration alone adds it, and it is handled like the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from packs import make_packed, write_store

from mumo.config import FitSettings, ModelSettings, Settings, SplitSettings
from mumo.errors import FitError
from mumo.fusion import checkpoint, metrics, train
from mumo.fusion.model import MuMo, TableBranch
from mumo.fusion.predict import predict, score
from mumo.fusion.tabular import add_tables
from mumo.stores.packed import Packed

CPU = torch.device("cpu")


def expression(packed: Packed, file: Path, signal: float = 2.0, genes: int = 20) -> Path:
    """Gene expression of two of three patients, two samples for some; a few genes show the response."""
    rng = np.random.default_rng(0)
    rows = []
    for number, patient in enumerate(packed.patients):
        for _ in range((1, 2, 0)[number % 3]):
            values = rng.normal(size=genes)
            values[:5] += signal * (number % 2)
            rows.append({"patient": patient, **{f"gene_{g}": v for g, v in enumerate(values)}, "constant": 1.0})
    frame = pd.DataFrame(rows)
    frame.loc[3, "gene_7"] = np.nan
    frame.to_csv(file, index=False) if file.suffix == ".csv" else frame.to_parquet(file)
    return file


def settings(table: Path, **model: Any) -> Settings:
    small = {"width": 16, "heads": 2, "feed_forward": 16, "modalities": ("pathology", "radiology", "expression")}
    return Settings(
        model=ModelSettings(**{**small, **model}),
        fit=FitSettings(
            epochs=2, batch_patients=16, bags_per_patient=2, lesions_per_patient=2, average_best=2, bootstrap=20,
            tables={"expression": table}, split=SplitSettings(test=0.3),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_add_tables__makes_units_of_rows(tmp_path: Path, suffix: str) -> None:
    packed = make_packed(9)
    table = expression(packed, tmp_path / f"table{suffix}")
    units = add_tables(packed, {"expression": table}).units["expression"]
    assert units.counts.tolist() == [1, 2, 0] * 3
    frame = pd.read_csv(table) if suffix == ".csv" else pd.read_parquet(table)
    np.testing.assert_allclose(units.omics, frame.drop(columns="patient").to_numpy(), rtol=1e-6)


def test_fit__with_a_third_modality_predicts_on_another_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    packed = make_packed(30, bags=2, lesions=2)
    write_store(tmp_path / "store", packed)
    table = expression(packed, tmp_path / "expression.csv")
    train.fit(tmp_path / "store", tmp_path / "run", settings(table), device="cpu")
    loaded = checkpoint.load_run(tmp_path / "run")
    assert [m.name for m in loaded.layout.modalities] == ["pathology", "radiology", "expression"]
    assert loaded.layout.modalities[2].omics_width == 20
    assert loaded.info["omics_dropped"]["expression"] == {"missing": [], "constant": ["constant"]}
    assert str(tmp_path) not in (tmp_path / "run" / "config.json").read_text()

    other = make_packed(12, seed=3)
    write_store(tmp_path / "other", other)
    tables = {"expression": expression(other, tmp_path / "other.parquet")}
    frame = predict(tmp_path / "run", tmp_path / "other", tmp_path / "out.parquet", device="cpu", tables=tables)
    assert frame["probability"].between(0, 1).all()
    assert "without images of" not in caplog.text  # a table has none
    with pytest.raises(FitError, match="--table expression=FILE"):
        predict(tmp_path / "run", tmp_path / "other", tmp_path / "out.parquet", device="cpu")


def test_model__with_a_table_alone_ignores_the_order_and_the_padding_of_its_rows(tmp_path: Path) -> None:
    packed = make_packed(12, missing=False)
    table = expression(packed, tmp_path / "t.csv")
    chosen = settings(table, modalities=("expression",), reports=False, patient_information=False)
    prepared = train.prepare(add_tables(packed, chosen.fit.tables), chosen)
    torch.manual_seed(0)
    model = MuMo(prepared.layout, chosen.model).eval()
    assert isinstance(model.modalities[0].branch, TableBranch)
    together = model(prepared.dataset.whole(np.arange(12)))
    assert together.present[:, 0].tolist() == [True, True, False] * 4
    for p in range(12):
        alone = model(prepared.dataset.whole(np.array([p])))
        torch.testing.assert_close(alone.logits[0], together.logits[p])
    turned = pd.read_csv(table).iloc[::-1]
    turned.to_csv(tmp_path / "turned.csv", index=False)
    other = settings(tmp_path / "turned.csv", modalities=("expression",), reports=False, patient_information=False)
    again = train.prepare(add_tables(packed, other.fit.tables), other)
    torch.testing.assert_close(model(again.dataset.whole(np.arange(12))).logits, together.logits)
    logits = together.logits.detach()
    without = [2, 5, 8, 11]
    assert torch.equal(logits[without], logits[2].expand(4, -1))
    assert len(torch.unique(logits, dim=0)) == 9


def test_train__finds_the_signal_of_the_table(tmp_path: Path) -> None:
    packed = make_packed(120, missing=False, bags=1, lesions=1)
    table = expression(packed, tmp_path / "t.csv")
    chosen = settings(table, modalities=("expression",), reports=False, patient_information=False)
    fit = chosen.fit.model_copy(update={"epochs": 8, "learning_rate": 3e-3})
    chosen = chosen.model_copy(update={"fit": fit})
    prepared = train.prepare(add_tables(packed, chosen.fit.tables), chosen)
    result = train.train(prepared, chosen, device=CPU)
    patients = prepared.patients("test")
    have = patients[prepared.packed.units["expression"].counts[patients] > 0]
    scores = score(result.model, prepared.dataset, have, device=CPU)
    assert metrics.auc(packed.labels[have], scores.probability) > 0.9


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,gene\nP000,1\n", "has no column patient"),
        ("patient,gene\nP000,high\n", r"columns \['gene'\] of t.csv hold words"),
        ("patient\nP000\n", "has no column of numbers"),
    ],
)
def test_add_tables__that_cannot_be_used_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(FitError, match=message):
        add_tables(make_packed(6), {"expression": tmp_path / "t.csv"})
    with pytest.raises(FitError, match="cannot be read"):
        add_tables(make_packed(6), {"expression": tmp_path / "none.csv"})
    with pytest.raises(FitError, match="pathology is a modality of the store already"):
        add_tables(make_packed(6), {"pathology": tmp_path / "t.csv"})


def test_prepare__with_an_unknown_modality_is_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path / "t.csv", modalities=("pathologie",))
    with pytest.raises(FitError, match=r"\['pathologie'\] are unknown, expected some of \['pathology', 'radiology'\]"):
        train.prepare(make_packed(12, missing=False), chosen)

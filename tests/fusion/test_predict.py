"""Prediction from a run folder alone, on the same store and on others; what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from packs import make_packed, without_images, write_clinical, write_store
from quick_fits import ONE_EPOCH, store_and_run

from mumo.errors import FitError
from mumo.fusion import train
from mumo.fusion.checkpoint import load_run
from mumo.fusion.predict import check_matches, predict, resolve_device
from mumo.stores.packed import CodeItem, Packed
from mumo.stores.records import Store

COHORT = make_packed(20, bags=2, lesions=2)


store, run = store_and_run(COHORT)


def renamed(packed: Packed, prefix: str) -> Packed:
    return dataclasses.replace(packed, patients=tuple(prefix + patient for patient in packed.patients))


def test_predict__on_the_training_store_repeats_the_runs_predictions(run: Path, store: Path, tmp_path: Path) -> None:
    frame = predict(run, store, tmp_path / "out.parquet", device="cpu")
    expected = pq.read_table(run / "predictions.parquet")
    assert pq.read_table(tmp_path / "out.parquet").equals(expected)
    assert frame["part"].tolist() == expected["part"].to_pylist()
    one, two = (json.loads(file.read_text()) for file in (run / "metrics.json", tmp_path / "out.parquet.metrics.json"))
    assert one == two


def test_predict__needs_nothing_but_the_run_folder(run: Path, store: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "moved")
    shutil.copytree(store, tmp_path / "copy", ignore=shutil.ignore_patterns("packed"))
    found = predict(tmp_path / "moved", tmp_path / "copy", tmp_path / "out.parquet", device="cpu")
    expected = pq.read_table(run / "predictions.parquet").to_pandas()
    np.testing.assert_array_equal(found["probability"], expected["probability"])


def test_predict__of_other_patients_calls_them_external(run: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "store", renamed(make_packed(10, seed=5), "X"))
    frame = predict(run, tmp_path / "store", tmp_path / "out.parquet", device="cpu")
    assert set(frame["part"]) == {"external"}
    assert len(frame) == 10
    info = json.loads((run / "run.json").read_text())
    evaluated = json.loads((tmp_path / "out.parquet.metrics.json").read_text())
    assert evaluated["threshold"] == info["threshold"]
    assert set(evaluated["parts"]) == {"external"}


def test_predict__of_a_patient_does_not_depend_on_the_others(run: Path, store: Path, tmp_path: Path) -> None:
    together = predict(run, store, tmp_path / "out.parquet", device="cpu").set_index("patient")
    fewer = first_patients(COHORT, 3)
    write_store(tmp_path / "store", fewer)
    alone = predict(run, tmp_path / "store", tmp_path / "out.parquet", device="cpu").set_index("patient")
    np.testing.assert_allclose(alone["risk"], together.loc[alone.index, "risk"], rtol=1e-4, atol=1e-5)


def first_patients(packed: Packed, count: int) -> Packed:
    units = {}
    for name, unit in packed.units.items():
        stop = int(unit.offsets[count])
        cut = {
            f: getattr(unit, f)[:stop]
            for f in ("features", "classes", "word_classes", "omics", "omics_known", "sources", "names")
        }
        units[name] = dataclasses.replace(unit, offsets=unit.offsets[: count + 1], **cut)
    return dataclasses.replace(
        packed,
        patients=packed.patients[:count],
        centres=packed.centres[:count],
        labels=packed.labels[:count],
        days={k: v[:count] for k, v in packed.days.items()},
        events={k: v[:count] for k, v in packed.events.items()},
        times={k: v[:count] for k, v in packed.times.items()},
        codes={k: dataclasses.replace(v, values=v.values[:count]) for k, v in packed.codes.items()},
        units=units,
    )


def test_predict__of_a_store_without_images_or_omics_treats_them_as_missing(run: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "one", renamed(without_images(make_packed(6), "radiology"), "X"))
    assert len(predict(run, tmp_path / "one", tmp_path / "out.parquet", device="cpu")) == 6
    write_clinical(Store.create(tmp_path / "two"), make_packed(6))
    frame = predict(run, tmp_path / "two", tmp_path / "out.parquet", device="cpu")
    assert set(frame["modalities"]) == {"none"}
    plain = write_store(tmp_path / "three", renamed(make_packed(6), "X"))
    shutil.rmtree(plain.path / "radiomics")
    assert predict(run, plain.path, tmp_path / "out.parquet", device="cpu")["risk"].notna().all()


def other_codes(packed: Packed, group: str, items: tuple[CodeItem, ...], values: np.ndarray) -> Packed:
    codes = dataclasses.replace(packed.codes[group], items=items, values=values.astype("float32"))
    return dataclasses.replace(packed, codes={**packed.codes, group: codes})


def mismatches() -> list[tuple[str, Packed, str]]:
    packed = make_packed(6)
    information = packed.codes["patient_information"]
    sex, age, *rest = information.items
    wider = CodeItem("sex", (*sex.classes, "class 2"))
    columns = list(packed.units["radiology"].omics_columns)
    swapped = dataclasses.replace(packed.units["radiology"], omics_columns=(columns[1], columns[0], *columns[2:]))
    return [
        ("width", make_packed(6, width=8), "pathology: deep features of width 8, expected 16"),
        ("weights", dataclasses.replace(packed, weights="imagenet", weights_sha256="2" * 64),
         r"weights imagenet \(222222222222\), expected random:0 \(111111111111\)"),
        ("omics", make_packed(6, omics=7),
         r"pathology: 7 omics columns, expected 6 \(for example original_firstorder_F6\)"),
        ("omics order", dataclasses.replace(packed, units={**packed.units, "radiology": swapped}),
         r"radiology: 6 omics columns, expected 6 \(in another order\)"),
        ("classes", other_codes(packed, "patient_information", (wider, age, *rest),
                                np.pad(information.values, ((0, 0), (1, 0)))),
         r"patient_information/sex: classes \('class 0', 'class 1', 'class 2'\), expected \('class 0', 'class 1'\)"),
        ("missing item", other_codes(packed, "patient_information", (age, *rest), information.values[:, 2:]),
         "patient_information/sex: classes missing"),
        ("order", other_codes(packed, "patient_information", (age, sex, *rest), information.values),
         r"patient_information: items in the order \['age', 'sex'"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "other", "message"), mismatches(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_predict__of_a_store_that_does_not_fit_is_refused_by_name(
    run: Path, tmp_path: Path, name: str, other: Packed, message: str
) -> None:
    write_store(tmp_path / "store", other)
    with pytest.raises(FitError, match=message):
        predict(run, tmp_path / "store", tmp_path / "out.parquet", device="cpu")
    assert not (tmp_path / "out.parquet").exists()


def test_predict__ignores_images_that_the_model_was_not_trained_on(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_store(tmp_path / "plain", without_images(COHORT, "radiology"))
    train.fit(tmp_path / "plain", tmp_path / "run", ONE_EPOCH, device="cpu")
    with caplog.at_level(logging.WARNING):
        predict(tmp_path / "run", store, tmp_path / "out.parquet", device="cpu")
    assert "trained without images of radiology" in caplog.text


def test_check_matches__refuses_other_windows_by_name_unless_they_are_allowed(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_run(run)
    windowed = dataclasses.replace(COHORT, windows_digest="abcdef" * 10)
    said = r"windows: the CT went through grey-level windows abcdefabcdef, expected none.*--set windows\.table="
    with pytest.raises(FitError, match=said):
        check_matches(loaded, windowed)
    with caplog.at_level(logging.WARNING):
        check_matches(loaded, windowed, allow_other_windows=True)
    assert "other grey-level windows" in caplog.text
    same = dataclasses.replace(loaded, info={**loaded.info, "windows_digest": "abcdef" * 10})
    check_matches(same, windowed)


def test_predict__from_no_run_is_refused(store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="is no run"):
        predict(tmp_path / "nothing", store, tmp_path / "out.parquet", device="cpu")


@pytest.mark.parametrize(("name", "message"), [("tpu9", "expected auto, cpu or cuda"), ("cuda", "no CUDA device")])
def test_resolve_device__of_an_unknown_device_is_refused(name: str, message: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(FitError, match=message):
        resolve_device(name)
    assert resolve_device("auto").type == "cpu"


def test_predict__into_a_folder_is_refused(run: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(FitError, match="is a folder; name the file to write"):
        predict(run, store, tmp_path, device="cpu")


def test_predict__into_a_csv_writes_the_same_numbers_as_text(run: Path, store: Path, tmp_path: Path) -> None:
    frame = predict(run, store, tmp_path / "out.csv", device="cpu")
    found = pd.read_csv(tmp_path / "out.csv")
    assert list(found["patient"]) == list(frame["patient"])
    np.testing.assert_allclose(found["probability"], frame["probability"])
    assert found["label"].isna().tolist() == frame["label"].isna().tolist()
    assert (tmp_path / "out.csv.metrics.json").exists()

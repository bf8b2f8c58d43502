"""External validation: a frozen model on another cohort, in a folder that `mumo report` takes.

OUT/
  run.json             kind `external`; which model, what was frozen, who was left out and why, what differs
  config.json          the model's settings
  predictions.parquet  the other cohort's patients who are new to the model, all of part `external`
  metrics.json         at the frozen threshold
  clinical.parquet, flow.json   of the other cohort, as in a run
  shift.csv            omics features in the scale of the training patients
  distance.csv         how far the patients' deep features lie from those of the training patients
  development/         what the report compares with: tables and figures of the run, no weights
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from ..stores.places import Place
from . import checkpoint, overlap
from .characteristics import characteristics, clinical_rows, read_clinical, save_clinical
from .explained import weights_digest
from .feature_space import DISTANCE_FILE, distance_file, distances, load_spaces
from .flow import flow_file, save_flow
from .origin import differences, extraction_settings, versions
from .overlap import Shared
from .predict import Predicted, predict_store, prediction_records, read_predictions, save_predictions
from .runfiles import clinical_file
from .shift import omics_shift

if TYPE_CHECKING:
    import pandas as pd

KIND = "external"
PART = "external"
DEVELOPMENT = "development"
"""Folder of what the report compares with."""

_SHOWN = 8
"""Patients that a sentence names at most; run.json names all."""

_COPIED = ("predictions.parquet", "metrics.json", "run.json", "config.json", "split.csv", "folds.csv")


def validate(
    run: Path,
    store: Place,
    out: Path,
    *,
    device: str = "auto",
    tables: Mapping[str, Path] | None = None,
    allow_other_windows: bool = False,
    new_patients: bool = False,
) -> pd.DataFrame:
    """Predict another cohort with a frozen run, and keep all that its report needs.

    Nothing is fitted: weights, omics scaling and threshold are the run's. Patients with the id of one of the run's own
    patients are left out, whatever part they were in there.

    Args:
        run: folder of a finished run or ensemble.
        store: the other cohort's.
        out: a new or empty folder, or one of an earlier external validation, which is replaced.
        device, tables, allow_other_windows: see `predict.predict_store`.
        new_patients: equal ids are chance, the patients are others; refused where outcomes are the same, too.

    Returns:
        Predictions of the new patients.

    Raises:
        FitError: as for `predict_store`; the folder is taken; nobody is new.
    """
    _check_free(out, run)
    predicted = predict_store(run, store, device=device, tables=tables, allow_other_windows=allow_other_windows)
    own = read_predictions(run / "predictions.parquet")
    shared = _find_shared(run, own, predicted, store)
    gone = overlap.left_out(shared, new_patients=new_patients)
    new = ~predicted.frame["patient"].isin(gone)
    frame = predicted.frame[new].assign(part=PART).reset_index(drop=True)
    if frame.empty:
        raise FitError(
            f"{store}: all {len(predicted.frame)} patients have ids of the run's own cohort, so nobody is new to the "
            "model; give another cohort's store, or for plain predictions a file: OUT.parquet. Where ids are the same "
            "by chance, say so with --new-patients"
        )
    info = _facts(run, store, predicted, shared, gone, allow_other_windows)
    checkpoint.begin(out, info, force=True)
    try:
        save_predictions(out / "predictions.parquet", prediction_records(frame))
        checkpoint.write_json(out / "metrics.json", predicted.evaluate(frame))
        checkpoint.save_config(out, predicted.first.settings, predicted.first.fit)
        save_clinical(out / "clinical.parquet", predicted.packed, store, without=gone)
        save_flow(out / "flow.json", predicted.packed, store, left_out=gone)
        moved = omics_shift(predicted.packed, predicted.first.scalers, new.to_numpy(dtype=np.bool_))
        checkpoint.write_atomically(out / "shift.csv", lambda file: moved.to_csv(file, index=False))
        spaces = load_spaces(checkpoint.member_folders(run)[0])
        far = distances(predicted.packed, spaces, new.to_numpy(dtype=np.bool_), PART)
        checkpoint.write_atomically(out / DISTANCE_FILE, lambda file: far.to_csv(file, index=False))
        _copy_development(run, out / DEVELOPMENT)
        checkpoint.finish(out, info)
    except BaseException as error:
        checkpoint.fail(out, info, error)
        raise
    return frame


def _check_free(out: Path, run: Path) -> None:
    """Refuse a folder that holds anything but an external validation, above all the run itself."""
    if out.is_file():
        raise FitError(f"{out}: is a file; name a folder for the external validation, or a file that ends in .parquet")
    if not out.exists() or not any(out.iterdir()):
        return
    if out.resolve() == run.resolve() or checkpoint.kind_of(out) != KIND:
        raise FitError(f"{out}: is not empty and holds no external validation; choose another folder")


def _find_shared(run: Path, own: pd.DataFrame, predicted: Predicted, store: Place) -> list[Shared]:
    ids = list(own["patient"])
    others = characteristics(clinical_rows(predicted.packed, store), predicted.packed.patients)
    mine = overlap.people(own, read_clinical(clinical_file(run), ids))
    parts = dict(zip(ids, own["part"], strict=True))
    return overlap.find_shared(mine, parts, overlap.people(predicted.frame, others))


def _facts(
    run: Path,
    store: Place,
    predicted: Predicted,
    shared: Sequence[Shared],
    gone: frozenset[str],
    allow_other_windows: bool,
) -> dict[str, Any]:
    """What run.json says."""
    info, packed = predicted.first.info, predicted.packed
    about = checkpoint.run_facts(run)
    folders = checkpoint.member_folders(run)
    extraction = extraction_settings(store)
    known = predicted.frame[~predicted.frame["patient"].isin(gone)]
    return {
        "kind": KIND,
        "versions": versions(),
        "store_digest": packed.key,
        "weights": packed.weights,
        "weights_sha256": packed.weights_sha256,
        "windows_digest": packed.windows_digest,
        "patients": {
            "patients": len(known),
            "responders": int((known["label"] == 1).sum()),
            "non_responders": int((known["label"] == 0).sum()),
            "unlabelled": int(known["label"].isna().sum()),
        },
        "model": {
            "run": run.resolve().name,
            "models": [weights_digest(folder) for folder in folders],
            "versions": info["versions"],
            "store_digest": about["store_digest"],
            "seed": info["seed"],
            "folds": about.get("folds"),
            "threshold": predicted.threshold,
            "chosen_on": info["chosen_on"],
            "windows_digest": info["windows_digest"],
            "bootstrap": predicted.first.fit.bootstrap,
        },
        "other_windows": allow_other_windows
        and bool(packed.windows_digest)
        and packed.windows_digest != info["windows_digest"],
        "other_extraction": differences(info.get("extraction"), extraction),
        "shared": [asdict(one) | {"left_out": one.patient in gone} for one in shared],
        "extraction": extraction,
        "warnings": list(packed.warnings),
    }


def _copy_development(run: Path, folder: Path) -> None:
    """The run's tables and figures, without weights, to where the report looks for them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = {name: run / name for name in _COPIED}
    files |= {"clinical.parquet": clinical_file(run), "flow.json": flow_file(run), DISTANCE_FILE: distance_file(run)}
    for name, file in files.items():
        if file.is_file():
            shutil.copyfile(file, folder / name)


# --- what the page and the terminal say -------------------------------------------------------------------


def cautions(info: Mapping[str, Any]) -> list[str]:
    """What a reader of an external validation must know about it, from its run.json."""
    return [*_people(info["shared"]), *_inputs(info)]


def _people(shared: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    if gone := [one for one in shared if one["left_out"]]:
        parts = Counter(str(one["part"]) for one in gone)
        counts = ", ".join(f"{count} of {part}" for part, count in parts.items())
        said.append(
            f"Patients of the run's own cohort, by their ids, are left out of all figures: {len(gone)} ({counts}): "
            f"{_named([one['patient'] for one in gone])}."
        )
        if doubtful := [one["patient"] for one in gone if not one["same_data"]]:
            said.append(
                f"Of {len(doubtful)} left out, only the id is the same; their follow-up differs or is unknown: "
                f"{_named(doubtful)}. If both cohorts merely number patients alike, predict again with --new-patients."
            )
    if twins := [one for one in shared if one["patient"] != one["own"]]:
        pairs = [f"{one['patient']} = {one['own']} ({one['part']})" for one in twins]
        said.append(
            f"Survival times, events and items of {len(twins)} patients are the same as of a patient of the run with "
            f"another id, so they are probably the same people: {_named(pairs)}. They are kept in the figures; take "
            "them out of the cohort if they are."
        )
    if chance := [one["patient"] for one in shared if one["patient"] == one["own"] and not one["left_out"]]:
        said.append(
            f"{len(chance)} ids are also used in the run's cohort; --new-patients says that they are other people, and "
            "their follow-up does not show that they are the same."
        )
    return said


def _inputs(info: Mapping[str, Any]) -> list[str]:
    said = []
    if info["other_windows"]:
        said.append("The CT went through other grey-level windows than in training (--allow-other-windows).")
    other = info["other_extraction"]
    if other is None:
        said.append("The run does not say how its store was extracted, so the settings could not be compared.")
    elif other:
        said.append(f"The store was extracted otherwise than the model's: {'; '.join(other)}.")
    return said


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

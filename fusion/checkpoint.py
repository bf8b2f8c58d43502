"""The run folder: what a training writes and what prediction starts from. Nothing in it needs pickle.

    RUN/
      run.json             status, versions, seed, counts, weights, which epochs were averaged
      config.json          sections `model` and `fit` of the settings
      inputs.json          what a store must look like: widths, items and classes of the codes
      split.csv            patient, part
      history.jsonl        one line an epoch
      model.safetensors    weights
      scaler.safetensors   standardisation of omics features
      feature_space.safetensors, distance.csv   see `feature_space`
      predictions.parquet  every patient, every part
      metrics.json
      MODEL_CARD.md        what the model is, on whom it was trained, how well it did, what it is not for
      checkpoint/          while training goes on: what it is resumed from (see `epochs.Checkpoint`)

`run.json` says `running` from the start and `finished` at the very end, when everything else is there; only finished
runs can be loaded.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..config import FitSettings, ModelSettings, Settings
from ..errors import FitError
from ..stores.packed import Codes
from .dataset import Layout, ModalityLayout, OmicsScaler
from .model import MuMo
from .splits import Split, read_split, write_split

RUN_VERSION = 2
"""Version of everything in a run folder; others are refused."""

_FILES = (
    "config.json",
    "inputs.json",
    "split.csv",
    "folds.csv",
    "history.jsonl",
    "model.safetensors",
    "scaler.safetensors",
    "feature_space.safetensors",
    "distance.csv",
    "clinical.parquet",
    "flow.json",
    "predictions.parquet",
    "metrics.json",
    "report.html",
    "MODEL_CARD.md",
)


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """Everything that prediction needs."""

    model: MuMo
    """On the CPU, in evaluation mode."""
    settings: ModelSettings
    fit: FitSettings
    layout: Layout
    scalers: dict[str, OmicsScaler]
    split: Split
    codes: dict[str, dict[str, tuple[str, ...]]]
    """Group → item → classes, as the training store had them."""
    info: dict[str, Any]
    """Content of run.json."""


# --- life of a run ----------------------------------------------------------------------------------------


def check_free(run: Path, *, force: bool = False) -> None:
    """Refuse a folder that a new run must not take.

    Free are: no folder, an empty one, a finished or failed run (which is replaced); with `force` any.

    Raises:
        FitError: the folder is taken.
    """
    if not run.exists() or force:
        return
    if not run.is_dir():
        raise FitError(f"{run}: is a file; choose a folder for the run")
    status = _status(run)
    if status == "running":
        raise FitError(
            f"{run}: holds a run that is going on or was killed; go on with --resume, "
            "choose another folder, or use --force"
        )
    if not status and any(run.iterdir()):
        raise FitError(f"{run}: is not empty and holds no run; choose another folder, or use --force")


def begin(run: Path, info: Mapping[str, Any], *, force: bool = False) -> None:
    """Take the folder for a new run: mark it as running, then remove what an earlier run left of its files."""
    check_free(run, force=force)
    run.mkdir(parents=True, exist_ok=True)
    mark_running(run, info)
    for name in _FILES:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "checkpoint", ignore_errors=True)


def check_resumable(
    run: Path, info: Mapping[str, Any], settings: Settings, split: Split
) -> Literal["new", "unfinished", "finished"]:
    """What a folder holds that a run is to be resumed in: nothing, an unfinished run, or a finished one.

    Raises:
        FitError: the folder holds something else, or a run of another store, settings, or split.
    """
    if not run.exists() or not any(run.iterdir()):
        return "new"
    status = _status(run)
    if not status:
        raise FitError(f"{run}: holds no run to resume; choose another folder")
    needed = ("config.json", "inputs.json", "split.csv", "scaler.safetensors")
    if not all((run / name).exists() for name in needed):
        return "new"  # killed before training began
    found, config = _read_json(run / "run.json"), _read_json(run / "config.json")
    differs = [name for name in ("store_digest", "tables") if found.get(name) != json_able(info[name])]
    wanted = _config(settings.model, settings.fit)
    differs += [
        f"{section}.{name}"
        for section, values in wanted.items()
        for name, value in values.items()
        if config.get(section, {}).get(name) != value
    ]
    if dict(read_split(run / "split.csv").parts) != dict(split.parts):
        differs.append("split")
    if differs:
        raise FitError(
            f"{run}: cannot be resumed, because these are not what it was started with: {', '.join(differs)}; "
            "give what it was started with, or start again with --force"
        )
    return "finished" if status == "finished" else "unfinished"


def check_same(run: Path, info: Mapping[str, Any], names: Iterable[str], *, resume: bool) -> None:
    """Refuse to resume in a folder whose run.json has other values of `names`; a folder without one is fine."""
    if not resume or not (run / "run.json").exists():
        return
    found = _read_json(run / "run.json")
    differs = [name for name in names if found.get(name) != json_able(info[name])]
    if differs:
        raise FitError(
            f"{run}: cannot be resumed, because these are not what it was started with: {', '.join(differs)}; "
            "give what it was started with, or start again with --force"
        )


@contextmanager
def taking(
    run: Path, info: Mapping[str, Any], names: Iterable[str], *, force: bool, resume: bool
) -> Iterator[dict[str, Any]]:
    """Hold the folder of many trainings: begun or resumed on entry, marked as finished or failed at the end.

    Args:
        run: the folder.
        info: what run.json says.
        names: entries of `info` that must be the same to resume.
        force, resume: as for `train.fit`.

    Yields:
        Where to put what run.json says of a finished run besides.

    Raises:
        FitError: the folder is taken, or cannot be resumed.
    """
    check_same(run, info, names, resume=resume)
    if resume:
        run.mkdir(parents=True, exist_ok=True)
        mark_running(run, info)
    else:
        begin(run, info, force=force)
    found: dict[str, Any] = {}
    try:
        yield found
        finish(run, {**info, **found})
    except BaseException as error:
        fail(run, info, error)
        raise


def run_facts(run: Path) -> dict[str, Any]:
    """What run.json says; FitError where there is none."""
    return _read_json(run / "run.json")


def kind_of(folder: Path) -> str:
    """The kind that a folder's run.json names: `ensemble`, `ablations`, `external`; empty for one model, or no run."""
    try:
        return str(run_facts(folder).get("kind", ""))
    except FitError:
        return ""


def read_metrics(run: Path) -> dict[str, Any]:
    """What metrics.json says."""
    return _read_json(run / "metrics.json")


class History:
    """history.jsonl: one line an epoch, on disk as soon as it is there."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __enter__(self) -> Self:
        self._stream = self._file.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def keep(self, epochs: int) -> None:
        """Drop the lines after the first `epochs`: those that a checkpoint does not have."""
        lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)[:epochs]
        self._stream.truncate(sum(len(line.encode()) for line in lines))

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        self._stream.write(json.dumps(line, allow_nan=False) + "\n")
        self._stream.flush()


def mark_running(run: Path, info: Mapping[str, Any]) -> None:
    """Mark the run as going on."""
    write_json(run / "run.json", {"run_version": RUN_VERSION, "status": "running", **info})


def finish(run: Path, info: Mapping[str, Any]) -> None:
    """Mark the run as finished, with the time (UTC); the last thing that training does."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(run / "run.json", {"run_version": RUN_VERSION, "status": "finished", **info, "finished": now})


def fail(run: Path, info: Mapping[str, Any], error: BaseException) -> None:
    """Mark the run as failed, with the reason."""
    reason = {"error": type(error).__name__, "message": str(error)}
    write_json(run / "run.json", {"run_version": RUN_VERSION, "status": "failed", **info, **reason})


def _status(run: Path) -> str:
    try:
        return str(json.loads((run / "run.json").read_text(encoding="utf-8")).get("status", ""))
    except (OSError, ValueError, AttributeError):
        return ""


# --- writing ----------------------------------------------------------------------------------------------


def write_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `file`, flush it, and move it into place."""
    temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.{file.name}")
    try:
        write(temporary)
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, values: Any) -> None:
    """JSON with null for NaN and infinities, written atomically."""
    text = json.dumps(json_able(values), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(file, lambda temporary: temporary.write_text(text + "\n", encoding="utf-8"))


def json_able(value: Any) -> Any:
    """The same with None for NaN and infinities, plain numbers for NumPy's, lists for tuples."""
    if isinstance(value, Mapping):
        return {str(key): json_able(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_able(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_config(run: Path, model: ModelSettings, fit: FitSettings) -> None:
    """The settings that prediction needs. Paths stay out: `split.csv` is the split, tables are named only."""
    write_json(run / "config.json", _config(model, fit))


def _config(model: ModelSettings, fit: FitSettings) -> dict[str, dict[str, Any]]:
    split = fit.split.model_copy(update={"file": None})
    fit = fit.model_copy(update={"split": split, "tables": {}})
    return {"model": model.model_dump(mode="json"), "fit": fit.model_dump(mode="json")}


def save_split(run: Path, split: Split) -> None:
    """`split.csv`."""
    write_atomically(run / "split.csv", lambda file: write_split(split, file))


def save_weights(run: Path, state: Mapping[str, Tensor]) -> None:
    """`model.safetensors`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    write_atomically(run / "model.safetensors", lambda file: save_file(tensors, file))


def save_scalers(run: Path, scalers: Mapping[str, OmicsScaler]) -> None:
    """`scaler.safetensors`: for each modality the statistics, and the names of the columns as metadata."""
    tensors = {
        f"{modality}.{name}": torch.from_numpy(np.ascontiguousarray(getattr(scaler, name)))
        for modality, scaler in scalers.items()
        for name in ("kept", "median", "scale", "missing")
    }
    facts = {modality: {"columns": scaler.columns, "limit": scaler.limit} for modality, scaler in scalers.items()}
    # one entry, because safetensors writes several in any order
    metadata = {"scalers": json.dumps(facts, sort_keys=True)}
    write_atomically(run / "scaler.safetensors", lambda file: save_file(tensors, file, metadata=metadata))


def save_inputs(run: Path, layout: Layout, codes: Mapping[str, Codes]) -> None:
    """`inputs.json`: what a store must look like for the model."""
    items = {
        group: [{"name": item.name, "classes": item.classes} for item in entry.items] for group, entry in codes.items()
    }
    write_json(run / "inputs.json", {"layout": asdict(layout), "codes": items})


# --- loading ----------------------------------------------------------------------------------------------


def member_folders(run: Path) -> list[Path]:
    """The folders of the models that predict together: the run's own, or those of the members of an ensemble.

    Raises:
        FitError: no finished run there, or ablations, which are no one model, or an external validation, which is none.
    """
    info = _read_json(run / "run.json")
    kind = info.get("kind", "model")
    if kind == "ablations":
        raise FitError(f"{run}: holds ablations; give one of the runs in {run / 'members'}")
    _refuse_external(run, info)
    if kind != "ensemble":
        return [run]
    if info.get("status") != "finished":
        raise FitError(f"{run}: the run is {info.get('status')}, expected finished; run `mumo fit --resume` again")
    return [run / "members" / name for name in info["members"]]


def _refuse_external(run: Path, info: Mapping[str, Any]) -> None:
    if info.get("kind") == "external":
        raise FitError(f"{run}: holds the predictions of another cohort; give the run that they were made with")


def ensemble_threshold(run: Path) -> float | None:
    """The threshold of an ensemble of seeds on one split; none where every member has its own, or nobody has one."""
    info = _read_json(run / "run.json")
    found = info.get("threshold") if info.get("kind") == "ensemble" else None
    return None if found is None else float(found)


def load_run(run: Path) -> LoadedRun:
    """The model of a finished run with everything that belongs to it.

    Raises:
        FitError: no finished run there, another format version, or files that contradict each other.
    """
    info = _read_json(run / "run.json")
    if info.get("run_version") != RUN_VERSION:
        raise FitError(f"{run}: format version {info.get('run_version')}, this mumo reads {RUN_VERSION}; fit again")
    if info.get("status") != "finished":
        raise FitError(f"{run}: the run is {info.get('status')}, expected finished; run `mumo fit` again")
    _refuse_external(run, info)
    if "kind" in info:
        raise FitError(f"{run}: holds several models; give one of the runs in {run / 'members'}")
    config, inputs = _read_json(run / "config.json"), _read_json(run / "inputs.json")
    try:
        settings, fit = ModelSettings.model_validate(config["model"]), FitSettings.model_validate(config["fit"])
        layout = _layout(inputs["layout"])
        model = MuMo(layout, settings)
        model.load_state_dict(_read_tensors(run / "model.safetensors")[0])
        scalers = _scalers(run)
        codes = {
            group: {item["name"]: tuple(item["classes"]) for item in items} for group, items in inputs["codes"].items()
        }
    except (KeyError, TypeError, ValidationError, RuntimeError) as error:
        raise FitError(f"{run}: its files do not belong together: {error}; run `mumo fit` again") from error
    split = read_split(run / "split.csv")
    return LoadedRun(model.eval(), settings, fit, layout, scalers, split, codes, info)


def _layout(facts: Mapping[str, Any]) -> Layout:
    modalities = tuple(
        ModalityLayout(**{**modality, "report_widths": tuple(modality["report_widths"])})
        for modality in facts["modalities"]
    )
    return Layout(modalities, tuple(facts["information_widths"]))


def _scalers(run: Path) -> dict[str, OmicsScaler]:
    tensors, metadata = _read_tensors(run / "scaler.safetensors")
    scalers = {}
    for modality, facts in json.loads(metadata["scalers"]).items():
        arrays = {name: tensors[f"{modality}.{name}"].numpy() for name in ("kept", "median", "scale", "missing")}
        scalers[modality] = OmicsScaler(columns=tuple(facts["columns"]), limit=facts["limit"], **arrays)
    return scalers


def _read_tensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118, no mapping
    except (OSError, SafetensorError) as error:
        raise FitError(f"{file.name}: not readable: {error}; run `mumo fit` again") from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FitError(f"{file.parent}: is no run ({file.name} is missing); give the folder of a `mumo fit`") from error
    except (OSError, ValueError) as error:
        raise FitError(f"{file}: not readable: {error}") from error
    if not isinstance(values, dict):
        raise FitError(f"{file}: expected a JSON object")
    return values

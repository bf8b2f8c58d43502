"""Experiment trackers that users may have: TensorBoard and MLflow. Optional; nothing is imported unless asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from ..config import Settings
from ..errors import FitError

Listener = Callable[[int, int, dict[str, Any]], None]
"""Called after each epoch with its number, the number of epochs, and its line of the history."""


@contextmanager
def opened(names: Sequence[str], run: Path, settings: Settings) -> Iterator[list[Listener]]:
    """A listener for each tracker of `fit.trackers`, closed at the end.

    TensorBoard's files go to RUN/tensorboard. MLflow logs to where its own environment variables say.

    Raises:
        FitError: the package of a tracker is not installed.
    """
    with ExitStack() as stack:
        makers = {"tensorboard": _tensorboard, "mlflow": _mlflow}
        yield [stack.enter_context(makers[name](run, settings)) for name in names]


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """`train/loss` … `validation/c_index` of a line of the history; what is absent is left out."""
    return {
        f"{part}/{name}": float(value)
        for part in ("train", "validation")
        for name, value in line[part].items()
        if value is not None
    }


@contextmanager
def _tensorboard(run: Path, settings: Settings) -> Iterator[Listener]:
    writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter(run / "tensorboard")

    def log(epoch: int, epochs: int, line: dict[str, Any]) -> None:
        for name, value in scalars(line).items():
            writer.add_scalar(name, value, epoch)
        writer.flush()

    try:
        yield log
    finally:
        writer.close()


@contextmanager
def _mlflow(run: Path, settings: Settings) -> Iterator[Listener]:
    mlflow = _package("mlflow", "mlflow")
    with mlflow.start_run(run_name=run.name):
        values = {"model": settings.model.model_dump(mode="json"), "fit": settings.fit.model_dump(mode="json")}
        for section in ("fit", "model"):
            mlflow.log_params({f"{section}.{name}": value for name, value in values[section].items()})
        yield lambda epoch, epochs, line: mlflow.log_metrics(scalars(line), step=epoch)


def _package(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise FitError(
            f"fit.trackers: {extra} is not installed; in your copy of mumo, run: pip install '.[{extra}]'"
        ) from error

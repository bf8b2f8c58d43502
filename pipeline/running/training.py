"""Where many trainings run: here, or on the workers of a Dask cluster. Imports Dask only when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from ...config import Settings


@contextmanager
def training_pool(scheduler: str | None, settings: Settings, *, insecure: bool = False) -> Iterator[Executor | None]:
    """The workers of a Dask cluster as an executor of `concurrent.futures`; none without a scheduler.

    The workers must see the store and the run's folder under the same paths. A training whose worker is lost runs
    again elsewhere, as often as the scheduler allows.

    Raises:
        ConfigError, MumoError: see `cluster.connect`.
    """
    if scheduler is None:
        yield None
        return
    from .cluster import connect, scheduler_address

    with connect(scheduler_address(scheduler), settings, insecure=insecure) as client:
        yield client.get_executor(pure=False)

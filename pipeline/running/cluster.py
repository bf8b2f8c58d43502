"""Runs tasks on an existing Dask cluster; on each worker, items run in child processes.

Workers may come and go. An item whose worker was lost runs again elsewhere; items are never blamed for that before
it has happened `run.max_attempts` times beyond what the scheduler itself allows. A cluster without a worker that may
take the items, and a scheduler that is gone, end the run with an error instead of a wait for ever.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import queue
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from distributed import Client, Security, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from ... import __version__
from ...config import Settings
from ...errors import ConfigError, MumoError
from ...stores.records import Store
from .commits import Committer, finished
from .isolation import ChildPool, Request, make_request
from .tasks import Computed, Loss, Status, Task, as_status, record_failure

_log = logging.getLogger(__name__)
_CONNECT_TIMEOUT_S = 10
_LOOK_EVERY_S = 5.0
_AT_ONCE = 256


class Isolation(WorkerPlugin):
    """Gives a worker its children; one plugin a run, so that runs on one cluster do not end each other's."""

    def __init__(self, name: str, version: str) -> None:
        self.name, self._version = name, version
        self.children: ChildPool | None = None
        self.committer: Committer | None = None

    def setup(self, worker: Any) -> None:
        """Called on every worker, those that come later included."""
        if self._version != __version__:
            raise MumoError(f"this worker has mumo {__version__}, the run is of {self._version}; use one environment")
        self.children, self.committer = ChildPool(), Committer()

    def teardown(self, worker: Any) -> None:
        """Called when the run or the worker ends."""
        if self.children is not None and self.committer is not None:
            self.children.close()
            self.committer.close()


def compute_on_worker(request: Request, plugin: str) -> Status | Loss:
    """What runs in a worker's thread: the item, in a child of the worker, and its record, from the worker itself."""
    worker: Any = get_worker()
    isolation: Isolation = worker.plugins[plugin]
    assert isolation.children is not None
    assert isolation.committer is not None
    result = isolation.children.compute(request)
    if not isinstance(result, Computed):
        return result
    began = time.perf_counter()
    future = isolation.committer.submit(Store(request.store), result.prepared)
    wait([future])
    return finished(result, future, began)


@dataclass
class DaskCluster:
    """Runs tasks on an existing Dask cluster, given by its scheduler's address or scheduler file."""

    scheduler: str
    settings: Settings
    insecure: bool = False
    """Allow a scheduler on another machine without TLS."""
    where: str = field(default="", init=False)
    local: ClassVar[bool] = False
    _client: Any = field(default=None, init=False)
    _plugin: str = field(default="", init=False)

    def __enter__(self) -> Self:
        address = scheduler_address(self.scheduler)
        self._client = connect(address, self.settings, insecure=self.insecure)
        self._plugin = f"mumo-{uuid.uuid4().hex[:8]}"
        try:
            self._client.register_plugin(Isolation(self._plugin, __version__))
        except Exception as error:
            self._client.close()
            raise MumoError(
                f"the workers at {address} cannot run mumo {__version__}: {type(error).__name__}: {error}; "
                "scheduler, workers and this command need the same environment"
            ) from error
        self.where = f"Dask cluster at {address}, dashboard {self._client.dashboard_link}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._client.unregister_worker_plugin(self._plugin)
        except Exception as error:  # noqa: BLE001 - a scheduler that is gone takes its plugins along
            _log.debug("plugin not taken back: %s", error)
        self._client.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[Status]:
        """Run every task; each yields exactly one status. Tasks are taken from the iterable as they are needed.

        Raises:
            MumoError: the scheduler is gone, or no worker that may take the items has been there for long.
        """
        run = _Run(self._client, self._plugin, self.settings)
        try:
            yield from run.statuses(iter(tasks))
        finally:
            run.cancel()


class _Run:
    """The state of one `run`: what is on the cluster, and how often each item's worker was lost."""

    def __init__(self, client: Any, plugin: str, settings: Settings) -> None:
        self._client, self._plugin, self._settings = client, plugin, settings
        self._running: dict[Any, tuple[Task, int]] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._last_seen = time.monotonic()
        self._told = False

    def statuses(self, tasks: Iterator[Task]) -> Iterator[Status]:
        window = max(self._settings.run.window, 2 * sum(self._client.nthreads().values()))
        while True:
            self._submit([(task, 1) for task in islice(tasks, max(0, window - len(self._running)))])
            if not self._running:
                return
            ended = self._take_ended()
            if ended:
                yield from self._settle(ended)
            else:
                self._look()

    def _take_ended(self) -> list[Any]:
        """Futures that have ended; waits for the first, a while at most."""
        ended: list[Any] = []
        try:
            ended.append(self._ended.get(timeout=_LOOK_EVERY_S))
            while len(ended) < _AT_ONCE:
                ended.append(self._ended.get_nowait())
        except queue.Empty:
            return ended
        return ended

    def cancel(self) -> None:
        """Take back what has not ended; nothing when everything has."""
        if self._running and self._client.status == "running":
            self._client.cancel(list(self._running))

    def _submit(self, tasks: Sequence[tuple[Task, int]]) -> None:
        """Hand in tasks of one stage with their attempts: one message to the scheduler, however many there are."""
        if not tasks:
            return
        stage, resource = tasks[0][0].planned.item.stage, self._settings.run.embed_resource
        futures = self._client.map(
            compute_on_worker,
            [make_request(task) for task, _ in tasks],
            [self._plugin] * len(tasks),
            key=[f"{stage}-{task.planned.item.item}-{uuid.uuid4().hex[:8]}" for task, _ in tasks],
            pure=False,
            retries=0,
            resources={resource: 1} if resource and stage == "embed" else None,
        )
        for future, entry in zip(futures, tasks, strict=True):
            self._watch(future, *entry)

    def _watch(self, future: Any, task: Task, attempt: int) -> None:
        self._running[future] = (task, attempt)
        future.add_done_callback(self._ended.put)

    def _settle(self, ended: Sequence[Any]) -> Iterator[Status]:
        """The statuses of tasks that ended; those that were handed in again have none."""
        self._last_seen = time.monotonic()
        finished = [future for future in ended if future.status == "finished"]
        results = self._client.gather(finished, errors="skip")
        if len(results) != len(finished):  # a worker was lost in the meantime, with an unknown part of them
            results = [None] * len(finished)
        known = dict(zip(finished, results, strict=True))
        again: list[tuple[Task, int]] = []
        for future in ended:
            task, attempt = self._running.pop(future)
            result = known.get(future)
            if result is not None:
                yield as_status(task, result)
            elif future.status in ("pending", "lost", "finished") and self._client.status == "running":
                # the worker died with the result before it was fetched: the scheduler has another compute it again
                self._watch(future, task, attempt)
            elif future.status != "error":
                raise MumoError("the connection to the scheduler was lost; what was finished is kept, run it again")
            elif attempt < self._settings.run.max_attempts:
                name = type(future.exception()).__name__
                _log.warning("%s: lost with its worker, handed in again (%s)", task.planned.item.item, name)
                again.append((task, attempt + 1))
            else:
                error = future.exception()
                message = f"no worker could run it in {attempt} attempts: {type(error).__name__}: {error}"
                yield record_failure(task, "WorkerLost", message, 0.0, attempt)
        self._submit(again)

    def _look(self) -> None:
        """Called when nothing has ended for a while: is there still someone who can work?"""
        if self._client.status != "running":
            raise MumoError("the connection to the scheduler was lost; what was finished is kept, run it again")
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        resource = self._settings.run.embed_resource
        needed = bool(resource) and any(task.planned.item.stage == "embed" for task, _ in self._running.values())
        if any(not needed or resource in worker["resources"] for worker in workers):
            self._last_seen, self._told = time.monotonic(), False
            return
        waited, limit = time.monotonic() - self._last_seen, self._settings.run.worker_wait_s
        kind = f"worker with the resource {resource!r} (run.embed_resource)" if needed else "worker"
        if waited > limit:
            raise MumoError(f"the cluster has had no {kind} for {waited:.0f} s; start one, or change run.worker_wait_s")
        if not self._told:
            self._told = True
            _log.warning("the cluster has no %s; waiting up to %g s (run.worker_wait_s) for one", kind, limit)


def connect(address: str, settings: Settings, *, insecure: bool = False) -> Client:
    """A client of the scheduler at an address.

    Raises:
        ConfigError: see `check_address`; or `tls://` without certificates.
        MumoError: nobody answers.
    """
    check_address(address, allowed=insecure or settings.run.trusted_network)
    try:
        return Client(address, timeout=_CONNECT_TIMEOUT_S, security=_security(address, settings))
    except (OSError, TimeoutError) as error:
        raise MumoError(f"no Dask scheduler answers at {address}: {error}; is it running?") from error


def scheduler_address(scheduler: str) -> str:
    """The address that a command line means: itself, or what a scheduler file says."""
    if not scheduler.endswith(".json"):
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"scheduler file {scheduler}: cannot be read: {type(error).__name__}: {error}") from error


def check_address(address: str, *, allowed: bool) -> None:
    """Refuse a scheduler on another machine without TLS, unless it is allowed.

    Raises:
        ConfigError: the address is no `tcp://` or `tls://` address, or names another machine without TLS.
    """
    parts = urlsplit(address if "://" in address else f"tcp://{address}")
    if parts.scheme == "tls":
        return
    if parts.scheme != "tcp":
        raise ConfigError(f"scheduler {address}: expected tcp://HOST:PORT, tls://HOST:PORT or a scheduler file (.json)")
    host = parts.hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if not (local or allowed):
        raise ConfigError(
            f"scheduler {address}: is on another machine and without TLS; whoever reaches it can run code there. "
            "Use tls://, or say --insecure (or run.trusted_network=true) when the network is trusted; see SECURITY.md"
        )


def _security(address: str, settings: Settings) -> Any:
    """For `tls://`: certificates from mumo's settings where they say something, else from Dask's own configuration."""
    if not address.startswith("tls://"):
        return None
    run = settings.run
    files = {"tls_ca_file": run.tls_ca_file, "tls_client_cert": run.tls_cert, "tls_client_key": run.tls_key}
    given = {name: str(file.expanduser()) for name, file in files.items() if file is not None}
    security = Security(require_encryption=True, **given)
    for name in files:
        file = getattr(security, name)
        if file is None or not Path(file).is_file():
            setting = f"run.{name.replace('_client', '')}"
            found = "nothing" if file is None else f"{file}, which is no file"
            raise ConfigError(f"scheduler {address}: TLS needs a certificate file in {setting}, found {found}")
    return security

"""Many trainings at once: each a run folder of its own, side by side in processes of one thread each, here or on Dask.

A training keeps one core busy and gains little from a second, so processes side by side are faster than one after
another with more threads. They are faster, too, than models stacked in one process by torch.func.vmap, a step of which
takes 1.7 times as much of a core (`benchmarks fit`). Finished members are kept, so a killed command goes on with
--resume.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch

from ..config import Settings
from ..stores.pack import pack
from ..stores.places import Place, absolute
from ..stores.records import Store
from .predict import resolve_device
from .splits import Split
from .tabular import add_tables
from .train import fit_packed

Done = Callable[[int, int, str], None]
"""Called after each member with how many are done, of how many, and its name."""

MEMBER_BOOTSTRAP = 200
"""Bootstrap replicates of a member's own metrics; what is reported of all together has `fit.bootstrap`."""


@dataclass(frozen=True)
class Member:
    """One training of many."""

    name: str
    """Name of its folder below `members`."""
    settings: Settings
    split: Split


class Training(TypedDict, total=False):
    """Where and how members are trained; keyword arguments of everything that trains many."""

    device: str
    """`auto` (the default), `cpu` or `cuda`; on CUDA they run one after another in this process."""
    workers: int | None
    """Processes; default one a core, 1 = in this process."""
    resume: bool
    """Keep the members that are finished and go on with those that are not."""
    done: Done | None
    """Called after each member."""
    pool: Executor | None
    """Where to train instead, for example the workers of a Dask cluster (`Client.get_executor`); they must see the
    same files."""


_Job = tuple[Place, Path, Member, str, bool]


def train_members(
    store: Place, run: Path, members: Sequence[Member], *, own_processes: bool = False, **training: Unpack[Training]
) -> None:
    """Train all members into RUN/members/<name>.

    Args:
        store: folder of the store.
        run: folder of the whole.
        members: what to train.
        own_processes: also for one member or one worker.
        training: see `Training`.

    Raises:
        FitError: a member cannot be trained; the others that have begun are finished first.
    """
    device, pool, done = training.get("device", "auto"), training.get("pool"), training.get("done")
    workers, resume = training.get("workers"), training.get("resume", False)
    target = device if pool is not None else str(resolve_device(device))
    jobs = [(absolute(store), run.resolve() / "members" / m.name, m, target, resume) for m in members]
    if pool is not None:
        _train_in(pool, jobs, done)
        return
    count = 1 if target.startswith("cuda") else min(len(members), workers or len(os.sched_getaffinity(0)))
    if count <= 1 and not own_processes:
        for number, job in enumerate(jobs, start=1):
            train_member(*job)
            _say(done, number, members, job[2])
        return
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as processes:
        _train_in(processes, jobs, done)


def _train_in(pool: Executor, jobs: Sequence[_Job], done: Done | None) -> None:
    members = [job[2] for job in jobs]
    futures = {pool.submit(_train_on_one_thread, *job): job[2] for job in jobs}
    try:
        for number, future in enumerate(as_completed(futures), start=1):
            future.result()
            _say(done, number, members, futures[future])
    except BaseException:
        for future in futures:
            future.cancel()
        wait(futures)
        raise


def _train_on_one_thread(store: Place, folder: Path, member: Member, device: str, resume: bool) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_member(store, folder, member, device, resume)
    finally:
        torch.set_num_threads(before)


def train_member(store: Place, folder: Path, member: Member, device: str, resume: bool) -> None:
    """Train one member into its folder."""
    settings = member.settings
    fit = settings.fit.model_copy(update={"bootstrap": min(MEMBER_BOOTSTRAP, settings.fit.bootstrap)})
    settings = settings.model_copy(update={"fit": fit})
    packed = add_tables(pack(Store.open(store)), fit.tables)
    fit_packed(
        packed, store, folder, settings, device=resolve_device(device), split=member.split, force=True, resume=resume
    )


def _say(done: Done | None, number: int, members: Sequence[Member], member: Member) -> None:
    if done is not None:
        done(number, len(members), member.name)

"""Many trainings at once: each a run folder of its own, side by side in processes of one thread each.

A training keeps one core busy and gains little from a second, so processes side by side are faster than one after
another with more threads. Finished members are kept, so a killed command goes on with --resume.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Settings
from ..stores.pack import pack
from ..stores.places import Place
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


def train_members(
    store: Place,
    run: Path,
    members: Sequence[Member],
    *,
    device: str = "auto",
    workers: int | None = None,
    resume: bool = False,
    done: Done | None = None,
    own_processes: bool = False,
) -> None:
    """Train all members into RUN/members/<name>.

    Args:
        store: folder of the store.
        run: folder of the whole.
        members: what to train.
        device: on CUDA they run one after another in this process.
        workers: processes; default one a core, 1 = in this process.
        resume: keep the members that are finished and go on with those that are not.
        done: called after each member.
        own_processes: also for one member or one worker.

    Raises:
        FitError: a member cannot be trained; the others that have begun are finished first.
    """
    target = resolve_device(device)
    count = 1 if target.type == "cuda" else min(len(members), workers or len(os.sched_getaffinity(0)))
    jobs = [(store, run / "members" / member.name, member, str(target), resume) for member in members]
    if count <= 1 and not own_processes:
        for number, job in enumerate(jobs, start=1):
            train_member(*job)
            _say(done, number, members, job[2])
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = {pool.submit(train_member, *job): job[2] for job in jobs}
        try:
            for number, future in enumerate(as_completed(futures), start=1):
                future.result()
                _say(done, number, members, futures[future])
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


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

"""Patients drawn by several processes: the same files in the same order, and what happens when drawing goes wrong."""

from __future__ import annotations

import dataclasses
import filecmp
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packs import make_packed, write_store
from quick_fits import ONE_EPOCH

from mumo.commands.explain.drawing import Job, draw
from mumo.commands.explain.patient import Drawing, names_of
from mumo.config import TilesSettings
from mumo.errors import MumoError, StoreError
from mumo.fusion import train
from mumo.fusion.explain import Explained, Explainer
from mumo.stores.records import Store


class Deadly(list[Any]):
    """Lesions that kill the process that unpickles them, as a kernel does that is short of memory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return kill_this_process, ()


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Explained], Drawing]:
    """Five explained patients, and what their pages share."""
    folder = tmp_path_factory.mktemp("explained")
    write_store(folder / "store", make_packed(16, bags=5, lesions=2))
    train.fit(folder / "store", folder / "run", ONE_EPOCH, device="cpu")
    explainer = Explainer(folder / "run", folder / "store", device="cpu")
    drawing = Drawing(Store.open(folder / "store"), TilesSettings(), *names_of(explainer.packed), top=2)
    return [explainer.explain(patient) for patient in explainer.packed.patients[:5]], drawing


def jobs(folder: Path, explained: list[Explained]) -> Iterator[Job]:
    for number, one in enumerate(explained):
        yield Job(folder / f"{number}", one, None)


def test_draw__processes_write_what_one_process_writes(made: tuple[list[Explained], Drawing], tmp_path: Path) -> None:
    explained, drawing = made
    for workers in (1, 2):
        (tmp_path / f"{workers}").mkdir()
        drawn = list(draw(jobs(tmp_path / f"{workers}", explained), drawing, workers))
        assert [job.explained.patient for job, _ in drawn] == [one.patient for one in explained]
        assert [page.thumbnail for _, page in drawn].count("thumbnail.jpg") >= 1
    files = sorted(file.relative_to(tmp_path / "1") for file in (tmp_path / "1").rglob("*") if file.is_file())
    assert len(files) > 20
    assert files == sorted(file.relative_to(tmp_path / "2") for file in (tmp_path / "2").rglob("*") if file.is_file())
    same, *other = filecmp.cmpfiles(tmp_path / "1", tmp_path / "2", [str(file) for file in files], shallow=False)
    assert len(same) == len(files) and other == [[], []]


def test_draw__takes_no_more_jobs_than_it_can_hold(made: tuple[list[Explained], Drawing], tmp_path: Path) -> None:
    explained, drawing = made
    taken = 0

    def counted() -> Iterator[Job]:
        nonlocal taken
        for number in range(9):
            taken += 1
            yield Job(tmp_path / f"{number}", explained[number % 5], None)

    drawn = draw(counted(), drawing, 2)
    next(drawn)
    assert taken <= 5
    drawn.close()


def test_draw__an_error_in_a_process_is_the_callers(made: tuple[list[Explained], Drawing], tmp_path: Path) -> None:
    explained, drawing = made
    elsewhere = dataclasses.replace(drawing, store=Store(tmp_path / "nowhere"))
    with pytest.raises(StoreError):
        list(draw(jobs(tmp_path, explained), elsewhere, 2))


def test_draw__a_killed_process_is_said_in_words(made: tuple[list[Explained], Drawing], tmp_path: Path) -> None:
    explained, drawing = made
    deadly = [Job(tmp_path / "0", explained[0], Deadly())]
    with pytest.raises(MumoError, match=f"was killed, near {explained[0].patient}, .* fewer --workers"):
        list(draw(deadly, drawing, 2))

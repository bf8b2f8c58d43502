"""One page of every kind, made from small stores and runs, for tests in a browser."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from packs import make_packed, write_store
from PIL import Image
from quick_fits import ONE_EPOCH
from runs import rows_of, write_run

from mumo.commands.explain.command import Options, write_explanations
from mumo.commands.explain.mosaic import SlideBags, put_together
from mumo.commands.explain.viewer import Tiles, write_viewer
from mumo.fusion import report, train
from mumo.fusion.external import validate
from mumo.stores.records import Failure, Store
from mumo.stores.status import store_status
from mumo.stores.status_page import write_status_page

SIDE = 512
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def slide(pixels: bool = True) -> SlideBags:
    """Three bags of one colour each, the third one below the first; level 0 is twice as fine as the bags."""
    rows = [
        {"x_level0": 1000 + x * 2 * SIDE, "y_level0": 300 + y * 2 * SIDE, "size_level0": 2.0 * SIDE}
        for x, y in ((0, 0), (1, 0), (0, 1))
    ]
    stored: Any = None
    if pixels:
        stored = np.stack([np.full((SIDE, SIDE, 3), colour, dtype=np.uint8) for colour in COLOURS])
    return SlideBags("slide-S1", tuple(rows), stored, mpp=0.25)


def write_slide_page(path: Path, pixels: bool = True) -> Path:
    """The viewer of that slide: weights rise from word to word, effects from −0.2 to 0.3."""
    bags = slide(pixels)
    weight = np.arange(1.0, 49).reshape(3, 16)
    weight /= weight.sum()
    effect = np.linspace(-0.2, 0.3, 48).reshape(3, 16)
    tiles = Tiles(bags, [2])
    mosaic = put_together(bags, each=tiles.add)
    write_viewer(
        path, bags, mosaic, tiles, patient="P1", title="slide-S1", weight=weight, effect=effect,
        bag_effect=effect.sum(axis=1), ranked={1: 2}, totals=(3, 48), unit="log hazard",
    )  # fmt: skip
    return path


def write_report_page(folder: Path) -> Path:
    """A report of made-up predictions in which some times are unknown."""
    rows = rows_of(60, pfs_days=lambda i: None if i % 7 == 0 else 37.0 * i, pfs_event=lambda i: i % 3 > 0)
    return report.write_report(write_run(folder / "made-up", rows))


def write_explained(folder: Path) -> Path:
    """A run with a report and the explanations of six patients, of a store without pixels; returns the run."""
    store, run = folder / "store", folder / "run"
    packed = make_packed(24, bags=5, lesions=2)
    write_store(store, packed)
    train.fit(store, run, ONE_EPOCH, device="cpu")
    options = Options(grad_cam=False, only=packed.patients[:6])
    write_explanations(run, store, run / "explain", ONE_EPOCH, options)
    report.write_report(run)
    return run


def write_external(folder: Path, run: Path) -> Path:
    """The report of that run's model on a cohort of other patients."""
    packed = make_packed(16, seed=5, bags=2, lesions=2)
    renamed = dataclasses.replace(packed, patients=tuple(f"E{patient}" for patient in packed.patients))
    write_store(folder / "other", renamed)
    validate(run, folder / "other", folder / "external", device="cpu")
    return report.write_report(folder / "external")


def add_item(
    store: Store, stage: str, item: str, picture: str | None, *, width: int = 40, height: int = 30,
    warnings: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """A finished item of a store, with a picture of noise or without."""
    staging = store.begin(stage, item)
    if picture is not None:
        pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(staging / picture)
    (staging / "data.txt").write_text(item)
    summary = {"warnings": list(warnings), "bags": 4, "mpp_level0": 0.25}
    store.commit(stage, item, staging, depends={}, status="ok", summary=summary, seconds=0.1)


def write_stages(folder: Path) -> Store:
    """A store with pictures of all stages that have some, a warning and a failure."""
    store = Store.create(folder)
    add_item(store, "tiles", "slide-S1", "quality.png")
    add_item(store, "tiles", "slide-S2", "quality.png", width=2000, warnings=("repaired <2> polygons",))
    add_item(store, "tiles", "slide-S3", None)
    add_item(store, "windows", "ct-C1", None)
    add_item(store, "windows", "cohort", "windows.png", width=800, height=2000)  # higher than a page
    add_item(store, "rois", "ct-C1", "contact.png")
    store.fail(Failure("tiles", "slide-S9", "f", "SlideError", "cut <short>", attempts=1))
    return store


def write_status(folder: Path) -> Path:
    """The page of that store."""
    store, page = write_stages(folder / "stages"), folder / "status.html"
    write_status_page(store, store_status(store), page)
    return page


def write_pages(folder: Path) -> dict[str, Path]:
    """Kind of page → file."""
    run = write_explained(folder)
    patients = sorted(path.parent for path in (run / "explain").glob("*/index.html"))
    with_slide = next(path for path in patients if sorted(path.glob("slide-*.html")))
    return {
        "report": write_report_page(folder),
        "report of a fit": run / "report.html",
        "external": write_external(folder, run),
        "index": run / "explain" / "index.html",
        "patient": with_slide / "index.html",
        "viewer": write_slide_page(with_slide / "slide-S1.html"),
        "status": write_status(folder),
    }

"""The page of `mumo status --html`."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mumo.stores.records import Failure, Store
from mumo.stores.status import store_status
from mumo.stores.status_page import write_status_page


def add(
    store: Store, stage: str, item: str, picture: str | None, *, width: int = 40, warnings: tuple[str, ...] = ()
) -> None:
    staging = store.begin(stage, item)
    if picture is not None:
        pixels = np.random.default_rng(0).integers(0, 255, (30, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(staging / picture)
    (staging / "data.txt").write_text(item)
    store.commit(stage, item, staging, depends={}, status="ok", summary={"warnings": list(warnings)}, seconds=0.1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store.create(tmp_path / "store")
    add(store, "tiles", "slide-S1", "quality.png")
    add(store, "tiles", "slide-S2", "quality.png", width=2000, warnings=("repaired <2> polygons",))
    add(store, "tiles", "slide-S3", None)
    add(store, "windows", "ct-C1", None)
    add(store, "windows", "cohort", "windows.png")
    add(store, "rois", "ct-C1", "contact.png")
    store.fail(Failure("tiles", "slide-S9", "f", "SlideError", "cut <short>", attempts=1))
    return store


def page(store: Store, tmp_path: Path, **options: int) -> str:
    file = tmp_path / "page.html"
    write_status_page(store, store_status(store), file, **options)
    return file.read_text(encoding="utf-8")


def shown(text: str) -> list[tuple[str, Image.Image]]:
    found = re.findall(r'<img src="data:image/\w+;base64,([^"]+)" width="\d+" height="\d+" alt="([^"]+)"', text)
    return [(alt, Image.open(io.BytesIO(base64.b64decode(data)))) for data, alt in found]


def test_page__shows_every_picture_with_warned_items_first(store: Store, tmp_path: Path) -> None:
    pictures = shown(page(store, tmp_path))
    assert [alt for alt, _ in pictures] == [
        "Slides: slide-S2",
        "Slides: slide-S1",
        "Windows: cohort",
        "Lesions: ct-C1",
    ]
    assert [image.width for _, image in pictures] == [640, 40, 40, 40]


def test_page__says_how_many_pictures_it_leaves_out(store: Store, tmp_path: Path) -> None:
    text = page(store, tmp_path, pictures=1)
    assert [alt for alt, _ in shown(text)] == ["Slides: slide-S2", "Windows: cohort", "Lesions: ct-C1"]
    assert text.count("Not shown here") == 1
    assert "Not shown here: 1 more" in text
    assert shown(page(store, tmp_path, pictures=0)) == []


def test_page__names_failures_and_warnings_as_text(store: Store, tmp_path: Path) -> None:
    text = page(store, tmp_path)
    assert "<td>slide-S9</td><td>SlideError: cut &lt;short&gt;</td>" in text
    assert "<td>slide-S2</td><td>repaired &lt;2&gt; polygons</td>" in text


def test_page__needs_nothing_from_elsewhere(store: Store, tmp_path: Path) -> None:
    text = page(store, tmp_path)
    assert re.findall(r"(?:src|href)=\"(?!data:|#)", text) == []
    assert "url(" not in text
    assert str(tmp_path) not in text


def test_page__of_an_empty_store(tmp_path: Path) -> None:
    text = page(Store.create(tmp_path / "empty"), tmp_path)
    assert "<p>None.</p>" in text
    assert shown(text) == []


def test_page__against_the_cohort_says_what_is_stale(store: Store, tmp_path: Path) -> None:
    status = store_status(store)
    none = {"items": 0, "reasons": {}}
    stale = {"items": 2, "reasons": {"settings.tiles.white_balance": 2}}
    states = {name: {"done": none, "stale": none} for name in status["stages"]}
    status["cohort"] = {**states, "tiles": {"done": {"items": 1, "reasons": {}}, "stale": stale}}
    write_status_page(store, status, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 done, 2 stale (2: settings.tiles.white_balance)" in text

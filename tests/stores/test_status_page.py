"""The page of `mumo status --html`."""

from __future__ import annotations

import base64
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from made_pages import write_stages
from PIL import Image

from mumo.stores.records import Store
from mumo.stores.status import store_status
from mumo.stores.status_page import write_status_page


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_stages(tmp_path / "store")


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
    assert [image.width for _, image in pictures] == [900, 40, 800, 40]


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


def test_page__says_what_dice_is_where_there_is_one(store: Store, tmp_path: Path) -> None:
    status = store_status(store)
    shown = []
    for dice in ({}, {"threshold": {"lesions": 3, "median": 0.8, "lowest": 0.5}}):
        write_status_page(store, status | {"dice": dice}, tmp_path / "page.html")
        shown.append("Dice is the overlap of the mask that mumo would draw" in (tmp_path / "page.html").read_text())
    assert shown == [False, True]


def test_page__says_what_an_item_holds_and_when_it_was_written(store: Store, tmp_path: Path) -> None:
    text = page(store, tmp_path)
    assert "4 bags, 0.25 µm/px" in text
    (written,) = re.findall(r'<time datetime="([^"]+)">', text)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(written)) < timedelta(minutes=5)


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


@pytest.mark.parametrize("kept", [0, 20, 60, 0.5])
def test_page__names_broken_pictures_and_shows_the_others(store: Store, tmp_path: Path, kept: float) -> None:
    for stage, item, name in (("tiles", "slide-S2", "quality.png"), ("rois", "ct-C1", "contact.png")):
        file = Path(str(store.part(stage, item, name)))
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    text = page(store, tmp_path)
    assert [alt for alt, _ in shown(text)] == ["Slides: slide-S1", "Windows: cohort"]
    assert "<td>slide-S2</td><td>quality.png cannot be read</td>" in text
    assert "<td>ct-C1</td><td>contact.png cannot be read</td>" in text
    assert "Not shown here" not in text

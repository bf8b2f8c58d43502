"""`mumo status --html`: one page on a store with its pictures for checking; it needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from .records import Record, Store
from .specs import STAGES

PICTURES = {
    "tiles": ("quality.png", "Slides", "Thumbnail, regions and kept bags; a bag as scanned and as stored."),
    "windows": ("windows.png", "Windows", "Intensities inside the lesions, and the windows that were fitted to them."),
    "rois": ("contact.png", "Lesions", "Slice below, widest slice and slice above; box yellow, edge of the mask cyan."),
}
"""Stage → its items' picture, the page's title for it, and what it shows."""

_WIDTH_PX = {"tiles": 640, "windows": 800, "rois": 640}


@dataclass(frozen=True)
class Shown:
    """One picture on the page."""

    item: str
    source: str
    """`data:` URL."""
    width: int
    height: int
    notes: tuple[str, ...]
    """The item's warnings."""


def write_status_page(store: Store, status: dict[str, Any], file: Path, *, pictures: int = 100) -> None:
    """Write the page.

    Args:
        status: of `store_status`; under `cohort` also what `mumo status --cohort` found, where asked for.
        pictures: most pictures of a stage; items with warnings come first, and the page says how many are left out.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections, warnings = [], []
    for stage in STAGES:
        records = store.records(stage)
        warnings += [(stage, item, text) for item, record in sorted(records.items()) for text in _notes(record)]
        if stage in PICTURES:
            name, title, meaning = PICTURES[stage]
            having = [record for record in records.values() if name in record.parts]
            having.sort(key=lambda record: (not _notes(record), record.item))
            shown = list(_pictures(store, having[:pictures], name, _WIDTH_PX[stage]))
            left = len(having) - len(shown)
            sections.append({"stage": stage, "title": title, "meaning": meaning, "pictures": shown, "left": left})
    text = environment.get_template("status.html.jinja").render(
        status=status,
        cohort=status.get("cohort", {}),
        sections=[section for section in sections if section["pictures"]],
        warnings=warnings,
        version=__version__,
        name=file.stem,
    )
    file.write_text(text, encoding="utf-8")


def _notes(record: Record) -> tuple[str, ...]:
    return tuple(record.summary.get("warnings", ()))


def _pictures(store: Store, records: list[Record], name: str, width: int) -> Iterator[Shown]:
    """The picture of each record; one that is gone by now is left out."""
    for record in records:
        data = store.files.read(store.part(record.stage, record.item, name))
        if data is not None:
            yield _shown(record.item, data, width, _notes(record))


def _shown(item: str, data: bytes, width: int, notes: tuple[str, ...]) -> Shown:
    """A picture no wider than `width`; kept as it is where it is narrower, else made smaller as JPEG."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if image.width <= width:
            return Shown(item, _data_url(data, "png"), image.width, image.height, notes)
        height = max(1, round(width * image.height / image.width))
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "JPEG", quality=80)
        return Shown(item, _data_url(out.getvalue(), "jpeg"), small.width, small.height, notes)


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

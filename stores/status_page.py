"""`mumo status --html`: one page on a store with its pictures for checking; it needs no other file and no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..pages.rendering import ENLARGING, SORTING, render
from .records import Record, Store
from .specs import STAGES
from .status import DICE_MEANING

PICTURES = {
    "tiles": (
        "quality.png",
        "Slides",
        "Left: the slide with its regions outlined (blue: tissue or class 1, orange: class 2, red: class 3) and the "
        "kept bags as black squares. Right: bags as scanned and as stored. A click enlarges a picture.",
    ),
    "windows": ("windows.png", "Windows", "Intensities inside the lesions, and the windows that were fitted to them."),
    "rois": (
        "contact.png",
        "Lesions",
        "Slice below, widest slice and slice above of each lesion; its box yellow, the edge of its mask cyan.",
    ),
}
"""Stage → its items' picture, the page's title for it, and what it shows."""

MEANINGS = {
    "tiles": "slides cut into bags, colours normalised",
    "windows": "intensity windows of the CT lesions",
    "rois": "lesions cut out of the CT studies",
    "embed": "deep features of bags and lesions",
    "radiomics": "omics features of bags and lesions",
    "clinical": "reports, patient information, outcomes",
}
"""Stage → what it makes, in plain words."""

_WIDTH_PX = {"tiles": 900, "windows": 800, "rois": 640}


@dataclass(frozen=True)
class Shown:
    """One picture on the page."""

    item: str
    source: str
    """`data:` URL."""
    width: int
    height: int
    facts: str
    """What the item holds."""
    notes: tuple[str, ...]
    """The item's warnings."""


def write_status_page(store: Store, status: dict[str, Any], file: Path, *, pictures: int = 100) -> None:
    """Write the page.

    Args:
        status: of `store_status`; under `cohort` also what `mumo status --cohort` found, where asked for.
        pictures: most pictures of a stage; items with warnings come first, and the page says how many are left out.
    """
    sections, warnings = [], []
    for stage in STAGES:
        records = store.records(stage)
        warnings += [(stage, item, text) for item, record in sorted(records.items()) for text in _notes(record)]
        if stage in PICTURES:
            name, title, meaning = PICTURES[stage]
            having = [record for record in records.values() if name in record.parts]
            having.sort(key=lambda record: (not _notes(record), record.item))
            found = list(_pictures(store, having[:pictures], name, _WIDTH_PX[stage]))
            shown = [picture for picture in found if isinstance(picture, Shown)]
            warnings += [(stage, item, f"{name} cannot be read") for item in found if isinstance(item, str)]
            left = len(having) - len(found)
            sections.append({"stage": stage, "title": title, "meaning": meaning, "pictures": shown, "left": left})
            sections[-1]["entry"] = (stage, title)
    text = render(
        __package__,
        "status.html.jinja",
        scripts=[SORTING, ENLARGING],
        status=status,
        cohort=status.get("cohort", {}),
        sections=[section for section in sections if section["pictures"]],
        meanings=MEANINGS,
        dice_meaning=DICE_MEANING,
        warnings=warnings,
        written=datetime.now(UTC),
        name=file.stem,
    )
    file.write_text(text, encoding="utf-8")


def _notes(record: Record) -> tuple[str, ...]:
    return tuple(record.summary.get("warnings", ()))


def _facts(record: Record) -> str:
    """How many bags or lesions an item holds, and the resolution of a slide."""
    facts = []
    for name in ("bags", "lesions"):
        if (count := record.summary.get(name)) is not None:
            facts.append(f"{count} {name if count != 1 else name.removesuffix('s')}")
    if (mpp := record.summary.get("mpp_level0")) is not None:
        facts.append(f"{mpp:.3g} µm/px")
    return ", ".join(facts)


def _pictures(store: Store, records: list[Record], name: str, width: int) -> Iterator[Shown | str]:
    """The picture of each record, or the item whose picture is broken; one that is gone by now is left out."""
    from PIL import Image

    for record in records:
        data = store.files.read(store.part(record.stage, record.item, name))
        if data is None:
            continue
        try:
            yield _shown(record, data, width)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):  # what Pillow raises for a broken PNG
            yield record.item


def _shown(record: Record, data: bytes, width: int) -> Shown:
    """A picture no wider than `width`; kept as it is where it is narrower, else made smaller as WebP."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        if image.width <= width:
            return Shown(record.item, _data_url(data, "png"), image.width, image.height, _facts(record), _notes(record))
        height = max(1, round(width * image.height / image.width))
        small = image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
        out = io.BytesIO()
        small.save(out, "WEBP", quality=75)
        source = _data_url(out.getvalue(), "webp")
        return Shown(record.item, source, small.width, small.height, _facts(record), _notes(record))


def _data_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"

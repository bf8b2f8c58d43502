"""The folder of one patient: maps, pictures, viewers, GeoJSON, bars, and the page that shows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import TilesSettings
from ...errors import StoreError
from ...fusion.attribution import Parts
from ...fusion.explain import Explained
from ...fusion.table_one import called
from ...pages.rendering import SORTING, render
from ...pages.terms import IMPORTANCE
from ...stores.packed import Packed
from ...stores.records import Store, is_safe_id
from .lesions import LesionMap, write_lesion_maps
from .mosaic import SlideBags, most_important, open_slide_bags, put_together
from .pictures import write_bars, write_heat_map, write_image, write_lesion_thumbnail, write_thumbnail
from .qupath import write_geojson
from .viewer import DETAILED, Tiles, write_viewer

Floats = npt.NDArray[np.float64]

FEATURES_SHOWN = 15
"""Omics features with the largest attributions that are shown for each modality; all are in the table."""

BAG_PX = 1024
"""Largest side of pictures of bags."""

THUMBNAIL = "thumbnail.jpg"
"""The patient's picture in lists: its first slide, or its first lesion."""

GROUPS = {
    "pathology_report": "Pathology report",
    "radiology_report": "Radiology report",
    "patient_information": "Patient information",
}
MODALITIES = {"pathology": "slides", "radiology": "CT"}
UNITS = {"pathology": "bags", "radiology": "lesions"}
"""What features are summed over; else the rows of a table."""


@dataclass
class Page:
    """What the page of a patient shows: files beside it, with what is said of them."""

    slides: list[dict[str, Any]] = field(default_factory=list)
    bags: list[dict[str, Any]] = field(default_factory=list)
    lesions: list[dict[str, Any]] = field(default_factory=list)
    no_grad_cam: str = ""
    drawn_weights: bool = False
    """Whether the backbone has learnt nothing, so that Grad-CAM is not to be read."""
    items: list[dict[str, Any]] = field(default_factory=list)
    omics: list[dict[str, Any]] = field(default_factory=list)
    thumbnail: str = ""


def folder_name(patient: str, number: int) -> str:
    """Name of a patient's folder: the study id, or a number where the id makes no file name."""
    return patient if is_safe_id(patient) else f"patient-{number + 1:05d}"


@dataclass(frozen=True)
class Drawing:
    """What the pages of all patients share."""

    store: Store
    tiles: TilesSettings
    """Says where GeoJSON counts from."""
    items: dict[str, tuple[str, ...]]
    """Group of codes → names of its items."""
    omics: dict[str, tuple[str, ...]]
    """Modality → names of its features."""
    top: int
    """Most important bags shown as pictures."""
    drawn_weights: bool = False
    """Whether the backbone's weights were drawn at random."""


def names_of(packed: Packed) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Names of report items by group, and of omics features by modality."""
    items = {group: tuple(item.name for item in codes.items) for group, codes in packed.codes.items()}
    return items, {modality: units.omics_columns for modality, units in packed.units.items()}


def write_patient(folder: Path, explained: Explained, lesions: list[LesionMap] | None, drawing: Drawing) -> Page:
    """Write the folder of a patient, its page last; returns what the page shows.

    Args:
        lesions: Grad-CAM of the patient's lesions; none where it was left out.
    """
    folder.mkdir()
    page = Page(drawn_weights=lesions is not None and drawing.drawn_weights)
    if lesions is None and "radiology" in explained.units:
        page.no_grad_cam = "Grad-CAM was left out of this run of `mumo explain`."
    if explained.words is not None:
        _write_slides(folder, explained, drawing, page)
    if lesions:
        page.lesions = write_lesion_maps(folder, lesions, explained)
        if not page.thumbnail:
            page.thumbnail = THUMBNAIL
            write_lesion_thumbnail(folder / page.thumbnail, lesions[0].slices, lesions[0].cam)
    _write_items(folder, explained, drawing, page)
    _write_omics(folder, explained, drawing, page)
    text = render(
        __package__, "patient.html.jinja", scripts=[SORTING] if page.items else [], files=True,
        e=explained, page=page, terms=IMPORTANCE, signed=signed, share=share, power=power,
    )  # fmt: skip
    (folder / "index.html").write_text(text, encoding="utf-8")
    return page


def signed(value: float) -> str:
    """A number with its sign, and a real minus."""
    return f"{value:+.3f}".replace("-", "−")


def power(value: float) -> str:
    """A small number as a power of ten, for example 4 × 10⁻⁷; 0 where it is none.

    >>> power(4.1e-7)
    '4 × 10⁻⁷'
    """
    if not value:
        return "0"
    digit, _, exponent = f"{value:.0e}".partition("e")
    return f"{digit} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def share(value: float) -> str:
    """A share in percent, with more digits where it is small."""
    return f"{100 * value:.1f} %" if value >= 0.01 else f"{100 * value:.2f} %"


# --- slides -----------------------------------------------------------------------------------------------


def _write_slides(folder: Path, explained: Explained, drawing: Drawing, page: Page) -> None:
    words, bags = explained.words, explained.units["pathology"]
    assert words is not None
    sources = explained.sources["pathology"]
    order = most_important(np.abs(bags.effect), max(drawing.top, DETAILED))
    for item in dict.fromkeys(source for source, _ in sources):
        rows = [number for number, (source, _) in enumerate(sources) if source == item]
        slide = slice(rows[0], rows[-1] + 1)
        ranks = {order.index(row) + 1: row - rows[0] for row in rows if row in order}
        bags_of_slide = open_slide_bags(drawing.store, item, drawing.tiles)
        _write_slide(folder, explained, bags_of_slide, page, slide, ranks, drawing.top)
    page.bags.sort(key=lambda bag: bag["rank"])


def _write_slide(
    folder: Path,
    explained: Explained,
    slide: SlideBags,
    page: Page,
    rows: slice,
    ranks: dict[int, int],
    top: int,
) -> None:
    """One slide's files. `ranks`: place among the patient's most important bags → bag of this slide."""
    words, units = explained.words, explained.units["pathology"]
    assert words is not None
    item = slide.item
    weight, effect, bag_effect = words.weight[rows], words.effect[rows], units.effect[rows]
    if len(slide.rows) != len(weight):
        raise StoreError(f"tiles/{item}: {len(slide.rows)} bags, features of {len(weight)}; run `mumo extract all`")
    detailed = [bag for _, bag in sorted(ranks.items())]
    shown = {rank: bag for rank, bag in ranks.items() if rank <= top}
    framed = [shown[rank] for rank in sorted(shown)]
    tiles = Tiles(slide, detailed)
    mosaic = put_together(slide, each=tiles.add)
    write_heat_map(folder / f"{item}.png", slide, mosaic, weight, effect, shown, words.weight.size, explained.wording)
    write_geojson(folder / f"{item}.geojson", slide, weight, effect, bag_effect, framed)
    write_viewer(
        folder / f"{item}.html", slide, mosaic, tiles, patient=explained.patient, title=item, weight=weight,
        effect=effect, bag_effect=bag_effect, ranked=shown, totals=(len(words.weight), words.weight.size),
        unit=explained.wording.unit,
    )  # fmt: skip
    page.slides.append({"item": item, "bags": len(weight), "pixels": slide.pixels is not None})
    if not page.thumbnail:
        page.thumbnail = THUMBNAIL
        write_thumbnail(folder / page.thumbnail, slide, mosaic, effect)
    for rank, bag in shown.items():
        pixels = slide.read(bag, BAG_PX)
        entry: dict[str, Any] = {
            "rank": rank,
            "name": f"{item}, bag {bag}",
            "weight": float(weight[bag].sum()),
            "file": "",
        }
        if pixels is not None:
            entry["file"] = f"bag-{rank}.jpg"
            write_image(folder / entry["file"], pixels)
        page.bags.append(entry | {"effect": float(bag_effect[bag]), "share": len(words.weight)})


# --- items and features -----------------------------------------------------------------------------------


def _write_items(folder: Path, explained: Explained, drawing: Drawing, page: Page) -> None:
    label = f"effect on the {explained.wording.noun}, {explained.wording.unit}"
    for group, parts in explained.items.items():
        known = parts.weight > 0
        if not known.any():
            continue
        items = drawing.items[group]
        names = [called(items[number]) for number in np.flatnonzero(known)]
        order = np.argsort(-np.abs(parts.effect[known]), kind="stable")
        values = parts.effect[known][order]
        file = f"{group}.png"
        write_bars(folder / file, [names[n] for n in order], values, label, signed=True)
        rows = [(names[n], parts.weight[known][n], parts.effect[known][n]) for n in order]
        page.items.append({"title": GROUPS.get(group, group), "file": file, "rows": rows})


def _write_omics(folder: Path, explained: Explained, drawing: Drawing, page: Page) -> None:
    wording = explained.wording
    for modality, values in explained.omics.items():
        columns, total = drawing.omics[modality], values.sum(axis=0)
        order = most_important(np.abs(total), FEATURES_SHOWN)
        file = f"omics-{modality}.png"
        label = f"attribution to the {wording.noun}, {wording.unit}"
        write_bars(folder / file, [columns[n] for n in order], total[list(order)], label, signed=True, width=6.0)
        title = f"Omics features of the {MODALITIES.get(modality, modality)}"
        rest = float(total.sum() - total[list(order)].sum())
        page.omics.append(
            {"title": title, "file": file, "sum": float(total.sum()), "rest": rest, "features": len(columns),
             "shown": len(order), "units": UNITS.get(modality, "rows")}
        )  # fmt: skip


# --- the table --------------------------------------------------------------------------------------------


def table_rows(explained: Explained, drawing: Drawing) -> Iterator[tuple[str, str, str, float]]:
    """Kind, item, name and value of everything about a patient, see `specs.EXPLANATIONS`."""
    yield "prediction", "", "risk", explained.risk
    yield "prediction", "", "probability", explained.probability
    kinds = {"pathology": "bag", "radiology": "lesion"}
    for modality, parts in explained.units.items():
        kind = kinds.get(modality, modality)
        for (item, name), weight, effect in zip(explained.sources[modality], parts.weight, parts.effect, strict=True):
            yield f"{kind} weight", item, name, float(weight)
            yield f"{kind} effect", item, name, float(effect)
    if explained.words is not None:
        yield from _word_rows(explained, explained.words)
    for group, parts in explained.items.items():
        for name, weight, effect in zip(drawing.items[group], parts.weight, parts.effect, strict=True):
            yield "item weight", group, name, float(weight)
            yield "item effect", group, name, float(effect)
    for modality, values in explained.omics.items():
        for name, value in zip(drawing.omics[modality], values.sum(axis=0), strict=True):
            yield "omics", modality, name, float(value)


def _word_rows(explained: Explained, words: Parts) -> Iterator[tuple[str, str, str, float]]:
    for kind, values in (("word weight", words.weight), ("word effect", words.effect)):
        for (item, bag), row in zip(explained.sources["pathology"], values.tolist(), strict=True):
            for word, value in enumerate(row):
                yield kind, item, f"{bag}/{word}", value

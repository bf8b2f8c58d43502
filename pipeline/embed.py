"""The `embed` stage: words of bags and views of lesions through the backbone.

Bags and lesions are read a batch at a time, the next one while the network works on the present one, so memory is
bounded by two of them whatever the slide's size. Features are stored as float16.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, InputError, Problem, StoreError
from ..stores import arrays
from ..stores.specs import LESION_CROPS, LESION_FEATURES, WORD_FEATURES, ArraySpec
from .networks.backbone import (
    Backbone,
    embed_images,
    fetch_weights,
    image_tensor,
    input_identity,
    load_backbone,
    resolve_device,
    weights_identity,
)
from .pathology.bags import BagOrigin, Bags, bag_origins, open_bags
from .read_ahead import read_ahead
from .stage import Item, Outcome, Stage, Upstream

if TYPE_CHECKING:
    import torch
    import zarr

    from ..config import Settings
    from ..stores.records import Store
    from .cohorts.cohort import Cohort

Span = tuple[int, int]
"""First bag or lesion of a batch, and the one after its last."""


class EmbedStage(Stage):
    """Deep features of every slide and CT study of the cohort."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1

    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """One item a slide and one a CT study; raises ConfigError when the backbone or its weights make no sense."""
        if not (cohort.slides or cohort.ct_studies):
            return []
        inputs = {"weights_sha256": weights_identity(settings.embed)}
        origins = bag_origins(cohort.slides, store, settings.tiles.max_pixels)
        items = [
            self._item(f"slide-{slide}", Upstream("tiles", f"slide-{slide}", "pixels.zarr"), origin, settings, inputs)
            for slide, origin in origins.items()
        ]
        for study in cohort.ct_studies:
            upstream = Upstream("rois", f"ct-{study.ct}", "crops.zarr")
            items.append(self._item(f"ct-{study.ct}", upstream, BagOrigin(), settings, inputs))
        return items

    def _item(
        self, item: str, upstream: Upstream, origin: BagOrigin, settings: Settings, inputs: dict[str, str]
    ) -> Item:
        return Item(
            stage=self.name,
            item=item,
            payload=origin.slide,
            settings={"backbone": settings.embed.backbone, **input_identity(settings.embed)},
            inputs=inputs,
            sources=origin.sources,
            upstream=(upstream,),
        )

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """Whether the backbone is known and its weights are there, without loading them."""
        if not (cohort.slides or cohort.ct_studies):
            return []
        try:
            weights_identity(settings.embed)
        except ConfigError as error:
            return [
                Problem(
                    table="configuration",
                    row="",
                    column="embed",
                    found=str(error),
                    expected="a network of the registry with weights that can be read",
                    remedy="Change the settings of the section [embed].",
                )
            ]
        return []

    def prepare(self, cohort: Cohort, settings: Settings, store: Store | None) -> None:
        """Fetch published weights once, where items are still to do; see `Stage`."""
        done = 0 if store is None else len(store.records(self.name))
        if done < len(cohort.slides) + len(cohort.ct_studies):
            fetch_weights(settings.embed)

    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Write `features.zarr` of one slide (`words`) or CT study (`lesions`).

        Raises:
            InputError: weights that cannot be used or are not those of the plan, or features that float16 cannot hold.
            StoreError: upstream arrays that do not have the declared form.
        """
        found, planned = weights_identity(settings.embed), item.inputs["weights_sha256"]
        if found != planned:
            raise InputError(f"{item.item}: planned with the weights {planned}, found {found}; run extract again")
        (source,) = item.upstream
        path = store.part(source.stage, source.item, source.part)
        if source.stage == "tiles":
            with open_bags(path, item.item, item.payload) as bags:
                return _embed(_words(bags, item.item), settings, out)
        return _embed(_crops(arrays.open_group(path), item.item), settings, out)


def _embed(images: ImageSource, settings: Settings, out: Path) -> Outcome:
    """Features of all images of an item into `features.zarr`."""
    backbone = load_backbone(settings.embed, resolve_device(settings.run.device))
    attributes = {"weights": backbone.weights_name, "weights_sha256": backbone.weights_sha256}
    network = {"backbone": backbone.name, "input_mean": list(backbone.mean), "input_std": list(backbone.std)}
    features = arrays.create_group(out / "features.zarr", network | attributes)
    with _torch_threads(settings.run.threads):
        write_features(features, images, backbone, settings.embed.batch_words)
    summary = {images.kind: images.units, **network, "device": backbone.device.type, **attributes}
    return Outcome("ok" if images.units else "empty", summary)


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """PyTorch's threads on the CPU: sums depend on their number, so it is the same wherever an item is computed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class ImageSource:
    """Images of one item: `units` bags or lesions with `per_unit` words or views each."""

    item: str
    kind: str
    """`bags` or `lesions`."""
    spec: ArraySpec
    """Array that their features become."""
    units: int
    per_unit: int
    read: Callable[[int, int], npt.NDArray[np.uint8]]
    """Images (units × per_unit, h, w, 3) of the units from the first argument up to the second."""


def write_features(group: zarr.Group, images: ImageSource, backbone: Backbone, batch: int) -> None:
    """Embed `images` and write the array `images.spec` (units, per_unit, width) chunk by chunk.

    Raises:
        InputError: a feature is not finite, or beyond the range of float16 (65,504).
    """
    array = arrays.create_array(group, images.spec, (images.units, images.per_unit, backbone.width))
    chunk = array.chunks[0]
    block = np.empty((chunk, images.per_unit, backbone.width), np.float16)
    spans = batch_spans(images.units, chunk, max(1, batch // max(1, images.per_unit)))

    def load(span: Span) -> torch.Tensor:
        return image_tensor(images.read(*span), backbone.device)

    for (start, stop), tensor in read_ahead(load, spans, "embed-read"):
        features = embed_images(backbone, tensor, batch)
        with np.errstate(over="ignore"):
            values = features.astype(np.float16)
        if not np.isfinite(values).all():
            raise InputError(
                f"{images.item}: {np.count_nonzero(~np.isfinite(values))} features of {images.kind} {start} to "
                f"{stop - 1} are not finite or exceed float16's 65,504 (largest {np.abs(features).max():.3g}); "
                f"the weights {backbone.weights_name} do not suit {backbone.name}"
            )
        low = start % chunk
        block[low : low + stop - start] = values.reshape(stop - start, images.per_unit, backbone.width)
        if stop % chunk == 0 or stop == images.units:
            first = start - low
            array[first:stop] = block[: stop - first]


def batch_spans(units: int, chunk: int, batch: int) -> list[Span]:
    """Consecutive spans of at most `batch` units that cover `units`, none across a multiple of `chunk`."""
    return [
        (start, min(start + batch, first + chunk, units))
        for first in range(0, units, chunk)
        for start in range(first, min(first + chunk, units), batch)
    ]


def _words(bags: Bags, item: str) -> ImageSource:
    """Words of the bags of a slide."""

    def read(start: int, stop: int) -> npt.NDArray[np.uint8]:
        return cut_words(bags.read(start, stop), bags.word_px)

    side = bags.side_px // bags.word_px
    return ImageSource(item, "bags", WORD_FEATURES, bags.count, side * side, read)


def cut_words(bags: npt.NDArray[np.uint8], word_px: int) -> npt.NDArray[np.uint8]:
    """Words (bags × words, word_px, word_px, 3) of square bags (bags, y, x, 3), row-major within each bag."""
    count, side = len(bags), bags.shape[1] // word_px
    grid = bags.reshape(count, side, word_px, side, word_px, 3)  # (bag, row, y, column, x, rgb)
    return grid.transpose(0, 1, 3, 2, 4, 5).reshape(-1, word_px, word_px, 3)


def _crops(group: zarr.Group, item: str) -> ImageSource:
    """Views of the lesions in `crops.zarr`; the three slices take the place of the colours."""
    crops = arrays.open_array(group, LESION_CROPS)
    lesions, views, slices = crops.shape[:3]
    if slices != 3:
        raise StoreError(f"{item}: crops of {slices} slices; expected 3; extract rois again")

    def read(start: int, stop: int) -> npt.NDArray[np.uint8]:
        stacks = np.asarray(crops[start:stop])  # (lesion, view, slice, y, x)
        return np.moveaxis(stacks, 2, -1).reshape(-1, *stacks.shape[3:], 3)

    return ImageSource(item, "lesions", LESION_FEATURES, lesions, views, read)

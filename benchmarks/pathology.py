"""Slides: `tiles` against OpenSlide reading the same bags and nothing else, its memory, ways of keeping pixels, and
`embed` against the bare network; and tiles a second beside other packages that are installed.

The large slide is synthetic: 40,960 × 40,960 px at 0.25 µm/px, in JPEG tiles, a disc of tissue on glass. A real one is
measured, too, where MUMO_DATA names the folder of real data.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openslide
from PIL import Image

from benchmarks import other_tilers
from mumo.config import Settings, parse_settings
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.pathology.bags import bag_origins, open_bags
from mumo.pipeline.pathology.slides import open_reader
from mumo.pipeline.tiles import TilesStage
from mumo.stores import tables
from mumo.stores.records import Store
from mumo.stores.specs import BAGS

SIDE_PX = 40_960
SMALL_PX = 16_384
COARSE_PX = 8_192
COARSE_MPP = 0.5
TILE_PX = 256
MPP = 0.25
ROUNDS = 3


def main() -> None:
    """Print all ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        large = Slide("large", "P", write_large_slide(folder / "large.tif", SIDE_PX), None, None, False)
        small = Slide("small", "P", write_large_slide(folder / "small.tif", SMALL_PX), None, None, False)
        _compare(folder, large, parse_settings({}), f"synthetic, {SIDE_PX:,} px a side")
        for slide, side in ((large, SIDE_PX), (small, SMALL_PX)):
            print(f"tiles, {side:,} px a side: peak memory {_peak_mb(slide.path, folder / slide.slide):.0f} MB")
        shared = os.environ.get("MUMO_DATA")
        if shared:
            slides = Path(shared) / "slides"
            tcga = Slide("tcga", "P", slides / "TCGA-CR-7395-01A-01-TS1.svs", None, 0.5, False)
            _compare(folder, tcga, parse_settings({"tiles": {"bag_px": 1024}}), "TCGA, JPEG 2000, bags of 1024 px")
            cmu = Slide("cmu", "P", slides / "CMU-1-Small-Region.svs", None, None, False)
            _compare(folder, cmu, parse_settings({"tiles": {"bag_px": 512}}), "CMU-1, one level, bags of 512 px")
        _ways_of_keeping(folder, small)
        _embed(folder, small)
        other_tilers.compare(
            folder, write_large_slide(folder / "coarse.tif", COARSE_PX, COARSE_MPP), COARSE_MPP, ROUNDS
        )


def _compare(folder: Path, slide: Slide, settings: Settings, what: str) -> None:
    seconds, plain, cpu, plain_cpu = [], [], [], []
    for number in range(ROUNDS):
        out = folder / f"{slide.slide}-{number}"
        wall, busy = _timed(lambda out=out: _tiles(slide, settings, out))
        seconds.append(wall)
        cpu.append(busy)
        bags = tables.read_rows(out / "bags.parquet", BAGS)
        wall, busy = _timed(lambda bags=bags: _read_plainly(slide, settings, bags))
        plain.append(wall)
        plain_cpu.append(busy)
    print(
        f"tiles, {what}: {len(bags)} bags, {min(seconds):.2f} s, OpenSlide alone {min(plain):.2f} s, "
        f"ratio {min(seconds) / min(plain):.2f} (target ≤ 1.5); of CPU time {min(cpu) / min(plain_cpu):.2f}"
    )


def _tiles(slide: Slide, settings: Settings, out: Path) -> None:
    cohort = Cohort("c", Path("cohort.toml"), (), (slide,), (), {}, {}, ())
    store = Store(out.parent)
    (item,) = TilesStage().plan(cohort, settings, store)
    out.mkdir()
    TilesStage().run(item, settings, store, out)


def _read_plainly(slide: Slide, settings: Settings, bags: list[dict[str, Any]]) -> None:
    """The same places at the level that mumo reads."""
    with open_reader(slide, settings.tiles) as reader:
        level = reader.level_for(settings.tiles.working_mpp)
    with openslide.OpenSlide(slide.path) as image:
        for bag in bags:
            side = round(bag["size_level0"] / image.level_downsamples[level])
            image.read_region((bag["x_level0"], bag["y_level0"]), level, (side, side))


def _peak_mb(path: Path, out: Path) -> float:
    """Peak memory of a process of its own that runs `tiles` on one slide."""
    code = (
        "import sys; from pathlib import Path; from benchmarks import pathology as b;"
        "b._tiles(b.Slide('S', 'P', Path(sys.argv[1]), None, None, False), b.parse_settings({}), Path(sys.argv[2]));"
        "print(b.peak_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), str(out)], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def peak_mb() -> float:
    """Peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _ways_of_keeping(folder: Path, slide: Slide) -> None:
    cohort = Cohort("c", Path("cohort.toml"), (), (slide,), (), {}, {}, ())
    for pixels in ("zstd", "jpeg", "none"):
        settings = parse_settings({"tiles": {"pixels": pixels}})
        store, out = _commit(folder / f"store-{pixels}", cohort, settings)
        origin = bag_origins([slide], store, settings.tiles.max_pixels)[slide.slide]
        with open_bags(out / "pixels.zarr", "item", origin.slide) as bags:
            began = time.perf_counter()
            for number in range(bags.count):
                bags.read(number, number + 1)
            seconds, count = time.perf_counter() - began, bags.count
        size = sum(file.stat().st_size for file in (out / "pixels.zarr").rglob("*") if file.is_file())
        print(f"pixels kept as {pixels}: {size / count / 1e6:.2f} MB a bag, read at {count / seconds:.1f} bags/s")


def _commit(path: Path, cohort: Cohort, settings: Settings) -> tuple[Store, Path]:
    """A store with the tiles of the cohort's only slide, and the folder of that item."""
    store = Store.create(path)
    (item,) = TilesStage().plan(cohort, settings, store)
    staging = store.begin("tiles", item.item)
    outcome = TilesStage().run(item, settings, store, staging)
    store.commit("tiles", item.item, staging, depends={}, status="ok", summary=outcome.summary, seconds=0)
    return store, store.part("tiles", item.item, "pixels.zarr").parent


def _embed(folder: Path, slide: Slide) -> None:
    """Words a second of the stage, and of the network alone on random tensors in batches of the same size."""
    import torch

    from mumo.pipeline.embed import EmbedStage
    from mumo.pipeline.networks.backbone import load_backbone, resolve_device

    torch.set_num_threads(1)
    settings = parse_settings({"embed": {"weights": "random:0"}})
    store = Store.open(folder / "store-zstd")
    cohort = Cohort("c", Path("cohort.toml"), (), (slide,), (), {}, {}, ())
    (item,) = EmbedStage().plan(cohort, settings, store)
    backbone = load_backbone(settings.embed, resolve_device("auto"))
    batch = 8 if backbone.device.type == "cpu" else settings.embed.batch_words
    images = torch.rand(batch, 3, 256, 256, device=backbone.device).contiguous(memory_format=torch.channels_last)
    wall, busy, bare, bare_busy = [], [], [], []
    words = 0
    for number in range(ROUNDS):
        out = folder / f"embed-{number}"
        out.mkdir()
        outcomes: list[Any] = []
        seconds, cpu = _timed(
            lambda out=out, outcomes=outcomes: outcomes.append(EmbedStage().run(item, settings, store, out))
        )
        wall.append(seconds)
        busy.append(cpu)
        words = outcomes[0].summary["bags"] * 64
        seconds, cpu = _timed(lambda words=words: _run_bare(backbone.module, images, words))
        bare.append(seconds)
        bare_busy.append(cpu)
    print(
        f"embed on {backbone.device.type}: {words / min(wall):.1f} words/s, the network alone {words / min(bare):.1f}, "
        f"ratio {min(bare) / min(wall):.2f} (target ≥ 0.9); of CPU time {min(bare_busy) / min(busy):.2f}"
    )


def _run_bare(module: Any, images: Any, words: int) -> None:
    import torch

    cuda = images.device.type == "cuda"
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=cuda):
        for _ in range(0, words, len(images)):
            module(images)
        if cuda:
            torch.cuda.synchronize()


def _timed(job: Any) -> tuple[float, float]:
    """Seconds on the clock, and of all cores."""
    began, began_cpu = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - began, time.process_time() - began_cpu


def write_large_slide(path: Path, side: int, mpp: float = MPP) -> Path:
    """A pyramid (1, 4, 16) of a disc of tissue on glass; a handful of encoded tiles is repeated, so it is quick."""
    import imagecodecs
    import tifffile

    rng = np.random.default_rng(0)
    glass = np.full((TILE_PX, TILE_PX, 3), 243, np.uint8)
    pictures = [glass, *(_tissue(rng) for _ in range(16))]
    count = side // TILE_PX
    rows, columns = (np.mgrid[:count, :count] + 0.5) / count - 0.5
    kinds = np.where(rows**2 + columns**2 < 0.42**2, rng.integers(1, len(pictures), (count, count)), 0)

    def encoded(factor: int) -> Iterator[bytes]:
        small = [np.asarray(Image.fromarray(picture).reduce(factor)) for picture in pictures]
        known: dict[bytes, bytes] = {}
        for y in range(-(-count // factor)):
            for x in range(-(-count // factor)):
                part = np.zeros((factor, factor), kinds.dtype)
                here = kinds[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor]
                part[: here.shape[0], : here.shape[1]] = here
                if part.tobytes() not in known:
                    tile = np.concatenate([np.concatenate([small[kind] for kind in row], axis=1) for row in part])
                    known[part.tobytes()] = imagecodecs.jpeg8_encode(tile, level=80)
                yield known[part.tobytes()]

    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for factor in (1, 4, 16):
            writer.write(
                encoded(factor),
                shape=(side // factor, side // factor, 3),
                dtype=np.uint8,
                tile=(TILE_PX, TILE_PX),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(factor > 1),
                metadata=None,
                resolution=(1e4 / (mpp * factor),) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


def _tissue(rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Nuclei in stroma."""
    pixels = np.full((TILE_PX, TILE_PX, 3), (215.0, 150.0, 190.0))
    pixels += np.kron(rng.normal(0, 1, (8, 8)), np.ones((32, 32)))[..., None] * (12, 18, 10)
    rows, columns = np.mgrid[:TILE_PX, :TILE_PX]
    for _ in range(60):
        y, x, radius = rng.uniform(0, TILE_PX), rng.uniform(0, TILE_PX), rng.uniform(5, 11)
        pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = np.array((95, 60, 130)) + rng.normal(0, 8, 3)
    return np.clip(pixels + rng.normal(0, 7, pixels.shape), 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()

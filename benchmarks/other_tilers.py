"""Tiles a second of `tiles` beside those of hs2p and HistoPrep, on one slide and in one run.

Neither is needed by mumo; each is measured where it can be imported (`pip install hs2p HistoPrep`). All three cut
tiles of 256 px from the finest level of the same slide, so that nobody resamples, in one process, and store them: mumo
with its colours normalised, without loss (Zstandard) or as JPEG; the others as JPEG of their colours as scanned.
Bags of 2048 px hold glass between their tiles of tissue, which the others leave out; bags of one tile cover what
they do.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

from mumo.config import parse_settings
from mumo.pipeline.cohorts.cohort import Cohort, Slide
from mumo.pipeline.tiles import TilesStage
from mumo.stores.records import Store

TILE_PX = 256
JPEG_QUALITY = 90


def compare(folder: Path, slide: Path, mpp: float, rounds: int) -> None:
    """Print tiles a second, on the clock and of processor time, of each, best of `rounds`; `mpp` is level 0's."""
    found = {
        "mumo, Zstandard, bags of 2048 px": lambda out: _mumo(slide, mpp, "zstd", 2048, out),
        f"mumo, JPEG {JPEG_QUALITY}, bags of 2048 px": lambda out: _mumo(slide, mpp, "jpeg", 2048, out),
        f"mumo, JPEG {JPEG_QUALITY}, bags of {TILE_PX} px": lambda out: _mumo(slide, mpp, "jpeg", TILE_PX, out),
    }
    for package, job in (("hs2p", _hs2p), ("histoprep", _histoprep)):
        if importlib.util.find_spec(package) is None:
            print(f"{package}: not installed, left out")
            continue
        name = f"{package} {importlib.metadata.version(package)}, JPEG {JPEG_QUALITY}"
        found[name] = lambda out, job=job: job(slide, mpp, out)
    best: dict[str, tuple[int, float, float]] = {}
    for number in range(rounds):
        for place, (name, run) in enumerate(found.items()):
            best[name] = _better(best.get(name), _measure(run, folder / f"tiler-{place}-{number}"))
    for name, (tiles, wall, busy) in best.items():
        print(f"tiles of {TILE_PX} px, {name}: {tiles} tiles, {tiles / wall:.0f}/s, {tiles / busy:.0f}/s of CPU time")


def _measure(run: Callable[[Path], int], out: Path) -> tuple[int, float, float]:
    out.mkdir()
    began, began_cpu = time.perf_counter(), time.process_time()
    tiles = run(out)
    return tiles, time.perf_counter() - began, time.process_time() - began_cpu


def _better(known: tuple[int, float, float] | None, new: tuple[int, float, float]) -> tuple[int, float, float]:
    return new if known is None else (new[0], min(known[1], new[1]), min(known[2], new[2]))


def _mumo(path: Path, mpp: float, pixels: str, bag_px: int, out: Path) -> int:
    tiles = {"pixels": pixels, "bag_px": bag_px, "jpeg_quality": JPEG_QUALITY, "working_mpp": mpp}
    settings = parse_settings({"tiles": tiles})
    slide = Slide("S", "P", path, None, None, False)
    store = Store(out)
    (item,) = TilesStage().plan(Cohort("c", Path("cohort.toml"), (), (slide,), (), {}, {}, ()), settings, store)
    bags: int = TilesStage().run(item, settings, store, out).summary["bags"]
    return bags * (settings.tiles.bag_px // TILE_PX) ** 2


def _hs2p(path: Path, mpp: float, out: Path) -> int:
    """Tissue by saturation and Otsu's threshold, at least half of a tile of it; one worker."""
    import hs2p

    result = hs2p.tile_slide(
        hs2p.SlideSpec(sample_id="S", image_path=path),
        tiling=hs2p.TilingConfig(
            requested_spacing_um=mpp,
            requested_tile_size_px=TILE_PX,
            tolerance=0.05,
            overlap=0.0,
            backend="openslide",
        ),
        segmentation=hs2p.SegmentationConfig(method="otsu"),
        num_workers=1,
    )
    options = {"jpeg_quality": JPEG_QUALITY, "jpeg_backend": "pil", "num_workers": 1}
    _, kept = hs2p.api.extract_tiles_to_tar(result, out, **options)
    return len(kept.x)


def _histoprep(path: Path, _mpp: float, out: Path) -> int:
    """Tissue by Otsu's threshold, at most half of a tile without; in this process."""
    from histoprep import SlideReader

    reader = SlideReader(path, backend="OPENSLIDE")
    _, mask = reader.get_tissue_mask()
    places = reader.get_tile_coordinates(mask, width=TILE_PX, max_background=0.5)
    reader.save_regions(out, places, quality=JPEG_QUALITY, num_workers=1, save_thumbnails=False, verbose=False)
    return len(places.coordinates)

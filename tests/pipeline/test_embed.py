"""The `embed` stage on items written straight into a store."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from mumo.config import EmbedSettings, RunSettings, Settings
from mumo.errors import InputError, StoreError
from mumo.pipeline import embed
from mumo.pipeline.embed import EmbedStage, ImageSource, batch_spans, cut_words, write_features
from mumo.pipeline.networks.backbone import embed_images, load_backbone
from mumo.pipeline.stage import Upstream
from mumo.stores import arrays
from mumo.stores.records import Store
from mumo.stores.specs import BAG_PIXELS, LESION_CROPS, LESION_FEATURES, WORD_FEATURES

SETTINGS = Settings(embed=EmbedSettings(weights="random:0", batch_words=8), run=RunSettings(device="cpu"))


def cohort(slides: tuple[str, ...] = (), studies: tuple[str, ...] = ()) -> Any:
    """What `plan` reads of a cohort."""
    return SimpleNamespace(
        slides=[SimpleNamespace(slide=name) for name in slides],
        ct_studies=[SimpleNamespace(ct=name) for name in studies],
    )


def put_bags(store: Store, slide: str, pixels: np.ndarray, word_px: object) -> None:
    staging = store.begin("tiles", f"slide-{slide}")
    group = arrays.create_group(staging / "pixels.zarr", {"mpp": 0.5, "word_px": word_px})
    arrays.write_array(group, BAG_PIXELS, pixels)
    store.commit("tiles", f"slide-{slide}", staging, depends={}, status="ok", summary={}, seconds=0)


def put_crops(store: Store, study: str, crops: np.ndarray) -> None:
    staging = store.begin("rois", f"ct-{study}")
    arrays.write_array(arrays.create_group(staging / "crops.zarr"), LESION_CROPS, crops)
    store.commit("rois", f"ct-{study}", staging, depends={}, status="ok", summary={}, seconds=0)


def run_stage(store: Store, out: Path, settings: Settings = SETTINGS, **ids: tuple[str, ...]) -> Any:
    (item,) = EmbedStage().plan(cohort(**ids), settings, store)
    return EmbedStage().run(item, settings, store, out)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def reference(images: np.ndarray) -> np.ndarray:
    """Features by torchvision alone: its network with the same tensors, its own normalisation, one image at a time."""
    from mumo.pipeline.networks.random_weights import randomise

    model = torchvision.models.mnasnet1_0(weights=None)
    model.classifier[1] = torch.nn.Identity()
    randomise(model, 0)
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        return np.stack(
            [
                model.eval()
                .layers(normalise(torch.from_numpy(image / 255.0).float().permute(2, 0, 1))[None])
                .mean([2, 3])[0]
                for image in images
            ]
        )


# --- slides -------------------------------------------------------------------------------------------------
def test_embed_stage__words_equal_torchvision_in_row_major_order(store: Store, out: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), dtype=np.uint8)
    pixels[1, 64:, :64] = (200, 20, 60)  # one word of its own: third of its bag
    put_bags(store, "S1", pixels, 64)
    outcome = run_stage(store, out, slides=("S1",))

    words = arrays.open_array(arrays.open_group(out / "features.zarr"), WORD_FEATURES)
    assert words.shape == (3, 4, 1280)
    by_hand = [pixels[bag, y : y + 64, x : x + 64] for bag in range(3) for y in (0, 64) for x in (0, 64)]
    expected = reference(np.stack(by_hand)).reshape(3, 4, 1280)
    np.testing.assert_allclose(np.asarray(words[:], np.float32), expected, rtol=2e-3, atol=2e-3)
    assert outcome.status == "ok"
    assert outcome.summary["bags"] == 3
    assert outcome.summary["weights"] == "random:0"
    assert len(outcome.summary["weights_sha256"]) == 64


def test_embed_stage__does_not_depend_on_the_threads_of_its_process(store: Store, tmp_path: Path) -> None:
    """Of convolutions on the CPU, sums are split by threads; a store must not differ with who computed it."""
    crops = np.random.default_rng(2).integers(0, 256, (3, 9, 3, 224, 224), dtype=np.uint8)
    put_crops(store, "C1", crops)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            folder = tmp_path / f"threads-{threads}"
            folder.mkdir()
            run_stage(store, folder, studies=("C1",))
            assert torch.get_num_threads() == threads
            results.append(arrays.open_array(arrays.open_group(folder / "features.zarr"), LESION_FEATURES)[:])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def test_embed_stage__does_not_depend_on_the_batch_size(store: Store, tmp_path: Path) -> None:
    put_bags(store, "S1", np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8), 32)
    results = []
    for batch in (1, 6, 64):
        folder = tmp_path / f"batch-{batch}"
        folder.mkdir()
        settings = SETTINGS.model_copy(update={"embed": EmbedSettings(weights="random:0", batch_words=batch)})
        run_stage(store, folder, settings, slides=("S1",))
        group = arrays.open_group(folder / "features.zarr")
        results.append(np.asarray(arrays.open_array(group, WORD_FEATURES)[:], np.float32))
    np.testing.assert_allclose(results[0], results[2], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(results[1], results[2], rtol=2e-3, atol=2e-3)


def test_embed_stage__slide_without_bags_is_empty(store: Store, out: Path) -> None:
    put_bags(store, "S1", np.zeros((0, 128, 128, 3), np.uint8), 64)
    outcome = run_stage(store, out, slides=("S1",))
    words = arrays.open_array(arrays.open_group(out / "features.zarr"), WORD_FEATURES)
    assert outcome.status == "empty"
    assert words.shape == (0, 4, 1280)


@pytest.mark.parametrize(("side", "word_px"), [(128, 48), (128, None), (128, 0), (128, 64.0)])
def test_embed_stage__refuses_words_that_do_not_fill_the_bag(
    store: Store, out: Path, side: int, word_px: object
) -> None:
    put_bags(store, "S1", np.zeros((1, side, side, 3), np.uint8), word_px)
    with pytest.raises(StoreError, match=r"slide-S1: bags of shape .* extract tiles again"):
        run_stage(store, out, slides=("S1",))


# --- CT -----------------------------------------------------------------------------------------------------
def test_embed_stage__slices_of_crops_become_colours(store: Store, out: Path) -> None:
    crops = np.random.default_rng(2).integers(0, 256, (2, 3, 3, 48, 48), dtype=np.uint8)
    put_crops(store, "C1", crops)
    outcome = run_stage(store, out, studies=("C1",))
    lesions = arrays.open_array(arrays.open_group(out / "features.zarr"), LESION_FEATURES)
    by_hand = [np.dstack(list(crops[lesion, view])) for lesion in range(2) for view in range(3)]
    expected = reference(np.stack(by_hand)).reshape(2, 3, 1280)
    np.testing.assert_allclose(np.asarray(lesions[:], np.float32), expected, rtol=2e-3, atol=2e-3)
    assert outcome.summary["lesions"] == 2


def test_embed_stage__refuses_crops_that_are_not_three_slices(store: Store, out: Path) -> None:
    put_crops(store, "C1", np.zeros((1, 1, 5, 32, 32), np.uint8))
    with pytest.raises(StoreError, match="ct-C1: crops of 5 slices; expected 3"):
        run_stage(store, out, studies=("C1",))


# --- plan ---------------------------------------------------------------------------------------------------
def test_embed_stage__plans_every_slide_and_study(store: Store) -> None:
    items = EmbedStage().plan(cohort(("S1", "S2"), ("C1",)), SETTINGS, store)
    assert [item.item for item in items] == ["slide-S1", "slide-S2", "ct-C1"]
    assert items[0].upstream == (Upstream("tiles", "slide-S1", "pixels.zarr"),)
    assert items[2].upstream == (Upstream("rois", "ct-C1", "crops.zarr"),)


def test_embed_stage__fingerprint_follows_network_and_weights_only(store: Store) -> None:
    def planned(**changes: Any) -> tuple[Any, Any]:
        settings = SETTINGS.model_copy(update={"embed": SETTINGS.embed.model_copy(update=changes)})
        (item,) = EmbedStage().plan(cohort(("S1",)), settings, store)
        return item.settings, item.inputs

    assert planned(batch_words=1) == planned()
    assert planned(weights="random:1") != planned()
    assert planned(backbone="resnet18") != planned()
    assert planned(input_mean=(0.5, 0.5, 0.5)) != planned()
    assert planned(input_std=(0.5, 0.5, 0.5)) != planned()


def test_embed_stage__refuses_weights_that_changed_since_the_plan(store: Store, out: Path, tmp_path: Path) -> None:
    put_bags(store, "S1", np.zeros((1, 64, 64, 3), np.uint8), 32)
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"before")
    settings = SETTINGS.model_copy(update={"embed": EmbedSettings(weights=str(path))})
    (item,) = EmbedStage().plan(cohort(("S1",)), settings, store)
    path.write_bytes(b"after!")
    with pytest.raises(InputError, match="slide-S1: planned with the weights"):
        EmbedStage().run(item, settings, store, out)


def test_embed_stage__check_reports_missing_weights() -> None:
    settings = SETTINGS.model_copy(update={"embed": EmbedSettings(weights="nowhere.pth")})
    (problem,) = EmbedStage().check(cohort(("S1",)), settings)
    assert "nowhere.pth" in problem.found
    assert EmbedStage().check(cohort(), settings) == []
    assert EmbedStage().check(cohort(("S1",)), SETTINGS) == []


def test_embed_stage__plan_and_check_do_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from types import SimpleNamespace as N; from mumo.pipeline.embed import EmbedStage;"
        "from mumo.config import Settings; c = N(slides=[N(slide='S1')], ct_studies=[]);"
        "from pathlib import Path; from mumo.stores.records import Store;"
        "EmbedStage().plan(c, Settings(), Store(Path('absent')));"
        "EmbedStage().check(c, Settings()); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- parts --------------------------------------------------------------------------------------------------
def test_cut_words__are_row_major() -> None:
    bag = np.arange(4 * 6 * 6 * 3, dtype=np.uint8).reshape(4, 6, 6, 3)
    words = cut_words(bag, 2).reshape(4, 9, 2, 2, 3)
    np.testing.assert_array_equal(words[3, 5], bag[3, 2:4, 4:6])


@pytest.mark.parametrize(("units", "chunk", "batch"), [(0, 16, 4), (1, 1, 4), (37, 16, 5), (16, 16, 16), (40, 16, 100)])
def test_batch_spans__cover_everything_within_chunks(units: int, chunk: int, batch: int) -> None:
    spans = batch_spans(units, chunk, batch)
    assert [n for start, stop in spans for n in range(start, stop)] == list(range(units))
    assert all(0 < stop - start <= batch and start // chunk == (stop - 1) // chunk for start, stop in spans)


def test_write_features__fills_chunk_after_chunk(tmp_path: Path) -> None:
    """More units than a chunk holds, in batches that do not divide it."""
    backbone = load_backbone(SETTINGS.embed)
    pixels = np.random.default_rng(3).integers(0, 256, (37, 2, 32, 32, 3), dtype=np.uint8)
    source = ImageSource("x", "bags", WORD_FEATURES, 37, 2, lambda a, b: pixels[a:b].reshape(-1, 32, 32, 3))
    group = arrays.create_group(tmp_path / "f.zarr")
    write_features(group, source, backbone, 10)
    expected = embed_images(backbone, torch.from_numpy(pixels.reshape(-1, 32, 32, 3)), 64).reshape(37, 2, -1)
    np.testing.assert_allclose(arrays.open_array(group, WORD_FEATURES)[:], expected, rtol=2e-3, atol=2e-3)


def test_write_features__reads_the_next_batch_while_computing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network waits for the next read to begin; without reading ahead it would wait in vain."""
    reading = [threading.Event() for _ in range(4)]
    most, alive = 0, 0

    def read(start: int, stop: int) -> np.ndarray:
        nonlocal most, alive
        reading[start].set()
        alive += 1
        most = max(most, alive)
        return np.zeros((stop - start, 32, 32, 3), np.uint8)

    def compute(backbone: Any, images: torch.Tensor, batch: int) -> np.ndarray:
        nonlocal alive
        done = computed.pop(0)
        if done < 3:
            assert reading[done + 1].wait(10), "the next batch was not read ahead"
            assert done == 2 or not reading[done + 2].is_set(), "two batches were read ahead"
        alive -= 1
        return np.zeros((len(images), backbone.width), np.float32)

    computed = [0, 1, 2, 3]
    monkeypatch.setattr(embed, "embed_images", compute)
    source = ImageSource("x", "bags", WORD_FEATURES, 4, 1, read)
    write_features(arrays.create_group(tmp_path / "f.zarr"), source, load_backbone(SETTINGS.embed), 1)
    assert most <= 2


def test_write_features__refuses_what_float16_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load_backbone(SETTINGS.embed)
    monkeypatch.setattr(embed, "embed_images", lambda *_: np.full((1, backbone.width), 70_000.0, np.float32))
    source = ImageSource("slide-S9", "bags", WORD_FEATURES, 1, 1, lambda *_: np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"slide-S9: 1280 features of bags 0 to 0 .*largest 7e\+04"):
        write_features(arrays.create_group(tmp_path / "f.zarr"), source, backbone, 1)


def test_write_features__passes_on_an_error_of_reading(tmp_path: Path) -> None:
    def read(start: int, _: int) -> np.ndarray:
        if start == 1:
            raise StoreError("chunk is damaged")
        return np.zeros((1, 32, 32, 3), np.uint8)

    source = ImageSource("x", "bags", WORD_FEATURES, 3, 1, read)
    with pytest.raises(StoreError, match="chunk is damaged"):
        write_features(arrays.create_group(tmp_path / "f.zarr"), source, load_backbone(SETTINGS.embed), 1)

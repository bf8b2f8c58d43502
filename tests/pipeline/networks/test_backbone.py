"""The registry of networks, their weights, and features against torchvision's own forward pass."""

from __future__ import annotations

import hashlib
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from scipy.ndimage import gaussian_filter

from mumo.config import EmbedSettings
from mumo.errors import ConfigError, InputError
from mumo.pipeline.networks import backbone as backbones
from mumo.pipeline.networks.backbone import ARCHITECTURES, embed_images, load_backbone, state_digest, weights_identity

RANDOM = EmbedSettings(weights="random:0")


def noise_images(count: int, px: int, seed: int = 0) -> np.ndarray:
    """Images (count, px, px, 3) of smooth noise on a random colour."""
    random = np.random.default_rng(seed)
    colours = random.uniform(60, 220, (count, 1, 1, 3))
    texture = gaussian_filter(random.normal(size=(count, px, px, 1)), (0, 2, 2, 0)) * 150
    return np.clip(colours + texture, 0, 255).astype(np.uint8)


def mnasnet_with_weights(seed: int = 3) -> torch.nn.Module:
    """Torchvision's MnasNet 1.0 with drawn weights and moving statistics, so that nothing is at its initial value."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = torchvision.models.mnasnet1_0(weights=None)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.running_mean, std=0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
                torch.nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(mnasnet_with_weights().state_dict(), path)
    return path


# --- registry -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if not name.startswith("timm:")])
def test_architectures__name_the_files_of_torchvision(name: str) -> None:
    member = torchvision.models.get_model_weights(name)[ARCHITECTURES[name].weights]
    assert member.url.rsplit("/", 1)[1] == ARCHITECTURES[name].file


@pytest.mark.parametrize(
    ("name", "width"),
    [("mnasnet1_0", 1280), ("mnasnet0_5", 1280), ("resnet18", 512), ("efficientnet_b0", 1280), ("convnext_tiny", 768)],
)
def test_load_backbone__gives_features_of_the_published_width(name: str, width: int) -> None:
    backbone = load_backbone(EmbedSettings(backbone=name, weights="random:1"))
    features = embed_images(backbone, torch.from_numpy(noise_images(6, 64)), 64)
    assert backbone.width == width
    assert features.shape == (6, width)
    assert (features.std(axis=0) > 0).mean() > 0.95, "features are the same for every image"


@pytest.mark.parametrize(
    ("given", "mean", "std"),
    [
        ({}, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # as timm publishes for this network
        (
            {"input_mean": (0.485, 0.456, 0.406), "input_std": (0.229, 0.224, 0.225)},
            (0.485, 0.456, 0.406),
            (0.229, 0.224, 0.225),
        ),
    ],
)
def test_load_backbone__takes_a_vision_transformer_of_timm_with_weights_from_a_file(
    tmp_path: Path, given: dict[str, tuple[float, ...]], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0, dynamic_img_size=True).eval()
    safetensors.torch.save_file(model.state_dict(), tmp_path / "vit.safetensors")
    settings = EmbedSettings(backbone="timm:vit_small_patch16_224", weights=str(tmp_path / "vit.safetensors"), **given)
    backbone = load_backbone(settings)
    images = torch.from_numpy(noise_images(2, 256))
    normalise = torchvision.transforms.Normalize(mean, std)
    with torch.no_grad():
        expected = model(normalise(images.permute(0, 3, 1, 2) / 255)).numpy()
    assert backbone.width == 384
    np.testing.assert_allclose(embed_images(backbone, images, 64), expected, rtol=1e-3, atol=1e-3)


def test_load_backbone__input_of_other_networks_is_normalised_with_imagenets_statistics() -> None:
    pytest.importorskip("timm")
    for name in ("mnasnet0_5", "timm:vit_large_patch16_224-layerscale"):
        assert backbones._input_statistics(name) == (backbones.IMAGENET_MEAN, backbones.IMAGENET_STD)


def test_normalised__leaves_its_images_alone() -> None:
    images = torch.from_numpy(noise_images(2, 32))
    before = images.clone()
    backbone = load_backbone(EmbedSettings(weights="random:0"))
    backbones.normalised(images, backbones.image_statistics(backbone))
    assert torch.equal(images, before)


def test_load_backbone__random_weights_of_timm_depend_on_the_seed_alone() -> None:
    pytest.importorskip("timm")
    digests = []
    for seed in (1, 1, 2):
        load_backbone.__globals__["_load"].cache_clear()
        torch.rand(3)
        digests.append(load_backbone(EmbedSettings(backbone="timm:vit_small_patch16_224", weights=f"random:{seed}")))
    found = [backbone.weights_sha256 for backbone in digests]
    assert found[0] == found[1] != found[2]


def test_load_backbone__without_timm_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match="extra timm"):
        load_backbone(EmbedSettings(backbone="timm:resnet50", weights="random:9"))


def test_weights_identity__networks_of_timm_need_a_file() -> None:
    with pytest.raises(ConfigError, match="must be a file"):
        weights_identity(EmbedSettings(backbone="timm:resnet50"))


def test_weights_identity__refuses_unknown_backbone() -> None:
    with pytest.raises(ConfigError, match=r"embed\.backbone: found 'vgg'; expected one of mnasnet1_0"):
        weights_identity(EmbedSettings(backbone="vgg"))


# --- features -----------------------------------------------------------------------------------------------
def test_embed_images__equals_torchvision_features_and_mean(weights_file: Path) -> None:
    images = noise_images(5, 96)
    backbone = load_backbone(EmbedSettings(weights=str(weights_file), weights_sha256=sha256(weights_file)))
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
    normalise = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    with torch.no_grad():
        expected = mnasnet_with_weights().double().layers(normalise(scaled)).mean([2, 3]).numpy()
    found = embed_images(backbone, torch.from_numpy(images), 64)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_embed_images__does_not_depend_on_the_batch() -> None:
    backbone = load_backbone(RANDOM)
    images = torch.from_numpy(noise_images(64, 64))
    alone = embed_images(backbone, images, 1)
    together = embed_images(backbone, images, 64)
    shuffled = embed_images(backbone, images.flip(0), 7)[::-1]
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(shuffled, together, rtol=1e-4, atol=1e-4)


def test_embed_images__keeps_large_images_in_small_batches_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    backbone = load_backbone(RANDOM)
    handle = backbone.module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    monkeypatch.setattr(backbones, "_CPU_BATCH_PIXELS", 3 * 64 * 64)
    embed_images(backbone, torch.zeros((7, 64, 64, 3), dtype=torch.uint8), 64)
    handle.remove()
    assert sizes == [3, 3, 1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_embed_images__on_cuda_equals_cpu_within_float16() -> None:
    images = noise_images(16, 64)
    on_cpu = embed_images(load_backbone(RANDOM), torch.from_numpy(images), 64)
    cuda = load_backbone(RANDOM, "cuda")
    on_cuda = embed_images(cuda, backbones.image_tensor(images, cuda.device), 64)
    np.testing.assert_allclose(on_cuda, on_cpu, rtol=0.05, atol=0.02 * np.abs(on_cpu).max())


# --- random weights -----------------------------------------------------------------------------------------
def test_random_weights__carry_colour_and_contrast() -> None:
    """A linear map learnt on half of the images predicts the mean colour and contrast of the other half."""
    random = np.random.default_rng(0)
    colours = random.uniform(60, 220, (300, 3))
    contrast = random.uniform(5, 60, 300)
    texture = gaussian_filter(random.normal(size=(300, 64, 64)), (0, 1.5, 1.5))
    texture *= (contrast / texture.std(axis=(1, 2)))[:, None, None]
    images = np.clip(colours[:, None, None, :] + texture[..., None], 0, 255).astype(np.uint8)
    features = embed_images(load_backbone(RANDOM), torch.from_numpy(images), 64).astype(np.float16).astype(np.float64)

    targets = np.column_stack([colours, contrast])
    known, unseen = slice(0, 200), slice(200, 300)
    scaled = (features - features[known].mean(axis=0)) / features[known].std(axis=0)
    gram = scaled[known] @ scaled[known].T + 100 * np.eye(200)
    centre = targets[known].mean(axis=0)
    predicted = scaled[unseen] @ scaled[known].T @ np.linalg.solve(gram, targets[known] - centre) + centre
    residual = ((predicted - targets[unseen]) ** 2).mean(axis=0)
    explained = 1 - residual / targets[unseen].var(axis=0)
    assert explained[:3].min() > 0.6
    assert explained[3] > 0.4


def test_random_weights__torchvisions_own_carry_nothing() -> None:
    """Why there is a recipe: torchvision's initial weights make float16 features that are all zero."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        features = torchvision.models.mnasnet1_0(weights=None).eval().layers(torch.randn(4, 3, 64, 64)).mean([2, 3])
    assert features.half().abs().max() == 0


def test_random_weights__depend_on_the_seed_alone() -> None:
    backbones._load.cache_clear()
    torch.manual_seed(5)
    first = load_backbone(RANDOM).weights_sha256
    backbones._load.cache_clear()
    torch.manual_seed(6)
    assert load_backbone(RANDOM).weights_sha256 == first
    assert load_backbone(EmbedSettings(weights="random:1")).weights_sha256 != first


def test_random_weights__are_the_same_on_every_machine() -> None:
    """The digest of one small network, as first computed; another means that a seed lost its meaning."""
    digest = load_backbone(EmbedSettings(backbone="mnasnet0_5", weights="random:0")).weights_sha256
    assert digest.startswith("56ef93e9")


def test_load_backbone__leaves_global_random_state_alone() -> None:
    backbones._load.cache_clear()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_backbone(RANDOM)
    assert torch.equal(torch.rand(3), expected)


def test_load_backbone__is_loaded_once() -> None:
    assert load_backbone(RANDOM) is load_backbone(RANDOM.model_copy())


@pytest.mark.parametrize("text", ["random:", "random:x", "random:-1", "random:1.5"])
def test_weights_identity__refuses_a_seed_that_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        weights_identity(EmbedSettings(weights=text))


# --- files --------------------------------------------------------------------------------------------------
def test_load_backbone__reads_safetensors_as_it_reads_pth(weights_file: Path, tmp_path: Path) -> None:
    state = {name: value for name, value in torch.load(weights_file).items() if "num_batches" not in name}
    same = tmp_path / "same.safetensors"
    safetensors.torch.save_file(state, same)
    from_pth = load_backbone(EmbedSettings(weights=str(weights_file), weights_sha256=sha256(weights_file)))
    from_safetensors = load_backbone(EmbedSettings(weights=str(same)))
    assert from_safetensors.weights_sha256 == from_pth.weights_sha256
    assert from_safetensors.weights_name == "same.safetensors"


def test_load_backbone__digest_is_of_the_tensors_as_loaded(weights_file: Path) -> None:
    model = mnasnet_with_weights()
    model.classifier = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Identity())
    backbone = load_backbone(EmbedSettings(weights=str(weights_file), weights_sha256=sha256(weights_file)))
    assert backbone.weights_sha256 == state_digest(model)


def test_load_backbone__takes_another_number_of_classes(tmp_path: Path) -> None:
    state = {n: v for n, v in mnasnet_with_weights().state_dict().items() if not n.startswith("classifier")}
    state["classifier.1.weight"] = torch.zeros((9, 1280))
    state["classifier.1.bias"] = torch.zeros(9)
    safetensors.torch.save_file(state, tmp_path / "nine.safetensors")
    assert load_backbone(EmbedSettings(weights=str(tmp_path / "nine.safetensors"))).width == 1280


def test_weights_identity__follows_the_content_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"first")
    settings = EmbedSettings(weights=str(path))
    before = weights_identity(settings)
    path.write_bytes(b"second")
    assert before == hashlib.sha256(b"first").hexdigest()
    assert weights_identity(settings) == hashlib.sha256(b"second").hexdigest()


def test_weights_identity__refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no readable file; expected `imagenet`"):
        weights_identity(EmbedSettings(weights=str(tmp_path / "none.pth")))


def test_weights_identity__refuses_pth_without_known_sha256(weights_file: Path) -> None:
    with pytest.raises(ConfigError, match=r"mine\.pth is a \.pth file without a known SHA-256"):
        weights_identity(EmbedSettings(weights=str(weights_file)))


def test_weights_identity__refuses_another_sha256(weights_file: Path) -> None:
    with pytest.raises(ConfigError, match="expected 0000"):
        weights_identity(EmbedSettings(weights=str(weights_file), weights_sha256="0" * 64))


def test_weights_identity__refuses_half_a_sha256(weights_file: Path) -> None:
    """Otherwise a single right digit would do."""
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        weights_identity(EmbedSettings(weights=str(weights_file), weights_sha256=sha256(weights_file)[:8]))


def test_weights_identity__checks_the_hash_in_torchvisions_file_name(weights_file: Path, tmp_path: Path) -> None:
    path = tmp_path / ARCHITECTURES["mnasnet1_0"].file
    path.write_bytes(weights_file.read_bytes())
    with pytest.raises(ConfigError, match="expected f206786ef8"):
        weights_identity(EmbedSettings(weights=str(path)))


def test_weights_identity__refuses_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(b"")
    with pytest.raises(ConfigError, match="unknown kind"):
        weights_identity(EmbedSettings(weights=str(tmp_path / "weights.pkl")))


def test_weights_identity__refuses_a_large_file(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "MAX_WEIGHTS_BYTES", 1000)
    with pytest.raises(ConfigError, match="at most 1000"):
        weights_identity(EmbedSettings(weights=str(weights_file), weights_sha256=sha256(weights_file)))


def test_load_backbone__runs_no_code_from_a_file(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"x": Evil()}, protocol=2))
    with pytest.raises(InputError, match="holds no tensors"):
        load_backbone(EmbedSettings(weights=str(path), weights_sha256=sha256(path)))
    assert not (tmp_path / "ran").exists()


def test_load_backbone__refuses_weights_of_another_network(weights_file: Path) -> None:
    settings = EmbedSettings(backbone="resnet18", weights=str(weights_file), weights_sha256=sha256(weights_file))
    with pytest.raises(InputError, match=r"mine\.pth does not fit the network ResNet: \d+ tensors missing"):
        load_backbone(settings)


def test_load_backbone__refuses_tensors_of_another_shape(weights_file: Path) -> None:
    settings = EmbedSettings(backbone="mnasnet0_5", weights=str(weights_file), weights_sha256=sha256(weights_file))
    with pytest.raises(InputError, match="of another shape"):
        load_backbone(settings)


def test_load_backbone__refuses_a_nested_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "nested.pth"
    torch.save({"model": mnasnet_with_weights().state_dict()}, path)
    with pytest.raises(InputError, match="one tensor for each name"):
        load_backbone(EmbedSettings(weights=str(path), weights_sha256=sha256(path)))


def test_load_backbone__refuses_a_truncated_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="holds no tensors"):
        load_backbone(EmbedSettings(weights=str(path)))


# --- torchvision's weights ------------------------------------------------------------------------------------
def test_load_backbone__says_what_to_do_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(InputError, match=r"bring the file mnasnet1\.0_top1_73\.512-f206786ef8\.pth and set embed"):
        load_backbone(EmbedSettings())


def test_load_backbone__checks_the_cached_imagenet_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / ARCHITECTURES["mnasnet1_0"].file
    cached.parent.mkdir()
    cached.write_bytes(b"half a download")
    with pytest.raises(ConfigError, match="damaged"):
        load_backbone(EmbedSettings())


def test_load_backbone__uses_the_cached_imagenet_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_file: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cached = tmp_path / "checkpoints" / ARCHITECTURES["mnasnet1_0"].file
    cached.parent.mkdir()
    cached.write_bytes(weights_file.read_bytes())
    monkeypatch.setattr(backbones, "_name_prefix", lambda _: sha256(weights_file)[:10])
    assert load_backbone(EmbedSettings()).weights_name == "imagenet"


def test_weights_identity__of_imagenet_needs_no_file() -> None:
    assert weights_identity(EmbedSettings()) == "torchvision:mnasnet1.0_top1_73.512-f206786ef8.pth"


def test_resolve_device__refuses_cuda_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        backbones.resolve_device("cuda")
    assert backbones.resolve_device("auto") == "cpu"

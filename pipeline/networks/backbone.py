"""The network that turns words and lesion crops into feature vectors, and its weights.

A backbone is a classifier of torchvision or timm without its last linear layer. Images enter as uint8, are scaled to
[0, 1] and normalised with the mean and standard deviation that the network was trained with; out come the globally
averaged features, for MnasNet 1.0 1280 numbers an image.

Weights are torchvision's ImageNet weights, a file, or drawn from a seed. PyTorch is imported only where it is needed,
so that planning thousands of items stays cheap.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import os
import pickle
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError, InputError

if TYPE_CHECKING:
    import torch

    from ...config import EmbedSettings

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)
RANDOM_SCHEME = 1
"""Version of the recipe behind `random:SEED`; enters the identity of such weights."""
MAX_WEIGHTS_BYTES = 8 << 30
"""Weights files larger than this are refused before they are read."""

_CPU_BATCH_PIXELS = 8 * 256 * 256
"""Pixels in one forward pass on a CPU. With more, activations leave the cache: MnasNet 1.0 on words of 256 px made 80
words/s in eights and 37 words/s in sixty-fours (one thread)."""


@dataclass(frozen=True)
class Architecture:
    """One network of the registry."""

    head: str
    """Attribute of the model that holds the classifier: a linear layer, or a sequence that ends in one."""
    weights: str | None = None
    """Member of torchvision's weights enum that `imagenet` stands for; none: weights must be a file."""
    file: str = ""
    """File name of these weights; the digits after its last dash begin the file's SHA-256."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the model's constructor."""
    last_map: str = ""
    """Module whose output (n, channel, y, x) is what is averaged to features: after the last convolution with its
    normalisation and activation. Empty where there is none, as in vision transformers."""


_ANY_SIZE: Mapping[str, Any] = MappingProxyType({"dynamic_img_size": True})
"""Vision transformers take words of any size; their position embeddings are interpolated."""

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "mnasnet1_0": Architecture(
            "classifier", "IMAGENET1K_V1", "mnasnet1.0_top1_73.512-f206786ef8.pth", last_map="layers"
        ),
        "mnasnet0_5": Architecture(
            "classifier", "IMAGENET1K_V1", "mnasnet0.5_top1_67.823-3ffadce67e.pth", last_map="layers"
        ),
        "resnet18": Architecture("fc", "IMAGENET1K_V1", "resnet18-f37072fd.pth", last_map="layer4"),
        "resnet50": Architecture("fc", "IMAGENET1K_V2", "resnet50-11ad3fa6.pth", last_map="layer4"),
        "efficientnet_b0": Architecture(
            "classifier", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", last_map="features"
        ),
        "convnext_tiny": Architecture("classifier", "IMAGENET1K_V1", "convnext_tiny-983f1562.pth", last_map="features"),
        "timm:resnet50": Architecture("fc", last_map="layer4"),
        "timm:convnext_base": Architecture("head.fc", last_map="stages"),
        "timm:swin_tiny_patch4_window7_224": Architecture("head.fc", options={"strict_img_size": False}),
        "timm:vit_small_patch16_224": Architecture("head", options=_ANY_SIZE),
        "timm:vit_base_patch16_224": Architecture("head", options=_ANY_SIZE),
        "timm:vit_large_patch16_224": Architecture("head", options=_ANY_SIZE),
        "timm:vit_large_patch16_224-layerscale": Architecture("head", options={**_ANY_SIZE, "init_values": 1e-5}),
    }
)
"""Networks that `embed.backbone` may name. Those of timm need the extra `timm`, and their weights are a file: many
published pathology encoders are such vision transformers (`-layerscale` adds the scales that DINOv2 trains)."""


@dataclass(frozen=True)
class Backbone:
    """A network that is ready to run, on its device, in evaluation mode."""

    name: str
    module: torch.nn.Module
    """Takes normalised float images (n, 3, h, w), returns features (n, width)."""
    width: int
    """Number of features an image, read from the model."""
    weights_name: str
    """`imagenet`, `random:SEED`, or the name of a file, without its folder."""
    weights_sha256: str
    """SHA-256 of the tensors that were loaded, see `state_digest`."""
    mean: Triple = IMAGENET_MEAN
    """Mean of R, G, B (0–1) that is taken off its input."""
    std: Triple = IMAGENET_STD
    """Standard deviation of R, G, B that its input is divided by."""

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.module.parameters()).device


# --- what is asked for: cheap, without PyTorch -------------------------------------------------------------
def architecture(name: str) -> Architecture:
    """The network called `name`; ConfigError with the known names when there is none."""
    if name not in ARCHITECTURES:
        raise ConfigError(f"embed.backbone: found {name!r}; expected one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def weights_identity(settings: EmbedSettings) -> str:
    """What tells these weights from all others, for fingerprints, without building the network.

    A file's is its SHA-256; torchvision's is the name of its file, which carries the beginning of the SHA-256; drawn
    weights' is the seed with the version of the recipe.

    Raises:
        ConfigError: an unknown backbone, a seed that is no number, or a file that is missing, too large, of another
            SHA-256 than expected, or a `.pth` file whose SHA-256 is not known.
    """
    known = architecture(settings.backbone)
    if settings.weights == "imagenet":
        if known.weights is None:
            raise ConfigError(
                f"embed.weights: found imagenet, but the weights of {settings.backbone} must be a file; set "
                "embed.weights to the path of a .safetensors or .pth file"
            )
        return f"torchvision:{known.file}"
    if settings.weights.startswith("random:"):
        return f"random:{_seed(settings.weights)}:scheme-{RANDOM_SCHEME}"
    path = Path(settings.weights)
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(
            f"embed.weights: found {settings.weights!r}, which is no readable file; "
            "expected `imagenet`, `random:SEED`, or the path of a .safetensors or .pth file"
        ) from error
    if status.st_size > MAX_WEIGHTS_BYTES:
        raise ConfigError(f"embed.weights: {path.name} has {status.st_size} bytes; at most {MAX_WEIGHTS_BYTES}")
    found = _file_sha256(path, status.st_size, status.st_mtime_ns)
    _check_file(path.name, found, settings)
    return found


def fetch_weights(settings: EmbedSettings) -> None:
    """Have torchvision's published weights on this machine, where these are the ones that are asked for.

    Raises:
        ConfigError: an unknown backbone.
        InputError: they are not here and cannot be fetched.
    """
    known = architecture(settings.backbone)
    if settings.weights == "imagenet" and known.weights is not None:
        _imagenet_file(known)


def _seed(weights: str) -> int:
    text = weights.removeprefix("random:")
    if not text.isdecimal():
        raise ConfigError(f"embed.weights: found {weights!r}; expected random: and a whole number, such as random:0")
    return int(text)


@functools.lru_cache(maxsize=8)
def _file_sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_file(name: str, found: str, settings: EmbedSettings) -> None:
    """A file must have the SHA-256 that is expected of it; `.pth` files must have one that is known.

    A file with the very name of torchvision's own counts as known: the beginning of its SHA-256 is part of the name.
    """
    suffix = Path(name).suffix
    if suffix not in {".safetensors", ".pth", ".pt"}:
        raise ConfigError(f"embed.weights: {name} is of an unknown kind; expected a .safetensors or .pth file")
    known = [entry.file for entry in ARCHITECTURES.values() if entry.file]
    expected = settings.weights_sha256.lower() if settings.weights_sha256 else ""
    if not expected and name in known:
        expected = _name_prefix(name)
    if not expected and suffix != ".safetensors":
        raise ConfigError(
            f"embed.weights: {name} is a .pth file without a known SHA-256; set embed.weights_sha256 to the one that "
            "its source publishes, or convert the file to .safetensors"
        )
    if settings.weights_sha256 and len(expected) != 64:
        raise ConfigError(f"embed.weights_sha256: found {len(expected)} characters; expected 64 hexadecimal digits")
    if not found.startswith(expected):
        raise ConfigError(
            f"embed.weights: {name} has SHA-256 {found}, expected {expected}; it is damaged or another file: "
            "fetch it again"
        )


def _name_prefix(file: str) -> str:
    return Path(file).stem.rpartition("-")[2]


# --- loading ------------------------------------------------------------------------------------------------
def resolve_device(wanted: Literal["auto", "cpu", "cuda"]) -> str:
    """`cpu` or `cuda`; `auto` takes CUDA where there is one. ConfigError where CUDA is asked for and missing."""
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError(
            "run.device: found cuda, but PyTorch sees no CUDA device here; set it, or --device, to auto or cpu"
        )
    return "cuda" if wanted != "cpu" and available else "cpu"


def load_backbone(settings: EmbedSettings, device: str = "cpu") -> Backbone:
    """The network of `settings` with its weights on `device`; loaded once in a process.

    Raises:
        ConfigError: as `weights_identity`.
        InputError: weights that cannot be had, or that do not fit the network.
    """
    return _load(settings, weights_identity(settings), device)


@functools.lru_cache(maxsize=2)
def _load(settings: EmbedSettings, identity: str, device: str) -> Backbone:
    import torch

    known = architecture(settings.backbone)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights from the global generator
        torch.manual_seed(0)  # what `randomise` leaves alone (position embeddings) is the same every time
        module = _construct(settings.backbone, known)
    head, width = _cut_head(module, known.head)
    if settings.weights.startswith("random:"):
        from .random_weights import randomise

        randomise(module, _seed(settings.weights))
        name = settings.weights
    else:
        path = _imagenet_file(known) if settings.weights == "imagenet" else Path(settings.weights)
        name = "imagenet" if settings.weights == "imagenet" else path.name
        _load_state(module, head, _read_state(path, settings, identity), path.name)
    digest = state_digest(module)
    module.eval().requires_grad_(False)
    fold_batch_norm(module)
    module.to(device=torch.device(device), memory_format=torch.channels_last)  # type: ignore[call-overload]  # stubs lack it
    own_mean, own_std = _input_statistics(settings.backbone)
    return Backbone(
        settings.backbone, module, width, name, digest, settings.input_mean or own_mean, settings.input_std or own_std
    )


def input_identity(settings: EmbedSettings) -> dict[str, Any]:
    """What of the input's mean and standard deviation tells features apart, for fingerprints; without timm.

    Empty where they are ImageNet's, as they are for networks of torchvision.
    """
    given = {"input_mean": settings.input_mean, "input_std": settings.input_std}
    values: dict[str, Any] = {name: list(value) for name, value in given.items() if value is not None}
    if len(values) < len(given) and _has_own_statistics(settings.backbone):
        values["input"] = "timm"
    return values


def _has_own_statistics(name: str) -> bool:
    """Whether timm publishes how the network's input is normalised; `-layerscale` is a shape of other people's
    encoders, whose weights timm does not have: ImageNet's are usual for them."""
    return name.startswith("timm:") and not name.endswith("-layerscale")


def _input_statistics(name: str) -> tuple[Triple, Triple]:
    """Mean and standard deviation that the network's input is normalised with, unless the settings say otherwise."""
    if not _has_own_statistics(name):
        return IMAGENET_MEAN, IMAGENET_STD
    from timm.models import get_pretrained_cfg

    published = get_pretrained_cfg(name.removeprefix("timm:"))
    if published is None:
        return IMAGENET_MEAN, IMAGENET_STD
    (red, green, blue), (red_std, green_std, blue_std) = published.mean, published.std
    return (red, green, blue), (red_std, green_std, blue_std)


def _construct(name: str, known: Architecture) -> torch.nn.Module:
    """The network without weights. ConfigError where timm is needed and missing."""
    module: torch.nn.Module
    if not name.startswith("timm:"):
        import torchvision

        module = torchvision.models.get_model(name, weights=None)
        return module
    try:
        import timm
    except ImportError as error:
        raise ConfigError(f"embed.backbone: {name} needs the package timm; install mumo with the extra timm") from error
    base = name.removeprefix("timm:").removesuffix("-layerscale")
    module = timm.create_model(base, pretrained=False, **known.options)
    return module


def _cut_head(module: torch.nn.Module, attribute: str) -> tuple[str, int]:
    """Replace the last linear layer by nothing; returns its name in the state dict, and the width before it."""
    import torch

    head: Any = module.get_submodule(attribute)
    if isinstance(head, torch.nn.Linear):
        module.set_submodule(attribute, torch.nn.Identity())
        return f"{attribute}.", head.in_features
    last = len(head) - 1
    width = int(head[last].in_features)
    head[last] = torch.nn.Identity()
    return f"{attribute}.{last}.", width


def _imagenet_file(known: Architecture) -> Path:
    """Torchvision's weights in its own cache, fetched there when they are missing; the SHA-256 is checked."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / known.file
    if path.exists():
        return path
    import torchvision

    name = next(name for name, entry in ARCHITECTURES.items() if entry == known)
    assert known.weights is not None
    url = torchvision.models.get_model_weights(name)[known.weights].url
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, os.fspath(path), hash_prefix=_name_prefix(known.file), progress=False)
    except (OSError, urllib.error.URLError, RuntimeError) as error:
        raise InputError(
            f"embed.weights: the ImageNet weights of {name} are not on this machine and cannot be fetched ({error}). "
            f"Where there is no network, bring the file {known.file} and set embed.weights to its path, or put it into "
            "torchvision's cache ($TORCH_HOME/hub/checkpoints); for a trial without any, set embed.weights=random:0"
        ) from error
    return path


def _read_state(path: Path, settings: EmbedSettings, identity: str) -> Mapping[str, torch.Tensor]:
    """The state dict of a file: the bytes that were hashed are the bytes that are read, and nothing in them runs."""
    import safetensors
    import safetensors.torch
    import torch

    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"embed.weights: {path.name} cannot be read: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    _check_file(path.name, found, settings)
    if settings.weights != "imagenet" and found != identity:
        raise InputError(f"embed.weights: {path.name} changed while it was read; run again when it is at rest")
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load(content)
        else:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"embed.weights: {path.name} holds no tensors that can be read: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(
            f"embed.weights: {path.name} must hold one tensor for each name of the network's state dict, nothing else"
        )
    return state


def _load_state(module: torch.nn.Module, head: str, state: Mapping[str, torch.Tensor], name: str) -> None:
    import torch

    wanted = {key: value for key, value in state.items() if not key.startswith(head)}
    own = module.state_dict()
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # only training reads them
    missing = sorted(own.keys() - wanted.keys() - counters)
    unknown = sorted(wanted.keys() - own.keys())
    unlike = sorted(key for key in own.keys() & wanted.keys() if own[key].shape != wanted[key].shape)
    if missing or unknown or unlike:
        raise InputError(
            f"embed.weights: {name} does not fit the network {type(module).__name__}: "
            f"{len(missing)} tensors missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}, "
            f"{len(unlike)} of another shape {unlike[:3]}; choose embed.backbone to match the file"
        )
    with torch.no_grad():
        for key, value in wanted.items():
            own[key].copy_(value)


def state_digest(module: torch.nn.Module) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes of each tensor of the state dict, in the order of names.

    Counters of training steps are left out: they change no output, and not every file has them.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name}\0{values.dtype}\0{tuple(values.shape)}\0".encode())
            digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def fold_batch_norm(module: torch.nn.Module) -> None:
    """Fold each batch normalisation that follows a convolution in a sequence into it: the same function, a third
    faster on a CPU. The module must be in evaluation mode."""
    import torch

    for sequence in [child for child in module.modules() if isinstance(child, torch.nn.Sequential)]:
        names = list(sequence._modules)
        for name, follower in itertools.pairwise(names):
            layer, norm = sequence._modules[name], sequence._modules[follower]
            if isinstance(layer, torch.nn.Conv2d) and isinstance(norm, torch.nn.BatchNorm2d):
                sequence._modules[name] = torch.nn.utils.fuse_conv_bn_eval(layer, norm)
                sequence._modules[follower] = torch.nn.Identity()


# --- images to features -------------------------------------------------------------------------------------
def image_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Images (n, h, w, 3) as a tensor on the CPU, in pinned memory when they are bound for CUDA."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor.pin_memory() if device.type == "cuda" else tensor


def image_statistics(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (1, 3, 1, 1) of the network's input, on its device."""
    import torch

    device = backbone.device
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (backbone.mean, backbone.std))
    return mean, std


def normalised(images: torch.Tensor, statistics: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Float images (n, 3, h, w) as the network takes them, of uint8 images (n, h, w, 3)."""
    mean, std = statistics
    moved = images.permute(0, 3, 1, 2)  # (n, 3, h, w), in memory still (n, h, w, 3): channels last
    return moved.float().div_(255).sub_(mean).div_(std)  # in place: three passes over memory less


def embed_images(backbone: Backbone, images: torch.Tensor, batch: int) -> npt.NDArray[np.float32]:
    """Features (n, width) of uint8 images (n, h, w, 3), `batch` of them at a time (fewer on a CPU when they are large).

    On CUDA in mixed precision (float16), on a CPU in float32. An image's features do not depend on its companions in
    the batch beyond rounding.
    """
    import torch

    device = backbone.device
    if device.type == "cpu":
        batch = max(1, min(batch, _CPU_BATCH_PIXELS // (images.shape[1] * images.shape[2])))
    statistics, results = image_statistics(backbone), []
    with torch.inference_mode(), torch.autocast("cuda", torch.float16, enabled=device.type == "cuda"):
        for start in range(0, len(images), batch):
            part = images[start : start + batch].to(device, non_blocking=True)
            results.append(backbone.module(normalised(part, statistics)).float())
        features: npt.NDArray[np.float32] = torch.cat(results).cpu().numpy()
    return features

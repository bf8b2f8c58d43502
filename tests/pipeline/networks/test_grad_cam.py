"""Grad-CAM against a naive one that differentiates the whole network, and what it is for an average image."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mumo.config import EmbedSettings
from mumo.errors import ConfigError
from mumo.pipeline.networks.backbone import (
    ARCHITECTURES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    embed_images,
    load_backbone,
)
from mumo.pipeline.networks.grad_cam import grad_cam

CONVOLUTIONAL = [name for name, known in ARCHITECTURES.items() if known.last_map and not name.startswith("timm:")]


def images(count: int = 2, px: int = 96) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, px, px, 3), dtype=np.uint8)


def naive(backbone: Backbone, image: NDArray[np.uint8], slope: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gradient-weighted maps by a forward and a backward hook on the layer, for the output slope · features."""
    seen: dict[str, torch.Tensor] = {}
    layer = backbone.module.get_submodule(ARCHITECTURES[backbone.name].last_map)
    forward = layer.register_forward_hook(lambda _m, _i, output: seen.update(activation=output.clone()))
    backward = layer.register_full_backward_hook(lambda _m, _i, gradients: seen.update(gradient=gradients[0].clone()))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    tensor = (tensor - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)
    tensor.requires_grad_()
    (backbone.module(tensor)[0].double() @ torch.from_numpy(slope)).backward()
    forward.remove()
    backward.remove()
    activation, gradient = seen["activation"].detach()[0].double(), seen["gradient"][0].double()
    out = torch.zeros(activation.shape[1:], dtype=torch.float64)
    for channel in range(len(activation)):
        out += gradient[channel].mean() * activation[channel]
    return out.numpy()


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_grad_cam__equals_a_naive_one_with_hooks(name: str) -> None:
    backbone = load_backbone(EmbedSettings(backbone=name, weights="random:1"))
    slopes = np.random.default_rng(1).normal(size=(2, backbone.width))
    found = grad_cam(backbone, images(), slopes)
    assert found.shape == (2, 3, 3)
    for image, slope, cam in zip(images(), slopes, found, strict=True):
        expected = naive(backbone, image, slope)
        assert cam == pytest.approx(expected, rel=1e-3, abs=1e-4 * float(np.abs(expected).max()))


def test_grad_cam__sums_to_what_the_slope_makes_of_the_features() -> None:
    """Features are means of the maps, so the maps add up to slope · features: the map leaves nothing out."""
    backbone = load_backbone(EmbedSettings(weights="random:0"))
    slopes = np.random.default_rng(2).normal(size=(2, backbone.width))
    features = embed_images(backbone, torch.from_numpy(images()), 2).astype(np.float64)
    maps = grad_cam(backbone, images(), slopes)
    assert maps.sum(axis=(1, 2)) == pytest.approx((slopes * features).sum(axis=1), rel=1e-4)
    centred = grad_cam(backbone, images(), slopes, features.mean(axis=0))
    expected = (slopes * (features - features.mean(axis=0))).sum(axis=1)
    assert centred.sum(axis=(1, 2)) == pytest.approx(expected, rel=1e-3)
    assert np.ptp(centred - maps, axis=(1, 2)) == pytest.approx([0, 0], abs=1e-9)


def test_grad_cam__leaves_no_hook_behind() -> None:
    backbone = load_backbone(EmbedSettings(weights="random:0"))
    before = embed_images(backbone, torch.from_numpy(images()), 2)
    grad_cam(backbone, images(), np.ones((2, backbone.width)))
    assert not any(module._forward_hooks for module in backbone.module.modules())
    assert (embed_images(backbone, torch.from_numpy(images()), 2) == before).all()


def test_grad_cam__of_no_lesions_is_no_map() -> None:
    backbone = load_backbone(EmbedSettings(weights="random:0"))
    assert len(grad_cam(backbone, images(0), np.zeros((0, backbone.width)))) == 0


def test_grad_cam__refuses_a_network_without_convolutions_at_its_end() -> None:
    backbone = dataclasses.replace(load_backbone(EmbedSettings(weights="random:0")), name="timm:vit_small_patch16_224")
    with pytest.raises(ConfigError, match="timm:vit_small_patch16_224 does not end in a convolution"):
        grad_cam(backbone, images(), np.ones((2, 1280)))

"""Weights drawn from a seed, for demonstrations and tests: untrained, yet features that carry the image.

With torchvision's own initial weights an untrained MnasNet is useless: depthwise filters are scaled by the fan-out of
all channels, so that activations shrink to zero over seventeen blocks. The recipe here keeps them alive without any
data: filters of unit gain; pointwise filters that sum to zero, which stops all images from drifting to one direction
(the mean of rectified inputs is common to all); depthwise filters with a stressed centre, which keeps colours; quiet
residual branches. A linear probe recovers mean colour (R² about 0.8) and contrast (about 0.65) of random textures.
Numbers come from NumPy's generator, in float64, so that a seed means the same weights on every machine.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

_RESIDUAL_GAIN = 0.25
_OPEN_GATE = 4.0
"""Bias of channel gates (EfficientNet): sigmoid(4) = 0.98; a gate at one half would halve the signal in every block."""
_RECTIFIED_GAIN = math.sqrt(1 / (0.5 - 0.5 / math.pi))
"""1 / standard deviation of a rectified standard normal variable: gain of a zero-sum filter behind a ReLU."""


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Set every parameter of a torchvision network from `seed`, in place; global random state is not touched."""
    import torch

    generator = np.random.Generator(np.random.PCG64(seed))
    child: Any  # torchvision's layers are known by their attributes
    for child in module.modules():
        if isinstance(child, torch.nn.Conv2d):
            _fill(child.weight, _filters(child, generator))
            if child.bias is not None:
                torch.nn.init.zeros_(child.bias)
        elif isinstance(child, torch.nn.Linear):
            values = generator.standard_normal(tuple(child.weight.shape)) / math.sqrt(child.in_features)
            _fill(child.weight, values)
            if child.bias is not None:
                torch.nn.init.zeros_(child.bias)
        elif hasattr(child, "layer_scale"):  # ConvNeXt's residual branches
            torch.nn.init.constant_(child.layer_scale, _RESIDUAL_GAIN)
    for child in module.modules():
        if type(child).__name__ == "SqueezeExcitation":
            torch.nn.init.constant_(child.fc2.bias, _OPEN_GATE)
    for norm in _last_norms(module):
        torch.nn.init.constant_(norm.weight, _RESIDUAL_GAIN)


def _filters(layer: torch.nn.Conv2d, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    values = generator.standard_normal(tuple(layer.weight.shape))  # (out, in / groups, h, w)
    inputs, height, width = values.shape[1:]
    if layer.groups > 1:
        values[:, :, height // 2, width // 2] += height
        gain = math.sqrt(2.0)
    elif inputs <= 3:
        gain = 1.0
    else:
        values -= values.mean(axis=(1, 2, 3), keepdims=True)
        # Layers that widen come first in an inverted residual and have linear inputs; the others follow a ReLU.
        gain = 1.0 if layer.out_channels > layer.in_channels else _RECTIFIED_GAIN
    norm = np.sqrt((values**2).sum(axis=(1, 2, 3), keepdims=True))
    return np.asarray(values / norm * gain, dtype=np.float64)


def _fill(parameter: torch.Tensor, values: npt.NDArray[np.float64]) -> None:
    import torch

    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))


def _last_norms(module: torch.nn.Module) -> list[Any]:
    """The last normalisation of each residual branch of the networks in the registry."""
    norms: list[Any] = []
    child: Any
    for child in module.modules():
        kind = type(child).__name__
        if kind == "_InvertedResidual" and child.apply_residual:
            norms.append(child.layers[-1])
        elif kind == "MBConv" and child.use_res_connect:
            norms.append(child.block[-1][1])
        elif kind == "Bottleneck" and hasattr(child, "bn3"):
            norms.append(child.bn3)
        elif kind == "BasicBlock":
            norms.append(child.bn2)
    return norms

"""Grad-CAM through a backbone: where in an image lies what a trained head makes of its features.

Selvaraju et al. (2017): the maps of the last convolution, each weighted by the mean of the output's gradient over the
map, and summed. The head stays outside: it says how the output changes with the features (a gradient), the backbone
carries that back to its maps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...errors import ConfigError
from .backbone import Backbone, architecture, image_statistics, normalised

if TYPE_CHECKING:
    import torch


def grad_cam(
    backbone: Backbone,
    images: npt.NDArray[np.uint8],
    slopes: npt.NDArray[np.float64],
    average: npt.NDArray[np.float64] | None = None,
) -> npt.NDArray[np.float64]:
    """Signed maps (n, y, x) of images (n, h, w, 3), as fine as the backbone's last convolution (h / 32 for MnasNet).

    Positive where the image raises the output, negative where it lowers it; the usual Grad-CAM is the positive part.

    Args:
        slopes: (n, width) gradient of the output by each image's features.
        average: (width,) features of an average image. Given these, a map is 0 where the image is like the average:
            what its features would make of the output is taken off, evenly over the map. Without it, what is common to
            all images (activations are positive) hides what is particular to one. For backbones whose features are
            the plain means of their last maps.

    Raises:
        ConfigError: a backbone without convolutions at its end.
    """
    import torch

    known = architecture(backbone.name)
    if not known.last_map:
        raise ConfigError(
            f"embed.backbone: {backbone.name} does not end in a convolution, so there is no Grad-CAM through it; "
            "leave it out with --no-grad-cam"
        )
    kept: list[torch.Tensor] = []

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        # what follows works on a copy, as it may change its input in place
        kept.append(output.detach().requires_grad_())
        return kept[-1].clone()

    hook = backbone.module.get_submodule(known.last_map).register_forward_hook(keep)
    maps, statistics = [], image_statistics(backbone)
    try:
        for image, slope in zip(images, slopes, strict=True):
            kept.clear()
            tensor = torch.from_numpy(np.ascontiguousarray(image[None])).to(backbone.device)
            with torch.enable_grad():
                features = backbone.module(normalised(tensor, statistics))  # (1, width)
                weighted = torch.from_numpy(slope[None]).to(features)
                (gradient,) = torch.autograd.grad(features, kept[0], grad_outputs=weighted)  # (1, channel, y, x)
            weights = gradient.mean(dim=(2, 3), keepdim=True)
            drawn = (weights * kept[0].detach()).sum(dim=1)[0].double().cpu().numpy()
            common = 0.0 if average is None else float(slope @ average) / drawn.size
            maps.append(drawn - common)
    finally:
        hook.remove()
    return np.stack(maps) if maps else np.zeros((0, 0, 0))

"""A backbone that has learnt something: MnasNet 1.0 whose last stages are trained on images of other made-up patients.

ImageNet's weights have to be fetched; these are made on the spot. Everything up to 1/16 of the image's size keeps the
weights that `random:0` draws, what follows learns to tell lesions of those who look like responders from others, or
words in hot spots from other words. A network with the plain means of its last maps, trained so, keeps things in their
place without being told where they are (Zhou et al. 2016), which drawn weights do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import mnasnet1_0

from mumo.config import RoisSettings, TilesSettings
from mumo.pipeline.networks.backbone import IMAGENET_MEAN, IMAGENET_STD
from mumo.pipeline.networks.random_weights import randomise
from mumo.pipeline.radiology.crops import crop_planes, draw_view, neighbouring_slices, windowed
from mumo.pipeline.synthetic.anatomy import CENTRE_OFFSET_HU, render_volume
from mumo.pipeline.synthetic.ct import lesion_boxes_mm
from mumo.pipeline.synthetic.plan import ImagingSource, plan_cohort
from mumo.pipeline.synthetic.slides import draw_outline, draw_spot, render_slide
from mumo.pipeline.synthetic.spots import frame_of_box

WINDOW_HU = (0.0, 150.0)
"""Above the offset of the centre's scanner: about what the windows of the cohort come to."""
FROZEN = 12
"""The first modules of MnasNet's `layers`, which keep the drawn weights: down to 96 maps of 14 × 14 for 224 px."""
BATCH = 32
BACKGROUND = 215
"""Mean of words with less tissue than that to be learnt from."""
OTHER_PATIENTS: Mapping[ImagingSource, int] = {"slides": 30, "ct": 150}
EPOCHS: Mapping[ImagingSource, int] = {"slides": 6, "ct": 4}
OTHER_SEED = 1000
"""Of the cohorts that the backbone is trained on, and of the training."""


def lesion_images(patients: int, seed: int, rois: RoisSettings) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Crops (n, y, x, 3) of lesions in loose boxes, all views of each, and whether the patient looks like a responder.

    Straight from rendered volumes, without files.
    """
    plan = plan_cohort(patients, seed, signal=True, hot_spots=("ct",))
    looks = {person.patient: person.appearance for person in plan.patients}
    images, labels = [], []
    for study in plan.ct:
        volume = render_volume(study, seed)
        ((name, box),) = lesion_boxes_mm(study, volume, seed).items()
        widest = int((volume.labels == 1).sum(axis=(1, 2)).argmax())
        slices, _ = neighbouring_slices(widest, len(volume.hu))
        low, high = (edge + CENTRE_OFFSET_HU[study.centre] for edge in WINDOW_HU)
        planes = windowed(volume.hu[list(slices)], low, high)
        frame, spacing = frame_of_box(volume, box, rois)
        for number in range(rois.views + 1):
            view = draw_view(study.patient, name, number, rois)
            images.append(np.moveaxis(crop_planes(planes, frame, view, spacing, rois.crop_px), 0, -1))
            labels.append(looks[study.patient])
    return np.stack(images), np.array(labels)


def word_images(patients: int, seed: int, tiles: TilesSettings) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Words (n, y, x, 3) of slides with hot spots, and whether they lie in one; twice as many that do not."""
    plan, side = plan_cohort(patients, seed, signal=True, hot_spots=("slides",)), tiles.word_px
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for slide in plan.slides:
        spot = draw_spot(slide, draw_outline(slide, seed)[0], seed)
        if spot is None:
            continue
        pixels = render_slide(slide, seed).pixels
        rows, columns = pixels.shape[0] // side, pixels.shape[1] // side
        words = pixels[: rows * side, : columns * side].reshape(rows, side, columns, side, 3).swapaxes(1, 2)
        words = words.reshape(-1, side, side, 3)
        y_um, x_um = ((place.ravel() + 0.5) * side * slide.mpp for place in np.indices((rows, columns)))
        inside = np.hypot(x_um - spot.x_um, y_um - spot.y_um) < spot.radius_um
        tissue = words.mean(axis=(1, 2, 3)) < BACKGROUND
        there = np.flatnonzero(inside & tissue)
        elsewhere = rng.permutation(np.flatnonzero(~inside & tissue))[: 2 * len(there)]
        images += [words[there], words[elsewhere]]
        labels += [np.ones(len(there), np.int64), np.zeros(len(elsewhere), np.int64)]
    return np.concatenate(images), np.concatenate(labels)


def write_trained_backbone(
    file: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], epochs: int, seed: int = OTHER_SEED
) -> float:
    """Train and write weights of `mnasnet1_0` as safetensors; returns the loss of the last epoch (cross-entropy).

    The same arguments give the same weights on the same machine.

    Args:
        images: (n, y, x, 3).
        labels: (n,) 0 or 1.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = mnasnet1_0(weights=None, num_classes=2)
        randomise(network, 0)
        maps = _maps(network.layers[:FROZEN].eval(), images)
        loss = _train(network.layers[FROZEN:], network.classifier[-1], maps, torch.from_numpy(labels), epochs)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    return loss


@torch.no_grad()
def _maps(trunk: nn.Module, images: npt.NDArray[np.uint8]) -> Tensor:
    """(n, channel, y, x) of images (n, y, x, 3); they are the same in every epoch."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    parts = [torch.from_numpy(images[at : at + BATCH]).permute(0, 3, 1, 2) for at in range(0, len(images), BATCH)]
    return torch.cat([trunk((part.float() / 255 - mean) / std) for part in parts])


def _train(stages: nn.Module, classifier: nn.Linear, maps: Tensor, labels: Tensor, epochs: int) -> float:
    """Train stages and classifier in place."""
    for norm in stages.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 0.05  # torchvision's 0.0003 is for millions of steps
    optimizer = torch.optim.AdamW([*stages.parameters(), *classifier.parameters()], 1e-3, weight_decay=1e-2)
    stages.train()
    mean = float("nan")
    for _ in range(epochs):
        losses = []
        for chosen in torch.randperm(len(maps)).split(BATCH):
            if len(chosen) < BATCH:
                continue  # statistics of a handful would disturb the normalisation
            optimizer.zero_grad()
            output = classifier(stages(maps[chosen]).mean((2, 3)))
            loss = nn.functional.cross_entropy(output, labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean = float(np.mean(losses))
    stages.eval()
    return mean

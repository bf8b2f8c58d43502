"""Smooth random fields for synthetic tissue and CT."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Field = npt.NDArray[np.float32]


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], wavelength_px: float) -> Field:
    """Random field (height, width) with mean about 0 and standard deviation about 1.

    White noise on a grid of half the wavelength, interpolated with cubic splines.
    """
    height, width = shape
    step = max(1.0, wavelength_px / 2)
    # Three points more than fit, and a shift of the window, hide the grid's edges.
    grid = rng.normal(size=(int(height / step) + 4, int(width / step) + 4)).astype(np.float32)
    left, top = rng.uniform(0.5, 1.5, size=2)
    box = (left, top, left + width / step, top + height / step)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC, box=box)
    field = np.asarray(image, dtype=np.float32)
    spread = float(field.std()) or 1.0
    return (field - float(field.mean())) / np.float32(spread)


def soft_step(field: npt.NDArray[Any], sharpness: float) -> Field:
    """0 far below zero, 1 far above, linear between ±1/(2 × sharpness)."""
    step: Field = np.clip(field * np.float32(sharpness) + np.float32(0.5), 0, 1).astype(np.float32, copy=False)
    return step

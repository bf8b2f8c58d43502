"""Another annotator, simulated: the random draws that outlines and boxes are moved by."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Variation:
    """How another annotator is simulated."""

    seed: int
    number: int
    """Which annotator: those of the same seed with other numbers are drawn independently."""
    share: float
    """Standard deviation of the moves, as a share of the size of what is outlined."""

    def draws(self, *place: str | int) -> np.random.Generator:
        """Random numbers that depend on this annotator and `place` (ids) alone, not on other items."""
        key = json.dumps([self.seed, self.number, *place]).encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))

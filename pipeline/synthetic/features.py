"""A cohort of cached features with a planted signal, for questions that need many patients and no images.

Response depends on three hidden numbers of a patient that know nothing of each other: one shows in the slides, one in
the CT, one in reports and patient information. So each modality can find its own third of the signal, and only all of
them together can find the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...config import LESION_TYPES, REGION_CLASSES
from ...stores.packed import MODALITIES, TIME_CLASSES, CodeItem, Codes, Packed, Units

Floats = npt.NDArray[np.floating[Any]]

ITEMS: dict[str, tuple[int, ...]] = {
    "pathology_report": (10, 4),
    "radiology_report": (2, 7),
    "patient_information": (2, 3, 4),
}
"""Group → number of classes of its items; those of patient information show the hidden number."""


@dataclass(frozen=True)
class Plan:
    """What the cohort is like."""

    patients: int = 1000
    signal: float = 2.0
    """Log odds of response for one standard deviation of a hidden number; 0: no signal."""
    missing: float = 0.3
    """Share of patients without slides, and, drawn apart, without CT."""
    width: int = 32
    """Numbers in a deep feature vector."""
    words: int = 4
    bags: tuple[int, int] = (2, 5)
    """Fewest and most bags of a patient."""
    lesions: tuple[int, int] = (1, 4)
    views: int = 3
    omics: int = 12
    strength: float = 0.7
    """Size of a hidden number in each of the features that show it, whose noise has size 1."""


@dataclass(frozen=True, eq=False)
class FeatureCohort:
    """The cohort, and what is hidden in it."""

    packed: Packed
    hidden: Mapping[str, Floats]
    """`pathology`, `radiology`, `clinical` → [patient]."""
    log_odds: Floats
    """[patient] true log odds of response from all three."""


def feature_cohort(plan: Plan, seed: int) -> FeatureCohort:
    """Draw a cohort. Labels, survival, features, omics and codes; slides or CT are missing at random."""
    # a stream of its own, so that cohort and split of the same seed share no random numbers
    rng = np.random.default_rng([seed, 1000])
    hidden = {name: rng.normal(size=plan.patients) for name in (*MODALITIES, "clinical")}
    log_odds = plan.signal * sum(hidden.values(), start=np.zeros(plan.patients))
    labels = (rng.random(plan.patients) < 1 / (1 + np.exp(-log_odds))).astype("int8")
    time = rng.exponential(400 * np.exp(log_odds / 3))
    censored = rng.exponential(1200, plan.patients)
    days = np.ceil(np.minimum(time, censored))
    events = (time <= censored).astype("int8")
    sizes = {"pathology": (plan.bags, plan.words), "radiology": (plan.lesions, plan.views)}
    packed = Packed(
        key="0" * 64,
        patients=tuple(f"F{number:05d}" for number in range(plan.patients)),
        centres=tuple("AB"[number] for number in rng.integers(0, 2, plan.patients)),
        labels=labels,
        days={"pfs": days, "os": days},
        events={"pfs": events, "os": events},
        units={name: _units(rng, plan, name, hidden[name], *sizes[name]) for name in MODALITIES},
        times={
            name: np.eye(TIME_CLASSES, dtype="float32")[rng.integers(0, TIME_CLASSES, plan.patients)]
            for name in MODALITIES
        },
        codes={group: _codes(rng, group, widths, hidden["clinical"]) for group, widths in ITEMS.items()},
        weights="random:0",
        weights_sha256="0" * 64,
        windows_digest="",
    )
    return FeatureCohort(packed, hidden, log_odds)


def _units(
    rng: np.random.Generator, plan: Plan, modality: str, hidden: Floats, span: tuple[int, int], middle: int
) -> Units:
    has = rng.random(plan.patients) >= plan.missing
    counts = np.where(has, rng.integers(span[0], span[1] + 1, plan.patients), 0)
    own = np.repeat(hidden, counts)
    total, words = len(own), modality == "pathology"
    features = rng.normal(size=(total, middle, plan.width))
    features[:, :, : plan.width // 4] += plan.strength * own[:, None, None]
    omics = rng.normal(size=(total, plan.omics)).astype("float32")
    omics[:, : plan.omics // 4] += plan.strength * own[:, None]
    return Units(
        features=features.astype("float16"),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype("int64"),
        classes=rng.integers(0, REGION_CLASSES if words else len(LESION_TYPES), total).astype("int8"),
        word_classes=rng.integers(0, REGION_CLASSES, (total, middle if words else 0)).astype("int8"),
        omics=omics,
        omics_known=np.ones(total, dtype=bool),
        sources=np.full(total, f"{modality}-synthetic"),
        names=np.arange(total).astype(str),
        omics_columns=tuple(f"feature_{number}" for number in range(plan.omics)),
    )


def _codes(rng: np.random.Generator, group: str, widths: tuple[int, ...], hidden: Floats) -> Codes:
    """One-hot items; each is unknown for a tenth of the patients."""
    blocks = []
    for classes in widths:
        chosen = rng.integers(0, classes, len(hidden))
        if group == "patient_information":
            noisy = hidden + 0.5 * rng.normal(size=len(hidden))
            edges = np.quantile(noisy, np.arange(1, classes) / classes)
            chosen = np.searchsorted(edges, noisy)
        block = np.eye(classes, dtype="float32")[chosen]
        block[rng.random(len(hidden)) < 0.1] = 0
        blocks.append(block)
    items = tuple(CodeItem(f"item_{n}", tuple(f"class {c}" for c in range(w))) for n, w in enumerate(widths))
    return Codes(items, np.concatenate(blocks, axis=1))

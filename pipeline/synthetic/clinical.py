"""Clinical items and reports of synthetic patients, in mumo's own words.

The clinical score shows in tumour-infiltrating lymphocytes, the share of area at HER2 3+, lymph nodes, the line of
therapy and the number of sites of disease, each with noise of its own; the other items are independent of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .plan import CtPlan, PatientPlan, stream

PATHOLOGY_FIELDS = ("tils", "tumour_proportion", "her2_heterogeneity")
RADIOLOGY_FIELDS = (
    "primary_present",
    "peritoneal_metastasis",
    "gastrectomy",
    "metastatic_lesions",
    "lymph_nodes",
    "lymph_node_sites",
    "multiple_metastases",
)

_MISSING_ITEM = 0.08
"""Chance that a single item of a report that exists is unknown."""
_DISEASE_SITES = 13


def draw_information(person: PatientPlan, seed: int) -> dict[str, str]:
    """General information: field → word, empty when unknown."""
    rng = stream(seed, "information", int(person.patient[1:]))
    score = person.scores["clinical"]
    spread = 1 + int(rng.binomial(6, _sigmoid(-0.8 - 0.7 * score)))
    sites = np.zeros(_DISEASE_SITES, dtype=int)
    sites[rng.choice(_DISEASE_SITES, size=spread, replace=False)] = 1
    year = int(rng.integers(2007, 2024))
    first_line = rng.random() < _sigmoid(1.0 + 0.9 * score)
    with_slides, with_ct = person.pattern in ("both", "pathology"), person.pattern in ("both", "radiology")
    items = {
        "sex": "male" if rng.random() < 0.75 else "female",
        "age": str(int(np.clip(rng.normal(61, 10), 25, 88))),
        "site": "GEJ" if rng.random() < 0.3 else "non-GEJ",
        "line": "first" if first_line else "later",
        # One centre keeps dates, the other only years.
        "start_year": f"{year}-{rng.integers(1, 13):02d}-{rng.integers(1, 28):02d}"
        if person.centre == "A"
        else str(year),
        "differentiation": _choose(rng, {"poor": 0.45, "moderate": 0.42, "well": 0.06, "diffuse": 0.07}),
        "lauren": _choose(rng, {"intestinal": 0.65, "diffuse": 0.15, "mixed": 0.2}),
        "disease_sites": "".join(map(str, sites)),
        "pathology_time": _choose(rng, {"0": 0.7, "1": 0.25, "2": 0.05}) if with_slides else "",
        "radiology_time": _choose(rng, {"0": 0.1, "1": 0.85, "2": 0.05}) if with_ct else "",
    }
    return _lose_items(rng, items, keep=("sex", "pathology_time", "radiology_time"))


def draw_pathology_report(person: PatientPlan, seed: int) -> dict[str, str] | None:
    """Items of the pathology report, or none for a patient without one."""
    rng = stream(seed, "pathology report", int(person.patient[1:]))
    if rng.random() > (0.88 if person.pattern in ("both", "pathology") else 0.15):
        return None
    score = person.scores["clinical"]
    positive_share = round(_sigmoid(0.7 + 0.9 * score + 0.9 * float(rng.normal())), 1)
    items = {
        "tils": f"{round(_sigmoid(-0.3 + 0.8 * score + 0.6 * float(rng.normal())) * 20) / 20:g}",
        "tumour_proportion": f"{round(float(rng.beta(4, 2.5)) * 20) / 20:g}",
        "her2_heterogeneity": _heterogeneity(rng, positive_share),
    }
    return _lose_items(rng, items)


def _heterogeneity(rng: np.random.Generator, positive_share: float) -> str:
    """Notation of the published table: shares of area at each HER2 level."""
    percent = round(100 * positive_share)
    other = int(rng.choice([0, 1, 2], p=[0.25, 0.2, 0.55]))
    if percent in (0, 100):
        return f"none（all{3 if percent else other}+）"
    return f"heterogeneity（3+{percent}%，{other}+{100 - percent}%）"


def draw_radiology_report(person: PatientPlan, studies: Sequence[CtPlan], seed: int) -> dict[str, str] | None:
    """Items of the radiology report, or none for a patient without one; agrees with the lesions in the CT."""
    rng = stream(seed, "radiology report", int(person.patient[1:]))
    if rng.random() > (0.9 if person.pattern in ("both", "radiology") else 0.15):
        return None
    lesions = [lesion.lesion_type for study in studies if study.patient == person.patient for lesion in study.lesions]
    primary = "stomach" in lesions or rng.random() < 0.7
    burden = -0.8 * person.scores["clinical"] + float(rng.normal())
    nodes = "none" if burden < -1.0 else "separate" if burden < 0.7 else "fused"
    if nodes == "none" and "lymph node" in lesions:
        nodes = "separate"
    places = sorted(rng.choice([1, 2, 3, 4], size=int(rng.integers(1, 4)), replace=False, p=[0.5, 0.3, 0.15, 0.05]))
    metastases = sum(lesion != "stomach" for lesion in lesions) + int(rng.integers(0, 3))
    items = {
        "primary_present": "yes" if primary else "no",
        "peritoneal_metastasis": "yes" if "peritoneum" in lesions or rng.random() < 0.15 else "no",
        "gastrectomy": "no" if primary or rng.random() < 0.3 else "yes",
        "metastatic_lesions": str(min(metastases, 6)),
        "lymph_nodes": nodes,
        "lymph_node_sites": "0" if nodes == "none" else "".join(map(str, places)),
        "multiple_metastases": _choose(rng, {"none": 0.6, "liver": 0.27, "lung": 0.08, "both": 0.05}),
    }
    return _lose_items(rng, items)


def _lose_items(rng: np.random.Generator, items: dict[str, str], keep: Sequence[str] = ()) -> dict[str, str]:
    return {field: word if field in keep or rng.random() >= _MISSING_ITEM else "" for field, word in items.items()}


def _choose(rng: np.random.Generator, shares: dict[str, float]) -> str:
    return str(rng.choice(list(shares), p=list(shares.values())))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))

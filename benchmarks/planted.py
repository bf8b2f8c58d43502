"""Cohorts of 1,000 patients with a planted signal, and without: does MuMo find what is there, and nothing else?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from mumo.config import FitSettings, ModelSettings, Settings, SplitSettings
from mumo.fusion import metrics, train
from mumo.fusion.predict import score
from mumo.fusion.splits import draw_folds, draw_split
from mumo.pipeline.synthetic.features import FeatureCohort, Plan, feature_cohort

EPOCHS = 12
SEEDS = 100
NONE = {"modalities": (), "reports": False, "patient_information": False}


def settings(model: dict[str, Any], seed: int = 0) -> Settings:
    """Small and quick: a third of the patients held out."""
    return Settings(
        model=ModelSettings(**{"width": 32, "heads": 2, "feed_forward": 32, "dropout": 0.2, **model}),
        fit=FitSettings(
            epochs=EPOCHS, bags_per_patient=2, lesions_per_patient=2, learning_rate=2e-3, average_best=3, seed=seed,
            batch_patients=64, split=SplitSettings(test=0.34, validation=0.16, seed=seed),
        ),
    )  # fmt: skip


def held_out(cohort: FeatureCohort, chosen: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Held-out patients (indices), their labels, what the trained model says of them, and its AUC on validation."""
    prepared = train.prepare(cohort.packed, chosen)
    trained = train.train(prepared, chosen, device=torch.device("cpu"))
    patients = prepared.patients("test")
    scores = score(trained.model, prepared.dataset, patients, device=torch.device("cpu"), size=64)
    return patients, cohort.packed.labels[patients].astype(float), scores.probability, trained.averaged["auc"]


def interval(labels: np.ndarray, probability: np.ndarray) -> str:
    """AUC with DeLong's interval."""
    found = metrics.auc_delong(labels, probability)
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def ordering(cohort: FeatureCohort) -> dict[str, float]:
    """Print and return the AUC of what each model may read, and of the truth itself."""
    found = {}
    variants: dict[str, dict[str, Any]] = {
        "full": {},
        "pathology only": {**NONE, "modalities": ("pathology",)},
        "radiology only": {**NONE, "modalities": ("radiology",)},
        "patient information only": {**NONE, "patient_information": True},
        "none": NONE,
    }
    for name, model in variants.items():
        patients, labels, probability, _ = held_out(cohort, settings(model))
        found[name] = metrics.auc(labels, probability)
        print(f"planted signal, {name}: AUC {interval(labels, probability)}")
        if name == "full":
            have = np.array(cohort.packed.modalities)[patients]
            for pattern in ("both", "pathology", "radiology", "none"):
                own = have == pattern
                print(f"  patients with images of {pattern} ({own.sum()}): {interval(labels[own], probability[own])}")
                found[f"with {pattern}"] = metrics.auc(labels[own], probability[own])
            print(f"  the true log odds: {interval(labels, cohort.log_odds[patients])}")
    return found


def no_signal(seeds: int) -> tuple[int, np.ndarray, np.ndarray]:
    """How many 95 % intervals hold 0.5, over cohorts without a signal; the AUCs of test, and those of validation."""
    inside, test, validation = 0, [], []
    for seed in range(seeds):
        _, labels, probability, chosen = held_out(feature_cohort(Plan(signal=0.0), seed), settings({}, seed))
        found = metrics.auc_delong(labels, probability)
        inside += found.low <= 0.5 <= found.high
        test.append(found.value)
        validation.append(chosen)
    return inside, np.array(test), np.array(validation)


def leak(patients: int, cohorts: int) -> dict[str, np.ndarray]:
    """AUCs of the training patients' response rate by pattern of imaging, on held-out patients without any signal.

    Strata of the split → [cohort]; and of five folds by label `pooled` and `within folds`.
    """
    found: dict[str, list[float]] = {}
    for seed in range(cohorts):
        rng = np.random.default_rng([seed, 77])
        labels = rng.integers(0, 2, patients)
        pattern = rng.choice(4, patients, p=[0.49, 0.21, 0.21, 0.09])
        centre = rng.integers(0, 2, patients)
        names = [f"P{number}" for number in range(patients)]
        strata = {
            "label × imaging × centre": (labels, pattern, centre),
            "imaging × centre": (pattern, centre),
            "label": (labels,),
            "none": (np.zeros(patients),),
        }
        for kind, fields in strata.items():
            split = draw_split(
                names, list(zip(*fields, strict=True)), SplitSettings(test=0.34, validation=0.16, seed=seed)
            )
            train_part, test = (split.indices(names, part) for part in ("train", "test"))
            rates = response_rates(labels[train_part], pattern[train_part])
            found.setdefault(kind, []).append(metrics.auc(labels[test].astype(float), rates[pattern[test]]))
        dealt = draw_folds(names, list(zip(labels, strict=True)), 5, seed)
        folds = np.array([dealt[name] for name in names])
        scores = np.empty(patients)
        for fold in np.unique(folds):
            here = folds == fold
            scores[here] = response_rates(labels[~here], pattern[~here])[pattern[here]]
        found.setdefault("folds, pooled", []).append(metrics.auc(labels.astype(float), scores))
        found.setdefault("folds, within", []).append(metrics.auc_within(labels.astype(float), scores, folds).value)
    return {kind: np.array(values) for kind, values in found.items()}


def response_rates(labels: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """[pattern] share of responders; one half where nobody has the pattern."""
    counts = np.bincount(pattern, minlength=4)
    return np.divide(np.bincount(pattern, labels, minlength=4), counts, out=np.full(4, 0.5), where=counts > 0)


def mean(values: np.ndarray) -> str:
    """Mean and standard error."""
    return f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def main() -> None:
    """Print the figures."""
    began = time.perf_counter()
    for patients in (1000, 271):
        for kind, values in leak(patients, 500).items():
            print(f"no signal, {patients} patients, response rate by pattern of imaging, {kind}: AUC {mean(values)}")
    ordering(feature_cohort(Plan(), 0))
    inside, test, validation = no_signal(SEEDS)
    print(
        f"no signal, {SEEDS} cohorts: the 95 % interval of the test patients holds 0.5 in {inside}; mean AUC ± its "
        f"standard error {mean(test)}, of the validation patients, who choose the epochs, {mean(validation)}; "
        f"all {time.perf_counter() - began:.0f} s"
    )

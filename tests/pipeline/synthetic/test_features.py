"""The cohort of cached features: what is planted is there, in its own modality and in no other."""

from __future__ import annotations

import numpy as np
import pytest

from mumo.pipeline.synthetic.features import FeatureCohort, Plan, feature_cohort


def means(cohort: FeatureCohort, modality: str) -> tuple[np.ndarray, np.ndarray]:
    """Patients with images, and the mean of the features that show the hidden number."""
    units = cohort.packed.units[modality]
    own = units.features[:, :, : units.features.shape[2] // 4].astype(float).mean(axis=(1, 2))
    have = np.flatnonzero(units.counts)
    return have, np.array([own[units.offsets[p] : units.offsets[p + 1]].mean() for p in have])


@pytest.mark.parametrize("modality", ["pathology", "radiology"])
def test_feature_cohort__shows_each_hidden_number_in_its_own_modality(modality: str) -> None:
    cohort = feature_cohort(Plan(patients=400), 0)
    have, found = means(cohort, modality)
    for name, hidden in cohort.hidden.items():
        correlation = np.corrcoef(found, hidden[have])[0, 1]
        assert correlation > 0.8 if name == modality else abs(correlation) < 0.2


def test_feature_cohort__labels_follow_the_log_odds_and_without_signal_nothing() -> None:
    for signal, low, high in ((2.0, 0.85, 1.0), (0.0, 0.4, 0.6)):
        plan = Plan(patients=600, signal=signal)
        cohort = feature_cohort(plan, 1)
        total = sum(cohort.hidden.values())
        one, zero = (total[cohort.packed.labels == label] for label in (1, 0))
        assert low <= (one[:, None] > zero[None]).mean() <= high


def test_feature_cohort__misses_the_planned_share_and_repeats_itself() -> None:
    cohort, again = (feature_cohort(Plan(patients=500, missing=0.4), 2) for _ in range(2))
    for name, units in cohort.packed.units.items():
        assert (units.counts == 0).mean() == pytest.approx(0.4, abs=0.07)
        assert np.array_equal(units.features, again.packed.units[name].features)
    assert set(cohort.packed.modalities) == {"both", "pathology", "radiology", "none"}

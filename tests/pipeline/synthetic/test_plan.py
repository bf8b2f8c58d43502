from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from mumo.errors import ConfigError
from mumo.pipeline.synthetic.outcomes import CUTOFF_DAYS
from mumo.pipeline.synthetic.plan import MIN_PATIENTS, REST_SCORE, SEPARATION, CohortPlan, plan_cohort, stream


def responses(plan: CohortPlan) -> list[int]:
    return [person.outcome.response for person in plan.patients]


@pytest.mark.parametrize("patients", [MIN_PATIENTS, 16, 120])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_plan_cohort__has_every_pattern_of_missing_parts(patients: int, seed: int) -> None:
    plan = plan_cohort(patients, seed, signal=True)
    with_slides = {slide.patient for slide in plan.slides}
    with_ct = {study.patient for study in plan.ct}
    found = {(person.patient in with_slides, person.patient in with_ct) for person in plan.patients}
    assert found == {(True, True), (True, False), (False, True), (False, False)}
    assert {person.treatment_group for person in plan.patients} == set(CUTOFF_DAYS)
    assert {person.centre for person in plan.patients} == {"A", "B"}
    labels = Counter(person.outcome.label for person in plan.patients)
    assert set(labels) == {0, 1, None}


def test_plan_cohort__less_than_half_of_the_patients_have_both_modalities() -> None:
    patterns = Counter(person.pattern for person in plan_cohort(120, 0, signal=True).patients)
    assert patterns["both"] < 60
    assert 70 <= patterns["both"] + patterns["pathology"] <= 90
    assert 70 <= patterns["both"] + patterns["radiology"] <= 90


def test_plan_cohort__some_patients_have_two_slides() -> None:
    slides = Counter(slide.patient for slide in plan_cohort(120, 0, signal=True).slides)
    assert set(slides.values()) == {1, 2}


def test_plan_cohort__small_cohorts_have_every_kind_of_slide_and_study() -> None:
    plan = plan_cohort(16, 0, signal=True)
    assert {slide.mpp for slide in plan.slides} == {0.25, 1.0}
    assert {slide.annotation for slide in plan.slides} == {"asap", "geojson", None}
    assert {slide.white_balance for slide in plan.slides} == {True, False}
    unrecorded = [slide for slide in plan.slides if not slide.in_file]
    assert len(unrecorded) == 1 and unrecorded[0].in_table
    assert {study.format for study in plan.ct} == {"dicom", "nifti"}
    assert {study.annotation for study in plan.ct} == {"study mask", "lesion masks", "boxes"}
    assert sum(study.second_series for study in plan.ct) == 1


def test_plan_cohort__lesions_keep_to_recist_limits() -> None:
    for study in plan_cohort(400, 5, signal=True).ct:
        organs = Counter(lesion.lesion_type for lesion in study.lesions)
        assert 1 <= len(study.lesions) <= 4
        assert max(organs.values()) <= 2


def test_plan_cohort__scores_separate_responders_as_planned() -> None:
    # The AUC of normal scores of equal variance is Φ(d′ / √2), with d′ twice the separation.
    plan = plan_cohort(4000, 0, signal=True)
    for source, separation in SEPARATION.items():
        scores = [person.scores[source] for person in plan.patients]
        expected = norm.cdf(2 * separation / np.sqrt(2))
        assert roc_auc_score(responses(plan), scores) == pytest.approx(expected, abs=0.02)


def test_plan_cohort__probability_is_calibrated() -> None:
    plan = plan_cohort(4000, 1, signal=True)
    probability = np.array([person.probability for person in plan.patients])
    observed = np.array(responses(plan))
    for low in (0.1, 0.3, 0.5, 0.7):
        chosen = (probability >= low) & (probability < low + 0.2)
        assert observed[chosen].mean() == pytest.approx(probability[chosen].mean(), abs=0.12)


def test_plan_cohort__without_signal_only_outcomes_differ() -> None:
    signal, noise = plan_cohort(60, 2, signal=True), plan_cohort(60, 2, signal=False)
    assert (signal.slides, signal.ct) == (noise.slides, noise.ct)
    assert [person.scores for person in signal.patients] == [person.scores for person in noise.patients]
    assert responses(signal) != responses(noise)


def test_plan_cohort__without_signal_scores_tell_nothing() -> None:
    plan = plan_cohort(4000, 0, signal=False)
    for source in SEPARATION:
        scores = [person.scores[source] for person in plan.patients]
        assert roc_auc_score(responses(plan), scores) == pytest.approx(0.5, abs=0.03)


def test_plan_cohort__patterns_and_centres_tell_nothing() -> None:
    plan = plan_cohort(4000, 0, signal=True)
    share = np.mean(responses(plan))
    for word in ("both", "pathology", "radiology", "none", "A", "B"):
        chosen = [p.outcome.response for p in plan.patients if word in (p.pattern, p.centre)]
        assert np.mean(chosen) == pytest.approx(share, abs=0.06)


def test_plan_cohort__another_seed_gives_another_cohort() -> None:
    assert plan_cohort(20, 0, signal=True) == plan_cohort(20, 0, signal=True)
    assert plan_cohort(20, 0, signal=True).patients != plan_cohort(20, 1, signal=True).patients


def test_plan_cohort__refuses_too_few_patients() -> None:
    with pytest.raises(ConfigError, match=r"at least 8 patients, found 7"):
        plan_cohort(7, 0, signal=True)


def test_plan_cohort__refuses_a_negative_seed() -> None:
    with pytest.raises(ConfigError, match=r"seed of 0 or more, found -1"):
        plan_cohort(20, -1, signal=True)


def test_stream__is_independent_of_other_names_and_places() -> None:
    draws = [stream(0, name, place).random() for name in ("a", "b") for place in (0, 1)]
    assert len(set(draws)) == 4
    assert stream(0, "a", 1).random() == draws[1]


def test_plan_cohort__hot_spots_are_in_the_slides_of_those_who_look_like_responders() -> None:
    plan = plan_cohort(40, 1, signal=True, hot_spots=("slides", "ct"))
    looks = {person.patient: person.appearance for person in plan.patients}
    assert len(plan.slides) == len(plan.ct) == 40
    assert {slide.score for slide in plan.slides} == {REST_SCORE}  # the rest of the slides tells nothing
    for slide in plan.slides:
        assert (slide.spot_score is not None) == bool(looks[slide.patient])
    for study in plan.ct:
        (lesion,) = study.lesions
        assert (lesion.score > 0) == (lesion.shift_hu > 0) == bool(looks[study.patient])
    only_ct = plan_cohort(40, 1, signal=True, hot_spots=("ct",))
    assert not only_ct.slides and only_ct.ct == plan.ct
    assert {person.pattern for person in only_ct.patients} == {"radiology"}

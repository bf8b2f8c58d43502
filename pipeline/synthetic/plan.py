"""Who is in the synthetic cohort: patients, slides and CT studies, and the signal planted in them.

Every patient has one score per source (slides, CT, clinical items). A score is normal with standard deviation 1
around plus or minus a separation; its sign comes from the patient's appearance. With the signal on, the appearance
is the response; with it off, the response is drawn again, so that images and clinical items are the same to the
byte and only outcomes differ.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...errors import ConfigError
from .outcomes import CUTOFF_DAYS, Outcome, OutcomeKind, draw_outcome

MIN_PATIENTS = 8
"""With fewer, not every pattern of missing parts would occur."""

CENTRES = ("A", "B")
"""Two centres; the CT scanner of the second one adds an offset to all intensities."""

Source = Literal["slides", "ct", "clinical"]
ImagingSource = Literal["slides", "ct"]
SEPARATION: Mapping[Source, float] = {"slides": 0.9, "ct": 0.8, "clinical": 0.85}
"""Half the distance between responders' and non-responders' mean scores, in standard deviations."""

SPOT_SCORE, REST_SCORE = 3.0, -1.0
"""Score of the nuclei in hot spots, and of all others of slides that may have one."""

LESION_SCORE, LESION_SHIFT_HU = 3.0, 300.0
"""Of lesions in loose boxes: score of those who look like responders (its negative for others), and their shift."""

LOOSE_MM = 22.0
"""How far one side of a loose box lies outside its lesion, along x and along y: the lesion is not in the middle."""

RESPONDER_SHARE = 0.55
UNKNOWN_SHARE = 0.12
"""Share of patients whose label is unknown: mostly censored before the cut-off."""

_PATTERN_SHARES = {"both": 0.45, "pathology": 0.25, "radiology": 0.22, "none": 0.08}
_LESION_TYPE_SHARES = {
    "stomach": 0.34,
    "lymph node": 0.30,
    "liver": 0.19,
    "peritoneum": 0.09,
    "spleen": 0.02,
    "bone": 0.02,
    "adrenal": 0.02,
    "soft tissue": 0.02,
}

_CENSORED: list[OutcomeKind] = ["censored"]
_KNOWN: list[OutcomeKind] = ["known"]

Pattern = Literal["both", "pathology", "radiology", "none"]
CtFormat = Literal["dicom", "nifti"]
CtAnnotation = Literal["study mask", "lesion masks", "boxes"]


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """A generator of random numbers of its own for each purpose and item, so that adding one shifts no other."""
    return np.random.default_rng([seed, *name.encode(), index])


@dataclass(frozen=True)
class SlidePlan:
    """One slide to render."""

    slide: str
    patient: str
    centre: str
    score: float
    """How much the slide looks like a responder's."""
    mpp: float
    """True resolution of level 0, µm/px."""
    in_file: bool
    """Whether the file records the resolution."""
    in_table: bool
    """Whether the table states it."""
    annotation: Literal["asap", "geojson"] | None
    white_balance: bool
    """Whether the slide has a colour cast and is flagged for white balance."""
    tissue: Literal["biopsy", "strip", "resection", "specimen"]
    """Kind of tissue: how large it is."""
    spot_score: float | None = None
    """Score of the nuclei in a hot spot; none: the slide has no hot spot."""


@dataclass(frozen=True)
class LesionPlan:
    """One lesion to render."""

    lesion: str
    lesion_type: str
    score: float
    """How much the lesion looks like a responder's."""
    shift_hu: float = 0.0
    """By how much it takes up more contrast medium than is usual for its type."""


@dataclass(frozen=True)
class CtPlan:
    """One CT study to render."""

    ct: str
    patient: str
    centre: str
    format: CtFormat
    layout: int
    """Which of the format's ways to lay voxels out: orientation, stored type, order of slices."""
    annotation: CtAnnotation
    second_series: bool
    """Whether the DICOM folder holds a second series, so that the table must name the right one."""
    lesions: tuple[LesionPlan, ...]
    loose_mm: float = 0.0
    """How far one side of a lesion's box lies outside the lesion, along x and along y; 0: boxes are tight."""


@dataclass(frozen=True)
class PatientPlan:
    """One patient: what is drawn before any pixel or table exists."""

    patient: str
    centre: str
    treatment_group: str
    pattern: Pattern
    appearance: int
    """1: looks like a responder, 0: does not. Equal to the response when the signal is on."""
    scores: Mapping[Source, float]
    probability: float
    """Probability of response given all three scores: the best that any model could know."""
    outcome: Outcome


@dataclass(frozen=True)
class CohortPlan:
    """Everything that is drawn before writing."""

    seed: int
    patients: tuple[PatientPlan, ...]
    slides: tuple[SlidePlan, ...]
    ct: tuple[CtPlan, ...]


def plan_cohort(patients: int, seed: int, signal: bool, *, hot_spots: Collection[ImagingSource] = ()) -> CohortPlan:
    """Draw the cohort's patients, slides and CT studies; the same arguments give the same plan.

    With `hot_spots` the cohort has these sources alone, and their signal has a place: every patient has one large slide
    without annotation, which looks the same for all but for a hot spot in those who look like responders, or one CT
    study with a lesion in a loose box, or both.

    Raises:
        ConfigError: too few patients for every pattern of missing parts, or a negative seed.
    """
    if patients < MIN_PATIENTS:
        raise ConfigError(
            f"synthetic cohort: expected at least {MIN_PATIENTS} patients, found {patients}; ask for more"
        )
    if seed < 0:
        raise ConfigError(f"synthetic cohort: expected a seed of 0 or more, found {seed}; choose another")
    people = _draw_patients(patients, seed, signal)
    if hot_spots:
        slides, ct = "slides" in hot_spots, "ct" in hot_spots
        pattern: Pattern = "both" if slides and ct else "pathology" if slides else "radiology"
        people = tuple(replace(person, pattern=pattern) for person in people)
        return CohortPlan(
            seed,
            people,
            _slides_with_spots(people) if slides else (),
            _studies_with_loose_boxes(people, seed) if ct else (),
        )
    return CohortPlan(seed, people, _draw_slides(people, seed), _draw_ct(people, seed))


def _draw_patients(count: int, seed: int, signal: bool) -> tuple[PatientPlan, ...]:
    responders = {"1": RESPONDER_SHARE, "0": 1 - RESPONDER_SHARE}
    appearance = [int(word) for word in _quota(responders, count, stream(seed, "appearance"))]
    response = appearance
    if not signal:
        response = [int(word) for word in _quota(responders, count, stream(seed, "response"))]
    patterns = _quota(_PATTERN_SHARES, count, stream(seed, "pattern"))
    centres = _quota({CENTRES[0]: 0.6, CENTRES[1]: 0.4}, count, stream(seed, "centre"))
    groups = _quota(dict(zip(CUTOFF_DAYS, (0.7, 0.3), strict=True)), count, stream(seed, "group"))
    kinds = _outcome_kinds(count, seed)
    people = []
    for index in range(count):
        scores = _draw_scores(appearance[index], stream(seed, "scores", index))
        rng = stream(seed, "outcome", index)
        people.append(
            PatientPlan(
                patient=f"P{index + 1:04d}",
                centre=centres[index],
                treatment_group=groups[index],
                pattern=patterns[index],  # type: ignore[arg-type]  # keys of _PATTERN_SHARES
                appearance=appearance[index],
                scores=scores,
                probability=_response_probability(scores) if signal else RESPONDER_SHARE,
                outcome=draw_outcome(rng, response[index], kinds[index], CUTOFF_DAYS[groups[index]]),
            )
        )
    return tuple(people)


def _draw_scores(appearance: int, rng: np.random.Generator) -> dict[Source, float]:
    sign = 1.0 if appearance else -1.0
    return {source: sign * distance + float(rng.normal()) for source, distance in SEPARATION.items()}


def _response_probability(scores: Mapping[Source, float]) -> float:
    """Bayes' rule for normal scores of equal variance: log odds = prior + sum of 2 × separation × score."""
    log_odds = math.log(RESPONDER_SHARE / (1 - RESPONDER_SHARE))
    log_odds += sum(2 * distance * scores[source] for source, distance in SEPARATION.items())
    return 1.0 / (1.0 + math.exp(-log_odds))


def _outcome_kinds(count: int, seed: int) -> list[OutcomeKind]:
    """A fixed share of unknown labels, one of them for want of any outcome but survival; one PFS at the cut-off."""
    unknown = max(2, round(UNKNOWN_SHARE * count))
    kinds: list[OutcomeKind] = ["missing", "at cut-off"]
    kinds += (unknown - 1) * _CENSORED + (count - unknown - 1) * _KNOWN
    order = stream(seed, "kinds").permutation(count)
    return [kinds[place] for place in order]


def _quota(shares: Mapping[str, float], count: int, rng: np.random.Generator) -> list[str]:
    """Words in random order, as often as their shares say, each at least once; the first takes what rounding leaves."""
    words = list(shares)
    drawn = [word for word in words[1:] for _ in range(max(1, round(shares[word] * count)))]
    drawn = [words[0]] * (count - len(drawn)) + drawn
    return [drawn[place] for place in rng.permutation(count)]


def _draw_slides(people: tuple[PatientPlan, ...], seed: int) -> tuple[SlidePlan, ...]:
    owners = [person for person in people if person.pattern in ("both", "pathology")]
    # Every 25th patient with slides has a second one.
    owners = [person for place, person in enumerate(owners) for _ in range(2 if place % 25 == 3 else 1)]
    plans = []
    for place, person in enumerate(owners):
        rng = stream(seed, "slide", place)
        plans.append(
            SlidePlan(
                slide=f"S{place + 1:04d}",
                patient=person.patient,
                centre=person.centre,
                score=person.scores["slides"] + 0.25 * float(rng.normal()),
                mpp={1: 0.25, 40: 0.5}.get(place, 1.0),
                in_file=place != 2,
                in_table=place in (2, 4),
                annotation=_slide_annotation(place),
                white_balance=place % 12 == 4,
                tissue=_slide_tissue(place, rng),
            )
        )
    return tuple(plans)


def _slides_with_spots(people: tuple[PatientPlan, ...]) -> tuple[SlidePlan, ...]:
    return tuple(
        SlidePlan(
            slide=f"S{place:04d}",
            patient=person.patient,
            centre=person.centre,
            score=REST_SCORE,
            mpp=1.0,
            in_file=True,
            in_table=False,
            annotation=None,
            white_balance=False,
            tissue="specimen",
            spot_score=SPOT_SCORE if person.appearance else None,
        )
        for place, person in enumerate(people, start=1)
    )


def _studies_with_loose_boxes(people: tuple[PatientPlan, ...], seed: int) -> tuple[CtPlan, ...]:
    plans = []
    for place, person in enumerate(people, start=1):
        kind = str(stream(seed, "loose box", place).choice(["stomach", "liver", "lymph node"]))
        score, shift_hu = (LESION_SCORE, LESION_SHIFT_HU) if person.appearance else (-LESION_SCORE, 0.0)
        plans.append(
            CtPlan(
                ct=f"C{place:04d}",
                patient=person.patient,
                centre=person.centre,
                format="nifti",
                layout=place,
                annotation="boxes",
                second_series=False,
                lesions=(LesionPlan("L1", kind, score, shift_hu),),
                loose_mm=LOOSE_MM,
            )
        )
    return tuple(plans)


def _slide_annotation(place: int) -> Literal["asap", "geojson"] | None:
    if place in (3, 30):
        return "geojson"
    return None if place % 8 == 0 else "asap"


def _slide_tissue(place: int, rng: np.random.Generator) -> Literal["biopsy", "strip", "resection"]:
    draw = rng.random()
    if place == 1:
        return "biopsy"  # The slide with the finest pixels is kept small.
    return "biopsy" if draw < 0.15 else "strip" if draw < 0.75 else "resection"


def _draw_ct(people: tuple[PatientPlan, ...], seed: int) -> tuple[CtPlan, ...]:
    owners = [person for person in people if person.pattern in ("both", "radiology")]
    annotations: tuple[CtAnnotation, ...] = ("study mask", "boxes", "lesion masks", "boxes", "study mask")
    plans = []
    for place, person in enumerate(owners):
        rng = stream(seed, "ct", place)
        plans.append(
            CtPlan(
                ct=f"C{place + 1:04d}",
                patient=person.patient,
                centre=person.centre,
                format="dicom" if place % 2 == 0 else "nifti",
                layout=place // 2,
                annotation=annotations[place % len(annotations)],
                second_series=place == 2,
                lesions=_draw_lesions(person.scores["ct"], rng),
            )
        )
    return tuple(plans)


def _draw_lesions(score: float, rng: np.random.Generator) -> tuple[LesionPlan, ...]:
    """One to four lesions, at most two a type, as RECIST 1.1 allows."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.3, 0.4, 0.22, 0.08]))
    shares = np.array(list(_LESION_TYPE_SHARES.values()))
    types: list[str] = []
    while len(types) < count:
        drawn = str(rng.choice(list(_LESION_TYPE_SHARES), p=shares / shares.sum()))
        if types.count(drawn) < (1 if drawn == "stomach" else 2):
            types.append(drawn)
    return tuple(
        LesionPlan(f"L{number}", lesion_type, score + 0.35 * float(rng.normal()))
        for number, lesion_type in enumerate(types, start=1)
    )

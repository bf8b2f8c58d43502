"""Whether simple measurements find the planted signal, and find nothing where none is planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
import pandas as pd
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.synthetic.anatomy import render_volume
from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.pipeline.synthetic.plan import CohortPlan, plan_cohort
from mumo.pipeline.synthetic.slides import slide_file

PATIENTS, SEED = 120, 0
BAG_UM, GREY_PX = 512, 128


def grey_bags(file: Path, mpp: float) -> list[NDArray[np.float64]]:
    """Bags at 4 µm/px in grey levels; their tissue is brought to one mean and spread, as colour normalisation does."""
    with openslide.OpenSlide(str(file)) as slide:
        level = slide.get_best_level_for_downsample(1.0 / mpp + 1e-6)
        image = slide.read_region((0, 0), level, slide.level_dimensions[level]).convert("L")
        grey = np.asarray(image.resize([round(side * mpp) for side in slide.dimensions]), dtype=float)
    tissue = grey < 215
    bags = []
    for top in range(0, grey.shape[0] - BAG_UM + 1, BAG_UM):
        for left in range(0, grey.shape[1] - BAG_UM + 1, BAG_UM):
            window = slice(top, top + BAG_UM), slice(left, left + BAG_UM)
            if tissue[window].mean() > 0.5:
                inside = grey[window][tissue[window]]
                bag = np.clip((grey[window] - inside.mean()) / inside.std() * 40 + 150, 0, 255)
                bags.append(bag.reshape(GREY_PX, 4, GREY_PX, 4).mean(axis=(1, 3)))
    return bags


def bag_statistics(grey: NDArray[np.float64]) -> list[float]:
    """Contrast in small squares, energy of the gradient at two scales, skewness."""
    energies = []
    for step in (1, 2):
        coarse = grey.reshape(GREY_PX // step, step, GREY_PX // step, step).mean(axis=(1, 3))
        energies.append(np.log(sum(np.square(slope).mean() for slope in np.gradient(coarse))))
    local = grey.reshape(GREY_PX // 4, 4, GREY_PX // 4, 4).var(axis=(1, 3)).mean()
    skewness = np.mean((grey - grey.mean()) ** 3) / grey.std() ** 3
    return [energies[0], energies[0] - energies[1], float(np.log(local)), float(skewness)]


def radiomics_of(image: NDArray[np.float64], mask: NDArray[np.uint8], bin_width: float) -> list[float]:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    extractor = RadiomicsFeatureExtractor(binWidth=bin_width, force2D=True)
    extractor.disableAllFeatures()
    extractor.enableFeaturesByName(
        firstorder=["Variance", "Skewness", "10Percentile"], glcm=["Correlation", "Idm", "Contrast"]
    )
    found = extractor.execute(sitk.GetImageFromArray(image), sitk.GetImageFromArray(mask))
    return [float(value) for name, value in found.items() if name.startswith("original_")]


def cross_validated_auc(features: pd.DataFrame, response: pd.Series) -> float:
    """AUC of a logistic regression in five folds, the mean over five ways to cut them; one row a patient."""
    model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression(C=0.3))
    truth = response.reindex(features.index)
    aucs = []
    for seed in range(5):
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        aucs.append(
            roc_auc_score(truth, cross_val_predict(model, features, truth, cv=folds, method="decision_function"))
        )
    return float(np.mean(aucs))


def by_patient(rows: list[tuple[str, list[float]]]) -> pd.DataFrame:
    return pd.DataFrame([row for _, row in rows], index=[patient for patient, _ in rows]).groupby(level=0).mean()


@pytest.fixture(scope="module")
def plan() -> CohortPlan:
    return plan_cohort(PATIENTS, SEED, signal=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signal") / "cohort"
    write_cohort(folder, patients=PATIENTS, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def bags(plan: CohortPlan, folder: Path) -> list[tuple[str, NDArray[np.float64]]]:
    return [(s.patient, bag) for s in plan.slides for bag in grey_bags(folder / slide_file(s), s.mpp)]


@pytest.fixture(scope="module")
def slide_features(bags: list[tuple[str, NDArray[np.float64]]]) -> pd.DataFrame:
    return by_patient([(patient, bag_statistics(bag)) for patient, bag in bags])


@pytest.fixture(scope="module")
def slide_radiomics(bags: list[tuple[str, NDArray[np.float64]]]) -> pd.DataFrame:
    rows = []
    for patient, bag in bags:
        centre = bag[32:96, 32:96]
        rows.append((patient, radiomics_of(centre[None], np.ones((1, *centre.shape), np.uint8), 25.0)))
    return by_patient(rows)


@pytest.fixture(scope="module")
def ct_radiomics(plan: CohortPlan) -> pd.DataFrame:
    rows = []
    for study in plan.ct:
        volume = render_volume(study, SEED)
        for number in range(1, len(study.lesions) + 1):
            mask = (volume.labels == number).astype(np.uint8)
            rows.append((study.patient, radiomics_of(volume.hu.astype(float), mask, 25.0)))
    return by_patient(rows)


@pytest.fixture(scope="module")
def clinical_features(folder: Path) -> pd.DataFrame:
    ranks = {"first": 1.0, "later": 0.0, "none": 0.0, "separate": 1.0, "fused": 2.0}
    rows = {}
    for patient in load_cohort(folder / "cohort.toml").patients:
        fields = patient.fields
        rows[patient.patient] = [
            fields["tils"],
            fields["her2_heterogeneity"][3] if fields["her2_heterogeneity"] else None,
            ranks.get(fields["line"]),
            ranks.get(fields["lymph_nodes"]),
            sum(fields["disease_sites"]) if fields["disease_sites"] else None,
        ]
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float)


@pytest.fixture(scope="module")
def everything(
    slide_features: pd.DataFrame, ct_radiomics: pd.DataFrame, clinical_features: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    fused = pd.concat(
        [slide_features.add_prefix("slide"), ct_radiomics.add_prefix("ct"), clinical_features.add_prefix("item")],
        axis=1,
    )
    return {"slides": slide_features, "ct": ct_radiomics, "clinical": clinical_features, "fused": fused}


def responses(signal: bool) -> pd.Series:
    patients = plan_cohort(PATIENTS, SEED, signal).patients
    return pd.Series({person.patient: person.outcome.response for person in patients})


@pytest.mark.slow
@pytest.mark.parametrize("source", ["slides", "ct", "clinical"])
def test_signal__each_source_tells_part_of_the_response(everything: dict[str, pd.DataFrame], source: str) -> None:
    assert 0.7 < cross_validated_auc(everything[source], responses(signal=True)) < 0.93


@pytest.mark.slow
def test_signal__pyradiomics_finds_it_in_the_middle_of_bags(slide_radiomics: pd.DataFrame) -> None:
    assert 0.68 < cross_validated_auc(slide_radiomics, responses(signal=True)) < 0.93


@pytest.mark.slow
def test_signal__all_sources_together_tell_more_than_any(everything: dict[str, pd.DataFrame]) -> None:
    response = responses(signal=True)
    # All patients, those without a source too: what a source can tell of the whole cohort.
    alone = [
        cross_validated_auc(everything[source].reindex(response.index), response)
        for source in ("slides", "ct", "clinical")
    ]
    assert cross_validated_auc(everything["fused"], response) > max(alone) + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("source", ["slides", "ct", "clinical", "fused"])
def test_signal__nothing_is_found_where_none_is_planted(everything: dict[str, pd.DataFrame], source: str) -> None:
    # Three standard errors of an AUC with 40 patients on either side are 0.19.
    assert abs(cross_validated_auc(everything[source], responses(signal=False)) - 0.5) < 0.19


@pytest.mark.slow
def test_signal__means_of_colour_tell_nothing(plan: CohortPlan, folder: Path) -> None:
    rows = []
    for slide in plan.slides:
        with openslide.OpenSlide(str(folder / slide_file(slide))) as opened:
            rgb = np.asarray(opened.read_region((0, 0), 2, opened.level_dimensions[2]).convert("RGB"), dtype=float)
        tissue = rgb[rgb.min(axis=2) < 205]
        rows.append((slide.patient, tissue.mean(axis=0).tolist()))
    assert cross_validated_auc(by_patient(rows), responses(signal=True)) < 0.66


@pytest.mark.slow
def test_write_cohort__demo_is_small_on_disk(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 150e6


@pytest.mark.slow
def test_write_cohort__demo_slides_have_one_to_four_bags(bags: list[tuple[str, NDArray[np.float64]]]) -> None:
    counts = pd.Series([patient for patient, _ in bags]).value_counts()
    assert len(counts) == sum(person.pattern in ("both", "pathology") for person in plan_cohort(120, 0, True).patients)
    assert 1.5 < counts.mean() < 3.0 and counts.max() <= 8

"""Simpler predictors on the same patients, split and metrics, to see what fusion buys.

- `clinical-logistic`: logistic regression on the codes of reports and patient information;
- `clinical-boosting`: gradient boosting on the same;
- `pooled-logistic`: logistic regression on those and, for each modality, the principal components of its mean deep
  features and of its mean omics features;
- `pooled-boosting`: gradient boosting on the same;
- `mil-pathology`, `mil-radiology`: attention pooling over bags or lesions (see `mil`);
- `late-fusion`: the mean of the log odds of `clinical-logistic` and of those of the two that have the patient's images.

Every statistic (means, scales, components, penalties) comes from the training patients alone. Predicted risk is minus
the log odds of response.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import FitError
from ..stores.pack import pack
from ..stores.packed import Packed
from ..stores.places import Place
from ..stores.records import Store
from . import mil
from .checkpoint import write_atomically, write_json
from .comparison import MODEL, compare_predictors
from .estimates import Numbers
from .pooling import patient_means, unit_features
from .predict import Scores, prediction_frame, prediction_rows, save_predictions
from .runfiles import RunFiles, read_run
from .splits import read_split

if TYPE_CHECKING:
    import pandas as pd

COMPONENTS = 16
"""Principal components of each block of image features, at most."""

PENALTIES = tuple(10.0**exponent for exponent in (-4, -3, -2, -1, 0))
"""Inverse penalties (scikit-learn's C) that cross-validation on the training patients chooses from."""

Said = Callable[[str], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Features of all patients in blocks."""

    codes: Numbers
    """[patient, class] codes of reports and patient information, with the acquisition times."""
    pooled: Mapping[str, Numbers]
    """Name → [patient, feature], NaN for patients without the modality."""


def baselines(store: Place, run: Path, *, said: Said | None = None) -> pd.DataFrame:
    """Train every baseline on the split of a finished run and compare it with the run's model.

    Of a run over folds, the baselines are trained on each member's split, and predict the patients it held out.

    Writes into `run`/baselines: `<name>.parquet` (`specs.PREDICTIONS`), `comparison.csv` and `comparison.json` (a row a
    predictor and held-out part: AUC, C-indices, and the difference to the model by the paired DeLong test).

    Args:
        store: the store that the run was trained on.
        run: folder of a finished run; its `split.csv` and predictions are read.
        said: called with the name of each baseline before it is trained.

    Returns:
        The comparison.

    Raises:
        FitError: no finished run, or one of another store.
        StoreError: the store cannot be packed.
    """
    files, packed = read_run(run), pack(Store.open(store))
    if files.run.get("store_digest") not in (None, packed.key):
        raise FitError(
            f"{store}: is not (or no longer) the store that {run} was trained on; fit again, or name that one"
        )
    splits = splits_of(files, run, packed)
    out = run / "baselines"
    out.mkdir(exist_ok=True)
    frames: dict[str, pd.DataFrame] = {MODEL: files.predictions}
    fit = files.config["fit"]
    parts = np.array(files.predictions.set_index("patient").loc[list(packed.patients), "part"], dtype=str)
    for name, probability in predict_splits(packed, splits, seed=int(fit["seed"]), said=said).items():
        logits = np.log(probability) - np.log1p(-probability)
        scores = Scores(np.column_stack([np.zeros_like(logits), logits]), -logits)
        rows = prediction_rows(packed, scores, list(parts))
        save_predictions(out / f"{name}.parquet", rows)
        frames[name] = prediction_frame(rows)
    table = compare_predictors(frames, replicates=int(fit["bootstrap"]), seed=int(fit["seed"]))
    write_atomically(out / "comparison.csv", lambda file: table.to_csv(file, index=False))
    write_json(out / "comparison.json", table.to_dict("records"))
    return table


def splits_of(files: RunFiles, run: Path, packed: Packed) -> list[npt.NDArray[np.str_]]:
    """[patient] parts of the run's split, or of each different split of its members.

    Raises:
        FitError: no split, or a patient of the store has no part.
    """
    found = [files.split] if files.split else []
    found += [dict(read_split(file).parts) for file in sorted((run / "members").glob("*/split.csv")) if not files.split]
    if not found:
        raise FitError(f"{run}: expected a split.csv, found none; run `mumo fit` again")
    unique: list[npt.NDArray[np.str_]] = []
    for split in found:
        if without := [patient for patient in packed.patients if patient not in split]:
            raise FitError(f"split.csv: expected a part for every patient of the store, found none for {without[:5]}")
        parts = np.array([split[patient] for patient in packed.patients])
        if not any(np.array_equal(parts, other) for other in unique):  # members of other seeds share a split
            unique.append(parts)
    return unique


def predict_splits(
    packed: Packed, splits: Sequence[npt.NDArray[np.str_]], *, seed: int, said: Said | None = None
) -> dict[str, Numbers]:
    """Baseline → [patient] probability; of several splits, each patient's mean over those that held the patient out.

    A baseline that a split does not allow is left out.
    """
    if len(splits) == 1:
        return predict_all(packed, splits[0], seed=seed, said=said)
    found = [(parts == "test", predict_all(packed, parts, seed=seed, said=said)) for parts in splits]
    times = np.sum([held_out for held_out, _ in found], axis=0)
    if not times.all():
        raise FitError("the splits of the run's members: expected to hold out every patient, found some never held out")
    names = [name for name in found[0][1] if all(name in predicted for _, predicted in found)]
    return {
        name: np.sum([np.where(held_out, predicted[name], 0) for held_out, predicted in found], axis=0) / times
        for name in names
    }


def predict_all(
    packed: Packed, parts: npt.NDArray[np.str_], *, seed: int, said: Said | None = None
) -> dict[str, Numbers]:
    """Baseline → [patient] probability of response, inside (0, 1).

    A baseline is left out where nobody in training has what it reads.

    Args:
        packed: the pack.
        parts: [patient] train, validation or test. Validation stops the training of attention pooling, as it chooses
            the epochs of the model; the others do not use it.
        seed: seed of boosting, folds and initial weights.
        said: called with the name of each before it is trained.
    """
    train = (parts == "train") & (packed.labels >= 0)
    say = said or (lambda name: _log.info("baseline %s", name))
    blocks = blocks_of(packed)
    found: dict[str, Numbers] = {}
    if blocks.codes.shape[1]:
        for name, learn in (("clinical-logistic", logistic), ("clinical-boosting", boosting)):
            say(name)
            found[name] = learn(Blocks(blocks.codes, {}), packed.labels, train, seed)
    if any(np.isfinite(values[train]).any() for values in blocks.pooled.values()):
        for name, learn in (("pooled-logistic", logistic), ("pooled-boosting", boosting)):
            say(name)
            found[name] = learn(blocks, packed.labels, train, seed)
    has: dict[str, npt.NDArray[np.bool_]] = {}
    for modality, units in packed.units.items():
        here = units.counts > 0
        if len(set(packed.labels[train & here])) == 2:
            say(f"mil-{modality}")
            validation = np.flatnonzero((parts == "validation") & (packed.labels >= 0) & here)
            trained = mil.train(units, packed.labels, np.flatnonzero(train & here), validation, seed=seed)
            has[modality] = here
            # who lacks the modality gets the prediction that knows nothing
            found[f"mil-{modality}"] = _inside(np.where(here, trained, packed.labels[train].mean()))
    if has and "clinical-logistic" in found:
        found["late-fusion"] = _late(found, has)
    return found


def _late(found: Mapping[str, Numbers], has: Mapping[str, npt.NDArray[np.bool_]]) -> Numbers:
    members = [("clinical-logistic", np.ones_like(next(iter(has.values()))))]
    members += [(f"mil-{modality}", here) for modality, here in has.items()]
    logits = np.array([np.log(found[name]) - np.log1p(-found[name]) for name, _ in members])
    there = np.array([here for _, here in members])
    return _inside(1 / (1 + np.exp(-(logits * there).sum(axis=0) / there.sum(axis=0))))


# --- features ---------------------------------------------------------------------------------------------


def blocks_of(packed: Packed) -> Blocks:
    """Codes, and mean deep and omics features of each patient, from a pack; lesions in their plain view."""
    codes = [values.values for values in packed.codes.values()]
    pooled = {}
    for modality, units in packed.units.items():
        if len(units.features):
            codes.append(packed.times[modality])
            pooled[f"{modality}-deep"] = patient_means(unit_features(units), units.offsets)
            if units.omics_columns:
                pooled[f"{modality}-omics"] = patient_means(np.asarray(units.omics, dtype=np.float64), units.offsets)
    return Blocks(np.concatenate(codes, axis=1).astype(np.float64) if codes else np.zeros((0, 0)), pooled)


def reduced(block: Numbers, train: npt.NDArray[np.bool_]) -> Numbers:
    """[patient, component] principal components of a standardised block; NaN for patients without it.

    Missing single values become the training median. Where fewer than three training patients have it, there are no
    components.
    """
    from sklearn.decomposition import PCA
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler, StandardScaler

    here = np.asarray(~np.isnan(block).all(axis=1), dtype=np.bool_)
    known = here & train
    if known.sum() < 3:
        return np.zeros((len(block), 0))
    filled = block[:, ~np.isnan(block[known]).all(axis=0)]
    count = min(COMPONENTS, int(known.sum()) - 1, filled.shape[1])
    reduce = make_pipeline(
        SimpleImputer(strategy="median"), RobustScaler(), _clip(), StandardScaler(), PCA(count, random_state=0)
    )
    reduce.fit(filled[known])
    out = np.full((len(block), count), np.nan)
    out[here] = reduce.transform(filled[here])
    return out


def _clip() -> Any:
    """Cuts what robust scaling left far out, as the model's own scaler does."""
    from sklearn.preprocessing import FunctionTransformer

    return FunctionTransformer(np.clip, kw_args={"a_min": -10, "a_max": 10})


# --- learners ---------------------------------------------------------------------------------------------


def logistic(blocks: Blocks, labels: npt.NDArray[Any], train: npt.NDArray[np.bool_], seed: int) -> Numbers:
    """[patient] probability by logistic regression with a ridge penalty chosen by 5-fold cross-validation in training.

    Blocks that a patient lacks count as their training mean, with a column that says so.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    columns = [blocks.codes]
    for block in blocks.pooled.values():
        components = reduced(block, train)
        if components.shape[1]:
            there = np.asarray(~np.isnan(components).any(axis=1), dtype=np.bool_)
            columns += [np.where(there[:, None], components, 0.0), there[:, None].astype(float)]
    inputs = np.concatenate(columns, axis=1)
    folds = min(5, int(np.bincount(labels[train].astype(int)).min()))
    if folds < 2:
        raise FitError("baselines: expected at least two training patients of each label, found fewer; add patients")
    model = make_pipeline(
        StandardScaler(),
        GridSearchCV(
            LogisticRegression(max_iter=2000),
            {"C": PENALTIES},
            scoring="neg_log_loss",
            cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        ),
    ).fit(inputs[train], labels[train])
    return _inside(model.predict_proba(inputs)[:, 1])


def boosting(blocks: Blocks, labels: npt.NDArray[Any], train: npt.NDArray[np.bool_], seed: int) -> Numbers:
    """[patient] probability by gradient-boosted trees (100 trees of 4 leaves, learning rate 0.05); knows missing."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = [blocks.codes, *(reduced(block, train) for block in blocks.pooled.values())]
    inputs = np.concatenate(columns, axis=1)
    model = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=4, min_samples_leaf=5, early_stopping=False, random_state=seed
    ).fit(inputs[train], labels[train])
    return _inside(model.predict_proba(inputs)[:, 1])


def _inside(probability: Numbers) -> Numbers:
    # the log odds of 0 and 1 are infinite
    inside: Numbers = np.clip(probability, 1e-6, 1 - 1e-6)
    return inside

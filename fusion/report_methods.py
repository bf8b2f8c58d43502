"""Methods and limits of a report in the words of TRIPOD+AI (Collins et al., BMJ 385:e078378, 2024), as far as the run
says; each row has the number of its item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from .characteristics import NOT_READ
from .estimates import numbers
from .origin import CLINICAL, CUTOFFS
from .report_text import number, plain
from .runfiles import RunFiles, finite

Row = tuple[str, str, str]
"""Number of the item, its name, what was done."""


def methods(files: RunFiles, present: Sequence[str]) -> list[Row]:
    """What was done, in the order of the checklist."""
    rows = [*_sources(files, present), *_analysis(files), *_evaluation(files)]
    return sorted(rows, key=lambda row: _place(row[0]))


def _place(item: str) -> tuple[int, str]:
    """Where `12f, 24` stands: by its first number, then by its letter."""
    first = item.partition(",")[0]
    digits = first.rstrip("abcdefg")
    return int(digits), first[len(digits) :]


def _sources(files: RunFiles, present: Sequence[str]) -> list[Row]:
    frame, own = files.predictions, files.development
    labelled = int(frame["label"].notna().sum())
    centres = "one centre" if frame["centre"].nunique() == 1 else f"{frame['centre'].nunique()} centres"
    data = "Patients of the cohort that was extracted into the store."
    if own is not None:
        data = (
            f"An external cohort. The model is the run “{files.run['model']['run']}”, made on {len(own.predictions)} "
            "patients of another cohort; that nobody is in both is checked by id, follow-up and items alone."
        )
    happened = {e: (numbers(frame[f"{e}_event"]) == 1) & frame[f"{e}_days"].notna() for e in ("pfs", "os")}
    events = "; ".join(
        f"{int(happened[endpoint].sum())} events of {name}"
        for endpoint, name in (("pfs", "progression-free survival"), ("os", "overall survival"))
    )
    counts = "" if own is not None else "; ".join(f"{part}: {int((frame['part'] == part).sum())}" for part in present)
    return [
        ("5a", "Data", data),
        (
            "6a",
            "Participants",
            f"{len(frame)} patients of {centres}; {labelled} with a known response, {len(frame) - labelled} without, "
            "who are kept for survival where their follow-up is known.",
        ),
        ("7", "Data preparation", _preparation(files)),
        (
            "8a",
            "Outcome",
            "Response: best RECIST response CR or PR against PD; otherwise progression-free survival above the "
            f"cut-off of the treatment group{_cutoffs(files.run)}. Risk: progression-free and overall survival.",
        ),
        ("9", "Predictors", _predictors(files)),
        (
            "10",
            "Sample size",
            ("All patients of the cohort. " if own is None else "All patients of the cohort who are new to the model. ")
            + (f"{counts}. " if counts else "")
            + f"{int((frame['label'] == 1).sum())} responders and {int((frame['label'] == 0).sum())} non-responders; "
            + f"{events}.",
        ),
        (
            "11, 27a",
            "Missing data",
            "Nothing is imputed in the codes: an unknown item is left out of attention, and a missing modality has a "
            "learnt placeholder. Missing omics values count as the training median.",
        ),
    ]


def _preparation(files: RunFiles) -> str:
    limit = files.config.get("fit", {}).get("omics_limit")
    text = (
        "Omics features: (value − median) / interquartile range of the training patients, or standard deviation where "
        "that range is 0"
        + (f", cut at ± {limit:g}. " if limit else ". ")
        + "Failed slides and CT studies are counted in the flow of patients."
    )
    if files.development is not None:
        text += " All of it is frozen with the model; nothing was fitted to this cohort."
        text += f" {_extraction(files.run)}"
    return text


def _extraction(run: Mapping[str, Any]) -> str:
    """Whether the store of an external cohort was made as the model's was."""
    said = []
    if run["other_extraction"] == []:
        said.append("The store was extracted with the settings of the model's store, as far as they shape features.")
    if run["windows_digest"] and not run["other_windows"]:
        said.append("The CT went through the grey-level windows of the model's store.")
    if run["weights_sha256"]:
        said.append("Deep features come from the same weights.")
    return " ".join(said)


def _predictors(files: RunFiles) -> str:
    model, patterns = files.config.get("model", {}), set(files.predictions["modalities"])
    images = {"pathology": "slides", "radiology": "CT"}
    # a modality that nobody has is no predictor; one that is no imaging shows in no pattern
    there = {name for name in images if patterns & {name, "both"}}
    used = [images.get(name, name) for name in model.get("modalities", ()) if name in there or name not in images]
    parts = [f"Deep features of {' and '.join(used)}"] if used else []
    if model.get("omics") and used:
        parts.append("omics features")
    codes = [item for item in files.items if item.group not in NOT_READ]
    reports = [item for item in codes if item.group.endswith("_report")]
    if model.get("reports") and reports:
        parts.append(f"{len(reports)} report items")
    if model.get("patient_information") and len(codes) > len(reports):
        parts.append(f"{len(codes) - len(reports)} items of patient information")
    return (
        (", ".join(parts) or "As the settings below say")
        + ". Chosen by the method that mumo follows, not by these data. They must be from before treatment: mumo does "
        "not see dates."
    )


def _analysis(files: RunFiles) -> list[Row]:
    model, fit = files.config.get("model", {}), files.config.get("fit", {})
    if not fit:
        return []
    made = files.run if files.development is None else files.development.run
    split = _split(fit.get("split", {}), fit, files.run)
    if files.development is not None:
        split = "Every patient is used for evaluation alone, but for those that the flow of patients shows as left out."
    weights = fit.get("class_weights", "none")
    balance = f"Focal loss, γ = {fit.get('focal_gamma')}; class weights: {weights}; nobody was sampled more often."
    return [
        ("12a", "Use of the data", split),
        (
            "12b",
            "Predictors in the analysis",
            "Codes and standardised numbers, without selection; images as deep features of a fixed network.",
        ),
        (
            "12c",
            "Model building",
            f"{_epochs(fit, made)} of Adam, learning rate {fit.get('learning_rate')}, batches of "
            f"{fit.get('batch_patients')} patients; the weights of the {_averaged(fit, made)} with the highest AUC "
            "(then the lowest loss) of the validation patients were averaged. Inter-modal fusion: "
            f"{model.get('inter_fusion')}. Hyperparameters are the settings at the end of the page; mumo does not tune "
            "them.",
        ),
        ("12d", "Centres", "The model does not know of centres. Figures by centre are given where there are several."),
        ("13", "Class imbalance", balance),
    ]


def _cutoffs(run: Mapping[str, Any]) -> str:
    """The cut-offs of progression-free survival, as far as the run knows them."""
    known = run.get("extraction", {}).get(CLINICAL, {}).get(CUTOFFS)
    return f" (days: {plain(str(known))})" if known else ""


def _epochs(fit: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """How many epochs were trained; of many trainings, which may have stopped early, at most."""
    if isinstance(trained := run.get("epochs"), int):
        return f"{trained} epochs"
    return f"At most {fit.get('epochs')} epochs" if fit.get("patience") else f"{fit.get('epochs')} epochs"


def _averaged(fit: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    count = len(run.get("selected_epochs") or ()) or min(fit.get("average_best", 0), fit.get("epochs", 0))
    return "epoch" if count == 1 else f"{count} epochs"


def _split(split: Mapping[str, Any], fit: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    if run.get("folds"):
        unit = "centre" if run.get("by_centre") else "patient"
        return (
            f"{run['folds']} folds by {unit}, {run.get('seeds')} training(s) each; a share of each fold's training "
            "patients chose its weights and threshold."
        )
    ensemble = f" {run['seeds']} trainings on the one split, predictions averaged." if "seeds" in run else ""
    if file := split.get("file"):
        return f"By patient, as the file {plain(str(file))} says.{ensemble}"
    shares = f"validation {split.get('validation')}, test {split.get('test')}"
    return f"By patient, stratified by label: {shares}; seed {split.get('seed', fit.get('seed'))}.{ensemble}"


def _evaluation(files: RunFiles) -> list[Row]:
    external = files.development is not None
    rows: list[Row] = [
        (
            "12e",
            "Performance",
            f"Discrimination (AUC, average precision, C-index), calibration (in the large, slope, Brier score), "
            f"calls and survival of the risk groups, with {100 * files.metrics['confidence']:g} % intervals "
            f"({files.metrics['replicates']} bootstrap replicates); net benefit, without.",
        ),
        ("12f, 24", "Updating", "None: predictions are not recalibrated, and no threshold is chosen anew."),
    ]
    said = "By the averaged weights, from all bags and lesions of a patient, without dropout."
    if external:
        said += f" {frozen(files)}"
    rows.append(("12g", "Predictions", said))
    rows += [
        (
            "14",
            "Fairness",
            "No method for it in training; figures by centre and by pattern of imaging, risk groups by clinical item.",
        ),
        (
            "15",
            "Model output",
            f"A probability of response, a call and a risk (log hazard). {_threshold(files)}",
        ),
    ]
    apart = "Held-out patients are of the same cohort: same eligibility, outcome and predictors."
    if files.run.get("by_centre"):
        apart += " Each centre was held out in turn."
    if external:
        apart = "Set against each other in “Comparisons” and in the table of characteristics."
    rows.append(("16", "Training versus evaluation", apart))
    return rows


def _threshold(files: RunFiles) -> str:
    """How the threshold of the call came about."""
    if not files.called:
        return "No call: the patients who choose the threshold lack one of the two labels."
    chooser = files.metrics.get("chosen_on", {}).get("threshold")
    where = f"the {'training' if chooser == 'train' else chooser} patients" if chooser else "other patients"
    rule = f"Youden index on {where}"
    if files.run.get("folds"):
        rule += " of each fold"
    elif files.development is not None:
        rule += " of the run"
        if files.run["model"].get("folds"):
            rule = f"mean of the members' thresholds, each by the Youden index on {where} of its fold"
    return f"Threshold of the call: {rule}, then frozen; patients below it are the high-risk group."


def frozen(files: RunFiles) -> str:
    """What of the model was frozen before it met an external cohort."""
    model = files.run["model"]
    members = len(model["models"])
    threshold = finite(model["threshold"])
    who = model["chosen_on"]["threshold"]
    of = "the weights" if members == 1 else f"the weights of {members} members, whose predictions are averaged"
    how = f"chosen on {who} patients of the run"
    if model.get("folds"):
        how = f"the mean of those that each member chose on its {who} patients"
    choice = (
        f"the threshold of the probability ({number(threshold, '0.000')}, {how})"
        if math.isfinite(threshold)
        else "no threshold, because the run has none"
    )
    return (
        f"Frozen before this cohort was looked at: {of}, the standardisation of omics features (training patients), "
        f"{choice}. Probabilities are as the model gives them, without recalibration."
    )


LEARNT_NOTHING = (
    "The network behind the deep features of slides and CT had its weights drawn at random (setting embed.weights), so "
    "it had learnt nothing: they are for trying mumo out."
)
"""What a reader must know where `drawn_at_random`."""


def drawn_at_random(run: Mapping[str, Any]) -> bool:
    """Whether the deep features come from a network that has learnt nothing."""
    return str(run.get("weights", "")).startswith("random:")


def limits(files: RunFiles, present: Sequence[str], main: str | None) -> list[str]:
    """What the figures cannot say (item 26), as far as the run tells."""
    said = []
    if main is None:
        said.append("No patient was held out: nothing here says how the model does on new patients.")
    elif files.run.get("folds"):
        said.append(
            "Folds: each patient is ranked against patients of other folds by different models, which pulls the pooled "
            "AUC down a little; the AUC of pairs within a fold is free of that."
        )
    elif main == "validation":
        said.append("The held-out patients chose the weights, so their figures are optimistic.")
    if main:
        counts = files.metrics["parts"][main]
        smaller = min(counts["responders"], counts["labelled"] - counts["responders"])
        said.append(
            f"The smaller class of the {main} patients has {smaller}"
            + (
                "; with fewer than 100, calibration cannot be judged with confidence and intervals are wide."
                if smaller < 100
                else "."
            )
        )
    if "external" not in present:
        said.append(
            "No patients of an independent cohort are in this run, so it is not externally validated; mumo predict on "
            "another cohort does that."
        )
    elif files.development is not None:
        said += [
            "That these patients are independent of the model's is checked by id, follow-up and items alone.",
            "Shifts are looked for in items, omics features, deep features and predictions."
            if files.distances is not None and files.development.distances is not None
            else "Shifts are looked for in items, omics features and predictions; deep features are not compared, "
            "because the run keeps no distances of its patients.",
        ]
    if (fitted := files.run.get("windows_fitted_on", {}).get(main)) and files.development is None:
        said.append(
            f"The grey-level windows of the CT were fitted on lesions of {fitted} of the {main} patients, too: on "
            "their images, not on outcomes. The setting windows.split_file fits them on training patients only."
        )
    if drawn_at_random(files.run):
        said.append(LEARNT_NOTHING)
    if files.predictions["centre"].nunique() == 1:
        said.append("One centre only.")
    said.append("p values are not corrected for the number of tests; those of subgroups are descriptive.")
    said.append("mumo is not told how and when the data were collected.")
    said.append("Research software, not for decisions about patients.")
    return said

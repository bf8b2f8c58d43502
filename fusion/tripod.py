"""The items of TRIPOD+AI (Collins et al., BMJ 385:e078378, 2024), and where a report answers them.

Topics are those of the checklist, in a few words. Items that a run folder knows nothing of are for the authors.
"""

from __future__ import annotations

from dataclasses import dataclass

AUTHORS = ""
"""In place of a section: only the authors can say."""


@dataclass(frozen=True)
class Item:
    """One item of the checklist."""

    number: str
    topic: str
    section: str
    """Section of the page that answers it, or goes as far as a run folder can; `AUTHORS` where none does."""
    part: str = ""
    """What of it is left to the authors; empty: nothing."""


ITEMS = (
    Item("1", "Title", AUTHORS),
    Item("2", "Abstract", AUTHORS, "the summary has its figures"),
    Item("3a–c", "Background: context, target population, health inequalities", AUTHORS),
    Item("4", "Objectives", AUTHORS),
    Item("5a", "Data: sources", "methods", "why these, and whom they represent"),
    Item("5b", "Data: dates", "patients", "dates of accrual and of the end of follow-up"),
    Item("6a", "Participants: setting and centres", "patients", "setting and place of the centres"),
    Item("6b", "Participants: eligibility", AUTHORS),
    Item("6c", "Participants: treatments", "patients", "regimens and doses"),
    Item("7", "Data preparation and quality", "methods", "checks of quality; whether it was alike across groups"),
    Item("8a", "Outcome: definition and time", "methods", "why this one; how often patients were seen"),
    Item("8b–c", "Outcome: assessors and blinding", AUTHORS),
    Item("9a", "Predictors: how they were chosen", "methods"),
    Item("9b", "Predictors: definition and time", "methods", "that they are from before treatment; blinding"),
    Item("9c", "Predictors: assessors", AUTHORS),
    Item("10", "Sample size", "methods", "a calculation, if there was one"),
    Item("11", "Missing data", "methods", "why data are missing"),
    Item("12a", "Analysis: how the data were used", "methods"),
    Item("12b", "Analysis: how predictors enter", "methods"),
    Item("12c", "Analysis: type of model and how it was built", "methods", "tuning of settings, if there was any"),
    Item("12d", "Analysis: differences between centres", "methods"),
    Item("12e", "Analysis: measures of performance", "methods"),
    Item("12f", "Analysis: updating of the model", "methods"),
    Item("12g", "Analysis: how predictions were calculated", "methods"),
    Item("13", "Class imbalance", "methods"),
    Item("14", "Fairness", "groups", "groups that matter in the setting"),
    Item("15", "Model output", "methods"),
    Item("16", "Training versus evaluation", "methods", "differences in setting and eligibility"),
    Item("17", "Ethical approval", AUTHORS),
    Item("18a–d", "Funding, conflicts of interest, protocol, registration", AUTHORS),
    Item("18e–f", "Sharing of data and code", AUTHORS),
    Item("19", "Patient and public involvement", AUTHORS),
    Item("20a", "Results: flow of participants", "patients"),
    Item("20b", "Results: characteristics of participants", "patients"),
    Item("20c", "Results: comparison with the development data", "comparisons"),
    Item("21", "Results: participants and events of each analysis", "patients"),
    Item("22", "Results: the full model", "origin", "the weights, which are in the run folder; restrictions to use"),
    Item("23a", "Results: performance with intervals, and of subgroups", "metrics"),
    Item("23b", "Results: differences between centres", "groups"),
    Item("24", "Results: updating of the model", "methods"),
    Item("25", "Discussion: interpretation", AUTHORS),
    Item("26", "Discussion: limitations", "limits", "limits of the setting"),
    Item("27a", "Usability: poor or missing inputs", "methods"),
    Item("27b–c", "Usability: users, expertise, next steps", AUTHORS),
)


def checklist(*, external: bool) -> list[Item]:
    """The items as the page of a run, or of an external validation, answers them."""
    if external:
        return list(ITEMS)
    own = {
        "20c": Item(
            "20c", "Results: comparison with the development data", AUTHORS, "with mumo predict on another cohort"
        ),
    }
    return [own.get(item.number, item) for item in ITEMS]

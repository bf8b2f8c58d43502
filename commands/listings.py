"""What commands print of plans, stages, problems and metrics."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..config import Settings
    from ..errors import Problem
    from ..pipeline.check import Checked
    from ..pipeline.cohorts.cohort import Cohort
    from ..pipeline.extract import Choice, StageReport
    from ..pipeline.running.planning import Planned
    from ..stores.places import Place
    from ..stores.records import Store

FEW_HELD_OUT = 30
"""Held-out patients with a known response below which `fit` recommends folds."""

SHOWN_WARNINGS = 5
"""How many warnings of a stage are printed; all are in the store."""

SHOWN_ITEMS = 5
"""How many items with the same to say of them are named on a line."""

SHOWN_GROUPS = 50
"""For how many groups of annotations `check` prints a line to map them; more are hardly meant to be groups."""

SHOWN_REASONS = 20
"""How many reasons for what is to do are printed a stage and state."""


def print_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    """Each kind of problem on a line of stderr, with the rows that have it; `--json` has every row."""
    from ..errors import problem_lines

    for severity, line in problem_lines(problems):
        typer.echo(f"{severity}: {line}", err=True)


def print_check(found: Checked) -> None:
    """What `check` found: problems, words and groups to map, the cohort, how many problems, what follows from them."""
    from ..errors import problem_lines
    from ..pipeline.check import summary

    problems = found.problems
    print_problems(problems)
    for line in _words_to_map(problems):
        typer.echo(line)
    for line in _groups_to_map(problems):
        typer.echo(line)
    if found.cohort is not None:
        for line in summary(found.cohort):
            typer.echo(line)
    counts = []
    for severity in ("error", "warning"):
        alike = [p for p in problems if p.severity == severity]
        kinds = len(problem_lines(alike))
        places = f" in {len(alike)} places" if len(alike) > kinds else ""
        counts.append(f"{kinds} {severity}{'' if kinds == 1 else 's'}{places}")
    typer.echo(", ".join(counts))
    if not any(p.severity == "error" for p in problems):
        return
    if found.cohort is not None:
        typer.echo("The tables can be used. What the errors name fails alone in `mumo extract`; all else is computed.")
    else:
        typer.echo("Nothing is extracted until these are corrected. Slides, CT and masks are looked at after that.")


def _words_to_map(problems: list[Problem]) -> Iterator[str]:
    """Lines for the cohort file that would map the words which mumo does not know; the user fills in their meaning."""
    words: dict[tuple[str, str, str], list[str]] = {}
    for p in problems:
        if p.word:
            known = words.setdefault((p.table, p.field, p.expected), [])
            if p.word.casefold() not in (word.casefold() for word in known):
                known.append(p.word)
    if words:
        typer.echo('\nWords to map; put mumo\'s word in place of "?" ("" for unknown):\n')
    for (table, name, expected), found in words.items():
        section, _, number = table.partition(" ")
        where = f"; below the {number}. [[{section}]]" if number else ""
        yield f"[{section}.values.{name}]  # {expected}{where}"
        for word in found:
            yield f'{json.dumps(word, ensure_ascii=False)} = "?"'
        yield ""
    if several := _in_unlike_columns(words):
        from ..pipeline.cohorts.cohort_file import DEFAULT_UNKNOWN

        listed = json.dumps([*DEFAULT_UNKNOWN, *several], ensure_ascii=False)
        yield f"# {', '.join(several)}: in several columns. If that means unknown, list it once, in the section of each"
        yield f"# table that has it, instead of mapping it: unknown = {listed}"
        yield ""


def _groups_to_map(problems: list[Problem]) -> Iterator[str]:
    """Lines for the cohort file that would map the groups of annotations; the user fills in their classes."""
    groups = {group: slides for p in problems for group, slides in p.groups.items()}
    if not groups:
        return
    yield '\nGroups to map; put a class, 0 to 3, in place of "?" (0: no region), below [slides.region_classes]:\n'
    for group, slides in list(groups.items())[:SHOWN_GROUPS]:
        key = json.dumps(group, ensure_ascii=not group.isprintable())
        yield f'{key} = "?"  # {len(slides)} slide{"" if len(slides) == 1 else "s"}'
    if len(groups) > SHOWN_GROUPS:
        yield f"# and {len(groups) - SHOWN_GROUPS} more, which --json names"
    yield ""


def _in_unlike_columns(words: Mapping[tuple[str, str, str], list[str]]) -> list[str]:
    """Words that stand in columns which accept different things, and so are hardly an answer to any."""
    asked: dict[str, set[str]] = {}
    for (_, _, expected), found in words.items():
        for word in found:
            asked.setdefault(word.casefold(), set()).add(expected)
    every = dict.fromkeys(word for found in words.values() for word in found)
    return [word for word in every if len(asked.pop(word.casefold(), ())) > 1]


def print_dry_run(cohort: Cohort, store: Place, settings: Settings, choice: Choice, as_json: bool) -> None:
    """Say what `extract` would do, and what it takes; nothing is written.

    Raises:
        StoreError: the disk has no room for it.
    """
    from ..pipeline.extract import plan_extract
    from ..stores.records import Store

    existing = Store.find(store)
    plan = plan_extract(cohort, existing, settings, choice)
    print_plan(plan, as_json)
    print_estimates(existing, store, plan, quiet=as_json)


def print_plan(plan: list[Planned], as_json: bool) -> None:
    """What a dry run found: what is not done, items with the same reasons on a line, and the totals."""
    if as_json:
        rows = [
            {"stage": p.item.stage, "item": p.item.item, "state": p.state, "reasons": list(p.reasons)} for p in plan
        ]
        typer.echo(json.dumps(rows))
        return
    alike: dict[tuple[str, str, str], list[str]] = {}
    for p in plan:
        if p.state != "done":
            reasons = ", ".join(dict.fromkeys(_kind_of_reason(reason) for reason in p.reasons))
            alike.setdefault((p.item.stage, p.state, reasons), []).append(p.item.item)
    for (stage, state, reasons), items in alike.items():
        typer.echo(f"{stage}/{_some(items)}: {state}" + (f" ({reasons})" if reasons else ""))
    states = [p.state for p in plan]
    typer.echo(", ".join(f"{states.count(s)} {s}" for s in ("done", "new", "stale", "failed", "waiting")))


def print_estimates(existing: Store | None, store: Place, plan: list[Planned], *, quiet: bool) -> None:
    """What is to do takes so much; raises StoreError when the disk has no room for it."""
    from ..pipeline.running.estimates import check_room, estimate

    estimates = estimate(existing, plan)
    for e in () if quiet else estimates:
        if e.bytes == e.bytes:  # not NaN
            size, hours = f"{e.bytes / 1e9:.3g} GB", f"{e.seconds / 3600:.3g} h of one process"
            typer.echo(f"{e.stage}: {e.items} items, about {size} and {hours}, as the items already done")
        else:
            typer.echo(f"{e.stage}: {e.items} items; nothing of the kind is done yet, so their size is not known")
    if not quiet and any(e.bytes != e.bytes for e in estimates):
        typer.echo("Sizes are known once an item of each stage is done: run `mumo extract all … --only ID` first.")
    check_room(store, estimates)


def compare_with_cohort(
    store: Place, cohort: Path, data: Path | None, config: Path | None, assignments: list[str] | None
) -> dict[str, Any]:
    """Stage → state → number of items and reasons with their numbers, of a store against a cohort."""
    from collections import Counter

    from ..config import load_settings
    from ..pipeline.cohorts.cohort import load_cohort
    from ..pipeline.extract import Choice, plan_extract
    from ..stores.records import Store
    from ..stores.specs import STAGES

    settings = load_settings(config, assignments or ())
    loaded = load_cohort(cohort, data, settings.clinical)
    plan = plan_extract(loaded, Store.open(store), settings, Choice(STAGES))
    names = {"new": "to do"}
    result: dict[str, Any] = {}
    for stage in STAGES:
        rows = [p for p in plan if p.item.stage == stage]
        result[stage] = {
            names.get(state, state): {
                "items": sum(p.state == state for p in rows),
                "reasons": dict(
                    Counter(
                        _kind_of_reason(reason) for p in rows if p.state == state for reason in p.reasons
                    ).most_common()
                ),
            }
            for state in ("done", "new", "stale", "failed", "waiting")
        }
    return result


def print_status(status: dict[str, Any]) -> None:
    """What a store holds; against a cohort, what is to do and why, where that was asked for."""
    from ..stores.status import DICE_MEANING

    typer.echo(f"{'stage':<10} {'ok':>6} {'empty':>6} {'failed':>6} {'MB':>10}")
    for name, row in status["stages"].items():
        typer.echo(f"{name:<10} {row['ok']:>6} {row['empty']:>6} {row['failed']:>6} {row['bytes'] / 1e6:>10.1f}")
    stages = status["stages"].items()
    for line in _grouped((name, item, why) for name, row in stages for item, why in row["failures"].items()):
        typer.echo(f"failed: {line}")
    for line in _empty_lines({name: row["nothing_in"] for name, row in stages}):
        typer.echo(line)
    for method, row in status["dice"].items():
        typer.echo(
            f"masks by {method} against given ones: Dice {row['median']:.2f} (median), {row['lowest']:.2f} (lowest), "
            f"{row['lesions']} lesions"
        )
    if status["dice"]:
        typer.echo(f"  {DICE_MEANING}")
    for name, states in status.get("cohort", {}).items():
        typer.echo(f"{name}: " + ", ".join(f"{row['items']} {state}" for state, row in states.items()))
        for state, row in states.items():
            for reason, items in list(row["reasons"].items())[:SHOWN_REASONS]:
                typer.echo(f"  {state}: {items} because of {reason}")
    if "digest" in status:
        typer.echo(f"digest: {status['digest']}")


def _kind_of_reason(reason: str) -> str:
    """Reasons that name a single item upstream count as one for its stage."""
    return reason.partition("/")[0] if reason.startswith("after ") else reason


def print_reports(reports: list[StageReport], as_json: bool) -> None:
    """What each stage came to; failed and waiting items and the first warnings on stderr."""
    if as_json:
        typer.echo(json.dumps([{**vars(r), "complete": r.complete} for r in reports]))
        return
    for r in reports:
        typer.echo(
            f"{r.stage}: {r.planned} items: {r.ok} computed, {r.up_to_date} already done, {r.empty} empty, "
            f"{len(r.failed)} failed, {len(r.waiting)} waiting" + (f", {len(r.left)} not started" if r.left else "")
        )
    for r in reports:
        warnings = [f"warning: {r.stage}/{item}: {text}" for item, texts in r.warnings.items() for text in texts]
        for line in warnings[:SHOWN_WARNINGS]:
            typer.echo(line, err=True)
        if len(warnings) > SHOWN_WARNINGS:
            typer.echo(
                f"warning: {r.stage}: {len(warnings) - SHOWN_WARNINGS} more, see STORE/{r.stage}/records", err=True
            )
    for line in _empty_lines({r.stage: r.nothing_in for r in reports}):
        typer.echo(line, err=True)
    for line in _grouped((r.stage, item, why) for r in reports for item, why in r.failed.items()):
        typer.echo(f"failed: {line}", err=True)
    for line in _grouped((r.stage, item, why) for r in reports for item, why in r.waiting.items()):
        typer.echo(f"waiting: {line}", err=True)


def _grouped(entries: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    """A line for each reason: the stages and items that have it, and the reason."""
    alike: dict[str, list[str]] = {}
    for stage, item, reason in entries:
        alike.setdefault(reason, []).append(f"{stage}/{item}")
    for reason, names in alike.items():
        yield f"{_some(names)}: {reason}"


def _empty_lines(stages: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Which items are empty, and why, with the first one's figures; stages that read them say nothing again."""
    alike: dict[str, dict[str, str]] = {}
    for stage, nothing_in in stages.items():
        for item, reason in nothing_in.items():
            if reason:
                alike.setdefault(re.sub(r"[0-9]+", "#", reason), {})[f"{stage}/{item}"] = reason
    for reasons in alike.values():
        yield f"empty: {_some(list(reasons))}: {next(iter(reasons.values()))}"


def _some(items: Sequence[str]) -> str:
    """The first items by name, and how many more there are."""
    more = f" and {len(items) - SHOWN_ITEMS} more" if len(items) > SHOWN_ITEMS else ""
    return ", ".join(items[:SHOWN_ITEMS]) + more


def print_robustness(summary: dict[str, Any], as_json: bool) -> None:
    """The AUC under each annotator, and how far risk and calls move."""
    if as_json:
        typer.echo(json.dumps(summary))
        return
    from .terminal import format_interval

    typer.echo(
        f"{summary['slides_moved']} slides and {summary['lesions_moved']} lesions drawn otherwise, "
        f"{summary['left_as_drawn']} with masks or label images left as drawn"
    )
    for name, found in summary["auc"].items():
        typer.echo(f"{name}: AUC {format_interval(found)} of {summary['labelled']} {' and '.join(summary['parts'])}")
    spread = summary["probability_sd"]
    if spread["median"] is not None:
        typer.echo(
            f"{summary['touched']} patients touched: a patient's probability varies by {spread['median']:.3f} (median "
            f"standard deviation), at most {spread['most']:.3f}; ICC of the risk {summary['risk_icc']:.3f}"
        )
    if summary["calls_changed"] is not None:
        typer.echo(f"calls that change: {summary['calls_changed']} of {summary['touched']}")


def print_external(folder: Path) -> None:
    """Of an external validation the main figures, and what a reader must know."""
    from ..fusion.checkpoint import read_metrics, run_facts
    from ..fusion.external import cautions
    from .terminal import format_interval

    values = read_metrics(folder)["parts"]["external"]
    shown = format_interval(values["auc"])
    typer.echo(f"{values['labelled']} with a known response, {values['responders']} of them responders; AUC {shown}")
    for endpoint in ("pfs", "os"):
        found = values[endpoint]
        typer.echo(f"C-index, {endpoint.upper()} ({found['events']} events): {format_interval(found['c_index'])}")
    for text in cautions(run_facts(folder)):
        typer.echo(f"note: {text}")


def print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    """The AUC of every part of a run with what the part was used for, and the spread of an ensemble."""
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    from .terminal import format_interval

    roles: dict[str, list[str]] = {"train": ["fitted to"]}
    for what, part in metrics["chosen_on"].items():
        roles.setdefault(part, []).append(f"chose the {what}")
    for part, values in metrics["parts"].items():
        shown = format_interval(values["auc"])
        role = "; ".join(roles.get(part, [])) or "held out from training and every choice"
        typer.echo(f"{part}: {values['patients']} patients, {values['labelled']} labelled, AUC {shown}  [{role}]")
    if metrics["headline"] is None:
        typer.echo(
            "nobody was held out from everything, so every AUC above is optimistic: set fit.split.test, or use --folds"
        )
    elif metrics["headline"] == "test" and "spread" not in metrics:
        count = metrics["parts"]["test"]["labelled"]
        if count < FEW_HELD_OUT:
            hint = f"{count} labelled patients held out say little: --folds 5 predicts every patient out of fold"
            typer.echo(hint, err=True)
    for part in metrics["parts"].values():
        if "auc_within_folds" in part:
            typer.echo(f"AUC of pairs within a fold: {format_interval(part['auc_within_folds'])}")
    spread = metrics.get("spread", {})
    for what in ("seeds", "folds"):
        if found := spread.get(what):
            figures = f"mean {found['mean']:.3f}, {found['low']:.3f} to {found['high']:.3f}"
            typer.echo(f"AUC of {what}, {spread['part']} patients: {figures}")

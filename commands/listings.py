"""What commands print of plans, stages, problems and metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..errors import Problem
    from ..pipeline.extract import StageReport
    from ..pipeline.running.planning import Planned
    from ..stores.places import Place
    from ..stores.records import Store

SHOWN_WARNINGS = 5
"""How many warnings of a stage are printed; all are in the store."""

SHOWN_REASONS = 20
"""How many reasons for what is to do are printed a stage and state."""


def print_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    """Each kind of problem on a line of stderr, with the rows that have it; `--json` has every row."""
    from ..errors import problem_lines

    for severity, line in problem_lines(problems):
        typer.echo(f"{severity}: {line}", err=True)


def print_plan(plan: list[Planned], as_json: bool) -> None:
    """What a dry run found: every item that is not done, with its reasons, and the totals."""
    if as_json:
        rows = [
            {"stage": p.item.stage, "item": p.item.item, "state": p.state, "reasons": list(p.reasons)} for p in plan
        ]
        typer.echo(json.dumps(rows))
        return
    for p in plan:
        if p.state != "done":
            typer.echo(f"{p.item.stage}/{p.item.item}: {p.state}" + (f" ({', '.join(p.reasons)})" if p.reasons else ""))
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
    typer.echo(f"{'stage':<10} {'ok':>6} {'empty':>6} {'failed':>6} {'MB':>10}")
    for name, row in status["stages"].items():
        typer.echo(f"{name:<10} {row['ok']:>6} {row['empty']:>6} {row['failed']:>6} {row['bytes'] / 1e6:>10.1f}")
    for name, row in status["stages"].items():
        for item, reason in row["failures"].items():
            typer.echo(f"failed: {name}/{item}: {reason}")
    for method, row in status["dice"].items():
        typer.echo(
            f"masks by {method} against given ones: Dice {row['median']:.2f} (median), {row['lowest']:.2f} (lowest), "
            f"{row['lesions']} lesions"
        )
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
        for item, reason in r.failed.items():
            typer.echo(f"failed: {r.stage}/{item}: {reason}", err=True)
        for item, reason in r.waiting.items():
            typer.echo(f"waiting: {r.stage}/{item}: {reason}", err=True)


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
        role = "; ".join(roles.get(part, [])) or "held out from everything"
        typer.echo(f"{part}: {values['patients']} patients, {values['labelled']} labelled, AUC {shown}  [{role}]")
    if metrics["headline"] is None:
        typer.echo(
            "nobody was held out from everything, so every AUC above is optimistic: set fit.split.test, or use --folds"
        )
    for part in metrics["parts"].values():
        if "auc_within_folds" in part:
            typer.echo(f"AUC of pairs within a fold: {format_interval(part['auc_within_folds'])}")
    spread = metrics.get("spread", {})
    for what in ("seeds", "folds"):
        if found := spread.get(what):
            figures = f"mean {found['mean']:.3f}, {found['low']:.3f} to {found['high']:.3f}"
            typer.echo(f"AUC of {what}, {spread['part']} patients: {figures}")

"""The command line. The only module that talks to the terminal; heavy imports stand inside command bodies."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from .errors import Problem
    from .pipeline.extract import StageReport
    from .pipeline.planning import Planned

DONE, WRONG, SOME_FAILED = 0, 2, 3
SHOWN_WARNINGS = 5
"""How many warnings of a stage are printed; all are in the store."""

app = typer.Typer(
    name="mumo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Slides, CT, reports and tables of a cancer cohort to cached feature stores, and MuMo trained on them.\n\n"
    "Exit codes: 0 all done; 2 the call, the configuration or the cohort is wrong and nothing was started; "
    "3 finished, but some items failed and are listed.",
)

CohortFile = Annotated[Path, typer.Argument(metavar="COHORT", help="Cohort file (TOML).")]
StoreFolder = Annotated[Path, typer.Argument(metavar="STORE", help="Folder of the feature store.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the training run.")]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", envvar="MUMO_CONFIG", help="Settings (TOML).")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. tiles.working_mpp=1.0; may be repeated."),
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder of the data, in place of the cohort file's.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ExtractDevice = Annotated[
    str | None, typer.Option("--device", help="auto, cpu or cuda. Default: the setting run.device.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Local processes; 0 = in this process. Default: one a core."),
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that mumo raises on purpose end with exit code 2 and their message."""
    from .errors import MumoError

    try:
        app(args=arguments)
    except MumoError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(WRONG)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, and the same command goes on from there", err=True)
        sys.exit(130)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make; must not exist or be empty.")],
    no_signal: Annotated[
        bool, typer.Option("--no-signal", help="Draw images and items independent of the outcome.")
    ] = False,
    patients: Annotated[int, typer.Option(min=40, help="Number of patients.")] = 120,
    seed: Annotated[int, typer.Option(help="Seed of the cohort.")] = 0,
    workers: Workers = None,
    verbose: Verbose = False,
) -> None:
    """Make a small synthetic cohort and run everything on it: extract, fit, report.

    Reads nothing; writes DIR/cohort (slides, CT, tables), DIR/store and DIR/run; prints the AUC on held-out patients
    and where the report is. Takes a few minutes. Returns 0, or 3 when an item failed.
    """
    _set_up_logging(verbose)
    from .demo import run_demo

    result = run_demo(folder, patients=patients, seed=seed, signal=not no_signal, workers=_workers(workers))
    _print_reports(result.stages, as_json=False)
    typer.echo(f"AUC on {result.held_out} held-out patients: {result.auc}")
    typer.echo(f"report: {result.report}")
    raise typer.Exit(_exit_code(result.stages))


@app.command()
def check(
    cohort: CohortFile,
    data: DataFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Validate a cohort: tables, words, files, resolutions, annotations, masks. Writes nothing.

    Reads the cohort file, its tables and the headers of its slides and CT studies, and lists every problem with
    table, row, column, what was found and what is accepted. Returns 0, or 2 when there is an error.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .pipeline.check import check_cohort

    problems = check_cohort(cohort, data, load_settings(config, assignments or ()))
    errors = sum(problem.severity == "error" for problem in problems)
    if as_json:
        typer.echo(json.dumps([vars(problem) for problem in problems], ensure_ascii=False))
    else:
        _print_problems(problems)
        typer.echo(f"{errors} errors, {len(problems) - errors} warnings")
    raise typer.Exit(WRONG if errors else DONE)


@app.command()
def extract(
    stage: Annotated[
        str,
        typer.Argument(metavar="STAGE", help="tiles, windows, rois, embed, radiomics, clinical, or all."),
    ],
    cohort: CohortFile,
    store: StoreFolder,
    data: DataFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS|FILE", help="Dask scheduler to run on, or its scheduler file.")
    ] = None,
    device: ExtractDevice = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this slide, CT study or patient; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is done.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed although nothing has changed.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and why; write nothing.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compute features: one stage, or all. Resumes: what is done and up to date is not computed again.

    Reads the cohort and, for later stages, the store; writes STORE/STAGE. Returns 0 when everything is there,
    2 when the call or the cohort is wrong, 3 when some items failed; those are listed.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .pipeline.cohort import load_cohort
    from .pipeline.execute import make_executor
    from .pipeline.extract import Choice, plan_extract
    from .pipeline.extract import extract as run_extract
    from .pipeline.stages import stage_names
    from .stores.records import Store
    from .terminal import progress_bars

    settings = load_settings(config, [*(assignments or ()), *([f"run.device={device}"] if device else [])])
    choice = Choice(stage_names(stage), tuple(only or ()), force, retry_failed)
    loaded = load_cohort(cohort, data, settings.clinical)
    if dry_run:
        existing = Store.open(store) if (store / "store.json").exists() else None
        _print_plan(plan_extract(loaded, existing, settings, choice), as_json)
        return
    _print_problems(loaded.warnings)
    with make_executor(_workers(workers), scheduler, settings) as executor, progress_bars() as bars:
        reports = run_extract(loaded, Store.create(store), settings, choice, executor, bars)
    _print_reports(reports, as_json)
    raise typer.Exit(_exit_code(reports))


@app.command()
def status(
    store: StoreFolder,
    digest: Annotated[
        bool, typer.Option("--digest", help="Also print a digest: equal for stores of equal content.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a store holds: items done and failed a stage, and sizes. Reads the store, writes nothing."""
    from .stores.records import Store
    from .stores.status import store_status

    result = store_status(Store.open(store), with_digest=digest)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(f"{'stage':<10} {'ok':>6} {'empty':>6} {'failed':>6} {'MB':>10}")
    for name, row in result["stages"].items():
        typer.echo(f"{name:<10} {row['ok']:>6} {row['empty']:>6} {row['failed']:>6} {row['bytes'] / 1e6:>10.1f}")
    for name, row in result["stages"].items():
        for item, reason in row["failures"].items():
            typer.echo(f"failed: {name}/{item}: {reason}")
    if digest:
        typer.echo(f"digest: {result['digest']}")


@app.command()
def fit(
    store: StoreFolder,
    run: RunFolder,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is already there.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train MuMo on a store.

    Reads STORE; writes the packed features into it once, and everything about the run into RUN: weights, settings,
    split, log, predictions, metrics. Returns 0, or 2 when the store cannot be trained on.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .fusion.train import fit as run_fit
    from .terminal import epoch_bar

    settings = load_settings(config, assignments or ())
    with epoch_bar() as bar:
        metrics = run_fit(store, run, settings, device=device, force=force, progress=bar)
    _print_metrics(metrics, as_json)
    typer.echo(f"run: {run}", err=as_json)


@app.command()
def predict(
    run: RunFolder,
    store: StoreFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    device: Device = "auto",
    verbose: Verbose = False,
) -> None:
    """Predict response and risk for the patients of a store.

    Reads RUN and STORE; writes the table OUT, one row a patient. Returns 0, or 2 when the store does not fit the run.
    """
    _set_up_logging(verbose)
    from .fusion.predict import predict as run_predict

    rows = run_predict(run, store, out, device=device)
    typer.echo(f"{len(rows)} patients: {out}")


@app.command()
def report(run: RunFolder, verbose: Verbose = False) -> None:
    """Write RUN/report.html, one page that needs no network: ROC, Kaplan–Meier, learning curves, every patient.

    Reads the folder of a run. Returns 0, or 2 when the run is not complete.
    """
    _set_up_logging(verbose)
    from .fusion.report import write_report

    typer.echo(f"report: {write_report(run)}")


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _workers(workers: int | None) -> int:
    from .pipeline.execute import default_workers

    return default_workers() if workers is None else workers


def _exit_code(reports: list[StageReport]) -> int:
    return DONE if all(report.complete for report in reports) else SOME_FAILED


def _print_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    for problem in problems:
        typer.echo(f"{problem.severity}: {problem}", err=True)


def _print_plan(plan: list[Planned], as_json: bool) -> None:
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


def _print_reports(reports: list[StageReport], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([{**vars(r), "complete": r.complete} for r in reports]))
        return
    for r in reports:
        typer.echo(
            f"{r.stage}: {r.planned} items: {r.ok} computed, {r.up_to_date} already done, {r.empty} empty, "
            f"{len(r.failed)} failed, {len(r.waiting)} waiting"
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


def _print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    from .terminal import format_interval

    for part, values in metrics["parts"].items():
        shown = format_interval(values["auc"])
        typer.echo(f"{part}: {values['patients']} patients, {values['labelled']} labelled, AUC {shown}")


if __name__ == "__main__":
    main()

"""The command line. It, `listings.py` and `terminal.py` talk to the terminal; heavy imports stand inside bodies."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .explain.command import explain
from .listings import (
    compare_with_cohort,
    print_estimates,
    print_metrics,
    print_plan,
    print_problems,
    print_reports,
    print_robustness,
    print_status,
)
from .stores.places import parse_place

if TYPE_CHECKING:
    from .pipeline.extract import StageReport

DONE, WRONG, SOME_FAILED = 0, 2, 3

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
StoreFolder = Annotated[
    Any, typer.Argument(metavar="STORE", parser=parse_place, help="Folder of the feature store, or its URL (s3://…).")
]
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
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what was killed; finished trainings are kept.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ExtractDevice = Annotated[
    str | None, typer.Option("--device", help="auto, cpu or cuda. Default: the setting run.device.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=0, help="Local processes; 0 = in this process, without limits. Default: one a core."),
]

Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS|FILE", help="Dask scheduler to run on, or its scheduler file.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow a scheduler on another machine without TLS.")]


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
    print_reports(result.stages, as_json=False)
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
        print_problems(problems)
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
    scheduler: Scheduler = None,
    device: ExtractDevice = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this slide, CT study or patient; may be repeated.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is done.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try again what failed although nothing has changed.")
    ] = False,
    max_failures: Annotated[
        str, typer.Option(metavar="N|P%", help="Start nothing more when more than N items, or P% of a stage, failed.")
    ] = "",
    insecure: Insecure = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, why, and what it takes; write nothing.")
    ] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compute features: one stage, or all. Resumes: what is done and up to date is not computed again.

    Reads the cohort and, for later stages, the store; writes STORE/STAGE, and an account of the run (items, failures,
    settings, versions, a summary) in STORE/runs. Returns 0 when everything is there, 2 when the call or the cohort is
    wrong, 3 when some items failed; those are listed.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .pipeline.cohorts.cohort import load_cohort
    from .pipeline.extract import Choice, plan_extract
    from .pipeline.extract import extract as run_extract
    from .pipeline.running.execute import make_executor
    from .pipeline.stages import stage_names
    from .stores.records import Store
    from .terminal import progress_bars

    settings = load_settings(config, [*(assignments or ()), *([f"run.device={device}"] if device else [])])
    choice = Choice(stage_names(stage), tuple(only or ()), force, retry_failed, max_failures)
    loaded = load_cohort(cohort, data, settings.clinical)
    if dry_run:
        existing = Store.find(store)
        plan = plan_extract(loaded, existing, settings, choice)
        print_plan(plan, as_json)
        print_estimates(existing, store, plan, quiet=as_json)
        return
    print_problems(loaded.warnings)
    with make_executor(_workers(workers), scheduler, settings, insecure=insecure) as executor, progress_bars() as bars:
        typer.echo(f"running on {executor.where}", err=True)
        reports = run_extract(loaded, Store.create(store), settings, choice, executor, bars)
    print_reports(reports, as_json)
    raise typer.Exit(_exit_code(reports))


@app.command()
def status(
    store: StoreFolder,
    digest: Annotated[
        bool, typer.Option("--digest", help="Also print a digest: equal for stores of equal content.")
    ] = False,
    cohort: Annotated[
        Path | None,
        typer.Option("--cohort", metavar="FILE", help="Also compare with this cohort: what is to do, stale, and why."),
    ] = None,
    data: DataFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Also write one page with failures and pictures for checking."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="With --html: most pictures of a stage.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Say what a store holds: items done and failed a stage, and sizes; with a cohort, also what is to do or stale.

    Reads the store and, when named, the cohort; writes the page of --html, which needs no other file and no network.
    Returns 0.
    """
    from .stores.records import Store
    from .stores.status import store_status

    found = Store.open(store)
    result = store_status(found, with_digest=digest)
    if cohort is not None:
        result["cohort"] = compare_with_cohort(store, cohort, data, config, assignments)
    if page is not None:
        from .stores.status_page import write_status_page

        write_status_page(found, result, page, pictures=pictures)
    if as_json:
        typer.echo(json.dumps(result))
        return
    print_status(result)


@app.command()
def fit(
    store: StoreFolder,
    run: RunFolder,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    folds: Annotated[
        int, typer.Option(help="Stratified folds: each patient is predicted by models that have not seen it.")
    ] = 0,
    seeds: Annotated[
        int, typer.Option(min=1, help="Trainings, or trainings a fold, whose predictions are averaged.")
    ] = 1,
    leave_one_centre_out: Annotated[bool, typer.Option("--leave-one-centre-out", help="One fold a centre.")] = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    resume: Resume = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is already there.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train MuMo on a store: once, or many times with --folds and --seeds.

    Reads STORE; writes the packed features into it once, and everything about the run into RUN: weights, settings,
    split, log, predictions, metrics, a model card. Of an ensemble, RUN/members holds a run each, and RUN the mean
    predictions over seeds (with folds, of all patients out of fold) with their metrics and the spread between seeds
    and folds. Returns 0, or 2 when the store cannot be trained on.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .errors import ConfigError
    from .fusion.seeds import fit_many
    from .fusion.train import fit as run_fit
    from .pipeline.running.training import training_pool
    from .terminal import epoch_bar, member_bar

    settings = load_settings(config, assignments or ())
    if folds or seeds > 1 or leave_one_centre_out:
        with member_bar() as said, training_pool(scheduler, settings, insecure=insecure) as pool:
            metrics = fit_many(
                store, run, settings, folds=folds, seeds=seeds, by_centre=leave_one_centre_out, device=device,
                workers=workers, force=force, resume=resume, done=said, pool=pool,
            )  # fmt: skip
    elif scheduler is not None:
        raise ConfigError("--scheduler: is for many trainings; use it with --folds, --seeds or --leave-one-centre-out")
    else:
        with epoch_bar() as bar:
            metrics = run_fit(store, run, settings, device=device, force=force, resume=resume, progress=bar)
    print_metrics(metrics, as_json)
    typer.echo(f"run: {run}", err=as_json)


@app.command()
def ablate(
    store: StoreFolder,
    run: RunFolder,
    config: ConfigFile = None,
    assignments: Assignments = None,
    device: Device = "auto",
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this ablation and the full model; may be repeated.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, whose predictions are averaged.")] = 1,
    workers: Workers = None,
    scheduler: Scheduler = None,
    insecure: Insecure = False,
    resume: Resume = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is already there.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Train the paper's ablations on one split, and print what each part of the model adds.

    Reads STORE; writes RUN/ablations.parquet and RUN/ablations.json, and the run of each training into RUN/members.
    Returns 0, or 2 when the store cannot be trained on.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .fusion.ablate import ablate as run_ablate
    from .fusion.ablate import table_lines
    from .pipeline.running.training import training_pool
    from .terminal import member_bar

    settings = load_settings(config, assignments or ())
    with member_bar() as said, training_pool(scheduler, settings, insecure=insecure) as pool:
        table = run_ablate(
            store, run, settings, names=only or (), seeds=seeds, device=device, workers=workers, force=force,
            resume=resume, done=said, pool=pool,
        )  # fmt: skip
    typer.echo((run / "ablations.json").read_text(encoding="utf-8") if as_json else "\n".join(table_lines(table)))


@app.command()
def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="ONNX file to write.")],
    verbose: Verbose = False,
) -> None:
    """Export a trained model as ONNX, for programs without PyTorch; needs the extra `onnx`.

    Reads RUN; writes OUT, which predicts one patient from the features of a store. Returns 0, or 2 when RUN is not
    finished.
    """
    _set_up_logging(verbose)
    from .fusion.export import export_onnx

    inputs = export_onnx(run, out)
    typer.echo(f"{out}: inputs {', '.join(inputs)}")


@app.command()
def predict(
    run: RunFolder,
    store: StoreFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Parquet file to write.")],
    device: Device = "auto",
    table: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Table of a further modality; may be repeated.")
    ] = None,
    allow_other_windows: Annotated[
        bool, typer.Option("--allow-other-windows", help="Accept CT with other grey-level windows than in training.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Predict response and risk for the patients of a store.

    Reads RUN and STORE; writes the table OUT, one row a patient. Of a RUN over folds, its members are averaged.
    Returns 0, or 2 when the store does not fit the run.
    """
    _set_up_logging(verbose)
    from .fusion.predict import predict as run_predict

    tables = {name: Path(file) for name, _, file in (entry.partition("=") for entry in table or ())}
    rows = run_predict(run, store, out, device=device, tables=tables, allow_other_windows=allow_other_windows)
    typer.echo(f"{len(rows)} patients: {out}")


@app.command()
def robustness(
    cohort: CohortFile,
    store: StoreFolder,
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the annotators' stores, on the store's disk.")],
    sets: Annotated[int, typer.Option(min=1, help="Annotators to simulate, besides the one who drew.")] = 5,
    share: Annotated[
        float, typer.Option(min=0.001, max=0.5, help="Size of the moves, as a share of what is outlined.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of the moves.")] = 0,
    data: DataFolder = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    workers: Workers = None,
    device: Device = "auto",
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Ask how much predictions depend on the annotator: outlines and boxes are moved a little, and all that they touch
    is extracted again and predicted.

    Reads the cohort, STORE and a finished RUN; writes a store for each annotator to OUT, which shares the files of
    what is untouched, and the spread of risk and AUC to RUN/robustness; `mumo report` shows it. Returns 0, or 3 when an
    item failed.
    """
    _set_up_logging(verbose)
    from .config import load_settings
    from .pipeline.cohorts.cohort import load_cohort
    from .pipeline.running.execute import make_executor
    from .robustness import run_robustness

    settings = load_settings(config, assignments or ())
    loaded = load_cohort(cohort, data, settings.clinical)
    with make_executor(_workers(workers), None, settings) as executor:
        summary, reports = run_robustness(
            loaded, store, run, out, settings, executor, sets=sets, seed=seed, share=share, device=device, tables={}
        )
    print_robustness(summary, as_json)
    raise typer.Exit(_exit_code(reports))


@app.command()
def baselines(
    store: StoreFolder,
    run: RunFolder,
    verbose: Verbose = False,
) -> None:
    """Train simpler predictors on a run's split and compare them with its model.

    Logistic regression and gradient boosting on codes and pooled features, attention pooling on each modality, late
    fusion. Reads STORE and a finished RUN; writes RUN/baselines: predictions of each and comparison.csv, with paired
    DeLong tests. Returns 0, or 2 when the run is not complete or of another store.
    """
    _set_up_logging(verbose)
    from .fusion.baselines import baselines as run_baselines

    table = run_baselines(store, run, said=lambda name: typer.echo(f"{name} …", err=True))
    held_out = table[table["part"] == table["part"].iloc[0]]
    typer.echo(f"AUC of the {held_out['part'].iloc[0]} patients, and p of its difference to mumo's:")
    for row in held_out.itertuples():
        p = "" if row.p != row.p else f"p = {row.p:.2g}"  # the model's own row has none
        typer.echo(f"{row.predictor:<18} {row.auc:.3f} ({row.auc_low:.3f}–{row.auc_high:.3f})  {p}")
    typer.echo(f"baselines: {run / 'baselines'}")


@app.command()
def readers(
    run: RunFolder,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="CSV with columns patient, reader, and call or score.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; RUN/readers shows in the report.")],
    verbose: Verbose = False,
) -> None:
    """Compare human readers with a run's model on its held-out patients.

    Reads a finished RUN and TABLE (a row a patient and reader); writes OUT/readers.csv, readers.json and roc.svg:
    points on the ROC curve, McNemar and paired DeLong tests, Levene's test on bootstrap spreads. Returns 0, or 2 when
    the table cannot be used.
    """
    _set_up_logging(verbose)
    from .fusion.readers import compare_readers
    from .terminal import format_interval

    for row in compare_readers(run, table, out):
        p = row["delong"]["p"]
        shown = f"AUC {format_interval(row['auc'])}, model {format_interval(row['model_auc'])}"
        typer.echo(f"{row['reader']}: {row['patients']} patients, {shown}" + ("" if p is None else f", p = {p:.2g}"))
    typer.echo(f"readers: {out}")


@app.command()
def report(
    run: RunFolder,
    ablations: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of a `mumo ablate` to show. Default: RUN/ablations.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write RUN/report.html, one page that needs no network, and its figures and their numbers into RUN/report.

    Reads the folder of a run or of an ensemble. Returns 0, or 2 when the run is not complete.
    """
    _set_up_logging(verbose)
    from .fusion.report import write_report

    typer.echo(f"report: {write_report(run, ablations)}")


@app.command()
def radiomics(
    image: Annotated[
        Path, typer.Argument(metavar="IMAGE", help="Volume (NIfTI, NRRD, MHA) or picture (PNG, TIFF, JPEG).")
    ],
    mask: Annotated[
        Path | None, typer.Argument(metavar="MASK", help="Label volume or picture of the region. Default: all of it.")
    ] = None,
    label: Annotated[int | None, typer.Option(help="Label that is the region. Default: every label.")] = None,
    parameters: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PyRadiomics parameter file. Default: the preset.")
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Compare the fast engine with PyRadiomics on an image of your own: features, seconds, largest difference.

    Reads IMAGE and MASK; writes nothing. Returns 0, or 2 when the image or the parameters cannot be used.
    """
    _set_up_logging(verbose)
    from .pipeline.omics.compare import compare_files

    found = compare_files(image, mask, parameters, label)
    if as_json:
        rows = {f.name: {"fast": f.fast, "pyradiomics": f.pyradiomics} for f in found.features}
        seconds = {"fast": found.fast_s, "pyradiomics": found.pyradiomics_s}
        typer.echo(json.dumps({"seconds": seconds, "features": rows}))
        return
    for f in found.features:
        typer.echo(f"{f.name:<60} {f.fast:>22.15g} {f.pyradiomics:>22.15g}")
    typer.echo(
        f"{len(found.features)} features: fast {found.fast_s:.3f} s, PyRadiomics {found.pyradiomics_s:.3f} s, "
        f"ratio {found.pyradiomics_s / found.fast_s:.1f}; largest relative difference {found.worst.difference:.1e} "
        f"({found.worst.name})"
    )


@app.command("export-bags")
def export_bags(
    store: StoreFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
) -> None:
    """Write the bags of every slide as annotations, to look at over the slide.

    Reads STORE; writes OUT/slide-ID.geojson for QuPath and OUT/slide-ID.xml for ASAP. Returns 0, or 2 when OUT is not
    empty.
    """
    from .pipeline.pathology.export import export_bags as run_export
    from .stores.records import Store

    typer.echo(f"{len(run_export(Store.open(store), out))} files: {out}")


app.command()(explain)


def _set_up_logging(verbose: bool) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def _workers(workers: int | None) -> int:
    from .pipeline.running.execute import default_workers

    return default_workers() if workers is None else workers


def _exit_code(reports: list[StageReport]) -> int:
    return DONE if all(report.complete for report in reports) else SOME_FAILED


if __name__ == "__main__":
    main()

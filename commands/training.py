"""The commands that train and ask models: fit, ablate, predict, report, robustness, baselines, readers, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .listings import print_external, print_metrics, print_robustness
from .options import (
    AsJson,
    Assignments,
    CohortFile,
    ConfigFile,
    DataFolder,
    Device,
    Insecure,
    OtherWindows,
    Resume,
    RunFolder,
    Scheduler,
    StoreFolder,
    Tables,
    Verbose,
    Workers,
    exit_code,
    set_up_logging,
    table_files,
    worker_count,
)


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
    set_up_logging(verbose)
    from ..config import load_settings
    from ..errors import ConfigError
    from ..fusion.seeds import fit_many
    from ..fusion.train import fit as run_fit
    from ..pipeline.running.training import training_pool
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
    set_up_logging(verbose)
    from ..config import load_settings
    from ..fusion.ablate import ablate as run_ablate
    from ..fusion.ablate import table_lines
    from ..pipeline.running.training import training_pool
    from .terminal import member_bar

    settings = load_settings(config, assignments or ())
    with member_bar() as said, training_pool(scheduler, settings, insecure=insecure) as pool:
        table = run_ablate(
            store, run, settings, names=only or (), seeds=seeds, device=device, workers=workers, force=force,
            resume=resume, done=said, pool=pool,
        )  # fmt: skip
    typer.echo((run / "ablations.json").read_text(encoding="utf-8") if as_json else "\n".join(table_lines(table)))


def predict(
    run: RunFolder,
    store: StoreFolder,
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="OUT.parquet or OUT.csv: a table. Any other name: a folder for `mumo report`."
        ),
    ],
    device: Device = "auto",
    table: Tables = None,
    allow_other_windows: OtherWindows = False,
    new_patients: Annotated[
        bool, typer.Option("--new-patients", help="Ids that the run has, too, are other people's (OUT a folder).")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Predict response and risk for the patients of a store.

    Reads RUN and STORE; writes OUT. OUT.parquet (or OUT.csv) is a table, one row a patient. An OUT of any other name is
    a folder for an external validation: the frozen model on another cohort, without patients of the run's own, of which
    `mumo report OUT` makes a page. The members of an ensemble are averaged. Returns 0, or 2 when the store does not fit
    the run, or nobody is new.
    """
    set_up_logging(verbose)
    from ..errors import ConfigError
    from ..fusion.external import validate
    from ..fusion.predict import predict as run_predict

    how: dict[str, Any] = {"device": device, "tables": table_files(table), "allow_other_windows": allow_other_windows}
    if out.suffix.lower() in (".parquet", ".csv"):
        if new_patients:
            raise ConfigError("--new-patients: is for a folder; a table names the part of every patient")
        typer.echo(f"{len(run_predict(run, store, out, **how))} patients: {out}")
        return
    rows = validate(run, store, out, **how, new_patients=new_patients)
    typer.echo(f"{len(rows)} patients new to the model: {out}")
    print_external(out)


def report(
    run: RunFolder,
    ablations: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of a `mumo ablate` to show. Default: RUN/ablations.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write RUN/report.html, one page that needs no network, and its figures and their numbers into RUN/report.

    Reads the folder of a run, of an ensemble, or of an external validation by `mumo predict`. Returns 0, or 2 when it
    is not complete.
    """
    set_up_logging(verbose)
    from ..fusion.report import write_report

    typer.echo(f"report: {write_report(run, ablations)}")


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
    table: Tables = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Ask how much predictions depend on the annotator: outlines and boxes are moved a little, and all that they touch
    is extracted again and predicted.

    Reads the cohort, STORE and a finished RUN; writes a store for each annotator to OUT, which shares the files of
    what is untouched, and the spread of risk and AUC to RUN/robustness; `mumo report` shows it. Returns 0, or 3 when an
    item failed.
    """
    set_up_logging(verbose)
    from ..config import load_settings
    from ..pipeline.cohorts.cohort import load_cohort
    from ..pipeline.running.execute import make_executor
    from .robustness import run_robustness

    settings = load_settings(config, assignments or ())
    loaded = load_cohort(cohort, data, settings.clinical)
    with make_executor(worker_count(workers), None, settings) as executor:
        summary, reports = run_robustness(
            loaded, store, run, out, settings, executor, sets=sets, seed=seed, share=share, device=device,
            tables=table_files(table),
        )  # fmt: skip
    print_robustness(summary, as_json)
    raise typer.Exit(exit_code(reports))


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
    set_up_logging(verbose)
    from ..fusion.baselines import baselines as run_baselines

    table = run_baselines(store, run, said=lambda name: typer.echo(f"{name} …", err=True))
    held_out = table[table["part"] == table["part"].iloc[0]]
    typer.echo(f"AUC of the {held_out['part'].iloc[0]} patients, and p of its difference to mumo's:")
    for row in held_out.itertuples():
        p = "" if row.p != row.p else f"p = {row.p:.2g}"  # the model's own row has none
        known = row.auc_low == row.auc_low  # of too few patients there is no interval
        interval = f"({row.auc_low:.3f}–{row.auc_high:.3f})" if known else "(no interval: too few patients)"
        typer.echo(f"{row.predictor:<18} {row.auc:.3f} {interval}  {p}".rstrip())
    typer.echo(f"baselines: {run / 'baselines'}")


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
    set_up_logging(verbose)
    from ..fusion.readers import compare_readers
    from .terminal import format_interval

    for row in compare_readers(run, table, out):
        p = row["delong"]["p"]
        shown = f"AUC {format_interval(row['auc'])}, model {format_interval(row['model_auc'])}"
        typer.echo(f"{row['reader']}: {row['patients']} patients, {shown}" + ("" if p is None else f", p = {p:.2g}"))
    typer.echo(f"readers: {out}")


def export(
    run: RunFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="ONNX file to write.")],
    verbose: Verbose = False,
) -> None:
    """Export a trained model as ONNX, for programs without PyTorch; needs the extra `onnx`.

    Reads RUN; writes OUT, which predicts one patient from the features of a store. Returns 0, or 2 when RUN is not
    finished.
    """
    set_up_logging(verbose)
    from ..fusion.export import export_onnx

    inputs = export_onnx(run, out)
    typer.echo(f"{out}: inputs {', '.join(inputs)}")

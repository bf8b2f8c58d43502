"""The commands that make stores and look at them, and `demo`. Heavy imports stand inside bodies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .listings import (
    compare_with_cohort,
    print_check,
    print_dry_run,
    print_problems,
    print_reports,
    print_status,
)
from .options import (
    DONE,
    WRONG,
    AsJson,
    Assignments,
    CohortFile,
    ConfigFile,
    DataFolder,
    ExtractDevice,
    Insecure,
    Scheduler,
    StoreFolder,
    Verbose,
    Workers,
    exit_code,
    set_up_logging,
    worker_count,
)


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
    """Make a small synthetic cohort and run everything on it: extract, fit, explain, report.

    Reads nothing; writes DIR/cohort (slides, CT, tables), DIR/store and DIR/run; prints the AUC on held-out patients
    and where the report and the explanations are. Takes a few minutes. Returns 0, or 3 when an item failed.
    """
    set_up_logging(verbose)
    from .demo import run_demo

    result = run_demo(folder, patients=patients, seed=seed, signal=not no_signal, workers=worker_count(workers))
    print_reports(result.stages, as_json=False)
    typer.echo(f"AUC on {result.held_out} held-out patients: {result.auc}")
    typer.echo(f"explanations: {result.explanations}")
    typer.echo(f"report: {result.report}")
    raise typer.Exit(exit_code(result.stages))


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
    set_up_logging(verbose)
    from ..config import load_settings
    from ..pipeline.check import check_cohort

    found = check_cohort(cohort, data, load_settings(config, assignments or ()))
    if as_json:
        typer.echo(json.dumps([vars(problem) for problem in found.problems], ensure_ascii=False))
    else:
        print_check(found)
    raise typer.Exit(WRONG if any(problem.severity == "error" for problem in found.problems) else DONE)


def extract(
    stage: Annotated[
        str, typer.Argument(metavar="STAGE", help="tiles, windows, rois, embed, radiomics, clinical, or all.")
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
    set_up_logging(verbose)
    from ..config import load_settings
    from ..pipeline.cohorts.cohort import load_cohort
    from ..pipeline.extract import Choice, prepare
    from ..pipeline.extract import extract as run_extract
    from ..pipeline.running.execute import make_executor
    from ..pipeline.stages import stage_names
    from ..stores.records import Store
    from .terminal import progress_bars

    settings = load_settings(config, [*(assignments or ()), *([f"run.device={device}"] if device else [])])
    choice = Choice(stage_names(stage), tuple(only or ()), force, retry_failed, max_failures)
    loaded = load_cohort(cohort, data, settings.clinical)
    if dry_run:
        print_dry_run(loaded, store, settings, choice, as_json)
        return
    print_problems(loaded.warnings)
    if scheduler is None:  # else what the workers have counts
        prepare(loaded, Store.find(store), settings, choice)
    executor = make_executor(worker_count(workers), scheduler, settings, insecure=insecure)
    with executor, progress_bars() as bars:
        typer.echo(f"running on {executor.where}", err=True)
        reports = run_extract(loaded, Store.create(store), settings, choice, executor, bars)
    print_reports(reports, as_json)
    raise typer.Exit(exit_code(reports))


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
    from ..stores.records import Store
    from ..stores.status import store_status

    found = Store.open(store)
    result = store_status(found, with_digest=digest)
    if cohort is not None:
        result["cohort"] = compare_with_cohort(store, cohort, data, config, assignments)
    if page is not None:
        from ..stores.status_page import write_status_page

        write_status_page(found, result, page, pictures=pictures)
    if as_json:
        typer.echo(json.dumps(result))
        return
    print_status(result)


def export_bags(
    store: StoreFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist or be empty.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Write the bags of every slide as annotations, to look at over the slide.

    Reads STORE; writes OUT/slide-ID.geojson for QuPath and OUT/slide-ID.xml for ASAP. Returns 0, or 2 when OUT is not
    empty.
    """
    from ..config import load_settings
    from ..pipeline.pathology.export import export_bags as run_export
    from ..stores.records import Store

    tiles = load_settings(config, assignments or ()).tiles
    typer.echo(f"{len(run_export(Store.open(store), out, tiles))} files: {out}")


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
    set_up_logging(verbose)
    from ..pipeline.omics.compare import compare_files

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

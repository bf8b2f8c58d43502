"""Options that commands share, and what they all do at their start and end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..stores.places import parse_place

if TYPE_CHECKING:
    from ..pipeline.extract import StageReport

DONE, WRONG, SOME_FAILED, INTERRUPTED = 0, 2, 3, 130
"""Exit codes."""


CohortFile = Annotated[Path, typer.Argument(metavar="COHORT", help="Cohort file (TOML).")]
StoreFolder = Annotated[
    Path,  # or a UPath: typer shows the type in the help, where "path" says more than the name of the union
    typer.Argument(metavar="STORE", parser=parse_place, help="Folder of the feature store, or its URL (s3://…)."),
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
Tables = Annotated[
    list[str] | None, typer.Option("--table", metavar="NAME=FILE", help="Table of a further modality; may be repeated.")
]
OtherWindows = Annotated[
    bool, typer.Option("--allow-other-windows", help="Accept CT with other grey-level windows than in training.")
]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS|FILE", help="Dask scheduler to run on, or its scheduler file.")
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow a scheduler on another machine without TLS.")]


def set_up_logging(verbose: bool) -> None:
    """Log lines on stderr: warnings, and with --verbose what happens."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def worker_count(workers: int | None) -> int:
    """What --workers means: one process a core unless it says otherwise."""
    from ..pipeline.running.execute import default_workers

    return default_workers() if workers is None else workers


def exit_code(reports: list[StageReport]) -> int:
    """The exit code of an extraction: whether everything that was planned is there."""
    return DONE if all(report.complete for report in reports) else SOME_FAILED


def table_files(entries: list[str] | None) -> dict[str, Path]:
    """What --table NAME=FILE means."""
    return {name: Path(file) for name, _, file in (entry.partition("=") for entry in entries or ())}

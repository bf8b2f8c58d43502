"""The command line: which commands there are. What they do is in `commands`."""

from __future__ import annotations

import os
import sys

import typer

from .commands import extraction, training
from .commands.explain.command import explain
from .commands.init import init
from .commands.options import INTERRUPTED, WRONG

app = typer.Typer(
    name="mumo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Slides, CT, reports and tables of a cancer cohort to cached feature stores, and MuMo trained on them.\n\n"
    "Exit codes: 0 all done; 2 the call, the configuration or the cohort is wrong and nothing was started; "
    "3 finished, but some items failed and are listed.",
)

for command in (
    extraction.demo,
    init,
    extraction.check,
    extraction.extract,
    extraction.status,
    training.fit,
    training.ablate,
    training.predict,
    training.report,
    explain,
    training.robustness,
    training.baselines,
    training.readers,
    training.export,
    extraction.radiomics,
):
    app.command()(command)
app.command("export-bags")(extraction.export_bags)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors that mumo raises on purpose end with exit code 2 and their message."""
    from .errors import MumoError

    # read when PyTorch is loaded: the model is small, so more threads only wait for each other, for minutes on a busy
    # machine; stages that gain from threads set their own number
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app(args=arguments)
    except MumoError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(WRONG)
    except SystemExit as ended:
        # typer makes this exit code of Ctrl-C
        if ended.code == INTERRUPTED:
            typer.echo(
                "stopped; what was finished is kept: run extract again, or fit with --resume, to go on",
                err=True,
            )
        raise


if __name__ == "__main__":
    main()

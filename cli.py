"""The command line: which commands there are. What they do is in `commands`."""

from __future__ import annotations

import sys

import typer

from .commands import extraction, training
from .commands.explain.command import explain
from .commands.options import WRONG

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

    try:
        app(args=arguments)
    except MumoError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(WRONG)
    except KeyboardInterrupt:
        typer.echo("stopped; what was finished is kept, and the same command goes on from there", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()

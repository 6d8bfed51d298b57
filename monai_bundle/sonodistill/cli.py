"""The `sonodistill` command: finds the command groups by entry point and turns named errors into exit code 2."""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

from sonodistill import __version__
from sonodistill.errors import SonoDistillError

COMMANDS = "sonodistill.commands"
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

logger = logging.getLogger(__name__)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Small ultrasound foundation encoders: distil, fine-tune, annotate and deploy."""
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")


def build() -> typer.Typer:
    """The command tree. An entry point of the group ``sonodistill.commands`` is a Typer app or a plain function."""
    # Plain help: drawing it with Rich takes longer than everything else that --help does.
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(_root)
    for point in sorted(entry_points(group=COMMANDS), key=lambda point: point.name):
        loaded = point.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=point.name)
        else:
            app.command(point.name)(loaded)
    return app


def _tell(error: str) -> None:
    typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
    typer.echo(error, err=True)


def main() -> None:
    """Run the command line; bad input, a path that cannot be used included, ends in one message and exit code 2.

    Ctrl-C ends in 130; any other error is a fault of the program and shows its traceback. ``--verbose`` logs that of a
    path too.
    """
    try:
        build()()
    except SonoDistillError as error:
        _tell(str(error))
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        if not isinstance(error.filename, (str, bytes)):
            raise
        logger.info("traceback", exc_info=error)
        _tell(f"{os.fsdecode(error.filename)}: {error.strerror or error}")
        sys.exit(EXIT_BAD_INPUT)
    except ModuleNotFoundError as error:
        typer.echo(f"error: this command needs {error.name}, which is not installed", err=True)
        typer.echo("  What to do: pip install 'sonodistill[all]' (in a checkout: pip install -e '.[all]')", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:  # what Typer makes of Ctrl-C
            typer.echo("interrupted; run the same command again to go on where it stopped", err=True)
        raise

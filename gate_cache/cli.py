"""The command line: all commands by name, and errors of ours as lines."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # saves 20 ms; we have none

import typer

from gate_cache.commands import extraction, pictures, plans, stores, training, viewer
from gate_cache.commands.options import with_options
from gate_cache.core.errors import GateCacheError, OldSpelling

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    rich_markup_mode=None,  # another would take [words] or <words> in helps for markup
    help="Cache diffusion features once, train on them many times (GATE, NeurIPS 2024).",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# in the order of their use, which help keeps
for _command in (plans.validate, plans.data, plans.plan, extraction.extract, plans.status,
                 stores.inspect, stores.show, stores.verify, stores.diff, stores.prune, stores.push,
                 stores.pull,
                 plans.layers, training.probe, training.train, training.sweep, training.evaluate,
                 training.report, extraction.lora, extraction.caption, pictures.match,
                 pictures.predict, pictures.score, pictures.guideline, viewer.view):
    app.command()(with_options(_command))


@app.command()
def version() -> None:
    """Print the version."""
    from gate_cache import __version__

    typer.echo(__version__)


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _options(_: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version,
                                             help="Print the version.")] = False) -> None:
    pass


def main() -> None:
    """Run the command line; errors and warnings of ours are lines, not tracebacks."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, OldSpelling):
            typer.echo(f"note: {message}", err=True)
        else:
            usual(message, category, *place, **more)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default", OldSpelling)
            warnings.showwarning = show
            app()
    except GateCacheError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:  # what the system refuses is no fault of the program
        place = f"{error.filename}: " if error.filename else ""
        typer.echo(f"error: {place}{error.strerror or error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

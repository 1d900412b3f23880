"""Looking into a store with a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gate_cache.commands.options import HERE, Computes, Trial


def view(target: Annotated[str, typer.Argument(
             help="A manifest, or a store (whose pictures are not shown then).")],
         run: Annotated[list[Path] | None, typer.Option(
             help="A training of head nn or conv, to match by its feature; may be repeated.",
         )] = None,
         trial: Trial = None,
         port: Annotated[int, typer.Option(
             min=0, max=65535, help="Port of the server; 0 for any free one.")] = 0,
         browser: Annotated[bool, typer.Option(
             "--browser/--no-browser", help="Open the page, or only print its address.")] = True,
         on: Computes = HERE) -> None:
    """Browse a store: maps, attention, matches by click. Ctrl-C ends it."""
    from gate_cache.analysis.session import open_session
    from gate_cache.core.places import parse_place
    from gate_cache.report.terminal.console import console_progress
    from gate_cache.viewer.server import serve

    session = open_session(parse_place(target), on.roots, console_progress(), runs=run or (),
                            trial=trial, device=on.device)
    serve(session, port, browser, typer.echo)

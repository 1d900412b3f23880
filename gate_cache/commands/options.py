"""What commands share: options, and how they end. Nothing heavy is imported at the top."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from gate_cache.core.errors import Interrupted

ManifestPath = Annotated[Path, typer.Argument(help="The manifest, a YAML file.")]
Data = Annotated[Path | None, typer.Option(
    help="Folder that holds the data sets [GATE_CACHE_DATA, else data/].")]
Models = Annotated[Path | None, typer.Option(
    help="Folder that holds models and LoRAs [GATE_CACHE_MODELS, else models/].")]
Stores = Annotated[str | None, typer.Option(
    help="Folder or URL (s3://bucket/stores …) that holds the stores [GATE_CACHE_STORES, else"
    " stores/].")]
Runs = Annotated[Path | None, typer.Option(
    help="Folder for run directories [GATE_CACHE_RUNS, else runs/].")]
Outside = Annotated[bool, typer.Option(
    "--allow-outside", help="Allow paths in the manifest that leave these folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Device = Annotated[str | None, typer.Option(
    help="cpu, cuda, cuda:1 … [a GPU where there is one].")]


@contextmanager
def interruptible(left: str) -> Iterator[None]:
    """Say in one line what Ctrl-C left."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {left}") from None


def print_json(found: Any, **more: Any) -> None:
    """What was found, for a program."""
    data = found if isinstance(found, dict) else dataclasses.asdict(found)
    typer.echo(json.dumps({**data, **more}, indent=2, default=str, ensure_ascii=False))

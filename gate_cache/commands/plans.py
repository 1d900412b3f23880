"""Commands that run nothing: what a manifest says, needs and has."""

from __future__ import annotations

from typing import Annotated

import typer

from gate_cache.commands.options import (
    HERE,
    Computes,
    Json,
    ManifestPath,
    Models,
    Outside,
    Pictures,
    Reads,
    parse_size,
    print_json,
)
from gate_cache.core.roots import Roots


def validate(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Check a manifest: all problems at once, and which of its files are not here."""
    from gate_cache.core.errors import ManifestError
    from gate_cache.extraction.validate import NotReady
    from gate_cache.extraction.validate import validate as stage

    try:
        found = stage(on.open(manifest))
    except NotReady as error:
        raise ManifestError([*(f"{manifest.name}: not ready: {line}" for line in error.problems),
                              *(f"{manifest.name}: not here yet: {line}" for line in error.absent)
                              ]) from None
    if as_json:
        return print_json(found)
    typer.echo(f"{found.manifest}: sound, {found.combos} combos")
    for line in found.data:
        typer.echo(line)
    for line in found.absent:
        typer.echo(f"note: {line}")


def data(manifest: ManifestPath, on: Pictures = HERE, as_json: Json = False) -> None:
    """Show what the data set holds: splits, classes, labels, points; and what is wrong with it.

    Exit code 2 where something is.
    """
    from gate_cache.workspace.data_summary import data as stage

    found = stage(on.open(manifest))
    if as_json:
        print_json(found)
    else:
        from gate_cache.report.terminal.data import show_data

        show_data(found)
    if found.faults:
        raise typer.Exit(2)


def plan(manifest: ManifestPath,
         disk: Annotated[str | None, typer.Option(
             help="Room for the store, such as 100GB or 2TB [what is free].")] = None,
         rate: Annotated[float | None, typer.Option(
             min=1e-9, help="UNet passes a second, to say hours.")] = None,
         measure: Annotated[bool, typer.Option(
             "--measure", help="Run a batch of every combo, to say hours.")] = False,
         on: Computes = HERE, as_json: Json = False) -> None:
    """Show what extracting will cost: passes, bytes, files, hours; and what would fit the disk.

    Runs nothing but what --measure asks for.
    """
    from gate_cache.extraction.plan import plan as stage

    work, seconds = on.open(manifest), None
    if measure:
        from gate_cache.extraction.measure import seconds_an_image

        seconds = seconds_an_image(work)
    found = stage(work, room=parse_size(disk), rate=rate, seconds=seconds)
    if as_json:
        return print_json(found, unet_passes=found.unet_passes, bytes=found.bytes,
                           files=found.files, folders=found.folders, hours=found.hours)
    from gate_cache.report.terminal.tables import show_plan

    show_plan(found)


def status(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Show per combo what is done, missing, or stale and why."""
    from gate_cache.extraction.status import status as stage

    found = stage(on.open(manifest))
    if as_json:
        return print_json(found, complete=found.complete)
    from gate_cache.report.terminal.tables import show_status

    show_status(found)


def layers(model: Annotated[str, typer.Argument(
               help="tiny, a folder or .safetensors below the models root, or a hub id.")],
           size: Annotated[int | None, typer.Option(
               min=1, help="Side of the input in pixels [the model's own].")] = None,
           config: Annotated[str | None, typer.Option(
               help="Of a .safetensors file: the folder with its tokenizers.")] = None,
           variant: Annotated[str | None, typer.Option(help="Such as fp16.")] = None,
           models: Models = None, outside: Outside = False, as_json: Json = False) -> None:
    """Show what a model offers: maps, shapes, sizes, digests. Loads no weights."""
    from gate_cache.extraction.layers import layers as stage
    from gate_cache.manifest.specs import ModelSpec

    spec = ModelSpec(source=[model], config=config, variant=variant)
    found = stage(spec, Roots.resolve(outside, models=models), size)
    if as_json:
        return print_json(found)
    from gate_cache.report.terminal.tables import show_layers

    show_layers(found)

"""Commands that run nothing: what a manifest says, needs and has."""

from __future__ import annotations

from pathlib import Path
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
    parse_sides,
    parse_size,
    print_result,
)
from gate_cache.core.roots import Roots


def validate(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Check a manifest: all problems at once, and which of its files are not here."""
    from gate_cache.core.errors import ManifestError, counted
    from gate_cache.extraction.validate import NotReady
    from gate_cache.extraction.validate import validate as stage

    try:
        checked = stage(on.open(manifest))
    except NotReady as error:
        raise ManifestError([*(f"{manifest.name}: not ready: {line}" for line in error.problems),
                              *(f"{manifest.name}: not here yet: {line}" for line in error.absent)
                              ]) from None
    lines = [f"{checked.manifest}: valid, {counted(checked.combos, 'combo')}",
             *checked.data, *(f"note: {line}" for line in checked.absent)]
    print_result(checked, lambda _: typer.echo("\n".join(lines)), as_json)


def data(manifest: ManifestPath, on: Pictures = HERE, as_json: Json = False) -> None:
    """Show what the data set holds: splits, classes, labels, points; and what is wrong with it.

    Exit code 2 if anything is wrong.
    """
    from gate_cache.report.terminal.tables import show_data
    from gate_cache.workspace.data_summary import data as stage

    summary = stage(on.open(manifest))
    print_result(summary, show_data, as_json)
    if summary.faults:
        raise typer.Exit(2)


def plan(manifest: ManifestPath,
         disk: Annotated[str | None, typer.Option(
             help="Room for the store, such as 100GB or 2TB [what is free].")] = None,
         rate: Annotated[float | None, typer.Option(
             min=1e-9, help="Model passes per second, to estimate hours.")] = None,
         measure: Annotated[bool, typer.Option(
             "--measure", help="Run one batch of every combo, to estimate hours.")] = False,
         on: Computes = HERE, as_json: Json = False) -> None:
    """Show what extracting will cost: passes, bytes, files, hours; and what would fit the disk.

    Runs nothing but what --measure asks for.
    """
    from gate_cache.extraction.plan import plan as stage
    from gate_cache.report.terminal.tables import show_plan

    work, seconds = on.open(manifest), None
    if measure:
        from gate_cache.extraction.passes import seconds_an_image

        seconds = seconds_an_image(work)
    cost = stage(work, room=parse_size(disk), rate=rate, seconds=seconds)
    print_result(cost, show_plan, as_json, unet_passes=cost.unet_passes, hours=cost.hours)


def status(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Show per combo what is done, missing, or stale and why."""
    from gate_cache.extraction.status import status as stage
    from gate_cache.report.terminal.tables import show_status

    state = stage(on.open(manifest))
    print_result(state, show_status, as_json, complete=state.complete)


def layers(model: Annotated[str, typer.Argument(
               help="tiny, a folder or .safetensors below the models root, or a hub id.")],
           size: Annotated[str | None, typer.Option(
               help="Of the input in pixels, as 512 or 512x1024, height first [the model's"
               " own].")] = None,
           config: Annotated[str | None, typer.Option(
               help="For a .safetensors file: the folder with its tokenizers.")] = None,
           variant: Annotated[str | None, typer.Option(help="Such as fp16.")] = None,
           every: Annotated[bool, typer.Option(
               "--all", help="Also the maps that combos have only by name.")] = False,
           models: Models = None, outside: Outside = False, as_json: Json = False) -> None:
    """Show what a model offers: maps, shapes, sizes, digests. Loads no weights."""
    from gate_cache.extraction.layers import layers as stage
    from gate_cache.manifest.specs import ModelSpec
    from gate_cache.report.terminal.tables import show_layers

    spec = ModelSpec(source=[model], config=config, variant=variant)
    typed = Path(model).is_absolute()  # what is typed is asked for; manifests are others' texts
    roots = Roots.resolve(outside or typed, models=models)
    print_result(stage(spec, roots, parse_sides(size) if size else None, every), show_layers,
                 as_json)

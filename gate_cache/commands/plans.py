"""Commands that run nothing: what a manifest says, needs and has."""

from __future__ import annotations

from typing import Annotated

import typer

from gate_cache.commands.options import (
    Data,
    Json,
    ManifestPath,
    Models,
    Outside,
    Stores,
    print_json,
)
from gate_cache.core.roots import Roots


def validate(manifest: ManifestPath, data: Data = None, models: Models = None,
             stores: Stores = None, outside: Outside = False, as_json: Json = False) -> None:
    """Check a manifest: all problems at once, and which of its files are not here."""
    from gate_cache.extraction.validate import validate as stage
    from gate_cache.manifest.load import load

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
    if as_json:
        return print_json(found)
    typer.echo(f"{found.manifest}: sound, {found.combos} combos")
    for line in (*found.notes, *found.absent):
        typer.echo(f"note: {line}")


def plan(manifest: ManifestPath, data: Data = None, models: Models = None, stores: Stores = None,
         outside: Outside = False, as_json: Json = False) -> None:
    """Show what extracting will cost: combos, UNet passes, bytes, files. Runs nothing."""
    from gate_cache.extraction.plan import plan as stage
    from gate_cache.manifest.load import load

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
    if as_json:
        return print_json(found, unet_passes=found.unet_passes, bytes=found.bytes,
                           files=found.files)
    from gate_cache.report.terminal.tables import show_plan

    show_plan(found)


def status(manifest: ManifestPath, data: Data = None, models: Models = None, stores: Stores = None,
           outside: Outside = False, as_json: Json = False) -> None:
    """Show per combo what is done, missing, or stale and why."""
    from gate_cache.extraction.status import status as stage
    from gate_cache.manifest.load import load

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
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

"""Stage 1: what a manifest says, needs and has; features into the store; LoRAs and captions."""

from __future__ import annotations

from typing import Annotated, Literal

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
    interruptible,
    parse_size,
    print_result,
    refuse,
)
from gate_cache.core.errors import DataError, UserError
from gate_cache.core.roots import Roots


def validate(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Check a manifest: all problems at once, and which of its files are not here."""
    from gate_cache.core.errors import ManifestError
    from gate_cache.extraction.validate import NotReady
    from gate_cache.extraction.validate import validate as stage

    try:
        checked = stage(on.open(manifest))
    except NotReady as error:
        raise ManifestError([*(f"{manifest.name}: not ready: {line}" for line in error.problems),
                              *(f"{manifest.name}: not here yet: {line}" for line in error.absent)
                              ]) from None
    lines = [f"{checked.manifest}: valid, {checked.combos} combos", *checked.data,
             *(f"note: {line}" for line in checked.absent)]
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
             min=1e-9, help="UNet passes per second, to estimate hours.")] = None,
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
        from gate_cache.extraction.measure import seconds_an_image

        seconds = seconds_an_image(work)
    cost = stage(work, room=parse_size(disk), rate=rate, seconds=seconds)
    print_result(cost, show_plan, as_json, unet_passes=cost.unet_passes, bytes=cost.bytes,
                 files=cost.files, folders=cost.folders, hours=cost.hours)


def status(manifest: ManifestPath, on: Reads = HERE, as_json: Json = False) -> None:
    """Show per combo what is done, missing, or stale and why."""
    from gate_cache.extraction.status import status as stage
    from gate_cache.report.terminal.tables import show_status

    state = stage(on.open(manifest))
    print_result(state, show_status, as_json, complete=state.complete)


def layers(model: Annotated[str, typer.Argument(
               help="tiny, a folder or .safetensors below the models root, or a hub id.")],
           size: Annotated[int | None, typer.Option(
               min=1, help="Side of the input in pixels [the model's own].")] = None,
           config: Annotated[str | None, typer.Option(
               help="For a .safetensors file: the folder with its tokenizers.")] = None,
           variant: Annotated[str | None, typer.Option(help="Such as fp16.")] = None,
           models: Models = None, outside: Outside = False, as_json: Json = False) -> None:
    """Show what a model offers: maps, shapes, sizes, digests. Loads no weights."""
    from gate_cache.extraction.layers import layers as stage
    from gate_cache.manifest.specs import ModelSpec
    from gate_cache.report.terminal.tables import show_layers

    spec = ModelSpec(source=[model], config=config, variant=variant)
    print_result(stage(spec, Roots.resolve(outside, models=models), size), show_layers, as_json)


def extract(manifest: ManifestPath, batch: Annotated[str | None, typer.Option(
                help="Images per pass for this run, or auto: as many as fit [as when the"
                " store was created].")] = None, threads: Annotated[int | None, typer.Option(
                min=1, help="CPU threads of a pass [as when the store was created].",
            )] = None, workers: Annotated[int, typer.Option(
                min=0, help="Dask workers on this machine, one per GPU if there are any [none].",
            )] = 0, scheduler: Annotated[str, typer.Option(
                help="Address of a running dask scheduler, such as tcp://host:8786.",
            )] = "", rehash: Annotated[bool, typer.Option(
                "--rehash", help="Read every image, also those whose file looks unchanged.",
            )] = False, on: Computes = HERE, as_json: Json = False) -> None:
    """Stage 1: run the diffusion model for all that is missing. Resumes after an interruption."""

    work = on.open(manifest)
    with interruptible("finished blocks are kept, run the same command again to resume"):
        from gate_cache.extraction.extract import Workers
        from gate_cache.extraction.extract import extract as stage
        from gate_cache.report.terminal.tables import show_extracted

        refuse(workers and scheduler,
               "--workers starts workers, --scheduler has them: give one of the two")
        spread = Workers(workers, scheduler) if workers or scheduler else None
        done = stage(work, batch=_batch(batch), threads=threads, spread=spread, rehash=rehash)
    print_result(done, show_extracted, as_json)
    if done.unread:
        raise DataError("\n".join([*done.unread.values(), f"{len(done.unread)} of {done.images}"
                                   " images cannot be read and were left out; fix them and run"
                                   " the same command again"]))


def _batch(given: str | None) -> int | Literal["auto"] | None:
    if given in (None, "auto"):
        return given  # type: ignore[return-value]
    if not (given.isdecimal() and int(given)):
        raise UserError(f"--batch {given}: is to be a number from 1 on, or auto")
    return int(given)


def lora(manifest: ManifestPath,
         out: Annotated[str | None, typer.Option(
             help="The file, below the models root [<manifest>-lora.safetensors].")] = None,
         steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 1000,
         save_at: Annotated[str | None, typer.Option(
             help="Earlier steps whose LoRAs to keep too, as in 500,1000.")] = None,
         images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 30,
         rank: Annotated[int, typer.Option(min=1)] = 64,
         alpha: Annotated[float, typer.Option(help="Scales the LoRA by alpha / rank.")] = 32.0,
         lr: Annotated[float, typer.Option(min=0, help="Learning rate of the UNet.")] = 1e-4,
         text_lr: Annotated[float, typer.Option(
             min=0, help="Learning rate of the text encoder; 0 leaves it unchanged.")] = 5e-5,
         batch: Annotated[int, typer.Option(min=1, help="Images per step.")] = 2,
         seed: Annotated[int, typer.Option(min=0, help="Random seed for images and training.")] = 0,
         captions: Annotated[str | None, typer.Option(
             help="Captions, below the data root [as caption writes them, if there].")] = None,
         force: Annotated[bool, typer.Option(
             "--force", help="Overwrite existing files.")] = False,
         on: Computes = HERE, as_json: Json = False) -> None:
    """Train a LoRA on random training images. Resumes after an interruption."""

    work = on.open(manifest)
    with interruptible("run the same command again to resume from the last checkpoint"):
        from gate_cache.extraction.lora.files import LoraOutput, parse_steps
        from gate_cache.extraction.lora.train import train_lora
        from gate_cache.extraction.lora.trainer import LoraSettings

        trained = train_lora(work, LoraSettings(rank, alpha, lr, text_lr, batch, seed),
                             LoraOutput(steps, parse_steps(save_at), out, force), images=images,
                             captions=captions)
    lines = [*(f"step {step}: {path}" for step, path in trained.paths.items()),
             f"in a combo: lora: {{source: {trained.source}}}"]
    print_result(trained, lambda _: typer.echo("\n".join(lines)), as_json)


def caption(manifest: ManifestPath,
            model: Annotated[str, typer.Option(
                help="A captioner of the transformers library, such as"
                " microsoft/kosmos-2-patch14-224: a folder below the models root, or a hub id.",
            )] = "Salesforce/blip-image-captioning-base",
            revision: Annotated[str | None, typer.Option(help="Revision of a hub id.")] = None,
            out: Annotated[str | None, typer.Option(
                help="The file, below the data root [captions/<manifest>.jsonl].")] = None,
            batch: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 8,
            on: Computes = HERE, as_json: Json = False) -> None:
    """Write a caption for every image, by a captioner. Resumes after an interruption."""
    from gate_cache.extraction.caption import caption as stage

    work = on.open(manifest)
    with interruptible("captions so far are kept, run the same command again to resume"):
        captions = stage(work, model=model, revision=revision, out=out, batch=batch)
    line = f"{captions.path}: {captions.images} images, {captions.new} captioned now"
    again = "" if captions.new else "; remove the file to caption them again"
    print_result(captions, lambda _: typer.echo(line + again), as_json)

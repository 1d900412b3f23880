"""Stage 1: features into the store; LoRAs and captions for it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from gate_cache.commands.options import (
    HERE,
    Computes,
    Json,
    ManifestPath,
    interruptible,
    print_result,
    refuse,
)
from gate_cache.core.errors import DataError, UserError, counted


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
    if done.unread:  # told last, and by the exit code: the rest is extracted
        raise DataError("\n".join([*done.unread.values(), f"{len(done.unread)} of {done.images}"
                                   " images cannot be read and were left out; fix them and run"
                                   " the same command again"]))


def _batch(given: str | None) -> int | Literal["auto"] | None:
    if given in (None, "auto"):
        return given  # type: ignore[return-value]
    if not (given.isdecimal() and int(given)):
        raise UserError(f"--batch {given}: expected a whole number from 1 on, or auto")
    return int(given)


def lora(manifest: ManifestPath,
         out: Annotated[str | None, typer.Option(
             help="The file, below the models root [<manifest>-lora.safetensors].")] = None,
         steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 1000,
         save_at: Annotated[str | None, typer.Option(
             help="Earlier steps whose LoRAs to keep too, as in 500,1000.")] = None,
         images: Annotated[int, typer.Option(min=1, help="Images to train on.")] = 30,
         rank: Annotated[int, typer.Option(min=1, help="Rank of the LoRA.")] = 64,
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
    from gate_cache.extraction.captions.caption import caption as stage

    work = on.open(manifest)
    with interruptible("captions so far are kept, run the same command again to resume"):
        captions = stage(work, model=model, revision=revision, out=out, batch=batch)
    line = f"{captions.path}: {counted(captions.images, 'image')}, {captions.new} captioned now"
    again = "" if captions.new else "; remove the file to caption them again"
    print_result(captions, lambda _: typer.echo(line + again), as_json)

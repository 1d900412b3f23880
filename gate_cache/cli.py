"""The command line. Every command is a few lines that call one stage; nothing heavy at the top."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # saves 20 ms; we have none

import typer

from gate_cache.errors import GateCacheError, Interrupted, UserError
from gate_cache.roots import Roots

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Cache diffusion features once, train on them many times (GATE, NeurIPS 2024).",
    context_settings={"help_option_names": ["-h", "--help"]},
)

ManifestPath = Annotated[Path, typer.Argument(help="The manifest, a YAML file.")]
Data = Annotated[Path | None, typer.Option(
    help="Folder that holds the data sets [GATE_CACHE_DATA, else data/].")]
Models = Annotated[Path | None, typer.Option(
    help="Folder that holds models and LoRAs [GATE_CACHE_MODELS, else models/].")]
Stores = Annotated[Path | None, typer.Option(
    help="Folder that holds the stores [GATE_CACHE_STORES, else stores/].")]
Runs = Annotated[Path | None, typer.Option(
    help="Folder for run directories [GATE_CACHE_RUNS, else runs/].")]
Outside = Annotated[bool, typer.Option(
    "--allow-outside", help="Allow paths in the manifest that leave these folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Device = Annotated[str | None, typer.Option(
    help="cpu, cuda, cuda:1 … [a GPU where there is one].")]


@app.command()
def validate(manifest: ManifestPath, data: Data = None, models: Models = None,
             stores: Stores = None, outside: Outside = False, as_json: Json = False) -> None:
    """Check a manifest: all problems at once, and which of its files are not here."""
    from gate_cache.manifest import load
    from gate_cache.stages.validate import validate as stage

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
    if as_json:
        return _print_json(found)
    typer.echo(f"{found.manifest}: sound, {found.combos} combos")
    for line in found.absent:
        typer.echo(f"note: {line}")


@app.command()
def plan(manifest: ManifestPath, data: Data = None, models: Models = None, stores: Stores = None,
         outside: Outside = False, as_json: Json = False) -> None:
    """Show what extracting will cost: combos, UNet passes, bytes, files. Runs nothing."""
    from gate_cache.manifest import load
    from gate_cache.stages.plan import plan as stage

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
    if as_json:
        return _print_json(found, unet_passes=found.unet_passes, bytes=found.bytes,
                           files=found.files)
    from gate_cache.report.tables import show_plan

    show_plan(found)


@app.command()
def extract(manifest: ManifestPath, data: Data = None, models: Models = None,
            stores: Stores = None, device: Device = None,
            batch: Annotated[int | None, typer.Option(
                min=1, help="Images per pass for this run [what the store was begun with].",
            )] = None, threads: Annotated[int | None, typer.Option(
                min=1, help="CPU threads of a pass [what the store was begun with].",
            )] = None, workers: Annotated[int, typer.Option(
                min=0, help="Dask workers on this machine, one a GPU where there are GPUs [none].",
            )] = 0, scheduler: Annotated[str, typer.Option(
                help="Address of a running dask scheduler, such as tcp://host:8786.",
            )] = "", outside: Outside = False, as_json: Json = False) -> None:
    """Stage 1: run the diffusion model for all that is missing. Goes on where it stopped."""
    from gate_cache.manifest import load
    from gate_cache.report.console import console_progress

    loaded = load(manifest)
    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    with _interruptible("finished blocks are kept, run the same command again to go on"):
        from gate_cache.stages.extract import Spread
        from gate_cache.stages.extract import extract as stage

        if workers and scheduler:
            raise UserError("--workers starts workers, --scheduler has them: give one of the two")
        spread = Spread(workers, scheduler) if workers or scheduler else None
        done = stage(loaded, roots, device=device, batch=batch, threads=threads, spread=spread,
                     progress=console_progress())
    if as_json:
        return _print_json(done)
    from gate_cache.report.tables import show_extracted

    show_extracted(done)


@app.command()
def status(manifest: ManifestPath, data: Data = None, models: Models = None, stores: Stores = None,
           outside: Outside = False, as_json: Json = False) -> None:
    """Show per combo what is done, missing, or stale and why."""
    from gate_cache.manifest import load
    from gate_cache.stages.status import status as stage

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(load(manifest), roots)
    if as_json:
        return _print_json(found, complete=found.complete)
    from gate_cache.report.tables import show_status

    show_status(found)


@app.command()
def inspect(store: Annotated[Path, typer.Argument(help="The store, a .zarr folder.")],
            as_json: Json = False) -> None:
    """Show what a store holds: tree, shapes, bytes, combos with settings, what is missing."""
    from gate_cache.stages.inspect import inspect as stage

    found = stage(store)
    if as_json:
        return _print_json(found)
    from gate_cache.report.tables import show_store

    show_store(found)


@app.command()
def layers(model: Annotated[str, typer.Argument(
               help="tiny, a folder or .safetensors below the models root, or a hub id.")],
           size: Annotated[int | None, typer.Option(
               min=1, help="Side of the input in pixels [the model's own].")] = None,
           config: Annotated[str | None, typer.Option(
               help="Of a .safetensors file: the folder with its tokenizers.")] = None,
           variant: Annotated[str | None, typer.Option(help="Such as fp16.")] = None,
           models: Models = None, outside: Outside = False, as_json: Json = False) -> None:
    """Show what a model offers: maps, shapes, sizes, digests. Loads no weights."""
    from gate_cache.specs import ModelSpec
    from gate_cache.stages.layers import layers as stage

    spec = ModelSpec(source=[model], config=config, variant=variant)
    found = stage(spec, Roots.resolve(outside, models=models), size)
    if as_json:
        return _print_json(found)
    from gate_cache.report.tables import show_layers

    show_layers(found)


@app.command()
def train(manifest: ManifestPath,
          head: Annotated[str | None, typer.Option(
              help="nn, conv, upernet, pixel-mlp or classifier.")] = None,
          assigners: Annotated[int | None, typer.Option(min=1, help="Weight assigners.")] = None,
          gamma1: Annotated[float | None, typer.Option(help="Weight of sparsity (Eq. 5).")] = None,
          gamma2: Annotated[float | None, typer.Option(help="Weight of diversity.")] = None,
          pairs: Annotated[int | None, typer.Option(
              min=1, help="Training items seen: pairs, images, pixels.")] = None,
          lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
          seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything.")] = None,
          out: Annotated[Path | None, typer.Option(help="The run directory to make.")] = None,
          data: Data = None, models: Models = None, stores: Stores = None, runs: Runs = None,
          device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Stage 2: train on the store, print the table, leave a run directory."""
    from gate_cache.manifest import load
    from gate_cache.report.console import console_progress

    given = {"head": head, "assigners": assigners, "gamma1": gamma1, "gamma2": gamma2,
             "pairs": pairs, "lr": lr, "seed": seed}
    loaded = load(manifest, {k: v for k, v in given.items() if v is not None})
    roots = Roots.resolve(outside, data=data, models=models, stores=stores, runs=runs)
    with _interruptible("a run directory without metrics.json is unfinished"):
        from gate_cache.stages.train import train as stage

        found = stage(loaded, roots, device=device, run=out, progress=console_progress())
    if as_json:
        return _print_json({"run": found.run, "head": found.head, "splits": found.splits,
                            "tables": [t.to_json() for t in found.tables]})
    from gate_cache.report.tables import show_trained

    show_trained(found)


@app.command()
def sweep(manifest: ManifestPath,
          trials: Annotated[Path, typer.Argument(help="The trials, a YAML file.")],
          out: Annotated[Path | None, typer.Option(
              help="The sweep's folder [<runs>/<manifest>-<trials>].")] = None,
          data: Data = None, models: Models = None, stores: Stores = None, runs: Runs = None,
          device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Stage 2, many times: all trials over one stream of the store. Goes on where it stopped."""
    from gate_cache.manifest import load
    from gate_cache.report.console import console_progress
    from gate_cache.sweep_file import load_sweep

    loaded = load(manifest)
    points = load_sweep(trials, loaded)
    roots = Roots.resolve(outside, data=data, models=models, stores=stores, runs=runs)
    folder = out or roots.runs / f"{loaded.path.stem}-{trials.stem}"
    with _interruptible("run the same command again to go on from the last checkpoint"):
        from gate_cache.stages.sweep import sweep as stage

        found = stage(loaded, points, roots, folder=folder, device=device,
                      progress=console_progress())
    if as_json:
        _print_json(found)
    else:
        from gate_cache.report.trials import show_swept

        show_swept(found)
    if found.failed:
        raise UserError(f"{len(found.failed)} of {len(points)} trials failed:"
                        f" {found.failed[0].name}: {found.failed[0].failed}")


@app.command()
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
             min=0, help="Of the text encoder; 0 leaves it as it is.")] = 5e-5,
         batch: Annotated[int, typer.Option(min=1, help="Images a step.")] = 2,
         seed: Annotated[int, typer.Option(min=0, help="Of images and training.")] = 0,
         captions: Annotated[str | None, typer.Option(
             help="Captions, below the data root [as caption writes them, if there].")] = None,
         force: Annotated[bool, typer.Option(
             "--force", help="Write over files that exist.")] = False,
         data: Data = None, models: Models = None, stores: Stores = None, device: Device = None,
         outside: Outside = False, as_json: Json = False) -> None:
    """Train a LoRA on random training images. Goes on where it stopped."""
    from gate_cache.manifest import load
    from gate_cache.report.console import console_progress

    loaded = load(manifest)
    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    with _interruptible("run the same command again to go on from the last checkpoint"):
        from gate_cache.diffusion.lora_training import LoraSettings
        from gate_cache.stages.lora import train_lora
        from gate_cache.stages.lora_files import parse_steps

        found = train_lora(
            loaded, roots, LoraSettings(rank, alpha, lr, text_lr, batch, seed), images=images,
            steps=steps, save_at=parse_steps(save_at), out=out, captions=captions, device=device,
            force=force, progress=console_progress())
    if as_json:
        return _print_json(found)
    for step, path in found.paths.items():
        typer.echo(f"step {step}: {path}")
    typer.echo(f"in a combo: lora: {{source: {found.source}}}")


@app.command()
def caption(manifest: ManifestPath,
            model: Annotated[str, typer.Option(
                help="A captioner of the transformers library, such as"
                " microsoft/kosmos-2-patch14-224: a folder below the models root, or a hub id.",
            )] = "Salesforce/blip-image-captioning-base",
            revision: Annotated[str | None, typer.Option(help="Of a hub id.")] = None,
            out: Annotated[str | None, typer.Option(
                help="The file, below the data root [captions/<manifest>.jsonl].")] = None,
            batch: Annotated[int, typer.Option(min=1, help="Images a pass.")] = 8,
            data: Data = None, models: Models = None, stores: Stores = None,
            device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Write a caption for every image, by a captioner. Goes on where it stopped."""
    from gate_cache.manifest import load
    from gate_cache.report.console import console_progress
    from gate_cache.stages.caption import caption as stage

    loaded = load(manifest)
    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    with _interruptible("captions so far are kept, run the same command again to go on"):
        found = stage(loaded, roots, model=model, revision=revision, out=out, device=device,
                      batch=batch, progress=console_progress())
    if as_json:
        return _print_json(found)
    typer.echo(f"{found.path}: {found.images} images, {found.new} captioned now"
               + ("" if found.new else "; remove the file to caption them again"))


@app.command()
def version() -> None:
    """Print the version."""
    from gate_cache import __version__

    typer.echo(__version__)


@contextmanager
def _interruptible(left: str) -> Iterator[None]:
    """Say in one line what Ctrl-C left."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {left}") from None


def _print_json(found: Any, **more: Any) -> None:
    data = found if isinstance(found, dict) else dataclasses.asdict(found)
    typer.echo(json.dumps({**data, **more}, indent=2, default=str, ensure_ascii=False))


def main() -> None:
    """Run the command line; errors of ours are lines, not tracebacks."""
    try:
        app()
    except GateCacheError as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

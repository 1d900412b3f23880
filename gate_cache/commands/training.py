"""Stage 2: training on the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gate_cache.commands.options import (
    Data,
    Device,
    Json,
    ManifestPath,
    Models,
    Outside,
    Runs,
    Stores,
    interruptible,
    print_json,
)
from gate_cache.core.errors import UserError
from gate_cache.core.roots import Roots


def train(manifest: ManifestPath,
          head: Annotated[str | None, typer.Option(
              help="By name, such as nn or upernet (docs/heads.md).")] = None,
          assigners: Annotated[int | None, typer.Option(min=1, help="Weight assigners.")] = None,
          gamma1: Annotated[float | None, typer.Option(help="Weight of sparsity (Eq. 5).")] = None,
          gamma2: Annotated[float | None, typer.Option(help="Weight of diversity.")] = None,
          steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser.")] = None,
          pairs: Annotated[int | None, typer.Option(
              min=1, hidden=True, help="As the first release counted: items, not steps.")] = None,
          lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
          seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything.")] = None,
          out: Annotated[Path | None, typer.Option(help="The run directory to make.")] = None,
          data: Data = None, models: Models = None, stores: Stores = None, runs: Runs = None,
          device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Stage 2: train on the store, print the table, leave a run directory."""
    from gate_cache.manifest.load import load
    from gate_cache.report.terminal.console import console_progress

    given = {"head": head, "assigners": assigners, "gamma1": gamma1, "gamma2": gamma2,
             "steps": steps, "pairs": pairs, "lr": lr, "seed": seed}
    loaded = load(manifest, {k: v for k, v in given.items() if v is not None})
    roots = Roots.resolve(outside, data=data, models=models, stores=stores, runs=runs)
    with interruptible("the same command with --out and the run's folder goes on"):
        from gate_cache.training.train import train as stage

        found = stage(loaded, roots, device=device, run=out, progress=console_progress())
        page = _reported(found.run, roots)
    if as_json:
        return print_json({"run": found.run, "head": found.head, "splits": found.splits,
                            "tables": [t.to_json() for t in found.tables], "report": page})
    from gate_cache.report.terminal.tables import show_trained

    show_trained(found, page)


def sweep(manifest: ManifestPath,
          trials: Annotated[Path, typer.Argument(help="The trials, a YAML file.")],
          out: Annotated[Path | None, typer.Option(
              help="The sweep's folder [<runs>/<manifest>-<trials>].")] = None,
          workers: Annotated[int, typer.Option(
              min=1, help="Processes that share the trials: one a GPU.")] = 1,
          data: Data = None, models: Models = None, stores: Stores = None, runs: Runs = None,
          device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Stage 2, many times: all trials over one stream of the store. Goes on where it stopped."""
    from gate_cache.manifest.load import load
    from gate_cache.manifest.sweep_file import load_sweep
    from gate_cache.report.terminal.console import console_progress

    loaded = load(manifest)
    points = load_sweep(trials, loaded)
    roots = Roots.resolve(outside, data=data, models=models, stores=stores, runs=runs)
    folder = out or roots.runs / f"{loaded.path.stem}-{trials.stem}"
    with interruptible("run the same command again to go on from the last checkpoint"):
        from gate_cache.training.sweep_workers import sweep_on

        found = sweep_on(workers, loaded, points, roots, folder=folder, device=device,
                         progress=console_progress(), file=trials)
        page = _reported(found.folder, roots)
    if as_json:
        print_json(found.to_json(), report=page)
    else:
        from gate_cache.report.terminal.trials import show_swept

        show_swept(found, page)
    if found.failed:
        raise UserError(f"{len(found.failed)} of {len(points)} trials failed:"
                        f" {found.failed[0].name}: {found.failed[0].failed}")


def report(run: Annotated[Path, typer.Argument(help="A run directory, or a sweep's folder.")],
           data: Data = None, stores: Stores = None, outside: Outside = False) -> None:
    """Write report.html of a finished training or sweep anew, from what its folder holds."""
    from gate_cache.report.html.write import write_report

    typer.echo(str(write_report(run, Roots.resolve(outside, data=data, stores=stores))))


def _reported(folder: Path, roots: Roots) -> Path | None:
    from gate_cache.report.html.write import try_report
    from gate_cache.report.terminal.console import console_progress

    return try_report(folder, roots, console_progress())


def evaluate(run: Annotated[Path, typer.Argument(help="A run directory, or a sweep's folder.")],
             manifest: Annotated[Path, typer.Option("--manifest", help="Whose data to judge on.")],
             trial: Annotated[str | None, typer.Option(help="Of a sweep: which trial.")] = None,
             last: Annotated[bool, typer.Option(
                 "--last", help="The last step's weights, not the best ones on val.")] = False,
             val: Annotated[bool, typer.Option("--val", help="On val, not on test.")] = False,
             data: Data = None, models: Models = None, stores: Stores = None,
             device: Device = None, outside: Outside = False, as_json: Json = False) -> None:
    """Judge trained weights, on their own manifest's test split or on another's."""
    from gate_cache.manifest.load import load
    from gate_cache.report.terminal.console import console_progress
    from gate_cache.training.evaluate import evaluate as stage

    roots = Roots.resolve(outside, data=data, models=models, stores=stores)
    found = stage(run, load(manifest), roots, trial=trial, last=last,
                  split="val" if val else "test", device=device, progress=console_progress())
    if as_json:
        return print_json(found)
    from gate_cache.report.terminal.trials import show_evaluated

    show_evaluated(found)

"""Stage 2: training on the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gate_cache.commands.options import (
    HERE,
    Computes,
    Json,
    Last,
    ManifestPath,
    Pictures,
    RunPath,
    Trains,
    Trial,
    interruptible,
    print_result,
)
from gate_cache.core.errors import UserError, counted

Probes = Literal["linear", "knn"]
Splits = Literal["train", "val", "test"]


def train(manifest: ManifestPath,
          head: Annotated[str | None, typer.Option(
              help="By name, such as nn or upernet (docs/heads.md).")] = None,
          assigners: Annotated[int | None, typer.Option(min=1, help="Weight assigners.")] = None,
          gamma1: Annotated[float | None, typer.Option(help="Weight of sparsity (Eq. 5).")] = None,
          gamma2: Annotated[float | None, typer.Option(help="Weight of diversity.")] = None,
          steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps.")] = None,
          pairs: Annotated[int | None, typer.Option(
              min=1, hidden=True, help="Items, not steps, as release 0.1 counted.")] = None,
          lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
          seed: Annotated[int | None, typer.Option(min=0, help="Random seed.")] = None,
          out: Annotated[Path | None, typer.Option(help="Run directory to create.")] = None,
          on: Trains = HERE, as_json: Json = False) -> None:
    """Stage 2: train on the store, print the table, leave a run directory."""
    options = {"head": head, "assigners": assigners, "gamma1": gamma1, "gamma2": gamma2,
               "steps": steps, "pairs": pairs, "lr": lr, "seed": seed}
    work = on.open(manifest, {k: v for k, v in options.items() if v is not None})
    with interruptible("the same command with --out and the run's folder goes on"):
        from gate_cache.report.html.write import findings_of, try_report
        from gate_cache.report.terminal.tables import show_trained
        from gate_cache.training.train import train as stage

        trained = stage(work, out)  # a report that fails fails no training
        page = try_report(trained.run, on.roots, work.progress)
    print_result({"run": trained.run, "head": trained.head, "splits": trained.splits,
                  "tables": [t.to_json() for t in trained.tables], "report": page},
                 lambda _: show_trained(trained, page, findings_of(trained.run) if page else ()),
                 as_json)


def sweep(manifest: ManifestPath,
          trials: Annotated[Path, typer.Argument(help="The trials, a YAML file.")],
          out: Annotated[Path | None, typer.Option(
              help="The sweep's folder [<runs>/<manifest>-<trials>].")] = None,
          workers: Annotated[int, typer.Option(
              min=1, help="Processes that share the trials, one per GPU.")] = 1,
          on: Trains = HERE, as_json: Json = False) -> None:
    """Stage 2, many times: all trials over one stream of the store; resumes."""
    from gate_cache.manifest.sweep_file import load_sweep

    work = on.open(manifest)
    points = load_sweep(trials, work.loaded)
    folder = out or on.roots.runs / f"{work.loaded.path.stem}-{trials.stem}"
    with interruptible("run the same command again to resume from the last checkpoint"):
        from gate_cache.report.html.write import try_report
        from gate_cache.report.terminal.trials import show_swept
        from gate_cache.training.sweep_workers import sweep_on

        swept = sweep_on(work, points, folder, workers, file=trials)
        page = try_report(swept.folder, on.roots, work.progress)
    print_result(swept, lambda _: show_swept(swept, page), as_json, report=page)
    if swept.failed:
        raise UserError(f"{len(swept.failed)} of {counted(len(points), 'trial')} failed:"
                        f" {swept.failed[0].name}: {swept.failed[0].failed}")


def probe(manifest: ManifestPath,
          by: Annotated[Probes, typer.Option(
              "--probe", help="For classes and masks; key points use the nearest neighbour."
              )] = "linear",
          split: Annotated[Splits, typer.Option(help="Probes are fitted on train.")] = "val",
          pool: Annotated[int, typer.Option(
              min=1, max=64, help="Side of the grid to which maps are averaged, for classes.")] = 2,
          images: Annotated[int, typer.Option(
              min=2, help="At most this many images of each split, and pairs.")] = 500,
          on: Computes = HERE, as_json: Json = False) -> None:
    """Rank combos, maps and their mean by probes of each task, in a minute. Trains nothing."""
    work = on.open(manifest)
    with interruptible("a probe keeps nothing; --images 100 takes less"):
        from gate_cache.analysis.probe import ProbeOptions
        from gate_cache.analysis.probe import probe as stage
        from gate_cache.report.terminal.trials import show_probed

        ranked = stage(work, ProbeOptions(by, split, pool, images))
    print_result(ranked, show_probed, as_json)


def report(run: RunPath, on: Pictures = HERE) -> None:
    """Write report.html of a finished training or sweep again, from what its folder holds."""
    from gate_cache.report.html.write import write_report

    typer.echo(str(write_report(run, on.roots)))


def evaluate(run: RunPath,
             manifest: Annotated[Path, typer.Option("--manifest", help="Whose data to use.")],
             trial: Trial = None, last: Last = False,
             val: Annotated[bool, typer.Option("--val", help="Use val, not test.")] = False,
             on: Computes = HERE, as_json: Json = False) -> None:
    """Evaluate trained weights, on their own manifest's test split or on another's."""
    from gate_cache.report.terminal.trials import show_evaluated
    from gate_cache.training.evaluate import evaluate as stage

    scores = stage(on.open(manifest), run, trial=trial, last=last,
                   split="val" if val else "test")
    print_result(scores, show_evaluated, as_json)

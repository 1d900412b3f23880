"""A sweep on several devices: each process trains its share of the trials over streams of its own.

Nothing crosses devices but files: on GPUs, or with a fixed number of threads, a trial's result does
not depend on how many there are. Tables are made by the process that was asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from gate_cache.core.errors import GateCacheError, UserError
from gate_cache.core.progress import Progress, Silent
from gate_cache.training.run_files import trial_file
from gate_cache.training.sweep import Share, Swept, sweep, train_share

if TYPE_CHECKING:
    from gate_cache.manifest.sweep_file import Point
    from gate_cache.workspace.workspace import Workspace

POLL = 0.5
"""Seconds between two looks at what is finished."""


def sweep_on(work: Workspace, points: Sequence[Point], folder: Path, workers: int, *,
             file: Path | None = None) -> Swept:
    """As `sweep`, with `workers` processes; worker i has GPU i, or a share of the CPU's threads.

    Parameters
    ----------
    work : the manifest on this machine
    points : the trials
    folder : of the sweep
    workers : processes, at least 1
    file : that lists the trials, to tell how the sweep is made again

    Raises
    ------
    UserError
        As `sweep`; what other workers had finished by then is kept.
    """
    if workers > 1:
        # spawn: a forked process cannot use CUDA where its parent did
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            running = [pool.submit(_share, replace(work, device=where, progress=Silent()), points,
                                   folder, Share(i, workers), file)
                       for i, where in enumerate(places(workers, work.device))]
            _wait(running, points, folder, work.progress, workers)
        try:
            failures = [future.result() for future in running]
        except BrokenProcessPool:
            raise UserError(f"{folder}: a worker was ended from outside (out of memory?); what is"
                            " finished is kept: run the same command again, with fewer --workers"
                            ) from None
        if failed := next(filter(None, failures), None):
            raise UserError(failed)
    return sweep(work, points, folder, file=file, retry=workers == 1)


def places(workers: int, device: str | None) -> list[str | None]:
    """The device of each worker: all GPUs in turn, unless one is named or there is none."""
    gpus = torch.cuda.device_count() if device in (None, "cuda") else 0
    return [f"cuda:{i % gpus}" if gpus else device for i in range(workers)]


def _wait(running: Sequence[Future[str]], points: Sequence[Point], folder: Path, show: Progress,
          workers: int) -> None:
    done = 0
    with show.task(f"training on {workers} processes", len(points), "trials") as bar:
        while not all(future.done() for future in running):
            time.sleep(POLL)
            finished = sum((folder / "trials" / f"{trial_file(p.key)}.json").exists()
                           for p in points)
            bar.advance(finished - done)
            done = finished


def _share(work: Workspace, points: Sequence[Point], folder: Path, share: Share,
           file: Path | None) -> str:
    """One worker's trials; what went wrong as text, which every process can read."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // share.count))  # each would take all
    try:
        train_share(work, points, folder, share, file)
    except GateCacheError as error:
        return str(error)
    return ""

"""Blocks on many devices or machines: dask hands them out, each worker loads the model once.

No two tasks share a shard; what a lost worker had is done again by another, to the same bytes. The
process that asked holds the store's lock; workers, who see the same folders, write beside it.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dask
from distributed import CancelledError, Client, LocalCluster, as_completed, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.scheduler import KilledWorker
from filelock import FileLock, Timeout

from gate_cache.core.digest_cache import cache_folder
from gate_cache.core.errors import DataError, GateCacheError, UserError
from gate_cache.extraction.job import ExtractionJob, open_engine, open_work

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.extraction.engine import Engine
    from gate_cache.extraction.work import Work
    from gate_cache.store.format.done import Provenance

AT_A_TIME = 2
"""Blocks that a worker has under way: one on the device, one read ahead or written behind."""
TIMEOUT = "10s"
_LOST = ("the dask scheduler is lost; what is done is kept: start it again, and then the same"
         " command")
Done = dict[str, tuple[int, "Provenance"]]
"""Rows written of a block by group, and what they were computed with."""


class BlockWorker(WorkerPlugin):
    """A worker's place of work, opened when its first block comes.

    Parameters
    ----------
    job : what every worker does
    store : where it is
    """

    def __init__(self, job: ExtractionJob, store: Place) -> None:
        self._job = job
        self._store = store
        self._place: tuple[Work, Engine] | None = None
        self._name: Any = None
        self._lock: Any = None  # made in `setup`: this is pickled on its way to a worker
        self._claim: FileLock | None = None

    def setup(self, worker: Any) -> None:
        """Note who works here; the model is loaded later."""
        self._name = worker.name
        self._lock = threading.Lock()

    def block(self, rows: range) -> Done:
        """Do a block."""
        from gate_cache.workspace.device import out_of_memory, smaller_than

        with self._lock:
            self._place = self._place or self._open()
            work, engine = self._place
        counts = _Counted()
        with out_of_memory(smaller_than(self._job.batch)):
            engine.block(work, rows, counts)
        return counts.done

    def _open(self) -> tuple[Work, Engine]:
        from gate_cache.store.opening import exists
        from gate_cache.store.writer import join_writer

        here = self._job.workspace
        device, self._claim = claim_device(here.device)
        here = replace(here, device=device)
        job = replace(self._job, workspace=here)
        if not exists(self._store):
            raise UserError(f"{self._store}: not to be seen from worker {self._name}; all workers"
                            " need the same folders under the same paths")
        files = here.model()
        work = open_work(job, join_writer(self._store), files, here.plans(files))
        return work, open_engine(job, [combo.plan for combo in work.jobs if combo.todo], files)

    def teardown(self, worker: Any) -> None:
        """Stop the threads."""
        if self._place:
            self._place[1].close()
        if self._claim:
            self._claim.release()


class _Counted:
    """Counts what a block writes."""

    def __init__(self) -> None:
        self.done: Done = {}

    def computed(self, rows: int) -> None:
        """Progress is told a block at a time."""

    def unread(self, sample_id: str, why: str) -> None:
        """What rows are void is one attribute of a group, which workers cannot share."""
        raise DataError(why)

    def written(self, group: str, rows: int, made: Provenance) -> None:
        self.done[group] = rows, made


def claim_device(asked: str | None) -> tuple[str | None, FileLock | None]:
    """A GPU of this machine that no other worker has, unless one is named or there is none.

    Returns
    -------
    Its name, and the claim to it, which ends with the process

    Raises
    ------
    UserError
        Other workers have them all.
    """
    import torch

    gpus = torch.cuda.device_count() if asked in (None, "cuda") else 0
    for number in range(gpus):
        gpu = torch.cuda.get_device_properties(number).uuid  # whatever number others see it as
        cache_folder().mkdir(parents=True, exist_ok=True)
        claim = FileLock(cache_folder() / f"gpu-{gpu}.lock")
        try:
            claim.acquire(timeout=0)
        except Timeout:
            continue
        return f"cuda:{number}", claim
    if gpus:
        raise UserError(f"all {gpus} GPUs of {socket.gethostname()} have a worker already: start no"
                        " more workers on a machine than it has GPUs")
    return asked, None


def check_workers(workers: int, device: str | None) -> None:
    """Refuse more workers of this machine than it has GPUs, where they compute on GPUs.

    Raises
    ------
    UserError
        Several would share a GPU, each with a model of its own.
    """
    import torch

    named = (device or "").startswith("cuda:")
    gpus = torch.cuda.device_count() if device in (None, "cuda") else int(named)
    if 0 < gpus < workers:
        here = "1 GPU" if gpus == 1 else f"{gpus} GPUs"
        raise UserError(f"--workers {workers}: --device {device or 'cuda'} is {here} here, and each"
                        f" worker needs its own; use --workers {gpus}")


@contextmanager
def own_environment() -> Iterator[None]:
    """Undo what dask's nannies set here, not only in their workers (`OMP_NUM_THREADS`)."""
    names = [*dask.config.get("distributed.nanny.pre-spawn-environ"), "PYTHONHASHSEED"]
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def local(workers: int) -> Iterator[Client]:
    """Worker processes on this machine; a `UserError` where they do not start."""
    with own_environment():
        try:
            cluster = LocalCluster(
                n_workers=workers, threads_per_worker=AT_A_TIME, memory_limit=0,  # 0: no limit
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL)
        except (RuntimeError, OSError) as error:  # a process died, or there is no room for one
            raise UserError(f"--workers {workers}: they did not start ({error.__cause__ or error});"
                            " try again, or with fewer") from None
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def remote(address: str) -> Iterator[Client]:
    """A cluster that is running.

    Raises
    ------
    UserError
        No scheduler answers, or it has no workers.
    """
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler {address}: no dask scheduler answers there"
                        f" ({type(error).__name__})") from None
    with client:
        if not _workers(client):
            raise UserError(f"--scheduler {address}: it has no workers; start some with 'dask"
                            f" worker {address}'")
        yield client


def run(client: Client, plugin: WorkerPlugin, blocks: Sequence[range],
        done: Callable[[range, Done], None],
        say: Callable[[str], None] = print) -> None:
    """All these blocks, in any order.

    Parameters
    ----------
    plugin : does a block on a worker: ``block(rows) -> Done``
    blocks : rows of each
    done : called with every block that is done
    say : hears of every worker that is lost

    Raises
    ------
    UserError
        As a block does it, or a block's workers have died again and again.
    """
    token = uuid.uuid4().hex
    client.register_plugin(plugin, name=token)
    tasks = client.map(_block, [(rows.start, rows.stop) for rows in blocks], token=token,
                       key=[f"block-{token}-{rows.start}" for rows in blocks], pure=False)
    workers, rows_of = set(_workers(client)), dict(zip(tasks, blocks, strict=True))
    try:
        for task, written in _results(tasks):
            done(rows_of.pop(task), written)
            task.release()  # else the scheduler keeps every result until the last
            now = set(_workers(client))
            for lost in sorted(workers - now):
                say(f"note: worker {lost} is lost; what it had is done by the others")
            workers = now
    except (CancelledError, OSError):
        raise UserError(_LOST) from None
    finally:
        if client.status == "running":
            client.cancel(tasks)
            client.unregister_worker_plugin(token)


def _workers(client: Client) -> dict[str, Any]:
    return dict(client.scheduler_info(n_workers=-1)["workers"])


def _results(tasks: Iterable[Any]) -> Iterator[tuple[Any, Done]]:
    for task in as_completed(tasks):
        try:
            yield task, task.result()
        except KilledWorker as error:
            raise UserError(f"{error.allowed_failures + 1} workers died on the same block"
                            f" ({error.task}): if memory ran out, use fewer workers or a smaller"
                            " --batch; what is done is kept") from None


def _block(rows: tuple[int, int], token: str) -> Any:
    plugin: Any = get_worker().plugins[token]
    try:
        return plugin.block(range(*rows))
    except GateCacheError as error:
        raise UserError(str(error)) from None  # one whose like every worker can unpickle

"""Blocks on dask workers: the same bytes as in one process, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from conftest import WriteManifest
from distributed import Client, LocalCluster, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from test_extract import Toy, assert_same

from gate_cache.core.errors import DataError, UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.cluster import local, own_environment, run
from gate_cache.extraction.extract import Workers, extract
from gate_cache.extraction.job import own_threads
from gate_cache.extraction.status import status
from gate_cache.workspace.workspace import Workspace


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with own_environment(), LocalCluster(n_workers=2, threads_per_worker=2, memory_limit=0,
                                         dashboard_address="127.0.0.1:0") as found:
        yield found


def test_starting_workers_leaves_the_environment_as_it_was() -> None:
    def found() -> dict[str, str]:
        return {k: v for k, v in os.environ.items() if not k.startswith("__DASK")}

    before = found()
    with local(1) as client:
        assert client.submit(os.getpid).result() != os.getpid()
    assert found() == before


def test_only_the_start_of_this_process_decides_its_threads(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """dask's nanny sets OMP_NUM_THREADS where it starts workers, not only in them."""
    threads = own_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads + 1))
    assert own_threads() == threads


def test_two_workers_write_the_same_bytes(toy: Toy, roots: Roots, cluster: Any) -> None:
    spread = Workers(scheduler=cluster.scheduler_address)
    result = extract(Workspace(toy[0], roots, "cpu"), spread=spread)
    assert result.rows == {"latents": 7, "plain": 7, "seed-1": 7, "lora": 7, "control": 7,
                           "attn": 7}
    assert_same(result.store, toy[2])
    assert not any(extract(Workspace(toy[0], roots, "cpu"), spread=spread).rows.values())


def test_a_lost_workers_block_is_done_by_another(toy: Toy, roots: Roots, cluster: Any) -> None:
    """One worker is killed (kill -9) as soon as something is written."""
    def kill() -> None:
        while not list(roots.stores.glob("*/plain-*/up0/c.*")):
            time.sleep(0.02)
        with Client(cluster.scheduler_address) as client:
            pids = list(client.run(os.getpid).values())
        os.kill(pids[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = extract(Workspace(toy[0], roots, "cpu"),
                     spread=Workers(scheduler=cluster.scheduler_address))
    killer.join(timeout=60)
    assert not killer.is_alive()
    assert_same(result.store, toy[2])
    assert all(c.state == "done" for c in status(Workspace(toy[0], roots)).combos)


def test_an_image_that_cannot_be_read_is_told_in_one_line(manifest: WriteManifest, roots: Roots,
                                                          cluster: Any, tmp_path: Path) -> None:
    folder = roots.data / "images"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    loaded = manifest(dataset={"name": "folder", "root": "images"})
    found = extract(Workspace(loaded, roots, "cpu"),
                    spread=Workers(scheduler=cluster.scheduler_address))
    assert list(found.unread) == ["a.png"] and not any(found.rows.values())
    assert "a.png: cannot be read" in found.unread["a.png"] and "\n" not in found.unread["a.png"]


def test_a_scheduler_that_does_not_answer_is_named(toy: Toy, roots: Roots,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate_cache.extraction.cluster.TIMEOUT", "0.2s")
    with pytest.raises(UserError, match=r"tcp://127\.0\.0\.1:9: no dask scheduler answers there"):
        extract(Workspace(toy[0], roots, "cpu"), spread=Workers(scheduler="tcp://127.0.0.1:9"))


class Fails(WorkerPlugin):
    """Kills whoever touches block 3, and refuses block 6."""

    def __init__(self, deadly: bool) -> None:
        self.deadly = deadly

    def block(self, rows: range) -> dict[str, int]:
        if self.deadly and rows.start == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if rows.start == 6:
            raise DataError(f"{get_worker().name}: on purpose")
        return {"a": len(rows)}


@pytest.mark.parametrize(("deadly", "says"), [
    (True, "workers died on the same block"), (False, "on purpose")])
def test_what_cannot_be_done_ends_in_one_line(deadly: bool, says: str) -> None:
    seen: list[dict[str, int]] = []
    blocks = [range(i, i + 3) for i in range(0, 6 if deadly else 9, 3)]
    once = {"distributed.scheduler.allowed-failures": 0}
    with dask.config.set(once), local(1) as client, pytest.raises(UserError, match=says):
        run(client, Fails(deadly), blocks, seen.append)

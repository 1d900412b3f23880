"""Blocks on dask workers: the same bytes as in one process, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import pytest
import torch
from conftest import WriteManifest
from distributed import Client, LocalCluster, get_worker
from distributed.diagnostics.plugin import WorkerPlugin
from test_extract import Toy, assert_same

from gate_cache.core.errors import DataError, UserError
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.core.versions import versions
from gate_cache.extraction.cluster import (
    Done,
    check_workers,
    claim_device,
    local,
    own_environment,
    remote,
    run,
)
from gate_cache.extraction.extract import Workers, extract
from gate_cache.extraction.job import own_threads
from gate_cache.extraction.status import status
from gate_cache.store.format.done import Provenance
from gate_cache.store.reader import FeatureStore
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


def test_workers_that_do_not_start_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """distributed's `Nanny`, whose process died at once, says so with an exception in another."""
    def fails(**_: Any) -> None:
        raise RuntimeError("Cluster failed to start") from RuntimeError("Nanny failed to start.")

    monkeypatch.setattr("gate_cache.extraction.cluster.LocalCluster", fails)
    line = r"^--workers 2: they did not start \(Nanny failed"
    with pytest.raises(UserError, match=line), local(2):
        pass


@pytest.mark.long
def test_two_workers_write_the_same_bytes(toy: Toy, roots: Roots, cluster: Any) -> None:
    spread = Workers(scheduler=cluster.scheduler_address)
    result = extract(Workspace(toy[0], roots, "cpu"), spread=spread)
    assert result.rows == {"latents": 7, "plain": 7, "seed-1": 7, "lora": 7, "control": 7,
                           "attn": 7}
    assert_same(result.store, toy[2])
    store = FeatureStore.open(result.store)
    for view in (*store.latents(), *store.views()):
        ((made, blocks),) = view.made()
        assert made and blocks == 3
        assert (made.device, made.batch, made.versions) == ("cpu", 2, versions())
    assert not any(extract(Workspace(toy[0], roots, "cpu"), spread=spread).rows.values())


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


@pytest.mark.long
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
    heard = Heard()
    result = extract(Workspace(toy[0], roots, "cpu", progress=heard),
                     spread=Workers(scheduler=cluster.scheduler_address))
    killer.join(timeout=60)
    assert not killer.is_alive()
    assert any("is lost; what it had is done by the others" in line for line in heard.said)
    assert_same(result.store, toy[2])
    assert all(c.state == "done" for c in status(Workspace(toy[0], roots)).combos)


@pytest.mark.long
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

    def block(self, rows: range) -> tuple[dict[str, int], str]:
        if self.deadly and rows.start == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if rows.start == 6:
            raise DataError(f"{get_worker().name}: on purpose")
        return {"a": (len(rows), Provenance("cpu", 2, False, {}))}


@pytest.mark.long
@pytest.mark.parametrize(("deadly", "says"), [
    (True, "workers died on the same block"), (False, "on purpose")])
def test_what_cannot_be_done_ends_in_one_line(deadly: bool, says: str) -> None:
    seen: list[dict[str, int]] = []

    def told(_: range, done: Done) -> None:
        seen.append({name: rows for name, (rows, _) in done.items()})

    blocks = [range(i, i + 3) for i in range(0, 6 if deadly else 9, 3)]
    once = {"distributed.scheduler.allowed-failures": 0}
    with dask.config.set(once), local(1) as client, pytest.raises(UserError, match=says):
        run(client, Fails(deadly), blocks, told)


# ------------------------------------------------------------------------------------ GPUs


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two GPUs, that others may see by other numbers."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda number: SimpleNamespace(uuid=f"GPU-{number}"))


@pytest.mark.parametrize("asked", [None, "cuda"])
def test_each_worker_has_a_gpu_of_its_own(gpus: None, asked: str | None,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    first, claim = claim_device(asked)
    assert first == "cuda:0" and claim
    second, other = claim_device(asked)
    assert second == "cuda:1" and other
    with pytest.raises(UserError, match=r"all 2 GPUs of .* have a worker already"):
        claim_device(asked)
    claim.release()
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda number: SimpleNamespace(uuid=f"GPU-{1 - number}"))
    assert claim_device(asked)[0] == "cuda:1"  # CUDA_VISIBLE_DEVICES=1,0


@pytest.mark.parametrize("asked", ["cpu", "cuda:1"])
def test_a_device_that_is_named_is_not_chosen(gpus: None, asked: str) -> None:
    assert claim_device(asked) == claim_device(asked) == (asked, None)


@pytest.mark.parametrize(("workers", "device", "refused"), [
    (2, None, False), (2, "cuda", False), (3, None, True), (3, "cuda", True), (2, "cuda:1", True),
    (1, "cuda:1", False), (9, "cpu", False)])
def test_more_workers_than_gpus_are_refused(gpus: None, workers: int, device: str | None,
                                            refused: bool) -> None:
    if not refused:
        return check_workers(workers, device)
    with pytest.raises(UserError, match=f"--workers {workers}: --device cuda.* use --workers"):
        check_workers(workers, device)


def test_workers_share_a_machine_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    check_workers(9, None)
    assert claim_device(None) == (None, None)


class Waits(WorkerPlugin):
    """Does a block in a while."""

    def block(self, rows: range) -> tuple[dict[str, int], str]:
        time.sleep(0.5)
        return {"a": (len(rows), Provenance("cpu", 2, False, {}))}


@pytest.mark.long
def test_a_lost_scheduler_ends_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    dask_ = [str(Path(sys.executable).with_name("dask"))]
    rest = ["--scheduler-file", str(file), "--no-dashboard"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    scheduler = subprocess.Popen([*dask_, "scheduler", "--port", "0", "--host", "127.0.0.1", *rest],
                                 env=path, **quiet)
    worker = subprocess.Popen([*dask_, "worker", "--no-nanny", "--nthreads", "1", *rest], env=path,
                              **quiet)
    try:
        while not file.exists() or not file.read_text():  # it is there before its content is
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        with Client(address) as client:
            client.wait_for_workers(1)
        with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), \
                pytest.raises(UserError, match="the dask scheduler is lost"), \
                remote(address) as client:
            run(client, Waits(), [range(i, i + 1) for i in range(40)], lambda *_: scheduler.kill())
    finally:
        scheduler.kill()
        worker.kill()

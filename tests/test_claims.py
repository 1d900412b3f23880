"""One writer at a time: who waits, who is overtaken, and what many who try at once get."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gate_cache.core.errors import StoreError
from gate_cache.store import lease as claims
from gate_cache.store.format.samples import NewSample
from gate_cache.store.lease import Claim, Holder, claim
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import open_writer

STORE = "s.zarr"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.05)
    monkeypatch.setattr(claims, "EXPIRES", 1.5)
    monkeypatch.setattr(claims, "LOOK", 0.02)


@pytest.fixture
def folder(tmp_path: Path) -> LocalFolder:
    return LocalFolder(tmp_path)


def get(folder: LocalFolder, waiting: Callable[[str], None] | None = None) -> Claim:
    return claim(folder, STORE, folder.path / STORE, waiting)


def elsewhere(number: int, folder: LocalFolder, **said: Any) -> Holder:
    """A claim of another machine, of which nothing is heard."""
    holder = replace(Holder(), host="far", machine="another", pid=1, **said)
    assert folder.create(f".{STORE}.claim-{number}", holder.encode())
    return holder


def test_a_claim_is_refused_until_it_is_released(folder: LocalFolder) -> None:
    first = get(folder)
    with pytest.raises(StoreError, match=rf"process {os.getpid()}, since .* is writing"):
        get(folder)
    first.release()
    second = get(folder)
    second.check()
    second.release()
    assert len(folder.names()) == 1  # claims that were overtaken are removed


def test_a_claim_that_waits_gets_it_later(folder: LocalFolder) -> None:
    first, said = get(folder), list[str]()
    threading.Timer(0.3, first.release).start()
    start = time.monotonic()
    second = get(folder, said.append)
    assert time.monotonic() - start > 0.2
    assert len(said) == 1 and "waiting until it ends" in said[0]
    second.release()


@pytest.mark.long
def test_a_live_claim_does_not_expire(folder: LocalFolder) -> None:
    first = get(folder)
    threading.Timer(3.5, first.release).start()  # twice as long as a silent one lives
    start = time.monotonic()
    get(folder, lambda _: None).release()
    assert time.monotonic() - start > 3.4


def test_a_silent_claim_of_another_machine_expires(folder: LocalFolder) -> None:
    elsewhere(3, folder)
    start = time.monotonic()
    found = get(folder, lambda _: None)
    assert 1.4 < time.monotonic() - start < 30
    found.check()
    found.release()


def test_a_claim_of_another_machine_is_refused_at_once_without_waiting(
        folder: LocalFolder) -> None:
    elsewhere(1, folder)
    with pytest.raises(StoreError, match="far, process 1"):
        get(folder)


@pytest.mark.mostly_long("{")
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'{"id": 1}', b'{"strange": true}'])
def test_a_claim_that_cannot_be_read_expires_too(folder: LocalFolder, raw: bytes) -> None:
    folder.write(f".{STORE}.claim-1", [raw])
    get(folder, lambda _: None).release()


def test_a_dead_process_of_this_machine_is_overtaken_at_once(folder: LocalFolder) -> None:
    code = ("import sys, time; from pathlib import Path\n"
            "from gate_cache.store.lease import claim\n"
            "from gate_cache.store.places.local import LocalFolder\n"
            "claim(LocalFolder(Path(sys.argv[1])), 's.zarr', Path('s.zarr'), None)\n"
            "print('held', flush=True); time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", code, str(folder.path)],
                          stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=f"process {process.pid}"):
            get(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        get(folder).release()


def test_drafts_of_claims_that_a_kill_has_left_are_removed(folder: LocalFolder) -> None:
    elsewhere(3, folder, released=True)
    left, newer = f".{STORE}.claim-3.0badcafe.partial", f".{STORE}.claim-4.0badcafe.partial"
    for name in (left, newer):
        folder.write(name, [b"{"])
    first = get(folder)
    assert left not in folder.names() and newer in folder.names()  # somebody may be making it
    first.release()
    get(folder).release()
    assert folder.names() == [f".{STORE}.claim-5"]


def test_whoever_was_overtaken_finds_out(folder: LocalFolder) -> None:
    first = get(folder)
    elsewhere(2, folder)
    with pytest.raises(StoreError, match=r"taken over this store.*what is done is kept"):
        first.check()
    first.release()
    assert json.loads(folder.read(f".{STORE}.claim-2") or b"")["released"] is False


def test_whoever_was_overtaken_writes_no_block(tmp_path: Path) -> None:
    import numpy as np

    path = tmp_path / STORE
    with open_writer(path, "set", 2, 1) as store:
        store.append([NewSample(f"{i}", f"{i:064x}", 1, 1) for i in range(4)])
        group = store.require("a", {"kind": "conv"}, {"up0": (1, 1, 1)}, "float16", {})
        group.fit()
        group.write(range(2), {"up0": np.ones((2, 1, 1, 1))})
        elsewhere(2, LocalFolder(tmp_path))
        with pytest.raises(StoreError, match="taken over"):
            group.write(range(2, 4), {"up0": np.ones((2, 1, 1, 1))})
        assert group.todo() == [range(2, 4)]


def _compete(folder: str, results: Any) -> None:
    held = claim(LocalFolder(Path(folder)), STORE, Path(STORE), lambda _: None)
    marker = Path(folder) / "inside"
    alone = not marker.exists()
    marker.touch()
    time.sleep(0.02)
    marker.unlink()
    held.release()
    results.put(alone)


def test_of_many_processes_one_at_a_time_holds_it(folder: LocalFolder) -> None:
    context = multiprocessing.get_context("fork")
    results: Any = context.Queue()
    several = [context.Process(target=_compete, args=(str(folder.path), results))
               for _ in range(8)]
    for process in several:
        process.start()
    assert [results.get(timeout=60) for _ in several] == [True] * 8
    for process in several:
        process.join()
    assert len(folder.names()) == 1

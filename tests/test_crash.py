"""Whatever a write is cut off by, and wherever: marks stay true, the next run does the rest."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROMPT, WriteManifest
from marks import marked
from test_store import SHAPES, maps, writing

from gate_cache import FeatureStore
from gate_cache.core.errors import DiskError, RowNotDone
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.store import holding
from gate_cache.store.check.verify import verify
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.places import local
from gate_cache.workspace.workspace import Workspace

CALLS = ("open", "writev", "fsync", "replace")


class Killed(BaseException):
    """As if the process had ended: nothing of it runs any more."""


class Unclaimed:
    """A claim without a file; tests/test_claims.py has those."""

    def check(self) -> None: ...

    def release(self) -> None: ...


class Broken:
    """The operating system as `LocalFolder` sees it, which fails at one call.

    Parameters
    ----------
    at : number of the call that fails
    error : what it raises; after `Killed` every further call raises it too
    """

    def __init__(self, at: int, error: Callable[[], BaseException]) -> None:
        self.calls = 0
        self._at = at
        self._error = error
        self._dead = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return (lambda *a, **k: self.step(real, *a, **k)) if name in CALLS else real

    def step(self, real: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.calls += 1
        if self._dead or self.calls - 1 == self._at:
            error = self._error()
            self._dead = isinstance(error, Killed)
            raise error
        return real(*args, **named)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(local, "os", self)
        for name in ("unlink", "mkdir"):
            real = getattr(Path, name)
            patch.setattr(Path, name, lambda *a, r=real, **k: self.step(r, *a, **k))


def first(group: GroupWriter) -> None:
    group.write(range(4, 8), maps(range(4, 8)))


def grown(group: GroupWriter) -> None:
    """Images were added: two of the block's rows are kept."""
    kept = group.read_kept(range(8, 12))
    fresh = maps(range(10, 12))
    group.write(range(8, 12), {n: np.concatenate([kept[n], fresh[n]]) for n in kept})


def back(group: GroupWriter) -> None:
    """An image that was gone has come back: nothing of the block is kept."""
    assert range(4) in group.todo()
    group.write(range(4), maps(range(4)))


def base(path: Path, scene: Callable[[GroupWriter], None]) -> None:
    """A store that is about to be written to."""
    with writing(path) as (_, group):
        if scene is back:
            void = {n: np.where(np.arange(4)[:, None, None, None] == 2, np.nan, m)
                    for n, m in maps(range(4)).items()}
            group.write(range(4), void, absent=[2])
        else:
            group.write(range(4), maps(range(4)))
        group.write(range(8, 10), maps(range(8, 10)))
    if scene is grown:
        with writing(path, rows=12):
            pass


def assert_true(path: Path) -> None:
    """What a reader gets is right, or it is refused; what was done and not touched is there."""
    store = FeatureStore.open(path)
    right = maps(range(12))
    for name in SHAPES:
        for row in range(len(store.samples)):
            try:
                np.testing.assert_array_equal(store["plain"][name][row],
                                              right[name][row].astype(np.float16))
            except RowNotDone:
                assert row not in (8, 9)


@pytest.mark.mostly_long("killed-grown")
@pytest.mark.parametrize("scene", [first, grown, back])
@pytest.mark.parametrize("error", [lambda: OSError(errno.EIO, "broken"), Killed],
                         ids=["broken", "killed"])
def test_a_write_that_is_cut_off_at_any_call_leaves_the_truth(
        tmp_path: Path, scene: Callable[[GroupWriter], None], error: Callable[[], BaseException],
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # counted all the same, but slow
    monkeypatch.setattr(holding, "claim", lambda *_: Unclaimed())  # a dead process holds none
    base(tmp_path / "base.zarr", scene)
    rows, path = 12 if scene is grown else 10, tmp_path / "toy.zarr"
    calls = cut_off(tmp_path / "base.zarr", path, scene, Broken(10**9, error))
    assert calls >= 15
    for at in range(calls):
        shutil.rmtree(path)
        assert cut_off(tmp_path / "base.zarr", path, scene, Broken(at, error)) > at
        assert_true(path)
        assert verify(path, threads=1).sound
        with writing(path, rows) as (_, group):
            for block in group.todo():
                group.write(block, maps(block))
        assert not list(path.rglob("*.partial"))
        np.testing.assert_array_equal(FeatureStore.open(path)["plain"]["up1"][:],
                                      maps(range(rows))["up1"])


def cut_off(old: Path, path: Path, scene: Callable[[GroupWriter], None], broken: Broken) -> int:
    """Do it to a copy; how many calls there were."""
    shutil.copytree(old, path)
    with pytest.MonkeyPatch.context() as patch, writing(path, 12 if scene is grown else 10) as (
            _, group):
        group.todo()
        broken.install(patch)
        with contextlib.suppress(OSError, Killed):
            scene(group)
        patch.undo()
    return broken.calls


@pytest.mark.parametrize(("code", "says"), [
    (errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk quota is used up"),
    (errno.EROFS, "the disk is read-only"), (errno.EACCES, "permission denied")])
@pytest.mark.parametrize("at", [0, 5, 11])
def test_a_disk_that_refuses_is_one_line(tmp_path: Path, code: int, says: str, at: int) -> None:
    path = tmp_path / "toy.zarr"
    base(path, first)
    with pytest.MonkeyPatch.context() as patch, writing(path) as (_, group):
        Broken(at, lambda: OSError(code, "refused")).install(patch)
        with pytest.raises(DiskError, match=says) as caught:
            first(group)
    assert "\n" not in str(caught.value) and "what is done so far is kept" in str(caught.value)
    assert_true(path)


# ------------------------------------------------------------------------- whole processes

SERVER = """
import os, sys
import torch, diffusers, transformers, peft, zarr, dask.array, cv2
import gate_cache.diffusion.passes.extractor, gate_cache.extraction.extract
import gate_cache.report.terminal.console
from gate_cache import cli
while line := sys.stdin.readline():
    pid = os.fork()
    if not pid:
        sys.stdin.close()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1), os.dup2(null, 2)
        sys.argv = ["gate-cache", *line.split()]
        try:
            cli.main()
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 0)
        os._exit(0)
    print(pid, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
"""Runs one command after the other, each in a process of its own, without importing anew."""


def files(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*"))
            if p.is_file()}


@pytest.mark.slow
def test_a_hundred_random_kills_change_no_byte(tmp_path: Path, manifest: WriteManifest) -> None:
    loaded = manifest(dataset={"name": "toyworld", "train": 6, "val": 0, "test": 4},
                      conv={"a": PROMPT, "b": {**PROMPT, "seed": 1}}, attention={},
                      store={"block": 2, "batch": 2})
    roots = [Roots(stores=tmp_path / name) for name in ("straight", "killed")]
    expected = files(extract(Workspace(loaded, roots[0], "cpu")).store)
    store, rng = roots[1].stores / "toy.zarr", random.Random(0)
    kills = further = ends = 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdin and server.stdout
    command = f"extract {loaded.path} --stores {roots[1].stores} --device cpu"

    def count() -> int:
        return sum(1 for _ in store.rglob("*"))

    def run(more: int, wait: float = 0) -> int:
        """Its exit code; it is killed so many seconds after it has made so many files."""
        assert server.stdin and server.stdout
        wanted = count() + more
        print(command, file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        while count() < wanted and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.001)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)  # not reaped before it is asked for: the right one
        print(file=server.stdin, flush=True)
        return int(server.stdout.readline())

    while kills < 100:
        marks = marked(store)
        code = run(rng.randrange(24), rng.uniform(0, 0.05) if kills % 5 else rng.uniform(0, 2))
        if code == -signal.SIGKILL:
            kills += 1
            further += marked(store) > marks
            if (store / "samples/zarr.json").exists():
                assert verify(store).sound
        else:
            ends += 1
            assert code == 0
            assert files(store) == expected
            shutil.rmtree(store)
    assert run(10**6) == 0
    server.stdin.close()
    server.wait()
    assert files(store) == expected
    found = verify(store)
    assert found.sound and found.notes == []
    assert further >= 20
    print(f"{kills} kills, {further} of them after a block of that run, {ends} runs that ended")

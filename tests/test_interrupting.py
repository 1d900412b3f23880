"""Ctrl-C in a process of its own: one line, the promised exit code, and soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from conftest import write

from gate_cache.core.roots import Roots
from gate_cache.manifest.load import Loaded

SERVER = """
import os, signal, sys, threading, time
import cv2, gate_cache.commands.viewer, matplotlib.pyplot, sklearn.linear_model, torch, zarr
import gate_cache.analysis.match, gate_cache.analysis.probe, gate_cache.store.check.verify
import gate_cache.training.evaluate, gate_cache.viewer.server
from gate_cache import cli

def read(*given, read=os.preadv):
    print("reading", flush=True)
    time.sleep(0.2)
    return read(*given)

while line := sys.stdin.readline():
    if pid := os.fork():
        print("exit", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        continue
    print(os.getpid(), flush=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    os.preadv, sys.argv, code = read, ["gate-cache", *line.split()], 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code or 0
    threading._shutdown()  # as Python does: it waits for threads
    sys.stdout.flush()
    os._exit(code)
"""
"""Each command in a process of its own, from a slow disk, without importing anew."""
SECONDS = 2.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A process that starts others, and the file of what they tell."""
    told = tmp_path_factory.mktemp("told") / "stderr"
    with told.open("w") as file, subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=file, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}) as process:
        yield process, told
        assert process.stdin
        process.stdin.close()


@pytest.fixture(scope="module")
def run(toy: tuple[Loaded, Roots, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a step; the manifest lies beside it."""
    from gate_cache.training.train import train
    from gate_cache.workspace.workspace import Workspace

    home = tmp_path_factory.mktemp("trained")
    loaded = write(home / "toy.yaml", train={
        "steps": 1, "validate_steps": 1, "head": {"name": "upernet", "decoder_channels": 8}})
    return train(Workspace(loaded, Roots(stores=toy[1].stores), "cpu"), home / "run").run


def until(lines: IO[str], beginning: str) -> str:
    for line in lines:
        if line.startswith(beginning):
            return line.strip()
    raise AssertionError(f"ended before '{beginning}'")


COMMANDS = {
    "evaluate": "evaluate {run} --manifest {home}/toy.yaml",
    "match": "match {home}/toy.yaml test/aeroplane/00000 test/aeroplane/00008 --combo plain",
    "probe": "probe {home}/toy.yaml --split test",
    "verify": "verify {home}/toy.yaml",
    "view": "view {home}/toy.yaml --no-browser --port 0"}


@pytest.mark.mostly_long("match", "probe", "verify")
@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_is_one_line_and_soon(command: str, run: Path, server: tuple[Any, Path],
                                     toy: tuple[Loaded, Roots, Path]) -> None:
    process, told = server
    words = COMMANDS[command].format(run=run, home=run.parent)
    before = len(told.read_text())
    print(f"{words} --stores {toy[1].stores} --device cpu", file=process.stdin, flush=True)
    pid = int(process.stdout.readline())
    until(process.stdout, "http" if command == "view" else "reading")
    os.kill(pid, signal.SIGINT)
    asked = time.monotonic()
    code = 0 if command == "view" else 130
    assert until(process.stdout, "exit ") == f"exit {code}"
    assert time.monotonic() - asked < SECONDS
    lines = [line for line in told.read_text()[before:].splitlines() if line.startswith("error")]
    text = told.read_text()[before:]
    assert "Traceback" not in text and "Exception" not in text, text
    assert len(lines) == (command != "view"), text
    assert all(line.startswith("error: interrupted; ") for line in lines)

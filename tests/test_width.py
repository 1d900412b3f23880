"""Tables are no wider than 80 columns, in a terminal and in a pipe, and lose nothing by it."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import SimpleNamespace as Plain
from typing import Any

import pytest
from conftest import PROMPT, WriteManifest
from rich.cells import cell_len
from rich.text import Text
from test_cli import Run, Toy, gate, places  # noqa: F401

import gate_cache
from gate_cache.core.roots import Roots
from gate_cache.learn.metrics.pck import named
from gate_cache.learn.metrics.results import ScoreRow, ScoreTable
from gate_cache.learn.metrics.roles import Method
from gate_cache.report.figures.content_shift import show_guideline, show_scores
from gate_cache.report.terminal import grid
from gate_cache.report.terminal.grid import Grid
from gate_cache.report.terminal.store_tables import show_recomputed
from gate_cache.report.terminal.tables import show_trained
from gate_cache.report.terminal.trials import show_evaluated, show_probed, show_swept
from gate_cache.training.sweep_tables import Mean

LONG = "a-combo-whose-name-says-all-of-its-settings"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[Grid]:
    """Every table that is printed."""
    found: list[Grid] = []
    real = Grid.parts

    def parts(self: Grid, width: int) -> Any:
        found.append(self)
        return real(self, width)

    monkeypatch.setattr(Grid, "parts", parts)
    return found


def printed(table: Grid, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """A table as a pipe, or a terminal of 80 columns, shows it."""
    out = StringIO()
    out.isatty = lambda: terminal  # type: ignore[method-assign]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("COLUMNS", "80")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "dumb")
        grid.put(table)
    return out.getvalue()


def fit(found: list[Grid], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found
    for table in list(found):
        for terminal in (False, True):
            text = printed(table, terminal, monkeypatch)
            assert max(map(cell_len, text.splitlines())) <= 80, text
            assert "…" not in text
            for cells, _ in table._rows:  # all that stands in it, however it is folded
                for word in " ".join(cells[table._left:]).replace("[", " ").split():
                    assert word in text


# ------------------------------------------------------------------------------------ commands


@pytest.mark.parametrize("words", [
    ("data", "MANIFEST", "data", "stores"), ("plan", "MANIFEST", "data", "models", "stores"),
    ("status", "MANIFEST", "data", "models", "stores"), ("layers", "tiny"),
    ("prune", "OTHER", "stores")])
def test_a_command_prints_no_wider(words: tuple[str, ...], gate: Run, toy: Toy,  # noqa: F811
                                   manifest: WriteManifest, tables: list[Grid],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, roots, store = toy
    other = manifest(conv={LONG: PROMPT, f"{LONG}-too": {**PROMPT, "t": 1}}, attention={},
                     store={"path": store.name, "block": 3, "batch": 2})
    for path in (loaded.path, other.path):
        named = [str(path) if w in ("MANIFEST", "OTHER") else w for w in words[:2]]
        assert gate(*named, *places(roots, *words[2:])).code == 0
    fit(tables, monkeypatch)


SPREAD = Plain(mean=0.512, std=0.123, interval=(0.401, 0.623))
METHODS = [Method("baseline", "nn", (LONG,)), Method("gate", "nn", (LONG,), True, 2)]
PCK: Any = Plain(values={named(a, r, m): 12.3 for a in (0.05, 0.1) for r in ("image", "box")
                         for m in ("point", "image", "category")},
                 details={"pairs": 9, "points": 90, "pairs_without_box": 2})


def scored() -> Any:
    row = Plain(name=LONG, techniques="ControlNet, LoRA, fine-grained prompt", t=100, score=SPREAD,
                gain=SPREAD, maps={f"up{i}": SPREAD for i in range(8)})
    return Plain(manifest="m.yaml", model="tiny", images=["a"], rows=[row, row], own=False,
                 prompt="a photo", anchor_t=500, dropped=[])


def guided() -> Any:
    means = dict.fromkeys(("SSIM", "edges", "PSNR"), SPREAD)
    row = Plain(name=LONG, techniques="ControlNet", mean=means, gain=means, closer=50.0)
    return Plain(manifest="m.yaml", model="tiny", inputs={"a": 1}, seeds=1, rows=[row], start=700,
                 bound=means, strength=0.7, steps=20, prompt="a photo")


def trained(table: Any) -> Any:
    return Plain(splits={"train": {"images": 3}}, tables=[table], run=Path("run"), seconds=1.0)


def points() -> Any:
    return trained(ScoreTable("test split", "protocol", [ScoreRow(m, PCK) for m in METHODS]))


def masks() -> Any:
    names = ("mIoU", "mIoU/ddpm-segmentation", "pixel accuracy", "class accuracy", "uncertainty",
             "entropy of the mean", "boundary IoU", "frequency-weighted IoU")
    scores: Any = Plain(values=dict.fromkeys(names, 98.7), details={
        "images": 9, "interval": dict.fromkeys(names, (97.6, 99.9))})
    return trained(ScoreTable("test split", "protocol", [ScoreRow(m, scores) for m in METHODS]))


def swept(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = [f"pck@0.10/radius={r}/average={a}" for r in ("image", "box")
             for a in ("point", "image")]
    mean = Mean(f"gamma1=0.1,gamma2=0.1,combos={LONG}", 3, 1, True,
                dict.fromkeys(names, (45.6, 1.2)), METHODS[1], {})
    monkeypatch.setattr("gate_cache.report.terminal.trials.over_seeds", lambda _: [mean, mean])
    return Plain(rows=[], select=names[0], folder=Path("sweep"), seconds=1.0)


def judged() -> Any:
    values = {f"pck@{a}/radius={r}/average=category-image": 12.34 for a in (0.05, 0.1)
              for r in ("image", "box")}
    return Plain(run="runs/x", split="test", manifest="m.yaml", values=values,
                 select=next(iter(values)), interval=(10.0, 14.0), protocol="", notes=[])


def probed() -> Any:
    row = Plain(combos=(LONG,), maps=("up1", "up2"), value=45.6, interval=(40.1, 50.2), equal=True,
                behind=1.2, behind_interval=(-0.1, 2.3))
    other = Plain(**{**vars(row), "maps": tuple(f"up{i}" for i in range(12))})
    ranked = Plain(task="segmentation", probe="ridge", solved="train", judged=9, unit="images",
                   rows=[row, other, other], metric="mIoU")
    return Plain(tables=[ranked], split="val", manifest="m.yaml", seconds=1.0)


def recomputed() -> Any:
    combo = Plain(name=LONG, rows=8, equal=8, largest=0.00123, relative=1.2e-6)
    return Plain(store="s.zarr", rows=[1], device="cpu", combos=[combo, combo], changed=[],
                 notes=[], tolerance=0.0, agrees=True)


@pytest.mark.parametrize(("show", "result"), [
    (show_scores, scored), (show_guideline, guided), (show_trained, points), (show_trained, masks),
    (show_swept, swept), (show_evaluated, judged), (show_probed, probed),
    (show_recomputed, recomputed)])
def test_results_are_no_wider(show: Callable[[Any], None], result: Callable[..., Any],
                              tables: list[Grid], monkeypatch: pytest.MonkeyPatch) -> None:
    show(result(monkeypatch) if result is swept else result())
    fit(tables, monkeypatch)


def test_there_is_one_way_to_print_a_table() -> None:
    """So that the tests above are of every command's tables."""
    home = Path(gate_cache.__file__).parent
    imports = {path.name for path in home.rglob("*.py")
               if "rich.table" in path.read_text(encoding="utf-8")}
    assert imports == {"grid.py"}


# -------------------------------------------------------------------------------- a wide table


def wide() -> Grid:
    table = Grid("method [dim]x[/dim]", *(f"a long heading {i}" for i in range(12)))
    table.add_row("[bold]words that are folded where they are too long[/bold] to stay",
                  *(f"{i}.00 ± {i}.11" for i in range(12)))
    return table


def test_a_table_that_is_too_wide_is_stacked(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wide()
    text = printed(found, True, monkeypatch)
    assert len(list(found.parts(80))) == 3 and text.count("method x") == 3
    fit([found], monkeypatch)
    assert len(list(found.parts(400))) == 1
    assert len(list(found.parts(10))) == 12  # never no column at all, nor an endless loop


def test_a_terminal_of_80_columns_shows_none_wider(roots: Roots, toy: Toy) -> None:
    """The command as it is, in a terminal that says how wide it is."""
    main, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
    with subprocess.Popen([sys.executable, "-m", "gate_cache.cli", "plan", toy[0].path,
                           "--stores", roots.stores], stdout=child, env={**env, "NO_COLOR": "1"},
                          stdin=child, stderr=subprocess.DEVNULL) as command:
        os.close(child)
        raw = b""
        try:
            while part := os.read(main, 4096):
                raw += part
        except OSError:
            pass  # how the end of a terminal is told on Linux
    os.close(main)
    lines = [Text.from_ansi(line).plain for line in raw.decode().splitlines()]
    assert command.returncode == 0 and any("ControlNet" in line for line in lines)
    begin, end = (next(i for i, line in enumerate(lines) if line.startswith(w))
                  for w in ("group", "store:"))
    assert max(map(cell_len, lines[begin - 1:end])) <= 80

"""Stores made by strangers: whatever is in them, a command ends in a line, and soon, and nothing
outside of them is touched.

A small store is changed at random, by a seed: every field of every JSON document, every file and
folder. Checksums of metadata are made right again in most cases, since who writes a store can.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import Run, gate

from gate_cache import FeatureStore
from gate_cache.analysis.session import open_session
from gate_cache.core.errors import GateCacheError, UserError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.progress import Silent
from gate_cache.core.roots import Roots
from gate_cache.core.size import Size
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import latents_recipe, plan_combos
from gate_cache.extraction.diff import diff
from gate_cache.extraction.prune import prune
from gate_cache.extraction.sharing.card import write_card
from gate_cache.extraction.sharing.copy import copy_store
from gate_cache.extraction.status import status
from gate_cache.learn.features.stream import FeatureStream
from gate_cache.manifest.load import Loaded, load
from gate_cache.store.check.inspect import inspect
from gate_cache.store.check.verify import verify
from gate_cache.store.format.attrs import ATTRS, sealed, sealed_array
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer
from gate_cache.training.inputs import open_any
from gate_cache.workspace.workspace import Workspace

__all__ = ["gate"]
SECONDS = 2.0
"""Of this process, that a command may take at most."""

MANIFEST = """
dataset: {name: toyworld, train: 2, val: 0, test: 2}
model: {source: tiny}
conv:
  a: {prompt: a horse, maps: [up0]}
  b: {prompt: a boat, maps: [up0]}
attention:
  at: {prompt: a horse, maps: [attn1]}
store: {block: 3, batch: 2}
train: {head: nn, combos: [a, b], pairs: 4}
"""
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**18), 0.5, -0.5, 1e308,
    float("nan"), float("inf"), "", " ", "a" * 5000, "\x00", "a\nb", "\x1b[31mred", "\u202e",
    "\ud800", "[/red]", "[bold]", "..", "../../victim", "../../victim/secret", "/etc/passwd", "up0",
    "done", "sums", "zarr.json", "x" * 300, "🦊" * 50, [], {}, [[]], [{}], [None], ["a", "a"],
    ["../../victim/secret"], list(range(50)), [10**12], {"a": {"a": {"a": 1}}}, "float64", "|O",
    [10**9, 10**9, 10**9, 10**9], [0, 0, 0, 0], "NaN", {"name": "gzip"}, [{"name": "zstd"}],
]


class Home:
    """A store, what lies beside it and must not change, and the manifest that names the store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "m.yaml").write_text(MANIFEST)
        self.loaded = load(folder / "m.yaml")
        self.roots = Roots(*(folder / n for n in ("data", "models", "stores", "runs")))
        self.path = self.roots.stores / "m.zarr"
        build(self.path, self.loaded, self.roots, Encoding("float16"))
        shutil.copytree(self.path, folder / "whole.zarr")
        shutil.copytree(next(self.path.glob("a-*/up0")), folder / "victim" / "secret")
        (folder / "victim" / "notes.partial").write_text("mine")
        (folder / "victim" / "zarr.json").write_text("{}")
        self.beside = self.outside()

    def fresh(self) -> None:
        """The whole store again."""
        shutil.rmtree(self.path)
        shutil.copytree(self.folder / "whole.zarr", self.path)

    def outside(self) -> dict[str, bytes | None]:
        """All that is not the store and not a claim."""
        return {str(p): p.read_bytes() if p.is_file() else None
                for top in ("whole.zarr", "victim") for p in (self.folder / top).rglob("*")}


def build(path: Path, loaded: Loaded, roots: Roots, encoding: Encoding) -> None:
    data, files = open_dataset(loaded.manifest.dataset, roots), ModelFiles("tiny", HOME)
    ids, rng = [s.id for s in data.samples()], np.random.default_rng(0)
    with open_writer(path, "toyworld", 3, 2) as writer:
        writer.append([NewSample(i, data.sha256(i), *data.size(i)) for i in ids])
        wanted = [(p.name, p.recipe, p.shapes) for p in plan_combos(loaded.manifest, files, roots)]
        latents = latents_recipe(files, Preprocessing(Size.of(64)), "float32")
        for name, recipe, shapes in [*wanted, ("latents", latents, {"x0": (4, 16, 16)})]:
            group = writer.require(name, recipe, shapes, "float32" if name == "latents"
                                   else encoding, {"model": "tiny", "source": {"lora": "x"},
                                                   "tokens": ["a"]})
            group.fit()
            for rows in group.todo():
                group.write(rows, {n: rng.random((len(rows), *s)) for n, s in shapes.items()})
                group.note_made(Provenance("cpu", 2, False, {"torch": "2"}), rows)


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power is cut here, and waiting for the disk is most of the time."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("hostile"))


# ------------------------------------------------------------------------------- the mutator


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Ways to all that is within a JSON document."""
    yield at
    inside = value.items() if isinstance(value, dict) else \
        enumerate(value[:8]) if isinstance(value, list) else ()
    for key, found in inside:
        yield from places(found, (*at, key))


def change_document(document: Any, rng: random.Random) -> Any:
    """One or two fields are removed, renamed, or something else."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2])):
        ways = [w for w in places(document) if w]
        if not ways:
            break
        *way, last = rng.choice(ways)
        holder = document
        for key in way:
            holder = holder[key]
        kind = rng.randrange(5)
        if kind == 0:
            del holder[last]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(["x", "", "..", "\x00", "a" * 300, "[/b]"])] = holder.pop(last)
        elif kind == 2 and isinstance(holder[last], int):
            holder[last] = rng.choice([-1, 0, 2**31, 2**40, 10**18, holder[last] + 1])
        else:
            holder[last] = copy.deepcopy(rng.choice(VALUES))
    return document


def sealed_again(document: Any) -> Any:
    """The document with checksums that fit what it says now, where that can be."""
    try:
        ours = document["attributes"][ATTRS]
        if document.get("node_type") == "array":
            return sealed_array(document)
        if isinstance(ours.get("recipe"), dict) and "fingerprint" in ours:
            ours["fingerprint"] = fingerprint(ours["recipe"])
        document["attributes"][ATTRS] = sealed(ours)
    except Exception:
        return document
    return document


def change_json(path: Path, rng: random.Random) -> str:
    file = rng.choice(sorted(path.rglob("zarr.json")))
    document = change_document(json.loads(file.read_bytes()), rng)
    if rng.random() < 0.8:
        document = sealed_again(document)
    file.write_text(json.dumps(document), encoding="utf-8")
    return f"{file.relative_to(path)}: {json.dumps(document)[:300]}"


def change_text(path: Path, rng: random.Random) -> str:
    file = rng.choice(sorted(path.rglob("zarr.json")))
    text = rng.choice([
        "", "null", "[]", "1", '"a"', "{", "[" * 100_000, '{"a":' * 100_000, "\x00" * 50,
        '{"attributes": ' * 40 + "1" + "}" * 40, "9" * 10_000, '{"a": NaN}', "\ufeff{}"])
    file.write_text(text)
    return f"{file.relative_to(path)}: {text[:40]!r}"


def change_bytes(path: Path, rng: random.Random) -> str:
    file = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
    data = file.read_bytes()
    what = rng.choice(["cut", "empty", "noise", "twice", "gone", "swapped"])
    if what == "gone":
        file.unlink()
    else:
        other = rng.choice(sorted(p for p in path.rglob("*") if p.is_file()))
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "twice": data + data,
                          "noise": rng.randbytes(len(data)),
                          "swapped": other.read_bytes()}[what])
    return f"{file.relative_to(path)}: {what}"


def change_kind(path: Path, rng: random.Random) -> str:
    """A file or folder becomes something else."""
    target = rng.choice(sorted(path.rglob("*")))
    what = rng.choice(["folder", "pipe", "link out", "link to a folder", "circle", "device", "huge",
                       "file", "socket-like name"])
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    victim = path.parents[1] / "victim"
    if what == "folder":
        (target / "inside").mkdir(parents=True)
    elif what == "pipe":
        os.mkfifo(target)
    elif what == "huge":
        with target.open("wb") as file:
            file.truncate(2**41)
    elif what in ("file", "socket-like name"):
        target.with_name(target.name if what == "file" else "a\nb\x1b[0m").write_bytes(b"\0" * 40)
    else:
        target.symlink_to({"link out": victim / "zarr.json", "link to a folder": victim,
                           "circle": target, "device": Path("/dev/zero")}[what])
    return f"{target.relative_to(path)}: {what}"


def add_names(path: Path, rng: random.Random) -> str:
    folder = rng.choice(sorted(p for p in path.rglob("*") if p.is_dir()))
    name = rng.choice(["99999999999999", "²", "007", "-1", "a\nb", "1" * 200, "[bold]", "x.partial",
                       "zz-00000000", "🦊", "bad\udcff"])
    make = rng.choice([lambda p: p.mkdir(), lambda p: p.write_bytes(b"12345678"), os.mkfifo,
                       lambda p: p.symlink_to(path.parents[1] / "victim")])
    if not (folder / name).exists():
        make(folder / name)
    return f"{folder.relative_to(path)}/{name!r}"


CHANGES = [change_json] * 7 + [change_text, change_bytes, change_kind, change_kind, add_names]


# --------------------------------------------------------------------------------- what is done


def stages(home: Home) -> dict[str, Callable[[], object]]:
    """All that opens a store that is there, as programs call it; the last ones change it."""
    def read() -> None:
        store = FeatureStore.open(home.path)
        for name in store.combos:
            for map_ in store[name]:
                assert store[name][map_][:].shape[0] == len(store.samples)

    def stream() -> None:
        store = FeatureStore.open(home.path)
        for sample in FeatureStream(store, store.combos):
            assert sample.maps

    def copy_all() -> None:
        target = home.folder / "copy.zarr"
        shutil.rmtree(target, ignore_errors=True)
        copy_store(home.path, target)
        card = write_card(target)
        assert all(c.isprintable() or c == "\n" for c in card), card

    return {
        "inspect": lambda: inspect(home.path), "copy": copy_all,
        "status": lambda: status(Workspace(home.loaded, home.roots)),
        "read": read, "stream": stream,
        "train": lambda: open_any(Workspace(home.loaded, home.roots, "cpu")),
        "view": lambda: open_session(home.path, home.roots, Silent()).combos(),
        "verify": lambda: verify(home.path, threads=1),
        "diff": lambda: diff(home.path, home.folder / "whole.zarr", home.roots, values=True),
        "prune": lambda: prune([home.path], home.roots),
        "repair": lambda: verify(home.path, repair=True, threads=1),
        "prune away": lambda: prune([home.loaded.path], home.roots, yes=True),
    }


def lines(home: Home, gate: Run, what: str) -> Callable[[], None]:
    """The same as a command, with all that it prints."""
    places = "--stores", home.roots.stores, "--data", home.roots.data
    words: tuple[object, ...] = {
        "inspect": ("inspect", home.path), "status": ("status", home.loaded.path, *places),
        "verify": ("verify", home.path), "prune": ("prune", home.path),
        "diff": ("diff", home.path, home.folder / "whole.zarr", "--values"),
        "repair": ("verify", home.path, "--repair"),
        "prune away": ("prune", home.loaded.path, *places, "--yes")}[what]

    def run() -> None:
        found = gate(*words)
        assert found.code in (0, 1, 2) and "Traceback" not in found.err, found
        if found.code == 2:
            said = [line for line in found.err.splitlines() if line.startswith("error: ")]
            assert len(said) == 1 and len(said[0]) < 2000, found.err
        assert all(c.isprintable() or c == "\n" for c in found.out + found.err), found
    return run


def ends_well(what: str, command: Callable[[], object], case: str) -> None:
    """It returns or says one line, within the time."""
    def too_long(*_: object) -> None:
        raise AssertionError(f"{what} hangs on {case}")

    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 10 * SECONDS)  # of a machine that is busy
    start = time.process_time()
    try:
        command()
    except GateCacheError as error:
        text = str(error)
        assert text.isprintable() and len(text) < 2000, f"{what} on {case}: {text!r}"
    except Exception as error:
        raise AssertionError(f"{what} on {case}: {error!r}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert time.process_time() - start < SECONDS, f"{what} on {case}"


def attack(home: Home, gate: Run, seed: int) -> None:
    rng = random.Random(seed)
    home.fresh()
    case = f"{seed}: " + rng.choice(CHANGES)(home.path, rng)
    spoken = rng.choice(["inspect", "status", "verify", "prune", "diff", "repair", "prune away"]) \
        if seed % 4 == 0 else ""
    for what, command in stages(home).items():
        ends_well(what, lines(home, gate, what) if what == spoken else command, case)
    assert home.outside() == home.beside, case


@pytest.mark.long
@pytest.mark.parametrize("first", range(0, 180, 30))
def test_whatever_is_in_a_store_a_command_ends_in_a_line(home: Home, gate: Run, first: int) -> None:
    for seed in range(first, first + 30):
        attack(home, gate, seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 4000, 100))
def test_three_thousand_more(home: Home, gate: Run, first: int) -> None:
    for seed in range(first, first + 100):
        attack(home, gate, seed)


def test_the_store_that_is_changed_is_whole(home: Home, gate: Run) -> None:
    """Else the cases above would show nothing."""
    home.fresh()
    found = verify(home.path)
    assert found.sound and found.notes == [] and found.blocks == 8
    for what, command in stages(home).items():
        if what == "train":  # two images are too few
            with pytest.raises(UserError, match="has no pairs"):
                command()
        else:
            command()
    assert home.path.exists()

"""Stores made by strangers, kind by kind: what the mutator of `test_hostile` finds seldom or never.

Every change is made as its author would: checksums fit what the files say.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crc32c import crc32c
from numcodecs import Blosc, Zstd
from numcodecs.vlen import VLenUTF8
from test_hostile import Home, ends_well, home, sealed_again, stages, unsynced

from gate_cache.analysis.show import open_shown
from gate_cache.core.progress import Silent
from gate_cache.report.figures.show import draw
from gate_cache.store.format.attrs import ATTRS
from gate_cache.store.format.columns import COLUMNS, seal_samples
from gate_cache.store.format.layout import SAMPLE_CHUNK
from gate_cache.store.format.samples import Samples
from gate_cache.store.places.local import LocalFolder

__all__ = ["home", "unsynced"]
Change = Callable[[Path], object]


def group(store: Path, label: str = "a") -> Path:
    return next(store.glob(f"{label}-*"))


def document(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change our attributes in a ``zarr.json``, or all of it where it has none."""
    found = json.loads(file.read_bytes())
    own = found["attributes"].get(ATTRS) if found["node_type"] == "group" else found
    change(own)
    file.write_text(json.dumps(sealed_again(found)))


def attrs(label: str, **fields: Any) -> Change:
    return lambda store: document(group(store, label) / "zarr.json", lambda a: a.update(fields))


def recipe(**fields: Any) -> Change:
    return lambda store: document(group(store) / "zarr.json", lambda a: a["recipe"].update(fields))


def array(name: str, **fields: Any) -> Change:
    return lambda store: document(group(store) / name / "zarr.json", lambda a: a.update(fields))


def table(ids: list[str] | None = None, side: int = 64, count: int = 4) -> Change:
    """The table of samples as somebody else has it."""
    def change(store: Path) -> None:
        names = ids or [f"{i}.png" for i in range(count)]
        whole = Samples(names, [f"{i:064x}" for i in range(len(names))],
                        np.full((len(names), 2), side, np.int32))
        filled = np.array([*names, *[""] * (SAMPLE_CHUNK - len(names))], object)
        (store / "samples/id/c/0").write_bytes(VLenUTF8().encode(filled))
        for name in ("height", "width"):
            (store / f"samples/{name}/c/0").write_bytes(np.full(SAMPLE_CHUNK, side, "<i4"))
        (store / "samples/sha256/c/0/0").write_bytes(
            whole.sha256.raw.tobytes().ljust(32 * SAMPLE_CHUNK, b"\0"))
        seal_samples(LocalFolder(store), whole)
    return change


def counted(count: int) -> Change:
    def change(store: Path) -> None:
        file = store / "samples/zarr.json"
        found = json.loads(file.read_bytes())
        found["attributes"]["count"] = count
        file.write_text(json.dumps(found))
        for column in COLUMNS:
            own = json.loads((store / f"samples/{column}/zarr.json").read_bytes())
            own["shape"][0] = count
            (store / f"samples/{column}/zarr.json").write_text(json.dumps(sealed_again(own)))
    return change


def in_place(pattern: str, make: Callable[[Path, Path], object]) -> Change:
    """Something else where a file or folder was; `make` gets it, and what is outside."""
    def change(store: Path) -> None:
        target = next(iter(sorted(store.glob(pattern))))
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        make(target, store.parents[1] / "victim")
    return change


def linked(pattern: str, to: str) -> Change:
    return in_place(pattern, lambda target, victim: target.symlink_to(victim / to))


def pipe(pattern: str) -> Change:
    return in_place(pattern, lambda target, _: os.mkfifo(target))


def sparse(pattern: str) -> Change:
    def make(target: Path, _: Path) -> None:
        with target.open("wb") as file:
            file.truncate(2**42)
    return in_place(pattern, make)


def marks(value: int) -> Change:
    def change(store: Path) -> None:
        file = group(store) / "done/c/0"
        file.write_bytes(value.to_bytes(8, "little") * (file.stat().st_size // 8))
    return change


def sums_of(source: str) -> Change:
    """The checksums of another group, or zeros."""
    def change(store: Path) -> None:
        for file in (group(store) / "sums/c").iterdir():
            body = bytes(file.stat().st_size - 4)
            file.write_bytes((group(store, source) / "sums/c" / file.name).read_bytes() if source
                             else body + crc32c(body).to_bytes(4, "little"))
    return change


def bomb(codec: dict[str, Any], chunk: bytes) -> Change:
    """A shard of rows that say that they are of many gigabytes, in a group that is compressed."""
    def change(store: Path) -> None:
        at = group(store) / "up0"
        name = codec["name"]
        document(group(store) / "zarr.json", lambda a: a.update(
            {"encoding": {"dtype": "float16", "codec": name}}))

        def packed(found: dict[str, Any]) -> None:
            inside = found["codecs"][0]["configuration"]
            inside["codecs"] = [{"name": "bytes", "configuration": {"endian": "little"}}, codec,
                                inside["codecs"][-1]]
        document(at / "zarr.json", packed)
        for shard in at.glob("c.*"):
            piece = chunk + crc32c(chunk).to_bytes(4, "little")
            index = np.array([[i * len(piece), len(piece)] for i in range(3)], "<u8").tobytes()
            shard.write_bytes(piece * 3 + index + crc32c(index).to_bytes(4, "little"))
        shutil.rmtree(group(store) / "sums")
    return change


def nested(depth: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(depth):
        found = {"a": found}
    return found


def twice(store: Path) -> None:
    """One document that says two things."""
    file = group(store) / "zarr.json"
    text = file.read_text()
    first = '{"attributes": {"gate_cache": {"maps": ["../../victim"]}},'
    file.write_text(first + text.lstrip()[1:])


def two_of_a_kind(store: Path) -> None:
    shutil.copytree(group(store), store / "zz-00000000")


def beside(name: str, make: Callable[[Path], object]) -> Change:
    return lambda store: make(store.parent / name)


MADE = {"number": 7, "device": "cpu", "batch": 1, "tf32": False, "versions": {}}
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
BLOSC = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "bitshuffle",
                                            "typesize": 2, "blocksize": 0}}
HUGE = bytearray(Blosc().encode(bytes(2**20)))
HUGE[4:8] = (2**31 - 17).to_bytes(4, "little")

CASES: dict[str, Change] = {
    "images without pixels": table(side=0),
    "images of negative sides": table(side=-5),
    "images of two thousand million pixels a side": table(side=2**31 - 1),
    "one id for all": table(ids=["a.png"] * 4),
    "ids that climb": table(ids=["../../victim/secret", "a.png", "b.png", "c.png"]),
    "ids from the root": table(ids=["/etc/passwd", "a.png", "b.png", "c.png"]),
    "an empty id": table(ids=["", "a.png", "b.png", "c.png"]),
    "ids that turn the text": table(ids=["\u202egnp.a", "\u200b.png", "[/b]", "🦊" * 300]),
    "ids with control characters": table(ids=["a\x1b[31m", "b\r", "c\x00", "d"]),
    "ids of four thousand letters": table(ids=[letter * 4096 for letter in "abcd"]),
    "more images than there are": counted(2**39),
    "a negative number of images": counted(-1),
    "a column without an end": sparse("samples/sha256/c/0/0"),
    "a column that is a pipe": pipe("samples/id/c/0"),
    "a column outside": linked("samples/id", "secret"),
    "marks of all ones": marks(2**64 - 1),
    "marks of a million rows": marks((2**20 - 1) << 32),
    "marks with numbers of nothing": marks(4095 << 52 | 3 << 32 | 5),
    "marks outside": linked("a-*/done/c/0", "notes.partial"),
    "marks that are a pipe": pipe("a-*/done/c/0"),
    "checksums of nothing": sums_of(""),
    "checksums of another combo": sums_of("b"),
    "checksums that are a pipe": pipe("a-*/sums/c/0"),
    "checksums without an end": sparse("a-*/sums/c/0"),
    "made ten thousand times": attrs("a", made=[MADE] * 10_000),
    "made by a yes": attrs("a", made=[{**MADE, "number": True, "batch": True}]),
    "made with colours": attrs("a", made=[{**MADE, "versions": {"\x1b[31m": "1"}}]),
    "made at minus one": attrs("a", made=[{**MADE, "number": -1}]),
    "absent to the end of the world": attrs("a", absent=[2**62]),
    "absent a hundred thousand times": attrs("a", absent=list(range(10**5))),
    "absent and present": attrs("a", absent=[True, False]),
    "latents of a combo": attrs("latents", kind="conv", combo="../../victim"),
    "latents of one map twice": attrs("latents", maps=["x0", "x0"]),
    "a hundred thousand tokens": attrs("at", tokens=["[/red]\x1b"] * 10**5),
    "a size that is a yes": recipe(size=True),
    "a size below nothing": recipe(size=-64),
    "a seed of four hundred digits": recipe(settings={"seed": 10**400}),
    "settings as deep as the sea": recipe(settings=nested(150)),
    "settings of a recipe that are a text": recipe(settings="prompt"),
    "pooling of no map": recipe(pooling={"../../victim": {"grid": 1, "pool": "mean"}}),
    "a recipe that is twice there": two_of_a_kind,
    "a document that says two things": twice,
    "rows of a thousand dimensions": array("up0", shape=[4] + [1] * 1000),
    "rows of nothing": array("up0", shape=[4, 0, 16, 16]),
    "more rows than images": array("up0", shape=[2**39, 64, 16, 16]),
    "a block of a thousand million rows": array("up0", chunk_grid={
        "name": "regular", "configuration": {"chunk_shape": [2**31 - 1, 64, 16, 16]}}),
    "an encoding of other arrays": attrs("a", encoding={"dtype": "int8"}),
    "bits below nothing": attrs("a", encoding={"dtype": "float16", "keep_bits": -1}),
    "bits that are a yes": attrs("a", encoding={"dtype": "float16", "keep_bits": True}),
    "a shard outside": linked("a-*/up0/c.0.0.0.0", "zarr.json"),
    "a shard that is a pipe": pipe("a-*/up0/c.0.0.0.0"),
    "a shard without an end": sparse("a-*/up0/c.0.0.0.0"),
    "a group outside": linked("a-*", "secret"),
    "a page outside": lambda store: (store / "README.md").symlink_to(
        store.parents[1] / "victim/notes.partial"),
    "rows of gigabytes in zstd": bomb(ZSTD, Zstd(1).encode(bytes(2**26))),
    "rows of gigabytes in blosc": bomb(BLOSC, bytes(HUGE)),
    "a claim that is a pipe": beside(".m.zarr.claim-1", os.mkfifo),
    "a claim without an end": beside(".m.zarr.claim-999999999999999", lambda p: p.write_text("1")),
}
"""What is changed, by somebody who knows the format."""


def attack(home: Home, case: str, part: slice) -> None:
    """Some of what opens a store, each on what the last one left."""
    home.fresh()
    CASES[case](home.path)
    pictures = home.folder / "pictures"
    every = {"show": lambda: list(draw(open_shown(home.path, home.roots, Silent()), [], [], [],
                                       pictures)), **stages(home)}
    try:
        for what, command in list(every.items())[part]:
            ends_well(what, command, case)
    finally:
        for claim in home.path.parent.glob(".m.zarr.claim-*"):
            claim.unlink()
    assert home.outside() == home.beside


@pytest.mark.parametrize(("number", "case"), enumerate(CASES))
def test_a_strangers_store_ends_in_a_line(home: Home, number: int, case: str) -> None:
    attack(home, case, slice(number % 3, None, 3))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_whatever_opens_a_strangers_store(home: Home, case: str) -> None:
    attack(home, case, slice(None))

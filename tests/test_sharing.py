"""Pushing and pulling: a copy is a store of its own, whole or in part, and goes on where it was."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import _http
from typer.testing import CliRunner

from gate_cache import FeatureStore
from gate_cache.cli import app
from gate_cache.core.errors import GateCacheError, RemoteError, StoreError, UserError
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.places import Place, parse_place
from gate_cache.core.roots import Roots
from gate_cache.extraction.sharing.card import write_card
from gate_cache.extraction.sharing.copy import Selection, copy_store
from gate_cache.store.check.verify import verify
from gate_cache.store.format.attrs import read_attrs
from gate_cache.store.format.documents import put_attrs
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.samples import NewSample
from gate_cache.store.opening import open_folder
from gate_cache.store.places import hub as hub_place
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import open_writer

BLOCK, ROWS = 4, 10
SHAPES = {"up0": (3, 2, 2), "up1": (2, 4, 4)}
ABSENT = 5
"""A row whose image was gone when the second combo was extracted."""


MADE = Provenance("cpu", 2, False, {"torch": "2.13"})


def recipe(prompt: str, maps: list[str]) -> dict[str, object]:
    return {"kind": "conv", "settings": {"prompt": prompt}, "maps": maps, "size": 64}


def values(rows: range, offset: float) -> dict[str, np.ndarray]:
    return {name: np.stack([np.full(s, row + offset, np.float32) for row in rows])
            for name, s in SHAPES.items()}


def made(path: Place, rows: int = ROWS) -> FeatureStore:
    """Latents, a combo in float16, and one in int8 that lacks an image."""
    with open_writer(path, "toy", BLOCK, 2) as store:
        store.append([NewSample(f"horse/{i:02}.jpg", f"{i:064x}", 10 + i, 20)
                      for i in range(len(store.samples), rows)])
        for name, encoding, offset in (("plain", "float16", 0.5), ("small", "int8", 100.0)):
            group = store.require(name, recipe(name, list(SHAPES)), SHAPES, Encoding(encoding),
                                  {"model": "tiny", "tokens": ["a"]})
            group.fit()
            gone = {ABSENT} if name == "small" else set()
            todo = group.todo(gone)
            group.note_absent(todo, gone)
            for block in todo:
                maps = values(block, offset)
                for row in gone.intersection(block):
                    for array in maps.values():
                        array[row - block.start] = np.nan
                group.write(block, maps, [row for row in block if row in gone])
                group.note_made(MADE, block)
        latents = store.require_latents({"kind": "latents", "size": 64}, {"x0": (4, 2, 2)}, {},
                                        keep=True)
        latents.fit()
        for block in latents.todo():
            latents.write(block, {"x0": np.ones((len(block), 4, 2, 2))})
    return FeatureStore.open(path)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return made(tmp_path / "from" / "toy.zarr")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "to" / "copy.zarr"


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def contents(path: Path) -> dict[str, object]:
    """As `files`, whatever order what is written on a group has."""
    return {name: json.loads(raw) if name.endswith(".json") else raw
            for name, raw in files(path).items()}


def sound(place: Place) -> bool:
    report = verify(place)
    return report.sound and not report.problems and not report.notes


def test_a_whole_copy_is_the_same_to_the_byte(store: FeatureStore, target: Path) -> None:
    copied = copy_store(store.path, target)
    assert copied.blocks == 9 and copied.kept == 0 and not copied.missing
    assert files(target) == files(store.path)
    assert FeatureStore.open(target)["plain"].made() == [(MADE, 3)]
    assert sound(target)


def test_a_part_is_a_store_of_its_own(store: FeatureStore, target: Path) -> None:
    ids = ["horse/07.jpg", "horse/05.jpg", "horse/01.jpg"]
    copied = copy_store(store.path, target, Selection(["small", "small"], ["up1"], ids))
    assert len(copied.groups) == 1
    part = FeatureStore.open(target)
    assert part.combos == ("small",) and part["small"].maps == ("up1",) and not part.latents()
    assert part.samples.ids == ("horse/01.jpg", "horse/05.jpg", "horse/07.jpg")
    assert part.samples.sizes.tolist() == [[11, 20], [15, 20], [17, 20]]
    assert part["small"].done().tolist() == [True, False, True]
    assert part["small"].fingerprint == fingerprint(recipe("small", ["up1"]))
    assert part["small"].attrs["tokens"] == ["a"] and part["small"].made() == [(MADE, 1)]
    for row, source in ((0, 1), (2, 7)):
        np.testing.assert_array_equal(part["small"]["up1"][row], store["small"]["up1"][source])
    assert sound(target)


def test_a_copy_goes_on_where_it_was(store: FeatureStore, target: Path) -> None:
    assert copy_store(store.path, target, Selection(images=4)).blocks == 3
    again = copy_store(store.path, target, Selection(["plain"]))
    assert (again.kept, again.blocks, again.images) == (1, 2, ROWS)
    made(store.path, ROWS + 3)
    third = copy_store(store.path, target)
    assert (third.kept, third.blocks) == (4, 8)  # of 'plain' two are whole, of the others one each
    assert contents(target) == contents(store.path)


def test_rows_that_the_source_has_anew_are_copied_again(store: FeatureStore, target: Path) -> None:
    copy_store(store.path, target)
    with open_writer(store.path, "toy", BLOCK, 2) as writer:
        group = writer.require("plain", recipe("plain", list(SHAPES)), SHAPES, "float16", {})
        group.write(range(4, 8), values(range(4, 8), 7.0))
    again = copy_store(store.path, target)
    assert (again.blocks, again.kept) == (1, 8)
    np.testing.assert_array_equal(FeatureStore.open(target)["plain"]["up0"][6],
                                  np.full(SHAPES["up0"], 13.0))
    assert sound(target)


def test_blocks_that_are_not_extracted_are_left_out(store: FeatureStore, target: Path) -> None:
    with open_writer(store.path, "toy", BLOCK, 2) as writer:
        writer.require("plain", recipe("plain", list(SHAPES)), SHAPES, "float16", {}).marks.write(
            1, 0)
    copied = copy_store(store.path, target)
    assert list(copied.missing.values()) == [4] and copied.blocks == 8
    done = FeatureStore.open(target)["plain"].done()
    assert done.tolist() == [True] * 4 + [False] * 4 + [True] * 2


@pytest.mark.parametrize(("asked", "line"), [
    (Selection(["plian"]), "did you mean 'plain'"),
    (Selection(maps=["up7"]), "no map 'up7'"),
    (Selection(images=["horse/1.jpg"]), "no sample 'horse/1.jpg'"),
])
def test_what_is_not_there_is_named(store: FeatureStore, target: Path, asked: Selection,
                                    line: str) -> None:
    with pytest.raises(StoreError, match=line):
        copy_store(store.path, target, asked)
    assert not target.exists()


def test_targets_that_do_not_fit(store: FeatureStore, target: Path) -> None:
    with pytest.raises(StoreError, match="is the store itself"):
        copy_store(store.path, store.path.parent / ".." / "from" / "toy.zarr")
    copy_store(store.path, target, Selection(images=["horse/02.jpg"]))
    before = files(target)
    with pytest.raises(StoreError, match="holds other images"):
        copy_store(store.path, target)
    assert files(target) == before


def test_damage_is_not_copied(store: FeatureStore, target: Path) -> None:
    shard = store.path / store["plain"].name / "up0" / "c.1.0.0.0"
    raw = bytearray(shard.read_bytes())
    raw[3] ^= 1
    shard.write_bytes(raw)
    with pytest.raises(StoreError, match="missing or damaged"):
        copy_store(store.path, target)
    assert sound(target) or verify(target).sound


# ------------------------------------------------------------------------------------ the Hub


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        server.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of its own
    monkeypatch.setattr(_http.time, "sleep", lambda _: None)  # between its client's tries
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.close()


def test_to_the_hub_and_back(store: FeatureStore, target: Path, hub: HubServer) -> None:
    place, start = parse_place("hf://datasets/me/maps/spair.zarr"), "spair.zarr/"
    copied = copy_store(store.path, place)
    assert copied.blocks == 9 and hub.private == {"me/maps"}
    card = write_card(place)
    held = hub.repos["me/maps"]
    assert held[f"{start}README.md"].decode() == card
    shards = {k: raw for k, raw in files(store.path).items() if "/c." in k or "/sums/c" in k}
    assert {k: held[start + k] for k in shards} == shards
    assert copy_store(store.path, place).kept == 9
    assert verify(place).sound
    with pytest.raises(StoreError, match="pull it"):
        verify(place, repair=True)
    pulled = copy_store(place, target)
    assert pulled.blocks == 9 and contents(target) == contents(store.path)
    part = copy_store(place, target.with_name("part.zarr"), Selection(["plain"], ["up0"], 3))
    assert (part.blocks, part.images) == (1, 3)


@pytest.mark.long
def test_a_pull_is_of_one_commit(store: FeatureStore, target: Path, hub: HubServer,
                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """A push in between, of the same rows with other values, is not mixed in."""
    place = parse_place("hf://datasets/me/maps")
    copy_store(store.path, place)
    first, before = hub.heads["me/maps"], contents(store.path)
    answer = hub.answer

    def push_between(method: str, path: str, body: bytes) -> tuple[int, object]:
        if path.endswith("/up0/c.1.0.0.0"):  # the second block is asked for: now others push
            monkeypatch.setattr(hub, "answer", answer)
            with open_writer(store.path, "toy", BLOCK, 2) as writer:
                group = writer.find(recipe("plain", list(SHAPES)))
                assert group
                for rows in (range(4), range(4, 8), range(8, ROWS)):
                    group.write(rows, values(rows, 7.0))
            copy_store(store.path, place)
        return answer(method, path, body)

    monkeypatch.setattr(hub, "answer", push_between)
    copied = copy_store(place, target)
    assert copied.version == first != hub.heads["me/maps"]
    assert contents(target) == before and sound(target)
    older = target.with_name("older.zarr")
    code, said = run("pull", f"{place}@{first}", str(older))
    assert code == 0 and f"of commit {first}" in "".join(said.split("\n")).replace("  ", " ")
    assert contents(older) == before
    newer = copy_store(place, target)
    assert (newer.version, newer.blocks) == (hub.heads["me/maps"], 3)
    assert contents(target) == contents(store.path)
    for revision, line in (("f" * 40, "has no such revision"), (first, "is only read")):
        with pytest.raises(GateCacheError, match=line):
            copy_store(store.path, parse_place(f"{place}@{revision}"))


def test_large_files_are_sent_before_their_commit(tmp_path: Path, hub: HubServer) -> None:
    path, shape = tmp_path / "large.zarr", {"up0": (64, 64, 64)}
    with open_writer(path, "toy", BLOCK, 2) as writer:
        writer.append([NewSample(f"{i}.jpg", f"{i:064x}", 2, 2) for i in range(BLOCK)])
        group = writer.require("a", recipe("a", ["up0"]), shape, "float16", {})
        group.fit()
        group.write(range(BLOCK), {"up0": np.random.default_rng(0).standard_normal(
            (BLOCK, *shape["up0"]))})
    place = parse_place("hf://datasets/me/large")
    hub.failing = [500, 200]  # the last one first: an empty store is made
    with pytest.raises(RemoteError, match="the Hub answers 500; what is done so far is kept"):
        copy_store(path, place)
    copy_store(path, place)
    assert sum("PUT /lfs/" in r for r in hub.requests) == 1
    assert sum("/commit/" in r for r in hub.requests) == 3
    shard = next(raw for name, raw in files(path).items() if "/c.0" in name)
    assert shard in hub.repos["me/large"].values()


def test_little_is_held_before_a_commit(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_place, "MOST", 100)
    folder = open_folder(parse_place("hf://datasets/me/many"))
    for name in "abc":
        folder.write(name, [bytes(60)])
    assert hub.repos["me/many"].keys() >= {"a", "b"} and "c" not in hub.repos["me/many"]


def test_what_the_hub_refuses_is_a_line(store: FeatureStore, target: Path, hub: HubServer) -> None:
    place = parse_place("hf://datasets/me/maps")
    with pytest.raises(GateCacheError, match="no such store"):
        copy_store(place, target)
    for status, line in ((403, "hf auth login"), (412, "somebody else")):
        hub.failing = [status]
        with pytest.raises(RemoteError, match=line) as raised:
            copy_store(store.path, place)
        assert "\n" not in str(raised.value) and "hf_test" not in str(raised.value)
    hub.close()
    with pytest.raises(RemoteError, match="cannot be reached"):
        copy_store(store.path, place)


@pytest.mark.parametrize("error", [
    AttributeError("'NoneType' object has no attribute 'request'"),
    RuntimeError("Cannot send a request, as the client has been closed.")], ids=["none", "closed"])
def test_a_session_that_another_thread_closed_is_a_lost_connection(error: Exception) -> None:
    with pytest.raises(RemoteError, match="cannot be reached"), \
            hub_place.hub_errors(parse_place("hf://datasets/me/maps")):
        raise error


def test_a_fault_of_ours_is_no_lost_connection() -> None:
    with pytest.raises(AttributeError), hub_place.hub_errors(parse_place("hf://datasets/me/maps")):
        "store".request  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("url", ["hf://datasets/me", "hf://models/me/maps", "hf://datasets/a/b@"])
def test_places_of_the_hub(url: str) -> None:
    with pytest.raises(UserError, match="hf://datasets/<owner>/<name>"):
        open_folder(parse_place(url))


def test_nothing_is_extracted_to_the_hub() -> None:
    with pytest.raises(UserError, match="gate-cache push"):
        Roots.resolve(stores="hf://datasets/me/maps")
    with pytest.raises(UserError, match="gate-cache push"):
        Roots(outside=True).store("hf://datasets/me/maps", "m.yaml: store.path")


# -------------------------------------------------------------------------- the card, commands


def test_the_card_says_how_to_load(store: FeatureStore, target: Path) -> None:
    copy_store(store.path, target)
    text = write_card(target)
    head, page = text.split("---\n")[1:3]
    assert yaml.safe_load(head) == {"tags": ["gate-cache", "diffusion-features"], "viewer": False}
    for word in (store["plain"].fingerprint[:16], "up1 (2, 4, 4) int8", "| 9 |", "10 images",
                 '"prompt": "plain"'):
        assert word in page
    code = text.split("```python\n")[1].split("```")[0].replace("copy.zarr", str(target))
    names: dict[str, object] = {}
    exec(code, names)
    np.testing.assert_array_equal(names["features"], np.full((3, 2, 2), 0.5))
    assert sound(target)


def test_a_strangers_words_make_no_markup(store: FeatureStore, target: Path) -> None:
    copy_store(store.path, target)
    folder, name = LocalFolder(target), store["plain"].name
    words = {"model": "[x](http://x) `|<b>", "source": {"lora": 7, "net": {"a": "b"}}}
    put_attrs(folder, name, {**read_attrs(folder, name), **words})
    assert r"| \[x\](http://x) \`\|\<b\> |" in write_card(target)
    code, said = run("inspect", str(target))
    assert code == 0 and "lora from: 7" in said and "net from: b" in said


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, words)
    return result.exit_code, f"{result.output}{result.exception or ''}"


def test_commands(store: FeatureStore, target: Path, hub: HubServer, tmp_path: Path) -> None:
    ids = tmp_path / "ids.txt"
    ids.write_text("horse/02.jpg\n\nhorse/04.jpg\n")
    code, said = run("push", str(store.path), "hf://datasets/me/maps", "--images", str(ids),
                     "--combos", "plain", "--maps", "up0, up1")
    assert code == 0 and "2 images, 1 group: copied 1 block" in said
    assert b"# maps" in hub.repos["me/maps"]["README.md"]
    code, said = run("pull", "hf://datasets/me/maps", str(target), "--images", "1")
    assert code == 0 and FeatureStore.open(target).samples.ids == ("horse/02.jpg",)
    for words, line in (
            (("pull", str(store.path), str(target), "--images", "many"), "neither a number"),
            (("push", str(store.path), str(target)), "gate-cache pull"),
            (("pull", str(tmp_path / "none"), str(target)), "no such store")):
        code, said = run(*words)
        assert code != 0 and line in said


def test_ctrl_c_ends_at_once_and_nothing_is_lost(store: FeatureStore, target: Path) -> None:
    """While a block is on its way that never arrives."""
    slow = ("import sys, threading, gate_cache.cli as cli\n"
            "from gate_cache.store.format.groups import GroupWriter\n"
            "write = GroupWriter.write_stored\n"
            "def late(self, rows, *more):\n"
            "    write(self, rows, *more) if rows.start == 0 else threading.Event().wait()\n"
            "GroupWriter.write_stored = late\n"
            f"sys.argv = ['gate-cache', 'pull', {str(store.path)!r}, {str(target)!r}]\n"
            "cli.main()\n")
    process = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(
                                   signal.SIGINT, signal.default_int_handler))
    marks = target / store["plain"].name / "done" / "c" / "0"
    until = time.monotonic() + 60
    while not (marks.exists() and any(marks.read_bytes())) and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == 130 and "run the same command again" in said
    copy_store(store.path, target)
    assert contents(target) == contents(store.path)
    shutil.rmtree(target)

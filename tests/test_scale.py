"""Stores of many images: what a plan says of them, maps made smaller, marks, table and hashes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import zarr
from conftest import PROMPT, WriteManifest
from marks import marks_of
from published_trees import picture, save

from gate_cache import FeatureStore
from gate_cache.commands.options import parse_size
from gate_cache.core.errors import DataError, ManifestError, ModelError, StoreError, UserError
from gate_cache.core.fingerprint import file_sha256
from gate_cache.core.roots import Roots
from gate_cache.datasets.folder import ImageFolder
from gate_cache.extraction.extract import extract
from gate_cache.extraction.footprint import StoreShape, proposals
from gate_cache.extraction.plan import plan
from gate_cache.extraction.status import status
from gate_cache.store.check.verify import verify
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import MARKS
from gate_cache.store.format.samples import NewSample, Samples
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import open_writer
from gate_cache.workspace import image_digests as digests
from gate_cache.workspace.workspace import Workspace

DATA = {"name": "toyworld", "train": 2, "val": 0, "test": 1}
SD15 = {"up0": (1280, 16, 16), "up1": (1280, 32, 32), "up2": (640, 64, 64), "up3": (320, 64, 64)}
ATTENTION = {"attn1": (77, 16, 16), "attn2": (77, 32, 32), "attn3": (77, 64, 64)}


# ---------------------------------------------------------------------------- maps made smaller

@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    from gate_cache.manifest.load import load

    home = tmp_path_factory.mktemp("pooled")
    (home / "p.yaml").write_text("""
dataset: {name: toyworld, train: 2, val: 0, test: 1}
model: {source: tiny}
conv:
  full: {prompt: a photo, maps: [up0, up1]}
  mean: {prompt: a photo, maps: {up0: {grid: 1}, up1: {grid: 4}}}
  max: {prompt: a photo, maps: {up0: , up1: {grid: 3, pool: max}}}
store: {dtype: float32, block: 2, batch: 2, latents: false}
""")
    work = Workspace(load(home / "p.yaml"), Roots(stores=home), "cpu")
    extract(work)
    assert status(work).complete and not any(extract(work).rows.values())
    return FeatureStore.open(work.store_path)


def test_maps_are_pooled_as_torch_does_it(pooled: FeatureStore) -> None:
    full = {name: torch.from_numpy(pooled["full"][name][:]) for name in ("up0", "up1")}
    wanted = {("mean", "up0"): full["up0"].mean((2, 3), keepdim=True),
              ("mean", "up1"): F.adaptive_avg_pool2d(full["up1"], 4),
              ("max", "up0"): full["up0"],
              ("max", "up1"): F.adaptive_max_pool2d(full["up1"], 3)}
    plain = zarr.open_group(str(pooled.path), mode="r")
    for (combo, name), values in wanted.items():
        np.testing.assert_allclose(pooled[combo][name][:], values, rtol=1e-5, atol=1e-6)
        there: Any = plain[f"{pooled[combo].name}/{name}"]
        np.testing.assert_array_equal(there[:], pooled[combo][name][:])


def test_pooling_is_in_the_fingerprint(pooled: FeatureStore) -> None:
    assert "pooling" not in pooled["full"].recipe
    assert pooled["max"].recipe["pooling"] == {"up1": {"grid": 3, "pool": "max"}}
    assert len({pooled[name].fingerprint for name in pooled.combos}) == 3
    assert verify(pooled.path).sound


def test_latents_that_are_not_kept_are_made_anew(pooled: FeatureStore, roots: Roots,
                                                 manifest: WriteManifest) -> None:
    assert not pooled.latents()
    kept = manifest(dataset=DATA, conv={"full": {"prompt": "a photo", "maps": ["up0"]}},
                    attention={}, store={"dtype": "float32", "block": 2, "batch": 2})
    store = FeatureStore.open(extract(Workspace(kept, roots, "cpu")).store)
    np.testing.assert_array_equal(store["full"]["up0"][:], pooled["full"]["up0"][:])
    (latents,) = store.latents()
    assert pooled["full"].recipe["latents"] == latents.fingerprint


@pytest.mark.parametrize(("maps", "says"), [
    ({"up1": {"grid": 0}}, r"conv\.plain\.maps\.up1\.grid: must be at least 1 .*, got 0"),
    ({"up1": {"pool": "median"}}, r"maps\.up1\.pool: expected 'mean' or 'max'"),
    ({"up1": {"gird": 2}}, r"maps\.up1\.gird: unknown field \(did you mean 'grid'\?\)"),
    (["up1", "up1"], r"maps: a map is named twice"),
    ({}, r"maps: must not be empty"),
])
def test_bad_grids_are_named(manifest: WriteManifest, maps: Any, says: str) -> None:
    with pytest.raises(ManifestError, match=says):
        manifest(conv={"plain": {**PROMPT, "maps": maps}})


def test_a_grid_larger_than_its_map_is_refused(manifest: WriteManifest, roots: Roots) -> None:
    loaded = manifest(conv={"plain": {**PROMPT, "maps": {"up0": {"grid": 99}}}}, attention={})
    with pytest.raises(ModelError, match=r"maps: up0: a grid of 99 cells a side, but the map has"):
        plan(Workspace(loaded, roots))


# ------------------------------------------------------------------------------------ the plan

def imagenet(**changed: Any) -> StoreShape:
    """ImageNet-1k through SD 1.5 at 512 pixels, six conv combos and one of attention."""
    ids = [f"train/n01440764/n01440764_{i:05d}.JPEG" for i in range(1_331_167)]
    combos = {**{f"c{i}": SD15 for i in range(6)}, "at": ATTENTION}
    return StoreShape(ids, {"latents": (4, 64, 64)}, combos, Encoding(), None, **changed)


@pytest.mark.long
def test_imagenet_fits_when_it_is_pooled() -> None:
    found = {p.change: p for p in proposals(imagenet(), 2 * 10**12)}
    pooled = found["maps: {<each>: {grid: 1}}, store: {latents: false}"]
    assert pooled.bytes < 100e9 and pooled.fits
    by_hand = 1_331_167 * (6 * (3520 * 2 + 4 * 4) + 3 * (77 * 2 + 4))
    assert by_hand < pooled.bytes < 1.2 * by_hand
    dense = found["up1 alone, maps: {up1: {grid: 8}}"]
    assert dense.fits and dense.bytes == pytest.approx(
        1_331_167 * (6 * 1280 * 64 * 2 + 4 * 64 * 64 * 4), rel=0.01)
    assert not found["store: {dtype: int8}"].fits
    fewer = found["store: {block: 128}, more memory"].files
    assert fewer < sum(g.files for g in imagenet().groups().values()) / 6


@pytest.mark.long
def test_a_plan_is_what_lands_on_the_disk(manifest: WriteManifest, roots: Roots) -> None:
    work = Workspace(manifest(dataset=DATA, store={"block": 2}), roots, "cpu")
    said = plan(work, rate=10)
    extract(work)
    path = Path(str(work.store_path))
    assert said.folders == sum(1 for _ in os.walk(path))
    assert said.files == sum(len(files) for _, _, files in os.walk(path))
    assert said.hours == pytest.approx(3 * said.pieces.unet_passes / 10 / 3600)
    assert not said.proposals and plan(work, room=10**4).proposals


@pytest.mark.parametrize(("text", "size"), [
    ("100GB", 10**11), ("1.5 TB", 15 * 10**11), ("7", 7), (None, None)])
def test_sizes_are_read(text: str | None, size: int | None) -> None:
    assert parse_size(text) == size
    with pytest.raises(UserError, match="'many' is not a size; write one as 500GB"):
        parse_size("many")


# ----------------------------------------------------------------- marks, the table and hashes

def new_samples(first: int, last: int) -> list[NewSample]:
    return [NewSample(f"c/{i:06d}.jpg", f"{i:064x}", 3, 4) for i in range(first, last)]


def test_marks_share_a_file_that_plain_zarr_reads(tmp_path: Path) -> None:
    path, rows = tmp_path / "s.zarr", 2 * MARKS + 3
    with open_writer(path, "toy", 2, 2) as store:
        store.append(new_samples(0, rows))
        group = store.require("plain", {"kind": "conv"}, {"up0": (2, 1, 1)}, "float16", {})
        group.fit()
        for block in (0, 1, MARKS, MARKS + 1):
            some = range(2 * block, min(2 * block + 2, rows))
            group.write(some, {"up0": np.ones((len(some), 2, 1, 1), np.float16)})
    names = sorted(p.name for p in (path / group.name / "done/c").iterdir())
    assert names == ["0", "1"]
    there: Any = zarr.open_group(path, mode="r")[f"{group.name}/done"]
    marks = marks_of(path, "plain").read_all(MARKS + 2)
    np.testing.assert_array_equal(there[:], marks)
    assert (marks >> 32)[[0, 1, 2, MARKS - 1, MARKS, MARKS + 1]].tolist() == [2, 2, 0, 0, 2, 1]
    done = FeatureStore.open(path)["plain"].done().nonzero()[0].tolist()
    assert done == [0, 1, 2, 3, 2 * MARKS, 2 * MARKS + 1, 2 * MARKS + 2]
    folders = [p for p in (path / group.name / "up0").rglob("*") if p.is_dir()]
    assert not folders and len(list((path / group.name / "up0").glob("c.*.0.0.0"))) == 4


def test_a_patch_leaves_other_bytes_and_other_names_alone(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    folder.patch("a/m", 8, b"12345678", 32)
    folder.patch("a/m", 24, b"abcdefgh", 32)
    assert folder.read("a/m") == bytes(8) + b"12345678" + bytes(8) + b"abcdefgh"
    os.link(tmp_path / "a/m", tmp_path / "copy")
    folder.patch("a/m", 0, b"ABCDEFGH", 32)
    assert folder.read("copy") == bytes(8) + b"12345678" + bytes(8) + b"abcdefgh"
    (tmp_path / "outside").write_bytes(bytes(32))
    (tmp_path / "a/link").symlink_to(tmp_path / "outside")
    folder.patch("a/link", 0, b"ABCDEFGH", 32)
    assert (tmp_path / "outside").read_bytes() == bytes(32)


def test_the_table_is_appended_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.zarr"
    with open_writer(path, "toy", 2, 2) as store:
        store.append(new_samples(0, 3000))
        written: list[str] = []
        real = LocalFolder.write
        monkeypatch.setattr(LocalFolder, "write", lambda self, key, parts: (
            written.append(key), real(self, key, parts))[1])
        table = store.append(new_samples(3000, 3001))
    assert sorted(k for k in written if "/c/" in k) == [
        "samples/height/c/2", "samples/id/c/2", "samples/sha256/c/2/0", "samples/width/c/2"]
    read = FeatureStore.open(path).samples
    assert read.ids == table.ids == tuple(s.id for s in new_samples(0, 3001))
    assert list(read.sha256) == [s.sha256 for s in new_samples(0, 3001)]
    assert read.checksum() == table.checksum()
    there: Any = zarr.open_group(path, mode="r")["samples/id"]
    assert there.shape == (3001,) and there[2999:].tolist() == list(read.ids[2999:])


def test_rows_are_found_by_id_and_content() -> None:
    names, contents = ["a", "b", "a", "c"], ["1" * 64, "2" * 64, "3" * 64, "4" * 64]
    table = Samples(names, contents, np.ones((4, 2), np.int32))
    raw = np.array([list(bytes.fromhex(d * 64)) for d in "132145"], np.uint8)
    assert table.find_all(["a", "a", "b", "b", "c", "d"], raw).tolist() == [0, 2, 1, -1, 3, -1]
    assert table.row("a") == 2 and table.find("a", "1" * 64) == 0
    assert table.find("a", "2" * 64) is None and "d" not in table


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_FRESH", 0)
    for i in range(4):
        save(tmp_path / f"d/{i}.png", picture(i))
    read: list[str] = []
    real = ImageFolder.sha256

    def hashed(rehash: bool = False) -> list[str]:
        read.clear()
        data = ImageFolder(tmp_path / "d")
        ids = [s.id for s in data.samples()]
        found = digests.ImageDigests(data, ids, rehash)
        assert [found.read(at) for at in range(len(ids))] == [
            file_sha256(tmp_path / "d" / i) for i in ids]
        found.keep()
        return sorted(read)

    def counted(self: ImageFolder, sample_id: str) -> str:
        read.append(sample_id)
        return real(self, sample_id)

    monkeypatch.setattr(digests.ImageFiles, "sha256", counted)
    assert hashed() == ["0.png", "1.png", "2.png", "3.png"]
    assert hashed() == []
    save(tmp_path / "d/1.png", picture(9))
    save(tmp_path / "d/00.png", picture(7))
    assert hashed() == ["00.png", "1.png"]
    assert hashed(rehash=True) == ["0.png", "00.png", "1.png", "2.png", "3.png"]
    (kept,) = (tmp_path / "cache/gate-cache/images").iterdir()
    kept.write_bytes(kept.read_bytes()[:-40])
    assert len(hashed()) == 5


def test_one_link_to_nothing_costs_no_other_file_its_hash(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "_FRESH", 0)
    for i in (0, 2):
        save(tmp_path / f"d/{i}.png", picture(i))
    (tmp_path / "d/1.png").symlink_to(tmp_path / "later.png")

    def look() -> tuple[list[bool], digests.ImageDigests]:
        data = ImageFolder(tmp_path / "d")
        found = digests.ImageDigests(data, [s.id for s in data.samples()])
        return found.known.tolist(), found

    known, found = look()
    assert known == [False] * 3
    for at in (0, 2):
        found.read(at)
    with pytest.raises(DataError, match=r"1\.png: cannot be read: No such file"):
        found.read(1)
    found.keep()
    assert look()[0] == [True, False, True]
    save(tmp_path / "later.png", picture(1))
    known, found = look()
    assert known == [True, False, True] and found.read(1) == file_sha256(tmp_path / "later.png")


def test_a_table_of_another_count_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    with open_writer(path, "toy", 2, 2) as store:
        store.append(new_samples(0, 3))
    chunk = path / "samples/id/c/0"
    chunk.write_bytes((2**32 - 1).to_bytes(4, "little") + chunk.read_bytes()[4:])
    with pytest.raises(StoreError, match=r"table of samples \(samples/\) is damaged"):
        _ = FeatureStore.open(path).samples

"""The store: what is written is read back, what is not done raises, and nothing is lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import crc32c
import dask.array
import numpy as np
import pytest
import zarr

from gate_cache import FeatureStore
from gate_cache.core.errors import DiskError, RowNotDone, StoreError
from gate_cache.store.format import done
from gate_cache.store.format.documents import resize, write_array
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import group_footprint, samples_footprint
from gate_cache.store.format.samples import NewSample
from gate_cache.store.places import local
from gate_cache.store.places.disk import bytes_below, human
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import StoreWriter, open_writer

SHAPES = {"up0": (3, 2, 2), "up1": (2, 4, 4)}
RECIPE = {"kind": "conv", "settings": {"prompt": "a"}}
BLOCK, ROWS = 4, 10


def samples(start: int, stop: int) -> list[NewSample]:
    return [NewSample(f"horse/{i:02}", f"{i:064x}", 10 + i, 20) for i in range(start, stop)]


def maps(rows: range) -> dict[str, np.ndarray]:
    return {name: np.stack([np.full(s, r + 0.5) for r in rows]) for name, s in SHAPES.items()}


@contextmanager
def writing(path: Path, rows: int = ROWS) -> Iterator[tuple[StoreWriter, GroupWriter]]:
    with open_writer(path, "toy", BLOCK, 2) as store:
        store.append(samples(len(store.samples), rows))
        group = store.require("plain", RECIPE, SHAPES, "float16", {})
        group.fit()
        yield store, group


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "toy.zarr"


@pytest.fixture
def full(path: Path) -> FeatureStore:
    with writing(path) as (_, group):
        for rows in group.todo():
            group.write(rows, maps(rows))
    return FeatureStore.open(path)


def test_what_is_written_is_read(full: FeatureStore) -> None:
    for name, shape in SHAPES.items():
        view = full["plain"][name]
        assert view.shape == (ROWS, *shape)
        assert view.dtype == np.float16
        np.testing.assert_array_equal(view[:], maps(range(ROWS))[name])


@pytest.mark.parametrize("key", [
    3, -1, np.int64(2), slice(1, 9, 3), slice(-3, None), slice(None, None, -1), [7, 0, 7],
    np.array([1, 5]), (2, 0), (slice(0, 4), slice(None), 1), ([9, 1], 0),
])
def test_rows_are_indexed_as_in_numpy(full: FeatureStore, key: Any) -> None:
    expected = maps(range(ROWS))["up1"].astype(np.float16)
    np.testing.assert_array_equal(full["plain"]["up1"][key], expected[key])


@pytest.mark.parametrize("row", [ROWS, -ROWS - 1, [0, 99]])
def test_a_row_beyond_the_table_raises(full: FeatureStore, row: Any) -> None:
    with pytest.raises(IndexError):
        full["plain"]["up0"][row]


def test_samples_are_a_table(full: FeatureStore) -> None:
    table = full.samples
    assert len(table) == ROWS
    assert table[0] == "horse/00"
    assert table.row("horse/07") == 7
    assert table.sha256[3] == f"{3:064x}"
    assert table.sizes[4].tolist() == [14, 20]
    with pytest.raises(StoreError, match=r"did you mean 'horse/07'"):
        table.row("horse/7")


def test_a_row_that_is_not_done_raises(path: Path) -> None:
    with writing(path) as (_, group):
        group.write(range(4, 8), maps(range(4, 8)))
    view = FeatureStore.open(path)["plain"]["up0"]
    assert view[4:8].shape == (4, 3, 2, 2)
    for key in (0, slice(3, 5), [4, 9]):
        with pytest.raises(RowNotDone, match=r"row \d+ \('horse/\d+'\) is not extracted"):
            view[key]


def test_an_open_store_sees_blocks_that_finish_later(path: Path) -> None:
    with writing(path) as (_, group):
        view = FeatureStore.open(path)["plain"]["up0"]
        with pytest.raises(RowNotDone):
            view[0]
        group.write(range(4), maps(range(4)))
        assert view[0].shape == (3, 2, 2)


def test_dask_is_lazy_and_equal(full: FeatureStore) -> None:
    lazy = full.dask("plain", "up1")
    assert isinstance(lazy, dask.array.Array)
    assert lazy.chunks[0] == (4, 4, 2)
    np.testing.assert_array_equal(lazy.compute(), full["plain"]["up1"][:])


def test_dask_raises_on_rows_that_are_not_done(path: Path) -> None:
    with writing(path) as (_, group):
        group.write(range(4), maps(range(4)))
    lazy = FeatureStore.open(path).dask("plain", "up0")
    assert float(lazy[:4].sum().compute()) > 0
    with pytest.raises(RowNotDone):
        lazy.sum().compute()


def test_dask_arrays_of_two_stores_do_not_mix(full: FeatureStore, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    with writing(other) as (_, group):
        for rows in group.todo():
            group.write(rows, {n: -m for n, m in maps(rows).items()})
    pair = [s.dask("plain", "up0") for s in (full, FeatureStore.open(other))]
    joined = dask.array.concatenate(pair).compute()
    np.testing.assert_array_equal(joined[:ROWS], -joined[ROWS:])


@pytest.mark.parametrize("key", [..., None, (..., 0)])
def test_the_samples_come_first_in_an_index(full: FeatureStore, key: Any) -> None:
    with pytest.raises(IndexError, match="index the samples first"):
        full["plain"]["up0"][key]


def test_a_group_without_its_done_marks_is_not_listed(path: Path, full: FeatureStore) -> None:
    shutil.rmtree(next(path.glob("plain-*/done")))
    assert FeatureStore.open(path).combos == ()


def test_plain_zarr_and_dask_open_the_store(full: FeatureStore) -> None:
    group = zarr.open_group(full.path, mode="r")
    array = group[full["plain"].name]["up1"]  # type: ignore[index]
    expected = maps(range(ROWS))["up1"].astype(np.float16)
    np.testing.assert_array_equal(array[:], expected)
    lazy = dask.array.from_zarr(str(full.path), component=f"{full['plain'].name}/up1")
    np.testing.assert_array_equal(lazy.compute(), expected)
    assert group["samples"]["id"][:2].tolist() == ["horse/00", "horse/01"]  # type: ignore[index]


def test_only_stock_codecs_are_used(full: FeatureStore) -> None:
    meta = json.loads((full.path / full["plain"].name / "up0" / "zarr.json").read_text())
    (shard,) = meta["codecs"]
    assert shard["name"] == "sharding_indexed"
    assert shard["configuration"]["chunk_shape"] == [1, 3, 2, 2]
    assert meta["chunk_grid"]["configuration"]["chunk_shape"] == [BLOCK, 3, 2, 2]
    assert [c["name"] for c in shard["configuration"]["codecs"]] == ["bytes", "crc32c"]
    assert meta["fill_value"] == "NaN"


def test_the_done_mark_holds_rows_and_checksum(full: FeatureStore) -> None:
    mark = int(zarr.open_group(full.path)[f"{full['plain'].name}/done"][2])  # type: ignore[index]
    block = maps(range(8, 10))
    data = b"".join(block[n].astype("<f2").tobytes() for n in SHAPES)
    assert mark >> 32 == 2
    assert mark & 0xFFFFFFFF == crc32c.crc32c(data)


def test_all_zero_maps_are_stored_not_dropped(path: Path) -> None:
    with writing(path) as (_, group):
        group.write(range(4), {n: np.zeros((4, *s)) for n, s in SHAPES.items()})
    assert not FeatureStore.open(path)["plain"]["up0"][:4].any()


def test_images_added_later_extend_the_last_block(path: Path, full: FeatureStore) -> None:
    with writing(path, rows=13) as (store, group):
        assert group.todo() == [range(8, 12), range(12, 13)]
        assert group.kept(range(8, 12)) == 2
        assert group.kept(range(12, 13)) == 0
        with pytest.raises(RowNotDone):
            FeatureStore.open(path)["plain"]["up0"][10]
        assert FeatureStore.open(path)["plain"]["up0"][9].max() == 9.5  # old rows stay readable
        for rows in group.todo():
            group.write(rows, maps(rows))
        assert len(store.samples) == 13
    np.testing.assert_array_equal(FeatureStore.open(path)["plain"]["up1"][:],
                                  maps(range(13))["up1"])


@pytest.mark.parametrize("fails", ["up0", "up1", "sums", "done"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EACCES])
def test_a_refused_write_leaves_the_block_undone(path: Path, monkeypatch: pytest.MonkeyPatch,
                                                 fails: str, code: int) -> None:
    def refuse(name: str) -> None:
        real = getattr(LocalFolder, name)

        def write(self: LocalFolder, key: str, *rest: Any, **more: Any) -> Any:
            if f"/{fails}/" in key:
                raise OSError(code, "refused")
            return real(self, key, *rest, **more)
        monkeypatch.setattr(LocalFolder, name, write)

    with writing(path) as (_, group):
        group.write(range(4), maps(range(4)))
        refuse("_name")
        refuse("patch")
        with pytest.raises(DiskError, match=r"run the same command again; what is done so far"):
            group.write(range(4, 8), maps(range(4, 8)))
        monkeypatch.undo()
        assert group.todo() == [range(4, 8), range(8, 10)]
        assert FeatureStore.open(path)["plain"]["up0"][0].max() == 0.5
        with pytest.raises(RowNotDone):
            FeatureStore.open(path)["plain"]["up0"][4]
        group.write(range(4, 8), maps(range(4, 8)))
    assert FeatureStore.open(path)["plain"]["up1"][5].max() == 5.5


def test_marks_of_a_second_share_an_fsync_and_taking_one_back_waits_for_none(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, syncs = LocalFolder(tmp_path), []
    write_array(folder, "g/done", done.document(9, done.MARKS))
    marks = done.BlockMarks(folder, "g")
    marks.make_files(9)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: syncs.append(real(fd)))
    monkeypatch.setattr(local, "monotonic", lambda: 100.0)
    marks.write(1, 1 << 32)
    assert len(syncs) == 1
    marks.write(2, 2 << 32)
    assert len(syncs) == 1 and marks.read(2) == 2 << 32  # another process sees it, too
    marks.write(1, 0)
    assert len(syncs) == 2
    folder.flush()
    folder.flush()
    assert len(syncs) == 3
    marks.write(3, 1 << 32)
    monkeypatch.setattr(local, "monotonic", lambda: 102.0)
    marks.write(4, 1 << 32)
    assert len(syncs) == 4


def test_a_void_row_that_comes_back_is_undone_until_it_is_written(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the attribute and the data must not leave NaN marked as done."""
    block = maps(range(4))
    void = {name: np.where(np.arange(4)[:, None, None, None] == 2, np.nan, m)
            for name, m in block.items()}

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with writing(path) as (_, group):
        group.write(range(4), void, absent=[2])
        with pytest.raises(RowNotDone, match="gone or changed"):
            FeatureStore.open(path)["plain"]["up0"][2]
        assert range(4) not in group.todo(gone=[2])
        assert range(4) in group.todo()
        monkeypatch.setattr(GroupWriter, "_put", killed)
        with pytest.raises(KeyboardInterrupt):
            group.write(range(4), block)
        monkeypatch.undo()
        assert range(4) in group.todo(gone=[2])
        group.write(range(4), block)
    assert FeatureStore.open(path)["plain"]["up0"][2].max() == 2.5


def test_leftovers_of_a_killed_write_are_removed(path: Path) -> None:
    with writing(path) as (_, group):
        leftover = next(path.glob("plain-*")) / "up0" / "c.1234.partial"
        leftover.write_bytes(b"half")
        group.fit()
        assert not leftover.exists()


def test_a_lost_shard_is_an_error_not_nan(full: FeatureStore) -> None:
    shard = full.path / full["plain"].name / "up0" / "c.1.0.0.0"
    shard.unlink()
    assert full["plain"]["up0"][0].max() == 0.5
    with pytest.raises(StoreError, match="missing or damaged"):
        full["plain"]["up0"][5]


def test_a_flipped_byte_is_an_error(full: FeatureStore) -> None:
    shard = full.path / full["plain"].name / "up1" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match="missing or damaged"):
        full["plain"]["up1"][0]


def test_one_writer_at_a_time(path: Path) -> None:
    refused = pytest.raises(StoreError, match=r"\(.*, process \d+, since .*wait until it ends")
    with writing(path), refused, writing(path):
        pass
    with writing(path):
        pass


def test_another_data_sets_store_is_refused(path: Path, full: FeatureStore) -> None:
    refused = pytest.raises(StoreError, match="holds maps of 'toy', not of 'spair'")
    with refused, open_writer(path, "spair", BLOCK, 2):
        pass


@pytest.mark.parametrize("name", ["notes.txt", "samples/photo.jpg"])
def test_a_folder_that_is_no_store_is_left_alone(path: Path, name: str) -> None:
    (path / name).parent.mkdir(parents=True)
    (path / name).write_text("mine")
    with pytest.raises(StoreError, match="is not a store"), writing(path):
        pass
    assert (path / name).read_text() == "mine"


def test_a_file_is_no_store(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("mine")
    with pytest.raises(StoreError, match="is not a store"), writing(path):
        pass
    with pytest.raises(StoreError, match="not a gate-cache store"):
        FeatureStore.open(path)


def test_a_creation_that_was_cut_off_is_begun_again(path: Path) -> None:
    with writing(path):
        pass
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"] = {}
    (path / "zarr.json").write_text(json.dumps(meta))
    shutil.rmtree(next(path.glob("plain-*")))
    with writing(path) as (store, _):
        assert len(store.samples) == ROWS


def test_a_group_that_was_cut_off_is_completed(path: Path) -> None:
    with writing(path):
        pass
    shutil.rmtree(next(path.glob("plain-*/up1")))
    shutil.rmtree(next(path.glob("plain-*/done")))
    with writing(path) as (_, group):
        for rows in group.todo():
            group.write(rows, maps(rows))
    assert FeatureStore.open(path)["plain"]["up1"][9].max() == 9.5


def test_rows_count_only_once_the_table_says_so(path: Path) -> None:
    with writing(path, rows=4):
        pass
    resize(LocalFolder(path), "samples/id", (9,))
    ids = zarr.open_group(path)["samples/id"]
    ids[4:9] = np.array(["x"] * 5, dtype=np.dtypes.StringDType())  # type: ignore[index]
    assert len(FeatureStore.open(path).samples) == 4
    with writing(path, rows=6) as (store, _):
        assert store.samples[5] == "horse/05"


def test_a_newer_format_is_refused(path: Path, full: FeatureStore) -> None:
    meta = json.loads((path / "zarr.json").read_text())
    meta["attributes"]["gate_cache"]["format"] = 99
    (path / "zarr.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="newer than this gate-cache"):
        FeatureStore.open(path)


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        FeatureStore.open(tmp_path / "none.zarr")
    with pytest.raises(StoreError, match="not a gate-cache store"):
        FeatureStore.open(tmp_path)
    zarr.open_group(tmp_path / "other.zarr", mode="w")
    with pytest.raises(StoreError, match="not a gate-cache store"):
        FeatureStore.open(tmp_path / "other.zarr")


def test_names_are_suggested(full: FeatureStore) -> None:
    with pytest.raises(StoreError, match="did you mean 'plain'"):
        full["plian"]
    with pytest.raises(StoreError, match="it has: up0, up1"):
        full["plain"]["up7"]


def test_a_changed_recipe_is_another_group(path: Path, full: FeatureStore) -> None:
    name = full["plain"].name
    with open_writer(path, "toy", BLOCK, 2) as store:
        other = {**RECIPE, "settings": {"prompt": "b"}}
        store.require("plain", other, SHAPES, "float16", {}).fit()
    again = FeatureStore.open(path)
    assert len(again.combos) == 2
    assert all(name.startswith("plain-") for name in again.combos)
    with pytest.raises(StoreError, match="extracted with 2 settings"):
        again["plain"]
    assert again[name]["up0"][0].max() == 0.5


def test_a_renamed_combo_is_found_by_its_recipe(path: Path, full: FeatureStore) -> None:
    with open_writer(path, "toy", BLOCK, 2) as store:
        assert store.require("renamed", RECIPE, SHAPES, "float16", {}).todo() == []
    assert FeatureStore.open(path).combos == ("plain",)


def test_footprints_are_what_lands_on_disk(full: FeatureStore) -> None:
    group = full.path / full["plain"].name
    said = group_footprint(SHAPES, Encoding("float16"), ROWS, BLOCK)
    files = [p for p in group.rglob("*") if p.is_file()]
    assert said.files == len(files)
    # All but metadata is exact; these maps are as small as their metadata.
    shards = sum(p.stat().st_size for p in files if p.name != "zarr.json")
    meta = bytes_below(group) - shards
    assert abs(said.bytes - shards - meta) < meta
    table = samples_footprint(full.samples)
    assert table.files == len([p for p in (full.path / "samples").rglob("*") if p.is_file()])
    assert abs(table.bytes / bytes_below(full.path / "samples") - 1) < 0.05


@pytest.mark.parametrize(("size", "text"), [
    (0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (86_430_158, "86.4 MB"), (5e10, "50.0 GB"),
    (2e12, "2.0 TB"),
])
def test_bytes_for_people(size: float, text: str) -> None:
    assert human(size) == text

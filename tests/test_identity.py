"""Whose a row, a store, a disk is: files in the wrong place, one store by two names, disks that
refuse."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import pytest
import zarr
from conftest import WriteManifest
from marks import marks_of
from test_cli import Run, gate
from test_verify import BLOCK, ROWS, SHAPES, fill, group_of, maps, writing

from gate_cache import FeatureStore
from gate_cache.core.codecs import Codec
from gate_cache.core.errors import DiskError, RowNotDone, StoreError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.learn.features.stream import FeatureStream
from gate_cache.manifest.load import Loaded
from gate_cache.store import lease as claims
from gate_cache.store.check.verify import verify
from gate_cache.store.format import sums
from gate_cache.store.format.checksums import joined, row_sums
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.samples import NewSample
from gate_cache.store.places import local
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import open_writer
from gate_cache.training import run_folder as rundir
from gate_cache.training.inputs import open_any
from gate_cache.workspace.workspace import Workspace

__all__ = ["gate"]
Toy = tuple[Loaded, Roots, Path]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    fill(tmp_path / "toy.zarr")
    return tmp_path / "toy.zarr"


def read(path: Path) -> list[str]:
    """What every row of every map is: right, refused, or wrong."""
    store, found = FeatureStore.open(path), []
    for combo in ("plain", "other"):
        right = maps(range(ROWS))
        for name in SHAPES:
            for row in range(ROWS):
                try:
                    same = np.array_equal(store[combo][name][row], (
                        right[name][row] + (100 if combo == "other" else 0)).astype(np.float16))
                    found.append("right" if same else "wrong")
                except RowNotDone:
                    found.append("not done")
                except StoreError as error:
                    assert "block" in str(error) and "verify --repair" in str(error)
                    found.append("refused")
    return found


def told_apart(path: Path, dtype: str = "float16", codec: str | None = None) -> None:
    """As `fill`, with other values in each combo."""
    with writing(path) as groups:
        pass
    shutil.rmtree(path)
    with open_writer(path, "toy", BLOCK, 2) as store:
        store.append([NewSample(f"{i}", f"{i:064x}", 1, 1) for i in range(ROWS)])
        for name, more in (("plain", 0), ("other", 100)):
            group = store.require(name, {"kind": "conv", "settings": {"n": name}}, SHAPES,
                                  Encoding(dtype, None, codec and Codec.parse(codec)), {})
            group.fit()
            for rows in group.todo():
                group.write(rows, {n: m + more for n, m in maps(rows).items()})
    del groups


def shards(path: Path) -> list[Path]:
    return sorted(p for n in SHAPES for p in path.glob(f"*/{n}/c.*.0.0.0"))


@pytest.mark.mostly_long("None-True")
@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("codec", [None, "zstd"])
def test_a_shard_in_the_wrong_place_is_refused(tmp_path: Path, table: bool,
                                               codec: str | None) -> None:
    """Every shard over every other one: of another block, another combo, another map."""
    path = tmp_path / "s.zarr"
    told_apart(path, codec=codec)
    if not table:  # as the first release has left it
        for folder in path.glob("*/sums"):
            shutil.rmtree(folder)
    assert set(read(path)) == {"right"}
    bound = table or codec is None
    misplaced = 0
    for target in shards(path):
        right = target.read_bytes()
        for source in shards(path):
            if source == target:
                continue
            target.write_bytes(source.read_bytes())
            misplaced += 1
            found = read(path)
            assert "refused" in found or not bound
            assert "wrong" not in found or not bound, f"{source} over {target}"
        assert not verify(path, threads=1).sound
        target.write_bytes(right)
    assert misplaced == 12 * 11  # two combos, two maps, three blocks


def test_a_whole_block_moved_with_its_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    told_apart(path)
    one = group_of(path, "plain")
    for name in ("up0/c.{}.0.0.0", "up1/c.{}.0.0.0", "sums/c/{}"):
        shutil.copy(path / one / name.format(1), path / one / name.format(0))
    marks = marks_of(path, "plain")
    marks.write(0, marks.read(1))
    assert FeatureStore.open(path)["plain"]["up0"][3].max() == 3.5
    with pytest.raises(StoreError, match=r"up0/c.0.0.0.0: row 0 is not the one.*verify --repair"):
        FeatureStore.open(path)["plain"]["up0"][0]
    (problem,) = verify(path).problems
    assert problem.place == f"{one}: rows 0–2" and "another block or combo" in problem.what


def test_a_whole_combo_over_another_is_refused_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    told_apart(path)
    for name in (*SHAPES, "done", "sums"):
        target = path / group_of(path, "plain") / name
        shutil.rmtree(target)
        shutil.copytree(path / group_of(path, "other") / name, target)
    found = read(path)
    assert found == ["refused"] * (2 * ROWS) + ["right"] * (2 * ROWS)
    with pytest.raises(StoreError, match="row 0 is not the one that was written there"):
        next(iter(FeatureStream(FeatureStore.open(path), ["plain"])))
    assert len(verify(path, repair=True).problems) == 3
    assert read(path) == ["not done"] * (2 * ROWS) + ["right"] * (2 * ROWS)


@pytest.mark.long
def test_the_trainer_refuses_too(toy: Toy, roots: Roots, manifest: WriteManifest) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    store = roots.stores / "toy.zarr"
    one, other = (next(store.glob(f"{n}-*/up1/c.0.0.0.0")) for n in ("plain", "seed-1"))
    shutil.copy(other, one)
    loaded = manifest(train={"head": "classifier", "combos": ["plain", "seed-1"], "pairs": 4})
    with pytest.raises(StoreError, match=r"plain-.*row \d+ is not the one.*verify --repair"):
        study = open_any(Workspace(loaded, roots, "cpu"))
        stream = FeatureStream(FeatureStore.open(store), ["plain", "seed-1"])
        assert study and [sample.row for sample in stream]


def test_tables_of_row_checksums_are_plain_zarr(path: Path) -> None:
    """Each is the row's crc32c, XORed with that of ``<fingerprint>/<map>/<block>``."""
    store = FeatureStore.open(path)
    view = store["plain"]
    table = zarr.open_group(path, mode="r")[f"{view.name}/sums"][:]  # type: ignore[index]
    assert table.shape == (3 * 2 * BLOCK,) and table.dtype == np.uint32
    for block in range(3):
        for a, name in enumerate(SHAPES):
            salt = crc32c.crc32c(f"{view.fingerprint}/{name}/{block}".encode())
            for slot in range(min(BLOCK, ROWS - block * BLOCK)):
                row = view[name][block * BLOCK + slot].tobytes()
                assert table[block * 2 * BLOCK + a * BLOCK + slot] == crc32c.crc32c(row) ^ salt


def test_checksums_are_joined_as_if_read_at_once() -> None:
    rng = np.random.default_rng(0)
    arrays = {"a": rng.integers(0, 255, (5, 3, 7)).astype(np.uint8),
              "b": rng.random((5, 2, 4)).astype(np.float16), "c": rng.random((5, 70_000))}
    whole = b"".join(a.tobytes() for a in arrays.values())
    assert joined(row_sums(arrays), [21, 16, 560_000]) == crc32c.crc32c(whole)
    assert joined(np.zeros((0, 0), np.uint32), []) == 0


def test_what_an_older_release_wrote_is_bound_by_the_next_extract(path: Path) -> None:
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    for folder in path.glob("*/sums"):
        shutil.rmtree(folder)
    assert "no table of row checksums" in "\n".join(verify(path).notes)
    shard = path / group_of(path, "plain") / "up0/c.0.0.0.0"
    shutil.copy(path / group_of(path, "plain") / "up0/c.1.0.0.0", shard)
    assert fill(path) == []
    missing = [p for p in before if not p.exists()]
    assert [p.name for p in missing] == ["0"]  # not of the block that is not what was marked
    shard.write_bytes(before[shard])
    assert fill(path) == []
    assert {p: p.read_bytes() for p in before} == before


def test_a_damaged_table_hides_nothing_and_is_mended(path: Path) -> None:
    table = path / group_of(path, "plain") / sums.key("", 1).lstrip("/")
    table.write_bytes(table.read_bytes()[:-3] + b"abc")
    assert FeatureStore.open(path)["plain"]["up0"][4].max() == 4.5
    (problem,) = verify(path, repair=True).problems
    assert problem.place.endswith("rows 3–5") and problem.mended
    assert fill(path) == [("plain", range(3, 6))]
    assert verify(path).sound


# -------------------------------------------------------------------------- one store, one writer


def test_a_store_has_one_writer_whatever_path_leads_to_it(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.zarr").symlink_to(path)
    (tmp_path / "linked").symlink_to(tmp_path)
    with writing(path):
        for spelling in (tmp_path / "elsewhere" / "other.zarr", tmp_path / "linked" / "toy.zarr",
                         tmp_path / "elsewhere" / ".." / "toy.zarr"):
            with pytest.raises(StoreError, match="is writing to this store"), \
                    open_writer(spelling, "toy", BLOCK, 2):
                pass
    with open_writer(tmp_path / "elsewhere" / "other.zarr", "toy", BLOCK, 2) as store:
        assert len(store.samples) == ROWS
    assert [p.name for p in (tmp_path / "elsewhere").iterdir()] == ["other.zarr"]


def test_a_disk_that_minds_no_case_has_one_store(path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    """As if ``TOY.zarr`` led to ``toy.zarr``: the folder lists the one name alone."""
    (path.parent / "TOY.zarr").symlink_to(path)
    monkeypatch.setattr(Path, "resolve", lambda self: self)
    monkeypatch.setattr(claims.os, "listdir", lambda _: ["toy.zarr"])
    assert claims.identified(path.parent / "TOY.zarr") == path


@pytest.mark.parametrize("how", ["removed", "replaced", "a group removed"])
def test_a_store_that_goes_under_a_run_ends_it(path: Path, how: str) -> None:
    gone = pytest.raises(StoreError, match="was removed or replaced while this run wrote to it")
    with gone, writing(path, ROWS + 2) as groups:
        if how == "a group removed":
            shutil.rmtree(path / groups["plain"].name)
        else:
            shutil.rmtree(path)
        if how == "replaced":
            fill(path.with_name("new.zarr"))
            path.with_name("new.zarr").rename(path)
        groups["plain"].write(range(6, 9), maps(range(6, 9)))
    assert path.exists() == (how != "removed")


def test_a_store_that_goes_when_all_is_written_is_not_called_done(path: Path) -> None:
    with pytest.raises(StoreError, match="was removed or replaced"), writing(path):
        shutil.rmtree(path)


def test_extract_of_a_store_that_is_removed_fails(toy: Toy, roots: Roots,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache.store.format.groups import GroupWriter

    real, times = GroupWriter.write_stored, list[int]()

    def write(self: GroupWriter, *given: Any) -> None:
        times.append(1)
        if len(times) == 3:
            shutil.rmtree(self.folder.path)  # type: ignore[attr-defined]
        real(self, *given)

    monkeypatch.setattr(GroupWriter, "write_stored", write)
    with pytest.raises(StoreError, match="was removed or replaced"):
        extract(Workspace(toy[0], roots, "cpu"))
    assert not (roots.stores / "toy.zarr").exists()


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), real(fd)))
    monkeypatch.setattr(Path, "replace", lambda *_: calls.append("rename"))
    rundir.Checkpoint(tmp_path / "checkpoint-a.pt", []).keep(1)
    assert calls == ["fsync", "rename"]


# --------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("code", "says"), [
    (errno.EMFILE, "too many open files; raise the limit (ulimit -n)"),
    (errno.ENAMETOOLONG, "file name too long"), (errno.EMLINK, "too many links"),
    (errno.EIO, "input/output error"), (errno.ESTALE, "stale file handle"),
    (errno.ENOSPC, "the disk is full"), (errno.ENXIO, "no such device or address")])
def test_whatever_the_system_refuses_is_its_own_words(tmp_path: Path, code: int, says: str) -> None:
    with pytest.raises(DiskError) as caught, disk_errors(tmp_path):
        raise OSError(code, "refused", str(tmp_path / "a" / "b"))
    assert says in str(caught.value) and str(caught.value).startswith(f"{tmp_path}: ")
    assert caught.value.errno == code and "\n" not in str(caught.value)


def test_a_disk_without_inodes_is_not_called_full(tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    fields = (*real[:4], 5000, 0, 0, 0, *real[8:])
    full = os.statvfs_result((*fields[:4], 5000, 900, 0, 0, *real[8:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(DiskError, match="no inodes for more files"), disk_errors(tmp_path):
        raise OSError(errno.ENOSPC, "refused")


def test_a_broken_disk_under_a_reader_is_one_line(path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    view = FeatureStore.open(path)["plain"]["up0"]
    assert view[0].max() == 0.5

    def broken(*_: Any) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(local.os, "preadv", broken)
    with pytest.raises(DiskError, match=r"toy\.zarr: input/output error"):
        view[1]


def test_a_reader_holds_fewer_files_where_there_are_too_many(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real, calls = FeatureStore.open(path), LocalFolder.open, list[str]()
    assert store["plain"]["up0"][0].max() == 0.5

    def opened(self: LocalFolder, key: str, tail: int = 0) -> Any:
        if tail:
            calls.append(key)
            if len(calls) == 1:
                raise OSError(errno.EMFILE, "refused")
        return real(self, key, tail)

    monkeypatch.setattr(LocalFolder, "open", opened)
    assert store["plain"]["up0"][4].max() == 4.5
    assert len(calls) == 2 and len(store.files._open) == 1


def read_only(monkeypatch: pytest.MonkeyPatch, code: int = errno.EROFS) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, "refused")

    for name in ("write", "create", "remove"):
        monkeypatch.setattr(LocalFolder, name, refuse)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_extract_with_nothing_to_do_needs_no_writing(toy: Toy, code: int,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch, code)
    done = extract(Workspace(toy[0], toy[1], "cpu"))
    assert done.images == 7 and not any(done.rows.values())


def test_extract_with_something_to_do_says_that_it_cannot(
        toy: Toy, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    marks_of(roots.stores / "toy.zarr", "plain").write(1, 0)
    read_only(monkeypatch)
    with pytest.raises(DiskError, match=r"toy\.zarr: the disk is read-only; choose another place"):
        extract(Workspace(toy[0], roots, "cpu"))


def test_looking_at_a_disk_that_is_only_read(gate: Run, toy: Toy,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    read_only(monkeypatch)
    manifest = toy[0].path, "--stores", toy[1].stores
    assert gate("verify", toy[2]).code == 0
    assert gate("prune", *manifest).code == 0
    found = gate("verify", toy[2], "--repair")
    assert found.code == 2 and found.err.count("\n") == 1
    assert "the disk is read-only" in found.err
    assert "without --repair nothing is written" in found.err
    found = gate("prune", *manifest, "--yes")
    assert found.code == 2 and "without --yes nothing is removed" in found.err


def test_what_no_command_expects_is_a_line_too(gate: Run, toy: Toy,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/far/away")

    monkeypatch.setattr(LocalFolder, "bytes_below", refuse)
    found = gate("inspect", toy[2])
    assert (found.code, found.err) == (2, "error: /far/away: Stale file handle\n")


# ------------------------------------------------------------------------------------ strangers


def test_repair_and_reading_stay_in_the_store(path: Path) -> None:
    """A group that names maps elsewhere is damaged; what it names is not looked at."""
    from gate_cache.store.format.attrs import read_attrs, sealed
    from gate_cache.store.format.documents import put_attrs

    victim = path.parent / "victim"
    shutil.copytree(path / group_of(path, "plain") / "up0", victim)
    folder, group = LocalFolder(path), group_of(path, "plain")
    attrs = read_attrs(folder, group)
    put_attrs(folder, group, sealed({**attrs, "maps": ["../../victim", "up0", "up1"]}))
    with pytest.raises(StoreError, match=f"{group}/zarr.json is damaged"):
        FeatureStore.open(path)["plain"]
    verify(path, repair=True)
    assert (victim / "zarr.json").exists()
    for key in ("../victim/zarr.json", "/etc/passwd", "a/../../victim"):
        for use in (folder.read, folder.names, folder.remove, folder.open):
            with pytest.raises(StoreError, match="leads out of the store"):
                use(key)


def test_nothing_is_written_or_removed_behind_a_link(path: Path) -> None:
    elsewhere, group = path.parent / "elsewhere", path / group_of(path, "plain")
    group.rename(elsewhere)
    group.symlink_to(elsewhere)
    assert FeatureStore.open(path)["plain"]["up0"][0].max() == 0.5
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    folder = LocalFolder(path)
    for use in (lambda: folder.write(f"{group.name}/x", [b"1"]),
                lambda: folder.remove(f"{group.name}/up0"),
                lambda: folder.remove_partials(group.name)):
        with pytest.raises(StoreError, match="a link leads out of the store"):
            use()
    folder.remove(group.name)  # the link itself is the store's
    assert {p: p.read_bytes() for p in before} == before and not group.exists()


def test_a_row_that_would_grow_without_end_is_refused(tmp_path: Path) -> None:
    from numcodecs import zstd

    from gate_cache.store.format.shards import Damaged, unpack

    row, kind = memoryview(bytearray(64)), (Codec.parse("zstd"), "u1")
    unpack(memoryview(zstd.compress(bytes(range(64)))), row, *kind)
    assert bytes(row) == bytes(range(64))
    for size in (63, 65, 10**9):
        with pytest.raises(Damaged, match="another length"):
            unpack(memoryview(zstd.compress(bytes(size))), row, *kind)
    with pytest.raises(Damaged):
        unpack(memoryview(b"\x28\xb5\x2f\xfd" + os.urandom(40)), row, *kind)


def test_a_pipe_is_not_opened(path: Path) -> None:
    shard = path / group_of(path, "plain") / "up0/c.0.0.0.0"
    shard.unlink()
    os.mkfifo(shard)
    waiting = threading.Timer(20, lambda: os._exit(1))
    waiting.start()
    with pytest.raises(StoreError, match="is not a file"):
        FeatureStore.open(path)["plain"]["up0"][0]
    assert not verify(path).sound
    waiting.cancel()

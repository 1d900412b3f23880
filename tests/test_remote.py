"""Stores behind URLs, against a server that speaks S3 and fails when it is told to."""

from __future__ import annotations

import contextlib
import functools
import http.server
import json
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import PROMPT, WriteManifest

pytest.importorskip("obstore")
from object_server import ObjectServer
from zarr.storage import ObjectStore

from gate_cache import FeatureStore
from gate_cache.core.codecs import Codec
from gate_cache.core.errors import RemoteError, RowNotDone, StoreError, UserError
from gate_cache.core.places import Place, Url, parse_place
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.extraction.sharing.card import write_card
from gate_cache.extraction.sharing.copy import Selection, copy_store
from gate_cache.extraction.status import status
from gate_cache.store.check.inspect import inspect
from gate_cache.store.check.verify import verify
from gate_cache.store.format.documents import LISTING
from gate_cache.store.format.done import BlockMarks
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.samples import NewSample
from gate_cache.store.opening import open_folder
from gate_cache.store.places import remote, urls
from gate_cache.store.places.cache import Cache, KeptFiles
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.workspace import Workspace

SHAPES = {"up0": (3, 8, 8), "up1": (2, 16, 16)}
RECIPE = {"kind": "conv", "settings": {"prompt": "a"}, "size": 64}
BLOCK, ROWS = 4, 10
SECRET = "not-to-be-shown"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    yield server
    server.close()


@pytest.fixture
def bucket(server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of the test's own, and the environment to reach it."""
    for name in ("GATE_CACHE_CACHE", "GATE_CACHE_CACHE_BYTES", "GATE_CACHE_STORES", "http_proxy",
                 "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": SECRET,
                        "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": server.url}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(urls, "RETRY", {
        "max_retries": 4, "retry_timeout": timedelta(seconds=10),
        "backoff": {"init_backoff": timedelta(milliseconds=10),
                    "max_backoff": timedelta(milliseconds=50)}})
    monkeypatch.setattr(urls, "CLIENT", {"connect_timeout": "1s", "read_timeout": "5s",
                                           "timeout": "30s"})
    server.requests.clear()
    return server.bucket(f"b{uuid.uuid4().hex[:12]}")


@pytest.fixture
def impatient(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for less time than the server's slow answers take."""
    monkeypatch.setattr(urls, "CLIENT", {**urls.CLIENT, "read_timeout": "400ms"})


@pytest.fixture
def path(bucket: str) -> Place:
    return parse_place(f"{bucket}/stores/toy.zarr")


def maps(rows: range) -> dict[str, np.ndarray]:
    return {name: np.stack([np.full(s, r + 0.5) for r in rows]) for name, s in SHAPES.items()}


@contextmanager
def writing(path: Place, rows: int = ROWS) -> Iterator[tuple[StoreWriter, GroupWriter]]:
    with open_writer(path, "toy", BLOCK, 2) as store:
        store.append([NewSample(f"horse/{i:02}", f"{i:064x}", 10 + i, 20)
                      for i in range(len(store.samples), rows)])
        group = store.require("plain", RECIPE, SHAPES, "float16", {})
        group.fit()
        yield store, group


def fill(path: Place, rows: int = ROWS) -> FeatureStore:
    with writing(path, rows) as (_, group):
        for block in group.todo():
            group.write(block, maps(block))
    return FeatureStore.open(path)


@functools.cache
def _made(rows: int) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as home:
        return files_of(fill(Path(home, "toy.zarr"), rows).path)


def put(path: Place, rows: int = ROWS) -> FeatureStore:
    """The same store, by copying its files, which is quicker."""
    folder = open_folder(path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: folder.write(item[0], [item[1]]), _made(rows).items()))
    return FeatureStore.open(path)


def equal(store: FeatureStore, rows: int = ROWS) -> None:
    for name, array in maps(range(rows)).items():
        np.testing.assert_array_equal(store["plain"][name][:], array)


def held_by(place: Place) -> dict[str, Any]:
    """All files but those of marks, which share them on a disk; and all marks, by group."""
    folder = open_folder(place)
    groups = [name for name in folder.names() if folder.names(f"{name}/done")]
    files = {k: raw for k, raw in files_of(place).items() if "/done/" not in k}
    own = json.loads(files.pop("zarr.json"))
    own[LISTING]["metadata"] = {k: v for k, v in own[LISTING]["metadata"].items()
                                if not k.endswith("/done")}
    return files | {"zarr.json": own} | {
        name: BlockMarks(folder, name).read_all(9).tolist() for name in groups}


def files_of(place: Place, key: str = "") -> dict[str, bytes]:
    """All files of a store, by key."""
    folder, found = open_folder(place), dict[str, bytes]()
    for name in folder.names(key):
        inner = f"{key}/{name}".lstrip("/")
        raw = folder.read(inner) if folder.names(inner) == [] else None
        found.update({inner: raw} if raw is not None else files_of(place, inner))
    return found


# ------------------------------------------------------------------------------------ places


@pytest.mark.parametrize(("text", "shown", "name", "parent"), [
    ("s3://b/x/y.zarr", "s3://b/x/y.zarr", "y.zarr", "s3://b/x"),
    ("s3://b//x/", "s3://b/x", "x", "s3://b"),
    ("gs://b", "gs://b", "b", "gs://b"),
    ("az://c/y.zarr", "az://c/y.zarr", "y.zarr", "az://c"),
    ("abfss://c@account.dfs.core.windows.net/y", "abfss://c@account.dfs.core.windows.net/y", "y",
     "abfss://c@account.dfs.core.windows.net"),
    ("https://h:8080/d/y.zarr", "https://h:8080/d/y.zarr", "y.zarr", "https://h:8080/d"),
])
def test_urls_have_parts(text: str, shown: str, name: str, parent: str) -> None:
    url = Url(text)
    assert (str(url), url.name, str(url.parent)) == (shown, name, parent)
    assert pickle.loads(pickle.dumps(url)) == url == Url(shown)
    assert str(url / "a/b") == f"{shown}/a/b"


@pytest.mark.parametrize(("text", "why"), [
    ("ftp://host/x", "begin with"), ("s3://", "names no bucket"),
    ("s3://b/../c", "climbs"), ("s3://b/%2e%2e/c", "climbs"),
    (f"https://me:{SECRET}@host/x", "no password"), (f"https://host/x?sig={SECRET}", "no password"),
    (f"ftp://me:{SECRET}@host/x?sig={SECRET}", "begin with"),
])
def test_urls_that_cannot_be_stores(text: str, why: str) -> None:
    with pytest.raises(UserError, match=why) as caught:
        Url(text)
    assert SECRET not in str(caught.value)


def test_paths_stay_paths() -> None:
    assert parse_place("stores/x.zarr") == Path("stores/x.zarr")
    assert parse_place(Path("C:/x")) == Path("C:/x")


@pytest.mark.parametrize(("stores", "path", "outside", "found"), [
    ("s3://b/stores", "x.zarr", False, "s3://b/stores/x.zarr"),
    ("s3://b/stores", "s3://b/stores/a/x.zarr", False, "s3://b/stores/a/x.zarr"),
    ("stores", "s3://b/x.zarr", True, "s3://b/x.zarr"),
    ("s3://b/stores", "/disk/x.zarr", True, "/disk/x.zarr"),
])
def test_a_manifests_store_may_be_a_url(stores: str, path: str, outside: bool, found: str) -> None:
    assert str(Roots.resolve(outside, stores=stores).store(path, "store.path")) == found


@pytest.mark.parametrize(("stores", "path"), [
    ("stores", "s3://b/x.zarr"), ("s3://b/stores", "s3://b/storesx/x.zarr"),
    ("s3://b/stores", "../x.zarr"), ("s3://b/stores", "/disk/x.zarr"),
    ("s3://b/stores", "s3://b/stores/../x.zarr"),
])
def test_a_manifest_cannot_leave_the_stores_unasked(stores: str, path: str) -> None:
    with pytest.raises(UserError, match=r"--allow-outside|climbs"):
        Roots.resolve(stores=stores).store(path, "store.path")


def test_the_stores_root_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_CACHE_STORES", "gs://b/stores")
    assert Roots.resolve().absolute().stores == Url("gs://b/stores")


@pytest.mark.parametrize("url", ["gs://bucket/x.zarr", "az://container/x.zarr",
                                 "abfss://c@account.dfs.core.windows.net/x.zarr"])
def test_other_clouds_open_by_the_same_code(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    folder = open_folder(parse_place(url))
    assert isinstance(folder, remote.RemoteFolder)
    assert folder._store.prefix == "x.zarr"


def test_without_obstore_the_extra_is_named(tmp_path: Path) -> None:
    code = ("import sys; sys.modules['obstore'] = None\n"
            "from gate_cache.cli import main\n"
            "sys.argv = ['gate-cache', 'inspect', 's3://b/x.zarr']\nmain()")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'gate-cache[remote]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------------------- write and read


def test_what_is_written_is_read_and_is_what_a_disk_would_hold(path: Place, tmp_path: Path) -> None:
    equal(fill(path))
    fill(tmp_path / "toy.zarr")
    assert held_by(path) == held_by(tmp_path / "toy.zarr")


def test_plain_zarr_reads_it(path: Place) -> None:
    store = put(path)
    group = zarr.open_group(ObjectStore(store.folder._store), mode="r")
    array = group[f"{store['plain'].name}/up1"]
    np.testing.assert_array_equal(array[:], maps(range(ROWS))["up1"])  # type: ignore[index]


def test_images_are_appended(path: Place) -> None:
    equal(fill(path))
    equal(fill(path, ROWS + 3), ROWS + 3)


def test_a_block_that_finishes_later_is_seen(path: Place) -> None:
    with writing(path) as (_, group):
        view = FeatureStore.open(path)["plain"]["up0"]
        with pytest.raises(RowNotDone):
            view[0]
        group.write(range(4), maps(range(4)))
        assert view[0].max() == 0.5


def test_a_read_is_one_request_and_an_index_is_read_once(path: Place, server: ObjectServer) -> None:
    view = put(path)["plain"]["up1"]
    view.combo.check(np.arange(ROWS))
    server.requests.clear()
    view[1:4]
    assert server.count() == 3  # the shard's index, what its rows must be, the rows
    view[0]
    view[[0, 2, 3]]
    assert server.count() == 6
    assert view[[0, 2, 5, 9, 7]].shape[0] == 5
    assert server.count() == 6 + 2 + 2 + 5  # two more indexes and tables, five runs


def test_a_large_object_is_put_in_parts(path: Place, server: ObjectServer,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART", 5 * 2**20)
    parts = [memoryview(os.urandom(2**20 + i)) for i in range(12)]
    folder = open_folder(path)
    folder.write("large", parts)
    assert server.count("PUT", "large") == 3
    assert folder.read("large") == b"".join(parts)


def test_what_is_removed_is_gone_and_no_more(path: Place) -> None:
    folder = open_folder(path)
    for key in ("a/b", "a/c/d", "ab", "x"):
        folder.write(key, [b"1"])
    folder.remove("a")
    folder.remove("x")
    folder.remove("none")
    assert folder.names() == ["ab"]


def test_one_writer_at_a_time(path: Place) -> None:
    refused = pytest.raises(StoreError, match=r"process \d+, since .*wait until it ends")
    with writing(path), refused, writing(path):
        pass
    with writing(path):
        pass


def test_of_several_one_creates(path: Place, tmp_path: Path) -> None:
    for folder in (open_folder(path), LocalFolder(tmp_path)):
        assert folder.create("a/claim", b"me")
        assert not folder.create("a/claim", b"you")
        assert folder.read("a/claim") == b"me"
        folder.remove("a")
        assert not folder.names("a")
        assert folder.create("a/claim", b"you")


def test_a_creation_whose_answer_is_lost_is_known_as_ours(path: Place,
                                                          server: ObjectServer) -> None:
    with server.failing("lost", 1):
        assert open_folder(path).create("claim", b"me")


def test_a_prefix_that_is_no_store_is_left_alone(path: Place) -> None:
    open_folder(path).write("notes.txt", [b"mine"])
    with pytest.raises(StoreError, match="is not a store"), writing(path):
        pass
    assert open_folder(path).read("notes.txt") == b"mine"
    with pytest.raises(StoreError, match="not a gate-cache store"):
        FeatureStore.open(path)


def test_what_is_not_there_is_said(bucket: str) -> None:
    with pytest.raises(StoreError, match="no such store"):
        FeatureStore.open(f"{bucket}/none.zarr")
    with pytest.raises(RemoteError, match="no such bucket"), \
            writing(parse_place("s3://nobodys/x.zarr")):
        pass
    with pytest.raises(RemoteError, match="no such bucket"):
        FeatureStore.open("s3://nobodys/x.zarr")


def test_dask_and_pickle_carry_it(path: Place) -> None:
    store = put(path)
    again = pickle.loads(pickle.dumps(store["plain"]["up0"]))
    assert again[3].max() == 3.5
    lazy = store.dask("plain", "up0")
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), store["plain"]["up0"][:])


def test_a_forked_process_is_told_not_to_wait_forever(path: Place) -> None:
    store = put(path)
    asked = multiprocessing.get_context("fork").Queue()

    def child() -> None:
        try:
            FeatureStore.open(store.path)
        except RemoteError as error:
            asked.put(str(error))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    assert "'spawn'" in asked.get(timeout=20)
    process.join(20)


def test_extract_to_a_bucket_and_look(bucket: str, tmp_path: Path,
                                      manifest: WriteManifest) -> None:
    loaded = manifest(dataset={"name": "toyworld", "train": 3, "val": 0, "test": 0},
                      conv={"plain": PROMPT}, attention={}, store={"block": 2, "batch": 2})
    near = Roots(*(tmp_path / name for name in ("data", "models", "stores", "runs")))
    far = Roots(near.data, near.models, Url(f"{bucket}/stores"), near.runs)
    assert not status(Workspace(loaded, far)).exists
    done = extract(Workspace(loaded, far, "cpu"))
    assert str(done.store) == f"{bucket}/stores/toy.zarr"
    local = extract(Workspace(loaded, near, "cpu")).store
    assert held_by(done.store) == held_by(local)
    assert status(Workspace(loaded, far)).complete
    assert inspect(str(done.store)).bytes == sum(map(len, files_of(done.store).values()))
    assert not any(extract(Workspace(loaded, far, "cpu")).rows.values())


def test_the_command_line_takes_urls(path: Place, capsys: pytest.CaptureFixture[str],
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    from gate_cache import cli

    put(path)
    monkeypatch.setattr(sys, "argv", ["gate-cache", "inspect", str(path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "up1" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ trouble


@pytest.mark.mostly_long("503-*", "half-*")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("how", "times"), [("503", 2), ("drop", 2), ("half", 2), ("slow", 1)])
def test_what_fails_for_a_while_is_tried_again(path: Place, server: ObjectServer, how: str,
                                               times: int) -> None:
    with server.failing(how, times, lambda e: how != "half" or "HTTP_RANGE" in e):
        store = fill(path)
    with server.failing(how, times, lambda e: "HTTP_RANGE" in e):
        equal(store)


@pytest.mark.mostly_long("503")
@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["503", "drop", "slow"])
def test_a_dead_server_is_one_line_and_leaves_blocks_undone(path: Place, server: ObjectServer,
                                                            how: str) -> None:
    def puts_shards(environ: Any) -> bool:
        return environ["REQUEST_METHOD"] == "PUT" and re.search(r"/c[./]1", environ["PATH_INFO"])

    start = time.monotonic()
    with writing(path) as (_, group):
        group.write(range(4), maps(range(4)))
        with server.failing(how, when=puts_shards), \
                pytest.raises(RemoteError, match=r"cannot be reached .* what is done") as caught:
            group.write(range(4, 8), maps(range(4, 8)))
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(path))
        assert group.todo() == [range(4, 8), range(8, 10)]
    with server.failing(how), pytest.raises(RemoteError, match="cannot be reached"):
        FeatureStore.open(path)
    assert time.monotonic() - start < 25
    equal(fill(path))


def test_no_server_at_all(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="cannot be reached"):
        FeatureStore.open(f"{bucket}/x.zarr")


def test_permission_denied_names_the_environment_and_no_secret(path: Place,
                                                               server: ObjectServer) -> None:
    store = put(path)
    with server.failing("403"), pytest.raises(RemoteError, match="AWS_ACCESS_KEY_ID") as caught:
        store["plain"]["up0"][0]
    assert SECRET not in repr(caught.value) + str(caught.value.__cause__)
    assert caught.value.exit_code == 2


def test_a_server_that_fails_is_not_called_damage(path: Place, server: ObjectServer) -> None:
    with writing(path) as (_, group):
        group.write(range(8, 10), maps(range(8, 10)))
    with writing(path, ROWS + 1) as (_, group), server.failing("503"), \
            pytest.raises(RemoteError, match="cannot be reached"):
        group.read_kept(range(8, 11))
    with server.failing("503"), pytest.raises(RemoteError, match="cannot be reached"):
        assert FeatureStore.open(path).samples


def test_a_lost_or_flipped_shard_is_named(path: Place) -> None:
    store = put(path)
    key = f"{store['plain'].name}/up0/c.1.0.0.0"
    raw = bytearray(store.folder.read(key) or b"")
    raw[5] ^= 1
    store.folder.write(key, [raw])
    with pytest.raises(StoreError, match="wrong checksum"):
        store["plain"]["up0"][4]
    for data in (b"", b"short"):
        store.folder.write(key, [data])
        with pytest.raises(StoreError, match="missing or damaged"):
            store["plain"]["up0"][4]
    store.folder.remove(key)
    with pytest.raises(StoreError, match="is missing"):
        store["plain"]["up0"][4]


def test_a_shard_that_is_written_again_while_it_is_open(path: Place) -> None:
    store = put(path)
    equal(store)
    with writing(path, ROWS + 2) as (_, group):
        for block in group.todo():
            group.write(block, {n: m + 100 for n, m in maps(block).items()})
    assert store["plain"]["up0"][9].max() == 109.5  # never a mixture of both


# -------------------------------------------------------------------------------------- cache


@pytest.fixture
def cache(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GATE_CACHE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept(cache: Path) -> list[Path]:
    return [p for p in cache.rglob("*") if p.is_file() and p.name != ".lock"]


def test_the_second_epoch_asks_for_nothing(path: Place, cache: Path, server: ObjectServer) -> None:
    store = put(path)
    equal(store)
    assert len(kept(cache)) == 6
    server.requests.clear()
    for row in range(ROWS):
        assert store["plain"]["up0"][row].max() == row + 0.5
    store.files._open.clear()  # as if there were more shards than open files
    equal(store)
    assert server.requests == []


def test_another_process_downloads_nothing_again(path: Place, cache: Path,
                                                 server: ObjectServer) -> None:
    equal(put(path))
    before = {p: p.stat().st_mtime_ns for p in kept(cache)}
    server.requests.clear()
    equal(FeatureStore.open(path))
    assert set(kept(cache)) == set(before)
    assert server.count("GET", "/up0/c.") == 3  # "is it still the same?", once a shard
    assert all(r == "" for _, _, r in server.requests)


def test_a_changed_object_is_fetched_again(path: Place, cache: Path) -> None:
    store = put(path)
    equal(store)
    key = f"{store['plain'].name}/up0/c.0.0.0.0"
    changed = bytearray(store.folder.read(key) or b"")
    twice = open_folder(path)
    other = store["plain"].name + "/up0/c.1.0.0.0"
    twice.write(key, [store.folder.read(other) or b""])
    assert bytes(changed) != store.folder.read(key)
    assert FeatureStore.open(path, "never")["plain"]["up0"][0].max() == 4.5
    assert len(kept(cache)) == 6
    with pytest.raises(StoreError, match="row 0 is not the one that was written there"):
        FeatureStore.open(path)["plain"]["up0"][0]


def test_a_new_row_of_a_kept_shard_is_seen(path: Place, cache: Path) -> None:
    view = put(path)["plain"]["up0"]
    assert view[9].max() == 9.5
    put(path, ROWS + 2)
    assert view[9].max() == 9.5
    equal(FeatureStore.open(path), ROWS + 2)


def test_a_damaged_kept_shard_is_fetched_again(path: Place, cache: Path) -> None:
    put(path)
    equal(FeatureStore.open(path))
    for file in kept(cache):
        file.write_bytes(file.read_bytes()[:-7])
    equal(FeatureStore.open(path))


def test_the_cache_is_bounded(path: Place, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_CACHE_CACHE_BYTES", "6 kB")
    store = put(path)
    for _ in range(2):
        store.files._open.clear()
        equal(store)
    assert sum(p.stat().st_size for p in kept(cache)) <= 6000
    monkeypatch.setenv("GATE_CACHE_CACHE_BYTES", "much")
    with pytest.raises(UserError, match="'much' is not a number of bytes"):
        FeatureStore.open(path)


def test_unchanged_is_no_answer_where_nothing_is_kept(tmp_path: Path) -> None:
    """A server, or a proxy, that says "not modified" of what was never asked for."""
    kept = KeptFiles(Cache(tmp_path), Url("https://x.org/s.zarr"), lambda *_: "v1")
    with pytest.raises(RemoteError, match=r"plain/up0/c\.0: the server says that it has not"):
        kept.open("plain/up0/c.0")


def test_what_was_used_last_stays(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (100 - i, 100 - i))
    Cache(tmp_path, 25).make_room()
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.long
def test_many_readers_share_a_download(path: Place, cache: Path, server: ObjectServer) -> None:
    stores = [put(path), *(FeatureStore.open(path) for _ in range(7))]
    server.requests.clear()
    threads = [threading.Thread(target=equal, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept(cache)) == 6
    equal(stores[0])


@pytest.mark.long
def test_processes_share_the_cache(path: Place, cache: Path) -> None:
    put(path)
    code = ("import sys; from gate_cache import FeatureStore; s = FeatureStore.open(sys.argv[1])\n"
            "print(sum(float(s['plain'][n][r].sum()) for n in s['plain'] for r in range(10)))")
    command = [sys.executable, "-c", code, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0] for process in running]
    assert said[0] and len(set(said)) == 1
    assert len(kept(cache)) == 6


def test_a_download_that_breaks_off_leaves_nothing(path: Place, cache: Path,
                                                   server: ObjectServer) -> None:
    store = put(path)
    with server.failing("half", when=lambda e: re.search("/c[./]", e["PATH_INFO"]) and "done" not in
                        e["PATH_INFO"]), pytest.raises(RemoteError, match="cannot be reached"):
        store["plain"]["up0"][0]
    assert kept(cache) == []
    equal(store)


def test_a_cache_that_cannot_be_written_is_named(path: Place, cache: Path) -> None:
    store = put(path)
    cache.write_text("a file")
    with pytest.raises(OSError, match="cache"):
        store["plain"]["up0"][0]


# ---------------------------------------------------------------------------------------- web


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Python's own server, with ranges."""

    def send_head(self) -> Any:
        asked = self.headers.get("Range")
        file = super().send_head() if not asked else None
        if file or not asked:
            return file
        raw = Path(self.translate_path(self.path)).read_bytes()
        start, _, stop = asked.removeprefix("bytes=").partition("-")
        first = int(start) if start else max(len(raw) - int(stop), 0)
        part = raw[first : int(stop) + 1 if start and stop else len(raw)]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(raw)}")
        self.send_header("Last-Modified", self.date_time_string(0))
        self.end_headers()
        self.wfile.write(part)
        return None

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, bucket: str) -> Iterator[str]:
    fill(tmp_path / "site" / "toy.zarr")
    handler = functools.partial(Ranges, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/toy.zarr"
    server.shutdown()
    server.server_close()


def test_a_store_on_a_web_server_is_read(web: str, tmp_path: Path) -> None:
    store = FeatureStore.open(web)
    equal(store)
    assert store["plain"]["up0"][[0, 7, 3]].shape[0] == 3
    assert inspect(web).bytes == inspect(tmp_path / "site" / "toy.zarr").bytes


def test_a_store_on_a_web_server_is_kept(web: str, cache: Path) -> None:
    equal(FeatureStore.open(web))
    equal(FeatureStore.open(web))
    assert len(kept(cache)) == 6


def test_a_web_server_is_not_written_to(web: str) -> None:
    refused = pytest.raises(StoreError, match="only read")
    with refused, writing(parse_place(web), ROWS + 1):
        pass
    with pytest.raises(StoreError, match="no such store"):
        FeatureStore.open(web.replace("toy", "none"))


def test_a_web_server_that_lists_nothing_has_the_store_s_own_list(
        web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranges, "list_directory", lambda self, _: self.send_error(403))
    equal(FeatureStore.open(web))
    own = tmp_path / "site" / "toy.zarr" / "zarr.json"
    document = json.loads(own.read_text())
    assert set(document.pop(LISTING)["metadata"]) >= {"samples", "samples/id"}
    own.write_text(json.dumps(document, indent=2))  # as an earlier release left it
    with pytest.raises((StoreError, RemoteError), match=r"directory index|only public files"):
        assert FeatureStore.open(web).combos


@pytest.mark.mostly_long("None")
@pytest.mark.parametrize("listing", [
    None, 3, {}, {"metadata": None}, {"metadata": {"../x": {}, "/etc": {}, "": {}, "\n": 0}},
    {"metadata": {"plain-0": {}, "a/b/c": {}, "a" * 9999: []}}])
def test_a_list_that_lies_leads_nowhere(listing: Any, web: str, tmp_path: Path) -> None:
    own = tmp_path / "site" / "toy.zarr" / "zarr.json"
    document = json.loads(own.read_text())
    own.write_text(json.dumps({**document, LISTING: listing}))
    with contextlib.suppress(StoreError, RemoteError):  # a line, and no traceback
        assert not set(FeatureStore.open(web).combos) - {"plain", "attn", "int8"}


# ------------------------------------------------------------------------- pushing and pulling


@pytest.mark.long
def test_a_store_is_pushed_goes_on_after_a_failure_and_is_pulled(
        server: ObjectServer, path: Place, tmp_path: Path) -> None:
    local = tmp_path / "toy.zarr"
    fill(local)
    with server.failing("403", when=lambda e: "c.1.0" in e["PATH_INFO"]), \
            pytest.raises(RemoteError, match="no permission"):
        copy_store(local, path)
    again = copy_store(local, path)
    assert again.blocks < 3 and again.kept == 3 - again.blocks
    assert b"pull s3://" in write_card(path).encode()
    assert held_by(path) == {**held_by(local), "README.md": open_folder(path).read("README.md")}
    report = verify(path)
    assert report.sound and not report.problems
    server.requests.clear()
    assert copy_store(path, tmp_path / "back.zarr", Selection(maps=["up1"], images=5)).blocks == 2
    assert not server.count("GET", "up0/c.")
    np.testing.assert_array_equal(FeatureStore.open(tmp_path / "back.zarr")["plain"]["up1"][:],
                                  maps(range(5))["up1"])


def test_compressed_rows_of_a_block_are_one_request(server: ObjectServer, path: Place) -> None:
    with open_writer(path, "toy", BLOCK, 2) as writer:
        writer.append([NewSample(f"{i}.jpg", f"{i:064x}", 2, 2) for i in range(BLOCK)])
        group = writer.require("plain", RECIPE, SHAPES, Encoding("float16", codec=Codec.parse(
            "zstd")), {})
        group.fit()
        group.write(range(BLOCK), maps(range(BLOCK)))
    view = FeatureStore.open(path)["plain"]["up0"]
    view[0]  # opens the shard
    server.requests.clear()
    np.testing.assert_array_equal(view[:], maps(range(BLOCK))["up0"])
    assert server.count("GET", "up0/c.0") == 1

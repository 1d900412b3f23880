"""The stream of whole samples: order, values, memory that is used again, workers, damage."""

from __future__ import annotations

import pickle
import shutil
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from gate_cache import FeatureStore
from gate_cache.core.errors import RowNotDone, StoreError, UserError
from gate_cache.learn.features.layout import views_of
from gate_cache.learn.features.samples import SampleBuffer, SampleReader
from gate_cache.learn.features.stream import FeatureStream, Order, epoch_order
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer

SHAPES = {"up0": (4, 2, 2), "up1": (3, 5, 4)}
ROWS, BLOCK = 23, 4


def values(combo: int, rows: range) -> dict[str, np.ndarray]:
    generator = np.random.default_rng([combo, rows.start])
    return {n: generator.standard_normal((len(rows), *s)).astype(np.float16)
            for n, s in SHAPES.items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two combos of 23 rows; a third has its first block only."""
    path = tmp_path_factory.mktemp("stream") / "s.zarr"
    with open_writer(path, "set", BLOCK, 2) as store:
        store.append([NewSample(f"{i}.png", f"{i:064x}", 8, 8) for i in range(ROWS)])
        for number, name in enumerate("abc"):
            group = store.require(name, {"kind": "conv", "name": name}, SHAPES, "float16", {})
            group.fit()
            for start in range(0, ROWS if name != "c" else BLOCK, BLOCK):
                rows = range(start, min(start + BLOCK, ROWS))
                group.write(rows, values(number, rows))
    return path


@pytest.fixture
def store(path: Path) -> FeatureStore:
    return FeatureStore.open(path)


def equal(store: FeatureStore, row: int, maps: dict[str, dict[str, torch.Tensor]]) -> bool:
    return all(np.array_equal(t.numpy(), store[c][n][row])
               for c, found in maps.items() for n, t in found.items())


@given(rows=st.lists(st.integers(0, 99), unique=True), block=st.integers(1, 9),
       window=st.integers(1, 5), epoch=st.integers(0, 3))
def test_every_row_comes_once_and_the_same_seed_gives_the_same_order(
        rows: list[int], block: int, window: int, epoch: int) -> None:
    orders: tuple[Order, ...] = ("window", "random", "sequential")
    for order in orders:
        found = epoch_order(rows, block, order, window, 7, epoch)
        assert sorted(found) == sorted(rows)
        assert found == epoch_order(rows, block, order, window, 7, epoch)


def test_epochs_and_seeds_differ() -> None:
    orders: tuple[Order, ...] = ("window", "random")
    for order in orders:
        found = {tuple(epoch_order(range(50), 4, order, 3, seed, epoch))
                 for seed in range(2) for epoch in range(2)}
        assert len(found) == 4


def test_a_window_holds_its_shards_only() -> None:
    found = epoch_order(range(40), 4, "window", 2, 0, 0)
    for start in range(0, 40, 8):
        assert len({row // 4 for row in found[start : start + 8]}) == 2
    assert found != sorted(found)


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("order", ["window", "random", "sequential"])
@pytest.mark.parametrize("ahead", [1, 5, 100])
def test_samples_are_the_stores(store: FeatureStore, threads: int, order: Order,
                                ahead: int) -> None:
    stream = FeatureStream(store, ["a", "b"], order=order, threads=threads, ahead=ahead)
    seen = []
    for sample in stream:
        assert list(sample.maps) == ["a", "b"] and list(sample.maps["a"]) == ["up0", "up1"]
        assert equal(store, sample.row, sample.maps)
        seen.append(sample.row)
    assert sorted(seen) == list(range(ROWS)) == sorted(stream.order()) and seen == stream.order()
    assert len(stream) == ROWS


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("keep", [1, 3, 7, 50])
def test_the_last_samples_stay_valid(store: FeatureStore, threads: int, keep: int) -> None:
    held: list[tuple[int, dict[str, dict[str, torch.Tensor]]]] = []
    for sample in FeatureStream(store, {"b": ["up1"]}, threads=threads, reuse=True, keep=keep,
                                ahead=2):
        held = [*held, sample][-keep:]
        assert all(equal(store, row, maps) for row, maps in held)


@pytest.mark.parametrize("threads", [0, 2])
def test_samples_have_memory_of_their_own(store: FeatureStore, threads: int) -> None:
    samples = list(FeatureStream(store, ["a", "b"], threads=threads, ahead=2))
    assert all(equal(store, s.row, s.maps) for s in samples)
    assert len({s.maps["a"]["up0"].data_ptr() for s in samples}) == ROWS


@pytest.mark.parametrize(("threads", "workers"), [(0, 0), (2, 0), (2, 2)])
def test_batches_of_a_dataloader(store: FeatureStore, threads: int, workers: int) -> None:
    stream = FeatureStream(store, ["a", "b"], seed=2, threads=threads)
    rows = []
    for batch in DataLoader(stream, batch_size=4, num_workers=workers):
        for i, row in enumerate(batch.row.tolist()):
            assert equal(store, row, {c: {n: t[i] for n, t in maps.items()}
                                      for c, maps in batch.maps.items()})
            rows.append(row)
    assert sorted(rows) == list(range(ROWS))


class LateDevice:
    """Stands for ``torch.cuda``: copies begin when they are waited for, and no sooner."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self.asked: list[Any] = []
        self.begun = self.wrong = 0
        self._lock = threading.Lock()

    def copy(self, sample: Any) -> None:
        self.asked.append(sample)

    def record_event(self) -> Any:
        return SimpleNamespace(synchronize=partial(self.run, len(self.asked)))

    def run(self, end: int) -> None:
        with self._lock:
            late, self.begun = self.asked[self.begun : end], max(end, self.begun)
            self.wrong += sum(not equal(self.store, *sample) for sample in late)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("known", [True, False])
def test_memory_is_not_used_again_below_a_copy(
        store: FeatureStore, monkeypatch: pytest.MonkeyPatch, threads: int, known: bool) -> None:
    """Where the copies are not waited for they carry other samples away: the test can fail."""
    device = LateDevice(store)
    monkeypatch.setattr("gate_cache.learn.features.samples._TASK_BYTES", 0)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: known)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda number: number)
    monkeypatch.setattr(torch.cuda, "current_stream", {1: device}.__getitem__)
    for sample in FeatureStream(store, ["a"], threads=threads, reuse=True, pin=False):
        device.copy(sample)
    device.run(ROWS)
    assert device.begun == ROWS and bool(device.wrong) != known


def test_memory_is_used_again(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gate_cache.learn.features.samples._TASK_BYTES", 0)  # else in groups
    stream = FeatureStream(store, ["a"], threads=0, reuse=True)
    assert len({s.maps["a"]["up0"].data_ptr() for s in stream}) == 6
    stream = FeatureStream(store, ["a"], threads=1, ahead=2, reuse=True)
    assert len({s.maps["a"]["up0"].data_ptr() for s in stream}) == 4


def test_some_rows_and_some_maps(store: FeatureStore) -> None:
    stream = FeatureStream(store, {"a": ["up1"], "c": None}, rows=[3, 1], order="sequential")
    assert [(s.row, list(s.maps["a"]), list(s.maps["c"])) for s in stream] == [
        (3, ["up1"], ["up0", "up1"]), (1, ["up1"], ["up0", "up1"])]
    assert not list(FeatureStream(store, ["a"], rows=[]))


def test_epochs_have_their_own_order(store: FeatureStore) -> None:
    stream = FeatureStream(store, ["a"], seed=3)
    first = [s.row for s in stream]
    stream.set_epoch(1)
    second = [s.row for s in stream]
    stream.set_epoch(0)
    assert first != second and [s.row for s in stream] == first


def test_a_row_that_is_not_done_raises_before_the_first_sample(store: FeatureStore) -> None:
    with pytest.raises(RowNotDone, match=r"'4\.png'"):
        next(iter(FeatureStream(store, ["a", "c"], order="sequential")))


@pytest.mark.parametrize("threads", [0, 2])
def test_leaving_early_ends_the_threads(store: FeatureStore, threads: int) -> None:
    before = threading.active_count()
    for _ in zip(range(3), FeatureStream(store, ["a"], threads=threads), strict=False):
        pass
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("check", ["first", "always", "never"])
def test_damage_is_found_where_it_is_looked_for(tmp_path: Path, path: Path, threads: int,
                                                check: Any) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "s.zarr"))
    name = FeatureStore.open(copy)["a"].name
    shard = copy / name / "up1/c.2.0.0.0"
    raw = bytearray(shard.read_bytes())
    raw[5] ^= 1
    shard.write_bytes(raw)
    stream = FeatureStream(FeatureStore.open(copy, check), ["a"], threads=threads)
    if check == "never":
        assert len(list(stream)) == ROWS
    else:
        with pytest.raises(StoreError, match="wrong checksum"):
            list(stream)


@pytest.mark.parametrize("check", ["first", "always"])
def test_first_touch_checks_once(tmp_path: Path, path: Path, check: Any) -> None:
    copy = Path(shutil.copytree(path, tmp_path / "s.zarr"))
    store = FeatureStore.open(copy, check)
    assert store["a"]["up1"][8].shape == SHAPES["up1"]
    shard = copy / store["a"].name / "up1/c.2.0.0.0"
    with shard.open("r+b") as file:  # under the open file
        file.write(b"\xff\xff")
    if check == "first":
        assert store["a"]["up1"][8].shape == SHAPES["up1"]
    else:
        with pytest.raises(StoreError, match="wrong checksum"):
            store["a"]["up1"][8]


@pytest.mark.mostly_long("fork")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_workers_of_a_dataloader(store: FeatureStore, method: str) -> None:
    stream = FeatureStream(store, ["a", "b"], seed=5)
    assert next(iter(stream)).row == stream.order()[0]  # used in the parent first
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context=method)
    found = list(loader)
    assert [s.row for s in found] == stream.order()
    assert all(equal(store, s.row, s.maps) for s in found)


def test_a_store_and_its_views_can_be_pickled(store: FeatureStore) -> None:
    again = pickle.loads(pickle.dumps(store["a"]["up1"]))
    np.testing.assert_array_equal(again[5], store["a"]["up1"][5])


def test_pinned_memory_needs_a_gpu(store: FeatureStore) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert next(iter(FeatureStream(store, ["a"]))).maps["a"]["up0"].is_pinned()


@pytest.mark.parametrize(("given", "told"), [
    ({"rows": [-1]}, "has no row -1; it has rows 0 to 22"),
    ({"rows": [3, 23]}, "has no row 23; it has rows 0 to 22"),
    ({"order": "sequental"}, "order='sequental' (did you mean 'sequential'?)"),
    ({"threads": -1}, "threads=-1: must be at least 0"),
    ({"window": 0}, "window=0: must be at least 1"), ({"ahead": 0}, "ahead=0"),
    ({"keep": 0}, "keep=0"), ({"seed": -3}, "seed=-3"),
])
def test_arguments_that_cannot_be_are_told_in_one_line(store: FeatureStore, given: Any,
                                                       told: str) -> None:
    with pytest.raises(UserError) as caught:
        FeatureStream(store, ["a"], **given)
    assert told in str(caught.value) and "\n" not in str(caught.value)


# What training reads through


def reader(store: FeatureStore, **more: Any) -> SampleReader:
    return SampleReader(views_of(store, ["a", "b"]), **more)


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("room", [1, 4, 50])
def test_samples_are_held_within_a_bound_and_read_again_beyond_it(
        store: FeatureStore, monkeypatch: pytest.MonkeyPatch, threads: int, room: int) -> None:
    monkeypatch.setattr("gate_cache.learn.features.samples._TASK_BYTES", 0)
    reads: list[int] = []
    real = SampleBuffer.fill
    monkeypatch.setattr(SampleBuffer, "fill", lambda self: (reads.append(self.row), real(self))[1])
    found = reader(store, threads=threads, ahead=1)
    held = reader(store, held=room * found.layout.nbytes, threads=threads, ahead=1)
    rows = [*range(10), *range(10), 9, 9]
    for row, sample in zip(rows, held.stream(rows), strict=True):
        assert sample is not None and equal(store, row, sample.maps())
        held.release(sample)
        assert held._count <= max(room, 1 + threads + 1)
    assert len(reads) == (10 if room >= 10 else 20)


def test_samples_that_are_skipped_are_not_read(store: FeatureStore) -> None:
    rows = [5, 6, 7, 8]
    found = list(reader(store, threads=2).stream(rows, lambda row: row % 2 == 0))
    assert [s and s.row for s in found] == [5, None, 7, None]


def test_a_sample_that_cannot_be_read_is_tried_again(
        store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = reader(store, threads=1)
    with monkeypatch.context() as broken:
        broken.setattr(SampleBuffer, "fill", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(found.stream([4]))
    with found.sample(4) as sample:
        assert equal(store, 4, sample.maps())


def test_two_loops_may_read_at_once(store: FeatureStore) -> None:
    found = reader(store, threads=2, ahead=3)
    a, b = found.stream(range(ROWS)), found.stream(reversed(range(ROWS)))
    for row, (one, other) in enumerate(zip(a, b, strict=True)):
        assert one is not None and other is not None
        assert equal(store, row, one.maps()) and equal(store, ROWS - 1 - row, other.maps())
        found.release(one)
        found.release(other)

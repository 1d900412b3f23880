"""Smaller stores: what is stored is what is said, and reads back within the stated error."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from conftest import PROMPT, WriteManifest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numcodecs import BitRound
from test_train import build, run
from test_train import manifest as train_manifest

from gate_cache import FeatureStore
from gate_cache.core.codecs import OPTIONS, Codec
from gate_cache.core.errors import ManifestError, RowNotDone, StoreError, UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.validate import validate
from gate_cache.learn.features.layout import decode as decode_torch
from gate_cache.learn.features.layout import part_dtype
from gate_cache.learn.metrics.roles import Method
from gate_cache.report.terminal.console import Lines
from gate_cache.report.terminal.store_tables import show_store
from gate_cache.report.terminal.tables import show_plan
from gate_cache.store.check.inspect import inspect
from gate_cache.store.format import done, shards
from gate_cache.store.format.codes import DoesNotFit, decode, encode
from gate_cache.store.format.documents import put_attrs
from gate_cache.store.format.encodings import ENCODING, Encoding
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import group_footprint
from gate_cache.store.format.samples import NewSample
from gate_cache.store.format.shards import Damaged, compress, unpack
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import StoreWriter, open_writer
from gate_cache.workspace.workspace import Workspace

ENCODINGS = (
    Encoding("float16"), Encoding("float32"), Encoding("bfloat16"), Encoding("int8"),
    Encoding("float16", codec=Codec.parse("zstd")), Encoding("float16", 5, Codec.parse("zstd")),
    Encoding("float32", 9, Codec.parse("zstd")), Encoding("int8", codec=Codec.parse("zstd")),
    Encoding("bfloat16", codec=Codec.parse("zstd")),
    Encoding("float16", codec=Codec.parse("blosc")), Encoding("int8", codec=Codec.parse(
        {"name": "blosc", "cname": "lz4", "clevel": 5, "shuffle": "shuffle"})),
    Encoding("float16", 5, Codec.parse("lz4")), Encoding("float32", codec=Codec.parse("gzip")),
    *([Encoding("float16", codec=Codec.parse("pcodec"))] if util.find_spec("pcodec") else []),
)
EVERY = pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
SHAPES = {"up0": (5, 2, 3), "up1": (2, 4, 4)}
RECIPE = {"kind": "conv", "size": 64, "settings": {"prompt": "a"}}
BLOCK, ROWS = 4, 10
SMALLEST = {"float16": 2.0**-14, "float32": 2.0**-126, "bfloat16": 2.0**-126, "int8": 2.0**-119}
"""From here on values, or of int8 a channel's largest, are stored with full precision."""
Array = np.ndarray[Any, Any]


def maps(rows: range, seed: int = 0) -> dict[str, Array]:
    return {name: np.stack([np.random.default_rng([seed, r, len(s)]).normal(0, 3, s) for r in rows])
            .astype(np.float32) for name, s in SHAPES.items()}


@contextmanager
def writing(path: Path, encoding: Encoding, rows: int = ROWS
            ) -> Iterator[tuple[StoreWriter, GroupWriter]]:
    with open_writer(path, "toy", BLOCK, 2) as store:
        store.append([NewSample(f"a/{i:02}", f"{i:064x}", 10, 20)
                      for i in range(len(store.samples), rows)])
        group = store.require("plain", RECIPE, SHAPES, encoding, {"model": "tiny"})
        group.fit()
        yield store, group


def fill(path: Path, encoding: Encoding) -> FeatureStore:
    with writing(path, encoding) as (_, group):
        for rows in group.todo():
            group.write(rows, maps(rows))
    return FeatureStore.open(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "stores" / "toy.zarr"


def through(encoding: Encoding, values: Array) -> Array:
    """Encoded and decoded."""
    out = np.empty(values.shape, encoding.read_dtype)
    decode(encoding, encode(encoding, values), out)
    return out


def allowed(encoding: Encoding, values: Array) -> Array:
    """The error that each value may have."""
    size = np.abs(values).astype(np.float64)
    if encoding.dtype == "int8":
        size = size.max((2, 3), keepdims=True)
    floor = SMALLEST[encoding.dtype]
    return encoding.bound * np.maximum(size, floor) * (1 + 1e-5)  # float32 rounds, too


LIMIT = {"float16": 6e4, "bfloat16": 3e38, "float32": 3e38, "int8": 3e38}


@pytest.mark.mostly_long("float16", "bfloat16", "int8", "float16 + zstd")
@EVERY
@given(data=st.data())
def test_values_come_back_within_the_stated_error(encoding: Encoding, data: Any) -> None:
    limit = float(np.float32(LIMIT[encoding.dtype]))
    shape = st.tuples(*(st.integers(1, 4),) * 4)
    values = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32)))
    found = through(encoding, values)
    assert found.dtype == encoding.read_dtype
    assert (np.abs(found.astype(np.float64) - values) <= allowed(encoding, values)).all()
    assert np.array_equal(found, through(encoding, found)) or encoding.dtype == "int8"


@EVERY
def test_the_error_is_no_less_than_needed(encoding: Encoding) -> None:
    values = np.random.default_rng(0).normal(0, 1, (4, 8, 32, 32)).astype(np.float32)
    error = np.abs(through(encoding, values).astype(np.float64) - values)
    assert not encoding.bound or (error / allowed(encoding, values)).max() > 0.8


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_kept_bits_are_those_of_bitround(dtype: str) -> None:
    values = np.random.default_rng(0).normal(0, 9, (2, 3, 8, 8)).astype(dtype)
    for keep in (1, 4, 9):
        stored = encode(Encoding(dtype, keep, "zstd"), values)[""]
        np.testing.assert_array_equal(stored, BitRound(keep).encode(values).view(dtype))


def test_bfloat16_is_that_of_torch() -> None:
    values = np.random.default_rng(0).normal(0, 9, (2, 3, 8, 8)).astype(np.float32)
    ours = torch.from_numpy(encode(Encoding("bfloat16"), values)[""]).view(torch.bfloat16)
    assert torch.equal(ours, torch.from_numpy(values).bfloat16())


def test_empty_channels_of_int8_stay_empty() -> None:
    values = np.zeros((2, 3, 4, 4), np.float32)
    values[0, 1] = 5.0
    np.testing.assert_allclose(through(Encoding("int8"), values), values, rtol=1e-6)


@EVERY
def test_a_void_row_stays_void(encoding: Encoding) -> None:
    values = np.ones((2, 3, 4, 4), np.float32)
    values[1] = np.nan
    parts = encode(encoding, values)
    for part in encoding.parts((3, 4, 4)):
        filled = np.full(part.shape, part.fill, part.dtype)
        np.testing.assert_array_equal(parts[part.suffix][1], filled)
    found = through(encoding, values)
    assert np.isnan(found[1]).all() and (found[0] == 1).all()


@pytest.mark.parametrize(("encoding", "value"), [
    (Encoding("float16"), 65520), (Encoding("float16", 4, Codec.parse("zstd")), 65000),
    (Encoding("bfloat16"), 3.4e38), (Encoding("float32", 4, Codec.parse("zstd")), 3.4e38),
])
def test_what_does_not_fit_is_refused(encoding: Encoding, value: float) -> None:
    with pytest.raises(DoesNotFit):
        encode(encoding, np.full((1, 1, 1, 1), value, np.float32))


@EVERY
def test_rows_are_read_by_any_index(path: Path, encoding: Encoding) -> None:
    expected = {n: through(encoding, m) for n, m in maps(range(ROWS)).items()}
    store = fill(path, encoding)
    for name, values in expected.items():
        view = store["plain"][name]
        assert view.dtype == values.dtype == np.dtype(encoding.read_dtype)
        for key in (3, -1, slice(1, 9, 3), [7, 0, 7], (slice(0, 4), slice(None), 1), slice(0, 0)):
            np.testing.assert_array_equal(view[key], values[key])
    lazy = store.dask("plain", "up1")
    np.testing.assert_array_equal(lazy.compute(), expected["up1"])


@EVERY
def test_many_rows_are_decoded_a_few_at_a_time(path: Path, encoding: Encoding,
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fill(path, encoding)["plain"]["up1"][:]
    monkeypatch.setattr("gate_cache.store.format.maps._SCRATCH", 3 * encoding.nbytes(SHAPES["up1"]))
    np.testing.assert_array_equal(FeatureStore.open(path)["plain"]["up1"][:], whole)


@EVERY
def test_stored_parts_are_decoded_on_the_device(path: Path, encoding: Encoding) -> None:
    view = fill(path, encoding)["plain"]["up1"]
    rows = [6, 2, 3]
    parts = {s: torch.empty((3, *p.shape), dtype=part_dtype(p)) for s, p in view.parts.items()}
    view.read_parts_into(rows, {suffix: tensor.numpy() for suffix, tensor in parts.items()})
    found = decode_torch(encoding, parts)
    np.testing.assert_array_equal(found.float().numpy(), view[rows].astype(np.float32))


@EVERY
def test_a_stock_reader_opens_every_array(path: Path, encoding: Encoding) -> None:
    group = zarr.open_group(fill(path, encoding).path, mode="r")
    combo = group[next(n for n in group if n.startswith("plain"))]
    assert combo.attrs["gate_cache"]["encoding"] == encoding.to_json()
    for name, values in maps(range(ROWS)).items():
        for part in encoding.parts(SHAPES[name]):
            array = combo[name + part.suffix]  # type: ignore[index]
            stored = encode(encoding, values)[part.suffix]
            np.testing.assert_array_equal(array[:], stored)
            np.testing.assert_array_equal(array.fill_value, np.asarray(part.fill, part.dtype))
            said = array.attrs.get("gate_cache", {}).get("decode", "")
            assert said == part.decode and bool(said) == (not encoding.direct and (
                part.suffix == ""))


@EVERY
def test_the_done_mark_is_of_what_is_stored(path: Path, encoding: Encoding) -> None:
    with writing(path, encoding) as (_, group):
        rows = range(4, 8)
        group.write(rows, maps(rows))
        kept = group.read_kept(rows)
        stored = [encode(encoding, m)[p.suffix] for n, m in maps(rows).items()
                  for p in encoding.parts(SHAPES[n])]
        assert group.marks.read(1) == done.mark(kept) \
            == done.mark({str(i): a for i, a in enumerate(stored)})


@pytest.mark.mostly_long("float16", "bfloat16", "int8", "float16 + zstd")
@EVERY
def test_images_added_later_leave_the_rows_that_were_there(path: Path, encoding: Encoding) -> None:
    fill(path, encoding)
    with writing(path, encoding, rows=13) as (_, group):
        block = range(8, 12)
        assert group.todo() == [block, range(12, 13)] and group.kept(block) == 2
        before = group.read_kept(block)
        draft = {n: np.empty((4, *p.shape), p.dtype) for n, p in group.parts.items()}
        group.begin(block, draft, [])
        for name, values in maps(range(10, 12), seed=1).items():
            for stored, rows in group.encode(name, values).items():
                draft[stored][2:] = rows
        group.write_stored(block, draft)
        assert group.kept(block) == 4
        for name, array in group.read_kept(block).items():
            np.testing.assert_array_equal(array[:2], before[name])
    view = FeatureStore.open(path)["plain"]["up0"]
    np.testing.assert_array_equal(view[10], through(encoding, maps(range(10, 12), 1)["up0"])[0])
    with pytest.raises(RowNotDone):
        view[12]


@pytest.mark.parametrize("fails", ["up0", "up0.scale", "up1", "up1.scale", "done"])
def test_a_block_that_was_cut_off_is_undone(path: Path, monkeypatch: pytest.MonkeyPatch,
                                            fails: str) -> None:
    """Values without their scales, or the other way round, are never handed out."""
    real = {1: LocalFolder._name, 3: LocalFolder.patch}

    def refuse(self: LocalFolder, key: str, *rest: Any, **late: Any) -> Any:
        if f"/{fails}/" in key:
            raise KeyboardInterrupt
        return real[len(rest)](self, key, *rest, **late)

    first, int8 = range(4), Encoding("int8")
    with writing(path, int8) as (_, group):
        monkeypatch.setattr(LocalFolder, "_name", refuse)
        monkeypatch.setattr(LocalFolder, "patch", refuse)
        with pytest.raises(KeyboardInterrupt):
            group.write(first, maps(first))
        monkeypatch.undo()
    with writing(path, int8) as (_, group):
        assert group.todo()[0] == first and not group.kept(first)
        with pytest.raises(RowNotDone):
            FeatureStore.open(path)["plain"]["up0"][0]
        group.write(first, maps(first))
    np.testing.assert_array_equal(FeatureStore.open(path)["plain"]["up0"][:4],
                                  through(int8, maps(first)["up0"]))


@EVERY
def test_rows_whose_image_was_gone_raise(path: Path, encoding: Encoding) -> None:
    values = maps(range(4))
    for m in values.values():
        m[2] = np.nan
    with writing(path, encoding) as (_, group):
        group.write(range(4), values, absent=[2])
    view = FeatureStore.open(path)["plain"]["up1"]
    assert np.isfinite(view[[0, 1, 3]]).all()
    with pytest.raises(RowNotDone, match="gone or changed"):
        view[2]
    with pytest.raises(RowNotDone, match="gone or changed"):
        view.read_parts_into([2], {})


@pytest.mark.mostly_long("float16", "bfloat16", "int8", "float16 + zstd")
@EVERY
def test_a_flipped_byte_is_an_error(path: Path, encoding: Encoding) -> None:
    fill(path, encoding)
    for part in encoding.parts(SHAPES["up1"]):
        shard = next(path.glob(f"plain-*/up1{part.suffix}/c.0{'.0' * len(part.shape)}"))
        whole = shard.read_bytes()
        shard.write_bytes(whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
        with pytest.raises(StoreError, match="missing or damaged"):
            FeatureStore.open(path)["plain"]["up1"][0]
        with writing(path, encoding) as (_, group), \
                pytest.raises(StoreError, match="missing or damaged"):
            group.read_kept(range(4))
        shard.write_bytes(whole)
    assert FeatureStore.open(path)["plain"]["up1"][0].any()


@EVERY
def test_bytes_are_as_planned(path: Path, encoding: Encoding) -> None:
    store = fill(path, encoding)
    files = [p for p in (path / store["plain"].name).rglob("*") if p.is_file()]
    said = group_footprint(SHAPES, encoding, ROWS, BLOCK)
    shards = sum(p.stat().st_size for p in files if p.name != "zarr.json")
    metas = [p for p in files if p.name == "zarr.json"]
    planned = said.bytes - 2000 - 1000 * (len(metas) - 1)
    assert said.files == len(files)
    assert said.at_most == bool(encoding.codec)
    assert shards <= planned if said.at_most else shards == planned


def test_a_scale_takes_little(path: Path) -> None:
    shape = (320, 64, 64)
    assert Encoding("int8").nbytes(shape) / Encoding().nbytes(shape) < 0.501
    assert Encoding("bfloat16").nbytes(shape) == Encoding().nbytes(shape)


# -------------------------------------------------------------------- what is said and not known

@EVERY
def test_an_encoding_is_read_as_it_was_written(encoding: Encoding) -> None:
    assert Encoding.parse(json.loads(json.dumps(encoding.to_json()))) == encoding


@pytest.mark.parametrize("said", [
    {"name": "int4"}, {"name": "int8", "configuration": {"block": 3}}, "int8", None,
    {"name": "float16", "configuration": {"codec": "lz9"}}, {"name": None}, {"name": []},
    {"name": "float16", "configuration": 3}, {"configuration": {}}, ["float16"],
    {"name": "float16", "configuration": {"keep_bits": 10}},
    {"name": "int8", "configuration": {"keep_bits": 3}},
])
def test_an_unknown_encoding_is_named(path: Path, said: Any) -> None:
    fill(path, Encoding())
    with writing(path, Encoding()) as (_, group):
        put_attrs(group.folder, group.name, {**group.attrs, ENCODING: said})
    store = FeatureStore.open(path)
    for look in (lambda: store["plain"]["up0"], lambda: inspect(path)):
        with pytest.raises(StoreError, match=r"stored in a way that .* upgrade gate-cache"):
            look()
    refused = pytest.raises(StoreError, match="upgrade gate-cache")
    with refused, writing(path, Encoding()):
        pass


def test_a_group_that_says_nothing_is_stored_as_its_arrays_say(path: Path) -> None:
    """As all were before groups stated it."""
    fill(path, Encoding("float32"))
    with writing(path, Encoding()) as (_, group):
        rest = {k: v for k, v in group.attrs.items() if k != ENCODING}
        put_attrs(group.folder, group.name, rest)
    assert FeatureStore.open(path)["plain"].encoding == Encoding("float32")
    with writing(path, Encoding()) as (_, group):
        assert group.encoding == Encoding("float32")
        assert group.todo() == []


def test_an_array_of_another_dtype_than_stated_is_an_error(path: Path) -> None:
    fill(path, Encoding())
    with writing(path, Encoding()) as (_, group):
        put_attrs(group.folder, group.name,
                  {**group.attrs, ENCODING: Encoding("bfloat16").to_json()})
    with pytest.raises(StoreError, match=r"up0: its zarr\.json is missing or damaged"):
        FeatureStore.open(path)["plain"]["up0"]


@pytest.mark.parametrize(("store", "said"), [
    ({"dtype": "int4"}, r"store\.dtype: expected .*'int8'"),
    ({"keep_bits": 5}, r"store\.keep_bits: saves no bytes by itself: set 'codec: zstd'"),
    ({"keep_bits": 10, "codec": "zstd"}, r"store\.keep_bits: float16 has 10 bits"),
    ({"keep_bits": 0, "codec": "zstd"}, r"store\.keep_bits: must be at least 1"),
    ({"dtype": "int8", "keep_bits": 4, "codec": "zstd"}, "is for float16 and float32, not for"),
    ({"codec": "bz2"}, r"store\.codec: unknown codec"),
])
def test_manifests_are_checked(manifest: WriteManifest, store: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        manifest(store=store)


# ----------------------------------------------------------------------------- the whole path

def section(encoding: Encoding) -> dict[str, Any]:
    """A manifest's ``store``."""
    return {"block": 3, "batch": 2, "path": "toy.zarr", "dtype": encoding.dtype,
            "keep_bits": encoding.keep_bits, "codec": encoding.codec and encoding.codec.to_json()}


@pytest.mark.mostly_long("int8")
@pytest.mark.parametrize("encoding", [e for e in ENCODINGS if e.dtype != "float32"][1:5], ids=str)
def test_extract_stores_as_the_manifest_says_and_tells_it(
        roots: Roots, manifest: WriteManifest, encoding: Encoding,
        capsys: pytest.CaptureFixture[str]) -> None:
    own = {"conv": {"plain": PROMPT}, "attention": {}}
    few = {"name": "toyworld", "train": 4, "val": 0, "test": 0}
    loaded = manifest(**own, dataset=few, store=section(encoding))
    planned = plan(Workspace(loaded, roots))
    show_plan(planned)
    out = capsys.readouterr().out
    assert f"maps as {encoding}" in out and ("≤" in out) == bool(encoding.codec)
    path = extract(Workspace(loaded, roots, "cpu")).store
    exact = extract(Workspace(manifest("exact.yaml", **own, dataset=few, store={
        **section(Encoding("float32")), "path": "exact.zarr"}), roots, "cpu")).store
    view, truth = (FeatureStore.open(p)["plain"] for p in (path, exact))
    assert view.fingerprint == truth.fingerprint
    for name in view:
        error = np.abs(view[name][:].astype(np.float64) - truth[name][:])
        assert (error <= allowed(encoding, truth[name][:])).all()
    show_store(inspect(path))
    out = capsys.readouterr().out
    assert f"4×64×16×16  {encoding}" in out and f"rounded by {encoding.error}" in out
    before = {n: view[n][:] for n in view}
    later = manifest(**own, store={"block": 3, "batch": 2, "path": "toy.zarr"},
                     dataset={**few, "train": 5})
    assert extract(Workspace(later, roots, "cpu", Lines())).rows["plain"] == 1
    assert f"plain in {encoding}" in capsys.readouterr().err
    again = FeatureStore.open(path)["plain"]
    for name, values in before.items():
        np.testing.assert_array_equal(again[name][:4], values)
        assert np.isfinite(again[name][4]).all()


@pytest.mark.mostly_long("int8")
@EVERY
def test_training_runs(tmp_path: Path, encoding: Encoding) -> None:
    build(tmp_path / "stores", train_manifest(tmp_path), encoding=encoding)
    assert FeatureStore.open(tmp_path / "stores" / "toy.zarr")["good"].encoding == encoding
    table = run(tmp_path, tmp_path / "r", steps=4, validate_steps=2).tables[0]
    config = json.loads((tmp_path / "r" / "run" / "config.json").read_text())
    assert set(config["encodings"].values()) == {str(encoding)}
    best = next(r for r in table.rows if r.method == Method("best-single", "nn", ("good",)))
    assert best.scores.values["pck@0.10/radius=box/average=point"] > 50


# ------------------------------------------------------------------------------------- codecs

CODECS = [name for name in OPTIONS if name != "pcodec" or util.find_spec("pcodec")]


@pytest.mark.parametrize("name", CODECS)
def test_no_more_is_decompressed_than_a_row(name: str) -> None:
    """A chunk of 8 MB of zeros is a few bytes; so may one be that says it is 8 TB."""
    codec, row = Codec.parse(name), np.zeros(64, np.float16)
    bomb = compress(codec, np.zeros(4 * 2**20, np.float16))
    fitting = compress(codec, np.arange(64, dtype=np.float16))
    unpack(memoryview(fitting), memoryview(row).cast("B"), codec, row.dtype)
    np.testing.assert_array_equal(row, np.arange(64))
    shorter, longer = (compress(codec, np.ones(n, np.float16)) for n in (63, 65))
    for chunk in (b"", fitting[:-5], fitting[:3], bytes(40), b"\xff" * 40, bomb, shorter, longer):
        tracemalloc.start()
        with pytest.raises(Damaged, match="a row cannot be decompressed"):
            unpack(memoryview(chunk), memoryview(row).cast("B"), codec, row.dtype)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20


@pytest.mark.parametrize(("asked", "says"), [
    ("bz2", "unknown codec 'bz2'; known: zstd, gzip, blosc, lz4, pcodec"),
    ({"name": "blosc", "cname": "snappy"}, "blosc: cname: 'snappy'; known: zstd, lz4, lz4hc"),
    ({"name": "blosc", "clevel": 10}, "blosc: clevel: 10; known: 0 to 9"),
    ({"name": "zstd", "levle": 3}, "zstd: levle: 3; known: level"),
    ({"name": "zstd", "level": True}, "zstd: level: True; known: -7 to 22"),
    ({"level": 3}, "unknown codec None; known:"),
])
def test_unknown_codecs_and_options_are_named(manifest: WriteManifest, asked: Any,
                                              says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Codec.parse(asked)
    with pytest.raises(ManifestError, match=f"store.codec: {says}"):
        manifest(store={"codec": asked})


def test_a_codec_that_is_not_installed_is_named_before_anything_is_paid(
        manifest: WriteManifest, roots: Roots, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(config: dict[str, Any]) -> Any:
        raise ValueError(f"codec not available: {config['id']!r}")

    work = Workspace(manifest(store={"codec": {"name": "pcodec", "level": 3}}), roots, "cpu")
    monkeypatch.setattr(shards, "get_codec", unknown)
    for stage in (validate, extract):
        shards.numcodec.cache_clear()
        with pytest.raises(UserError, match=r"codec pcodec: .*'numcodecs\[pcodec\]'"):
            stage(work)
    assert not roots.stores.exists()


def test_a_codec_is_what_zarr_makes_of_it(path: Path) -> None:
    """Options reach Zarr's metadata, and the bytes of a chunk are numcodecs' own."""
    asked = {"name": "blosc", "cname": "lz4", "clevel": 3, "shuffle": "bitshuffle"}
    store = fill(path, Encoding("float16", codec=Codec.parse(asked)))
    array: Any = zarr.open_group(path, mode="r")[f"{store['plain'].name}/up1"]
    _, codec, checksum = array.metadata.codecs[0].codecs
    own = codec.to_dict()["configuration"]
    assert {k: own[k] for k in ("cname", "clevel", "shuffle", "typesize")} == {
        "cname": "lz4", "clevel": 3, "shuffle": "bitshuffle", "typesize": 2}
    assert checksum.to_dict() == {"name": "crc32c"}
    with writing(path, Encoding("float16"), ROWS + 1) as (_, group):
        assert group.encoding.codec == Codec.parse(asked)  # and what is added is stored so, too
        assert group.metas["up1"].packing == group.encoding.codec

"""``verify``: nothing that is not as it was written goes unseen, and repair loses nothing else."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import zarr
from conftest import PROMPT, WriteManifest
from test_cli import Run, gate

from gate_cache import FeatureStore
from gate_cache.core.errors import GateCacheError, RowNotDone, StoreError
from gate_cache.core.roots import Roots
from gate_cache.core.versions import versions
from gate_cache.extraction.extract import extract
from gate_cache.extraction.recompute import Compared, Recomputed, recompute
from gate_cache.manifest.load import Loaded
from gate_cache.store.check.inspect import inspect
from gate_cache.store.check.verify import Verified, verify
from gate_cache.store.format import columns as columns_module
from gate_cache.store.format.documents import array_document, write_array
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.groups import GroupWriter
from gate_cache.store.format.layout import blocks_of
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import StoreWriter, join_writer, open_writer
from gate_cache.workspace.workspace import Workspace

__all__ = ["gate"]
Toy = tuple[Loaded, Roots, Path]
SHAPES = {"up0": (2, 2, 2), "up1": (1, 3, 3)}
RECIPES = {name: {"kind": "conv", "settings": {"prompt": f"ein {name} é", "scale": 0.1 + 0.2}}
           for name in ("plain", "other")}
BLOCK, ROWS = 3, 7
VOID = 4
"""A row whose image is gone, in the group ``other``."""


def maps(rows: range, void: int = -1) -> dict[str, np.ndarray]:
    return {name: np.stack([np.full(s, np.nan if r == void else r + 0.5) for r in rows])
            for name, s in SHAPES.items()}


@contextmanager
def writing(path: Path, rows: int = ROWS) -> Iterator[dict[str, GroupWriter]]:
    with open_writer(path, "toy", BLOCK, 2) as store:
        add_samples(store, rows)
        groups = {n: store.require(n, r, SHAPES, "float16", {}) for n, r in RECIPES.items()}
        for group in groups.values():
            group.fit()
        yield groups


def add_samples(store: StoreWriter, rows: int) -> None:
    store.append([NewSample(f"horse/{i:02}", f"{i + 1:064x}", 10 + i, 20)
                  for i in range(len(store.samples), rows)])


def fill(path: Path) -> list[tuple[str, range]]:
    """Write all that is not done; what that was."""
    written = []
    with writing(path) as groups:
        for name, group in groups.items():
            void = VOID if name == "other" else -1
            for rows in group.todo([void]):
                group.write(rows, maps(rows, void), [void] if void in rows else [])
                written.append((name, rows))
    return written


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(columns_module, "SAMPLE_CHUNK", 8)
    fill(tmp_path / "toy.zarr")
    return tmp_path / "toy.zarr"


def files(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*"))
            if p.is_file()}


def seen(path: Path) -> bool:
    """Whether verify is anything but silent."""
    try:
        found = verify(path, threads=1)
    except StoreError:
        return True
    return bool(found.problems or found.notes)


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def group_of(path: Path, name: str) -> str:
    return next(path.glob(f"{name}-*")).name


def test_a_whole_store_is_sound(path: Path) -> None:
    found = verify(path)
    assert found.sound and found.notes == []
    assert (found.groups, found.blocks) == (2, 6)


def test_flipped_bits_are_found_wherever_they_are(path: Path) -> None:
    """A few in every file, and of the metadata more; no bit is harmless."""
    rng = random.Random(0)
    for name, data in files(path).items():
        count = 8 if name.endswith("zarr.json") else 3
        for bit in rng.sample(range(len(data) * 8), count):
            (path / name).write_bytes(flip(data, bit))
            assert seen(path), f"{name}: bit {bit}"
        (path / name).write_bytes(data)
    assert verify(path).sound


@pytest.mark.slow
def test_every_flipped_bit_is_found(path: Path) -> None:
    shutil.rmtree(path / group_of(path, "other"))
    for name, data in files(path).items():
        for bit in range(len(data) * 8):
            (path / name).write_bytes(flip(data, bit))
            assert seen(path), f"{name}: bit {bit}"
        (path / name).write_bytes(data)


@pytest.mark.long
def test_files_that_are_cut_off_or_gone_are_found(path: Path) -> None:
    for name, data in files(path).items():
        for changed in (b"", data[:-1], data + b"\0"):
            (path / name).write_bytes(changed)
            assert seen(path), f"{name}: {len(changed)} of {len(data)} bytes"
        (path / name).unlink()
        assert seen(path), f"{name} is gone"
        (path / name).write_bytes(data)
    assert verify(path).sound


def test_damaged_metadata_is_refused_where_it_is_used_and_nowhere_else(path: Path) -> None:
    group = group_of(path, "plain")
    for name, data in files(path).items():
        if name != f"{group}/zarr.json":
            continue
        for bit in random.Random(1).sample(range(len(data) * 8), 150):
            (path / name).write_bytes(flip(data, bit))
            store = FeatureStore.open(path)
            assert store["other"]["up0"][0].max() == 0.5
            try:
                assert store["plain"].recipe == RECIPES["plain"]
            except StoreError as error:
                assert f"{group}/zarr.json is damaged" in str(error)


def test_no_flipped_bit_makes_a_reader_hand_out_something_else(path: Path) -> None:
    rng = random.Random(2)
    wanted = {n: m.astype(np.float16) for n, m in maps(range(ROWS)).items()}
    for name, data in files(path).items():
        for bit in rng.sample(range(len(data) * 8), 4):
            (path / name).write_bytes(flip(data, bit))
            try:
                store = FeatureStore.open(path)
                for row in map(store.samples.row, (f"horse/{i:02}" for i in range(ROWS))):
                    for key, value in wanted.items():
                        np.testing.assert_array_equal(store["plain"][key][row], value[row])
            except GateCacheError:
                pass
        (path / name).write_bytes(data)


def mended(path: Path) -> Verified:
    found = verify(path, repair=True)
    assert found.problems and all(p.mended for p in found.problems), found.problems
    return found


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_repair_undoes_the_damaged_block_alone(path: Path, how: str) -> None:
    before, group = files(path), group_of(path, "plain")
    shard = path / group / "up1/c.1.0.0.0"
    data = shard.read_bytes()
    shard.write_bytes(flip(data, 99) if how == "flip" else data[:50])
    if how == "gone":
        shard.unlink()
    (problem,) = verify(path).problems
    assert problem.place == f"{group}: rows 3–5"
    assert problem.then == "--repair can fix it"
    mended(path)
    with pytest.raises(RowNotDone):
        FeatureStore.open(path)["plain"]["up0"][4]
    assert FeatureStore.open(path)["plain"]["up0"][6].max() == 6.5
    assert fill(path) == [("plain", range(3, 6))]
    assert files(path) == before


def test_repair_of_damaged_marks(path: Path) -> None:
    before, group = files(path), group_of(path, "other")
    whole = before[f"{group}/done/c/0"]
    for change in (flip(whole, 64 + 33), flip(whole, 64 + 60)):
        (path / group / "done/c/0").write_bytes(change)
        mended(path)
        assert fill(path) == [("other", range(3, 6))]
        assert files(path) == before
    for change in (b"\1", whole[:-1], bytes(4)):
        (path / group / "done/c/0").write_bytes(change)
        with pytest.raises(StoreError, match="done/c/0: the mark of a finished block is damaged"):
            FeatureStore.open(path)["other"]["up0"][0]
        mended(path)
        assert fill(path) == [("other", rows) for rows in blocks_of(ROWS, BLOCK)]
        assert files(path) == before


@pytest.mark.parametrize("array", ["up0", "up1"])
def test_metadata_of_a_map_is_made_anew_and_nothing_computed(path: Path, array: str) -> None:
    before, group = files(path), group_of(path, "plain")
    meta = path / group / array / "zarr.json"
    meta.write_bytes(meta.read_bytes().replace(b'"float16"', b'"float32"'))
    with pytest.raises(StoreError, match="damaged; run 'gate-cache verify --repair'"):
        FeatureStore.open(path)["plain"][array]
    with pytest.raises(StoreError, match="damaged; run 'gate-cache verify --repair'"):
        fill(path)
    mended(path)
    assert fill(path) == []
    assert files(path) == before


@pytest.mark.parametrize("name", ["plain", "other"])
def test_metadata_of_a_group_is_made_anew(path: Path, name: str) -> None:
    """Which rows are void was noted there: their block is written again."""
    before, group = files(path), group_of(path, name)
    (path / group / "zarr.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=f"{group}/zarr.json is damaged"):
        FeatureStore.open(path)[name]
    with pytest.raises(StoreError, match=f"{group}/zarr.json is damaged"):
        fill(path)
    mended(path)
    assert fill(path) == ([("other", range(3, 6))] if name == "other" else [])
    assert files(path) == before
    assert verify(path).sound


def test_metadata_made_anew_over_other_data_vouches_for_nothing(path: Path) -> None:
    group = group_of(path, "plain")
    (path / group / "up0" / "zarr.json").unlink()
    shutil.copy(path / group / "up0/c.0.0.0.0", path / group / "up0/c.1.0.0.0")
    assert fill(path) == [("plain", range(3, 6))]
    assert verify(path).sound


@pytest.mark.parametrize("name", ["samples/height/zarr.json", "{group}/done/zarr.json"])
def test_metadata_that_is_known_is_written_anew(path: Path, name: str) -> None:
    before = files(path)
    name = name.format(group=group_of(path, "plain"))
    (path / name).write_bytes(flip(before[name], 100))
    mended(path)
    assert files(path) == before
    (path / name).unlink()
    mended(path)
    assert files(path) == before


def test_damaged_metadata_of_a_column_is_not_sealed_anew(path: Path) -> None:
    meta = path / "samples/height/zarr.json"
    meta.write_bytes(meta.read_bytes().replace(b'"int32"', b'"int16"'))
    with open_writer(path, "toy", BLOCK, 2) as store, pytest.raises(
            StoreError, match=r"samples/height/zarr\.json is damaged; run 'gate-cache verify"):
        add_samples(store, ROWS + 1)
    mended(path)
    with writing(path, ROWS + 1):
        pass
    assert len(FeatureStore.open(path).samples) == ROWS + 1


@pytest.mark.parametrize("name", ["samples/zarr.json", "samples/id/c/0", "samples/height/c/0"])
def test_a_damaged_table_cannot_be_mended(path: Path, name: str) -> None:
    data = (path / name).read_bytes()
    (path / name).write_bytes(flip(data, 73))
    problems = verify(path, repair=True).problems
    assert [(p.place, p.mended) for p in problems] == [("samples", False)]
    assert "restore the store from a copy" in problems[0].then
    with pytest.raises(StoreError, match=r"table of samples .* is damaged"):
        fill(path)


def test_a_damaged_root_is_one_line(path: Path) -> None:
    meta = path / "zarr.json"
    meta.write_bytes(meta.read_bytes().replace(b'"block": 3', b'"block": 7'))
    for use in (FeatureStore.open, verify, fill):
        with pytest.raises(StoreError, match=r"toy\.zarr/zarr\.json is damaged; restore it"):
            use(path)


def test_what_is_not_ours_is_noted(path: Path) -> None:
    group = group_of(path, "plain")
    (path / "notes").mkdir()
    (path / "notes" / "mine.txt").write_text("mine")
    (path / group / "extra").mkdir()
    (path / group / "up0/c.0.0.0.0.77.partial").write_bytes(b"half")
    zarr.open_group(path / group).attrs["theirs"] = 1
    zarr.open_group(path)[f"{group}/up0"].attrs["theirs"] = 1
    found = verify(path)
    assert found.sound
    text = "\n".join(found.notes)
    for words in ("notes: no part of the store", f"{group}/extra: no part of the store",
                  "0.77.partial", "not ours are not checked: theirs"):
        assert words in text
    assert fill(path) == []


def test_what_is_not_done_yet_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "toy.zarr"
    with writing(path) as groups:
        groups["plain"].write(range(3), maps(range(3)))
        shutil.rmtree(path / groups["other"].name / "done")
    found = verify(path)
    assert found.sound
    assert found.notes == [
        f"{groups['other'].name}: is half made: an extract was cut off",
        f"{groups['plain'].name}: rows not extracted: 4 of 7"]


def test_repair_waits_for_no_writer(path: Path) -> None:
    with writing(path), pytest.raises(StoreError, match="is writing to this store"):
        verify(path, repair=True)
    with writing(path):
        assert verify(path).sound


def test_a_table_whose_growth_was_cut_off_is_noted(path: Path) -> None:
    """Rows beyond the count are written, and do not count yet."""
    before = (path / "samples/zarr.json").read_bytes()
    with open_writer(path, "toy", BLOCK, 2) as store:
        add_samples(store, ROWS + 2)
    (path / "samples/zarr.json").write_bytes(before)
    found = verify(path)
    assert found.sound
    notes = [note for note in found.notes if "list of groups" not in note]
    assert all("rows that do not count" in note for note in notes) and notes


def test_a_compressed_map_is_checked_too(path: Path) -> None:
    """As another writer, or a later gate-cache, may have laid it out."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    group = group_of(path, "plain")
    old = zarr.open_group(path)[f"{group}/up0"][:]
    shutil.rmtree(path / group / "up0")
    write_array(FeatureStore.open(path).folder, f"{group}/up0", array_document(
        shape=(ROWS, 2, 2, 2), chunks=(1, 2, 2, 2), shards=(BLOCK, 2, 2, 2), dtype="float16",
        compressors=[ZstdCodec(), Crc32cCodec()], fill_value=float("nan")))
    zarr.open_group(path, use_consolidated=False)[f"{group}/up0"][:] = old
    assert verify(path).sound
    shard = path / group / "up0/c/1/0/0/0"
    shard.write_bytes(flip(shard.read_bytes(), 77))
    (problem,) = verify(path).problems
    assert problem.place == f"{group}: rows 3–5"


def test_the_report_is_plain_data(path: Path) -> None:
    import dataclasses

    assert json.loads(json.dumps(dataclasses.asdict(verify(path))))["blocks"] == 6


# ------------------------------------------------------------------------------ canary


def test_rows_computed_again_are_equal(toy: Toy) -> None:
    loaded, roots, _ = toy
    found = recompute(Workspace(loaded, roots, "cpu"), 3, seed=1)
    assert found.equal and len(found.rows) == 3
    assert {c.name: c.rows for c in found.combos} == {
        "latents": 3, **dict.fromkeys(loaded.manifest.combos, 3)}
    assert found.changed == [] and found.notes == []
    assert found.tolerance == 0 and found.agrees


@pytest.mark.long
def test_what_differs_is_measured_and_explained(toy: Toy, tmp_path: Path,
                                                manifest: WriteManifest) -> None:
    from gate_cache.store.format.documents import put_attrs

    _, old, path = toy
    loaded = manifest(conv={"plain": PROMPT}, attention={})
    shutil.copytree(old.stores, tmp_path / "stores")
    roots = Roots(old.data, old.models, tmp_path / "stores", old.runs)
    group = join_writer(tmp_path / "stores/toy.zarr").find(FeatureStore.open(path)["plain"].recipe)
    assert group
    kept = group.read_kept(range(3))
    made = Provenance("cuda (Old)", 2, True, {**versions(), "torch": "1.0"})
    group.write_stored(range(3), {n: m * np.float16(1.01) for n, m in kept.items()}, made=made)
    found = recompute(Workspace(loaded, roots, "cpu"), 7)
    plain = next(c for c in found.combos if c.name == "plain")
    assert (plain.rows, plain.equal) == (7, 4)
    assert len({tuple(recompute(Workspace(loaded, roots, "cpu"), 3, seed=seed).rows)
                for seed in range(3)}) > 1
    assert 0.005 < plain.relative < 0.02
    assert not found.equal and found.tolerance == 1e-3 and not found.agrees
    assert recompute(Workspace(loaded, roots, "cpu"), 7, tolerance=0.02).agrees
    text = "\n".join(found.changed)
    assert "torch 1.0 then" in text and "device cpu and cuda (Old) then, cpu now" in text
    assert verify(group.path).sound
    (shown,) = (g for g in inspect(group.path).groups if g.combo == "plain")
    assert sorted((m["device"], m["blocks"], m["batch"], m["tf32"]) for m in shown.made) == [
        ("cpu", 2, 2, False), ("cuda (Old)", 1, 2, True)]
    put_attrs(group.folder, group.name, {  # as an older gate-cache has noted it
        **{k: v for k, v in group.attrs.items() if k != "made"}, "devices": ["cuda (Older)"]})
    text = "\n".join(recompute(Workspace(loaded, roots, "cpu"), 7).changed)
    assert "device cuda (Older) then, cpu now" in text and "torch" not in text


def test_nothing_to_recompute_is_one_line(toy: Toy, manifest: WriteManifest, roots: Roots) -> None:
    with pytest.raises(StoreError, match="no such store"):
        recompute(Workspace(toy[0], roots, "cpu"))
    edited = manifest(conv={"plain": {"prompt": "a boat"}}, attention={})
    with pytest.raises(StoreError, match="no combo of this manifest is in it"):
        recompute(Workspace(edited, toy[1], "cpu"))


# ------------------------------------------------------------------- with extract, commands


def test_extract_fills_what_repair_undid(toy: Toy, roots: Roots) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    path = roots.stores / "toy.zarr"
    before = files(path)
    for name in ("latents-*/x0/c.1.0.0.0", "attn-*/attn2/c.0.0.0.0"):
        shard = next(path.glob(name))
        shard.write_bytes(flip(shard.read_bytes(), 500))
    assert len(verify(path, repair=True).problems) == 2
    result = extract(Workspace(toy[0], roots, "cpu"))
    assert {k: v for k, v in result.rows.items() if v} == {"latents": 3, "attn": 3}
    assert files(path) == before


def test_metadata_of_all_kinds_comes_back_by_extract(toy: Toy, roots: Roots) -> None:
    shutil.copytree(toy[1].stores, roots.stores)
    path = roots.stores / "toy.zarr"
    before = files(path)
    for name in ("latents-*/zarr.json", "plain-*/zarr.json", "attn-*/attn2/zarr.json",
                 "lora-*/done/zarr.json"):
        meta = next(path.glob(name))
        meta.write_bytes(flip(meta.read_bytes(), 300))
    mended(path)
    assert not any(extract(Workspace(toy[0], roots, "cpu")).rows.values())
    after = files(path)
    assert {n for n in before if before[n] != after[n]} <= {
        n for n in before if n.count("/") <= 1 and n.endswith("zarr.json")} | {
        f"{group_of(path, name)}/done/c/0" for name in ("latents", "plain")}
    assert verify(path).sound
    store = FeatureStore.open(path)
    made = {v.label: v.made() for v in (*store.latents(), *store.views())}
    assert made["plain"] == made["latents"] == [(None, 3)]  # it was in the attributes
    assert all(m for name in ("attn", "lora") for m, _ in made[name])


def test_the_command(gate: Run, toy: Toy, roots: Roots) -> None:
    found = gate("verify", toy[2])
    assert found.code == 0 and "everything is as it was written" in found.out
    shutil.copytree(toy[1].stores, roots.stores)
    next(roots.stores.glob("toy.zarr/plain-*/up1/c.1.0.0.0")).unlink()
    found = gate("verify", toy[0].path, "--stores", roots.stores)
    assert found.code == 1 and "rows 3–5: " in found.out and "is missing" in found.out
    data = json.loads(gate("verify", toy[0].path, "--stores", roots.stores, "--json").out)
    assert not data["sound"] and data["problems"][0]["then"] == "--repair can fix it"
    found = gate("verify", toy[0].path, "--stores", roots.stores, "--repair")
    assert found.code == 0 and "are marked undone" in found.out and "1 repaired" in found.out
    assert gate("status", toy[0].path, "--stores", roots.stores).out.count("7/7") == 4


def test_the_command_on_what_is_no_store(gate: Run, tmp_path: Path) -> None:
    found = gate("verify", tmp_path / "none.zarr")
    assert found.code == 2 and "no such store" in found.err


@pytest.mark.long
def test_the_command_that_computes_again(gate: Run, toy: Toy) -> None:
    words = "verify", toy[0].path, "--stores", toy[1].stores, "--recompute", 2, "--device", "cpu"
    found = gate(*words)
    assert found.code == 0 and "attn" in found.out
    assert json.loads(gate(*words, "--json").out)["equal"]
    found = gate("verify", toy[2], "--recompute", 2)
    assert found.code == 2 and "gate-cache verify MANIFEST --recompute 8" in found.err


def test_what_is_not_a_number_does_not_agree() -> None:
    compared = Compared("plain")
    compared.add({"up1": np.ones((1, 2, 2), np.float16)}, {"up1": np.full((1, 2, 2), np.nan)})
    assert compared.equal == 0 and compared.largest == compared.relative == np.inf
    assert not Recomputed("s.zarr", [0], "cpu", [compared], [], tolerance=0.2).agrees


def test_what_does_not_agree_has_an_exit_code(gate: Run, toy: Toy, tmp_path: Path,
                                              manifest: WriteManifest) -> None:
    _, old, path = toy
    loaded = manifest(conv={"plain": PROMPT}, attention={})
    shutil.copytree(old.stores, tmp_path / "stores")
    group = join_writer(tmp_path / "stores/toy.zarr").find(FeatureStore.open(path)["plain"].recipe)
    assert group
    kept = group.read_kept(range(3))
    group.write(range(3), {n: m * np.float16(1.01) for n, m in kept.items()})
    command = ("verify", loaded.path, "--stores", tmp_path / "stores", "--recompute", 7,
               "--device", "cpu")
    found = gate(*command)
    assert found.code == 1 and "allowed: no difference: it does not agree" in found.out
    found = gate(*command, "--tolerance", 0.02)
    assert found.code == 0 and "it agrees" in found.out

"""``prune`` removes what no manifest names and nothing else; ``diff`` says what differs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONTROL, PROMPT, TOY, WriteManifest
from test_cli import Run, gate

from gate_cache import FeatureStore
from gate_cache.core.errors import StoreError, UserError
from gate_cache.core.roots import Roots
from gate_cache.extraction.diff import Diff, diff
from gate_cache.extraction.extract import extract
from gate_cache.extraction.prune import Pruned, prune
from gate_cache.manifest.load import Loaded
from gate_cache.store.check.verify import verify
from gate_cache.store.places.local import LocalFolder
from gate_cache.store.writer import join_writer, open_writer
from gate_cache.workspace.workspace import Workspace

__all__ = ["gate"]
Toy = tuple[Loaded, Roots, Path]
FEWER = {"conv": {"plain": PROMPT}, "attention": {}}


@pytest.fixture
def copy(toy: Toy, roots: Roots) -> Path:
    """The extracted store, to be written to."""
    shutil.copytree(toy[1].stores, roots.stores)
    return roots.stores / "toy.zarr"


def pruned(loaded: Loaded | Path, roots: Roots, yes: bool = False) -> Pruned:
    (found,) = prune([loaded.path if isinstance(loaded, Loaded) else loaded], roots, yes=yes)
    return found


def labels(found: Pruned) -> set[str]:
    return {group.name.rpartition("-")[0] for group in found.groups}


def test_what_no_manifest_names_is_shown_then_removed(
        copy: Path, roots: Roots, manifest: WriteManifest) -> None:
    fewer = manifest(**FEWER)
    found = pruned(fewer, roots)
    assert labels(found) == {"seed-1", "lora", "control", "attn"} and not found.removed
    assert len(FeatureStore.open(copy).combos) == 5
    assert 0 < found.bytes < sum(p.stat().st_size for p in copy.rglob("*"))
    plain = FeatureStore.open(copy)["plain"]["up1"][:]
    assert pruned(fewer, roots, yes=True).groups == found.groups
    assert FeatureStore.open(copy).combos == ("plain",)
    assert len(FeatureStore.open(copy).latents()) == 1
    np.testing.assert_array_equal(FeatureStore.open(copy)["plain"]["up1"][:], plain)
    assert not any(extract(Workspace(fewer, roots, "cpu")).rows.values())
    assert verify(copy).notes == []


def test_several_manifests_share_a_store(copy: Path, roots: Roots,
                                         manifest: WriteManifest) -> None:
    store = {**TOY["store"], "path": "toy.zarr"}
    names = [manifest("one.yaml", conv={"plain": PROMPT}, attention={}, store=store).path,
             manifest("two.yaml", conv={"control": CONTROL}, attention={}, store=store).path]
    (found,) = prune(names, roots)
    assert labels(found) == {"seed-1", "lora", "attn"}


def test_stale_groups_and_their_latents_go(copy: Path, roots: Roots,
                                           manifest: WriteManifest) -> None:
    edited = manifest(conv={"plain": {"prompt": "a boat"}}, attention={},
                      model={"source": "tiny", "size": 32})
    extract(Workspace(edited, roots, "cpu"))
    assert labels(pruned(edited, roots)) == {"plain", "seed-1", "lora", "control", "attn",
                                             "latents"}


def test_without_weights_all_that_may_be_meant_is_kept(
        copy: Path, roots: Roots, manifest: WriteManifest) -> None:
    absent = {"prompt": "a photo", "lora": {"source": "gone.safetensors"}}
    found = pruned(manifest(conv={"lora": absent, "plain": PROMPT}, attention={}), roots)
    assert labels(found) == {"seed-1", "control", "attn"}
    assert any("weights are not all on this machine" in note for note in found.notes)


def test_a_store_alone_loses_nothing_that_is_whole(copy: Path, roots: Roots) -> None:
    assert pruned(copy, roots).groups == []


def test_a_removal_that_is_cut_off_anywhere_is_finished_later(
        toy: Toy, copy: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch,
        manifest: WriteManifest) -> None:
    """What is left is never taken for whole: extract computes it again."""
    only = manifest(conv={"seed-1": TOY["conv"]["seed-1"]}, attention={})
    group = next(copy.glob("plain-*"))
    real = shutil.rmtree
    for files in (*range(1, 6), 9, 12, 99):
        def some(path: Path, left: list[int]) -> None:
            for file in [p for p in sorted(path.rglob("*"), reverse=True) if p.is_file()]:
                if not left[0]:
                    raise KeyboardInterrupt
                left[0] -= 1
                file.unlink()
            real(path)

        left = [files]
        monkeypatch.setattr("gate_cache.store.places.local.shutil.rmtree",
                            lambda path, left=left: some(path, left))
        try:
            pruned(only, roots, yes=True)
            break
        except KeyboardInterrupt:
            pass
        finally:
            monkeypatch.undo()
        store = FeatureStore.open(copy)
        if "plain" in store.combos:
            done = store["plain"].done()
            np.testing.assert_array_equal(store["plain"]["up1"][done],
                                          FeatureStore.open(toy[2])["plain"]["up1"][done])
        assert verify(copy).sound, files
        real(copy)
        shutil.copytree(toy[2], copy)
    assert files > 5
    shutil.copytree(toy[2] / group.name, group, ignore=lambda *_: ["done"])
    (group / "zarr.json").unlink()
    assert labels(pruned(copy, roots, yes=True)) == {"plain"}
    assert not group.exists()
    assert extract(Workspace(manifest(**FEWER), roots, "cpu")).rows["plain"] == 7
    np.testing.assert_array_equal(FeatureStore.open(copy)["plain"]["up1"][:],
                                  FeatureStore.open(toy[2])["plain"]["up1"][:])


def test_prune_waits_for_no_writer(copy: Path, roots: Roots, manifest: WriteManifest) -> None:
    with open_writer(copy, "toyworld", 3, 2):
        with pytest.raises(StoreError, match="is writing to this store"):
            pruned(manifest(**FEWER), roots, yes=True)
        assert pruned(manifest(**FEWER), roots).groups


def test_damaged_groups_are_left_alone(copy: Path, roots: Roots, manifest: WriteManifest) -> None:
    (next(copy.glob("lora-*")) / "zarr.json").write_text("{")
    found = pruned(manifest(**FEWER), roots)
    assert "lora" not in labels(found)
    assert "is damaged and left alone" in found.notes[0]


def test_no_store_to_prune(roots: Roots, manifest: WriteManifest) -> None:
    with pytest.raises(StoreError, match="nothing to prune"):
        pruned(manifest(), roots)


def test_one_store_under_two_names(copy: Path, roots: Roots, manifest: WriteManifest) -> None:
    with pytest.raises(UserError, match="under two names"):
        prune([manifest(**FEWER).path, copy / ".." / "toy.zarr"], roots)


# -------------------------------------------------------------------------------- diff


def changed(found: Diff) -> dict[str, list[str]]:
    return {c.name: c.changed for c in found.combos if c.changed}


def test_manifests_are_compared(roots: Roots, manifest: WriteManifest) -> None:
    a = manifest("a.yaml").path
    conv: dict[str, Any] = {**TOY["conv"], "plain": {"prompt": "a boat"}, "new": {"prompt": "x"}}
    conv["renamed"] = conv.pop("seed-1")
    del conv["lora"]
    found = diff(a, manifest("b.yaml", conv=conv).path, roots)
    assert (found.only_a, found.only_b) == (["lora"], ["new"])
    assert changed(found) == {
        "plain": ['prompt changed: "a photo of a horse, high quality" → "a boat"']}
    assert [(c.name, c.other) for c in found.combos if c.name != c.other] == [
        ("seed-1", "renamed")]
    assert not found.same and diff(a, a, roots).same


def test_a_manifest_and_its_store(toy: Toy, manifest: WriteManifest) -> None:
    loaded, roots, path = toy
    assert diff(loaded.path, path, roots).same
    edited = manifest(conv={**TOY["conv"], "plain": {**PROMPT, "t": 100}})
    assert changed(diff(path, edited.path, roots)) == {"plain": ["t changed: 50 → 100"]}


def test_a_manifest_without_its_weights(toy: Toy, roots: Roots, manifest: WriteManifest) -> None:
    absent = {"prompt": "a photo", "lora": {"source": "gone.safetensors"}}
    edited = manifest(conv={**TOY["conv"], "lora": absent})
    found = diff(toy[2], edited.path, roots)
    assert not found.only_a and not found.only_b
    assert any("compared by settings only" in note for note in found.notes)


def test_stores_are_compared_row_by_row(toy: Toy, copy: Path, roots: Roots) -> None:
    assert diff(toy[2], copy, roots).same
    group = join_writer(copy).find(FeatureStore.open(copy)["plain"].recipe)
    assert group
    maps = group.read_kept(range(3, 6))
    maps["up2"][1] += np.float16(0.5)
    group.write(range(3, 6), maps)
    found = diff(toy[2], copy, roots)
    plain = next(c for c in found.combos if c.name == "plain")
    assert (plain.rows, plain.unequal, plain.largest) == (7, 3, None)
    found = diff(toy[2], copy, roots, values=True)
    plain = next(c for c in found.combos if c.name == "plain")
    assert (plain.rows, plain.unequal) == (7, 1) and 0.4 < (plain.largest or 0) < 0.6
    assert [c.name for c in found.combos if not c.same] == ["plain"]


def test_stores_with_other_blocks_are_compared_by_values(toy: Toy, roots: Roots,
                                                         manifest: WriteManifest) -> None:
    loaded = manifest(**FEWER, store={"block": 4, "batch": 2})
    other = extract(Workspace(loaded, roots, "cpu")).store
    found = diff(toy[2], other, roots)
    assert "maps are compared with --values" in found.notes[0]
    found = diff(toy[2], other, roots, values=True)
    assert [(c.name, c.rows, c.unequal, c.largest) for c in found.combos] == [("plain", 7, 0, 0.0)]


# ---------------------------------------------------------------------------- commands


def test_the_commands(gate: Run, toy: Toy, copy: Path, roots: Roots,
                      manifest: WriteManifest) -> None:
    fewer = manifest(**FEWER).path
    found = gate("diff", toy[2], copy)
    assert found.code == 0 and "nothing differs" in found.out
    found = gate("diff", fewer, copy)
    assert found.code == 1 and "only in" in found.out
    assert not json.loads(gate("diff", fewer, copy, "--json").out)["same"]
    words = "prune", fewer, "--stores", roots.stores
    assert "pass --yes to remove" in gate(*words).out
    assert len(json.loads(gate(*words, "--json").out)["stores"][0]["groups"]) == 4
    assert "removed" in gate(*words, "--yes").out
    assert "nothing to remove" in gate(*words).out


def test_marks_go_before_data(copy: Path, roots: Roots, manifest: WriteManifest,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(LocalFolder, "remove", lambda self, key: removed.append(key))
    found = pruned(manifest(**FEWER), roots, yes=True)
    name = found.groups[0].name
    assert [k for k in removed if k.startswith(name)] == [
        f"{name}/done/c", f"{name}/done", f"{name}/zarr.json", name]

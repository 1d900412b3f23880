"""Stores that older releases wrote: always readable, checked as far as they can be, brought up."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import zarr
from test_verify import flip

from gate_cache import FeatureStore
from gate_cache.core.errors import StoreError
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.extraction.status import status
from gate_cache.manifest.load import Loaded, load
from gate_cache.store.check.verify import verify
from gate_cache.store.format.layout import FORMAT
from gate_cache.workspace.workspace import Workspace

FROZEN = Path(__file__).parent / "data"
MANIFEST = """
dataset: {name: toyworld, train: 3, val: 0, test: 2}
model: {source: tiny, resample: opencv}
conv:
  plain: {prompt: "a photo of a horse", maps: [up0]}
  seed-1: {prompt: "a photo of a horse", seed: 1, maps: [up0]}
attention:
  attn: {prompt: "a photo of a horse", maps: [attn1]}
store: {block: 2, batch: 2}
"""
"""What made each of the frozen stores."""


@pytest.fixture(params=[1, 2])
def frozen(request: pytest.FixtureRequest, roots: Roots) -> Path:
    """A store of an older format, fresh from its archive."""
    with zipfile.ZipFile(FROZEN / f"store-format-{request.param}.zip") as archive:
        archive.extractall(roots.stores)
    return roots.stores / "frozen.zarr"


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    (tmp_path / "frozen.yaml").write_text(MANIFEST)
    return load(tmp_path / "frozen.yaml")


def data(store: Path) -> dict[str, bytes]:
    """All but metadata, and tables of row checksums, which the first release did not write."""
    return {str(p.relative_to(store)): p.read_bytes() for p in sorted(store.rglob("*"))
            if p.is_file() and p.name != "zarr.json" and "sums" not in p.parts}


def shards(names: Iterable[str]) -> set[str]:
    """Without marks, and as the third format calls them, without folders."""
    return {re.sub(r"/c/(\d+)/0/0/0$", r"/c.\1.0.0.0", n) for n in names if "/done/" not in n}


def test_it_is_read_as_plain_zarr_reads_it(frozen: Path) -> None:
    store, plain = FeatureStore.open(frozen), zarr.open_group(frozen, mode="r")
    assert store.combos == ("attn", "plain", "seed-1")
    assert store.samples.ids[0].startswith("train/") and len(store.samples) == 5
    for combo in store.combos:
        view = store[combo]
        assert view.done().all()
        for name in view:
            there = plain[f"{view.name}/{name}"][:]  # type: ignore[index]
            np.testing.assert_array_equal(view[name][:], there)
    assert store["attn"]["attn1"][0].astype(np.float32).sum(0) == pytest.approx(1, abs=0.02)


def test_verify_checks_what_can_be_checked(frozen: Path) -> None:
    found = verify(frozen)
    assert found.sound and found.blocks == 4 * 3
    old = FeatureStore.open(frozen).attrs["format"] == 1
    assert found.notes == old * [
        "format 1: has no checksums of metadata; the next extract adds them"] + [
        f"{group.name}: 3 of 3 blocks have no table of row checksums, which tells whose rows they"
        " are; the next extract adds it" for group in sorted(frozen.glob("*-*"))]
    for name, bytes_ in data(frozen).items():
        (frozen / name).write_bytes(flip(bytes_, 70 if len(bytes_) > 8 else 40))
        try:
            seen = verify(frozen)
        except StoreError:
            continue
        finally:
            (frozen / name).write_bytes(bytes_)
        assert not seen.sound or name.startswith("samples/"), name


def test_extract_brings_it_up_and_changes_no_data(frozen: Path, loaded: Loaded,
                                                  roots: Roots) -> None:
    assert status(Workspace(loaded, roots)).complete
    before = data(frozen)
    result = extract(Workspace(loaded, roots, "cpu"))
    assert result.new_images == 0 and not any(result.rows.values())
    assert FeatureStore.open(frozen).attrs["format"] == FORMAT
    assert data(frozen) == before
    found = verify(frozen)
    assert found.sound and found.notes == []


def test_what_is_brought_up_equals_what_is_made_now(frozen: Path, loaded: Loaded, roots: Roots,
                                                    tmp_path: Path) -> None:
    """All but the bytes of the shards, which other machines round differently."""
    now = extract(Workspace(loaded, Roots(stores=tmp_path / "now"), "cpu")).store
    assert shards(data(now)) == shards(data(frozen))
    ours, theirs = FeatureStore.open(now), FeatureStore.open(frozen)
    assert ours.samples.checksum() == theirs.samples.checksum()
    for combo in ours.combos:
        assert ours[combo].fingerprint == theirs[combo].fingerprint
        for name in ours[combo]:
            np.testing.assert_allclose(ours[combo][name][:].astype(np.float32),
                                       theirs[combo][name][:].astype(np.float32),
                                       rtol=2e-2, atol=2e-2)

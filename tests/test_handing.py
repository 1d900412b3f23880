"""A store as other libraries take it: xarray and Zarr on its files, torch's DataLoader."""

from __future__ import annotations

import builtins
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from test_cli import Toy
from torch.utils.data import DataLoader

from gate_cache import FeatureStore
from gate_cache.core.errors import RowNotDone, StoreError, UserError
from gate_cache.store.check.verify import verify


@pytest.fixture
def store(toy: Toy) -> FeatureStore:
    return FeatureStore.open(toy[2])


def test_every_array_says_what_its_dimensions_are(store: FeatureStore) -> None:
    """Within a group, what is called alike is as long, as xarray asks."""
    root = zarr.open_group(store.path, mode="r")
    for _, group in root.groups():
        lengths: dict[str, int] = {}
        for name, array in group.arrays():
            assert array.metadata.dimension_names, name
            for dim, length in zip(array.metadata.dimension_names, array.shape, strict=True):
                assert lengths.setdefault(dim, length) == length
    up2 = root[store["plain"].name]["up2"]
    assert up2.metadata.dimension_names == ("sample", "up2_c", "up2_y", "up2_x")


def test_a_dataset_hands_out_what_the_reader_reads(store: FeatureStore) -> None:
    data = store.torch_dataset(["plain", "lora"], ["up2", "up0"])
    assert len(data) == 7
    item = data[3]
    assert item["id"] == store.samples.ids[3] and set(item) == {"id", "plain", "lora"}
    for combo in ("plain", "lora"):
        for name in ("up2", "up0"):
            assert np.array_equal(item[combo][name], store[combo][name][3])
    assert set(store.torch_dataset()[0]) == {"id", *store.combos}
    assert set(store.torch_dataset(["attn"])[0]["attn"]) == set(store["attn"].maps)


def test_rows_are_by_number_or_id_in_their_order(store: FeatureStore) -> None:
    ids = store.samples.ids
    data = store.torch_dataset(["plain"], ["up0"], [ids[5], 0, -1])
    assert [data[i]["id"] for i in range(3)] == [ids[5], ids[0], ids[6]]
    assert [item["id"] for item in data.__getitems__([2, 0])] == [ids[6], ids[5]]
    assert np.array_equal(data.__getitems__([0])[0]["plain"]["up0"], store["plain"]["up0"][5])
    for wrong in (["no such image"], [7]):
        with pytest.raises((StoreError, IndexError)):
            store.torch_dataset(["plain"], rows=wrong)
    with pytest.raises(StoreError, match="no map 'up9'"):
        store.torch_dataset(["plain"], ["up9"])


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_of_a_dataloader_read_the_same(workers: int, store: FeatureStore) -> None:
    data = store.torch_dataset(["plain"], ["up2"])
    copy = pickle.loads(pickle.dumps(data))
    assert len(pickle.dumps(data)) < 5000  # names and places, not maps
    loader = DataLoader(copy, batch_size=3, num_workers=workers,
                        multiprocessing_context="fork" if workers else None)
    batches = list(loader)
    assert [i for b in batches for i in b["id"]] == list(store.samples.ids)
    found = torch.cat([b["plain"]["up2"] for b in batches])
    assert torch.equal(found, torch.from_numpy(store["plain"]["up2"][:]))


def test_rows_that_are_not_extracted_are_named_at_once(toy: Toy, tmp_path: Path) -> None:
    import shutil

    from marks import marks_of

    copy = shutil.copytree(toy[2], tmp_path / "copy.zarr")
    marks_of(copy, "plain").write(1, 0)
    store = FeatureStore.open(copy)
    with pytest.raises(RowNotDone, match="'plain' lacks 3 of 7 images"):
        store.torch_dataset(["plain"])
    assert len(store.torch_dataset(["plain"], rows=[0, 1, 2])) == 3


def test_without_xarray_it_is_said(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **more: Any) -> Any:
        if name == "xarray":
            raise ModuleNotFoundError("No module named 'xarray'", name="xarray")
        return real(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match="pip install xarray"):
        store.to_xarray()


def test_a_store_as_an_xarray_tree(store: FeatureStore) -> None:
    pytest.importorskip("xarray")
    tree = store.to_xarray()
    assert set(tree.children) == set(store.combos)
    up2 = tree["plain"]["up2"]
    assert up2.dims == ("sample", "up2_c", "up2_y", "up2_x") and up2.chunks[0] == (3, 3, 1)
    one = store.samples.ids[4]
    assert np.array_equal(up2.sel(sample=one).values, store["plain"]["up2"][4])
    assert json.loads(tree["lora"].attrs["recipe"]) == store["lora"].recipe


def test_xarray_opens_a_group_s_files(store: FeatureStore) -> None:
    """Without this package: what is stored, by its names."""
    xarray = pytest.importorskip("xarray")
    for combo in store.combos:
        found = xarray.open_zarr(Path(store.path) / store[combo].name, consolidated=False)
        for name in store[combo].maps:
            assert np.array_equal(found[name].values, store[combo][name][:])
    table = xarray.open_zarr(Path(store.path) / "samples", consolidated=False)
    assert list(table["id"].values) == list(store.samples.ids)


def test_a_store_lists_its_groups_and_arrays_for_zarr(store: FeatureStore) -> None:
    """Consolidated metadata, as Zarr reads it without listing a folder."""
    root = zarr.open_consolidated(store.path, mode="r")
    plain = zarr.open_group(store.path, mode="r", use_consolidated=False)
    assert set(root.group_keys()) == set(plain.group_keys())
    for name, group in root.groups():
        here, there = ({k: str(a.metadata.to_dict()) for k, a in g.arrays()}
                       for g in (group, plain[name]))
        assert (here == there and "done" in here) or name == "samples"
    assert not verify(store.path).notes

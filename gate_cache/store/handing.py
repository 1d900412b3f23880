"""A store's maps as other libraries take them: torch's DataLoader, and xarray."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import RowNotDone, UserError

if TYPE_CHECKING:
    import dask.array as da
    import xarray

    from gate_cache.store.format.combos import ComboView
    from gate_cache.store.format.opened import OpenStore

Item = dict[str, Any]


class MapDataset:
    """Rows of a store by their place, as `gate_cache.FeatureStore.torch_dataset` makes it."""

    def __init__(self, store: OpenStore, combos: Mapping[str, ComboView],
                 maps: Sequence[str] | None, rows: Sequence[int | str] | None) -> None:
        table = store.samples
        every = range(len(table)) if rows is None else rows
        self.rows = [table.row(row) if isinstance(row, str) else range(len(table))[row]
                     for row in every]
        for combo, view in combos.items():
            missing = int((~view.done()[self.rows]).sum())
            if missing:
                raise RowNotDone(f"{store.path}: '{combo}' lacks {missing} of {len(self.rows)}"
                                 " images; run 'gate-cache extract', or name the rows that it has")
        self._views = {combo: {name: view[name] for name in maps or view.maps}
                       for combo, view in combos.items()}
        self._ids = [table.ids[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> Item:
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[Item]:
        """A batch: its rows are read together."""
        rows = [self.rows[place] for place in places]
        read = {combo: {name: list(view.each(rows)) for name, view in views.items()}
                for combo, views in self._views.items()}
        return [{"id": self._ids[place], **{
            combo: {name: batch[i] for name, batch in maps.items()}
            for combo, maps in read.items()}} for i, place in enumerate(places)]


def to_xarray(store: OpenStore, combos: Mapping[str, ComboView],
              lazy: Callable[[str, str], da.Array]) -> xarray.DataTree:
    """As `gate_cache.FeatureStore.to_xarray`; `lazy` is of a combo and a map."""
    try:
        import xarray
    except ModuleNotFoundError as error:
        if error.name != "xarray":
            raise
        raise UserError("to_xarray needs xarray; install it with: pip install xarray") from None

    nodes = {"/": xarray.Dataset(coords={"sample": list(store.samples.ids)},
                                 attrs={"store": str(store.path)})}
    for combo, view in combos.items():
        nodes[combo] = xarray.Dataset(
            {name: (["sample", *(f"{name}_{axis}" for axis in "cyx")], lazy(combo, name))
             for name in view.maps},
            attrs={"fingerprint": view.fingerprint, "recipe": json.dumps(view.recipe)})
    return xarray.DataTree.from_dict(nodes)

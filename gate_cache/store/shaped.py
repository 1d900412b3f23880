"""Combos of images that have inputs of several shapes: a group for each, read as one.

A row of a group is the n-th sample whose input has its shape: that follows from the sizes of the
images, so no index is stored, and rows stay where they are as samples are appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import RowNotDone, StoreError
from gate_cache.core.fingerprint import SHORT, fingerprint
from gate_cache.core.size import SHAPE, Size
from gate_cache.store.format.combos import ComboView
from gate_cache.store.format.layout import ABSENT
from gate_cache.store.format.maps import MapView

if TYPE_CHECKING:
    from gate_cache.store.format.done import Provenance
    from gate_cache.store.format.encodings import Encoding, Part
    from gate_cache.store.format.opened import OpenStore


class ShapeGroup(ComboView):
    """The group of one shape, by its own rows."""

    @property
    def shape(self) -> Size:
        """Of the input."""
        return Size.of(self.recipe[SHAPE])

    @cached_property
    def own(self) -> npt.NDArray[np.int64]:
        """(n,): the store's row of each of its rows."""
        rows: npt.NDArray[np.int64] = self.store.samples.of_shape(self.recipe)
        return rows

    @property
    def count(self) -> int:
        """n."""
        return len(self.own)

    def places(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """(n,): as of `ComboView`."""
        return np.searchsorted(self.own, rows[np.isin(rows, self.own)])


class ShapedMap(MapView):
    """One feature map of all samples: index it by one row, or by rows of one shape, to read.

    Parameters
    ----------
    maps : of each shape
    """

    def __init__(self, combo: ShapedCombo, name: str, maps: Mapping[Size, MapView]) -> None:
        self.combo, self.name, self.ndim = combo, name, 4
        self._of = maps
        first, view = next(iter(maps.items()))
        self._dtype = view.dtype
        square, stored = combo.frame.size, Size.of(view.shape[2:])
        cells = stored if name in combo.recipe.get("pooling", ()) else Size(
            *(side * of // by for side, of, by in zip(stored, square, first, strict=True)))
        self._shape = (view.shape[1], *cells)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """As `MapView.parts`: those of the shape with most cells."""
        return max((m.parts for m in self._of.values()),
                   key=lambda parts: sum(p.nbytes for p in parts.values()))

    def shape_at(self, size: Size) -> tuple[int, ...]:
        """(C, h, w) of images whose input has this size.

        Raises
        ------
        RowNotDone
            None of them is extracted.
        """
        if size not in self._of:
            raise RowNotDone(f"{self.combo.store.path}: {self.combo.label}: no image of {size} px"
                             " is extracted yet; run 'gate-cache extract' on its manifest")
        return self._of[size].shape[1:]

    def parts_of(self, row: int) -> Mapping[str, Part]:
        """The arrays that a row, which is known to be done, is stored in."""
        return self._of_row(row)[0].parts

    def _of_row(self, row: int) -> tuple[MapView, int]:
        groups, places = self.combo.index
        return self._of[self.combo.groups[groups[row]].shape], int(places[row])

    def _at(self, rows: Sequence[int]) -> tuple[MapView, list[int]]:
        """The map that these rows are in, and which of its rows they are."""
        self.combo.check(np.asarray(rows, np.int64))
        views, places = zip(*map(self._of_row, rows), strict=True)
        if any(view is not views[0] for view in views):
            raise StoreError(f"{self.combo.store.path}: {self.combo.label}: {self.name} of rows"
                             f" {rows[0]} … {rows[-1]} has several shapes; read them one by one")
        return views[0], list(places)

    def __getitem__(self, key: Any) -> npt.NDArray[Any]:
        rows, one, rest = self._wanted(key)
        if not rows:
            return np.empty((0, *self._shape), self.dtype)
        view, places = self._at(rows)
        return view[(places[0] if one else places, *rest)]

    def each(self, rows: Sequence[int]) -> Iterable[npt.NDArray[Any]]:
        """As `MapView.each`: one by one."""
        return (self[row] for row in rows)

    def read_into(self, rows: Sequence[int], out: npt.NDArray[Any]) -> None:
        """As `MapView.read_into`, of rows of one shape."""
        view, places = self._at(rows)
        view.read_into(places, out)

    def read_parts_into(self, rows: Sequence[int],
                        outs: Mapping[str, npt.NDArray[Any]]) -> None:
        """As `MapView.read_parts_into`, of rows of one shape."""
        view, places = self._at(rows)
        view.read_parts_into(places, outs)

    def read_row(self, row: int, buffers: Mapping[str, memoryview]) -> None:
        """As `MapView.read_row`; the buffers may be longer than the row."""
        view, place = self._of_row(row)
        view.read_row(place, {s: b[: view.parts[s].nbytes] for s, b in buffers.items()})


class ShapedCombo(ComboView):
    """The groups of one combo, which differ in nothing but the shape of the input."""

    def __init__(self, store: OpenStore, groups: Sequence[ShapeGroup]) -> None:
        recipe = family(groups[0].recipe)
        digest = fingerprint(recipe)
        super().__init__(store, f"{groups[0].attrs['combo']}-{digest[:SHORT]}", {
            **groups[0].attrs, "recipe": recipe, "fingerprint": digest})
        self._groups = groups

    @property
    def groups(self) -> Sequence[ShapeGroup]:
        """One of each shape."""
        return self._groups

    @cached_property
    def index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """(N,) the number of each row's group, -1 where there is none, and its row there."""
        numbers, places = np.full(self.count, -1), np.zeros(self.count, np.int64)
        for number, group in enumerate(self.groups):
            numbers[group.own] = number
            places[group.own] = np.arange(group.count)
        return numbers, places

    @cached_property
    def encoding(self) -> Encoding:
        """How the maps are stored.

        Raises
        ------
        StoreError
            In a way that is not known here, or in several.
        """
        first, *others = (group.encoding for group in self.groups)
        if any(other != first for other in others):
            raise StoreError(f"{self.store.path}: groups of {self.label} are stored in several"
                             " ways; remove those that another program has made")
        return first

    def done(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which rows are extracted. Read afresh at each call."""
        mask = np.zeros(self.count, bool)
        for group in self.groups:
            mask[group.own] = group.done()
        self.attrs[ABSENT] = sorted(int(group.own[row]) for group in self.groups
                                    for row in group.attrs.get(ABSENT, ()) if row < group.count)
        return mask

    def made(self) -> list[tuple[Provenance | None, int]]:
        """What finished blocks were computed with, and how many of each group."""
        return list(chain.from_iterable(group.made() for group in self.groups))

    def _map(self, name: str) -> MapView:
        return ShapedMap(self, name, {group.shape: group[name] for group in self.groups})


def family(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A group's recipe without its shape: that of the combo."""
    return {k: v for k, v in recipe.items() if k != SHAPE}


def joined(store: OpenStore, groups: Mapping[str, dict[str, Any]]) -> list[ComboView]:
    """The views of a store's groups; those that differ in the shape of the input alone are one.

    Parameters
    ----------
    groups : name to attributes
    """
    views, shaped = dict[str, ComboView](), dict[str, list[ShapeGroup]]()
    for name, attrs in groups.items():
        if SHAPE not in attrs["recipe"]:
            views[name] = ComboView(store, name, attrs)
            continue
        some = shaped.setdefault(digest := fingerprint(family(attrs["recipe"])), [])
        some.append(ShapeGroup(store, name, attrs))
        views[digest] = ShapedCombo(store, some)
    return list(views.values())

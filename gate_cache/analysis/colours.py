"""Colours of feature maps that are comparable over a whole store, computed on first use."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.learn.features.pca import ColourPCA

if TYPE_CHECKING:
    from gate_cache.store.reader import ComboView

MAPS, POSITIONS = 24, 1024
"""Maps that the components of one level are computed from, and positions of all of them."""
_Key = tuple[str, int]


class Colours:
    """PCA as red, green and blue: one for all images and combos of a map.

    Its components are those of a few images of all combos in turn, so that a large store, or one
    behind a URL, need not be read.

    Parameters
    ----------
    views : convolutional combos
    """

    def __init__(self, views: Sequence[ComboView]) -> None:
        self._views = views
        self._components: dict[_Key, ColourPCA] = {}
        self._locks: defaultdict[_Key, threading.Lock] = defaultdict(threading.Lock)

    def __call__(self, view: ComboView, name: str, row: int) -> npt.NDArray[np.uint8]:
        """(h, w, 3) of one image's map; `RowNotDone` where it is not extracted for this combo."""
        values = _read(view, name, row)
        key = name, values.shape[0]
        with self._locks[key]:  # threads of the viewer would fit it twice
            if key not in self._components:
                self._components[key] = ColourPCA(self._drawn(key))
        return self._components[key](values)

    def _drawn(self, key: _Key) -> npt.NDArray[np.float32]:
        """(C, n, 1): positions of some images, of every combo that has this map."""
        name, channels = key
        views = [(v, np.flatnonzero(v.done())) for v in self._views
                 if name in v.maps and v[name].shape[1] == channels]
        views = [(v, rows) for v, rows in views if len(rows)]
        parts = []
        for i in range(MAPS):
            view, rows = views[i % len(views)]
            row = int(rows[i * len(rows) // MAPS])
            parts.append(_spread(_inside(view, row, _read(view, name, row))))
        return np.concatenate(parts, axis=1)[..., None]


def _read(view: ComboView, name: str, row: int) -> npt.NDArray[np.float32]:
    return np.nan_to_num(np.asarray(view[name][row], np.float32))


def _inside(view: ComboView, row: int,
            values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The cells that show some of the image: padding has no effect on the colours."""
    placement = view.frame.place(*map(int, view.store.samples.sizes[row]))
    return np.asarray(placement.window(values.shape[-2:]).cut(values))


def _spread(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(C, n): positions spread evenly over a map."""
    flat = values.reshape(len(values), -1)
    return flat[:, :: max(flat.shape[1] * MAPS // POSITIONS, 1)]

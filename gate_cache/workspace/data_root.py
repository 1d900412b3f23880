"""Remembering, beside a store, where `extract` found its data set.

After ``extract --data DIR``, ``train`` needs no ``--data``. The current data root comes first: only
where the data set is not below it is the remembered one tried. The note is a hidden file beside the
store, not in it: a store holds no paths.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError
from gate_cache.datasets.registry import open_dataset

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.core.roots import Roots
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.manifest.dataset_specs import DatasetSpec


def remember(store: Place, roots: Roots) -> None:
    """Note the data root beside a store of this machine, where that can be written."""
    if isinstance(store, Path):
        with suppress(OSError):  # a convenience: without it train needs --data
            _file(store).write_text(json.dumps({"data": str(roots.data.resolve())}) + "\n")


def dataset_near(store: Place, spec: DatasetSpec, roots: Roots) -> tuple[ImageDataset, list[str]]:
    """A data set, and notes: a line where it is below the root remembered beside a store."""
    dataset = open_dataset(spec, roots)
    try:
        dataset.samples()
        return dataset, []
    except DataError:
        own = getattr(dataset, "root", None)
        if isinstance(own, Path) and own.exists():
            raise  # its folder is there: something else is wrong with it
        remembered = recall(store)
        if remembered is None:
            raise
        with suppress(DataError):
            other = open_dataset(spec, replace(roots, data=remembered))
            if other.samples():
                return other, [f"the data set is not below {roots.data}: taken from {remembered},"
                               " where extract found it"]
        raise


def recall(store: Place) -> Path | None:
    """The data root that `remember` noted beside a store, if any."""
    if not isinstance(store, Path):
        return None
    from gate_cache.store.format.schema import parse  # with numpy, which a plan starts without
    from gate_cache.store.opening import open_folder

    with suppress(OSError):
        note = parse(open_folder(store.parent).read(_file(store).name)) or {}
        return Path(note["data"]) if isinstance(note.get("data"), str) else None
    return None


def _file(store: Path) -> Path:
    return store.parent / f".{store.name}.data"

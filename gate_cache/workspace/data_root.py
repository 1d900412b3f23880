"""Remembering, beside a store, where `extract` found its data set.

Whoever extracts with ``--data`` need not say it again to train. What is said counts first: only
where the data set is not below the data root is the remembered one tried. The note is a hidden file
beside the store, not in it: a store holds no paths.
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
    """Note the data root beside a store of this machine; one that cannot be written is let be."""
    if not isinstance(store, Path):
        return
    try:
        _file(store).write_text(json.dumps({"data": str(roots.data.resolve())}) + "\n")
    except OSError:
        return


def dataset_near(store: Place, spec: DatasetSpec, roots: Roots) -> tuple[ImageDataset, list[str]]:
    """A data set, and a line where it was found below the root remembered beside a store.

    Raises
    ------
    DataError
        It is at neither place.
    """
    dataset = open_dataset(spec, roots)
    try:
        dataset.samples()
        return dataset, []
    except DataError:
        known = None if _has_root(dataset) else recall(store)
        if known is None:
            raise
        other = open_dataset(spec, replace(roots, data=known))
        if not _is_there(other):
            raise
        return other, [f"the data set is not below {roots.data}: taken from {known}, where extract"
                       " found it"]


def _has_root(dataset: ImageDataset) -> bool:
    """Whether its folder is there: then something else is wrong with it."""
    root = getattr(dataset, "root", None)
    return isinstance(root, Path) and root.exists()


def _is_there(dataset: ImageDataset) -> bool:
    try:
        return bool(dataset.samples())
    except DataError:
        return False


def recall(store: Place) -> Path | None:
    """The data root that `remember` noted beside a store, if any."""
    if not isinstance(store, Path):
        return None
    from gate_cache.store.format.schema import parse  # with numpy, which a plan starts without
    from gate_cache.store.opening import open_folder

    with suppress(OSError):
        known = (parse(open_folder(store.parent).read(_file(store).name)) or {}).get("data")
        return Path(known) if isinstance(known, str) else None
    return None


def _file(store: Path) -> Path:
    return store.parent / f".{store.name}.data"

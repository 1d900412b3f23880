"""``status``: what of a manifest is done, missing or stale in its store. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gate_cache.core.errors import StoreError
from gate_cache.datasets.common.base import ids_of
from gate_cache.store.opening import exists
from gate_cache.workspace.data_root import dataset_near
from gate_cache.workspace.lookup import Stale, find_combo

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from gate_cache.core.fingerprint import Recipe
    from gate_cache.manifest.specs import Manifest
    from gate_cache.store.reader import FeatureStore
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class ComboStatus:
    """One combo of a manifest.

    Attributes
    ----------
    state : ``done``, ``partial``, ``missing`` or ``stale``
    done, total : images
    why : what differs from what is stored, for a stale one
    """

    name: str
    state: str
    done: int
    total: int
    group: str = ""
    why: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """State of a manifest's store.

    Attributes
    ----------
    extra : groups of the store that the manifest does not name
    notes : what limits this report, a line each
    """

    store: str
    exists: bool
    combos: list[ComboStatus]
    extra: list[str]
    notes: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is left to extract."""
        return all(c.state == "done" for c in self.combos)


def status(work: Workspace) -> Status:
    """Compare a manifest with its store.

    Raises
    ------
    UserError
        Data set missing, or the store is none.
    """
    manifest = work.manifest
    path = work.store_path
    dataset, dataset_notes = dataset_near(path, manifest.dataset, work.roots)
    ids = ids_of(dataset)
    if not exists(path):
        missing = [ComboStatus(n, "missing", 0, len(ids)) for n in manifest.combos]
        return Status(str(path), False, missing, [], dataset_notes)
    store = work.store()
    recipes, notes = work.recipes()
    newest = store.samples.newest(ids)
    rows = newest[newest >= 0]
    combos = [_combo(store, manifest, name, recipes.get(name), rows, len(ids))
              for name in manifest.combos]
    named = {c.group for c in combos}
    extra = [v.name for v in store.views() if v.name not in named]
    damaged = [f"{group} is damaged; run 'gate-cache verify --repair', then 'gate-cache extract'"
               for group in store.damaged]
    return Status(str(path), True, combos, extra, [*dataset_notes, *notes, *damaged])


def _combo(store: FeatureStore, manifest: Manifest, name: str, recipe: Recipe | None,
           rows: npt.NDArray[np.int64], total: int) -> ComboStatus:
    """`rows` are those of the data set's images that the store knows, of `total` images."""
    try:
        view = find_combo(store, manifest, name, recipe)
    except Stale as error:
        return ComboStatus(name, "stale", 0, total, why=error.why)
    except StoreError:
        return ComboStatus(name, "missing", 0, total)
    count = int(view.done()[rows].sum())
    state = "done" if count == total else "partial" if count else "missing"
    return ComboStatus(name, state, count, total, view.name)

"""``status``: what of a manifest is done, missing or stale in its store. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.recipes import missing_inputs, plan_combos
from gate_cache.diffusion.sources import locate
from gate_cache.errors import StoreError
from gate_cache.fingerprint import Recipe, differences
from gate_cache.manifest import Loaded
from gate_cache.roots import Roots
from gate_cache.stages.lookup import find_combo
from gate_cache.stages.plan import store_of
from gate_cache.store.reader import ComboView, FeatureStore


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


def status(loaded: Loaded, roots: Roots) -> Status:
    """Compare a manifest with its store.

    Raises
    ------
    UserError
        Data set missing, or the store is none.
    """
    manifest = loaded.manifest
    ids = [s.id for s in open_dataset(manifest.dataset, roots).samples()]
    path = store_of(loaded, roots)
    if not path.exists():
        missing = [ComboStatus(n, "missing", 0, len(ids)) for n in manifest.combos]
        return Status(str(path), False, missing, [], [])
    store = FeatureStore.open(path)
    recipes, notes = _recipes(loaded, roots)
    combos = [_combo(store, loaded, name, recipes.get(name), ids) for name in manifest.combos]
    named = {c.group for c in combos}
    extra = [v.name for v in store.views() if v.name not in named]
    return Status(str(path), True, combos, extra, notes)


def _recipes(loaded: Loaded, roots: Roots) -> tuple[dict[str, Recipe], list[str]]:
    """Recipes by digest where the model is here; otherwise settings must do."""
    notes = missing_inputs(loaded.manifest, roots)
    files = locate(loaded.manifest.model, roots)
    if files is None or notes:
        return {}, [*notes, "weights are not all on this machine: compared by settings only"]
    return {p.name: p.recipe for p in plan_combos(loaded.manifest, files, roots)}, []


def _combo(store: FeatureStore, loaded: Loaded, name: str, recipe: Recipe | None,
           ids: list[str]) -> ComboStatus:
    view, why = _find(store, loaded, name, recipe)
    if view is None:
        return ComboStatus(name, "stale" if why else "missing", 0, len(ids), why=why)
    known = set(store.samples.ids)
    done = view.done()
    count = sum(bool(done[store.samples.row(i)]) for i in ids if i in known)
    state = "done" if count == len(ids) else "partial" if count else "missing"
    return ComboStatus(name, state, count, len(ids), view.name)


def _find(store: FeatureStore, loaded: Loaded, name: str,
          recipe: Recipe | None) -> tuple[ComboView | None, list[str]]:
    """The combo's group, or what differs from the latest group of its name."""
    if recipe is None:
        try:
            return find_combo(store, loaded.manifest, name), []
        except StoreError as error:
            return None, [str(error)] if "stale" in str(error) else []
    view = next((v for v in store.views() if v.recipe == recipe), None)
    older = [v for v in store.views() if v.label == name]
    if view is None and older:
        return None, differences(older[-1].recipe, recipe)
    return view, []

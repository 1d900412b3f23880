"""``prune``: remove the groups of a store that no manifest names. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gate_cache.core.errors import StoreError, UserError
from gate_cache.core.places import Place, is_manifest
from gate_cache.core.preprocessing import FIRST
from gate_cache.store.check.removal import leftovers, remove_group
from gate_cache.store.format.documents import write_listing
from gate_cache.store.format.layout import LATENTS
from gate_cache.store.holding import alone
from gate_cache.store.opening import exists
from gate_cache.store.places.disk import disk_errors
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.workspace.lookup import alike
from gate_cache.workspace.workspace import Workspace

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots

_THEN = "and run the same command again; without --yes nothing is removed"


@dataclass(frozen=True)
class PrunedGroup:
    """A group that is not needed.

    Attributes
    ----------
    why : for people
    """

    name: str
    why: str
    bytes: int


@dataclass(frozen=True)
class Pruned:
    """What of one store is not needed.

    Attributes
    ----------
    removed : whether it was removed; else this only says what would be
    kept : names of the other groups
    """

    store: str
    groups: list[PrunedGroup]
    kept: list[str]
    notes: list[str]
    removed: bool

    @property
    def bytes(self) -> int:
        """Of all that is not needed."""
        return sum(g.bytes for g in self.groups)


def prune(targets: Sequence[Place], roots: Roots, *, yes: bool = False) -> list[Pruned]:
    """Find what no manifest names, and remove it where `yes` says so.

    Parameters
    ----------
    targets : manifests, whose combos are kept, and stores; of a store without any manifest only
        what a removal or an extract that was cut off has left is not needed

    Raises
    ------
    UserError
        A store or a manifest is not there, or another process writes to a store.
    """
    stores: dict[Place, list[Workspace]] = {}
    for target in targets:
        named = [Workspace.open(target, roots)] if is_manifest(target) else []
        stores.setdefault(named[0].store_path if named else target, []).extend(named)
    # under one of them, what the other's manifests name would be removed
    if len({path.resolve() for path in stores}) < len(stores):
        raise UserError("one store is given under two names; give it once")
    return [_prune(path, manifests, yes) for path, manifests in stores.items()]


def _prune(path: Place, manifests: list[Workspace], yes: bool) -> Pruned:
    if not exists(path):
        raise StoreError(f"{path}: no such store; there is nothing to prune")
    with alone(path, _THEN) if yes else nullcontext(), disk_errors(path, then=_THEN):
        store = FeatureStore.open(path)
        needed, notes = _needed(store, manifests)
        notes += [f"{n} is damaged and left alone; 'gate-cache verify' says more"
                  for n in store.damaged]
        views = [*store.latents(), *store.views()]
        unneeded = {group.name: _why(v, manifests) for v in views if v.name not in needed
                    for group in v.groups}
        unneeded |= dict.fromkeys(leftovers(store.folder, store.attrs["format"]),
                                  "left by what was cut off")
        groups = [PrunedGroup(n, why, store.folder.bytes_below(n)) for n, why in unneeded.items()]
        for name in unneeded if yes else ():
            remove_group(store.folder, name)
        if yes and unneeded:
            write_listing(store.folder)
    return Pruned(str(path), groups, [g.name for v in views if v.name in needed
                                     for g in v.groups], notes, yes)


def _why(view: ComboView, manifests: list[Workspace]) -> str:
    """Why a group is not needed; another filter is told, for one line in a manifest names it."""
    filters = {spec.resample for m in manifests for spec in m.manifest.every_model.values()
               if view.label in (LATENTS, *m.manifest.combos)}
    own = str(view.recipe.get("resample", FIRST))
    more = f", unless one sets 'resample: {own}'" if filters and own not in filters else ""
    return f"no manifest given names it{more}"


def _needed(store: FeatureStore, manifests: list[Workspace]) -> tuple[set[str], list[str]]:
    """Groups to keep: those that a manifest names, and the latents that they are made from."""
    views, notes = store.views(), list[str]()
    if not manifests:
        return {v.name for v in (*views, *store.latents())}, notes
    kept: list[ComboView] = []
    for work in manifests:
        recipes, lines = work.recipes()
        notes += [f"{work.name}: {line}" for line in lines]
        for name in work.manifest.combos:
            recipe = recipes.get(name)
            kept += [v for v in views if v.recipe == recipe] if recipe else [  # or all it may mean
                *(v for v in views if v.label == name), *alike(views, work.manifest, name)]
    latents = {v.recipe.get("latents") for v in kept}
    return {v.name for v in kept} | {v.name for v in store.latents()
                                     if v.fingerprint in latents}, notes

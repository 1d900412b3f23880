"""``diff``: what differs between two manifests, two stores, or a manifest and a store. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from gate_cache.core.errors import StoreError
from gate_cache.core.fingerprint import Recipe, differences
from gate_cache.core.places import Place, is_manifest
from gate_cache.core.preprocessing import FIRST_SETTINGS
from gate_cache.store.format.done import BlockMarks
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.workspace.lookup import wanted_of
from gate_cache.workspace.workspace import Workspace

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots

SHARED = ("kind", "settings", "maps", "size", "tiles", "compute", "pooling", "resize",
          "resample", "background")
"""What of a recipe is known without weights."""


@dataclass
class Side:
    """A manifest's or a store's combos: name to recipe."""

    recipes: dict[str, Recipe]
    store: FeatureStore | None = None
    notes: list[str] = field(default_factory=list)
    partial: bool = False


@dataclass(frozen=True)
class ComboDiff:
    """A combo that both have.

    Attributes
    ----------
    changed : what differs in its recipe, a line each
    rows : images that both stores have done; None where not both are stores
    unequal : of them, with other maps; None where that was not compared
    largest : largest difference of a value; only where values were compared
    """

    name: str
    other: str
    changed: list[str]
    rows: int | None = None
    unequal: int | None = None
    largest: float | None = None

    @property
    def same(self) -> bool:
        """Whether nothing is known to differ."""
        return not self.changed and not self.unequal


@dataclass(frozen=True)
class Diff:
    """Two sides compared."""

    a: str
    b: str
    only_a: list[str]
    only_b: list[str]
    combos: list[ComboDiff]
    notes: list[str]

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not self.only_a and not self.only_b and all(c.same for c in self.combos)


def diff(a: Place, b: Place, roots: Roots, values: bool = False) -> Diff:
    """Compare.

    Parameters
    ----------
    a, b : paths, each of a manifest or a store
    roots : folders that manifests' paths are below
    values : of two stores, read and compare all maps

    Raises
    ------
    UserError
        A side is missing or damaged.
    """
    left, right = _side(a, roots), _side(b, roots)
    notes = [*left.notes, *right.notes]
    pairs = _pairs(left, right)
    if left.store and right.store and not values and not _alike(left.store, right.store):
        notes.append("blocks or rows are laid out differently: maps are compared with --values")
    combos = [_compare(left, right, x, y, values) for x, y in pairs.items()]
    return Diff(str(a), str(b), [n for n in left.recipes if n not in pairs],
                [n for n in right.recipes if n not in pairs.values()], combos, notes)


def _side(path: Place, roots: Roots) -> Side:
    if not is_manifest(path):
        store = FeatureStore.open(path)
        notes = [f"{path}: {name} is damaged and left out" for name in store.damaged]
        return Side({n: store[n].recipe for n in store.combos}, store, notes)
    work = Workspace.open(path, roots)
    recipes, notes = work.recipes()
    return Side({n: recipes.get(n) or wanted_of(work.manifest, n) for n in work.manifest.combos},
                notes=[f"{path.name}: {line}" for line in notes], partial=bool(notes))


def _pairs(a: Side, b: Side) -> dict[str, str]:
    """Combos that belong together: of the same recipe, whatever they are called; else by name."""
    pairs: dict[str, str] = {}
    for same_name in (True, False):  # of several alike, those that are called alike
        for x, recipe in a.recipes.items():
            twins = [y for y, other in b.recipes.items() if y not in pairs.values()
                     and not _changed(recipe, other, a.partial or b.partial)
                     and (x == y or not same_name)]
            if x not in pairs and twins:
                pairs[x] = twins[0]
    return pairs | {x: x for x in a.recipes if x not in pairs and x in b.recipes
                    and x not in pairs.values()}


def _changed(old: Recipe, new: Recipe, partial: bool) -> list[str]:
    if not partial:
        return differences(old, new)
    unsaid = {"resize": "squash", "pooling": None, "tiles": None, **FIRST_SETTINGS}
    old, new = ({**unsaid, **side, **({"maps": sorted(side["maps"])} if side.get("maps") else {})}
                for side in (old, new))
    keys = [k for k in SHARED if k in old and k in new]  # maps and size only where they are given
    return differences({k: old[k] for k in keys}, {k: new[k] for k in keys})


def _compare(a: Side, b: Side, x: str, y: str, values: bool) -> ComboDiff:
    changed = _changed(a.recipes[x], b.recipes[y], a.partial or b.partial)
    if not (a.store and b.store):
        return ComboDiff(x, y, changed)
    left, right = a.store[x], b.store[y]
    rows = _common(left, right)
    if values and left.maps == right.maps:
        unequal, largest = _values(left, right, rows)
        return ComboDiff(x, y, changed, len(rows), unequal, largest)
    alike = _alike(a.store, b.store) and not changed and not left.shaped
    return ComboDiff(x, y, changed, len(rows), _blocks(left, right, rows) if alike else None)


def _common(a: ComboView, b: ComboView) -> list[tuple[int, int]]:
    """Rows of the same image that both have done."""
    here, ours, theirs = a.store.samples, a.done(), b.done()
    matches = b.store.samples.find_all(here.ids, here.sha256.raw)
    rows = (ours & (matches >= 0)).nonzero()[0]
    rows = rows[theirs[matches[rows]]]
    return list(zip(rows.tolist(), matches[rows].tolist(), strict=True))


def _alike(a: FeatureStore, b: FeatureStore) -> bool:
    return a.block == b.block and a.samples.checksum() == b.samples.checksum()


def _blocks(a: ComboView, b: ComboView, rows: list[tuple[int, int]]) -> int:
    """Rows in blocks whose marks, which hold a checksum, differ."""
    blocks = -(-len(a.store.samples) // a.store.block)
    ours, theirs = (BlockMarks(v.store.folder, v.name).read_all(blocks) for v in (a, b))
    block = np.array([row for row, _ in rows], np.int64) // a.store.block
    return int((ours[block] != theirs[block]).sum())


def _values(a: ComboView, b: ComboView, rows: list[tuple[int, int]]) -> tuple[int, float]:
    unequal, largest = 0, 0.0
    for x, y in rows:
        gaps = [_gap(a[name][x], b[name][y], f"{a.name}/{name}") for name in a.maps]
        unequal += any(gaps)
        largest = max(largest, *gaps)
    return unequal, largest


def _gap(old: Any, new: Any, place: str) -> float:
    if old.shape != new.shape:
        raise StoreError(f"{place}: maps of {old.shape} and {new.shape} cannot be compared;"
                         " leave out --values")
    return float(np.abs(old.astype(np.float64) - new).max(initial=0))

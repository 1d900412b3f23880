"""Finding a manifest's combos in a store without the model: by name and settings."""

from __future__ import annotations

from typing import Any

from gate_cache.diffusion.recipes import settings
from gate_cache.errors import RowNotDone, StoreError
from gate_cache.fingerprint import differences
from gate_cache.manifest import Manifest
from gate_cache.store.reader import ComboView, FeatureStore


def find_combo(store: FeatureStore, manifest: Manifest, name: str) -> ComboView:
    """The combo of a store that a manifest means by `name`.

    Weights are compared when extracting; here the store may have come without them.

    Raises
    ------
    StoreError
        Not extracted, or only with other settings: what differs is named.
    """
    combo = manifest.combos[name]
    wanted: dict[str, Any] = {"kind": manifest.kind(name), "settings": settings(combo),
                              "compute": manifest.model.dtype}
    if manifest.model.size:
        wanted["size"] = manifest.model.size
    same = [v for v in store.views() if all(v.recipe[k] == w for k, w in wanted.items())]
    named = [v for v in same if v.label == name] or same
    if len(named) == 1:
        return named[0]
    if named:
        raise StoreError(f"{store.path}: '{name}' was extracted with {len(named)} sets of weights"
                         f" ({', '.join(v.name for v in named)}); remove the old ones")
    stale = [v for v in store.views() if v.label == name]
    if stale:
        have = {k: stale[-1].recipe.get(k) for k in wanted}
        changed = "; ".join(differences(have, wanted))
        raise StoreError(f"{store.path}: '{name}' is stale ({changed}); run 'gate-cache extract'")
    raise StoreError(f"{store.path}: '{name}' is not extracted yet; run 'gate-cache extract'")


def need_all(view: ComboView, rows: list[int]) -> None:
    """Raise `RowNotDone` unless these rows of a combo are extracted."""
    missing = int((~view.done()[rows]).sum())
    if missing:
        raise RowNotDone(f"{view.store.path}: '{view.label}' lacks {missing} of {len(rows)} images;"
                         " run 'gate-cache extract' to go on")

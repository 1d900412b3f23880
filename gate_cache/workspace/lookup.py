"""Finding a manifest's combos in a store: by recipe, or without the weights by settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import RowNotDone, StoreError
from gate_cache.core.fingerprint import Recipe, differences
from gate_cache.core.preprocessing import FIRST_SETTINGS, Preprocessing
from gate_cache.diffusion.techniques.registry import settings, sources

if TYPE_CHECKING:
    from gate_cache.manifest.specs import Manifest, ModelSpec
    from gate_cache.store.reader import ComboView, FeatureStore


class Stale(StoreError):
    """A combo is in the store, but with other settings.

    Parameters
    ----------
    why : what differs, a line each
    """

    def __init__(self, message: str, why: list[str]) -> None:
        super().__init__(message)
        self.why = why


def find_combo(store: FeatureStore, manifest: Manifest, name: str,
               recipe: Recipe | None) -> ComboView:
    """The combo of a store that a manifest means by `name`.

    Parameters
    ----------
    store, manifest : where it is, and what is meant
    name : of the combo in the manifest
    recipe : what decides its values; None where weights are not on this machine: then settings
        and the names of its ControlNet and LoRAs are compared

    Raises
    ------
    Stale
        Only with other settings: what differs is named.
    StoreError
        Not extracted.
    """
    views = store.views()
    matches = [v for v in views if v.recipe == recipe] if recipe else alike(views, manifest, name)
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise StoreError(f"{store.path}: '{name}' was extracted with {len(matches)} sets of weights"
                         f" ({', '.join(v.name for v in matches)}); remove the old ones")
    store.refuse_damaged(name)  # which is not the same as "not extracted yet"
    older = [v for v in views if v.label == name]
    if older:
        now = {"pooling": None, "tiles": None, **_preprocessing(manifest.model_of(name)),
               **(recipe or wanted_of(manifest, name))}
        why = min((_differences(v, now, manifest) for v in older), key=len)  # the likeliest edit
        raise Stale(f"{store.path}: '{name}' is stale ({'; '.join(why)}); run 'gate-cache"
                    " extract'", why)
    raise StoreError(f"{store.path}: '{name}' is not extracted yet; run 'gate-cache extract'")


def _differences(view: ComboView, now: Recipe, manifest: Manifest) -> list[str]:
    model = manifest.model_of(view.label)
    old = {key: _plain(view, key, model) for key in now}
    changed = [key for key in _preprocessing(model) if old[key] != now[key]]
    if changed:  # latents differ by nothing but these, and "latents changed" would say it again
        old["latents"] = now.get("latents")
    keep = [f"'resample: {old['resample']}' in 'model' keeps what is stored"] \
        if "resample" in changed else []
    if view.attrs["kind"] == "attention" and old.get("maps") != now.get("maps") \
            and not manifest.combos[view.label].maps:
        keep.append(f"'maps: [{', '.join(view.maps)}]' in the combo keeps what is stored")
    return differences(old, now) + keep


def _preprocessing(model: ModelSpec) -> dict[str, Any]:
    """How images become the model's input, defaults included."""
    return {"resize": model.fit, **Preprocessing.of(model).settings}


def alike(views: list[ComboView], manifest: Manifest, name: str) -> list[ComboView]:
    """Combos of the same settings and sources, called so, or by a name that is free now."""
    model = manifest.model_of(name)
    same = [v for v in views if all(_plain(v, k, model) == w
                                    for k, w in wanted_of(manifest, name, v).items())]
    return [v for v in same if v.label == name] or \
        [v for v in same if v.label not in manifest.combos]


def wanted_of(manifest: Manifest, name: str, view: ComboView | None = None) -> dict[str, Any]:
    """What a manifest alone says of a combo.

    Parameters
    ----------
    view : what it is compared with, which says whether its model adds noise
    """
    combo, model = manifest.combos[name], manifest.model_of(name)
    noised = view is None or view.recipe.get("schedule") != {}
    return {"kind": manifest.kind(name), "settings": settings(combo, noised),
            "source": sources(combo), "model": model.source,
            "compute": model.compute, **_preprocessing(model),
            **({"size": model.size} if model.size else {}),
            "pooling": combo.pooling or None,
            "tiles": model.tiles.model_dump() if model.tiles else None,
            **({"maps": sorted(combo.maps)} if combo.maps else {})}


def _plain(view: ComboView, key: str, model: ModelSpec) -> Any:
    if key == "source":
        return view.attrs.get(key)
    if key == "model":  # the one of several sources that was there
        used = view.attrs.get(key)
        return model.source if used in model.names else used
    if key == "resize":
        return view.frame.fit
    value = view.recipe.get(key, FIRST_SETTINGS.get(key))
    return sorted(value) if key == "maps" and value else value


def need_all(view: ComboView, rows: list[int]) -> None:
    """Raise `RowNotDone` unless these rows of a combo are extracted."""
    missing = int((~view.done()[rows]).sum())
    if missing:
        raise RowNotDone(f"{view.store.path}: '{view.label}' lacks {missing} of {len(rows)} images;"
                         " run 'gate-cache extract' to resume")

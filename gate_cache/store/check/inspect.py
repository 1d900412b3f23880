"""``inspect``: what a store holds, read from the store alone. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gate_cache.core.size import SHAPE
from gate_cache.store.reader import ComboView, FeatureStore

if TYPE_CHECKING:
    from gate_cache.core.places import Place


@dataclass(frozen=True)
class GroupReport:
    """One combo, or the latents.

    Attributes
    ----------
    maps : name to shape (N, C, h, w) and how it is stored; N is of all images, or of those whose
        input has the group's shape
    error : of the stored values, at most; empty where there is none
    missing : rows that are not extracted
    made : what its blocks were computed with, and how many blocks; empty where it is not noted
    """

    name: str
    combo: str
    kind: str
    fingerprint: str
    settings: dict[str, Any]
    source: dict[str, Any]
    model: str
    compute: str
    maps: dict[str, tuple[list[int], str]]
    done: int
    missing: list[int]
    bytes: int
    error: str
    made: list[dict[str, Any]]


@dataclass(frozen=True)
class StoreReport:
    """A whole store."""

    path: str
    format: int
    dataset: str
    block: int
    batch: int
    versions: dict[str, str]
    images: int
    bytes: int
    groups: list[GroupReport]


def inspect(path: str | Place) -> StoreReport:
    """Describe a store; `StoreError` where there is none."""
    store = FeatureStore.open(path)
    attrs = store.attrs
    groups = [_group(group) for view in (*store.latents(), *store.views()) for group in view.groups]
    return StoreReport(str(store.path), attrs["format"], attrs["dataset"], store.block,
                       attrs["batch"], attrs["versions"], len(store.samples),
                       store.folder.bytes_below(), groups)


def _group(view: ComboView) -> GroupReport:
    attrs, recipe = view.attrs, view.recipe
    done = view.done()
    maps = {name: (list(view[name].shape), str(view.encoding)) for name in view.maps}
    settings = {**(recipe.get("settings") or {"size": recipe.get("size")})}
    settings |= {k: recipe[k] for k in ("resize", SHAPE, "resample", "background") if k in recipe}
    return GroupReport(
        view.name, view.label, attrs["kind"], view.fingerprint, settings,
        attrs.get("source", {}), attrs.get("model", ""), recipe.get("compute", ""), maps,
        int(done.sum()), view.own[~done].tolist(),
        view.store.folder.bytes_below(view.name), view.encoding.error,
        [{"blocks": count, **(asdict(made) if made else {})} for made, count in view.made()])

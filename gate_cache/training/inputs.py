"""What a training needs, brought together and checked: store, buckets, pairs of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import DataError, ManifestError, StoreError, UserError, listed
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset, ImageDataset, Split
from gate_cache.datasets.common.points import has_extent
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.data import MapCache
from gate_cache.learn.features.pairs import PairPoints, load_pairs
from gate_cache.learn.metrics.pck import SELECTED
from gate_cache.learn.mixing.model import CorrespondenceModel, build_baseline, build_gate
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.manifest.heads import CorrespondenceSpec, PixelSpec
from gate_cache.training.hints import hints, typical_radius
from gate_cache.training.members import Members, members_of
from gate_cache.workspace.data_summary import need_trainable, tell_data
from gate_cache.workspace.lookup import find_combo, need_all

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe
    from gate_cache.manifest.load import Loaded
    from gate_cache.manifest.specs import Manifest, TrainSpec
    from gate_cache.store.reader import ComboView, FeatureStore
    from gate_cache.workspace.workspace import Workspace

CACHE_BYTES = 2 * 2**30
"""Maps held in memory at most."""


@dataclass(frozen=True)
class TrainingInputs:
    """One training's inputs.

    Attributes
    ----------
    combos : names of the convolutional combos in a bucket: mixed ones, then the baseline
    mixed : names of those that a trial amalgamates where it names none
    full : buckets of all combos with the attention feature, if any
    task : what is learnt, over those buckets
    pairs : of each split
    published : the data set's whole protocol, where that is more than the splits' pairs
    protocol : of the data set, in words
    members : every image by its split
    """

    spec: TrainSpec
    store: FeatureStore
    combos: tuple[str, ...]
    mixed: tuple[str, ...]
    baseline: str
    full: Buckets
    task: CorrespondenceTask
    pairs: dict[Split, list[PairPoints]]
    published: list[PairPoints]
    protocol: str
    members: Members

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.full.device

    @property
    def has_val(self) -> bool:
        """Whether there is a ``val`` split to choose checkpoints on."""
        return bool(self.pairs["val"])

    @property
    def select(self) -> str:
        """The metric that chooses them."""
        return SELECTED

    def gate(self, spec: TrainSpec) -> CorrespondenceModel:
        """The full model of a trial: its combos, and attention unless it wants none."""
        return build_gate(spec, self.full.channels, self.chosen(spec.combos or self.mixed),
                          self._tokens(spec.attention is not False))

    def single(self, spec: TrainSpec, combo: str | None = None) -> CorrespondenceModel:
        """The head on one feature alone; by default the baseline."""
        chosen = self.chosen([combo or self.baseline])
        return build_baseline(spec, self.full.channels, [1.0], chosen, None)

    def uniform(self, spec: TrainSpec, attention: bool | None = None) -> CorrespondenceModel:
        """The head on the mean of a trial's combos, with attention unless it wants none."""
        combos = spec.combos or self.mixed
        wanted = spec.attention is not False if attention is None else attention
        return build_baseline(spec, self.full.channels, [1 / len(combos)] * len(combos),
                              self.chosen(combos), self._tokens(wanted))

    def _tokens(self, wanted: bool) -> int | None:
        return self.full.tokens if wanted else None

    @property
    def has_attention(self) -> bool:
        """Whether the buckets have an attention feature."""
        return self.full.spec.attention is not None

    def chosen(self, combos: Sequence[str]) -> list[int]:
        """Where these combos are in a bucket."""
        return [self.combos.index(name) for name in combos]

    def splits(self) -> dict[str, dict[str, int]]:
        """Images and pairs of each split."""
        return {split: {"images": len({i for p in pairs for i in (p.pair.source, p.pair.target)}),
                        "pairs": len(pairs)} for split, pairs in self.pairs.items()}

    def config(self) -> dict[str, Any]:
        """What was settled: store, groups and how they are stored, resolution, device, splits."""
        spec = self.full.spec
        return {**features_used(self.store, [*spec.combos, spec.attention]),
                "resolution": self.full.resolution, "device": str(self.full.device),
                "radius_in_cells": typical_radius(self.pairs["test"], self.full),
                "splits": self.splits()}


def open_training_inputs(work: Workspace, specs: Sequence[TrainSpec] = ()) -> TrainingInputs:
    """Open and check everything that a manifest's training needs.

    Parameters
    ----------
    specs : of the trials, whose combos are all read; by default the manifest's own alone

    Raises
    ------
    UserError
        The store lacks something, or the data set has no key points or too few pairs.
    """
    spec, place = specs[0] if specs else work.manifest.train, work.torch_device()
    dataset = _dataset(work)
    need_trainable(work, tell_data(work, dataset), "correspondence")
    store = work.store()
    mixed = mixed_of(work.loaded, specs or [spec])
    combos = read_of(mixed, specs or [spec])
    attention = attention_of(work.manifest, next(
        (s for s in specs if s.attention is not False), spec))
    baseline = spec.baseline or combos[0]
    views = views_of(work, store, [*combos, baseline, attention])
    rows = rows_of(store, dataset, list(views.values()))
    pairs = {split: load_pairs(dataset, split) for split in SPLITS}
    _need_pairs(work, pairs)
    if pairs["val"] and not any(has_extent(p.target.box) for p in pairs["val"]):
        work.progress.say("note: no target of 'val' has a box with an extent, so nothing there"
                          " chooses a checkpoint: the last step's weights are taken")
    published = load_pairs(dataset, None)
    groups = tuple(views[name].name for name in combos)
    own = matching_options(spec)
    asked = BucketSpec(groups, views[attention].name if attention else None, spec.attention_maps,
                       own.resolution, own.standardise)
    full = Buckets(store, asked, place, MapCache(store, CACHE_BYTES), rows)
    for hint in hints(full, views[baseline].name, pairs["test"]):
        work.progress.say(f"note: {hint}")
    return TrainingInputs(
        spec=spec, store=store, combos=combos, mixed=mixed, baseline=baseline, full=full,
        task=CorrespondenceTask(full, pairs, own.matching, own.temperature == "learnt"),
        pairs=pairs,
        published=published if len(published) > sum(map(len, pairs.values())) else [],
        protocol=dataset.protocol, members=members_of(dataset, store, rows),
    )


def _dataset(work: Workspace) -> CorrespondenceDataset:
    named = open_dataset(work.manifest.dataset, work.roots)
    if not isinstance(named, CorrespondenceDataset):
        raise DataError(f"{work.name}: data set '{named.name}' has no key points, and head"
                        f" '{work.manifest.train.head.name}' needs them")
    dataset = work.dataset()
    assert isinstance(dataset, CorrespondenceDataset)
    return dataset


def mixed_of(loaded: Loaded, specs: Sequence[TrainSpec]) -> tuple[str, ...]:
    """Combos that any trial amalgamates, in the manifest's order."""
    conv = loaded.manifest.conv
    extra = {name for s in specs for name in extra_of(s)}
    wanted = {name for s in specs for name in s.combos or [n for n in conv if n not in extra]}
    if len(specs) == 1 and specs[0].combos:
        return tuple(specs[0].combos)
    if not wanted:
        raise ManifestError([f"{loaded.path.name}: train: needs at least one combo of 'conv'"])
    return tuple(name for name in conv if name in wanted)


def matching_options(spec: TrainSpec) -> CorrespondenceSpec:
    """How images are described and matched; of a head that does not, the defaults."""
    return spec.head if isinstance(spec.head, CorrespondenceSpec) else CorrespondenceSpec(name="nn")


def extra_of(spec: TrainSpec) -> list[str]:
    """Combos that a head concatenates as they are."""
    return list(spec.head.extra or ()) if isinstance(spec.head, PixelSpec) else []


def read_of(mixed: Sequence[str], specs: Sequence[TrainSpec]) -> tuple[str, ...]:
    """Those, and baselines that are not among them."""
    return tuple(dict.fromkeys([*mixed, *(s.baseline for s in specs if s.baseline)]))


def views_of(work: Workspace, store: FeatureStore, names: Sequence[str | None],
             extra: Sequence[str] = ()) -> dict[str, ComboView]:
    """The combos of a store that a manifest means; `extra` ones may be another manifest's.

    Raises
    ------
    StoreError
        One is not extracted, or stale.
    """
    recipes, notes = work.recipes()
    for note in notes:
        work.progress.say(f"note: {note}")
    found = {n: find_combo(store, work.manifest, n, recipes.get(n)) for n in names if n}
    for name in extra:
        found[name] = find_combo(store, work.manifest, name, recipes.get(name)) \
            if name in work.manifest.combos else _labelled(store, name)
    return found


def _labelled(store: FeatureStore, name: str) -> ComboView:
    """A combo that another manifest extracted into the same store, by its name there."""
    found = [view for view in store.views() if view.label == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise StoreError(f"{store.path}: train.head.extra: {len(found)} combos are called '{name}'"
                         f" ({', '.join(v.name for v in found)}); remove the old ones")
    raise StoreError(f"{store.path}: train.head.extra: '{name}' is neither a combo of this manifest"
                     " nor in the store; extract it from a manifest of its model with the same"
                     " store.path")


def features_used(store: FeatureStore, groups: Sequence[str | None]) -> dict[str, Any]:
    """A store and its groups, by fingerprint and as they are stored, for a run's configuration."""
    views = {name: store[name] for name in groups if name}
    return {"store": str(store.path), "store_format": store.attrs["format"],
            "samples": {"count": len(store.samples), "checksum": store.samples.checksum()},
            "labels": {n: v.label for n, v in views.items()},
            "model_weights": _weights([v.recipe for v in views.values()]),
            "fingerprints": {n: v.fingerprint for n, v in views.items()},
            "encodings": {n: str(v.encoding) for n, v in views.items()}}


def _weights(recipes: Sequence[Recipe]) -> dict[str, list[str]]:
    """Digests of the weights that made combos' maps, by part of the model."""
    found: dict[str, dict[str, None]] = {}
    for recipe in recipes:
        given = recipe.get("weights")
        for part, digests in given.items() if isinstance(given, dict) else ():
            each = digests if isinstance(digests, list) else [digests]
            found.setdefault(part, {}).update(dict.fromkeys(map(str, each)))
    return {part: list(digests) for part, digests in found.items()}


def attention_of(manifest: Manifest, spec: TrainSpec) -> str | None:
    """The attention combo to concatenate: as `spec` says, else the manifest's only or first one."""
    if spec.attention is False:
        return None
    return spec.attention or next(iter(manifest.attention), None)


def rows_of(store: FeatureStore, dataset: ImageDataset,
            views: list[ComboView]) -> dict[str, int]:
    """Rows of all images: each is in the store with the content it has now, and extracted."""
    ids = [s.id for s in dataset.samples()]
    rows = {i: store.samples.find(i, dataset.sha256(i)) for i in ids}
    lacking = [i for i, row in rows.items() if row is None]
    if lacking:
        raise StoreError(f"{store.path}: {len(lacking)} images of the data set are not in it, or"
                         f" were changed since ({listed(lacking, 3)}); run 'gate-cache extract'")
    found = {i: row for i, row in rows.items() if row is not None}
    for view in views:
        need_all(view, list(found.values()))
    return found


def _need_pairs(work: Workspace, pairs: dict[Split, list[PairPoints]]) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if not pairs[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no pairs of images"
                            " of one category; enlarge it")

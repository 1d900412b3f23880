"""Descriptors of a store's images: of one combo, or of a trained run's amalgamated feature."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from gate_cache.core.errors import UserError
from gate_cache.core.progress import Progress
from gate_cache.core.roots import Roots
from gate_cache.extraction.plan import store_of
from gate_cache.learn.features.bucket import Buckets, BucketSpec, stack
from gate_cache.learn.features.data import MapCache, Recent
from gate_cache.learn.features.described import Described
from gate_cache.learn.mixing.model import amalgamated, fixed
from gate_cache.manifest.heads import heads_of
from gate_cache.manifest.load import Loaded
from gate_cache.manifest.specs import TrainSpec
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.training.inputs import CACHE_BYTES, attention_of, mixed_of, resolution_of, views_of
from gate_cache.training.tasks import matches
from gate_cache.training.trained import Trained, find_trained
from gate_cache.workspace.device import choose_device
from gate_cache.workspace.lookup import need_all

HELD_BYTES = 2**29
"""Descriptors held at most."""


@dataclass(frozen=True)
class Describer:
    """Describes images of a store, by id; what was described is held while memory lasts.

    Attributes
    ----------
    name : of the feature, for people
    views : the combos it is made of
    buckets : of these combos
    model : from a bucket to descriptors
    """

    store: FeatureStore
    name: str
    views: tuple[ComboView, ...]
    buckets: Buckets
    model: nn.Module

    def __call__(self, sample_id: str) -> Described:
        """An image's descriptors.

        Raises
        ------
        RowNotDone
            Its maps are not extracted yet.
        """
        return self._held(sample_id)

    @cached_property
    def _held(self) -> Recent[Described]:
        return Recent(self._describe, lambda found: found.values.nbytes, HELD_BYTES)

    @torch.inference_mode()
    def _describe(self, sample_id: str) -> Described:
        row = self.store.samples.row(sample_id)
        for view in self.views:
            need_all(view, [row])
        window = self.buckets.window(self.size(sample_id))
        values = self.model(stack([self.buckets.named(sample_id)])).values[0]
        return Described(window.cut(values), window)

    def size(self, sample_id: str) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        height, width = self.store.samples.sizes[self.store.samples.row(sample_id)]
        return int(height), int(width)


def of_view(view: ComboView, device: str | None = None) -> Describer:
    """One combo's `feature_maps` as they are: resized, concatenated, of unit length (``nn``)."""
    buckets = _buckets(view.store, BucketSpec((view.name,)), device)
    model = fixed(TrainSpec(), buckets.channels, [1.0], attention=False)
    return Describer(view.store, f"combo {view.label}", (view,), buckets,
                     model.to(buckets.device).eval())


def of_combo(loaded: Loaded, roots: Roots, show: Progress, combo: str | None = None,
             device: str | None = None) -> Describer:
    """One combo of a manifest; by default the one that trainings are compared with.

    Raises
    ------
    UserError
        There is no such combo, or it is not extracted.
    """
    manifest = loaded.manifest
    name = combo or manifest.train.baseline or next(iter(manifest.combos), "")
    if name not in manifest.combos:
        from gate_cache.extraction.passes import chosen_combos

        chosen_combos(loaded, [name])
    store = FeatureStore.open(store_of(loaded, roots))
    return of_view(views_of(store, loaded, roots, [name], [], show)[name], device)


def of_run(run: Path, loaded: Loaded, roots: Roots, show: Progress, *, trial: str | None = None,
           last: bool = False, device: str | None = None) -> Describer:
    """The amalgamated feature of a trained run (Eq. 4), on the store of any manifest like its own.

    Parameters
    ----------
    run, trial, last : as of `find_trained`

    Raises
    ------
    UserError
        There is no such run, its head is not one of correspondence, or the store lacks a combo.
    """
    trained = find_trained(run, trial, last)
    spec = trained.spec
    if not matches(spec):
        raise UserError(f"{run}: was trained with head '{spec.head.name}', which describes no"
                        " points to match; name a run of head"
                        f" {' or '.join(heads_of('correspondence'))}")
    trained.check(loaded)
    return _amalgamated(trained, trained.of(loaded), roots, show, device)


def _amalgamated(trained: Trained, loaded: Loaded, roots: Roots, show: Progress,
                 device: str | None) -> Describer:
    spec, store = trained.spec, FeatureStore.open(store_of(loaded, roots))
    combos, attention = mixed_of(loaded, [spec]), attention_of(loaded.manifest, spec)
    views = views_of(store, loaded, roots, [*combos, attention], [], show)
    maps = tuple(spec.attention_maps) if spec.attention_maps else None
    asked = BucketSpec(tuple(views[name].name for name in combos),
                       views[attention].name if attention else None, maps, resolution_of(spec))
    buckets = _buckets(store, asked, device)
    chosen = [combos.index(name) for name in spec.combos or combos]
    model = amalgamated(spec, buckets.channels, chosen, spec.attention is not False)
    trained.load(model, loaded)
    return Describer(store, f"run {trained.name}", tuple(views.values()), buckets,
                     model.to(buckets.device).eval())


def _buckets(store: FeatureStore, spec: BucketSpec, device: str | None) -> Buckets:
    rows = {name: row for row, name in enumerate(store.samples)}
    return Buckets(store, spec, choose_device(device), MapCache(store, CACHE_BYTES), rows)

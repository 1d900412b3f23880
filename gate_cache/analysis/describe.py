"""What images of a store can be compared by: combos as they are, or a trained run's feature."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from gate_cache.core.errors import StoreError, UserError
from gate_cache.learn.features.bucket import (
    Buckets,
    BucketSpec,
    FeatureSpec,
    Standardise,
    one_frame,
    stack,
    standardised,
)
from gate_cache.learn.features.layout import Maps
from gate_cache.learn.features.samples import SampleReader
from gate_cache.learn.features.similarity import LevelDescriptors, describe
from gate_cache.learn.mixing.amalgamator import CorrespondenceModel, build_model
from gate_cache.manifest.heads import heads_of
from gate_cache.training.features import attention_of, joining_of, mixed_of, views_of
from gate_cache.training.inputs import matches, matching_options
from gate_cache.training.trained import Trained, find_trained

if TYPE_CHECKING:
    from gate_cache.learn.tasks.correspondence import Matching
    from gate_cache.manifest.load import Loaded
    from gate_cache.store.reader import ComboView, FeatureStore
    from gate_cache.workspace.workspace import Workspace

MEAN = "mean"
_READ_BYTES = 2**28
"""Cache of the maps that a trained run amalgamates; `Matcher` keeps what becomes of them."""


class Feature(Protocol):
    """What images can be compared by."""

    @property
    def name(self) -> str:
        """``combo NAME``, ``mean`` or ``run NAME``."""

    @property
    def about(self) -> str:
        """What it is, for a person."""

    def describe(self, row: int) -> LevelDescriptors:
        """Descriptors of an image; `RowNotDone` where its maps are not extracted yet."""


def original_size(store: FeatureStore, row: int) -> tuple[int, int]:
    """(height, width) of an image as it was read."""
    height, width = store.samples.sizes[row]
    return int(height), int(width)


class PlainFeature:
    """Combos as they are, or the mean of several: nothing is trained.

    Parameters
    ----------
    name, about : for messages, and in words
    views : with the same maps
    device : that computes
    standardise : as of `BucketSpec`; attention maps stay as they are
    """

    def __init__(self, name: str, about: str, views: Sequence[ComboView],
                 device: torch.device, standardise: Standardise = "none") -> None:
        self._standardised = standardise == "image" and views[0].attrs["kind"] == "conv"
        self.name = name
        self.about = about + ", channels standardised" * self._standardised
        self._views = views
        self._device = device
        self._maps = views[0].maps
        self._reader = SampleReader({v.name: [v[m] for m in self._maps] for v in views}, 0)

    def describe(self, row: int) -> LevelDescriptors:
        """Levels at their own resolutions, in the dtype they are read in."""
        first = self._views[0]
        placement = first.frame.place(*original_size(first.store, row))
        with one_thread():
            with self._reader.sample(row) as sample:
                maps = sample.maps(self._device)
            levels = [self._level(name, maps) for name in self._maps]
            if self._standardised:
                levels = [standardised(level, placement) for level in levels]
            finest = max((level.shape[-2:] for level in levels), key=prod)
            return describe(levels, placement.window(finest))

    @staticmethod
    def _level(name: str, maps: Maps) -> torch.Tensor:
        parts = [combo[name] for combo in maps.values()]
        if len(parts) == 1:
            return parts[0]
        mean = parts[0].float()  # float16 sums would lose what the combos differ in
        for part in parts[1:]:
            mean = mean.add_(part)
        return mean.div_(len(parts))


@dataclass(frozen=True)
class TrainedFeature:
    """The amalgamated feature of a trained run (Eq. 4)."""

    name: str
    about: str
    store: FeatureStore
    model: CorrespondenceModel
    buckets: Buckets
    matching: Matching

    @torch.inference_mode()
    def describe(self, row: int) -> LevelDescriptors:
        """One level of unit descriptors, of all combos amalgamated."""
        feature = self.model(stack([self.buckets(row)])).values[0]
        window = self.buckets.window(original_size(self.store, row))
        return describe([feature], window, self.matching)


@dataclass(frozen=True)
class Describer:
    """One feature of a store's images, by id."""

    store: FeatureStore
    feature: Feature

    def __call__(self, sample_id: str) -> LevelDescriptors:
        """An image's descriptors; `StoreError` where the store lacks it, or any of its maps."""
        return self.feature.describe(self.store.samples.row(sample_id))


def of_combo(work: Workspace, combo: str | None = None) -> Describer:
    """One combo of a manifest (else `UserError`); by default the baseline of trainings."""
    manifest = work.manifest
    name = combo or manifest.train.baseline or next(iter(manifest.combos), "")
    if name not in manifest.combos:
        from gate_cache.extraction.passes import chosen_combos

        chosen_combos(work, [name])  # raises, with the names that there are
    store = work.store()
    view = views_of(work, store, [name])[name]
    own = matching_options(manifest.train).standardise
    return Describer(store, PlainFeature(f"combo {view.label}", view.label, [view],
                                         work.torch_device(), own))


def of_run(work: Workspace, run: Path, *, trial: str | None = None,
           last: bool = False) -> Describer:
    """The amalgamated feature of a trained run (Eq. 4), on the store of any manifest like its own.

    Parameters
    ----------
    work : the manifest and its store
    run, trial, last : as of `find_trained`

    Raises
    ------
    UserError
        There is no such run, its head is not one of correspondence, or the store lacks a combo.
    """
    trained = _of_pairs(find_trained(run, trial, last))
    trained.check(work)
    of_spec, spec = work.with_manifest(train=trained.spec), trained.spec
    store = work.store()
    combos, attention = mixed_of(of_spec.loaded, [spec]), attention_of(of_spec.manifest, spec)
    views = views_of(of_spec, store, [*combos, attention])
    return Describer(store, _amalgamated(trained, of_spec.loaded, views, work.torch_device()))


def of_store(store: FeatureStore, run: Path, trial: str | None,
             device: torch.device) -> TrainedFeature:
    """The amalgamated feature of a run on the store it was trained on; no manifest is needed.

    Parameters
    ----------
    store : that the run was trained on
    run, trial : as of `find_trained`
    device : that computes

    Raises
    ------
    UserError
        There is no such run, it has another head, or was trained on what the store does not hold.
    """
    trained = _of_pairs(find_trained(run, trial))
    return _amalgamated(trained, trained.loaded, trained.views(store), device)


def _of_pairs(trained: Trained) -> Trained:
    if not matches(trained.spec):
        raise UserError(f"{trained.run}: was trained with head '{trained.spec.head.name}', which"
                        " describes no points to match; name a run of head"
                        f" {' or '.join(heads_of('correspondence'))}")
    return trained


def _amalgamated(trained: Trained, loaded: Loaded, views: Mapping[str, ComboView],
                 device: torch.device) -> TrainedFeature:
    """A run's model over the combos of a store, convolutional ones in the order of its bucket."""
    spec = trained.spec
    conv = [v for v in views.values() if v.attrs["kind"] == "conv"]
    attention = next((v for v in views.values() if v.attrs["kind"] == "attention"), None)
    own = matching_options(spec)
    bucket = BucketSpec(tuple(v.name for v in conv), attention.name if attention else None,
                        spec.attention_maps, own.resolution, own.standardise,
                        joining=joining_of(loaded.manifest, spec, views))
    store = conv[0].store
    buckets = Buckets(store, bucket, device, {}, _READ_BYTES)  # images are asked for by row
    model = build_model(spec, buckets.channels, tokens=buckets.tokens)
    trained.load(model, loaded.path.name)
    many = "s" if spec.assigners > 1 else ""
    with_attention = " + attention" * bool(attention)
    about = f"head {spec.head.name}, {spec.assigners} assigner{many}{with_attention}"
    return TrainedFeature(f"run {trained.name}", about, store, model.to(device).eval(), buckets,
                          own.matching)


def plain_features(store: FeatureStore, device: torch.device,
                   standardise: Standardise = "none") -> list[Feature]:
    """Every combo, convolutional ones first, and the mean of these where they can be averaged."""
    views = dict(zip(store.combos, store.views(), strict=True))
    conv = [v for v in views.values() if v.attrs["kind"] == "conv"]
    features: list[Feature] = [PlainFeature(f"combo {n}", n, [v], device, standardise) for n, v in
                               sorted(views.items(), key=lambda item: item[1] not in conv)]
    if len(conv) > 1 and _amalgamable(store, conv):
        about = f"uniform mean of {len(conv)} combos"
        features.append(PlainFeature(MEAN, about, conv, device, standardise))
    return features


def _amalgamable(store: FeatureStore, views: Sequence[ComboView]) -> bool:
    """Whether these have the same maps of images fitted in the same way."""
    try:
        one_frame(store, FeatureSpec(tuple(v.name for v in views)))
    except StoreError:
        return False
    return len({tuple((m, v[m].shape) for m in v.maps) for v in views}) == 1


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for work so short that starting and joining more would only delay it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

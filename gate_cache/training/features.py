"""What trials read of a store, brought together and checked: combos, rows, members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import ManifestError, StoreError, counted, did_you_mean, listed
from gate_cache.learn.features.bucket_maps import Joining
from gate_cache.learn.mixing.projection import fitted
from gate_cache.manifest.heads import PixelSpec
from gate_cache.training.members import Members, members_of
from gate_cache.workspace.lookup import find_combo, need_all

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe
    from gate_cache.datasets.common.base import ImageDataset
    from gate_cache.manifest.load import Loaded
    from gate_cache.manifest.specs import Manifest
    from gate_cache.manifest.train_spec import TrainSpec
    from gate_cache.store.reader import ComboView, FeatureStore
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class StudyInputs:
    """What a training of any head needs.

    Attributes
    ----------
    spec : settings of the training, or of a sweep's first trial
    combos : names of the convolutional combos that are read: mixed ones, then the baseline
    mixed : names of those that a trial amalgamates where it names none
    members : every image by its split
    protocol : of the data set, in words
    twins : groups of the mirrored image by those of the image, where sources are aligned
    features : of all combos, with the attention feature and extra combos, if any
    task : what is learnt from them
    """

    spec: TrainSpec
    store: FeatureStore
    combos: tuple[str, ...]
    mixed: tuple[str, ...]
    baseline: str
    members: Members
    protocol: str
    twins: dict[str, str]
    features: Any
    task: Any

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return torch.device(self.features.device)

    @property
    def select(self) -> str:
        """The metric that chooses checkpoints on ``val``."""
        return str(self.task.select)

    @property
    def has_attention(self) -> bool:
        """Whether there is an attention feature."""
        return self.features.spec.attention is not None

    def chosen(self, combos: Sequence[str]) -> list[int]:
        """Where these combos are in a bucket."""
        return [self.combos.index(name) for name in combos]

    def gate(self, spec: TrainSpec) -> Any:
        """The full model of a trial: its combos, and attention unless it wants none."""
        return self._model(spec, spec.combos or self.mixed, None, spec.attention is not False)

    def single(self, spec: TrainSpec, combo: str | None = None) -> Any:
        """The head on one feature alone; by default the baseline."""
        return self._model(spec, [combo or self.baseline], [1.0], False)

    def uniform(self, spec: TrainSpec, attention: bool | None = None) -> Any:
        """The head on the mean of a trial's combos, with attention unless it wants none."""
        combos = spec.combos or self.mixed
        with_attention = spec.attention is not False if attention is None else attention
        return self._model(spec, combos, [1 / len(combos)] * len(combos), with_attention)

    def _model(self, spec: TrainSpec, combos: Sequence[str], weights: list[float] | None,
               attention: bool) -> Any:
        return fitted(self.task.model(spec, self.chosen(combos), weights, attention),
                      self.task.examples, list(self.members["train"]))

    @property
    def has_val(self) -> bool:
        """Whether there is a ``val`` split to choose checkpoints on."""
        return self.splits()["val"]["images"] > 0

    def splits(self) -> dict[str, dict[str, int]]:
        """Images, and of a head that matches points pairs, of each split."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """What was settled: store, groups and how they are stored, resolution, device, splits."""
        spec = self.features.spec
        groups = [*spec.combos, spec.attention, *getattr(spec, "extra", ()), *self.twins.values()]
        return {**features_used(self.store, groups), "resolution": self.features.resolution.sides,
                "device": str(self.device), "splits": self.splits()}


@dataclass(frozen=True)
class Opened:
    """A store's combos that trials read, and where a data set's images are in it.

    Attributes
    ----------
    shared : fields of `StudyInputs`, but for the features and the task
    groups, attention : names of the groups of `combos`, and of the attention feature
    views : by combo
    rows : by sample
    joining : of maps of several models
    """

    shared: dict[str, Any]
    groups: tuple[str, ...]
    attention: str | None
    views: dict[str, ComboView]
    rows: dict[str, int]
    joining: Joining | None


def open_features(work: Workspace, dataset: Any, specs: Sequence[TrainSpec]) -> Opened:
    """Open and check what trials read of a store.

    Raises
    ------
    StoreError
        A combo is not extracted or stale, or an image is not in it.
    """
    spec, store = specs[0], work.store()
    mixed = mixed_of(work.loaded, specs)
    combos = tuple(dict.fromkeys([*mixed, *(s.baseline for s in specs if s.baseline)]))
    baseline = spec.baseline or combos[0]
    # trials of a study agree in the attention combo, but for those that want none (`alike`)
    attention = next((a for s in specs if (a := attention_of(work.manifest, s))), None)
    mirrored = mirrored_of(work, [*combos, attention]) \
        if getattr(spec.head, "pose_align", False) else {}
    views = views_of(work, store, [*combos, baseline, attention, *mirrored.values()],
                     extra_of(spec))
    rows = rows_of(store, dataset, list(views.values()))
    shared = {"spec": spec, "store": store, "combos": combos, "mixed": mixed, "baseline": baseline,
              "members": members_of(dataset, store, rows), "protocol": dataset.protocol,
              "twins": {views[name].name: views[twin].name for name, twin in mirrored.items()}}
    return Opened(shared, tuple(views[name].name for name in combos),
                  views[attention].name if attention else None, views, rows,
                  joining_of(work.manifest, spec, views))


def joining_of(manifest: Manifest, spec: TrainSpec,
               views: Mapping[str, ComboView]) -> Joining | None:
    """How a training joins the maps of several models.

    Parameters
    ----------
    manifest, spec : with its models; the training's settings
    views : of the combos that it mixes, by name

    Raises
    ------
    ManifestError
        A share is of no model.
    """
    if spec.mix is None:
        return None
    for name in spec.mix.shares:
        if name not in manifest.every_model:
            raise ManifestError([f"train.mix.shares: '{name}' is not a model of this manifest"
                                 f"{did_you_mean(name, manifest.every_model)}"])
    models = {view.name: manifest.model_name(manifest.combos[name])
              for name, view in views.items() if name in manifest.combos}
    shares = {group: spec.mix.shares.get(model, 1.0) for group, model in models.items()}
    return Joining(spec.mix.unit, shares, models)


def mirrored_of(work: Workspace, names: Sequence[str | None]) -> dict[str, str]:
    """Each combo's twin of the mirrored image, or of the image where it is mirrored itself.

    Raises
    ------
    ManifestError
        A combo has none.
    """
    combos, twins = work.manifest.combos, {}
    for name in filter(None, names):
        wanted = combos[name].model_copy(update={"mirror": not combos[name].mirror}).model_dump()
        twin = next((n for n, c in combos.items() if c.model_dump() == wanted), None)
        if twin is None:
            raise ManifestError([f"{work.name}: train.head.pose_align: combo '{name}' has no twin"
                                 f" with mirror: {str(wanted['mirror']).lower()}; add one that is"
                                 " the same but for that"])
        twins[name] = twin
    return twins


def mixed_of(loaded: Loaded, specs: Sequence[TrainSpec]) -> tuple[str, ...]:
    """Combos that any trial amalgamates, in the manifest's order."""
    conv = loaded.manifest.conv
    extra = {name for s in specs for name in extra_of(s)}
    mixed = {name for s in specs for name in s.combos or [n for n in conv if n not in extra]}
    if len(specs) == 1 and specs[0].combos:
        return tuple(specs[0].combos)  # in an order of its own, as its weights are kept
    if not mixed:
        raise ManifestError([f"{loaded.path.name}: train: needs at least one combo of 'conv'"])
    return tuple(name for name in conv if name in mixed)


def extra_of(spec: TrainSpec) -> list[str]:
    """Combos that a head concatenates as they are."""
    return list(spec.head.extra or ()) if isinstance(spec.head, PixelSpec) else []


def views_of(work: Workspace, store: FeatureStore, names: Sequence[str | None],
             extra: Sequence[str] = ()) -> dict[str, ComboView]:
    """The combos of a store that a manifest means; `extra` ones may be another manifest's.

    Parameters
    ----------
    work : the manifest on this machine
    store : where they are
    names : of the manifest's combos; None is passed over
    extra : names of combos, of the manifest or another one

    Raises
    ------
    StoreError
        One is not extracted, or stale.
    """
    recipes, notes = work.recipes()
    for note in notes:
        work.progress.say(f"note: {note}")
    views = {n: find_combo(store, work.manifest, n, recipes.get(n)) for n in names if n}
    for name in extra:
        views[name] = find_combo(store, work.manifest, name, recipes.get(name)) \
            if name in work.manifest.combos else _labelled(store, name)
    return views


def _labelled(store: FeatureStore, name: str) -> ComboView:
    """A combo that another manifest extracted into the same store, by its name there."""
    views = [view for view in store.views() if view.label == name]
    if len(views) == 1:
        return views[0]
    if views:
        raise StoreError(f"{store.path}: train.head.extra: {len(views)} combos are called '{name}'"
                         f" ({', '.join(v.name for v in views)}); remove the old ones")
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
    by_part: dict[str, dict[str, None]] = {}
    for recipe in recipes:
        weights = recipe.get("weights")
        for part, digests in weights.items() if isinstance(weights, dict) else ():
            values = digests if isinstance(digests, list) else [digests]
            by_part.setdefault(part, {}).update(dict.fromkeys(map(str, values)))
    return {part: list(digests) for part, digests in by_part.items()}


def attention_of(manifest: Manifest, spec: TrainSpec) -> str | None:
    """The attention combo to concatenate: as `spec` says, else the manifest's only or first one."""
    if spec.attention is False:
        return None
    return spec.attention or next(iter(manifest.attention), None)


def rows_of(store: FeatureStore, dataset: ImageDataset,
            views: list[ComboView]) -> dict[str, int]:
    """Rows of all images: each is in the store with the content it has now, and extracted."""
    rows = {s.id: store.samples.find(s.id, dataset.sha256(s.id)) for s in dataset.samples()}
    if lacking := [i for i, row in rows.items() if row is None]:
        raise StoreError(f"{store.path}: not in it, or changed since:"
                         f" {counted(len(lacking), 'image')} of the data set ({listed(lacking, 3)}"
                         "); run 'gate-cache extract'")
    row_of = {i: row for i, row in rows.items() if row is not None}
    for view in views:
        need_all(view, list(row_of.values()))
    return row_of

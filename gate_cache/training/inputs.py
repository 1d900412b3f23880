"""What a training needs, brought together and checked: store, buckets, pairs of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from gate_cache.core.errors import DataError, UserError
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset, Split
from gate_cache.datasets.common.points import has_extent
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.pairs import PairPoints, images_of, load_pairs
from gate_cache.learn.metrics.pck import SELECTED
from gate_cache.learn.mixing.model import CorrespondenceModel, build_baseline, build_gate
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.manifest.heads import CorrespondenceSpec
from gate_cache.training.features import Inputs, features_used, open_features
from gate_cache.workspace.data_summary import need_trainable, tell_data

if TYPE_CHECKING:
    from gate_cache.manifest.specs import TrainSpec
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class TrainingInputs(Inputs):
    """One training's inputs, of a head that matches points.

    Attributes
    ----------
    full : buckets of all combos with the attention feature, if any
    task : what is learnt, over those buckets
    pairs : of each split
    published : the data set's whole protocol, where that is more than the splits' pairs
    """

    full: Buckets
    task: CorrespondenceTask
    pairs: dict[Split, Sequence[PairPoints]]
    published: Sequence[PairPoints]

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
                          spec.attention is not False)

    def single(self, spec: TrainSpec, combo: str | None = None) -> CorrespondenceModel:
        """The head on one feature alone; by default the baseline."""
        chosen = self.chosen([combo or self.baseline])
        return build_baseline(spec, self.full.channels, [1.0], chosen, attention=False)

    def uniform(self, spec: TrainSpec, attention: bool | None = None) -> CorrespondenceModel:
        """The head on the mean of a trial's combos, with attention unless it wants none."""
        combos = spec.combos or self.mixed
        wanted = spec.attention is not False if attention is None else attention
        return build_baseline(spec, self.full.channels, [1 / len(combos)] * len(combos),
                              self.chosen(combos), wanted)

    @property
    def has_attention(self) -> bool:
        """Whether the buckets have an attention feature."""
        return self.full.spec.attention is not None

    def splits(self) -> dict[str, dict[str, int]]:
        """Images and pairs of each split."""
        return {split: {"images": images_of(pairs), "pairs": len(pairs)}
                for split, pairs in self.pairs.items()}

    def config(self) -> dict[str, Any]:
        """What was settled: store, groups and how they are stored, resolution, device, splits."""
        spec = self.full.spec
        return {**features_used(self.store, [*spec.combos, spec.attention]),
                "resolution": self.full.resolution, "device": str(self.full.device),
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
    specs = list(specs) or [work.manifest.train]
    dataset, spec = _dataset(work), specs[0]
    need_trainable(work, tell_data(work, dataset), "correspondence")
    opened = open_features(work, dataset, specs)
    pairs = {split: load_pairs(dataset, split) for split in SPLITS}
    _need_pairs(work, pairs)
    if pairs["val"] and not any(has_extent(p.target.box) for p in pairs["val"]):
        work.progress.say("note: no target of 'val' has a box with an extent, so nothing there"
                          " chooses a checkpoint: the last step's weights are taken")
    published = load_pairs(dataset, None)
    maps = tuple(spec.attention_maps) if spec.attention_maps else None
    asked = BucketSpec(opened.groups, opened.attention, maps, resolution_of(spec))
    full = Buckets(opened.inputs.store, asked, work.torch_device(), opened.rows)
    return TrainingInputs(
        **opened.shared, full=full, task=CorrespondenceTask(full, pairs, matching_of(spec)),
        pairs=pairs,
        published=published if len(published) > sum(map(len, pairs.values())) else [])


def _dataset(work: Workspace) -> CorrespondenceDataset:
    named = open_dataset(work.manifest.dataset, work.roots)
    if not isinstance(named, CorrespondenceDataset):
        raise DataError(f"{work.name}: data set '{named.name}' has no key points, and head"
                        f" '{work.manifest.train.head.name}' needs them")
    dataset = work.dataset()
    assert isinstance(dataset, CorrespondenceDataset)
    return dataset


def resolution_of(spec: TrainSpec) -> int | None:
    """Side to which maps are resized, where a head of correspondence says it."""
    return spec.head.resolution if isinstance(spec.head, CorrespondenceSpec) else None


def matching_of(spec: TrainSpec) -> Literal["dense", "cells"]:
    """Where a head of correspondence searches matches."""
    return spec.head.matching if isinstance(spec.head, CorrespondenceSpec) else "dense"


def _need_pairs(work: Workspace, pairs: dict[Split, Sequence[PairPoints]]) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if not pairs[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no pairs of images"
                            " of one category; enlarge it")

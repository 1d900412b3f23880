"""What a training needs, brought together and checked: store, buckets, pairs of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import DataError, UserError
from gate_cache.datasets.common.base import SPLITS, CorrespondenceDataset, Split
from gate_cache.datasets.common.points import has_extent
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.pairs import PairPoints, images_of, load_pairs
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.manifest.heads import CorrespondenceSpec
from gate_cache.training.features import StudyInputs, open_features
from gate_cache.training.hints import hints, typical_radius
from gate_cache.workspace.data_summary import need_trainable, tell_data

if TYPE_CHECKING:
    from gate_cache.manifest.specs import TrainSpec
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class TrainingInputs(StudyInputs):
    """One training's inputs, of a head that matches points.

    Attributes
    ----------
    pairs : of each split
    published : the data set's whole protocol, where that is more than the splits' pairs
    """

    features: Buckets
    task: CorrespondenceTask
    pairs: dict[Split, Sequence[PairPoints]]
    published: Sequence[PairPoints]

    @property
    def has_val(self) -> bool:
        """Whether there is a ``val`` split to choose checkpoints on."""
        return bool(self.pairs["val"])

    def splits(self) -> dict[str, dict[str, int]]:
        """Images and pairs of each split."""
        return {split: {"images": images_of(pairs), "pairs": len(pairs)}
                for split, pairs in self.pairs.items()}

    def config(self) -> dict[str, Any]:
        """With the radius of PCK in cells."""
        return {**super().config(),
                "radius_in_cells": typical_radius(self.pairs["test"], self.features)}


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
    own = matching_options(spec)
    bucket_spec = BucketSpec(opened.groups, opened.attention, spec.attention_maps, own.resolution,
                             own.standardise, opened.joining)
    full = Buckets(opened.shared["store"], bucket_spec, work.torch_device(), opened.rows)
    for hint in hints(full, opened.views[opened.shared["baseline"]].name, pairs["test"]):
        work.progress.say(f"note: {hint}")
    return TrainingInputs(
        **opened.shared, features=full, pairs=pairs,
        task=CorrespondenceTask(full, pairs, own.matching, own.temperature == "learnt"),
        published=published if len(published) > sum(map(len, pairs.values())) else [])


def _dataset(work: Workspace) -> CorrespondenceDataset:
    named = open_dataset(work.manifest.dataset, work.roots)
    if not isinstance(named, CorrespondenceDataset):
        raise DataError(f"{work.name}: data set '{named.name}' has no key points, and head"
                        f" '{work.manifest.train.head.name}' needs them")
    dataset = work.dataset()
    assert isinstance(dataset, CorrespondenceDataset)
    return dataset


def matching_options(spec: TrainSpec) -> CorrespondenceSpec:
    """How images are described and matched; of a head that does not, the defaults."""
    return spec.head if isinstance(spec.head, CorrespondenceSpec) else CorrespondenceSpec(name="nn")


def _need_pairs(work: Workspace, pairs: dict[Split, Sequence[PairPoints]]) -> None:
    needed: tuple[Split, ...] = ("train", "test")
    for split in needed:
        if not pairs[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no pairs of images"
                            " of one category; enlarge it")

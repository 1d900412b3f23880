"""What a training needs, brought together and checked: store, buckets, pairs of each split."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

import gate_cache
from gate_cache.core.errors import DataError, UserError
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.versions import versions
from gate_cache.datasets.common.base import (
    SPLITS,
    ClassifiedDataset,
    CorrespondenceDataset,
    SegmentationDataset,
    Split,
)
from gate_cache.datasets.common.model_input import model_input
from gate_cache.datasets.common.points import has_extent
from gate_cache.datasets.registry import open_dataset
from gate_cache.learn.features.bucket import Buckets, BucketSpec
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.features.pairs import PairPoints, images_of, load_pairs
from gate_cache.learn.features.samples import HELD_BYTES
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.pose import MirroredPose, partners_of
from gate_cache.learn.tasks.segmentation import LEVELS, SegmentationTask
from gate_cache.manifest.heads import (
    TASKS,
    CorrespondenceSpec,
    DenseSpec,
    PixelSpec,
    PooledSpec,
    head_of,
)
from gate_cache.training.features import Opened, StudyInputs, extra_of, open_features
from gate_cache.training.hints import hints, radius, repeats
from gate_cache.workspace.data_summary import need_trainable, tell_data

if TYPE_CHECKING:
    from gate_cache.learn.tasks.task import Task
    from gate_cache.manifest.train_spec import TrainSpec
    from gate_cache.workspace.workspace import Workspace


FEW_BYTES = 2**28
"""Maps held in memory where they are read once and condensed: to pixels, to pooled features."""
HAS: dict[str, type] = {"correspondence": CorrespondenceDataset, "pixels": SegmentationDataset,
                        "classification": ClassifiedDataset}
"""What a data set is that a task can be learnt from; masks are for ``segmentation``, too."""


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

    def splits(self) -> dict[str, dict[str, int]]:
        """Images and pairs of each split."""
        return {split: {"images": images_of(pairs), "pairs": len(pairs)}
                for split, pairs in self.pairs.items()}

    def config(self) -> dict[str, Any]:
        """With the radius of PCK in cells."""
        return {**super().config(),
                "radius_in_cells": radius(self.pairs["test"], self.features)}


@dataclass(frozen=True)
class DenseInputs(StudyInputs):
    """One training's inputs, of a head that classifies images or pixels.

    Attributes
    ----------
    ids : samples of each split
    """

    features: NativeMaps
    task: Task
    ids: dict[Split, list[str]]

    def splits(self) -> dict[str, dict[str, int]]:
        """Images of each split."""
        return {split: {"images": len(ids)} for split, ids in self.ids.items()}


Study = TrainingInputs | DenseInputs


def open_any(work: Workspace, specs: Sequence[TrainSpec] = ()) -> Study:
    """Open and check everything that the head of these trials needs.

    Parameters
    ----------
    work : the manifest on this machine
    specs : of the trials, whose combos are all read; by default the manifest's own alone

    Raises
    ------
    UserError
        The store lacks something, or the data set lacks what the head needs, or some of a split.
    """
    specs = list(specs) or [work.manifest.train]
    dataset = _dataset(work, specs[0])
    need_trainable(work, tell_data(work, dataset), task_of(specs[0]))
    opened = open_features(work, dataset, specs)
    for line in repeats(dataset, opened):
        work.progress.say(f"note: {line}")
    study = _of_points(work, dataset, opened) if isinstance(dataset, CorrespondenceDataset) \
        and matches(specs[0]) else _of_images(work, dataset, opened)
    study.task.show = work.progress
    return study


def _dataset(work: Workspace, spec: TrainSpec) -> Any:
    task = task_of(spec)
    kind = HAS.get(task, SegmentationDataset)
    named = open_dataset(work.manifest.dataset, work.roots)  # its kind is known without its files
    if not isinstance(named, kind):
        raise DataError(f"{work.name}: data set '{named.name}' has no {TASKS[task].needs}, and head"
                        f" '{spec.head.name}' needs them")
    return work.dataset()


def _need(work: Workspace, splits: Mapping[Split, Sequence[Any]], what: str) -> None:
    for split in ("train", "test"):
        if not splits[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no {what}; enlarge it")


def _of_points(work: Workspace, dataset: CorrespondenceDataset, opened: Opened) -> TrainingInputs:
    pairs = {split: load_pairs(dataset, split) for split in SPLITS}
    _need(work, pairs, "pairs of images of one category")
    if pairs["val"] and not any(has_extent(p.target.box) for p in pairs["val"]):
        work.progress.say("note: no target of 'val' has a box with an extent, so nothing there"
                          " chooses a checkpoint: the last step's weights are taken")
    published, spec = load_pairs(dataset, None), opened.shared["spec"]
    own = matching_options(spec)
    bucket_spec = BucketSpec(opened.groups, opened.attention, spec.attention_maps, own.resolution,
                             own.standardise, joining=opened.joining)
    full = Buckets(opened.shared["store"], bucket_spec, work.torch_device(), opened.rows)
    for hint in hints(full, opened.views[opened.shared["baseline"]].name, pairs["test"]):
        work.progress.say(f"note: {hint}")
    return TrainingInputs(
        **opened.shared, features=full, pairs=pairs,
        task=CorrespondenceTask(full, pairs, own.matching, own.temperature == "learnt",
                                _mirrored(work, dataset, full, opened) if own.pose_align else None),
        published=published if len(published) > sum(map(len, pairs.values())) else [])


def _mirrored(work: Workspace, dataset: CorrespondenceDataset, full: Buckets,
              opened: Opened) -> MirroredPose:
    """The pose in which every source is tried, too."""
    named: dict[str, list[str]] = getattr(dataset, "point_names", dict)()
    partners = {category: partners_of(names) for category, names in named.items()}
    if not any((numbers != np.arange(len(numbers))).any() for numbers in partners.values()):
        raise DataError(f"{work.name}: train.head.pose_align: data set '{dataset.name}' names no"
                        " points left and right, so nothing tells what a mirrored point is")
    twins = opened.shared["twins"]
    attention = opened.attention and twins[opened.attention]
    return MirroredPose(full.of(tuple(twins[g] for g in opened.groups), attention), partners)


def matching_options(spec: TrainSpec) -> CorrespondenceSpec:
    """How images are described and matched; of a head that does not, the defaults."""
    return spec.head if isinstance(spec.head, CorrespondenceSpec) else CorrespondenceSpec(name="nn")


def _of_images(work: Workspace, dataset: SegmentationDataset | ClassifiedDataset,
               opened: Opened) -> DenseInputs:
    ids: dict[Split, list[str]] = {s: [] for s in SPLITS}
    for sample in dataset.samples():
        ids[dataset.split_of(sample.id)].append(sample.id)
    _need(work, ids, "images")
    spec = opened.shared["spec"]
    dense = task_of(spec) == "segmentation"
    native_spec = NativeSpec(opened.groups, opened.attention, spec.attention_maps,
                             tuple(opened.views[c].name for c in extra_of(spec)),
                             LEVELS if dense else None,
                             spec.head.pool if isinstance(spec.head, PooledSpec) else 1,
                             *((spec.head.upsampler, spec.head.upsampled)
                               if isinstance(spec.head, DenseSpec) else ()),
                             joining=opened.joining)
    frame = opened.views[opened.shared["baseline"]].frame
    maps = NativeMaps(opened.shared["store"], native_spec, work.torch_device(), opened.rows,
                      dataset.size, HELD_BYTES if dense else FEW_BYTES, lambda i: model_input(
                          dataset, i, Preprocessing(frame.size, frame.fit, shapes=frame.shapes)))
    return DenseInputs(**opened.shared, features=maps, task=_task(maps, dataset, ids, spec),
                       ids=ids)


def _task(maps: NativeMaps, dataset: SegmentationDataset | ClassifiedDataset,
          ids: dict[Split, list[str]], spec: TrainSpec) -> Task:
    if task_of(spec) == "classification":
        return ClassificationTask(maps, cast(ClassifiedDataset, dataset), ids)
    masks = cast(SegmentationDataset, dataset)
    if isinstance(spec.head, PixelSpec):
        own = spec.head
        return PixelTask(maps, masks, ids, own.reservoir_mb * 2**20, own.sampling, own.min_pixels)
    return SegmentationTask(maps, masks, ids)


def task_of(spec: TrainSpec) -> str:
    """The task of a training's head."""
    return head_of(spec.head.name).task


def matches(spec: TrainSpec) -> bool:
    """Whether a training's head matches points."""
    return task_of(spec) == "correspondence"


def measured(study: Study) -> str:
    """What is measured, and how, in words."""
    return f"{study.protocol}; {head_of(study.spec.head.name).measured}"


def alike(spec: TrainSpec) -> tuple[Any, ...]:
    """What trials of one study agree in."""
    attention = spec.attention if isinstance(spec.attention, str) else None
    head = head_of(spec.head.name)
    own = {name: getattr(spec.head, name, None) for name in TASKS[head.task].shared}
    return (head.task, head.metric, attention, str(spec.attention_maps), spec.baseline,
            str(own), str(spec.mix))


def settled(work: Workspace, study: Study) -> dict[str, Any]:
    """Everything that is settled before a training begins."""
    return {
        "gate_cache": gate_cache.__version__, "torch": str(torch.__version__),
        "versions": versions(), "began": time.strftime("%Y-%m-%d %H:%M"),
        "manifest_file": work.name, **study.config(),
        "combos": list(study.combos), "baseline": study.baseline, "select": study.select,
        "protocol": measured(study),
        "manifest": work.manifest.model_dump(mode="json", by_alias=True),
    }

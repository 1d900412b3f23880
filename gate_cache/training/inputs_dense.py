"""What a training of images or pixels needs: store, maps, masks or labels of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from torch import nn

from gate_cache.core.errors import DataError, UserError
from gate_cache.datasets.common.base import (
    SPLITS,
    ClassifiedDataset,
    SegmentationDataset,
    Split,
)
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.features.samples import HELD_BYTES
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.segmentation import LEVELS, SegmentationTask
from gate_cache.learn.tasks.task import Scores, Task
from gate_cache.manifest.heads import TASKS, PixelSpec, PooledSpec, head_of
from gate_cache.training.features import StudyInputs, extra_of, open_features
from gate_cache.workspace.data_summary import need_trainable, tell_data

if TYPE_CHECKING:
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.manifest.specs import TrainSpec
    from gate_cache.workspace.workspace import Workspace

FEW_BYTES = 2**28
"""Maps held in memory where they are read once and condensed: to pixels, to pooled features."""


class DenseTask(Task, Protocol):
    """A task that makes its own models."""

    select: str

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> nn.Module:
        """GATE, or a baseline with given weights.

        Parameters
        ----------
        spec : of the trial
        chosen : numbers of the combos that are mixed
        weights : one a combo, of a baseline; None where they are learnt
        attention : whether attention maps are read
        """

    def floors(self) -> dict[Role, Scores]:
        """What labels alone say of ``test``."""


@dataclass(frozen=True)
class DenseInputs(StudyInputs):
    """One training's inputs, of a head that classifies images or pixels.

    Attributes
    ----------
    ids : samples of each split
    """

    features: NativeMaps
    task: DenseTask
    ids: dict[Split, list[str]]

    @property
    def has_val(self) -> bool:
        """Whether there is a ``val`` split to choose checkpoints on."""
        return bool(self.ids["val"])

    def splits(self) -> dict[str, dict[str, int]]:
        """Images of each split."""
        return {split: {"images": len(ids)} for split, ids in self.ids.items()}


def open_dense_inputs(work: Workspace, specs: Sequence[TrainSpec] = ()) -> DenseInputs:
    """Open and check everything that a training of images or pixels needs.

    Parameters
    ----------
    specs : of the trials, whose combos are all read; by default the manifest's own alone

    Raises
    ------
    UserError
        The store lacks something, or the data set lacks masks, labels or images of a split.
    """
    specs = list(specs) or [work.manifest.train]
    spec = specs[0]
    dataset = _dataset(work, spec)
    need_trainable(work, tell_data(work, dataset), task_of(spec))
    opened = open_features(work, dataset, specs)
    ids: dict[Split, list[str]] = {s: [] for s in SPLITS}
    for sample in dataset.samples():
        ids[dataset.split_of(sample.id)].append(sample.id)
    for split in ("train", "test"):
        if not ids[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no images; enlarge"
                            " it")
    native_spec = NativeSpec(opened.groups, opened.attention, spec.attention_maps,
                             tuple(opened.views[c].name for c in extra_of(spec)),
                             LEVELS if task_of(spec) == "segmentation" else None,
                             spec.head.pool if isinstance(spec.head, PooledSpec) else 1,
                             opened.joining)
    held = HELD_BYTES if task_of(spec) == "segmentation" else FEW_BYTES
    maps = NativeMaps(opened.shared["store"], native_spec, work.torch_device(), opened.rows,
                      dataset.size, held)
    task = _task(maps, dataset, ids, spec)
    return DenseInputs(**opened.shared, features=maps, task=task, ids=ids)


def _dataset(work: Workspace, spec: TrainSpec) -> SegmentationDataset | ClassifiedDataset:
    dataset, task = work.dataset(), task_of(spec)
    kind = ClassifiedDataset if task == "classification" else SegmentationDataset
    if isinstance(dataset, kind):
        return dataset
    raise DataError(f"{work.name}: data set '{dataset.name}' has no {TASKS[task].needs},"
                    f" and head '{spec.head.name}' needs them")


def task_of(spec: TrainSpec) -> str:
    """The task of a training's head."""
    return head_of(spec.head.name).task


def _task(maps: NativeMaps, dataset: SegmentationDataset | ClassifiedDataset,
          ids: dict[Split, list[str]], spec: TrainSpec) -> DenseTask:
    if task_of(spec) == "classification":
        return ClassificationTask(maps, cast(ClassifiedDataset, dataset), ids)
    masks = cast(SegmentationDataset, dataset)
    if isinstance(spec.head, PixelSpec):
        own = spec.head
        return PixelTask(maps, masks, ids, own.reservoir_mb * 2**20, own.sampling, own.min_pixels)
    return SegmentationTask(maps, masks, ids)

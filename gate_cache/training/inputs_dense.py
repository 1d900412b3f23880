"""What a training of images or pixels needs: store, maps, masks or labels of each split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import nn

from gate_cache.core.errors import DataError, UserError
from gate_cache.datasets.common.base import (
    SPLITS,
    ClassifiedDataset,
    SegmentationDataset,
    Split,
)
from gate_cache.learn.features.data import MapCache
from gate_cache.learn.features.native import NativeMaps, NativeSpec
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.learn.tasks.segmentation import LEVELS, SegmentationTask
from gate_cache.learn.tasks.task import Scores, Task
from gate_cache.manifest.heads import TASKS, PixelSpec, PooledSpec, head_of
from gate_cache.training import inputs as study
from gate_cache.training.inputs import (
    attention_of,
    extra_of,
    features_used,
    mixed_of,
    read_of,
    rows_of,
    views_of,
)
from gate_cache.training.members import Members, members_of
from gate_cache.workspace.data_summary import need_trainable, tell_data

if TYPE_CHECKING:
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.manifest.specs import TrainSpec
    from gate_cache.store.reader import FeatureStore
    from gate_cache.workspace.workspace import Workspace

FEW_BYTES = 2**28
"""Maps held in memory where they are read once and condensed: to pixels, to pooled features."""


class DenseTask(Task, Protocol):
    """A task that makes its own models."""

    select: str

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> nn.Module:
        """GATE, or a baseline with given weights."""

    def floors(self) -> dict[Role, Scores]:
        """What labels alone say of ``test``."""


@dataclass(frozen=True)
class DenseInputs:
    """One training's inputs.

    Attributes
    ----------
    spec : settings of the training, or of a sweep's first trial
    combos : names of the convolutional combos that are read: mixed ones, then the baseline
    mixed : names of those that a trial amalgamates where it names none
    maps : of all combos, with the attention feature and extra combos, if any
    task : what is learnt from them
    ids : samples of each split
    protocol : of the data set, in words
    members : every image by its split
    """

    spec: TrainSpec
    store: FeatureStore
    combos: tuple[str, ...]
    mixed: tuple[str, ...]
    baseline: str
    maps: NativeMaps
    task: DenseTask
    ids: dict[Split, list[str]]
    protocol: str
    members: Members

    @property
    def device(self) -> torch.device:
        """Where it is trained."""
        return self.maps.device

    @property
    def has_val(self) -> bool:
        """Whether there is a ``val`` split to choose checkpoints on."""
        return bool(self.ids["val"])

    @property
    def select(self) -> str:
        """The metric that chooses them."""
        return self.task.select

    @property
    def has_attention(self) -> bool:
        """Whether there is an attention feature."""
        return self.maps.spec.attention is not None

    def gate(self, spec: TrainSpec) -> nn.Module:
        """The full model of a trial: its combos, and attention unless it wants none."""
        return self.task.model(spec, self._chosen(spec.combos or self.mixed), None,
                               spec.attention is not False)

    def single(self, spec: TrainSpec) -> nn.Module:
        """The head on the baseline alone."""
        return self.task.model(spec, self._chosen([self.baseline]), [1.0], False)

    def uniform(self, spec: TrainSpec) -> nn.Module:
        """The head on the mean of a trial's combos, with attention unless it wants none."""
        combos = spec.combos or self.mixed
        return self.task.model(spec, self._chosen(combos), [1 / len(combos)] * len(combos),
                               spec.attention is not False)

    def splits(self) -> dict[str, dict[str, int]]:
        """Images of each split."""
        return {split: {"images": len(ids)} for split, ids in self.ids.items()}

    def config(self) -> dict[str, Any]:
        """What was settled: store, groups by fingerprint, resolution, device, splits."""
        spec = self.maps.spec
        return {**features_used(self.store, [*spec.combos, spec.attention, *spec.extra]),
                "resolution": self.maps.resolution, "device": str(self.device),
                "splits": self.splits()}

    def _chosen(self, combos: Sequence[str]) -> list[int]:
        return [self.combos.index(name) for name in combos]


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
    wanted = list(specs) or [work.manifest.train]
    spec, place = wanted[0], work.torch_device()
    dataset = _dataset(work, spec)
    need_trainable(work, tell_data(work, dataset), task_of(spec))
    store = work.store()
    mixed = mixed_of(work.loaded, wanted)
    combos = read_of(mixed, wanted)
    baseline = spec.baseline or combos[0]
    attention = next((a for s in wanted if (a := attention_of(work.manifest, s))), None)
    views = views_of(work, store, [*combos, attention], extra_of(spec))
    rows = rows_of(store, dataset, list(views.values()))
    ids: dict[Split, list[str]] = {s: [] for s in SPLITS}
    for sample in dataset.samples():
        ids[dataset.split_of(sample.id)].append(sample.id)
    for split in ("train", "test"):
        if not ids[split]:
            raise UserError(f"{work.name}: dataset: split '{split}' has no images; enlarge"
                            " it")
    asked = NativeSpec(tuple(views[c].name for c in combos),
                       views[attention].name if attention else None,
                       spec.attention_maps,
                       tuple(views[c].name for c in extra_of(spec)),
                       LEVELS if task_of(spec) == "segmentation" else None,
                       spec.head.pool if isinstance(spec.head, PooledSpec) else 1)
    held = study.CACHE_BYTES if task_of(spec) == "segmentation" else FEW_BYTES
    maps = NativeMaps(store, asked, place, MapCache(store, held), rows, dataset.size)
    return DenseInputs(spec, store, combos, mixed, baseline, maps, _task(maps, dataset, ids, spec),
                       ids, dataset.protocol, members_of(dataset, store, rows))


def _dataset(work: Workspace, spec: TrainSpec) -> SegmentationDataset | ClassifiedDataset:
    dataset, task = work.dataset(), task_of(spec)
    wanted = ClassifiedDataset if task == "classification" else SegmentationDataset
    if isinstance(dataset, wanted):
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

"""``probe``: which features are worth a training, by what the field judges frozen ones with."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from gate_cache.core.errors import ModelError, StoreError, UserError
from gate_cache.core.progress import Silent
from gate_cache.learn.features.bucket import attention_maps
from gate_cache.learn.features.pixel_grid import tiles
from gate_cache.learn.features.reservoir import Draw, fill, pixel_bytes
from gate_cache.learn.fit.trials import SOLVED, solve
from gate_cache.learn.metrics.dense import accuracy, mean_iou
from gate_cache.learn.metrics.intervals import Interval, Metric, bootstrap, gain
from gate_cache.learn.metrics.pck import SELECTED, share
from gate_cache.learn.mixing.vectors import Reading
from gate_cache.learn.modules.matching import NearestNeighbour
from gate_cache.learn.modules.probes import PROBES
from gate_cache.learn.tasks.classification import ClassificationTask
from gate_cache.learn.tasks.matching import CorrespondenceTask
from gate_cache.learn.tasks.pixels import PixelTask
from gate_cache.manifest.heads import option_names, parse_head
from gate_cache.manifest.train_spec import MixSpec
from gate_cache.training.inputs import HAS, DenseInputs, TrainingInputs, measured, open_any
from gate_cache.workspace.data_summary import check_data, untrainable
from gate_cache.workspace.pick import pick

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.datasets.common.base import Split
    from gate_cache.workspace.workspace import Workspace

AT_ONCE = 16
"""Images, or pairs, after which progress is told."""
RESERVOIR = 2**29
"""Bytes of training pixels at most."""
Units = npt.NDArray[Any]


@dataclass(frozen=True)
class ProbeOptions:
    """How features are probed.

    Attributes
    ----------
    probe : of classes and of masks; key points are matched by the nearest neighbour
    split : that is judged
    pool : side of the grid to which an image's maps are averaged for its class
    images : of either split at most, and pairs that are judged; drawn at random, always the same
    """

    probe: Literal["linear", "knn"] = "linear"
    split: Split = "val"
    pool: int = 2
    images: int = 500


@dataclass(frozen=True)
class ProbeRow:
    """One feature.

    Attributes
    ----------
    combos : one, or those whose mean it is
    maps : its maps, concatenated
    value : percent, with its 95 % interval over images or pairs
    behind : the best feature's value less this one's, with the interval over the same ones
    """

    combos: tuple[str, ...]
    maps: tuple[str, ...]
    value: float
    interval: Interval
    behind: float
    behind_interval: Interval

    @property
    def equal(self) -> bool:
        """Whether the interval does not tell it from the best."""
        return self.behind_interval.low <= 0


@dataclass(frozen=True)
class ProbeTable:
    """Features ranked by one task, the best first.

    Attributes
    ----------
    judged : images, or pairs, of the split
    solved : images that the probe was solved from; 0 where it is not
    """

    task: str
    probe: str
    metric: str
    protocol: str
    unit: str
    judged: int
    solved: int
    rows: list[ProbeRow]


@dataclass(frozen=True)
class Probed:
    """What a manifest's features tell of each task of its data set."""

    manifest: str
    split: str
    tables: list[ProbeTable]
    seconds: float


class _Feature(NamedTuple):
    """Names, and where it is: combos of a bucket (none: attention), channels of each."""

    combos: tuple[str, ...]
    maps: tuple[str, ...]
    numbers: tuple[int, ...]
    channels: slice

    def under(self, head: torch.nn.Module, device: torch.device) -> Reading:
        return Reading(head, self.numbers, self.channels).to(device).eval()


def probe(work: Workspace, options: ProbeOptions | None = None) -> Probed:
    """Rank every combo, each of its maps and all of them, and the combos' mean, by every task.

    Raises
    ------
    UserError
        The store lacks something, or the data set has no task or nothing to judge on.
    """
    began, settings = time.monotonic(), options or ProbeOptions()
    heads = {"correspondence": "nn", "pixels": f"pixel-{settings.probe}",
             "classification": settings.probe}
    dataset = work.dataset()
    summary = check_data(work, dataset)
    why = {task: untrainable(summary, task) for task, kind in HAS.items()
           if isinstance(dataset, kind)}
    tables = []
    for task in [task for task, problem in why.items() if problem is None]:
        try:
            tables.append(_table(work, settings, heads[task]))
        except (StoreError, ModelError):
            raise  # what every task would meet
        except UserError as error:
            why[task] = str(error)
    reasons = [f"not probed by {task}: {text}" for task, text in why.items() if text]
    if not tables:
        raise UserError("\n".join(reasons) or f"{work.name}: dataset: has no labels to probe by")
    for line in reasons:
        work.progress.say(f"note: {line}")
    return Probed(work.name, settings.split, tables, round(time.monotonic() - began, 2))


def _table(work: Workspace, settings: ProbeOptions, head: str) -> ProbeTable:
    """One task, with what a training by this head would read."""
    pooled = {"pool": settings.pool} if "pool" in option_names(head) else {}
    spec = work.manifest.train.model_copy(
        update={"head": parse_head({"name": head, **pooled}), "combos": None,
                # of several models every combo is probed in its own channels, as it is stored
                "mix": MixSpec(unit=False) if work.manifest.models else None})
    study = open_any(replace(work, progress=Silent()).with_manifest(train=spec))
    if isinstance(study, TrainingInputs):
        return _points(study, settings, work)
    return _labels(study, settings, work)


def _features(study: TrainingInputs | DenseInputs) -> list[_Feature]:
    """Every combo, and the mean of all that are mixed; of each all maps, then each map."""
    spec = study.features.spec
    parts = 1 if isinstance(study, TrainingInputs) else study.features.spec.pool**2
    read: list[tuple[tuple[str, ...], tuple[int, ...], str]] = [
        ((name,), (i,), spec.combos[i]) for i, name in enumerate(study.combos)]
    of_combos = {group: study.features.maps.slices(group) for group in spec.combos}
    if len(study.mixed) > 1 and len({str(of) for of in of_combos.values()}) == 1:
        read.append((study.mixed, tuple(map(study.combos.index, study.mixed)), spec.combos[0]))
    if spec.attention:
        read.append(((study.store[spec.attention].label,), (), spec.attention))
    features = []
    for combos, numbers, group in read:
        view = study.store[group]
        names = view.maps if numbers else attention_maps(view, spec.attention_maps)
        widths = [int(view[name].shape[1]) for name in names]
        first = next(iter(of_combos[group].values())).start if numbers else 0
        ends = (parts * np.cumsum([first, *widths])).tolist()
        features.append(_Feature(combos, tuple(names), numbers, slice(ends[0], ends[-1])))
        features += [_Feature(combos, (name,), numbers, slice(a, b)) for name, a, b in
                     zip(names, ends, ends[1:], strict=False) if len(names) > 1]
    return features


def _points(study: TrainingInputs, settings: ProbeOptions, work: Workspace) -> ProbeTable:
    """PCK of nearest neighbours."""
    pairs = _drawn(study.pairs[settings.split], settings, work, "pairs")
    features = _features(study)
    models = [f.under(NearestNeighbour(), study.device) for f in features]
    task = CorrespondenceTask(study.features, {}, study.task.matching)
    task.show = work.progress
    units = [matched.items().units for matched in task.match(models, pairs)]
    return ProbeTable("correspondence", "nn", SELECTED, measured(study), "pairs", len(pairs), 0,
                      _ranked(features, units, share,
                               np.array([(p.pair.source, p.pair.target) for p in pairs], np.str_)))


def _labels(study: DenseInputs, settings: ProbeOptions, work: Workspace) -> ProbeTable:
    """mIoU or accuracy of a probe."""
    train, judged = (_drawn(study.ids[s], settings, work, "images")
                     for s in ("train", settings.split))
    of_images = isinstance(study.task, ClassificationTask)
    features = _features(study)
    task: Any = study.task.of({"train": train, "val": judged})
    if of_images:
        for _ in task.feed(_watched(work.progress, "reading", [*train, *judged], "images")):
            pass  # what is read is held
    else:
        _read_pixels(task, train, work.progress)
    classes = len(task.classes if of_images else task.data.classes)
    make = PROBES[settings.probe]
    models = [f.under(make(f.channels.stop - f.channels.start, classes, not of_images),
                      study.device) for f in features]
    for (model,) in _watched(work.progress, f"solving {settings.probe}", models, "features", 1):
        solve(model, task)
    units = [scores.items.units for scores in task.judge(models, "val")]
    name, metric = ("classification", accuracy) if of_images else ("segmentation", mean_iou)
    return ProbeTable(name, settings.probe, study.select, measured(study), "images", len(judged),
                      len(train), _ranked(features, units, metric))


def _read_pixels(task: PixelTask, train: Sequence[str], show: Progress) -> None:
    """Fill the task's reservoir, with no more pixels than a probe is solved from."""
    bound = min(RESERVOIR, SOLVED * pixel_bytes(task.maps))
    with show.task("reading", len(train), "images") as bar:
        task.reservoir = fill(task.maps, task.data, train, Draw(bound), bar.advance)


def _drawn(items: Sequence[Any], settings: ProbeOptions, work: Workspace, unit: str) -> list[Any]:
    """Not more than are asked for, drawn at random and always the same."""
    if not items:
        raise UserError(f"{work.name}: dataset: split '{settings.split}' has no {unit}; pass"
                        f" --split {'test' if settings.split == 'val' else 'val'}, or enlarge it")
    numbers = pick([str(i) for i in range(len(items))], [], settings.images, work.name, unit)
    return [items[int(i)] for i in numbers]


def _watched(show: Progress, label: str, items: Sequence[Any], unit: str,
             most: int = AT_ONCE) -> Iterator[Sequence[Any]]:
    """A few at a time, told as they are done."""
    with show.task(label, len(items), unit) as bar:
        for part in tiles(len(items), most):
            yield items[part]
            bar.advance(len(items[part]))


def _ranked(features: Sequence[_Feature], counts: Sequence[Units], metric: Metric,
            ids: npt.NDArray[np.str_] | None = None) -> list[ProbeRow]:
    """Rows, the best first, each compared with it over the same images, or pairs of `ids`."""
    values = [float(metric(table.sum(0))) for table in counts]
    if math.isnan(values[0]):  # as all are: what counts is decided by labels alone
        raise UserError("nothing that is evaluated counts: no target's box has an extent, or all"
                        " pixels are ignored")
    order = sorted(range(len(values)), key=lambda i: -values[i])
    best = counts[order[0]]
    return [ProbeRow(features[i].combos, features[i].maps, values[i],
                     bootstrap(counts[i], metric, ids=ids),
                     *gain([best], [counts[i]], metric, ids)) for i in order]

"""What a task is to the fit loop: items, their features, a loss and a judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gate_cache.core.progress import Progress, Silent

if TYPE_CHECKING:
    from gate_cache.datasets.common.base import Split
    from gate_cache.learn.features.native import NativeMaps
    from gate_cache.learn.metrics.items import Items
    from gate_cache.learn.metrics.roles import Role
    from gate_cache.manifest.train_spec import TrainSpec

Part = TypeVar("Part")


class Output(NamedTuple):
    """What a model makes of a batch.

    Attributes
    ----------
    values : what the task's loss takes
    weights : (B, n, b[, C]) of the amalgamator
    """

    values: Any
    weights: torch.Tensor


@dataclass(frozen=True)
class Scores:
    """A model's results over one split.

    Attributes
    ----------
    values : by metric, with its protocol in its name
    select : the one that chooses the best checkpoint on ``val``; more is better
    each : the same metric for every unit that a confidence interval draws from (a pair, an image)
    details : further plain data, such as a metric by category
    items : results item by item, on ``test``
    """

    values: Mapping[str, float]
    select: float
    each: Sequence[float] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    items: Items | None = None


class Painted(NamedTuple):
    """One model's prediction for one image.

    Attributes
    ----------
    classes : (H, W) class of every pixel
    uncertainty : (H, W) how unsure the model is
    measure : what that is: ``entropy`` (of the softmax, in nats), or the share of
        ``members that disagree`` (with the vote)
    most : the largest value that it can have
    """

    classes: npt.NDArray[np.uint8]
    uncertainty: npt.NDArray[np.float32]
    measure: str
    most: float


class Task(Protocol):
    """One data set with one way to learn from it. Used by all trials of a stream together."""

    unit: str
    """What training counts: ``pairs``, ``images``, ``pixels``."""
    select: str
    """The metric that chooses checkpoints on ``val``."""
    show: Progress
    """Where evaluating shows how far it is."""

    def items(self) -> Sequence[Any]:
        """What is trained on."""

    def feed(self, batches: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """The features of each batch, on the training device; read once for all trials, ahead."""

    def model(self, spec: TrainSpec, chosen: Sequence[int], weights: list[float] | None,
              attention: bool) -> nn.Module:
        """GATE, or a baseline with given weights.

        Parameters
        ----------
        spec : settings of the training, its head's among them
        chosen : numbers of the combos that are mixed
        weights : of each chosen combo, for a baseline; None or empty: GATE learns them
        attention : whether the attention feature is used
        """

    def examples(self, ids: Sequence[str], places: int) -> Iterator[torch.Tensor]:
        """What is mixed of these samples, (at most about `places`, b, C) each, all combos."""

    def criterion(self) -> nn.Module:
        """A fresh loss: ``criterion(values, items)`` to a number; it may have parameters."""

    def of(self, items: Mapping[Split, Sequence[Any]]) -> Self:
        """The same with other samples, or pairs, of each split."""

    def floors(self) -> dict[Role, Scores]:
        """What needs no feature, judged on ``test``."""

    def judge(self, models: Sequence[nn.Module], split: Split) -> list[Scores]:
        """Results of several models, which must be in evaluation mode, over one split.

        Intervals are drawn on ``test`` alone: a validation would pay for them every time.
        """


EVALUATING: dict[Split, str] = {"train": "evaluating on train", "val": "validating",
                                "test": "evaluating"}
"""What progress calls the evaluation of a split."""


class ImagesTask:
    """What tasks of images have in common.

    Parameters
    ----------
    maps : of all combos that any trial uses
    data : for masks or labels
    ids : samples of each split
    """

    select = "mIoU"

    def __init__(self, maps: NativeMaps, data: Any, ids: Mapping[Split, Sequence[str]]) -> None:
        self.maps = maps
        self.data = data
        self._ids = ids
        self.show: Progress = Silent()

    def items(self) -> Sequence[Any]:
        """The training images."""
        return self._ids["train"]

    def of(self, ids: Mapping[Split, Sequence[str]]) -> Self:
        """The same with other samples of each split; what was read is shared."""
        task = copy(self)
        task._ids = ids
        return task

    def evaluated(self, split: Split, parts: Iterable[Part],
                  count: Callable[[Part], int] = lambda _: 1) -> Iterator[Part]:
        """Parts of a split's images in turn; progress shows those that are done.

        Parameters
        ----------
        parts, count : images in their order; how many a part has
        """
        with self.show.task(EVALUATING[split], len(self._ids[split]), "images") as bar:
            for part in parts:
                yield part
                bar.advance(count(part))

    def examples(self, ids: Sequence[str], places: int) -> Iterator[torch.Tensor]:
        """At a grid of points; see `Task.examples`."""
        side = max(round(places**0.5), 1)
        points = (np.stack(np.meshgrid(*[np.arange(side)] * 2), -1).reshape(-1, 2) + 0.5) / side
        for name, native in zip(ids, self.maps.stream(ids), strict=True):
            yield self.maps.at(native, name, points).conv

    def criterion(self) -> nn.Module:
        """`loss`, which has no parameters."""
        return _Plain(self.loss)

    def loss(self, values: Any, items: Sequence[Any]) -> torch.Tensor:
        """Of a batch's values."""
        raise NotImplementedError


class _Plain(nn.Module):
    """A loss without parameters, as the module that a trial moves, trains and saves."""

    def __init__(self, loss: Callable[[Any, Sequence[Any]], torch.Tensor]) -> None:
        super().__init__()
        self.forward = loss

"""Keeping what models made of each item of ``test``, for reports."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from gate_cache.learn.metrics.items import Items, extremes
from gate_cache.training.run_files import items_file

if TYPE_CHECKING:
    from gate_cache.learn.tasks.task import Scores

PICTURED = 4
"""Images of either end, the best and the worst ones, whose predicted masks are kept."""


@runtime_checkable
class Painter(Protocol):
    """A task that predicts masks."""

    def predict(self, models: Sequence[nn.Module], sample_id: str,
                ) -> list[tuple[npt.NDArray[np.uint8], torch.Tensor]]:
        """Each model's (H, W) classes, and its weights."""


def keep_items(folder: Path, task: Any, models: Mapping[str, nn.Module],
               scores: Mapping[str, Scores], ranked: Collection[str]) -> None:
    """Write every model's results item by item.

    Parameters
    ----------
    folder : of the run
    task : of its head; one that paints masks has some of them kept
    models, scores : by name
    ranked : those whose mean score says which images' masks are kept, of all models; where none
        of them has results, all do
    """
    items = {name: result.items for name, result in scores.items() if result.items}
    if isinstance(task, Painter) and items:
        items = _painted(task, models, items, ranked)
    for name, results in items.items():
        results.save(items_file(folder, name))


def _painted(task: Painter, models: Mapping[str, nn.Module], items: Mapping[str, Items],
             ranked: Collection[str]) -> dict[str, Items]:
    chosen = [name for name in items if name in ranked] or list(items)
    scores = np.mean([items[name].scores for name in chosen], 0)  # the same images of all models
    ids = next(iter(items.values())).ids[:, 0]
    masks: dict[str, dict[str, npt.NDArray[np.uint8]]] = {name: {} for name in items}
    low, high = extremes(scores, PICTURED)
    for number in [*low, *high]:
        sample_id = str(ids[number])
        predicted = task.predict([models[name] for name in items], sample_id)
        for name, (mask, _) in zip(items, predicted, strict=True):
            masks[name][sample_id] = mask
    return {name: replace(results, masks=masks[name]) for name, results in items.items()}

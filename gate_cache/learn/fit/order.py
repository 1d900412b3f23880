"""What a training sees when: batches in order, steps, the learning rate's course."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from gate_cache.manifest.train_spec import TrainSpec

LONGEST = 2**24
"""Items of an epoch whose order is drawn at once: 128 MiB of numbers."""


def due(seen: int, size: int, spec: TrainSpec) -> bool:
    """Whether a step of `size` items, the last of `seen`, is followed by a validation."""
    before = (seen - size) // spec.validate_items
    return seen // spec.validate_items > before or seen >= spec.items


def batches(items: Sequence[Any], spec: TrainSpec) -> Iterator[tuple[int, list[Any]]]:
    """Batches, one a step, until `spec.items` were seen; every epoch in an order of its own."""
    generator = torch.Generator().manual_seed(order_seed(spec))
    queue = torch.empty(0, dtype=torch.int64)  # a list would copy the rest of the epoch each step
    seen = 0
    while seen < spec.items:
        size = min(spec.batch, spec.items - seen)
        while len(queue) < size:
            queue = torch.cat([queue, _drawn(len(items), size, generator)])
        batch, queue = queue[:size], queue[size:]
        seen += size
        yield seen, [items[i] for i in batch.tolist()]


def _drawn(count: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """An epoch in random order; where it is too long to be held, some items at random."""
    if count > LONGEST:
        return torch.randint(count, (size,), generator=generator)
    return torch.randperm(count, generator=generator)


def share_of_lr(spec: TrainSpec, step: int) -> float:
    """What a step (from 0 on) takes of ``lr``: even warm-up, then as ``schedule`` says."""
    steps = step_of(spec.items, spec)
    if step < (rising := int(spec.warmup * steps)):
        return (step + 1) / (rising + 1)  # no step is wasted on lr 0
    if spec.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * min(1.0, (step - rising) / (steps - rising)))) / 2


def step_of(seen: int, spec: TrainSpec) -> int:
    """The number of steps that have seen so many items."""
    return -(-seen // spec.batch)


def in_steps(state: Mapping[str, Any], spec: TrainSpec) -> tuple[int, list[dict[str, Any]]]:
    """The best step and the history of a state; the first release counted items, not steps."""
    best, history = int(state["best_at"]), list(state["history"])
    if all("step" in entry for entry in history):
        return best, history
    return step_of(best, spec), [{"step": step_of(h["seen"], spec), **h} for h in history]


def order_seed(spec: TrainSpec) -> int:
    """What decides the order of the data."""
    return spec.seed if spec.shuffle is None else spec.shuffle


def together(spec: TrainSpec) -> tuple[Any, ...]:
    """What trials of one stream agree in."""
    return spec.items, spec.batch, spec.validate_items, order_seed(spec)

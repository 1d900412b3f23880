"""The study that a head needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

import gate_cache
from gate_cache.core.versions import versions
from gate_cache.manifest.heads import TASKS, head_of
from gate_cache.training.inputs import TrainingInputs, open_training_inputs
from gate_cache.training.inputs_dense import DenseInputs, open_dense_inputs, task_of

if TYPE_CHECKING:
    from gate_cache.manifest.specs import TrainSpec
    from gate_cache.workspace.workspace import Workspace


def open_any(work: Workspace, specs: Sequence[TrainSpec] = ()) -> TrainingInputs | DenseInputs:
    """Open what the head of these trials needs; by default of the manifest's own."""
    spec = specs[0] if specs else work.manifest.train
    opening = open_training_inputs if matches(spec) else open_dense_inputs
    return opening(work, specs)


def matches(spec: TrainSpec) -> bool:
    """Whether a training's head matches points."""
    return task_of(spec) == "correspondence"


def measured(study: TrainingInputs | DenseInputs) -> str:
    """What is measured, and how, in words."""
    return f"{study.protocol}; {head_of(study.spec.head.name).measured}"


def alike(spec: TrainSpec) -> tuple[Any, ...]:
    """What trials of one study agree in."""
    attention = spec.attention if isinstance(spec.attention, str) else None
    head = head_of(spec.head.name)
    own = {name: getattr(spec.head, name, None) for name in TASKS[head.task].shared}
    return (head.task, head.metric, attention, str(spec.attention_maps), spec.baseline,
            str(own), str(spec.mix))


def settled(work: Workspace, study: TrainingInputs | DenseInputs) -> dict[str, Any]:
    """Everything that is settled before a training begins."""
    return {
        "gate_cache": gate_cache.__version__, "torch": str(torch.__version__),
        "versions": versions(), "began": time.strftime("%Y-%m-%d %H:%M"),
        "manifest_file": work.name, **study.config(),
        "combos": list(study.combos), "baseline": study.baseline, "select": study.select,
        "protocol": measured(study),
        "manifest": work.manifest.model_dump(mode="json", by_alias=True),
    }

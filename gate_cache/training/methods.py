"""What a table of results compares: the trained model, and baselines that learn less or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from gate_cache.learn.metrics.roles import Method
from gate_cache.manifest.heads import head_of, parse_head
from gate_cache.manifest.train_spec import TrainSpec

if TYPE_CHECKING:
    from gate_cache.training.inputs import Study, TrainingInputs

Make = Callable[[TrainSpec], nn.Module]


@dataclass(frozen=True)
class Candidate:
    """A model that a table judges.

    Attributes
    ----------
    trained : whether its head was
    seen : whether images decided anything of it: it was trained, or chosen on ``val``
    """

    method: Method
    model: nn.Module
    trained: bool = False
    seen: bool = False


def gate(study: Study, spec: TrainSpec) -> Method:
    """What is trained: the combos of a trial, mixed by its assigners."""
    return Method("gate", spec.head.name, tuple(spec.combos or study.mixed), _attended(study, spec),
                  spec.assigners)


def _attended(study: Study, spec: TrainSpec) -> bool:
    return study.has_attention and spec.attention is not False


def baselines(study: Study, spec: TrainSpec) -> dict[Method, Make]:
    """What GATE is compared with where the head learns: it, as long, on a fixed mixture."""
    if not head_of(spec.head.name).learns:
        return {}
    mixed = tuple(spec.combos or study.mixed)
    return {Method("baseline", spec.head.name, (study.baseline,)): study.single,
            Method("uniform", spec.head.name, mixed, _attended(study, spec)): study.uniform}


def single_nn(study: TrainingInputs) -> Candidate:
    """The single feature as it is, for tables in which the trained one has no place."""
    return Candidate(Method("untrained", "nn", (study.baseline,)), study.single(_nn(study)))


def untrained(study: TrainingInputs) -> list[Candidate]:
    """Baselines that learn nothing: the single feature, the best one on ``val``, uniform."""
    spec = _nn(study)
    attentions = (False, True) if study.has_attention else (False,)
    return [Candidate(Method("baseline", "nn", (study.baseline,)), study.single(spec)),
            *_best_single(study, spec),
            *(Candidate(Method("uniform", "nn", study.mixed, attention),
                        study.uniform(spec, attention)) for attention in attentions)]


def _nn(study: TrainingInputs) -> TrainSpec:
    # of a sweep's study: all combos that any trial mixes
    return study.spec.model_copy(update={"head": parse_head("nn"), "combos": None})


def _best_single(study: TrainingInputs, spec: TrainSpec) -> list[Candidate]:
    """The single feature that is best on ``val``, where it is another than the baseline."""
    if not study.pairs["val"]:
        return []
    models = [study.single(spec, name).to(study.features.device) for name in study.combos]
    scores = [result.select for result in study.task.judge(models, "val")]
    # NaN where no target of val has a box with an extent: then none is the best
    best = max((i for i, score in enumerate(scores) if not math.isnan(score)),
               key=lambda i: scores[i], default=None)
    if best is None or study.combos[best] == study.baseline:
        return []
    return [Candidate(Method("best-single", "nn", (study.combos[best],)), models[best], seen=True)]


def weights_note(combos: Sequence[str], means: Sequence[Sequence[float]]) -> str:
    """Mean weights of each assigner, largest first.

    Parameters
    ----------
    means : a row an assigner, in the order of `combos`
    """
    parts = []
    for row in means:
        order = sorted(zip(row, combos, strict=True), reverse=True)
        parts.append(", ".join(f"{name} {w:.2f}" for w, name in order))
    return " | ".join(parts)

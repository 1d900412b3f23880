"""What a table of results compares: the trained model, and baselines that learn less or nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from gate_cache.learn.mixing.model import CorrespondenceModel
from gate_cache.manifest.heads import head_of, parse_head
from gate_cache.manifest.specs import TrainSpec
from gate_cache.training.inputs import Study
from gate_cache.training.inputs_dense import DenseStudy

Make = Callable[[TrainSpec], nn.Module]


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes
    ----------
    seen : whether it was trained, or chosen on ``val``
    note : whether to tell its mean weights
    """

    name: str
    model: CorrespondenceModel
    trained: bool = False
    seen: bool = False
    note: bool = False


def gate_name(study: Study | DenseStudy, spec: TrainSpec) -> str:
    """What a table calls it."""
    n = spec.assigners
    return f"GATE: {n} assigner{'s' if n > 1 else ''}{_with_attention(study, spec)}"


def _with_attention(study: Study | DenseStudy, spec: TrainSpec) -> str:
    return " + attention" if study.has_attention and spec.attention is not False else ""


def baselines(study: Study | DenseStudy, spec: TrainSpec) -> dict[str, Make]:
    """What GATE is compared with where the head learns: it, as long, on a fixed mixture."""
    if not head_of(spec.head.name).learns:
        return {}
    return {f"single feature: {study.baseline}": study.single,
            f"all features, uniform weights{_with_attention(study, spec)}": study.uniform}


def single_nn(study: Study) -> Method:
    """The single feature as it is, for tables in which the trained one has no place."""
    return Method(f"the same, head nn, untrained: {study.baseline}", study.single(_nn(study)))


def untrained(study: Study) -> list[Method]:
    """Baselines that learn nothing: the single feature, the best one on ``val``, uniform."""
    spec = _nn(study)
    found = [Method(f"single feature: {study.baseline}", study.single(spec)),
             *_best_single(study, spec),
             Method("all features, uniform weights", study.uniform(spec, attention=False))]
    if study.has_attention:
        found.append(Method("the same + attention", study.uniform(spec, attention=True)))
    return found


def _nn(study: Study) -> TrainSpec:
    return study.spec.model_copy(update={"head": parse_head("nn"), "combos": None})


def _best_single(study: Study, spec: TrainSpec) -> list[Method]:
    """The single feature that is best on ``val``, where it is another than the baseline."""
    if not study.pairs["val"]:
        return []
    models = [study.single(spec, name).to(study.full.device) for name in study.combos]
    scores = [found.select for found in study.task.judge(models, "val")]
    best = max(range(len(models)), key=lambda i: scores[i])
    if study.combos[best] == study.baseline:
        return []
    return [Method(f"best single on val: {study.combos[best]}", models[best], seen=True)]


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

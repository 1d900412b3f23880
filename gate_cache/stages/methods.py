"""What a table of results compares: the trained model, and baselines that learn less or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gate_cache.learn.model import CorrespondenceModel, fixed
from gate_cache.specs import TrainSpec
from gate_cache.stages.study import Study
from gate_cache.stages.study_dense import DenseStudy


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
    attention = " + attention" if study.has_attention and spec.attention is not False else ""
    return f"GATE: {n} assigner{'s' if n > 1 else ''}{attention}"


def single_model(study: Study, spec: TrainSpec, combo: str) -> CorrespondenceModel:
    """One feature alone."""
    return fixed(spec, study.full.channels, [1.0], study.chosen([combo]), attention=False)


def single_nn(study: Study) -> Method:
    """The single feature as it is, for tables in which the trained one has no place."""
    plain = study.spec.model_copy(update={"head": "nn"})
    return Method(f"the same, head nn, untrained: {study.baseline}",
                  single_model(study, plain, study.baseline))


def untrained(study: Study) -> list[Method]:
    """Baselines that learn nothing: the single feature, the best one on ``val``, uniform."""
    nn = study.spec.model_copy(update={"head": "nn"})
    weights = [1 / len(study.combos)] * len(study.combos)
    channels = study.full.channels
    found = [Method(f"single feature: {study.baseline}", single_model(study, nn, study.baseline)),
             *_best_single(study, nn),
             Method("all features, uniform weights", fixed(nn, channels, weights, None, False))]
    if study.has_attention:
        found.append(Method("the same + attention", fixed(nn, channels, weights)))
    return found


def _best_single(study: Study, spec: TrainSpec) -> list[Method]:
    """The single feature that is best on ``val``, where it is another than the baseline."""
    if not study.pairs["val"]:
        return []
    models = [single_model(study, spec, name).to(study.full.device) for name in study.combos]
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

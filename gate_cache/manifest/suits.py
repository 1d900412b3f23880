"""Whether each combo suits the model: its prompt, maps and techniques, and its timesteps.

No t is beyond the schedule, and none is denoised from where nothing of the image can be predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ManifestError

if TYPE_CHECKING:
    from gate_cache.core.features import Family
    from gate_cache.manifest.specs import Combo, Manifest


def check_combos(manifest: Manifest, layout: Family, schedule: Mapping[str, Any],
                 of_text: Callable[[Combo], Sequence[str]], sure: bool = True) -> None:
    """Check all combos of a manifest against the model's layout and schedule.

    Parameters
    ----------
    manifest : whose combos are checked
    layout : of the model
    schedule : of the model, as its scheduler's configuration has it
    of_text : the fields of a combo that only a model with text has
    sure : whether the model is what the manifest names, not a stand-in that may take text instead

    Raises
    ------
    ManifestError
        With a line for every combo that does not suit the model.
    """
    def check(kind: str, combo: Combo) -> Iterator[str]:
        if not layout.text:
            yield from _without_text(kind, combo, of_text(combo))
        elif sure and not combo.prompted:
            yield ".prompt: required, but not given ('' is an empty one)"
        yield from _steps(combo, schedule)

    problems = [f"{manifest.kind(name)}.{name}{line}" for name, combo in manifest.combos.items()
                for line in check(manifest.kind(name), combo)]
    if problems:
        raise ManifestError(problems)


def check_encoder_combos(manifest: Manifest) -> None:
    """Check all combos of a vision encoder, which adds no noise and takes no text.

    Raises
    ------
    ManifestError
        With a line for every field that has no effect.
    """
    problems = [f"attention.{name}: a vision encoder takes no text, so it has no attention to it;"
                " only 'conv' combos" for name in manifest.attention]
    problems += [f"conv.{name}.{field}: a vision encoder adds no noise and takes no text; leave it"
                 " out" for name, combo in manifest.conv.items()
                 for field in sorted(combo.model_fields_set - {"model", "maps", "mirror"})]
    if problems:
        raise ManifestError(problems)


def _without_text(kind: str, combo: Combo, of_text: Sequence[str]) -> Iterator[str]:
    if kind == "attention":
        yield ": this model takes no text, so it has no attention to it; only 'conv' combos"
        return
    if combo.prompt:
        yield ".prompt: this model takes no text; leave the prompt out"
    for field in of_text:
        yield f".{field}: this model is an unconditional one, which has none; leave it out"


def _steps(combo: Combo, schedule: Mapping[str, Any]) -> Iterator[str]:
    last = steps_of(schedule) - 1
    times = {".t": combo.t} | ({".denoise.from": combo.denoise.start} if combo.denoise else {})
    for field, t in times.items():
        if t > last:
            yield f"{field}: {t} is beyond the model's schedule, whose last timestep is {last}"
    silent = schedule.get("rescale_betas_zero_snr") and \
        schedule.get("prediction_type", "epsilon") == "epsilon"
    if silent and times.get(".denoise.from") == last:
        yield (f".denoise.from: at {last} this schedule (zero terminal SNR) leaves nothing of the"
               " image, and a UNet that predicts noise cannot say what it was; start below")


def steps_of(schedule: Mapping[str, Any]) -> int:
    """How many timesteps a schedule has."""
    betas = schedule.get("trained_betas")
    return len(betas) if betas else int(schedule.get("num_train_timesteps", 1000))

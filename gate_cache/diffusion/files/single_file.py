"""A whole Stable Diffusion in one .safetensors file of the original layout: which one it is.

Read off the file's header, the names of its tensors. The weights are read by
`gate_cache.diffusion.files.original`. No torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gate_cache.core.errors import ModelError
from gate_cache.core.headers import read_header
from gate_cache.diffusion.files.unread import SINGLE_FILE
from gate_cache.diffusion.models.layouts import SCHEDULER, SD, SDXL
from gate_cache.diffusion.models.published import SD_1_5, SD_2_1, SDXL_BASE

SUFFIX = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_UNET = "model.diffusion_model."
_ENCODERS = {
    SDXL_BASE: ("conditioner.embedders.1.model.", "conditioner.embedders.0.transformer."),
    SD_2_1: ("cond_stage_model.model.",), SD_1_5: ("cond_stage_model.transformer.",)}
"""Beginnings of the text encoders' tensors; by the first one a model is known."""
_MODELSPEC = "modelspec.prediction_type"


def identified(path: Path) -> str:
    """The published model whose layout a file has; `ModelError` where it is none that is read."""
    names = read_header(path).shapes
    for model, (prefix, *_) in _ENCODERS.items():
        if any(n.startswith(prefix) for n in names) and any(n.startswith(_UNET) for n in names):
            return model
    raise ModelError(f"{path}: not a whole Stable Diffusion 1.x, 2.x or XL in the original layout"
                     " (UNet, autoencoder and text encoders in one file)")


def check(file: Path, config: Path, model: str) -> None:
    """Raise `ModelError` unless what a single file lacks is in the folder beside it."""
    for name in (SDXL if model == SDXL_BASE else SD).tokenizers:
        if not (config / name).is_dir():
            raise ModelError(f"model.config: {config}: no '{name}' in it; {file.name} has no"
                             f" tokenizer: put its vocab.json and merges.txt into {config / name}")
    marked = "prediction_type" in dict(_markers(file))
    if model == SD_2_1 and not marked and not (config / SCHEDULER).is_dir():
        raise ModelError(f"model.config: {config}: no '{SCHEDULER}' in it; a Stable Diffusion 2.x"
                         " file does not say what it predicts: put its scheduler_config.json into"
                         f" {config / SCHEDULER}")


def foreign_tensors(names: Iterable[str], model: str) -> list[str]:
    """Those of a file's tensors that no part of a published model is made of."""
    parts = (_UNET, "first_stage_model.", *_ENCODERS[model])
    return [n for n in names if ".lora_" in n or
            not (n.startswith(parts) or SINGLE_FILE.fullmatch(n))]


def _markers(file: Path) -> Iterator[tuple[str, Any]]:
    """What a file says of its schedule: empty tensors as markers, or ModelSpec metadata."""
    header = read_header(file)
    if prediction := header.metadata.get(_MODELSPEC):
        name = prediction.strip().lower()
        yield "prediction_type", {"v": "v_prediction"}.get(name, name)
    if "v_pred" in header.shapes:
        yield "prediction_type", "v_prediction"
    if "ztsnr" in header.shapes:
        yield "rescale_betas_zero_snr", True


def marked_schedule(file: Path, schedule: dict[str, Any], own: bool) -> dict[str, Any]:
    """The schedule of a single file: a configuration's, and what the file itself says.

    Parameters
    ----------
    schedule : as of `layouts.schedule_of`
    own : whether the schedule is from a configuration beside the file, not a published stand-in

    Raises
    ------
    ModelError
        Both say something, and not the same.
    """
    marked = dict(schedule)
    for key, value in dict(_markers(file)).items():
        configured = schedule.get(key) if own else None
        if configured is not None and value == "epsilon":  # which tools write by default
            continue
        if configured not in (None, value):
            raise ModelError(f"{file}: the file itself says {key}: {value} (by a marker such as"
                             f" 'v_pred' or 'ztsnr', or its metadata), scheduler_config.json of"
                             f" model.config says {configured}; correct scheduler_config.json")
        marked[key] = value
    return marked

"""A whole Stable Diffusion in one .safetensors file of the original layout: which one it is.

Read off the file's header, the names of its tensors. The weights are read by
`gate_cache.diffusion.models.original`. No torch.
"""

from __future__ import annotations

import json
from pathlib import Path

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.models.layouts import SCHEDULER, SD, SDXL
from gate_cache.diffusion.models.published import SD_1_5, SD_2_1, SDXL_BASE

SUFFIX = ".safetensors"
PICKLED = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_UNET = "model.diffusion_model."
_KNOWN_BY = {SDXL_BASE: "conditioner.embedders.1.model.", SD_2_1: "cond_stage_model.model.",
             SD_1_5: "cond_stage_model.transformer."}
_LARGEST_HEADER = 100 * 2**20


def tensor_names(path: Path) -> list[str]:
    """Names of a safetensors file's tensors.

    Raises
    ------
    ModelError
        Not such a file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, _LARGEST_HEADER)))
        return [name for name in header if name != "__metadata__"]
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: not a safetensors file ({type(error).__name__})") from None


def identified(path: Path) -> str:
    """The published model whose layout a file has.

    Raises
    ------
    ModelError
        None that is read.
    """
    names = tensor_names(path)
    for model, prefix in _KNOWN_BY.items():
        if any(n.startswith(prefix) for n in names) and any(n.startswith(_UNET) for n in names):
            return model
    raise ModelError(f"{path}: not a whole Stable Diffusion 1.x, 2.x or XL in the original layout"
                     " (UNet, autoencoder and text encoders in one file)")


def check_single_file(file: Path, config: Path, model: str) -> None:
    """Check that what a single file lacks is in the folder beside it.

    Raises
    ------
    ModelError
        Which file to put where.
    """
    for name in (SDXL if model == SDXL_BASE else SD).tokenizers:
        if not (config / name).is_dir():
            raise ModelError(f"model.config: {config}: no '{name}' in it; {file.name} has no"
                             f" tokenizer: put its vocab.json and merges.txt into {config / name}")
    if model == SD_2_1 and not (config / SCHEDULER).is_dir():
        raise ModelError(f"model.config: {config}: no '{SCHEDULER}' in it; a Stable Diffusion 2.x"
                         " file does not say what it predicts: put its scheduler_config.json into"
                         f" {config / SCHEDULER}")

"""Where a LoRA's file is: built in, below the models root, or on the hub. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import ModelError, NotThere, did_you_mean, listed
from gate_cache.core.hub import lora_from_hub
from gate_cache.diffusion.files.single_file import PICKLED, SUFFIX
from gate_cache.diffusion.models.embedded import HOMES, LORAS

if TYPE_CHECKING:
    from gate_cache.core.roots import Roots

_USUAL = "pytorch_lora_weights.safetensors"
"""What diffusers calls a LoRA's file."""


def lora_path(source: str, where: str, roots: Roots, download: bool = False) -> Path:
    """The file of a LoRA.

    Parameters
    ----------
    source : an embedded one (``tiny/…``), a file or folder below the models root, a hub id, or a
        file of one (``organisation/name/file.safetensors``)
    where : the field, for messages
    roots : of which the models root is looked in
    download : fetch from the hub what is not on this machine

    Raises
    ------
    NotThere
        No such file or folder.
    ModelError
        Not one safetensors file.
    """
    if source in LORAS:
        return LORAS[source]
    path = roots.below("models", source, where)
    if path.suffix in PICKLED:
        raise ModelError(f"{where}: {path}: not a {SUFFIX} file; pickled weights are not read")
    if path.is_file():
        return path
    if path.is_dir():
        return path / _only([p.name for p in path.iterdir()], source, where)
    if file := _from_hub(source, where, download):
        return file
    raise NotThere(f"{where}: {path}: no such LoRA file{did_you_mean(source, LORAS)}; put"
                     " it, or a folder with it, there, or name the models root with --models")


def _from_hub(source: str, where: str, download: bool) -> Path | None:
    """The file in a hub repository, or None where it is not on this machine."""
    repo, file = "/".join(source.split("/")[:2]), "/".join(source.split("/")[2:])
    if "/" not in repo or repo.endswith(SUFFIX) or repo.split("/")[0] in HOMES:
        return None
    return lora_from_hub(repo, lambda names: file or _only(names, source, where), download)


def _only(names: Iterable[str], source: str, where: str) -> str:
    """Which of a folder's files is the LoRA."""
    files = sorted(name for name in names if name.endswith(SUFFIX) and "/" not in name)
    if _USUAL in files or len(files) == 1:
        return _USUAL if _USUAL in files else files[0]
    if not files:
        raise ModelError(f"{where}: {source}: no {SUFFIX} file in it; put the LoRA there (pickled"
                         " ones are not read)")
    raise ModelError(f"{where}: {source}: several files in it ({listed(files)}); name one, as in"
                     f" 'source: {source}/{files[0]}'")

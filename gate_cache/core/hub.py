"""Files of hub repositories: those on this machine, or fetched on request. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from gate_cache.core.errors import ModelError
from gate_cache.core.weights import variant_of

_NOT_READ = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*.pt", "*.pkl"]


def weight_patterns(name: str, variant: str | None) -> list[str]:
    """Of weights called so, in one file or in parts; of a `variant`, such as ``fp16``, its own."""
    return [f"{name}.{variant}*.safetensors" if variant else f"{name}{shard}.safetensors"
            for shard in ("", "-*-of-*")]


def is_whole(weights: Iterable[str], configs: Iterable[str], variant: str | None,
             snapshot: Path) -> bool:
    """Whether these folders have weights of this variant, and those configurations."""
    return all(any((snapshot / folder).glob("*.json")) for folder in configs) and all(
        any(variant_of(path.name) == (variant or "")
            for path in (snapshot / folder).glob("*.safetensors"))
        for folder in weights)


def controlnet_from_hub(repo: str, revision: str | None, variant: str | None,
                        download: bool) -> Path | None:
    """The local snapshot of a ControlNet's repository, with one `variant` of its weights.

    Other parameters are as of `from_hub`.
    """
    patterns = ["config.json", "*.safetensors.index*.json",
                *weight_patterns("diffusion_pytorch_model", variant)]
    return from_hub(repo, revision, patterns, partial(is_whole, ["."], ["."], variant), download)


def lora_from_hub(repo: str, choose: Callable[[Iterable[str]], str],
                  download: bool) -> Path | None:
    """A LoRA's file in a repository, or None where it is not on this machine.

    `choose` picks it from the repository's file names. With `download`, it (and no other file) is
    fetched where it is not here; `ModelError` where that fails.
    """
    from huggingface_hub import list_repo_files

    here = from_hub(repo, None, [], lambda snapshot: any(snapshot.rglob("*.safetensors")), False)
    if here:
        names = [p.relative_to(here).as_posix() for p in here.rglob("*") if p.is_file()]
        if (here / choose(names)).is_file():
            return here / choose(names)
    if not download:
        return None
    try:
        name = choose(list_repo_files(repo))
    except ModelError:
        raise
    except Exception as error:
        raise _unreachable(repo, error) from error
    patterns = [name, "adapter_config.json"]
    here = from_hub(repo, None, patterns, lambda snapshot: (snapshot / name).is_file(), True)
    if here is None or not (here / name).is_file():
        raise ModelError(f"{repo}: no '{name}' in this repository; name a file that it has")
    return here / name


def from_hub(repo: str, revision: str | None, patterns: list[str],
             whole: Callable[[Path], bool], download: bool) -> Path | None:
    """The local snapshot of a hub repository; with `download`, fetched where it is not here.

    Parameters
    ----------
    repo : ``organisation/name``
    revision : branch, tag or commit; None for the main branch
    patterns : of the files that are to be fetched
    whole : whether a snapshot has all of them
    download : fetch them where they are not on this machine

    Returns
    -------
    The snapshot's folder, or None where it is not on this machine and `download` is false

    Raises
    ------
    ModelError
        It is not here and cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    def fetch(local: bool) -> Path:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns,
                                      ignore_patterns=_NOT_READ, local_files_only=local))

    try:
        snapshot = fetch(local=True)
        if whole(snapshot):  # another tool may have fetched only some of its files
            return snapshot
    except HFValidationError:
        raise ModelError(f"'{repo}' is neither a folder below the models root nor a hub id"
                         " (organisation/name)") from None
    except LocalEntryNotFoundError:
        pass
    if not download:
        return None
    try:
        return fetch(local=False)
    except Exception as error:
        raise _unreachable(repo, error) from error


def _unreachable(repo: str, error: Exception) -> ModelError:
    """Why a repository cannot be had: only what a login mends is told to log in."""
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    name, status = type(error).__name__, getattr(getattr(error, "response", None), "status_code", 0)
    if isinstance(error, RevisionNotFoundError):
        why = "the hub has no such revision of it; check model.revision"
    elif isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        why = (f"the hub has none of that name, or shows it to none but its users ({name}); check"
               " the name, or log in with 'hf auth login'")
    elif constants.is_offline_mode():
        why = "HF_HUB_OFFLINE keeps it from being fetched; unset it"
    else:
        why = (f"the hub cannot be reached, or does not answer ({name}); check the network"
               " (HF_ENDPOINT, HTTPS_PROXY) and run it again")
    return ModelError(f"{repo}: not on this machine: {why}; or put its files into"
                      f" <models root>/{repo}")

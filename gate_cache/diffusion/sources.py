"""Where a model's files are, what they hold, and their digests. No torch: a plan uses this."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from gate_cache.diffusion.embedded import HOME, TINY
from gate_cache.diffusion.memo import remembered_sha256
from gate_cache.diffusion.tokens import ClipTokens, read_tokens
from gate_cache.errors import ModelError, did_you_mean
from gate_cache.features import SD1_UNET, SD1_VAE, Family, family
from gate_cache.fingerprint import fingerprint
from gate_cache.manifest import ModelSpec
from gate_cache.roots import Roots, escapes

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule",
                  "trained_betas", "prediction_type", "rescale_betas_zero_snr")
_COMPONENTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_NOT_READ = ["*.bin", "*.ckpt", "*.msgpack", "*.onnx*", "*.pt", "*.pkl"]
EXPECTED = ("expected a Stable Diffusion 1.x in diffusers layout: model_index.json and the folders"
            f" {', '.join(_COMPONENTS)}, weights as safetensors")


@dataclass(frozen=True)
class ModelFiles:
    """A Stable Diffusion model: a folder in diffusers layout.

    Attributes
    ----------
    source : as the manifest names it
    path : the folder
    variant : such as ``fp16``: which weight files of the folder
    """

    source: str
    path: Path
    variant: str | None = None

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration.

        Raises
        ------
        ModelError
            Missing or not JSON.
        """
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        return read_config(self.path / component / name)

    @cached_property
    def family(self) -> Family:
        """The layout of the model's maps."""
        unet = self.config("unet")
        if unet.get("addition_embed_type") or unet.get("_class_name") not in (
                None, "UNet2DConditionModel"):
            raise ModelError(f"{self.source}: not a Stable Diffusion 1.x UNet; {EXPECTED}")
        return family(unet, self.config("vae"))

    @cached_property
    def tokens(self) -> ClipTokens:
        """The tokenizer."""
        return read_tokens(self.path / "tokenizer")

    def size(self, wanted: int | None) -> int:
        """The input size in pixels: as wanted, or the model's own."""
        return self.family.check_size(wanted or self.family.default_size, "model.size")

    def schedule(self) -> dict[str, Any]:
        """What of the scheduler's configuration decides the noise levels."""
        config = self.config("scheduler")
        return {key: config[key] for key in _SCHEDULE_KEYS if config.get(key) is not None}

    def digest(self, component: str) -> str:
        """sha256 over a component's weights and configuration."""
        return folder_digest(self.path / component, self.variant)

    def tokenizer_digest(self) -> str:
        """sha256 over vocabulary, merges and padding."""
        tokens = self.tokens
        return fingerprint({"vocab": tokens.vocab, "merges": tokens.merges, "pad": tokens.pad})

    @cached_property
    def weights(self) -> dict[str, str]:
        """Digests of what decides a combo's values."""
        return {"unet": self.digest("unet"), "vae": self.digest("vae"),
                "text": self.digest("text_encoder"), "tokenizer": self.tokenizer_digest()}


def locate(spec: ModelSpec, roots: Roots, download: bool = False) -> ModelFiles | None:
    """Find the model a manifest names.

    A source is ``tiny``, a folder below the models root, or a hub id, in this order.

    Parameters
    ----------
    download : fetch a hub id that is not on this machine

    Returns
    -------
    ModelFiles, or None where a hub id is not on this machine and `download` is false

    Raises
    ------
    ModelError
        Not there, with the way out.
    """
    if spec.source == TINY:
        return ModelFiles(TINY, HOME)
    folder = find_folder(spec.source, roots, "model.source")
    if folder is None:
        patterns = ["model_index.json", *_patterns(spec.variant)]
        whole = partial(_is_whole, _COMPONENTS)
        folder = from_hub(spec.source, spec.revision, patterns, whole, download)
    if folder is None:
        return None
    for component in _COMPONENTS:
        if not (folder / component).is_dir():
            raise ModelError(f"{folder}: no '{component}' in it; {EXPECTED}")
    return ModelFiles(spec.source, folder, spec.variant)


def _patterns(variant: str | None) -> list[str]:
    """Files of a hub repository to fetch: configurations, and one variant of the weights."""
    names = ["model", "diffusion_pytorch_model"]
    weights = [f"{n}.{variant}*.safetensors" if variant else f"{n}{shard}.safetensors"
               for n in names for shard in ("", "-*-of-*")]
    wanted = ["*.json", "*.txt", *dict.fromkeys(weights)]
    return [f"{component}/{pattern}" for component in _COMPONENTS for pattern in wanted]


def assumed_family() -> Family:
    """The published layout of Stable Diffusion 1.x, for plans without its files."""
    return family(SD1_UNET, SD1_VAE)


def find_folder(source: str, roots: Roots, place: str) -> Path | None:
    """The folder below the models root, or None where `source` can only be a hub id.

    Raises
    ------
    ModelError
        Neither a folder nor the form of a hub id.
    """
    if not escapes(source) or roots.outside:
        folder = roots.below("models", source, place)
        if folder.is_dir():
            return folder
    if _HUB_ID.fullmatch(source) and not escapes(source):
        return None
    roots.below("models", source, place)
    raise ModelError(f"{place}: '{source}' is neither '{TINY}', nor a folder below the models root"
                     f" ({roots.models}), nor a hub id like 'organisation/name'"
                     f"{did_you_mean(source, [TINY])}")


def _is_whole(folders: Iterable[str], snapshot: Path) -> bool:
    """Whether a snapshot has files in all these folders (another tool may have fetched a part)."""
    return all(any((snapshot / folder).glob("*.json")) for folder in folders) and all(
        any((snapshot / folder).glob("*.safetensors")) for folder in folders
        if folder not in ("tokenizer", "scheduler"))


def controlnet_from_hub(repo: str, download: bool) -> Path | None:
    """The local snapshot of a ControlNet's repository, as `from_hub`."""
    return from_hub(repo, None, ["config.json", "diffusion_pytorch_model.safetensors"],
                    partial(_is_whole, ["."]), download)


def from_hub(repo: str, revision: str | None, patterns: list[str],
             whole: Callable[[Path], bool], download: bool) -> Path | None:
    """The local snapshot of a hub repository; with `download`, fetched where it is not here.

    Parameters
    ----------
    patterns : of the files that are wanted
    whole : whether a snapshot has all of them

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
        found = fetch(local=True)
        if whole(found):
            return found
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
        raise ModelError(
            f"{repo}: not on this machine and not to be had from the hub"
            f" ({type(error).__name__}); put its files into <models root>/{repo}, or log in"
            " with 'hf auth login'") from error


def read_config(path: Path) -> dict[str, Any]:
    """Read a JSON configuration.

    Raises
    ------
    ModelError
        Missing or not a JSON object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise ModelError(f"{path}: cannot be read ({reason}); {EXPECTED}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object; {EXPECTED}")
    return config


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors files of a component.

    Raises
    ------
    ModelError
        None there; pickled weights are not read.
    """
    middle = rf"\.{re.escape(variant)}" if variant else ""
    name = re.compile(rf"[^.]+{middle}(-\d+-of-\d+)?\.safetensors")
    found = sorted(p for p in folder.glob("*.safetensors") if name.fullmatch(p.name))
    if not found:
        pickled = any(folder.glob("*.bin"))
        why = "only pickled weights (.bin), which are not read" if pickled else "no weights"
        also = f" of variant '{variant}'" if variant else ""
        raise ModelError(f"{folder}: {why}{also}; put *.safetensors there")
    return found


def folder_digest(folder: Path, variant: str | None) -> str:
    """sha256 over configuration and weights of one component's folder."""
    config = read_config(folder / "config.json")
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    files = [remembered_sha256(p) for p in weight_files(folder, variant)]
    return fingerprint({"config": plain, "weights": files})

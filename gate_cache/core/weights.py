"""Weight files of a component's folder: which ones, whether all are there, and their digest."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gate_cache.core.digest_cache import remembered_sha256
from gate_cache.core.errors import ModelError, listed
from gate_cache.core.fingerprint import fingerprint
from gate_cache.core.headers import read_config, read_header

# diffusion_pytorch_model.fp16-00001-of-00002.safetensors: the variant is what follows the dot
_NAME = re.compile(r"[^.]+?(?:\.(?P<variant>[\w-]+?))?(?:-\d+-of-\d+)?\.safetensors")


def variant_of(name: str) -> str | None:
    """The variant that a weight file's name says, such as ``fp16``; empty for none of them."""
    match = _NAME.fullmatch(name)
    return (match["variant"] or "") if match else None


def weight_files(folder: Path, variant: str | None, field: str = "model.variant") -> list[Path]:
    """The safetensors files of a component.

    Parameters
    ----------
    folder : of the component
    variant : such as ``fp16``; None or empty for files without one
    field : of the manifest that gives the variant, for messages

    Raises
    ------
    ModelError
        None there; pickled weights are not read.
    """
    variants = {p: variant_of(p.name) for p in sorted(folder.glob("*.safetensors"))}
    paths = [p for p, of in variants.items() if of == (variant or "")]
    if paths:
        _check_shards(folder, paths, variant)
        return paths
    others = sorted({of for of in variants.values() if of})
    if others:
        raise ModelError(f"{folder}: only weights of variant {listed(others)}; set '{field}:"
                         f" {others[0]}'")
    if "" in variants.values():
        raise ModelError(f"{folder}: no weights of variant '{variant}', only some without a"
                         f" variant; leave '{field}' out, or where other parts have them alone, let"
                         f" this one's names end in '.{variant}.safetensors' too")
    pickled = any(folder.glob("*.bin"))
    why = "only pickled weights (.bin), which are not read" if pickled else "no weights"
    also = f" of variant '{variant}'" if variant else ""
    raise ModelError(f"{folder}: {why}{also}; put *.safetensors there")


def _check_shards(folder: Path, paths: list[Path], variant: str | None) -> None:
    """Refuse a folder without some of the files that its index names, or without an index."""
    end = f".index.{variant}.json" if variant else ".index.json"
    indexes = list(folder.glob(f"*.safetensors{end}"))
    if not indexes and all("-of-" in p.name for p in paths):
        raise ModelError(f"{folder}: no index (*.safetensors{end}) of its {len(paths)} weight"
                         " files; fetch it again")
    for index in indexes:
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ModelError(f"{index}: not an index of weight files; fetch it again") from None
        lacking = sorted(names - {p.name for p in paths})
        if lacking:
            raise ModelError(f"{folder}: {len(lacking)} of its {len(names)} weight files not"
                             f" there: {listed(lacking, 2)}; fetch it again")


def shapes_in(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Tensor name to shape, over all files."""
    return {name: shape for path in files for name, shape in read_header(path).shapes.items()}


def folder_digest(folder: Path, variant: str | None, field: str = "model.variant") -> str:
    """sha256 over configuration and weights of one component's folder."""
    return digest(read_config(folder / "config.json"), weight_files(folder, variant, field))


def digest(config: dict[str, Any], files: list[Path]) -> str:
    """sha256 over a configuration and the files of its weights."""
    # _diffusers_version, _name_or_path …: where it came from, which changes no value
    plain = {k: v for k, v in config.items() if not k.startswith("_")}
    return fingerprint({"config": plain, "weights": [remembered_sha256(p) for p in files]})

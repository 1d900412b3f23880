"""From a manifest to recipes: all that decides each combo's values, by digest. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate_cache.datasets.base import PREPROCESSING
from gate_cache.diffusion.embedded import CONTROLNET, LORAS, TINY
from gate_cache.diffusion.memo import remembered_sha256
from gate_cache.diffusion.sources import (
    ModelFiles,
    controlnet_from_hub,
    find_folder,
    folder_digest,
)
from gate_cache.errors import ModelError, UserError, did_you_mean
from gate_cache.features import Family, MapSpec
from gate_cache.fingerprint import Recipe, fingerprint
from gate_cache.manifest import Combo, ControlNetSpec, Fit, LoraSpec, Manifest
from gate_cache.roots import Roots


@dataclass(frozen=True)
class PlannedCombo:
    """One combo of a manifest, resolved against a model.

    Attributes
    ----------
    shapes : map name to (C, h, w)
    recipe : all that decides the values
    """

    name: str
    combo: Combo
    specs: tuple[MapSpec, ...]
    shapes: dict[str, tuple[int, ...]]
    recipe: Recipe


def settings(combo: Combo) -> dict[str, Any]:
    """What of a combo the manifest alone decides (no weights); part of its recipe."""
    found: dict[str, Any] = {"prompt": combo.prompt, "seed": combo.seed, "t": combo.t}
    if combo.controlnet:
        net = combo.controlnet
        found["controlnet"] = {"canny": [net.low, net.high], "scale": net.scale}
    if combo.lora:
        found["lora"] = [lora.scale for lora in combo.lora]
    if combo.denoise:
        found["denoise"] = {"from": combo.denoise.start, "steps": combo.denoise.steps}
    return found


def sources(combo: Combo) -> dict[str, Any]:
    """Names of what a combo uses: for people; the recipe has the digests."""
    return {"controlnet": combo.controlnet.source if combo.controlnet else None,
            "lora": [lora.source for lora in combo.lora]}


@dataclass(frozen=True)
class ComboMaps:
    """The maps a combo yields: their specifications, and name to (C, h, w)."""

    specs: tuple[MapSpec, ...]
    shapes: dict[str, tuple[int, ...]]


def combo_maps(manifest: Manifest, layout: Family, size: int,
               count_tokens: Callable[[str], int]) -> dict[str, ComboMaps]:
    """Combo name to its maps, for all combos of a manifest.

    Raises
    ------
    ModelError
        A map the model lacks.
    """
    found = {}
    for name, combo in manifest.combos.items():
        specs = layout.select(manifest.kind(name), combo.maps)
        tokens = count_tokens(combo.prompt)
        found[name] = ComboMaps(specs, {s.name: s.shape(size, tokens) for s in specs})
    return found


def latents_recipe(files: ModelFiles, size: int, dtype: str, fit: Fit) -> Recipe:
    """All that decides the latents: the VAE, the input's size and how it is made."""
    scaling = files.config("vae").get("scaling_factor", 0.18215)
    return {"kind": "latents", "vae": files.weights["vae"], "scaling_factor": scaling,
            "size": size, "resize": fit, "preprocessing": PREPROCESSING, "compute": dtype}


def plan_combos(manifest: Manifest, files: ModelFiles, roots: Roots) -> list[PlannedCombo]:
    """Resolve every combo of a manifest: its maps, shapes and recipe.

    Raises
    ------
    ModelError
        A map the model lacks, or a missing ControlNet or LoRA.
    """
    size = files.size(manifest.model.size)
    model = manifest.model
    latents = fingerprint(latents_recipe(files, size, model.dtype, model.fit))
    found = []
    for name, maps in combo_maps(manifest, files.family, size, files.tokens.count).items():
        combo = manifest.combos[name]
        recipe = {
            "kind": manifest.kind(name),
            "settings": settings(combo),
            "maps": list(maps.shapes),
            "size": size,
            "latents": latents,
            "weights": _weights(name, combo, files, roots),
            "schedule": files.schedule(),
            "compute": model.dtype,
        }
        if model.fit != "squash":  # which is what a recipe that does not say means
            recipe["resize"] = model.fit
        found.append(PlannedCombo(name, combo, maps.specs, maps.shapes, recipe))
    return found


def _weights(name: str, combo: Combo, files: ModelFiles, roots: Roots) -> dict[str, Any]:
    weights: dict[str, Any] = {k: files.weights[k] for k in ("unet", "text", "tokenizer")}
    if combo.controlnet:
        weights["controlnet"] = controlnet_digest(name, combo.controlnet, roots)
    if combo.lora:
        weights["lora"] = [lora_digest(name, lora, roots) for lora in combo.lora]
    return weights


def controlnet_folder(name: str, spec: ControlNetSpec, roots: Roots,
                      download: bool = False) -> Path:
    """Folder of a ControlNet in diffusers layout.

    Raises
    ------
    ModelError
        Not there.
    """
    if spec.source == TINY:
        return CONTROLNET
    folder = find_folder(spec.source, roots, f"{name}.controlnet.source") or controlnet_from_hub(
        spec.source, download)
    if folder is None:
        raise ModelError(f"{name}.controlnet.source: '{spec.source}' is not on this machine; put"
                         f" its config.json and safetensors into {roots.models / spec.source}")
    return folder


def controlnet_digest(name: str, spec: ControlNetSpec, roots: Roots) -> str:
    """sha256 over a ControlNet's weights and configuration."""
    return folder_digest(controlnet_folder(name, spec, roots), None)


def lora_file(name: str, spec: LoraSpec, roots: Roots) -> Path:
    """A LoRA's file.

    Raises
    ------
    ModelError
        Not there, or not a safetensors file.
    """
    if spec.source in LORAS:
        return LORAS[spec.source]
    path = roots.below("models", spec.source, f"{name}.lora.source")
    if not path.is_file():
        raise ModelError(f"{name}.lora.source: {path}: no such LoRA file"
                         f"{did_you_mean(spec.source, LORAS)}; put it there, or name"
                         " the models root with --models")
    if path.suffix != ".safetensors":
        raise ModelError(f"{name}.lora.source: {path}: not a .safetensors file; pickled weights"
                         " are not read")
    return path


def lora_digest(name: str, spec: LoraSpec, roots: Roots) -> str:
    """sha256 of a LoRA's file."""
    return remembered_sha256(lora_file(name, spec, roots))


def missing_inputs(manifest: Manifest, roots: Roots, download: bool = False) -> list[str]:
    """One line for every ControlNet or LoRA of a manifest that is not there.

    Parameters
    ----------
    download : fetch ControlNets that are named by hub id
    """
    problems: list[str] = []
    for name, combo in manifest.combos.items():
        if combo.controlnet:
            problems += _problem(controlnet_folder, name, combo.controlnet, roots, download)
        for lora in combo.lora:
            problems += _problem(lora_file, name, lora, roots)
    return list(dict.fromkeys(problems))


def _problem(check: Callable[..., object], *args: Any) -> list[str]:
    try:
        check(*args)
    except UserError as error:
        return [str(error)]
    return []

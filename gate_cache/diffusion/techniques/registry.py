"""Which techniques there are: ours, and those of other packages by entry point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ManifestError, UserError, did_you_mean
from gate_cache.core.plugins import installed, load_plugin
from gate_cache.diffusion.techniques.controlnet import ControlNet
from gate_cache.diffusion.techniques.ip_adapter import IPAdapter
from gate_cache.diffusion.techniques.lora import Lora

if TYPE_CHECKING:
    from gate_cache.diffusion.techniques.base import Technique
    from gate_cache.manifest.specs import Combo

GROUP = "gate_cache.techniques"
BUILT_IN: tuple[type[Technique[Any]], ...] = (ControlNet, Lora, IPAdapter)


def techniques(name: str, combo: Combo) -> list[Technique[Any]]:
    """The techniques of one combo.

    Raises
    ------
    ManifestError
        One of ``extra`` is not installed, or refuses its settings.
    """
    specs = [(cls, getattr(combo, cls.name)) for cls in BUILT_IN]
    used = [cls(name, spec) for cls, spec in specs if spec]
    return used + [_installed(name, key)(name, spec) for key, spec in combo.extra.items()]


def _installed(combo: str, name: str) -> type[Technique[Any]]:
    known = installed(GROUP)
    if name not in known:
        have = f"installed: {', '.join(known)}" if known else "none is installed"
        raise ManifestError([f"{combo}.extra: no technique '{name}'{did_you_mean(name, known)};"
                             f" {have} (entry points '{GROUP}')"])
    try:
        technique: type[Technique[Any]] = load_plugin(GROUP, name)
    except UserError as error:
        raise ManifestError([f"{combo}.extra.{name}: {error}"]) from error
    return technique


def settings(combo: Combo, noised: bool = True) -> dict[str, Any]:
    """What of a combo the manifest alone decides (no weights); part of its recipe.

    Parameters
    ----------
    noised : whether its model is a diffusion model; a vision encoder's combos only have ``mirror``
    """
    if not noised:
        return {"mirror": True} if combo.mirror else {}
    recipe: dict[str, Any] = {"prompt": combo.prompt, "seed": combo.seed, "t": combo.t}
    if combo.noise == "none":
        recipe = {"prompt": combo.prompt, "noise": "none", "t": combo.t}
    if combo.ensemble > 1:
        recipe["ensemble"] = combo.ensemble
    if combo.mirror:
        recipe["mirror"] = True
    recipe |= {t.name: t.settings() for t in techniques("", combo)}
    if combo.denoise:
        recipe["denoise"] = {"from": combo.denoise.start, "steps": combo.denoise.steps}
    if combo.guidance:
        recipe["guidance"] = combo.guidance.model_dump()
    return recipe


def read_as(settings: Mapping[str, Any]) -> str:
    """How maps are read where it is not one pass of the noised image, in a few words for people.

    Parameters
    ----------
    settings : of a recipe
    """
    n = settings.get("ensemble", 1)
    parts = [f"mean of {n} noises" if n > 1 else "", "no noise" if "noise" in settings else "",
             "mirrored" if settings.get("mirror") else ""]
    return ", ".join(filter(None, parts))


def sources(combo: Combo) -> dict[str, Any]:
    """Names of what a combo uses: for people; the recipe has the digests."""
    return {t.name: t.sources() for t in techniques("", combo)}

"""The layers of a model that LoRAs can change, from its files' headers. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gate_cache.diffusion.files.weights import shapes_in
from gate_cache.diffusion.lora.fit import ModelLayers
from gate_cache.diffusion.models.layouts import UNET

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gate_cache.diffusion.models.sources import ModelFiles

_ORIGINAL_UNET = "model.diffusion_model."


def model_layers(files: ModelFiles) -> ModelLayers:
    """The layers of a model, by its files' headers and its configurations.

    Raises
    ------
    ModelError
        No weights, or no safetensors file.
    """
    unet = files.config(UNET)
    parts: dict[str, Iterable[tuple[str, tuple[int, ...]]]] = {
        part: _text_weights(part, files.config(part)) for part in files.kind.encoders}
    paths = files.paths(UNET)
    prefix = _ORIGINAL_UNET if files.file else ""
    weights = {key.removeprefix(prefix): shape for key, shape in shapes_in(paths).items()
               if key.startswith(prefix)}
    parts[UNET] = [(key.removesuffix(".weight"), shape) for key, shape in weights.items()
                   if key.endswith(".weight")]
    return ModelLayers(parts, unet)


def _text_weights(part: str, config: Mapping[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Those of a CLIP text encoder's layers."""
    width, inner = config.get("hidden_size", 512), config.get("intermediate_size", 2048)
    shapes: dict[str, tuple[int, ...]] = {
        f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    found = [(f"encoder.layers.{i}.{name}", shape)
             for i in range(config.get("num_hidden_layers", 12)) for name, shape in shapes.items()]
    if part.endswith("_2"):
        found.append(("text_projection", (config.get("projection_dim", 512), width)))
    return found

"""Whether a LoRA fits a model: its layers are there, and of the right shapes. No torch.

The layers are read off the headers of the model's files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from gate_cache.core.errors import ModelError, listed
from gate_cache.diffusion.lora.keys import diffusers_name, flux_names, plain_name
from gate_cache.diffusion.models.layouts import UNET

if TYPE_CHECKING:
    from gate_cache.diffusion.lora.file import LoraFile, LoraLayer
    from gate_cache.diffusion.models.sources import ModelFiles

_ORIGINAL_UNET = "model.diffusion_model."
Weights = Iterable[tuple[str, tuple[int, ...]]]
"""Names and shapes."""


class WeightPlace(NamedTuple):
    """A linear layer or convolution of a model: part, dotted name and the weight's shape."""

    part: str
    name: str
    shape: tuple[int, ...]


class ModelLayers:
    """The layers of a model that a LoRA can change.

    Parameters
    ----------
    parts : ``unet`` and text encoders to names and shapes of weights (those with two or more
        lengths count)
    unet : its configuration
    """

    def __init__(self, parts: Mapping[str, Weights], unet: Mapping[str, Any]) -> None:
        count = unet.get("layers_per_block", 2)
        self._per_block = count if isinstance(count, int) else max(count)
        self._parts = {part: {self._name(part, plain_name(name)): (name, tuple(shape))
                              for name, shape in weights if len(shape) > 1}
                       for part, weights in parts.items()}

    def _name(self, part: str, layer: str) -> str:
        return diffusers_name(layer, self._per_block) if part == UNET else layer

    def find(self, layer: LoraLayer) -> list[WeightPlace]:
        """What a LoRA's layer may change: one weight, or none; where it names no part, several."""
        places = []
        for part in [layer.part] if layer.part else self._parts:
            weight = self._parts.get(part, {}).get(self._name(part, layer.name))
            places += [WeightPlace(part, *weight)] if weight else []
        return places

    def _split(self, layer: LoraLayer) -> Iterator[LoraLayer]:
        """The layer; of one that the model has in parts, each with its rows of the change."""
        names, end = flux_names(layer.name), layer.shapes[1][0]
        weights = [self._parts.get(UNET, {}).get(name) for name in names]
        if layer.part != UNET or not all(weights):
            yield layer
            return
        start = 0
        for name, weight in zip(names, weights, strict=True):  # rows too many are of the last
            stop = end if name == names[-1] or weight is None else start + weight[1][0]
            yield replace(layer, name=name, rows=(start, stop), shapes=(
                layer.shapes[0], (stop - start, *layer.shapes[1][1:])))
            start = stop

    def placed(self, lora: LoraFile) -> list[tuple[LoraLayer, WeightPlace]]:
        """Every layer of a LoRA with the weight that it changes.

        Raises
        ------
        ModelError
            The model lacks a layer, or one is of another shape; a layer is there twice, or may be
            of several parts.
        """
        layers = [(part, self.find(part)) for layer in lora.layers for part in self._split(layer)]
        for layer, places in layers:
            if len(places) > 1:
                parts = " or ".join(place.part for place in places)
                raise ModelError(f"{lora.source}: '{layer.down}' may be of {parts}, and does not"
                                 " say of which; let its keys begin with that and a dot")
        _refuse_misfits(lora.source, layers)
        seen: dict[WeightPlace, LoraLayer] = {}
        for layer, places in layers:
            if seen.setdefault(places[0], layer) is not layer:
                raise ModelError(f"{lora.source}: '{seen[places[0]].down}' and '{layer.down}' are"
                                 " of one layer, which a file must have once; remove one of them")
        return [(layer, places[0]) for layer, places in layers]


def model_layers(files: ModelFiles) -> ModelLayers:
    """The layers of a model, by its files' headers and its configurations."""
    prefix = _ORIGINAL_UNET if files.file else ""
    unet = [(key.removeprefix(prefix).removesuffix(".weight"), shape)
            for key, shape in files.shapes(files.kind.denoiser).items()
            if key.startswith(prefix) and key.endswith(".weight")]
    texts = {part: _text_weights(part, files.config(part)) for part in files.kind.encoders
             if part != files.kind.t5[0]}
    return ModelLayers({**texts, UNET: unet}, files.config(files.kind.denoiser))


def _text_weights(part: str, config: Mapping[str, Any]) -> Weights:
    """Those of a CLIP text encoder's layers."""
    width, inner = config.get("hidden_size", 512), config.get("intermediate_size", 2048)
    shapes = {f"self_attn.{x}_proj": (width, width) for x in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (inner, width), "mlp.fc2": (width, inner)}
    for i in range(config.get("num_hidden_layers", 12)):
        yield from ((f"encoder.layers.{i}.{name}", shape) for name, shape in shapes.items())
    if part.endswith("_2"):
        yield "text_projection", (config.get("projection_dim", 512), width)


def _refuse_misfits(source: str, layers: list[tuple[LoraLayer, list[WeightPlace]]]) -> None:
    """Refuse layers of other shapes, and those that the model lacks."""
    for layer, places in layers:
        for place in places:
            if _changed(layer) != _plain(place.shape):
                raise ModelError(f"{source}: this LoRA does not fit the model: '{layer.down}'"
                                 f" changes a weight of shape {_changed(layer)}, this model's"
                                 f" is {_plain(place.shape)}; name one that was made for it")
    lacks = [f"'{layer.down}'" for layer, places in layers if not places]
    if lacks:
        raise ModelError(f"{source}: only {len(layers) - len(lacks)} of its {len(layers)} layers"
                         f" fit this model; no such layer: {listed(lacks, 2)}; name a LoRA that"
                         " was made for it")


def _changed(layer: LoraLayer) -> tuple[int, ...]:
    """The shape (out, in, …) of the weight that a layer is for."""
    down, up = layer.shapes
    return _plain((up[0], *down[1:], *[n for n in up[2:] if n > 1]))


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A convolution of 1×1 is a linear layer; files have it either way."""
    return shape[:2] if set(shape[2:]) <= {1} else shape

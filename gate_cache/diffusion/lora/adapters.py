"""LoRA adapters beside a model: loaded once, switched on and off, never fused into the weights.

peft computes the layers; which ones there are and how strong each is, is what the file says (see
`gate_cache.diffusion.lora.file`), and is compared with it after loading.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer as PeftLayer

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.files.tensors import read_safetensors
from gate_cache.diffusion.lora.file import LoraFile, LoraLayer, read_lora
from gate_cache.diffusion.lora.fit import ModelLayers, WeightPlace

if TYPE_CHECKING:
    from gate_cache.diffusion.lora.settings import Strength
    from gate_cache.diffusion.models.backbone import Backbone

_Placed = list[tuple[LoraLayer, WeightPlace]]
_At = tuple[str, str]
"""Part and dotted name of a module."""


class Loras:
    """The LoRAs of one extraction, by digest, beside a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self._parts: dict[str, Any] = {"unet": backbone.unet, **backbone.text_encoders}
        self._dtype = backbone.dtype
        kinds = torch.nn.Linear, torch.nn.Conv2d
        weights = {part: [(name, tuple(m.weight.shape)) for name, m in module.named_modules()
                          if isinstance(m, kinds)] for part, module in self._parts.items()}
        self._layers = ModelLayers(weights, backbone.unet.config)
        self._loaded: dict[str, str] = {}
        self._strengths: dict[str, dict[_At, Strength]] = {}

    def load(self, digest: str, source: str, path: Path) -> None:
        """Load one LoRA, inactive; a second time with the same digest does nothing.

        Parameters
        ----------
        digest : to switch it on by
        source : as the manifest names it, for messages

        Raises
        ------
        ModelError
            Unreadable, not plain LoRA, for another model, without effect, or not applied as the
            file says.
        """
        if digest in self._loaded:
            return
        lora = read_lora(source, path)
        placed, name = self._layers.placed(lora), f"lora_{len(self._strengths)}"
        tensors = self._cast(lora, read_safetensors(path))
        self._strengths[name] = {(p.part, p.name): layer.strength for layer, p in placed}
        try:
            for part, module in self._parts.items():
                _insert(module, name, [pair for pair in placed if pair[1].part == part], tensors)
            self._check(lora, name, placed, tensors)
        finally:
            self._switch({})
        self._loaded[digest] = name

    def _cast(self, lora: LoraFile, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The factors as the model computes."""
        cast = {key: tensors[key].to(self._dtype)
                for layer in lora.layers for key in (layer.down, layer.up)}
        bad = next((key for key, value in cast.items() if not value.isfinite().all()), None)
        if bad:
            name = str(self._dtype).removeprefix("torch.")
            raise ModelError(f"{lora.source}: '{bad}' holds NaN or infinity in {name}; get the file"
                             " again, or try another model.dtype")
        if not any(x.strength.alpha and cast[x.up].any() and cast[x.down].any()
                   for x in lora.layers):
            raise ModelError(f"{lora.source}: this LoRA changes nothing: of each layer a factor or"
                             " the alpha is zero; it was not trained, or is damaged")
        return cast

    def _check(self, lora: LoraFile, name: str, placed: _Placed,
               tensors: Mapping[str, torch.Tensor]) -> None:
        """Compare every layer's factors and strength with the file."""
        self._switch({name: 1.0})
        beside = {at: layer for at, layer in self._wrapped() if name in layer.lora_A}
        if len(beside) != len(placed):
            raise ModelError(f"{lora.source}: {len(beside)} layers were loaded, the file has"
                             f" {len(placed)}; {_OURS}")
        for layer, place in placed:
            wrapped = beside[place.part, place.name]
            factors = ((wrapped.lora_A[name].weight, tensors[layer.down]),
                       (wrapped.lora_B[name].weight, layer.up_of(tensors[layer.up])))
            same = all(torch.equal(now.flatten().cpu(), value.flatten()) for now, value in factors)
            strength = layer.strength.alpha / layer.strength.divisor
            if not same or not math.isclose(wrapped.scaling[name], strength):
                raise ModelError(f"{lora.source}: '{layer.down}' was loaded with other values, or"
                                 f" with a strength of {wrapped.scaling[name]} where the file says"
                                 f" {strength}; {_OURS}")

    def _wrapped(self) -> Iterator[tuple[_At, Any]]:
        """Modules with layers beside them."""
        for part, module in self._parts.items():
            yield from (((part, name), layer) for name, layer in module.named_modules()
                        if isinstance(layer, PeftLayer))

    @contextmanager
    def active(self, loras: Sequence[tuple[str, float]]) -> Iterator[None]:
        """Switch LoRAs on, by digest with their scales, for the ``with`` block."""
        if not loras:
            yield
            return
        self._switch({self._loaded[digest]: scale for digest, scale in loras})
        try:
            yield
        finally:
            self._switch({})

    def _switch(self, scales: Mapping[str, float]) -> None:
        """Let these adapters work, each ``scale · alpha / divisor`` strong, and no others."""
        for at, layer in self._wrapped():
            names = [name for name in scales if name in layer.lora_A]
            layer.enable_adapters(bool(names))
            if names:
                layer.set_adapter(names, inference_mode=True)
            for name in names:
                alpha, divisor = self._strengths[name][at]
                layer.scaling[name] = scales[name] * alpha / divisor

    def close(self) -> None:
        """Remove every adapter: the modules are what they were."""
        for (part, name), layer in list(self._wrapped()):
            parent, _, child = name.rpartition(".")
            setattr(self._parts[part].get_submodule(parent), child, layer.get_base_layer())
        for module in self._parts.values():
            vars(module).pop("peft_config", None)
        self._loaded.clear()
        self._strengths.clear()


_OURS = "this is a fault of gate-cache or of its version of peft, please report it"


def _insert(module: Any, name: str, placed: _Placed, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put an adapter's layers beside those of one part; nothing is drawn or guessed."""
    if not placed:
        return
    ranks: dict[int, list[str]] = {}
    for layer, place in placed:
        ranks.setdefault(layer.rank, []).append(re.escape(place.name))
    config = LoraConfig(
        target_modules="|".join(p for names in ranks.values() for p in names), inference_mode=True,
        rank_pattern={f"^(?:{'|'.join(names)})": rank for rank, names in ranks.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, module, name, low_cpu_mem_usage=True)
    for layer, place in placed:
        wrapped: Any = module.get_submodule(place.name)
        if not isinstance(wrapped, PeftLayer):
            continue  # `Loras._check` finds that
        device = wrapped.get_base_layer().weight.device
        for factor, value in ((wrapped.lora_A[name], tensors[layer.down]),
                              (wrapped.lora_B[name], layer.up_of(tensors[layer.up]))):
            whole = value.reshape(factor.weight.shape).to(device)
            factor.weight = torch.nn.Parameter(whole, requires_grad=False)

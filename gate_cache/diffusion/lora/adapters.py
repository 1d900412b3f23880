"""LoRA adapters beside a model: loaded once, switched on and off, never fused into the weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.loaders.lora_pipeline import (
    StableDiffusionLoraLoaderMixin,
    StableDiffusionXLLoraLoaderMixin,
)
from safetensors import SafetensorError
from safetensors.torch import load_file

from gate_cache.core.errors import ModelError, listed
from gate_cache.diffusion.models.backbone import Backbone

_PAIR = ("lora_A", "lora_B", "lora_down", "lora_up", "lora.down", "lora.up")

_PREFIXES = ("unet.", "text_encoder.", "text_encoder_2.", "lora_unet_", "lora_te")


class _Modules:
    """Our modules, as diffusers' LoRA loaders want to find a pipeline's."""

    hf_device_map = None

    def __init__(self, backbone: Backbone) -> None:
        self.components = {"unet": backbone.unet, **backbone.text_encoders}
        for name, module in self.components.items():
            setattr(self, name, module)


class _Adapters(_Modules, StableDiffusionLoraLoaderMixin):
    """diffusers' LoRA loader without a whole pipeline."""


class _AdaptersXL(_Modules, StableDiffusionXLLoraLoaderMixin):
    """The same for Stable Diffusion XL."""


class Loras:
    """The LoRAs of one extraction, by digest, beside a backbone."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        cls = _AdaptersXL if len(backbone.text_encoders) == 2 else _Adapters
        self._adapters = cls(backbone)
        self._loaded: dict[str, str] = {}
        self._touched = False

    def load(self, digest: str, source: str, path: Path) -> None:
        """Load one LoRA, inactive.

        Raises
        ------
        ModelError
            Unreadable, for another model, or not fully applied.
        """
        if digest in self._loaded:
            return
        state = read_safetensors(path)
        _refuse_strange(source, state)
        self._touched = True
        name = f"lora_{len(self._loaded)}"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._insert(state, path, name)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"{source}: this LoRA does not fit the model: {reason}") from error
        self._check(source, name, state)
        self._loaded[digest] = name
        self._off()

    def _insert(self, state: Mapping[str, torch.Tensor], path: Path, name: str) -> None:
        """Put the adapter's layers beside the model's; read from the file, alphas come along."""
        if any(key.startswith(_PREFIXES) for key in state):
            self._adapters.load_lora_weights(str(path), adapter_name=name)
        else:  # as `unet.save_lora_adapter` writes it
            self._backbone.unet.load_lora_adapter(str(path.parent), weight_name=path.name,
                                                  prefix=None, adapter_name=name)

    def _check(self, source: str, name: str, state: Mapping[str, torch.Tensor]) -> None:
        """Refuse a file of which not every tensor is in use."""
        wanted = [k for k in state if not k.endswith(".alpha")]
        modules = self._adapters.components.values()
        used = [k for m in modules for k, _ in m.named_parameters() if f".{name}." in k]
        if len(used) != len(wanted):
            strange = sorted({_layer(k) for k in wanted} - {_layer(k) for k in used})
            which = f"; no such layer: {listed(strange, 3)}" if len(strange) < len(wanted) / 2 \
                else ""
            raise ModelError(f"{source}: only {len(used)} of its {len(wanted)} tensors fit this"
                             f" model{which}; is it made for another one?")

    @contextmanager
    def active(self, wanted: Sequence[tuple[str, float]]) -> Iterator[None]:
        """Switch LoRAs on, by digest with their scales, for the ``with`` block."""
        if not wanted:
            yield
            return
        names, scales = [self._loaded[d] for d, _ in wanted], [s for _, s in wanted]
        if len(set(names)) < len(names):
            raise ModelError("two LoRAs of one combo have the same weights; give one, with one"
                             " scale")
        self._adapters.enable_lora()
        self._adapters.set_adapters(names, scales)
        try:
            yield
        finally:
            self._off()

    def _off(self) -> None:
        self._adapters.disable_lora()

    def close(self) -> None:
        """Take every adapter out again: the modules are what they were."""
        if self._touched:
            self._adapters.unload_lora_weights()
            self._loaded.clear()


def read_safetensors(path: Path) -> Mapping[str, torch.Tensor]:
    """All tensors of a file.

    Raises
    ------
    ModelError
        Not a safetensors file.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a safetensors file ({error})") from None


def _layer(key: str) -> str:
    """A tensor's layer, spelt as kohya and diffusers both can: ``down_blocks_0_attentions_0_…``."""
    end = min(key.find(p) for p in _PAIR if p in key)
    for prefix in _PREFIXES:
        key, end = (key[len(prefix):], end - len(prefix)) if key.startswith(prefix) else (key, end)
    return key[:end].strip("._").replace(".", "_").replace("_processor", "")


def _refuse_strange(source: str, state: Mapping[str, torch.Tensor]) -> None:
    """Refuse kinds of adapters that would be dropped or misread."""
    strange = [k for k in state if not k.endswith(".alpha") and not any(p in k for p in _PAIR)]
    if strange:
        raise ModelError(f"{source}: holds '{strange[0]}', which is not plain LoRA; only LoRA and"
                         " LoCon (convolutions) are applied")



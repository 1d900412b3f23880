"""LoRA files as trainers and tools write them, with what each changes, worked out by hand."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from original_layout import unet_key
from safetensors.torch import save_file

from gate_cache.diffusion.models.backbone import Backbone

State = dict[str, torch.Tensor]
KOHYA = {"unet": "lora_unet", "text_encoder": "lora_te", "text_encoder_2": "lora_te2"}


@dataclass(frozen=True)
class Changed:
    """A layer of a LoRA: (rank, in, …) and (out, rank, …), alpha (None: the file has none)."""

    part: str
    name: str
    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return len(self.down)

    def delta(self, divisor: Callable[[int], float] = float) -> torch.Tensor:
        """strength · up @ down, by hand in float32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        alpha = self.rank if self.alpha is None else self.alpha
        return (product * alpha / divisor(self.rank)).reshape(len(self.up), *self.down.shape[1:])


@dataclass
class Written:
    """A file's tensors and metadata."""

    tensors: State = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        save_file({k: v.contiguous() for k, v in self.tensors.items()}, path,
                  self.metadata or None)
        return path


def weights(model: Backbone) -> list[tuple[str, str, torch.Tensor]]:
    """Part, name and weight of all linear layers and convolutions."""
    parts = {"unet": model.unet, **model.text_encoders}
    return [(part, name, m.weight) for part, module in parts.items()
            for name, m in module.named_modules()
            if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]


def drawn(layers: Iterable[tuple[str, str, torch.Tensor]], rank: Callable[[int], int],
          alpha: Callable[[int], float | None], dtype: torch.dtype = torch.float32,
          seed: int = 0) -> list[Changed]:
    """Random pairs that change each weight by about a tenth of its norm, at strength 1."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for i, (part, name, weight) in enumerate(layers):
        r = min(rank(i), len(weight), weight[0].numel())
        down = torch.randn(r, *weight.shape[1:], generator=g)
        up = torch.randn(len(weight), r, *[1] * (weight.ndim - 2), generator=g)
        up *= 0.1 * weight.norm() / (up.flatten(1) @ down.flatten(1)).norm()
        found.append(Changed(part, name, down.to(dtype), up.to(dtype), alpha(i)))
    return found


def flat_kohya(changed: Changed) -> str:
    """``lora_unet_down_blocks_0_…``, ``lora_te_text_model_encoder_…``."""
    name = changed.name
    if changed.part != "unet" and not name.startswith(("text_model.", "text_projection")):
        name = f"text_model.{name}"
    return f"{KOHYA[changed.part]}_{name.replace('.', '_')}"


def kohya(layers: Sequence[Changed], key: Callable[[Changed], str] = flat_kohya,
          alpha: torch.dtype = torch.float32) -> Written:
    """``….lora_down.weight``, ``….lora_up.weight``, ``….alpha``."""
    found = Written()
    for layer in layers:
        found.tensors[f"{key(layer)}.lora_down.weight"] = layer.down
        found.tensors[f"{key(layer)}.lora_up.weight"] = layer.up
        if layer.alpha is not None:
            found.tensors[f"{key(layer)}.alpha"] = torch.tensor(layer.alpha, dtype=alpha)
    return found


def sgm(config: dict[str, Any]) -> Callable[[Changed], str]:
    """kohya's names with the UNet's modules as the original code calls them."""
    def key(changed: Changed) -> str:
        if changed.part != "unet":
            return flat_kohya(changed)
        name = unet_key(f"{changed.name}.weight", config).removesuffix(".weight")
        return f"lora_unet_{name.replace('.', '_')}"
    return key


def dotted(changed: Changed, old: bool) -> str:
    """diffusers' name; transformers 4 (`old`) has a text encoder in ``text_model``."""
    inner = old and changed.part != "unet" and not changed.name.startswith("text_")
    return f"{changed.part}.{'text_model.' if inner else ''}{changed.name}"


def diffusers(layers: Sequence[Changed], old: bool = False, told: bool = True,
              **more: Any) -> Written:
    """``….lora_A.weight``, ``….lora_B.weight``, with alphas (where `told`) in the metadata."""
    found, settings = Written(), dict[str, Any]()
    for layer in layers:
        name = dotted(layer, old)
        found.tensors[f"{name}.lora_A.weight"] = layer.down
        found.tensors[f"{name}.lora_B.weight"] = layer.up
        module = name.removeprefix(f"{layer.part}.")
        mine = {"r": 3, "lora_alpha": 3, "target_modules": ["to_q"], "rank_pattern": {},
                "alpha_pattern": {}, **more}
        mine = settings.setdefault(layer.part, mine)
        mine["rank_pattern"][f"^{module}"] = layer.rank
        mine["alpha_pattern"][module] = layer.rank if layer.alpha is None else layer.alpha
    packed = {f"{part}.{key}": v for part, mine in settings.items() for key, v in mine.items()}
    if told:
        found.metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(packed)}
    return found


@contextmanager
def merged(model: Backbone, layers: Iterable[tuple[Changed, float]],
           divisor: Callable[[int], float] = float) -> Iterator[None]:
    """The model with the changes, each times a scale, added to its weights."""
    now = {(part, name): weight for part, name, weight in weights(model)}
    before = {at: weight.clone() for at, weight in now.items()}
    for layer, scale in layers:
        weight = now[layer.part, layer.name]
        weight += (scale * layer.delta(divisor)).reshape(weight.shape)
    try:
        yield
    finally:
        for at, weight in now.items():
            weight.copy_(before[at])


def outputs(model: Backbone) -> list[torch.Tensor]:
    """What the text encoders and the UNet give."""
    text = model.embed("a photo of a horse")
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return [text.states, *text.added.values(), model.predict(x, 50, text)]


def assert_alike(found: Sequence[torch.Tensor], by_hand: Sequence[torch.Tensor],
                 plain: Sequence[torch.Tensor]) -> None:
    """Equal within 1e-5 of the values' size; where the LoRA changes any, by far more than that."""
    for ours, theirs in zip(found, by_hand, strict=True):
        size = max(1.0, theirs.abs().max().item())
        assert (ours - theirs).abs().max().item() < 1e-5 * size
    assert any((a - b).abs().max() > 1e-3 for a, b in zip(by_hand, plain, strict=True))


def random_file(model: Backbone, config: dict[str, Any],
                seed: int) -> tuple[Written, list[Changed]]:
    """A file of any kind: parts, layers, ranks, alphas, number format and names are drawn."""
    r = random.Random(seed)
    layers = weights(model)
    parts = r.choice([["unet"], list(model.text_encoders), ["unet", *model.text_encoders]])
    share, low = r.choice([0.1, 0.4, 1.0]), r.choice([0.0, 0.5, 1.0])
    chosen = [w for w in layers if w[0] in parts and r.random() < share]
    chosen = chosen or [next(w for w in layers if w[0] == parts[0])]
    ranks = r.choice([[4], [1, 2, 3, 5, 8]])
    alphas = r.choice([[1.0], [0.5, 1.0, 2.0, 4.0, 7.0], [None], [None, None, 0.25, 3.0, 8.0]])
    dtype = r.choice([torch.float16, torch.bfloat16, torch.float32])
    changed = drawn(chosen, lambda _: r.choice(ranks),
                    lambda _: None if r.random() < low / 2 else r.choice(alphas), dtype, seed)
    kinds: list[Callable[[], Written]] = [
        lambda: kohya(changed), lambda: kohya(changed, sgm(config), torch.float16),
        lambda: diffusers(changed), lambda: diffusers(changed, old=True)]
    return r.choice(kinds)(), changed


def rslora(rank: int) -> float:
    """What rank-stabilised LoRA divides by."""
    return math.sqrt(rank)

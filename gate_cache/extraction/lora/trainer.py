"""Training a LoRA, step by step: a LoCon adapter, of attention and convolutions (paper, A.3).

Each step draws from a generator of its own, so that any can be resumed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from peft import LoraConfig
from torch.nn import functional

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.passes.noise import add_noise, generator

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone

NAME = "locon"
UNET = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
        "conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv",
        "upsamplers.0.conv")
TEXT = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
"""Modules that get a low-rank pair, those of kohya's LoCon; of the others none is changed."""
CLIP = 1.0
"""Largest norm of all gradients together."""
_MOMENTS = ("exp_avg", "exp_avg_sq")  # what torch's AdamW calls its state, beside "step"


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is trained; all but the batch size and the optimiser are the paper's (A.3).

    Attributes
    ----------
    rank, alpha : of the low-rank pairs, whose product is scaled by alpha / rank
    lr, text_lr : constant learning rates of UNet and text encoder; 0 leaves the latter as it is
    batch : images of a step
    seed : of the first weights, the order of the images, noises, times and captions
    """

    rank: int = 64
    alpha: float = 32.0
    lr: float = 1e-4
    text_lr: float = 5e-5
    batch: int = 2
    seed: int = 0


class Adapter:
    """Low-rank pairs beside the frozen weights of a UNet and a text encoder, in float32.

    Parameters
    ----------
    model : whose UNet and text encoder get the pairs; it is changed
    rank : inner width of a pair
    alpha : the pairs' product is scaled by alpha / rank
    seed : of the first factors; the second ones begin at zero, so that nothing is changed yet
    text : whether the text encoder gets pairs too
    """

    def __init__(self, model: Backbone, rank: int, alpha: float, seed: int, text: bool) -> None:
        self._parts: dict[str, Any] = {"unet": model.unet}
        self._configs = {"unet": _config(rank, alpha, UNET)}
        if text:
            self._parts["text_encoder"] = model.text_encoder
            self._configs["text_encoder"] = _config(rank, alpha, TEXT)
        for part, module in self._parts.items():
            module.add_adapter(LoraConfig(**self._configs[part]), adapter_name=NAME)
            for name, weight in self.parameters(part).items():
                weight.data = _first(name, weight, seed)

    def parameters(self, part: str) -> dict[str, torch.nn.Parameter]:
        """What is trained of ``unet`` or ``text_encoder``, by its key in a LoRA file."""
        if part not in self._parts:
            return {}
        named = self._parts[part].named_parameters()
        return {_key(part, name): weight for name, weight in named if f".{NAME}." in name}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The adapter as a LoRA file in diffusers format holds it: float16, on the CPU."""
        return {name: weight.detach().to("cpu", torch.float16).contiguous()
                for part in self._parts for name, weight in self.parameters(part).items()}

    def metadata(self) -> dict[str, str]:
        """What a LoRA file says of itself; without it, diffusers takes alpha for the rank."""
        packed = {f"{part}.{key}": value for part, config in self._configs.items()
                  for key, value in config.items()}
        return {"format": "pt", "lora_adapter_metadata": json.dumps(packed, sort_keys=True)}


def _config(rank: int, alpha: float, targets: tuple[str, ...]) -> dict[str, Any]:
    return {"r": rank, "lora_alpha": alpha, "target_modules": list(targets)}


def _key(part: str, name: str) -> str:
    """A parameter's key in a file; ``text_model`` is left out by newer transformers only."""
    plain = name.replace(f".{NAME}.", ".")
    flat = part == "text_encoder" and not plain.startswith("text_model.")
    return f"{part}.{'text_model.' if flat else ''}{plain}"


def _first(name: str, weight: torch.Tensor, seed: int) -> torch.Tensor:
    """Where training begins: peft's distribution, drawn by name."""
    if ".lora_B." in name:
        return torch.zeros_like(weight, dtype=torch.float32)
    bound = 1 / math.sqrt(weight[0].numel())  # Kaiming's with a = √5: peft draws in modules' order
    drawn = torch.rand(weight.shape, generator=generator("lora", seed, name))
    return ((2 * drawn - 1) * bound).to(weight.device)


class _Batch(NamedTuple):
    """What one step sees: (B, 4, h, w) latents and noise, (B,) times, (B, 77) token ids."""

    latents: torch.Tensor
    noise: torch.Tensor
    times: torch.Tensor
    tokens: torch.Tensor


class LoraTrainer:
    """A LoRA training under way.

    Parameters
    ----------
    model, adapter : what is trained, and where its weights are
    latents : (N, 4, h, w) float32, scaled
    tokens : (N, K, 77) int64, K captions an image

    Attributes
    ----------
    step : steps done
    """

    def __init__(self, model: Backbone, adapter: Adapter, latents: torch.Tensor,
                 tokens: torch.Tensor, settings: LoraSettings) -> None:
        if model.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(f"a model that predicts '{model.prediction_type}' cannot be given a"
                             " LoRA here; epsilon and v_prediction can")
        self._model = model
        self._latents, self._tokens = latents, tokens
        self._settings = settings
        groups = {"unet": settings.lr, "text_encoder": settings.text_lr}
        parts = {part: adapter.parameters(part) for part in groups}
        self._weights = parts["unet"] | parts["text_encoder"]
        self._optimizer = torch.optim.AdamW(
            [{"params": list(parts[p].values()), "lr": lr} for p, lr in groups.items() if parts[p]],
            weight_decay=0.01)
        self.step = 0

    def advance(self) -> float:
        """Do one step; return its loss.

        Raises
        ------
        ModelError
            The loss is not finite.
        """
        loss = self._loss(self._batch())
        value = loss.item()  # once: a GPU is waited for
        if not math.isfinite(value):
            raise ModelError(f"the loss is {value} at step {self.step + 1}; try a smaller --lr, or"
                             " float32 as model.dtype")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._weights.values(), CLIP)
        self._optimizer.step()
        self.step += 1
        return value

    def _batch(self) -> _Batch:
        g, size = generator("lora", self._settings.seed, self.step), self._settings.batch
        images = self._images()
        captions = torch.randint(self._tokens.shape[1], (size,), generator=g)
        times = torch.randint(len(self._model.alphas_cumprod), (size,), generator=g)
        noise = torch.randn((size, *self._latents.shape[1:]), generator=g)
        place = self._model.device
        return _Batch(self._latents[images].to(place), noise.to(place), times.to(place),
                      self._tokens[images, captions].to(place))

    def _images(self) -> list[int]:
        """Which images a step sees: all of them in turn, each time in another order."""
        count, size = len(self._latents), self._settings.batch
        orders: dict[int, list[int]] = {}
        indices = []
        for place in range(self.step * size, (self.step + 1) * size):
            turn, at = divmod(place, count)
            if turn not in orders:
                g = generator("lora", self._settings.seed, "turn", turn)
                orders[turn] = torch.randperm(count, generator=g).tolist()
            indices.append(orders[turn][at])
        return indices

    def _loss(self, batch: _Batch) -> torch.Tensor:
        model = self._model
        alphas = model.alphas_cumprod[batch.times].view(-1, 1, 1, 1)
        x = add_noise(batch.latents, batch.noise, batch.times, model.alphas_cumprod)
        states = model.text_encoder(batch.tokens)[0]
        predicted = model.unet(x.to(model.dtype), batch.times,
                               encoder_hidden_states=states.to(model.dtype), return_dict=False)[0]
        # v of Salimans and Ho (2022), Progressive Distillation: √ᾱ·noise − √(1 − ᾱ)·x0
        velocity = alphas.sqrt() * batch.noise - (1 - alphas).sqrt() * batch.latents
        target = batch.noise if model.prediction_type == "epsilon" else velocity
        return functional.mse_loss(predicted.float(), target)

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and the optimiser's moments, on the CPU: with `step`, all there is to resume."""
        tensors = {f"now.{name}": weight.detach() for name, weight in self._weights.items()}
        for name, weight in self._weights.items():
            moments = self._optimizer.state[weight]
            tensors |= {f"{key}.{name}": moments[key] for key in _MOMENTS}
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def restore(self, step: int, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` gave after `step` steps."""
        self.step = step
        for name, weight in self._weights.items():
            weight.data.copy_(state[f"now.{name}"])
            self._optimizer.state[weight] = {
                "step": torch.tensor(float(step)),  # AdamW counts in a tensor on the CPU
                **{key: state[f"{key}.{name}"].to(weight.device) for key in _MOMENTS}}

"""Training a LoRA, step by step: each draws from a generator of its own, so any can be resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.nn import functional

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.passes.noise import add_noise, generator

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.extraction.lora.adapter import Adapter

CLIP = 1.0
"""Largest norm of all gradients together."""
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is trained; all but the batch size and the optimiser are the paper's (A.3).

    Attributes
    ----------
    lr, text_lr : constant learning rates of UNet and text encoder; 0 leaves the latter as it is
    """

    rank: int = 64
    alpha: float = 32.0
    lr: float = 1e-4
    text_lr: float = 5e-5
    batch: int = 2
    seed: int = 0


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
        if not math.isfinite(loss.item()):
            raise ModelError(f"the loss is {loss.item()} at step {self.step + 1}; try a smaller"
                             " --lr, or float32 as model.dtype")
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self._weights.values(), CLIP)
        self._optimizer.step()
        self.step += 1
        return loss.item()

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
        kept = model.alphas_cumprod[batch.times].view(-1, 1, 1, 1)
        signal, spread = kept.sqrt(), (1 - kept).sqrt()
        x = add_noise(batch.latents, batch.noise, batch.times, model.alphas_cumprod)
        states = model.text_encoder(batch.tokens)[0]
        predicted = model.unet(x.to(model.dtype), batch.times,
                               encoder_hidden_states=states.to(model.dtype), return_dict=False)[0]
        velocity = signal * batch.noise - spread * batch.latents
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
                "step": torch.tensor(float(step)),
                **{key: state[f"{key}.{name}"].to(weight.device) for key in _MOMENTS}}

"""The training loop of every stage: seeded step by step, logged, checkpointed, resumable.

Step s draws its batch, noise and times from a generator seeded by (stage, s) alone, so that a
training that was interrupted goes on as if nothing had happened. Where processes share a training
(torch.distributed), each takes its `part` of the same batch, and gradients are averaged.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import distributed, nn

from gate_cache.core.replacing import replacing
from gate_cache.diffusion.passes import noise
from gate_cache.report.terminal.console import console_progress

LOG_EVERY = 50


@dataclass(frozen=True)
class Plan:
    """How a stage is trained: constant learning rate after a warm-up, linear decay at the end.

    Attributes
    ----------
    decay : share of the steps in which the learning rate falls to zero
    ema : decay of the weights' running mean, which is what is kept; 0 for none
    """

    stage: str
    steps: int
    lr: float
    warmup: int = 100
    decay: float = 0.3
    weight_decay: float = 0.01
    ema: float = 0.0
    clip: float = 1.0
    save_every: int = 250

    def rate(self, step: int) -> float:
        """The learning rate at a step."""
        left = (self.steps - step) / max(1, round(self.steps * self.decay))
        return self.lr * min(1.0, (step + 1) / self.warmup, left)


Loss = Callable[[int, torch.Generator], torch.Tensor]


def generator(stage: str, step: int) -> torch.Generator:
    """Randomness of one step."""
    return noise.generator("tiny", stage, step)


def part() -> slice:
    """This process's pictures of a batch: every one, where no others share it."""
    if not distributed.is_initialized():
        return slice(None)
    return slice(distributed.get_rank(), None, distributed.get_world_size())


def first() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def meet() -> None:
    """Wait until every process that shares the training is here."""
    if distributed.is_initialized():
        distributed.barrier()


def fit(plan: Plan, modules: Mapping[str, nn.Module], loss: Loss, folder: Path,
        stop: int | None = None) -> None:
    """Train the modules' free parameters; leave them with the kept weights, ready for use.

    Stops at `stop`, by default at the plan's end; a later call goes on from there. Writes
    ``<stage>.safetensors`` (weights, running mean, optimizer, step), from which the same call goes
    on, and ``<stage>.jsonl`` (losses) into `folder`.
    """
    run = _Run(plan, modules, folder)
    began, recent = time.monotonic(), []
    for module in modules.values():
        module.train()
    end = stop or plan.steps
    with console_progress().task(plan.stage, end - run.step, "step") as task:
        while run.step < end:
            value = run.advance(loss)
            recent.append(value)
            task.advance()
            if first() and (run.step % LOG_EVERY == 0 or run.step == end):
                run.log(sum(recent) / len(recent), time.monotonic() - began)
                began, recent = time.monotonic(), []
            if first() and (run.step % plan.save_every == 0 or run.step == end):
                run.save()
    run.use_kept()
    for module in modules.values():
        module.eval()


class _Run:
    """A training under way."""

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module], folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._named = {f"{m}.{n}": p for m, module in modules.items()
                       for n, p in module.named_parameters() if p.requires_grad}
        self._kept = {n: p.detach().clone() for n, p in self._named.items()} if plan.ema else {}
        decayed = [p for p in self._named.values() if p.ndim > 1]
        plain = [p for p in self._named.values() if p.ndim <= 1]
        self._adam = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": plan.weight_decay},
             {"params": plain, "weight_decay": 0.0}], lr=plan.lr, betas=(0.9, 0.99),
            fused=True)
        self.step = 0
        folder.mkdir(parents=True, exist_ok=True)
        if self._file.exists():
            self._load()

    @property
    def _file(self) -> Path:
        return self._folder / f"{self._plan.stage}.safetensors"

    def advance(self, loss: Loss) -> float:
        for group in self._adam.param_groups:
            group["lr"] = self._plan.rate(self.step)
        value = loss(self.step, generator(self._plan.stage, self.step))
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        self._average()
        torch.nn.utils.clip_grad_norm_(self._named.values(), self._plan.clip)
        self._adam.step()
        self.step += 1
        if self._kept:
            rate = min(self._plan.ema, self.step / (self.step + 10))  # forgets the first weights
            for name, parameter in self._named.items():
                self._kept[name].lerp_(parameter.detach(), 1 - rate)
        number = float(value.detach())
        if not math.isfinite(number):  # before `save`: the checkpoint is of finite weights
            raise SystemExit(f"{self._plan.stage}: the loss is {number} at step {self.step}; the"
                             f" latest checkpoint is {self._file}")
        return number

    def _average(self) -> None:
        """Over the processes that share a batch, as if one had computed the whole of it."""
        if distributed.is_initialized():
            gradients = [p.grad for p in self._named.values() if p.grad is not None]
            joined = torch.cat([g.flatten() for g in gradients])
            distributed.all_reduce(joined)
            means = torch.split(joined / distributed.get_world_size(),
                                [gradient.numel() for gradient in gradients])
            for gradient, mean in zip(gradients, means, strict=True):
                gradient.copy_(mean.view_as(gradient))

    def log(self, loss: float, seconds: float) -> None:
        line = {"step": self.step, "loss": round(loss, 6), "lr": self._plan.rate(self.step - 1),
                "seconds": round(seconds, 1)}
        with open(self._folder / f"{self._plan.stage}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save(self) -> None:
        """Replace the checkpoint as a whole."""
        state = {f"now.{n}": p.detach() for n, p in self._named.items()}
        state |= {f"kept.{n}": p for n, p in self._kept.items()}
        for name, parameter in self._named.items():
            adam = self._adam.state[parameter]
            state |= {f"{k}.{name}": adam[k] for k in ("exp_avg", "exp_avg_sq")}
        with replacing(self._file) as draft:
            save_file({k: v.contiguous() for k, v in state.items()}, draft,
                      metadata={"step": str(self.step)})

    def _load(self) -> None:
        with safe_open(self._file, "pt") as file:
            self.step = int(file.metadata()["step"])
            for name, parameter in self._named.items():
                parameter.data.copy_(file.get_tensor(f"now.{name}"))
                if self._kept:
                    self._kept[name].copy_(file.get_tensor(f"kept.{name}"))
                self._adam.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    **{k: file.get_tensor(f"{k}.{name}") for k in ("exp_avg", "exp_avg_sq")}}

    def use_kept(self) -> None:
        for name, value in self._kept.items():
            self._named[name].data.copy_(value)

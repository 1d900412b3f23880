"""Denoising from an earlier t before the maps are read (paper, A.2; DDIM, Song et al. 2021).

With classifier-free guidance (Ho and Salimans 2022) the steps, not the pass that is read, are
pushed away from a negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from gate_cache.manifest.specs import Combo


@dataclass(frozen=True)
class Walk:
    """From which t to which.

    Attributes
    ----------
    start, stop, steps : denoised from `start` to `stop` in `steps` steps, 0 for none
    guidance : its scale; 1 for none
    negative : prompt of the other pass of each step
    noised : whether the latent is noised to `start`; else the UNet is only told that time
    """

    start: int
    stop: int
    steps: int = 0
    guidance: float = 1.0
    negative: str = ""
    noised: bool = True

    @classmethod
    def of(cls, combo: Combo) -> Walk:
        """The walk of a combo."""
        if not combo.denoise:
            return cls(combo.t, combo.t, noised=combo.noise != "none")
        walk = cls(combo.denoise.start, combo.t, combo.denoise.steps)
        if not combo.guidance:
            return walk
        return cls(walk.start, walk.stop, walk.steps, combo.guidance.scale,
                   combo.guidance.negative)

    @property
    def guided(self) -> bool:
        """Whether each step takes two passes."""
        return self.guidance != 1

    @property
    def passes(self) -> int:
        """UNet passes for one image, that from which maps are read included."""
        return 1 + self.steps * (2 if self.guided else 1)

    def timesteps(self) -> list[int]:
        """`steps` + 1 whole timesteps, evenly from `start` down to `stop`."""
        way = self.stop - self.start
        return [round(self.start + way * i / self.steps) for i in range(self.steps + 1)]


def ddim(x: torch.Tensor, times: list[int],
         noised: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor],
         predict: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
         ) -> torch.Tensor:
    """Deterministic DDIM steps (η = 0) along `times`, in float32; Euler's of flow matching.

    Parameters
    ----------
    x : (B, 4, h, w) float32, x at ``times[0]``
    times : timesteps, from the noisiest on
    noised : (x_0, ε, t) to x at t
    predict : (x, t) to what is predicted, as x_0 and as noise, of the same shape

    Returns
    -------
    (B, 4, h, w) float32, x at ``times[-1]``
    """
    for now, then in pairwise(times):
        clean, eps = predict(x, now)
        x = noised(clean, eps, then)
    return x

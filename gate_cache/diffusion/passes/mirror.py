"""Images mirrored left to right, as passes of ``mirror: true`` are given them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from gate_cache.diffusion.techniques.base import Images, Inputs


class Mirrored:
    """Inputs whose pictures are mirrored; see `gate_cache.diffusion.techniques.base.Inputs`.

    Their latents are encoded from the mirrored pictures, for no autoencoder maps a mirrored picture
    to the mirrored latent; they are not stored, but shared by all combos of a block.

    Parameters
    ----------
    inputs : of the pictures as they are
    encode : (N, H, W, 3) uint8 to latents
    """

    def __init__(self, inputs: Inputs, encode: Callable[[Images], torch.Tensor]) -> None:
        self._inputs = inputs
        self._encode = encode

    def id(self, row: int) -> str:
        """The sample's id: noise is that of the picture as it is."""
        return self._inputs.id(row)

    def prompt(self, row: int, prompt: str) -> str:
        """A combo's prompt, as for the picture as it is."""
        return self._inputs.prompt(row, prompt)

    def latents(self, rows: Sequence[int]) -> torch.Tensor:
        """(N, 4, h, w) float32, of the mirrored pictures, on the device."""
        latents: torch.Tensor = self.cached("latents", rows, lambda r: self._encode(self.images(r)))
        return latents

    def images(self, rows: Sequence[int]) -> Images:
        """(N, H, W, 3) uint8."""
        return _mirrored(self._inputs.images(rows))

    def masks(self, rows: Sequence[int]) -> npt.NDArray[np.bool_]:
        """(N, H, W) bool."""
        return _mirrored(self._inputs.masks(rows))

    def from_folder(self, folder: str, rows: Sequence[int]) -> Images:
        """As `images`, of a folder's files."""
        return _mirrored(self._inputs.from_folder(folder, rows))

    def cached(self, key: object, rows: Sequence[int], make: Callable[[list[int]], Any]) -> Any:
        """Arrays made once a row, apart from those of the pictures as they are."""
        return self._inputs.cached(("mirrored", key), rows, make)


def _mirrored(pictures: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, H, W, …) with columns in the other order."""
    return np.ascontiguousarray(pictures[:, :, ::-1])

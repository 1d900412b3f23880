"""ControlNet on the Canny edges of the input itself (paper, A.2)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from gate_cache.diffusion.backbone import Backbone


def canny(images: npt.NDArray[np.uint8], low: int, high: int) -> npt.NDArray[np.uint8]:
    """Edge maps of RGB images.

    Parameters
    ----------
    images : (B, H, W, 3) uint8
    low, high : hysteresis thresholds, 100 and 200 in the paper's tools

    Returns
    -------
    (B, H, W) uint8, 0 or 255
    """
    return np.stack([cv2.Canny(np.ascontiguousarray(i), low, high) for i in images]).astype(
        np.uint8)


class Control:
    """A ControlNet with its control images, ready for passes over one batch.

    Parameters
    ----------
    net : diffusers ``ControlNetModel``
    edges : (B, H, W) uint8 edge maps
    scale : conditioning scale
    """

    def __init__(self, backbone: Backbone, net: Any, edges: npt.NDArray[np.uint8], scale: float):
        image = torch.from_numpy(edges).to(backbone.device, backbone.dtype) / 255
        self._net = net
        self._image = image[:, None].expand(-1, 3, -1, -1)
        self._scale = scale

    def residuals(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> dict[str, Any]:
        """What a UNet pass takes from the ControlNet, as keyword arguments."""
        down, mid = self._net(x, t, encoder_hidden_states=text, controlnet_cond=self._image,
                              conditioning_scale=self._scale, return_dict=False)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

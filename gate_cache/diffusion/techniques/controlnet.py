"""ControlNet on the Canny edges of the input itself (paper, A.2), or on images from a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gate_cache.core.errors import ModelError
from gate_cache.core.roots import Roots
from gate_cache.datasets.common.pictures import by_stem
from gate_cache.diffusion.models.digest_cache import tree_sha256
from gate_cache.diffusion.models.embedded import CONTROLNET, TINY
from gate_cache.diffusion.models.hub import controlnet_from_hub
from gate_cache.diffusion.models.sources import find_folder, folder_digest
from gate_cache.diffusion.techniques.base import Call, Extra, Inputs, Steering, Technique
from gate_cache.manifest.specs import ControlNetSpec

if TYPE_CHECKING:
    from gate_cache.diffusion.models.backbone import Backbone
    from gate_cache.diffusion.techniques.base import Images


class ControlNet(Technique[ControlNetSpec]):
    """``controlnet`` of a combo."""

    name = "controlnet"
    place = "tail"

    def settings(self) -> Any:
        if self.spec.images:
            return {"images": True, "scale": self.spec.scale}
        return {"canny": [self.spec.low, self.spec.high], "scale": self.spec.scale}

    def sources(self) -> Any:
        if self.spec.images:
            return {"net": self.spec.source, "images": self.spec.images}
        return self.spec.source

    def check(self, roots: Roots, download: bool = False) -> None:
        self._folder(roots, download)
        self._images(roots)

    def digests(self, roots: Roots) -> Any:
        net, images = folder_digest(self._folder(roots), None), self._images(roots)
        return {"net": net, "images": tree_sha256(images)} if images else net

    def _images(self, roots: Roots) -> Path | None:
        """The folder of control images, where they are not found by Canny."""
        if not self.spec.images:
            return None
        where = f"{self.combo}.controlnet.images"
        folder = roots.below("data", self.spec.images, where)
        if not folder.is_dir():
            raise ModelError(f"{where}: {folder}: no such folder; put the control images there,"
                             " called as the data set's own")
        by_stem(folder)  # which refuses two files for one sample
        return folder

    def _folder(self, roots: Roots, download: bool = False) -> Path:
        """The network in diffusers layout."""
        source, where = self.spec.source, f"{self.combo}.controlnet.source"
        if source == TINY:
            return CONTROLNET
        folder = find_folder(source, roots, where) or controlnet_from_hub(source, download)
        if folder is None:
            raise ModelError(f"{where}: '{source}' is not on this machine; put its config.json and"
                             f" safetensors into {roots.models / source}")
        return folder

    def open(self, model: Backbone, roots: Roots) -> Steering:
        from gate_cache.diffusion.models.backbone import load_controlnet

        folder = self._folder(roots)
        net = model.once(("controlnet", folder), lambda: load_controlnet(folder, model))
        return Control(model, net, self.spec)


class Control(Steering):
    """A ControlNet with its settings.

    Parameters
    ----------
    net : diffusers ``ControlNetModel``
    """

    def __init__(self, model: Backbone, net: Any, spec: ControlNetSpec) -> None:
        self._model = model
        self._net = net
        self._spec = spec

    def ahead(self, inputs: Inputs, rows: Sequence[int]) -> None:
        self.images(inputs, rows)

    def batch(self, inputs: Inputs, rows: Sequence[int]) -> Extra:
        import torch

        images = torch.from_numpy(self.images(inputs, rows))
        image = images.to(self._model.device, self._model.dtype) / 255
        image = image.expand(-1, 3, -1, -1) if image.shape[1] == 1 else image.contiguous()
        return lambda call: self._residuals(call, image)

    def images(self, inputs: Inputs, rows: Sequence[int]) -> Images:
        """(N, 1 or 3, H, W) uint8 control images, each made once."""
        spec, folder = self._spec, self._spec.images
        if folder:
            found = inputs.kept(("folder", folder), rows, lambda r: inputs.from_folder(folder, r))
            return cast("Images", found.transpose(0, 3, 1, 2))
        found = inputs.kept(
            ("canny", spec.low, spec.high), rows,
            lambda r: canny(inputs.images(r), spec.low, spec.high) * inputs.masks(r))
        return cast("Images", found[:, None])

    def _residuals(self, call: Call, image: Any) -> dict[str, Any]:
        down, mid = self._net(
            call.x, call.t, encoder_hidden_states=call.text.states, controlnet_cond=image,
            conditioning_scale=self._spec.scale, return_dict=False,
            added_cond_kwargs=call.text.added or None)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}


def canny(images: Images, low: int, high: int) -> Images:
    """Edge maps of RGB images.

    Parameters
    ----------
    images : (B, H, W, 3) uint8
    low, high : hysteresis thresholds, 100 and 200 in the paper's tools

    Returns
    -------
    (B, H, W) uint8, 0 or 255
    """
    import cv2
    import numpy as np

    return np.stack([cv2.Canny(np.ascontiguousarray(i), low, high) for i in images]).astype(
        np.uint8)

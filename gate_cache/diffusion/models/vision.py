"""Vision encoders at work: a transformer of images whose patches are maps (`encoders`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.files.timm_hub import library
from gate_cache.diffusion.files.unread import check_read
from gate_cache.diffusion.models.backbone import Backbone
from gate_cache.diffusion.models.conditioning import Call, Text
from gate_cache.diffusion.models.encoders import encoder_type, normalisation, prefix_tokens
from gate_cache.diffusion.models.modules import need_finite, pretrained
from gate_cache.diffusion.models.timm_features import created

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles


class Patches(nn.Module):
    """An encoder, with what it gives at each patch as the output of modules of their own.

    Parameters
    ----------
    encoder : of transformers
    prefix : tokens before those of the patches
    class_token : whether the first of them is one
    options : from pixels to more arguments of the encoder
    """

    def __init__(self, encoder: Any, prefix: int, class_token: bool,
                 options: Callable[[torch.Tensor], dict[str, Any]]) -> None:
        super().__init__()
        self.encoder = encoder
        self._prefix, self._options = prefix, options
        count = encoder.config.num_hidden_layers
        blocks = next(m for m in encoder.modules()
                      if isinstance(m, nn.ModuleList) and len(m) == count)
        self._taps = [nn.Identity() for _ in blocks]
        for i, tap in enumerate(self._taps):
            self.add_module(f"layer{i}", tap)
        for i, block in enumerate(list(blocks)[:-1]):  # the last one's is normalised first
            block.register_forward_hook(partial(self._given, i))
        self.cls = nn.Identity() if class_token else None

    def _given(self, i: int, _module: Any, _args: Any, output: Any) -> None:
        tokens = output[0] if isinstance(output, tuple) else output
        self._taps[i](tokens[:, self._prefix:])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, hw, C), row by row."""
        found = self.encoder(pixel_values=pixels, **self._options(pixels))
        tokens = found.last_hidden_state
        if self.cls is not None:
            norm = getattr(self.encoder, "post_layernorm", nn.Identity())  # of CLIP
            self.cls(norm(tokens[:, 0])[..., None, None])
        return torch.as_tensor(self._taps[-1](tokens[:, self._prefix:]))


@dataclass(kw_only=True)
class VisionEncoder(Backbone):
    """A loaded vision encoder."""

    normalised: dict[str, Any]

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        part = files.kind.denoiser
        config, folder = files.config(part), files.folder(part)
        kind, name = encoder_type(config), encoder_type(config).cls
        more = {"add_pooling_layer": False} if name == "ViTModel" else {}
        module = pretrained(getattr(transformers, name), folder, files.variant, **more)
        options: dict[str, Any] = {"interpolate_pos_encoding": True} if kind.resizes else {}
        masked = name == "ViTMAEModel"
        if masked:
            module.config.mask_ratio = 0.0  # every patch is seen
        side = module.embeddings.patch_embeddings.patch_size[0] if masked else 0
        unet = Patches(module, prefix_tokens(config), kind.class_token,
                       lambda x: {**options, **(in_order(x, side) if masked else {})})
        return {"unet": unet, "tokens": files.tokens, "normalised": normalisation(files.path)}

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        levels = self.place(pixels).permute(0, 3, 1, 2).float() * self.normalised["scale"]
        mean, std = (self.place(torch.tensor(self.normalised[k])).view(1, -1, 1, 1)
                     for k in ("mean", "std"))
        return torch.as_tensor((levels - mean) / std)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("a vision encoder's pixels are its input")

    def embed(self, prompt: str) -> Text:
        return Text(torch.empty(1, 0, 0, device=self.device))

    def run(self, call: Call, added: dict[str, Any], more: dict[str, Any]) -> torch.Tensor:
        return torch.as_tensor(self.unet(call.x))


def in_order(pixels: torch.Tensor, patch: int) -> dict[str, Any]:
    """What keeps a masked autoencoder from shuffling patches: it sorts them by this "noise"."""
    count = (pixels.shape[-2] // patch) * (pixels.shape[-1] // patch)
    return {"noise": torch.arange(count, device=pixels.device).expand(len(pixels), -1)}


class Features(nn.Module):
    """A model of timm, with what it gives as the output of modules of their own."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self._taps = [nn.Identity() for _ in net.feature_info.info]
        for i, tap in enumerate(self._taps):
            self.add_module(f"feature{i}", tap)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to the last map, (B, C, h, w)."""
        last = str(getattr(self.net, "output_fmt", "")).endswith("NHWC")
        for tap, values in zip(self._taps, self.net(pixels), strict=True):
            output = tap(values.permute(0, 3, 1, 2) if last else values)
        return torch.as_tensor(output)


@dataclass(kw_only=True)
class TimmEncoder(VisionEncoder):
    """A loaded model of timm."""

    @classmethod
    def parts(cls, files: ModelFiles) -> dict[str, Any]:
        part = files.kind.denoiser
        config, (path, *others) = files.config(part), files.weight_files(part)
        if others:
            raise ModelError(f"{path.parent}: several files of weights; timm's are in one")
        with torch.device("meta"):
            whole = library().create_model(
                config["architecture"], **{"num_classes": config["pretrained_cfg"].get(
                    "num_classes", 1000), **(config.get("model_args") or {})})
        wanted, there = set(whole.state_dict()), set(files.shapes(part))
        check_read(path, config["architecture"], wanted - there, there - wanted)
        count = len(files.family.maps) + len(files.family.more)
        net, _ = created(config, out_indices=tuple(range(count)), pretrained=True,
                          pretrained_cfg_overlay={"file": str(path), "custom_load": False})
        need_finite(path, net.named_parameters())
        return {"unet": Features(net), "tokens": files.tokens,
                "normalised": normalisation(files.path)}

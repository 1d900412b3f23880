"""Small random vision encoders in transformers layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
SHAPE = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 48, "image_size": 32, "patch_size": 8}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2", {}), "registers": ("Dinov2WithRegisters", {"num_register_tokens": 2}),
    "dinov3": ("DINOv3ViT", {"num_register_tokens": 4}), "vit": ("ViT", {}),
    "mae": ("ViTMAE", {}), "clip": ("CLIPVision", {}), "siglip": ("SiglipVision", {}),
    "ijepa": ("IJepa", {})}


def small(name: str, **more: Any) -> Any:
    """A model with weights that are no constant, so that each matters."""
    kind, own = MODELS[name]
    config = getattr(transformers, f"{kind}Config")(**{**SHAPE, **own, **more})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}Model")(config, **(
        {"add_pooling_layer": False} if kind == "ViT" else {}))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


def write(folder: Path, model: Any) -> None:
    """With its processor."""
    model.save_pretrained(folder)
    transformers.ViTImageProcessorPil(
        image_mean=MEAN, image_std=STD, do_resize=False).save_pretrained(folder)

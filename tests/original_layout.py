"""Models of diffusers written as single files in the original layout: the way back, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]
_RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0",
           "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1",
           "conv_shortcut": "skip_connection"}
_ENDS = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc",
              "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj"}


def swapped(key: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        if key.startswith(f"{old}."):
            return new + key.removeprefix(old)
    return key


def unet_key(key: str, config: dict[str, Any]) -> str:
    n = config["layers_per_block"] + 1
    parts = key.split(".")
    if parts[0] == "mid_block":
        place = 1 if parts[1] == "attentions" else 2 * int(parts[2])
        return f"middle_block.{place}." + swapped(".".join(parts[3:]), _RESNET)
    if parts[0] not in ("down_blocks", "up_blocks"):
        return swapped(key, _ENDS)
    level, what, i, rest = int(parts[1]), parts[2], int(parts[3]), ".".join(parts[4:])
    down = parts[0] == "down_blocks"
    block = f"input_blocks.{1 + level * n + i}" if down else f"output_blocks.{level * n + i}"
    if what == "downsamplers":
        return f"input_blocks.{level * n + n}.0.{rest.replace('conv', 'op')}"
    if what == "upsamplers":
        place = 2 if "CrossAttn" in config["up_block_types"][level] else 1
        return f"output_blocks.{level * n + n - 1}.{place}.{rest}"
    return f"{block}.0.{swapped(rest, _RESNET)}" if what == "resnets" else f"{block}.1.{rest}"


def controlnet_key(key: str, config: dict[str, Any]) -> str:
    """A ControlNet's; its condition is shrunk 8 times, as in all that are published so."""
    parts = key.split(".")
    if parts[0] == "controlnet_down_blocks":
        return f"zero_convs.{parts[1]}.0.{parts[2]}"
    if parts[0] == "controlnet_mid_block":
        return f"middle_block_out.0.{parts[1]}"
    if parts[0] == "controlnet_cond_embedding":
        place = {"conv_in": 0, "conv_out": 14}.get(parts[1])
        return f"input_hint_block.{2 * int(parts[2]) + 2 if place is None else place}.{parts[-1]}"
    return unet_key(key, config)


def vae_key(key: str, levels: int) -> str:
    parts = key.split(".")
    if "attentions" in parts:
        return f"{parts[0]}.mid.attn_1." + swapped(".".join(parts[4:]), _ATTENTION)
    rest = ".".join(parts[5:]) if len(parts) > 5 else ""
    rest = swapped(rest, {"conv_shortcut": "nin_shortcut"})
    if len(parts) > 2 and parts[1] == "mid_block":
        return f"{parts[0]}.mid.block_{int(parts[3]) + 1}." + swapped(
            ".".join(parts[4:]), {"conv_shortcut": "nin_shortcut"})
    if len(parts) > 2 and parts[1] in ("down_blocks", "up_blocks"):
        down = parts[1] == "down_blocks"
        level = int(parts[2]) if down else levels - 1 - int(parts[2])
        side = f"{parts[0]}.{'down' if down else 'up'}.{level}"
        return f"{side}.block.{parts[4]}.{rest}" if parts[3] == "resnets" else \
            f"{side}.{'down' if down else 'up'}sample.{rest}"
    return key.replace("conv_norm_out", "norm_out")


def open_clip(state: State) -> State:
    found: State = {}
    for key, value in state.items():
        plain = key.removeprefix("text_model.")
        if "q_proj" in plain:
            joined = [state[key.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            name = plain.replace("self_attn.q_proj.", "attn.in_proj_")
            found[name.replace("encoder.layers", "transformer.resblocks")] = torch.cat(joined)
        elif plain.startswith("encoder.layers.") and not any(f"{p}_proj" in plain for p in "kv"):
            _, _, i, rest = plain.split(".", 3)
            found[f"transformer.resblocks.{i}.{swapped(rest, _OPEN_CLIP)}"] = value
        elif plain == "text_projection.weight":
            found["text_projection"] = value.T.contiguous()
        elif not plain.startswith("encoder"):
            names = {"embeddings.token_embedding": "token_embedding",
                     "final_layer_norm": "ln_final"}
            found["positional_embedding" if "position" in plain else swapped(plain, names)] = value
    return found


def write_single_file(path: Path, model: Path, configs: dict[str, dict[str, Any]]) -> None:
    """A folder in diffusers layout as one file of 1.x, 2.x or XL.

    Parameters
    ----------
    configs : of the folder's unet and vae
    """
    parts = {p.name: load_file(next(p.glob("*.safetensors"))) for p in model.iterdir()
             if list(p.glob("*.safetensors"))}
    found = {f"model.diffusion_model.{unet_key(k, configs['unet'])}": v
             for k, v in parts["unet"].items()}
    levels = len(configs["vae"]["block_out_channels"])
    for key, value in parts["vae"].items():
        name = vae_key(key, levels)
        conv = "attn_1" in name and name.endswith("weight") and value.ndim == 2
        found[f"first_stage_model.{name}"] = value[:, :, None, None] if conv else value
    clip = {f"text_model.{k.removeprefix('text_model.')}": v
            for k, v in parts["text_encoder"].items()}
    if "text_encoder_2" in parts:
        found |= {f"conditioner.embedders.0.transformer.{k}": v for k, v in clip.items()}
        found |= {f"conditioner.embedders.1.model.{k}": v
                  for k, v in open_clip(parts["text_encoder_2"]).items()}
    elif configs["unet"].get("use_linear_projection"):
        found |= {f"cond_stage_model.model.{k}": v for k, v in open_clip(clip).items()}
    else:
        found |= {f"cond_stage_model.transformer.{k}": v for k, v in clip.items()}
    save_file({k: v.contiguous() for k, v in found.items()}, path)

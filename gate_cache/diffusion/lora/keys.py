"""Names of layers in LoRA files, as trainers and tools write them, in one spelling. No torch.

That spelling is diffusers' module name with underscores for dots, ``text_model.`` left out:
``down_blocks_0_attentions_0_proj_in``, ``encoder_layers_0_mlp_fc1``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_PREFIXES = {
    "lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2", "lycoris_": "", "unet.": "unet", "text_encoder.": "text_encoder",
    "text_encoder_2.": "text_encoder_2", "diffusion_model.": "unet", "transformer.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2"}
"""Beginnings of keys (kohya, LyCORIS, diffusers, ComfyUI) to parts of the model; '': any part."""
PEFT = "base_model.model."
_DOWN = ("down", "A")
_PAIR = re.compile(r"(.+?)(?:\.lora_(down|up|A|B)|[._]lora\.(down|up)"
                   r"|\.lora_linear_layer\.(down|up))(?:\.default(?:_\d+)?)?\.weight")
_AROUND = re.compile(r"[._]lora$|\.lora_linear_layer$")
_KINDS = (
    (r"hada_", "LoHa"), (r"lokr_", "LoKr"), (r"\.on_input$|\.ia3_|\bia3_l", "IA3"),
    (r"lora_mid", "a Tucker decomposition (lora_mid)"),
    (r"dora_scale|lora_magnitude_vector", "DoRA"), (r"oft_|boft_", "OFT"),
    (r"\.[ab][12]\.weight$", "GLoRA"), (r"\.diff_b$|bias$", "biases"),
    (r"\.diff$|\.[wb]_norm$", "whole differences of weights"),
    (r"(lora|token)_embedding|bundle_emb|emb_params|string_to_param", "embeddings"))
_SGM_RESNET = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
               "skip_connection": "conv_shortcut"}
_SGM = {"input_blocks_0_0": "conv_in", "out_2": "conv_out",
        "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
        "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2"}
_FLUX_BLOCK = re.compile(r"(double|single)_blocks_(\d+)_(\w+)")
_FLUX = {f"{side}_{layer}": tuple(name.split()) for side, layers in (
    ("img", {"attn_qkv": "attn_to_q attn_to_k attn_to_v", "attn_proj": "attn_to_out_0",
             "mlp_0": "ff_net_0_proj", "mlp_2": "ff_net_2", "mod_lin": "norm1_linear"}),
    ("txt", {"attn_qkv": "attn_add_q_proj attn_add_k_proj attn_add_v_proj",
             "attn_proj": "attn_to_add_out", "mlp_0": "ff_context_net_0_proj",
             "mlp_2": "ff_context_net_2", "mod_lin": "norm1_context_linear"}))
    for layer, name in layers.items()} | {
    "linear1": ("attn_to_q", "attn_to_k", "attn_to_v", "proj_mlp"), "linear2": ("proj_out",),
    "modulation_lin": ("norm_linear",)}
"""Layers of FLUX's original blocks (kohya, ComfyUI) to diffusers', which has some in parts."""
_SGM_BLOCK = re.compile(r"(input_blocks|output_blocks)_(\d+)_(\d)_(\w+)|middle_block_([012])_(\w+)")


class LayerPlace(NamedTuple):
    """Where a key of a LoRA file belongs.

    Attributes
    ----------
    part : ``unet``, ``text_encoder``, ``text_encoder_2``, or '' where the key does not say
    layer : in one spelling; original (sgm) names are still those, see `diffusers_name`
    side : ``down`` or ``up`` of a pair, or ``alpha``
    dotted : the module as the file calls it, for patterns of its metadata; '' in kohya's spelling
    """

    part: str
    layer: str
    side: str
    dotted: str


def place_of(key: str) -> LayerPlace | None:
    """The place of a key; None for one that is not part of plain LoRA."""
    if key.endswith(".alpha"):
        base, side = key.removesuffix(".alpha"), "alpha"
        inner = _PAIR.fullmatch(base)
        base = inner[1] if inner else _AROUND.sub("", base)
    else:
        pair = _PAIR.fullmatch(key)
        if pair is None:
            return None
        base, side = pair[1], "down" if pair[pair.lastindex or 0] in _DOWN else "up"
    base = base.removeprefix(PEFT)
    prefix = max((p for p in _PREFIXES if base.startswith(p)), key=len, default="")
    part, module = _PREFIXES.get(prefix, ""), base.removeprefix(prefix)
    return LayerPlace(part, plain_name(module), side,
                      "" if prefix.endswith("_") else module)


def plain_name(module: str) -> str:
    """A module's name in one spelling; diffusers' older names of attention layers are known."""
    flat = module.replace(".processor.", ".").replace(".", "_").removeprefix("text_model_")
    flat = re.sub(r"_self_attn_to_(q|k|v|out)$", r"_self_attn_\1_proj", flat)
    return re.sub(r"_(attn\d)_to_out$", r"_\1_to_out_0", flat)


def kind_of_key(key: str) -> str:
    """In words, what a key that is not part of plain LoRA belongs to."""
    return next((words for pattern, words in _KINDS if re.search(pattern, key)), "something else")


def diffusers_name(layer: str, per_block: int) -> str:
    """A UNet's layer by diffusers' name, where it has the original (sgm) one.

    Parameters
    ----------
    per_block : residual layers of a down block (``layers_per_block``); up blocks have one more
    """
    if layer in _SGM:
        return _SGM[layer]
    match = _SGM_BLOCK.fullmatch(layer)
    if match is None:
        return layer
    side, block, kind, rest, middle, inner = match.groups()
    if middle:
        return f"mid_block_{_inner(middle == '1', int(middle) // 2, inner)}"  # 0, 1, 2: 0, 0, 1
    level, at = divmod(int(block) - (side == "input_blocks"), per_block + 1)
    if rest in ("op", "conv"):
        return (f"down_blocks_{level}_downsamplers_0_conv" if rest == "op"
                else f"up_blocks_{level}_upsamplers_0_conv")
    name = "down_blocks" if side == "input_blocks" else "up_blocks"
    return f"{name}_{level}_{_inner(kind == '1', at, rest)}"


def flux_names(layer: str) -> tuple[str, ...]:
    """Diffusers' names of a layer of FLUX that has the original one, in the order of its rows."""
    match = _FLUX_BLOCK.fullmatch(layer)
    if match is None:
        return (layer,)
    blocks = f"{'single_' if match[1] == 'single' else ''}transformer_blocks_{match[2]}"
    return tuple(f"{blocks}_{name}" for name in _FLUX.get(match[3], (match[3],)))


def _inner(attention: bool, at: int, rest: str) -> str:
    if attention:
        return f"attentions_{at}_{rest}"
    return f"resnets_{at}_{_SGM_RESNET.get(rest, rest)}"

"""Fields of configurations: which a class builds itself by, and which ask for what is not given.

A library drops a field that it does not know without a word. Here every field of a UNet, an
autoencoder or a ControlNet is known, has no effect, or is refused. No torch: `validate` uses this;
a test compares the tables with the classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gate_cache.core.errors import listed


def _names(*lines: str) -> frozenset[str]:
    return frozenset(name for line in lines for name in line.split())


@dataclass(frozen=True)
class Fields:
    """The fields of one class.

    Attributes
    ----------
    name : of the class, as in ``_class_name``
    built : what the class builds itself by, or what this package honours
    only : fields with the values that can be run, and what any other asks for
    """

    name: str
    built: frozenset[str]
    only: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)


_EMA = _names("decay inv_gamma min_decay optimization_step power update_after_step use_ema_warmup")
"""What training with averaged weights leaves in a configuration."""
_LABEL = "a class label with each image"
_OTHER_INPUT = "another input than text"
_ASKS: dict[str, tuple[tuple[Any, ...], str]] = {
    "class_embed_type": ((None,), _LABEL),
    "num_class_embeds": ((None,), _LABEL),
    "encoder_hid_dim": ((None,), _OTHER_INPUT),
    "encoder_hid_dim_type": ((None,), _OTHER_INPUT),
    "addition_embed_type": ((None, "text_time"), _OTHER_INPUT),
}
_NOTHING: tuple[Any, ...] = (None, False, "", 0, [], {})
_NET = _names(
    "in_channels flip_sin_to_cos freq_shift down_block_types mid_block_type block_out_channels",
    "layers_per_block downsample_padding mid_block_scale_factor act_fn norm_num_groups norm_eps",
    "cross_attention_dim transformer_layers_per_block attention_head_dim num_attention_heads",
    "use_linear_projection addition_time_embed_dim upcast_attention resnet_time_scale_shift",
    "projection_class_embeddings_input_dim addition_embed_type_num_heads")
_DDPM = _names(
    "sample_size in_channels out_channels center_input_sample time_embedding_type",
    "time_embedding_dim freq_shift flip_sin_to_cos down_block_types mid_block_type up_block_types",
    "block_out_channels layers_per_block mid_block_scale_factor downsample_padding downsample_type",
    "upsample_type dropout act_fn attention_head_dim norm_num_groups attn_norm_num_groups norm_eps",
    "resnet_time_scale_shift add_attention num_train_timesteps")

UNET = Fields("UNet2DConditionModel", _NET | _names(
    "sample_size out_channels center_input_sample up_block_types dropout",
    "reverse_transformer_layers_per_block resnet_skip_time_act resnet_out_scale_factor",
    "time_embedding_dim time_embedding_act_fn timestep_post_act conv_in_kernel",
    "conv_out_kernel mid_block_only_cross_attention cross_attention_norm"), {
        **_ASKS,
        "only_cross_attention": ((False, None), "attention that is not read"),
        "dual_cross_attention": ((False, None), "two kinds of text"),
        "time_embedding_type": (("positional", None), "noise levels instead of timesteps"),
        "time_cond_proj_dim": ((None,), "the guidance scale with each pass (a distilled model such"
                               " as LCM; its LoRA on the base model is read)"),
        "attention_type": (("default", None), "boxes or other places (GLIGEN)"),
        "class_embeddings_concat": ((False, None), _LABEL)})
DDPM = Fields("UNet2DModel", _DDPM, {k: _ASKS[k] for k in ("class_embed_type",
                                                           "num_class_embeds")})
VAE = Fields("AutoencoderKL", _names(
    "in_channels out_channels down_block_types up_block_types block_out_channels layers_per_block",
    "act_fn latent_channels norm_num_groups sample_size scaling_factor shift_factor latents_mean",
    "latents_std force_upcast use_quant_conv use_post_quant_conv mid_block_add_attention"),
    {"in_channels": ((3,), "images that are not RGB"),
     "out_channels": ((3,), "images that are not RGB")})
CONTROLNET = Fields("ControlNetModel", _NET | frozenset(
    ["conditioning_embedding_out_channels", "global_pool_conditions"]), {
        **_ASKS,
        "only_cross_attention": ((False, None), "attention that is not read"),
        "mid_block_type": (("UNetMidBlock2DCrossAttn", "UNetMidBlock2D"), "a network without it"),
        "conditioning_channels": ((3,), "a condition that is not an RGB image"),
        "controlnet_conditioning_channel_order": (("rgb", "bgr"), "another order of colours")})


def field_problems(place: str, config: Mapping[str, Any], known: Fields) -> Iterator[str]:
    """One line for each field that cannot be honoured.

    Parameters
    ----------
    place : the configuration's file, for messages
    """
    name = config.get("_class_name", known.name)
    if name != known.name:
        yield f"{place}: its class is {name}; only {known.name} is read here"
        return
    malformed = list(_malformed(config, known))
    if malformed:
        yield from (f"{place}: {line}" for line in malformed)
        return
    for key, (allowed, asks) in known.only.items():
        if key in config and _plain(config[key]) not in allowed:
            yield f"{place}: {key}: {config[key]} asks for {asks}, which is not given here"
    strange = [k for k, v in config.items() if not k.startswith("_") and v not in _NOTHING
               and k not in known.built | known.only.keys() | _EMA]
    if strange:
        yield (f"{place}: {known.name} has no {listed(map(repr, strange), 3)}: made for another"
               " kind or version of it; remove what has no effect on the weights")


_BLOCKS = ("block_out_channels", "down_block_types", "up_block_types")
_EACH = ("layers_per_block", "attention_head_dim", "num_attention_heads", "cross_attention_dim",
         "transformer_layers_per_block")
_COUNTS = ("in_channels", "out_channels", "latent_channels", "norm_num_groups")


def _malformed(config: Mapping[str, Any], known: Fields) -> Iterator[str]:
    """Fields whose values are not of the kind that the class takes, for all that shapes need."""
    for key in (k for k in _BLOCKS if k in known.built):
        kind = int if key == "block_out_channels" else str
        value = config.get(key)
        if not isinstance(value, list | tuple) or not value or not all(
                type(v) is kind for v in value):
            yield f"{key}: {value!r} is not a list of {'numbers' if kind is int else 'names'}"
            return
        if len(value) != len(config.get("block_out_channels") or ()):
            yield f"{key}: {value!r} has another length than block_out_channels"
    hints = config.get("conditioning_embedding_out_channels")
    if hints is not None and not (isinstance(hints, list | tuple) and hints and all(
            type(v) is int for v in hints)):
        yield f"conditioning_embedding_out_channels: {hints!r} is not a list of numbers"
    for key in _EACH:
        value = config.get(key)
        entries = value if isinstance(value, list | tuple) else [value]
        if value is not None and not all(type(v) is int or isinstance(v, list) for v in entries):
            yield f"{key}: {value!r} is not a number, nor a list of them"
    for key in _COUNTS:
        if config.get(key) is not None and type(config[key]) is not int:
            yield f"{key}: {config[key]!r} is not a number"


def _plain(value: Any) -> Any:
    """A list of equal entries as one of them."""
    alike = isinstance(value, list) and value and all(v == value[0] for v in value)
    return value[0] if alike else value

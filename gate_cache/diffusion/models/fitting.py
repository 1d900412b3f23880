"""Do the parts of a model fit together? By configurations and headers: no weights, no torch.

What would otherwise end in a traceback in the middle of a pass, or in other numbers without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gate_cache.core.errors import ModelError, counted, listed
from gate_cache.core.features import TOKENS_PER_PIECE
from gate_cache.core.headers import read_header
from gate_cache.diffusion.files.single_file import foreign_tensors
from gate_cache.diffusion.models import fields
from gate_cache.diffusion.models.encoders import normalisation
from gate_cache.diffusion.models.layouts import (
    DDPM,
    SCHEDULER,
    SDXL,
    TRANSFORMER,
    UNET,
    VAE,
    Kind,
    class_of,
)
from gate_cache.diffusion.models.transformers import blocks_of

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles

Config = Mapping[str, Any]
_CLIP_VOCABULARY, _CLIP_WIDTH = 49408, 512
_TEXT_TYPES = (None, "clip_text_model", "clip")
_TEXT_SIZES = ("hidden_size", "num_hidden_layers", "vocab_size", "intermediate_size",
               "max_position_embeddings", "projection_dim")
_TOP = {UNET: ("conv_in", "time_embedding", "time_proj", "add_embedding", "down_blocks",
               "mid_block", "up_blocks", "conv_norm_out", "conv_out"),
        VAE: ("encoder", "decoder", "quant_conv", "post_quant_conv")}
"""Modules of a UNet and of an autoencoder: what else their files hold is not read."""
_BLOCKS = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
           "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}


def check_parts(files: ModelFiles) -> None:
    """Raise `ModelError` with a line for everything that does not fit in a model's parts."""
    if files.kind.backbone:
        return  # another package's kind, which knows what it reads
    if not files.kind.noised:  # its class compares configuration and weights as it is loaded
        if not files.absent:
            normalisation(files.path)
        return
    problems = list(_fields(files)) or list(_text(files))
    if not files.absent and not problems:
        problems += [*_tokens(files), *_weights(files)]
    files.schedule()
    if problems:
        raise ModelError("\n".join(problems))


def place_of(files: ModelFiles, component: str) -> str:
    """A configuration's file, for messages."""
    name = "scheduler_config.json" if component == SCHEDULER else "config.json"
    return str(files.folder(component) / name)


def _fields(files: ModelFiles) -> Iterator[str]:
    unet, place = files.config(files.kind.denoiser), place_of(files, files.kind.denoiser)
    if files.kind.denoiser == TRANSFORMER:
        unet = {**unet, "_class_name": class_of(unet)}
        table = fields.TRANSFORMERS[unet["_class_name"]]
    else:
        table = fields.DDPM if files.kind is DDPM else fields.UNET
    yield from fields.field_problems(place, unet, table)
    if files.kind is DDPM:
        return
    for field, read in _BLOCKS.items():
        strange = [b for b in unet.get(field, ()) if b not in read]
        if strange:
            yield f"{place}: {field}: {strange[0]} is not read, only" \
                  f" {' and '.join(read)}"
    vae = files.config(VAE)
    yield from fields.field_problems(place_of(files, VAE), vae,
                                     fields.AUTOENCODERS[files.kind.coder])
    yield from _statistics(place_of(files, VAE), vae)


def _statistics(place: str, vae: Config) -> Iterator[str]:
    """What latents are scaled and shifted by: one of each for all, or for every channel."""
    for field, value, low in (("scaling_factor", vae.get("scaling_factor", 1), 0),
                              ("shift_factor", vae.get("shift_factor") or 0, -math.inf)):
        if not fields.is_number(value) or value <= low:
            yield f"{place}: {field}: {value!r} is not a number that latents can be made with"
    mean, std = vae.get("latents_mean"), vae.get("latents_std")
    if mean is None and std is None:
        return
    channels = vae.get("latent_channels", vae.get("z_dim", 4))
    if not all(isinstance(v, list) and len(v) == channels and all(map(fields.is_number, v))
               for v in (mean, std)):
        yield f"{place}: latents_mean and latents_std should both have {channels} numbers"
    elif not all(value > 0 for value in std or ()):
        yield f"{place}: latents_std: {std} are not all above 0"


def text_config(config: Config, half: str = "text_config") -> Config:
    """The configuration of CLIP's one half, given alone or in a whole CLIP's."""
    inner: Config = config.get(half, config)
    return inner


def _text(files: ModelFiles) -> Iterator[str]:
    """What the text encoders give against what the UNet or transformer takes."""
    kind, place = files.kind, place_of(files, files.kind.denoiser)
    encoders = {name: files.config(name) for name in kind.encoders}
    wrong = [p for name, config in encoders.items()
             for p in _encoder(place_of(files, name), config, name == kind.t5[0] and kind.language)]
    yield from wrong
    if not encoders or any(p.endswith("is not a number") for p in wrong):
        return
    config: Config = {"cross_attention_dim": 1280, **files.config(kind.denoiser)}
    for field, (given, who) in _given(kind, config, encoders).items():
        taken = fields.one_of(config.get(field))
        if taken != given and not (taken is None and kind.t5[0]):
            yield (f"{place}: {field}: {taken}, but {who} gives {given}: parts of different models")


def _given(kind: Kind, config: Config,
           encoders: Mapping[str, Config]) -> dict[str, tuple[int, str]]:
    """By field of a UNet or transformer what its text encoders give, and which of them."""
    names = list(encoders)
    if kind.t5[0]:
        last = text_config(encoders[names[-1]])
        clips, width = names[:-1], last.get("d_model") or last.get("hidden_size", 512)
        of = "projection_dim" if len(clips) > 1 else "hidden_size"
        pooled = sum(text_config(encoders[n]).get(of, _CLIP_WIDTH) for n in clips)
        return {**dict.fromkeys(("caption_channels", "joint_attention_dim", "cap_feat_dim"),
                                (width, names[-1])),
                "pooled_projection_dim": (pooled, " + ".join(clips))}
    widths = [text_config(c).get("hidden_size", _CLIP_WIDTH) for c in encoders.values()]
    given = {"cross_attention_dim": (sum(widths), " + ".join(names))}
    if kind is SDXL:
        pooled = text_config(encoders[names[1]]).get("projection_dim", 512)
        given["projection_class_embeddings_input_dim"] = (
            pooled + 6 * (config.get("addition_time_embed_dim") or 0),
            f"{names[1]} and six time ids")
    return given


def _encoder(place: str, config: Config, filled: str | Literal[False]) -> Iterator[str]:
    kind = config.get("model_type")
    if config.get("quantization_config"):
        yield f"{place}: quantization_config: quantised weights are not read"
    if filled:
        if kind != filled:
            yield f"{place}: a {kind} as text encoder, which is not read here; a {filled} is"
        return
    if kind not in _TEXT_TYPES or not all(
            a.startswith("CLIP") for a in config.get("architectures") or ()):
        what = ", ".join(config.get("architectures") or [str(kind)])
        yield f"{place}: a {what} as text encoder, which is not read; CLIP's are"
        return
    sizes = {k: v for k, v in text_config(config).items() if k in _TEXT_SIZES}
    if wrong := [k for k, v in sizes.items() if type(v) is not int]:
        yield f"{place}: {wrong[0]}: {sizes[wrong[0]]!r} is not a number"
    if config.get("use_attention_mask"):
        yield f"{place}: use_attention_mask asks for masks of padding, which are not given"
    positions = text_config(config).get("max_position_embeddings", TOKENS_PER_PIECE)
    if positions != TOKENS_PER_PIECE:
        yield (f"{place}: max_position_embeddings: {positions}, but prompts are encoded in pieces"
               f" of {TOKENS_PER_PIECE}")


def _tokens(files: ModelFiles) -> Iterator[str]:
    """Every id of a tokenizer has a row of its encoder's embedding."""
    for tokens, encoder in zip(files.tokenizers, files.kind.encoders, strict=True):
        rows = text_config(files.config(encoder)).get("vocab_size", _CLIP_VOCABULARY)
        if tokens.highest >= rows:
            words = ", ".join(a.content for a in tokens.added if a.id >= rows)
            yield (f"{place_of(files, encoder)}: vocab_size: {rows}, but its tokenizer has ids up"
                   f" to {tokens.highest}{f' ({words})' if words else ''}; put the text encoder"
                   " there whose embedding was enlarged for them")


def _weights(files: ModelFiles) -> Iterator[str]:
    """A few telling shapes of the weights against the configurations."""
    for component in files.kind.modules:
        shapes = files.shapes(component)
        yield from _strange(files, component, shapes)
        yield from _quantised(files, component)
        config, place = files.config(component), files.alone(component) or files.folder(component)
        name, expected = "", tuple[Any, ...]()
        if component == UNET:
            name = "model.diffusion_model.input_blocks.0.0.weight" if files.file else \
                "conv_in.weight"
            expected = (config["block_out_channels"][0], config.get("in_channels", 4))
        elif component in files.kind.encoders and component != files.kind.t5[0] and not files.file:
            name = next((n for n in shapes if n.endswith("token_embedding.weight")), "")
            inner = text_config(config)
            expected = (inner.get("vocab_size", _CLIP_VOCABULARY),
                        inner.get("hidden_size", _CLIP_WIDTH))
        elif component != TRANSFORMER:
            continue
        if not files.file:
            yield from _counts(str(place), component, shapes, config)
        if name in shapes and shapes[name][:2] != expected:
            yield (f"{place}: '{name}' is {_by(shapes[name])}, its configuration says"
                   f" {_by(expected)}: weights of another model ({component})")


def _counts(place: str, component: str, shapes: Iterable[str], config: Config) -> Iterator[str]:
    """How many blocks and layers the file has, against the configuration."""
    if component == TRANSFORMER:
        expected = {blocks_of(class_of(config)): config.get("num_layers", config.get("n_layers")),
                    "single_transformer_blocks": config.get("num_single_layers") or 0}
    elif component == UNET:
        expected = {"down_blocks": len(config["down_block_types"]),
                    "up_blocks": len(config["up_block_types"]),
                    "mid_block": int(config.get("mid_block_type", "default") is not None)}
    else:
        expected = {"layers": text_config(config).get("num_hidden_layers", 12)}
    names = [n for n in shapes if not n.startswith("vision_model.")]
    for what, number in expected.items():
        pattern = re.compile(rf"(?:.*\.)?{what}\.(\d+)\.")
        count = len({m[1] for m in map(pattern.match, names) if m})
        if what == "mid_block":
            count = int(any(n.startswith("mid_block.") for n in names))
        if count != number:
            yield (f"{place}: its weights have {count} {what}, its configuration says {number}:"
                   f" weights of another model ({component})")


def _quantised(files: ModelFiles, component: str) -> Iterator[str]:
    """Weights that are whole numbers mean nothing without their scales, which are not read."""
    paths = files.weight_files(component)
    names = [n for path in paths for n in read_header(path).whole if n.endswith(".weight")]
    if names:
        yield (f"{paths[0].parent}: {len(names)} weights are whole numbers ({listed(names, 2)}),"
               " quantised ones, which are not read; take those in float16 or float32")


def _strange(files: ModelFiles, component: str,
             shapes: Mapping[str, Sequence[int]]) -> Iterator[str]:
    """Tensors that are plainly of something else; the others are compared when they are loaded."""
    top, what = _TOP.get(component), f"its {component}"
    place = files.alone(component) or files.folder(component)
    strange = [k for k in shapes if ".lora_" in k or (top and k.split(".")[0] not in top)]
    if files.file:
        what = files.title
        strange = foreign_tensors(shapes, files.published) if component == UNET else []
        if component == VAE and not any(k.startswith("first_stage_model.") for k in shapes):
            yield f"{place}: no autoencoder in it (first_stage_model.…); take a whole file"
    if strange:
        yield (f"{place}: {counted(len(strange), 'tensor')} not part of {what}:"
               f" {listed(strange, 3)}; take the right file, and merge an adapter or name it in the"
               " combo")


def _by(shape: Sequence[Any]) -> str:
    return "×".join(map(str, shape))


def controlnet_problems(place: str, net: Config, files: ModelFiles) -> Iterator[str]:
    """One line for the first thing in which a ControlNet does not suit a model, if any."""
    problems = list(fields.field_problems(place, net, fields.CONTROLNET))
    if problems:
        yield from problems
        return
    unet, count = files.config(UNET), len(net["down_block_types"])
    text = any("CrossAttn" in b for b in [*net["down_block_types"], net.get("mid_block_type", "")])
    pairs = [("text width", *(fields.one_of(c.get("cross_attention_dim", 1280)) if text else 0
                              for c in (net, unet))),
             ("channels", *(list(c["block_out_channels"]) for c in (net, unet))),
             ("layers per block", *(fields.by_block(c.get("layers_per_block", 2), count)
                                    for c in (net, unet))),
             ("latent channels", *(c.get("in_channels", 4) for c in (net, unet))),
             ("condition's stride", 2 ** (len(net.get("conditioning_embedding_out_channels")
                                              or "....") - 1), files.family.latent_stride)]
    if net.get("addition_embed_type"):
        pairs.append(("added embedding", *(c.get("projection_class_embeddings_input_dim")
                                           for c in (net, unet))))
    for what, got, expected in pairs:
        if got != expected:
            yield (f"{place}: this ControlNet is for another model ({what} {got}, the UNet's is"
                   f" {expected})")
            return

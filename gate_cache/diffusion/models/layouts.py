"""The kinds of diffusion models, as data: what each is made of, and how one is known. No torch."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError, listed
from gate_cache.core.features import TOKENS_PER_PIECE
from gate_cache.core.plugins import installed, load_plugin
from gate_cache.diffusion.models.fields import is_number
from gate_cache.text.template import INNER, INSTRUCTION, PLAIN, Template

if TYPE_CHECKING:
    from gate_cache.core.features import Family
    from gate_cache.diffusion.models.backbone import Backbone

GROUP = "gate_cache.backbones"
"""Entry points that name the `Kind` of other packages' models."""
UNET, TRANSFORMER, VAE, SCHEDULER = "unet", "transformer", "vae", "scheduler"
PROCESSOR = "preprocessor_config.json"
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_OTHER_NOISE = {"use_flow_sigmas": True, "timestep_type": "continuous",
                "_class_name": "FlowMatchEulerDiscreteScheduler"}
"""What a scheduler of flow matching, or of noise levels without steps, says of itself."""
_FLOW = {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False}
"""What decides σ of flow matching, as a scheduler has it by default; and what may not be asked."""
_OTHER_SIGMAS = ("invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_SCHEDULE_KEYS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule",
                  "trained_betas", "prediction_type", "rescale_betas_zero_snr")


@dataclass(frozen=True)
class Kind:
    """One kind of diffusion model, in diffusers layout.

    Attributes
    ----------
    encoders : its text encoders' folders; each has a tokenizer of the same number
    vae : whether it works on an autoencoder's latents; else on pixels
    knows : whether a UNet or transformer of this configuration is of it: of another package's
        kind, or of a transformer's
    backbone : of another package's kind: imports and returns its `Backbone`
    family : of another package's kind: from configurations of UNet and VAE to its maps, where
        they are not those of a diffusers UNet with ``up_block_types``
    denoiser : folder of what is noised for
    t5 : its text encoder of a text that is always filled up, T5's or another language model's, and
        how many tokens
    language : ``model_type`` of that text encoder
    template : what the pipeline makes of a prompt
    tokens : that an attention map of an empty prompt has
    flow : whether it is a model of flow matching
    coder : class of its autoencoder
    noised : whether it is a diffusion model; else it is given the image, and no text
    """

    name: str
    encoders: tuple[str, ...]
    vae: bool
    knows: Callable[[Mapping[str, Any]], bool] | None = None
    backbone: Callable[[], type[Backbone]] | None = None
    family: Callable[[Mapping[str, Any], Mapping[str, Any] | None], Family] | None = None
    denoiser: str = UNET
    t5: tuple[str, int] = ("", 0)
    tokens: int = TOKENS_PER_PIECE
    flow: bool = False
    noised: bool = True
    language: str = "t5"
    template: Template = PLAIN
    coder: str = "AutoencoderKL"

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers' folders."""
        return tuple(e.replace("text_encoder", "tokenizer") for e in self.encoders)

    @property
    def modules(self) -> tuple[str, ...]:
        """Folders with weights."""
        return (self.denoiser, *([VAE] if self.vae else []), *self.encoders)

    @property
    def components(self) -> tuple[str, ...]:
        """All its folders."""
        return (*self.modules, *self.tokenizers, *([SCHEDULER] if self.noised else []))

    def about_tokens(self, text: str) -> int:
        """Tokens of a prompt without its tokenizer: words and signs, in whole pieces of CLIP's."""
        words = 0 if self.t5[1] else len(re.findall(r"\w+|[^\w\s]", text))
        return self.tokens * max(math.ceil(words / (TOKENS_PER_PIECE - 2)), 1)

    @property
    def expected(self) -> str:
        """What its folder should hold, for messages."""
        if not self.noised:
            return (f"expected a {self.name} in transformers layout: config.json,"
                    f" {PROCESSOR}, weights as safetensors")
        return (f"expected a {self.name} in diffusers layout: model_index.json and the folders"
                f" {', '.join(self.components)}, weights as safetensors")


SD = Kind("Stable Diffusion", ("text_encoder",), vae=True)
SDXL = Kind("Stable Diffusion XL", ("text_encoder", "text_encoder_2"), vae=True)
DDPM = Kind("DDPM", (), vae=False)


def _transformer(name: str, cls: str, encoders: int, length: int, tokens: int = 0,
                 flow: bool = True, **marks: Any) -> Kind:
    """A transformer whose last text encoder fills up, known by its class and some fields."""
    folders = ("text_encoder", "text_encoder_2", "text_encoder_3")[:encoders]

    def knows(config: Mapping[str, Any]) -> bool:
        return class_of(config) == cls and all(
            config.get(field) is value for field, value in marks.items())

    return Kind(name, folders, vae=True, knows=knows,
                denoiser=TRANSFORMER, t5=(folders[-1], length), tokens=tokens or length, flow=flow)


PIXART_SIGMA, PIXART_ALPHA = (replace(kind, template=Template(lower=True)) for kind in (
    _transformer("PixArt-Σ", "PixArtTransformer2DModel", 1, 300, flow=False,
                 use_additional_conditions=False),
    _transformer("PixArt-α", "PixArtTransformer2DModel", 1, 120, flow=False)))
SD3 = _transformer("Stable Diffusion 3", "SD3Transformer2DModel", 3, 256,
                   tokens=TOKENS_PER_PIECE + 256)
FLUX = _transformer("FLUX.1", "FluxTransformer2DModel", 2, 512, guidance_embeds=True)
FLUX_SCHNELL = _transformer("FLUX.1 schnell", "FluxTransformer2DModel", 2, 256)
LUMINA2 = replace(
    _transformer("Lumina Image 2.0", "Lumina2Transformer2DModel", 1, 256), language="gemma2",
    template=Template(
        "You are an assistant designed to generate superior images with the superior degree of"
        " image-text alignment based on textual prompts or user prompts. <Prompt Start> ",
        ragged=True))
SANA = replace(
    _transformer("Sana", "SanaTransformer2DModel", 1, 300), language="gemma2",
    template=Template(INSTRUCTION, lower=True, left_out=INNER), coder="AutoencoderDC")
QWEN_IMAGE = replace(
    _transformer("Qwen-Image", "QwenImageTransformer2DModel", 1, 512), language="qwen2_5_vl",
    template=Template(
        "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture,"
        " quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
        "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", left_out=34,
        ragged=True),
    coder="AutoencoderKLQwenImage")
Z_IMAGE = replace(
    _transformer("Z-Image", "ZImageTransformer2DModel", 1, 512), language="qwen3",
    template=Template("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", ragged=True))
TRANSFORMERS = (PIXART_SIGMA, PIXART_ALPHA, SD3, FLUX, FLUX_SCHNELL, LUMINA2, SANA, QWEN_IMAGE,
                Z_IMAGE)
KINDS = (SD, SDXL, DDPM, *TRANSFORMERS)


ENCODER = Kind("vision encoder", (), vae=False, knows=lambda config: "model_type" in config,
               denoiser="encoder", noised=False)
"""Known by a field that configurations of transformers have, and those of diffusers do not."""
TIMM = replace(ENCODER, name="model of timm",
               knows=lambda config: {"architecture", "pretrained_cfg"} <= config.keys())


def class_of(config: Mapping[str, Any]) -> str:
    """Name of the class that runs a configuration; the first PixArts were of another, now split."""
    name = str(config.get("_class_name"))
    old = name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single"
    return "PixArtTransformer2DModel" if old else name


def kind_of(source: str, unet: Mapping[str, Any]) -> Kind:
    """The kind of model that a UNet's configuration belongs to; `ModelError` where none is read."""
    kinds: list[Kind] = [load_plugin(GROUP, other) for other in installed(GROUP)]
    for kind in (*kinds, *TRANSFORMERS, TIMM, ENCODER):
        if kind.knows and kind.knows(unet):
            return kind
    name, added = unet.get("_class_name"), unet.get("addition_embed_type")
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        raise ModelError(f"{source}: its UNet wants a class label with each image; only text"
                         " models and unconditional ones are read")
    if name == "UNet2DModel":
        _refuse_strange_ddpm(source, unet)
        return DDPM
    if name not in (None, "UNet2DConditionModel") or added not in (None, "text_time"):
        raise ModelError(f"{source}: not the UNet of a Stable Diffusion 1.x, 2.x or XL, nor of an"
                         f" unconditional DDPM ({name}, {added or 'no added embedding'}), nor the"
                         f" transformer of {', '.join(k.name for k in TRANSFORMERS)}")
    return SDXL if added else SD


def _refuse_strange_ddpm(source: str, unet: Mapping[str, Any]) -> None:
    if unet.get("in_channels", 3) != 3:
        raise ModelError(f"{source}: its UNet takes {unet['in_channels']} channels, not RGB images")
    blocks = [*unet.get("up_block_types", ()), *unet.get("down_block_types", ())]
    if unet.get("time_embedding_type") == "fourier" or any("Skip" in b for b in blocks):
        raise ModelError(f"{source}: a score-based UNet (NCSN++) that takes noise levels; only"
                         " DDPM's, which take timesteps, are read")


def flow_schedule_of(source: str, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scheduler's configuration decides σ of flow matching; `ModelError` of any other.

    A shift that depends on the image's size and the number of steps is about sampling: σ is then
    that of the scheduler before it is set up, which has none.
    """
    name = scheduler.get("_class_name")
    if name == "DPMSolverMultistepScheduler" and scheduler.get("use_flow_sigmas"):  # Sana's
        name = "FlowMatchEulerDiscreteScheduler"  # of the same σ
        scheduler = {**scheduler, "shift": scheduler.get("flow_shift", 1.0)}
    other = [f"has {k}" for k in _OTHER_SIGMAS if scheduler.get(k)]
    if name != "FlowMatchEulerDiscreteScheduler" or other:
        raise ModelError(f"{source}: its scheduler ({name}) {listed(other) or 'is another one'};"
                         " of models of flow matching, FlowMatchEulerDiscreteScheduler is read")
    schedule = {k: scheduler.get(k, value) for k, value in _FLOW.items()}
    _check_numbers(source, schedule)
    if not is_number(schedule["shift"]) or schedule["shift"] <= 0:
        raise ModelError(f"{source}: its scheduler has shift: {schedule['shift']!r}, not a number"
                         " above 0; correct scheduler_config.json")
    return {**schedule, "prediction_type": "flow"}


def schedule_of(source: str, scheduler: Mapping[str, Any]) -> dict[str, Any]:
    """What of a scheduler's configuration decides ᾱ; `ModelError` unless it has discrete steps."""
    schedule = {key: scheduler[key] for key in _SCHEDULE_KEYS if scheduler.get(key) is not None}
    if not {"beta_schedule", "trained_betas"} & schedule.keys():
        raise ModelError(f"{source}: its scheduler ({scheduler.get('_class_name')}) has no betas:"
                         " not a diffusion model in discrete steps, which alone are read")
    other = [k for k, v in _OTHER_NOISE.items() if scheduler.get(k) == v]
    other += ["snr_shift_scale"] if scheduler.get("snr_shift_scale", 1) not in (None, 1) else []
    if other:
        raise ModelError(f"{source}: its scheduler has {other[0]}: {scheduler[other[0]]}; only"
                         " diffusion models in discrete steps are read")
    return checked_schedule(source, schedule)


def checked_schedule(source: str, schedule: dict[str, Any]) -> dict[str, Any]:
    """The schedule; `ModelError` where it, or what is predicted, is none that is read."""
    _check_numbers(source, schedule)
    betas = schedule.get("beta_schedule", _BETAS[0])
    predicted = schedule.get("prediction_type", PREDICTIONS[0])
    if "trained_betas" not in schedule and betas not in _BETAS:
        raise ModelError(f"{source}: a schedule that is not read ({betas}); known are"
                         f" {', '.join(_BETAS)}")
    if predicted not in PREDICTIONS:
        raise ModelError(f"{source}: its UNet predicts '{predicted}'; known are"
                         f" {', '.join(PREDICTIONS)}")
    return schedule


def _check_numbers(source: str, schedule: Mapping[str, Any]) -> None:
    """Refuse a number of steps, or betas, that are none."""
    steps = schedule.get("num_train_timesteps", 1)
    if type(steps) is not int or steps < 1:
        raise ModelError(f"{source}: its scheduler has num_train_timesteps: {steps!r}, not a"
                         " number of steps; correct scheduler_config.json")
    betas = {"beta_start": [schedule.get("beta_start", 0)],
             "beta_end": [schedule.get("beta_end", 0)],
             "trained_betas": schedule.get("trained_betas", [0])}
    for field, values in betas.items():
        if not isinstance(values, list) or not values or not all(
                is_number(v) and 0 <= v <= 1 for v in values):
            raise ModelError(f"{source}: its scheduler has {field}: {str(schedule[field])[:60]!r},"
                             " not of 0 … 1; correct scheduler_config.json")
    first, last = schedule.get("beta_start", 0), schedule.get("beta_end", 1)
    if not first <= last > 0:
        raise ModelError(f"{source}: its scheduler has beta_start: {first} and beta_end: {last}, so"
                         " noise does not grow; correct scheduler_config.json")


def is_bare(folder: Path) -> bool:
    """Whether a folder is a UNet itself, as the first published DDPMs are laid out."""
    return (folder / "config.json").is_file() and not any(
        (folder / name).is_dir() for name in (UNET, TRANSFORMER))


def guessed_kind(folder: Path) -> Kind:
    """What a folder, whole or not, seems to be meant for; for messages and downloads."""
    for path in (folder / UNET / "config.json", folder / TRANSFORMER / "config.json",
                 folder / "config.json"):
        try:
            return kind_of("", json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, AttributeError):  # ModelError is a ValueError
            continue
    return SD

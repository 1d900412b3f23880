"""Sections of a manifest, typed: what may be written in one. `gate_cache.manifest.load` reads one.

No torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from gate_cache.core.preprocessing import Fit, Resample, parse_color
from gate_cache.manifest.dataset_specs import DatasetSpec, Spec

T_MAX = 999
CAPTION = "{caption}"
SINGLE_FILE = ".safetensors"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class ModelSpec(Spec):
    """The diffusion model: ``tiny``, a folder or file below the models root, or a hub id.

    Of several sources the first that is there, and that has the digest, is used.
    """

    sources: Annotated[list[str], BeforeValidator(_listed)] = Field(alias="source", min_length=1)
    digest: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$",
                               description="sha256 of the unet component, or its beginning")
    config: str | None = Field(None, description="tokenizers and configurations of a single file")
    revision: str | None = None
    variant: str | None = None
    size: int | None = Field(None, ge=16, le=4096, description="input size in pixels, square")
    fit: Fit = "squash"
    resample: Resample = "bicubic"
    background: Annotated[str, BeforeValidator(parse_color)] = Field(
        "", description="colour below transparent pixels [white]")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @property
    def source(self) -> str:
        """The sources, for people."""
        return " or ".join(self.sources)

    @field_serializer("sources")
    def _plain(self, sources: list[str]) -> str | list[str]:
        return sources[0] if len(sources) == 1 else sources


class ControlNetSpec(Spec):
    """ControlNet on the Canny edges of the input itself (paper, A.2), or on given images."""

    source: str
    scale: float = 1.0
    low: int = Field(100, ge=0, le=10_000)
    high: int = Field(200, ge=0, le=10_000)
    images: str | None = Field(None, description="folder of control images below the data root")


class LoraSpec(Spec):
    """A LoRA file in diffusers format below the models root, or a built-in ``tiny/…``."""

    source: str
    scale: float = 1.0


class IPAdapterSpec(Spec):
    """IP-Adapter on the input itself: a file, and a CLIP image encoder's folder."""

    source: str
    image_encoder: str
    scale: float = 1.0


class GuidanceSpec(Spec):
    """Classifier-free guidance of the denoising steps."""

    scale: float = Field(gt=0)
    negative: str = ""


class DenoiseSpec(Spec):
    """Start from an earlier (noisier) t and denoise to the combo's t by DDIM steps."""

    start: int = Field(alias="from", ge=1, le=T_MAX)
    steps: int = Field(1, ge=1)


class Combo(Spec):
    """A technique combination: one set of feature maps per image."""

    prompt: str = ""
    seed: int = Field(0, ge=0)
    t: int = Field(50, ge=0, le=T_MAX)
    controlnet: ControlNetSpec | None = None
    lora: Annotated[list[LoraSpec], BeforeValidator(_as_list)] = Field(default_factory=list)
    ip_adapter: IPAdapterSpec | None = None
    denoise: DenoiseSpec | None = None
    guidance: GuidanceSpec | None = None
    extra: dict[str, dict[str, Any]] = Field(default_factory=dict)
    maps: list[str] | None = Field(None, min_length=1)

    @property
    def captioned(self) -> bool:
        """Whether its prompt has a place for each image's caption."""
        return CAPTION in self.prompt

    @property
    def prompted(self) -> bool:
        """Whether the manifest gives it a prompt, be it an empty one."""
        return "prompt" in self.model_fields_set


class StoreSpec(Spec):
    """Where the store is (below the stores root) and how it is laid out."""

    path: str | None = None
    dtype: Literal["float16", "float32", "bfloat16", "int8"] = "float16"
    keep_bits: int | None = Field(None, ge=1, description="of the mantissa of a float")
    codec: Literal["zstd"] | None = None
    block: int | None = Field(None, ge=1, le=1024)
    batch: int = Field(8, ge=1)


HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "upernet": {"lr": 1e-4},
    "pixel-mlp": {"pairs": 640_000, "batch": 64, "lr": 1e-3, "weight_decay": 0.0,
                  "validate_every": 64_000},
    "classifier": {"pairs": 100_000, "batch": 64, "validate_every": 10_000},
}
"""Defaults of ``train`` that differ by head."""


class TrainSpec(Spec):
    """Stage 2: amalgamator, head and optimisation (paper, A.4 and C.1).

    What `HEAD_DEFAULTS` says of a head counts where the manifest says nothing.
    """

    head: Literal["nn", "conv", "upernet", "pixel-mlp", "classifier"] = "nn"
    combos: list[str] | None = Field(None, min_length=1)
    attention: str | Literal[False] | None = None
    attention_maps: list[str] | None = Field(None, min_length=1)
    baseline: str | None = None
    assigners: int = Field(2, ge=1)
    gamma1: float = Field(0.1, ge=0)
    gamma2: float = Field(0.1, ge=0)
    pairs: int = Field(10_000, ge=1, description="items that training sees, repeats included: pairs"
                       " (nn, conv), images (upernet, classifier) or pixels (pixel-mlp)")
    batch: int = Field(4, ge=1)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    hidden: int = Field(128, ge=1)
    conv_channels: int = Field(384, ge=1)
    decoder_channels: int = Field(512, ge=2, description="upernet's width; its auxiliary head has"
                                  " half of it")
    classifier_hidden: int = Field(0, ge=0, description="classifier's hidden layer; 0: none")
    members: int = Field(10, ge=1, description="MLPs of pixel-mlp's ensemble")
    extra: list[str] | None = Field(None, min_length=1, description="combos that pixel-mlp"
                                    " concatenates as they are, of any model in the store")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="pixels of an image for pixel-mlp: as they come, or as many of each"
        " class")
    reservoir_mb: int = Field(1024, ge=1, description="memory for pixel-mlp's training pixels")
    resolution: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    shuffle: int | None = Field(None, ge=0, lt=2**63,
                                description="seed of the order alone [seed]")
    validate_every: int = Field(500, ge=1, description="in items, as pairs")
    patience: int | None = Field(None, ge=1, description="validations without gain before it stops")
    amp: bool = Field(False, description="bfloat16 autocast where there is a GPU")

    @model_validator(mode="after")
    def _of_head(self) -> Self:
        given = HEAD_DEFAULTS.get(self.head, {})
        self.__dict__.update({k: v for k, v in given.items() if k not in self.model_fields_set})
        return self


class Manifest(Spec):
    """A whole manifest. Read one with `load`."""

    dataset: DatasetSpec
    model: ModelSpec
    conv: dict[str, Combo] = Field(default_factory=dict)
    attention: dict[str, Combo] = Field(default_factory=dict)
    captions: str | None = None
    store: StoreSpec = StoreSpec()
    train: TrainSpec = TrainSpec()

    @property
    def combos(self) -> dict[str, Combo]:
        """All combos, convolutional ones first, by name."""
        return {**self.conv, **self.attention}

    def kind(self, combo: str) -> Literal["conv", "attention"]:
        """Which kind of map a combo yields."""
        return "conv" if combo in self.conv else "attention"

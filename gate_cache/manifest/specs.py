"""Sections of a manifest, typed: what may be written in one. `gate_cache.manifest.load` reads one.

No torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gate_cache.core.errors import TOLD, did_you_mean
from gate_cache.core.features import Pooling
from gate_cache.core.preprocessing import Fit, Resample, parse_color
from gate_cache.manifest.base import Spec
from gate_cache.manifest.dataset_specs import DatasetSpec
from gate_cache.manifest.first_release import (
    BATCH,
    COUNTS,
    HEAD,
    head_name,
    in_steps,
    of_a_run,
    options_in_head,
)
from gate_cache.manifest.heads import HeadSpec, head_of, option_names, parse_head, whose
from gate_cache.manifest.store_specs import MapSize, StoreSpec, by_name

T_MAX = 999
CAPTION = "{caption}"
SINGLE_FILE = ".safetensors"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


TF32 = "+tf32"


class ModelSpec(Spec):
    """The diffusion model: ``tiny``, a folder or file below the models root, or a hub id.

    Of several sources the first that is there, and that has the digest, is used.
    """

    sources: Annotated[list[str], BeforeValidator(_listed)] = Field(alias="source", min_length=1)
    digest: str | None = Field(None, pattern=r"^[0-9a-f]{8,64}$",
                               description="sha256 of the unet component, or its beginning")
    config: str | None = Field(None, description="tokenizers and configurations of a single file")
    unet: str | None = Field(None, description="a file with other weights for the source's UNet")
    revision: str | None = None
    variant: str | None = None
    size: int | None = Field(None, ge=16, le=4096, description="input size in pixels, square")
    fit: Fit = "squash"
    resample: Resample = "bicubic"
    background: Annotated[str, BeforeValidator(parse_color)] = Field(
        "", description="colour below transparent pixels [white]")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = Field(False, description="NVIDIA's short float32, where float32 is computed")
    channels_last: bool = False
    compile: bool = Field(False, description="the UNet's repeated blocks, by torch")

    @property
    def compute(self) -> str:
        """The dtype, with what else decides values more than rounding does."""
        return self.dtype + (TF32 if self.tf32 else "")

    @property
    def source(self) -> str:
        """The sources, for people."""
        return " or ".join(self.names)

    @property
    def names(self) -> list[str]:
        """What the model is called by each source."""
        return [f"{s} with {self.unet}" if self.unet else s for s in self.sources]

    @field_serializer("sources")
    def _plain(self, sources: list[str]) -> str | list[str]:
        return sources[0] if len(sources) == 1 else sources


class ControlNetSpec(Spec):
    """ControlNet on the Canny edges of the input itself (paper, A.2), or on given images."""

    source: str
    config: str | None = Field(None, description="of a single file: the folder of its config.json")
    revision: str | None = None
    variant: str | None = None
    scale: float = 1.0
    low: int = Field(100, ge=0, le=10_000)
    high: int = Field(200, ge=0, le=10_000)
    images: str | None = Field(None, description="folder of control images below the data root")


class LoraSpec(Spec):
    """A LoRA: a file or folder below the models root, a hub id, or a built-in ``tiny/…``."""

    source: str
    scale: float = 1.0


class IPAdapterSpec(Spec):
    """IP-Adapter on the input itself: a file, and a CLIP image encoder's folder."""

    source: str
    image_encoder: str
    variant: str | None = Field(None, description="of the image encoder's weights, such as fp16")
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
    ensemble: int = Field(1, ge=1, le=100, description="noises that maps are the mean over: those"
                          " of seed, seed + 1, …")
    noise: Literal["gaussian", "none"] = Field("gaussian", description="added to the latent")
    mirror: bool = Field(False, description="of the image mirrored left to right")
    t: int = Field(50, ge=0, le=T_MAX)
    controlnet: ControlNetSpec | None = None
    lora: Annotated[list[LoraSpec], BeforeValidator(_as_list)] = Field(default_factory=list)
    ip_adapter: IPAdapterSpec | None = None
    denoise: DenoiseSpec | None = None
    guidance: GuidanceSpec | None = None
    extra: dict[str, dict[str, Any]] = Field(default_factory=dict)
    maps: Annotated[dict[str, MapSize] | None, BeforeValidator(by_name)] = Field(
        None, min_length=1, description="names, or by name how they are made smaller")

    @field_serializer("maps")
    def _names(self, maps: dict[str, MapSize] | None) -> Any:
        """As it may be written in every release, where no map is made smaller."""
        grids = {n: m.model_dump() for n, m in (maps or {}).items() if m.grid}
        return {n: grids.get(n) for n in maps or ()} if grids else maps and list(maps)

    @property
    def pooling(self) -> Pooling:
        """Of the maps that are made smaller: cells a side, and what is kept of each."""
        return {n: {"grid": m.grid, "pool": m.pool} for n, m in (self.maps or {}).items()
                if m.grid}

    @property
    def captioned(self) -> bool:
        """Whether its prompt has a place for each image's caption."""
        return CAPTION in self.prompt

    @property
    def prompted(self) -> bool:
        """Whether the manifest gives it a prompt, be it an empty one."""
        return "prompt" in self.model_fields_set


AttentionMaps = Annotated[list[str], Field(min_length=1)] | Literal["two finest"] | None
"""Maps of an attention combo by name, all, or those that the first release read by default."""
OF_A_RUN = "of a run"
"""Validation context of settings that a run's files hold, be it one of the first release."""


class TrainSpec(Spec):
    """Stage 2: amalgamator, head and optimisation (paper, A.4 and C.1).

    What a head's own defaults say counts where the manifest says nothing. Options of a head are in
    `head`. A step is one of the optimiser, on one batch.
    """

    head: SerializeAsAny[Annotated[HeadSpec, BeforeValidator(parse_head)]] = Field(
        default_factory=lambda: cast(HeadSpec, parse_head(HEAD)))
    combos: list[str] | None = Field(None, min_length=1)
    attention: str | Literal[False] | None = None
    attention_maps: AttentionMaps = None
    attention_in: Literal["head", "bucket"] = Field(
        "head", description="attention is concatenated behind the mixture, or to all that is mixed")
    baseline: str | None = None
    assigners: int = Field(2, ge=1)
    assigner_resolution: int | None = Field(
        None, ge=1, description="side to which maps are averaged for the assigners [as they are]")
    weights: Literal["map", "channel"] = Field("map", description="what an assigner weighs")
    gamma1: float = Field(0.1, ge=0)
    gamma2: float = Field(0.1, ge=0)
    steps: int = Field(2500, ge=1, description="of the optimiser")
    batch: int = Field(BATCH, ge=1, description="pairs, images or pixels of a step")
    lr: float = Field(5e-4, gt=0)
    schedule: Literal["constant", "cosine"] = Field(
        "constant", description="of lr after the warm-up: as it is, or half a cosine down to 0")
    warmup: float = Field(0, ge=0, lt=1, description="share of the steps in which lr rises first")
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    hidden: int = Field(128, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    shuffle: int | None = Field(None, ge=0, lt=2**63,
                                description="seed of the order alone [seed]")
    validate_steps: int = Field(125, ge=1, description="between validations")
    patience: int | None = Field(None, ge=1, description="validations without gain before it stops")
    amp: bool = Field(False, description="bfloat16 autocast where there is a GPU")
    pairs: int | None = Field(None, ge=1, repr=False, description="first release: in items")
    validate_every: int | None = Field(None, ge=1, repr=False,
                                       description="first release: in items")

    @property
    def items(self) -> int:
        """Items that training sees, repeats included."""
        return self.pairs or self.steps * self.batch

    @property
    def validate_items(self) -> int:
        """Items between validations."""
        return self.validate_every or self.validate_steps * self.batch

    @model_validator(mode="before")
    @classmethod
    def _spelling(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict):
            return data
        return in_steps(options_in_head(of_a_run(data) if info.context == OF_A_RUN else data))

    @model_validator(mode="after")
    def _of_head(self) -> Self:
        defaults = {k: v for k, v in head_of(self.head.name).defaults.items()
                    if k not in self.model_fields_set}
        if strange := defaults.keys() - type(self).model_fields.keys():
            raise PydanticCustomError(TOLD, f"head '{self.head.name}' has a default for"
                                      f" '{min(strange)}', which is no field of train")
        if self.assigner_resolution and head_of(self.head.name).task in ("pixels",
                                                                         "classification"):
            raise PydanticCustomError(TOLD, f"assigner_resolution: head '{self.head.name}' weighs"
                                      " no maps, but pixels or means of them")
        self.__dict__.update(defaults)
        for items, steps in COUNTS.items():
            if count := getattr(self, items):
                number = -(-count // self.batch)
                if steps in self.model_fields_set and getattr(self, steps) != number:
                    raise PydanticCustomError(
                        TOLD, f"gives {items} and {steps}; give {steps} alone")
                self.__dict__[steps] = number
        return self

    @model_serializer(mode="wrap")
    def _without_old(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {k: v for k, v in plain(self).items() if v is not None or k not in COUNTS}

    @classmethod
    def why_unknown(cls, field: str, data: Any) -> str:
        """Where a field that is none belongs; for messages."""
        name = head_name(data) if isinstance(data, dict) else HEAD
        if field in option_names(name):
            return f"; it is an option of the head: write head: {{name: {name}, {field}: …}}"
        near = did_you_mean(field, option_names(name))
        owners = whose(field)
        return f"; head '{name}' has no such option{near}{owners}" if near or owners else ""


def in_todays_words(train: Any) -> Any:
    """The plain data of ``train`` in a run's files, whatever release wrote them.

    Raises
    ------
    ValueError
        It is no such section.
    """
    return TrainSpec.model_validate(train, context=OF_A_RUN).model_dump(mode="json")


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

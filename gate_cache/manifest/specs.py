"""Sections of a manifest, typed: what may be written in one. `gate_cache.manifest.load` reads one.

No torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, field_serializer, model_validator

from gate_cache.core.errors import ManifestError, listed
from gate_cache.core.features import Pooling
from gate_cache.core.preprocessing import Resample, parse_color
from gate_cache.core.size import Fit
from gate_cache.manifest.base import Spec, sides
from gate_cache.manifest.dataset_specs import DatasetSpec
from gate_cache.manifest.store_specs import MapSize, StoreSpec, by_name
from gate_cache.manifest.train_spec import TrainSpec

T_MAX = 999  # the last of 1,000 training timesteps
CAPTION = "{caption}"
SINGLE_FILE = ".safetensors"


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _not_given(value: Any) -> bool:
    """For fields that recipes and runs of manifests with one model do not name."""
    return not value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


TF32 = "+tf32"  # behind a dtype, in recipes


class TilesSpec(Spec):
    """Of an input that is larger than the model's: each is a pass, and their maps are blended."""

    size: Annotated[int | list[int], sides(16, 8192)] = Field(description="in pixels")
    overlap: int = Field(ge=0, description="pixels that neighbours share at least")


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
    size: Annotated[int | list[int], sides(16, 8192)] | None = Field(
        None, description="of the input in pixels, of a square or [height, width]")
    tiles: TilesSpec | None = Field(None, exclude_if=_not_given)
    fit: Fit = "squash"
    resample: Resample = "bicubic"
    background: Annotated[str, BeforeValidator(parse_color)] = Field(
        "", description="colour below transparent pixels [white]")
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = Field(False, description="NVIDIA's short float32, where float32 is computed")
    channels_last: bool = False
    compile: bool = Field(False, description="the UNet's repeated blocks, by torch")
    _place: str = PrivateAttr("model")

    @property
    def compute(self) -> str:
        """The dtype, with what else decides values more than rounding does."""
        return self.dtype + (TF32 if self.tf32 else "")

    @property
    def place(self) -> str:
        """Of this section in its manifest, for messages: ``model``, or ``models.`` and a name."""
        return self._place

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

    model: str | None = Field(None, exclude_if=_not_given,
                              description="of several models [the first]")
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


class Manifest(Spec):
    """A whole manifest. Read one with `load`."""

    dataset: DatasetSpec
    only: ModelSpec | None = Field(None, alias="model", exclude_if=_not_given)
    models: dict[str, ModelSpec] = Field(default_factory=dict, exclude_if=_not_given)
    conv: dict[str, Combo] = Field(default_factory=dict)
    attention: dict[str, Combo] = Field(default_factory=dict)
    captions: str | None = None
    store: StoreSpec = StoreSpec()
    train: TrainSpec = TrainSpec()

    @model_validator(mode="after")
    def _places(self) -> Self:
        for name, model in self.models.items():
            model._place = f"models.{name}"
        return self

    @property
    def model(self) -> ModelSpec:
        """Its only model.

        Raises
        ------
        ManifestError
            It names several.
        """
        if self.only is None:
            raise ManifestError([f"this reads one model, and the manifest has {len(self.models)}"
                                 f" ({listed(self.models)}); give it a manifest with one 'model'"])
        return self.only

    @property
    def combos(self) -> dict[str, Combo]:
        """All combos, convolutional ones first, by name."""
        return {**self.conv, **self.attention}

    @property
    def every_model(self) -> dict[str, ModelSpec]:
        """Its models by name; an only one has none."""
        return self.models or {"": self.model}

    def kind(self, combo: str) -> Literal["conv", "attention"]:
        """Which kind of map a combo yields."""
        return "conv" if combo in self.conv else "attention"

    def model_name(self, combo: Combo) -> str:
        """Which of `every_model` a combo is of."""
        return "" if self.only else combo.model or next(iter(self.models))

    def model_of(self, combo: str) -> ModelSpec:
        """The model that a combo is of."""
        return self.every_model[self.model_name(self.combos[combo])]

    def by_model(self) -> dict[str, Manifest]:
        """A manifest of each model that has combos, with these alone."""
        used = dict.fromkeys(map(self.model_name, self.combos.values()))
        return {name: self.model_copy(update={
            "only": self.every_model[name], "models": {}, "conv": self._of(self.conv, name),
            "attention": self._of(self.attention, name)}) for name in used}

    def _of(self, combos: dict[str, Combo], model: str) -> dict[str, Combo]:
        return {n: c for n, c in combos.items() if self.model_name(c) == model}

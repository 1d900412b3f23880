"""The manifest: one YAML file that names a data set, a model, the combos and the store.

Typed and validated without torch, numpy or zarr, so that ``validate`` and ``plan`` are instant.
All problems are reported at once (see `gate_cache.problems`), each with its line and place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_serializer,
)

from gate_cache.errors import ManifestError, did_you_mean
from gate_cache.problems import explain
from gate_cache.yaml_source import Place, dotted, read_yaml

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")
T_MAX = 999
CAPTION = "{caption}"
SINGLE_FILE = ".safetensors"
Problem = tuple[Place, str]
Fit = Literal["squash", "pad"]
"""How an image is brought into the model's square (see `gate_cache.geometry`)."""


class Spec(BaseModel):
    """Base of every section: unknown fields refused, values not coerced, instances frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class ToyWorldSpec(Spec):
    """Pictures drawn by our own code; nothing to download."""

    name: Literal["toyworld"]
    train: int = Field(96, ge=0)
    val: int = Field(32, ge=0)
    test: int = Field(64, ge=0)
    image_size: int = Field(64, ge=16, le=2048)
    style: Literal["dusk"] | None = None


class PFWillowSpec(Spec):
    """PF-WILLOW: 100 images, 10 sub-classes, 10 key points each."""

    name: Literal["pf-willow"]
    root: str = "PF-dataset-WILLOW"
    split_seed: int = 0
    val: float = Field(0.2, ge=0, lt=1)
    test: float = Field(0.3, ge=0, lt=1)


class FolderSpec(Spec):
    """Any tree of images."""

    name: Literal["folder"]
    root: str


DatasetSpec = Annotated[ToyWorldSpec | PFWillowSpec | FolderSpec, Field(discriminator="name")]


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
    dtype: Literal["float16", "float32"] = "float16"
    block: int | None = Field(None, ge=1, le=1024)
    batch: int = Field(8, ge=1)


class TrainSpec(Spec):
    """Stage 2: amalgamator, head and optimisation (paper, A.4 and C.1)."""

    head: Literal["nn", "conv"] = "nn"
    combos: list[str] | None = Field(None, min_length=1)
    attention: str | Literal[False] | None = None
    attention_maps: list[str] | None = Field(None, min_length=1)
    baseline: str | None = None
    assigners: int = Field(2, ge=1)
    gamma1: float = Field(0.1, ge=0)
    gamma2: float = Field(0.1, ge=0)
    pairs: int = Field(10_000, ge=1, description="training pairs seen")
    batch: int = Field(4, ge=1)
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    dropout: float = Field(0.1, ge=0, lt=1)
    hidden: int = Field(128, ge=1)
    conv_channels: int = Field(384, ge=1)
    resolution: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0, lt=2**63)
    validate_every: int = Field(500, ge=1, description="in training pairs")


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


class Loaded(BaseModel):
    """A manifest and the file it came from."""

    model_config = ConfigDict(frozen=True)
    path: Path
    manifest: Manifest

    @property
    def store_path(self) -> str:
        """The store's path below the stores root: given, or the manifest's own name."""
        return self.manifest.store.path or f"{self.path.stem}.zarr"


def load(path: Path, overrides: dict[str, Any] | None = None) -> Loaded:
    """Read and check a manifest.

    Parameters
    ----------
    path : Path of the YAML file
    overrides : dict, optional
        Fields of ``train`` given on the command line, by name.

    Raises
    ------
    ManifestError
        With every problem found, one line each.
    """
    parsed = read_yaml(path)
    data = parsed.data
    if not isinstance(data, dict):
        raise ManifestError([f"{path.name}: expected a mapping with dataset, model, conv …"])
    data = {k: v for k, v in data.items() if not str(k).startswith("x-")}
    if overrides and isinstance(data.get("train") or {}, dict):
        data["train"] = {**(data.get("train") or {}), **overrides}
    manifest, found = _validated(data)
    lines = parsed.problems + [_line(path, parsed.lines, place, text) for place, text in found]
    if lines or manifest is None:
        raise ManifestError(lines)
    return Loaded(path=path, manifest=manifest)


def _validated(data: dict[str, Any]) -> tuple[Manifest | None, list[Problem]]:
    try:
        manifest = Manifest.model_validate(data)
    except ValidationError as error:
        return None, explain(error, Manifest, data) + _check_names(data)
    return manifest, _check(manifest)


def _line(path: Path, lines: dict[Place, int], place: Place, text: str) -> str:
    known = place
    while known and known not in lines:
        known = known[:-1]
    at = f":{lines[known]}" if known in lines else ""
    where = f" {dotted(place)}:" if place else ""
    return f"{path.name}{at}:{where} {text}"


def _check_names(data: dict[str, Any]) -> list[Problem]:
    """Checks that need no typed manifest, so that they show beside typing problems."""
    found = list[Problem]()
    for section in ("conv", "attention"):
        names = data.get(section)
        for name in names if isinstance(names, dict) else ():
            if not NAME.fullmatch(str(name)):
                found.append(((section, name), "a combo's name is lower-case letters, digits,"
                              " '-', '_' and '.', starting with a letter or digit"))
            elif str(name) in ("samples", "latents") or str(name).startswith("latents-"):
                found.append(((section, name), "this name is taken by the store itself"))
    return found


def _check(manifest: Manifest) -> list[Problem]:
    """Checks across fields of a manifest whose fields are sound one by one."""
    found = _check_names({"conv": manifest.conv, "attention": manifest.attention})
    if not manifest.combos:
        found.append(((), "no combo to extract: give at least one below 'conv' or 'attention'"))
    found += [(("attention", n), "this name is also a combo of 'conv'")
              for n in manifest.attention if n in manifest.conv]
    for section, combos in (("conv", manifest.conv), ("attention", manifest.attention)):
        for name, combo in combos.items():
            found += _check_combo((section, name), combo)
            if combo.captioned and not manifest.captions:
                found.append(((section, name, "prompt"), f"has {CAPTION}, but no 'captions' file is"
                              " named at the top; 'gate-cache caption' writes one"))
        found += _check_twins(section, combos)
    data = manifest.dataset
    if manifest.model.config and not any(s.endswith(SINGLE_FILE)
                                             for s in manifest.model.sources):
        found.append((("model", "config"), f"is for a single {SINGLE_FILE} file, and 'source' names"
                      " none"))
    if isinstance(data, PFWillowSpec) and data.val + data.test >= 1:
        found.append((("dataset", "test"), "val and test together leave nothing to train on"))
    return found + _check_train(manifest)


def _check_combo(place: Place, combo: Combo) -> list[Problem]:
    found: list[Problem] = []
    if combo.denoise and combo.denoise.start - combo.t < combo.denoise.steps:
        found.append(((*place, "denoise"), f"needs 'from' at least 'steps' above t = {combo.t}"))
    if combo.guidance and not combo.denoise:
        found.append(((*place, "guidance"), "guides denoising steps, and there is no 'denoise'"))
    if combo.controlnet and combo.controlnet.low > combo.controlnet.high:
        found.append(((*place, "controlnet", "low"), "Canny's low threshold is above the high"))
    if len({lora.source for lora in combo.lora}) < len(combo.lora):
        found.append(((*place, "lora"), "a LoRA is named twice; give it once, with one scale"))
    prefix = "up" if place[0] == "conv" else "attn"
    for i, name in enumerate(combo.maps or ()):
        if not re.fullmatch(rf"{prefix}\d", name):
            found.append(((*place, "maps", i),
                          f"'{name}' is no {place[0]} map: {prefix}0, {prefix}1, …"))
    if combo.maps and len(set(combo.maps)) < len(combo.maps):
        found.append(((*place, "maps"), "a map is named twice"))
    return found


def _check_twins(section: str, combos: dict[str, Combo]) -> list[Problem]:
    first: dict[str, str] = {}
    found: list[Problem] = []
    for name, combo in combos.items():
        twin = first.setdefault(combo.model_dump_json(), name)
        if twin != name:
            found.append(((section, name), f"has the same settings as '{twin}' and would yield"
                          " the same maps"))
    return found


def _check_train(manifest: Manifest) -> list[Problem]:
    train, found = manifest.train, list[Problem]()
    wanted: dict[Place, str | None] = {
        ("train", "combos", i): name for i, name in enumerate(train.combos or ())}
    wanted["train", "baseline"] = train.baseline
    for place, name in wanted.items():
        if name is not None and name not in manifest.conv:
            found.append((place, f"'{name}' is no combo of 'conv'"
                          f"{did_you_mean(name, manifest.conv)}"))
    if train.combos and len(set(train.combos)) < len(train.combos):
        found.append((("train", "combos"), "a combo is named twice"))
    if train.combos and train.baseline and train.baseline not in train.combos:
        found.append((("train", "baseline"), f"'{train.baseline}' is not among train.combos"))
    if isinstance(train.attention, str) and train.attention not in manifest.attention:
        found.append((("train", "attention"), f"'{train.attention}' is no combo of 'attention'"
                      f"{did_you_mean(train.attention, manifest.attention)}"))
    return found

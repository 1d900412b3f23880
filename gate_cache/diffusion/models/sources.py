"""Where a model's files are, what they hold, and their digests. No torch: a plan uses this."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import ModelError
from gate_cache.core.headers import read_config
from gate_cache.core.preprocessing import Preprocessing
from gate_cache.core.size import Tiling, shapes_of
from gate_cache.core.weights import digest, shapes_in, weight_files
from gate_cache.diffusion.files import single_file
from gate_cache.diffusion.models import encoders, layouts, timm_features, transformers, unets
from gate_cache.diffusion.models.layouts import SCHEDULER, SDXL, TRANSFORMER, UNET, VAE, Kind
from gate_cache.diffusion.models.published import published
from gate_cache.text.t5 import T5Tokens
from gate_cache.text.tokens import ClipTokens, NoTokens, Tokens, read_tokens

if TYPE_CHECKING:
    from gate_cache.core.features import Family
    from gate_cache.manifest.specs import ModelSpec


@dataclass(frozen=True)
class ModelFiles:
    """A diffusion model: a folder in diffusers layout, or a single file.

    Attributes
    ----------
    source : as the manifest names it
    path : the folder; of a single file, that with its tokenizers and configurations
    variant : such as ``fp16``: which weight files of the folder
    published : a well-known model whose configurations stand in for those the folder lacks
    file : with all weights, in the original layout
    unet : of a folder: a file with other weights for its UNet
    sure : whether it is what the source names, not a stand-in for plans
    notes : other sources that were passed over, and why
    """

    source: str
    path: Path
    variant: str | None = None
    published: str = ""
    file: Path | None = None
    unet: Path | None = None
    sure: bool = True
    notes: tuple[str, ...] = field(default=(), compare=False)

    def folder(self, component: str) -> Path:
        """Where a component is."""
        bare = self.file is None and layouts.is_bare(self.path)
        return self.path if bare else self.path / component

    def alone(self, component: str) -> Path | None:
        """The single file with a component's weights, where they are in none of its folder."""
        return self.file or (self.unet if component == UNET else None)

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration; `ModelError` where it is missing or not JSON."""
        folder = self.folder(component)
        if self.published and not folder.is_dir():
            return dict(published(self.published)[component])
        name = "scheduler_config.json" if component == SCHEDULER else "config.json"
        return read_config(folder / name, layouts.guessed_kind(self.path).expected)

    @property
    def title(self) -> str:
        """What the model is, for people."""
        return str(published(self.published)["title"]) if self.absent else self.kind.name

    @property
    def absent(self) -> bool:
        """Whether it is known by published configurations alone."""
        return bool(self.published) and self.file is None

    @cached_property
    def kind(self) -> Kind:
        """Which kind of model this is."""
        known = published(self.published) if self.published else {}
        transformer = TRANSFORMER in known or (self.path / TRANSFORMER).is_dir()
        return layouts.kind_of(self.source, self.config(TRANSFORMER if transformer else UNET))

    @cached_property
    def family(self) -> Family:
        """The layout of the model's maps."""
        vae = self.config(VAE) if self.kind.vae else None
        other: Any = timm_features if self.kind is layouts.TIMM else encoders
        own = {TRANSFORMER: transformers, UNET: unets}.get(self.kind.denoiser, other)
        try:
            return (self.kind.family or own.family)(self.config(self.kind.denoiser), vae)
        except ModelError as error:
            raise ModelError(f"{self.source}: {error}") from None

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer; of two that split alike, the first; of a transformer, of all its text."""
        first, (encoder, length) = next(iter(self.clip_tokens), NoTokens()), self.kind.t5
        if not encoder:
            return first
        return T5Tokens(self.path / self.kind.tokenizers[-1], length,
                        first if self.kind.tokens > length else None, self.kind.template)

    @cached_property
    def clip_tokens(self) -> list[ClipTokens]:
        """One for each of CLIP's; `ModelError` where they split prompts differently."""
        count = len(self.kind.tokenizers) - bool(self.kind.t5[0])  # T5's is the last
        tokenizers = [read_tokens(self.path / name) for name in self.kind.tokenizers[:count]]
        if any(t.splits != tokenizers[0].splits for t in tokenizers):
            raise ModelError(f"{self.path}: its tokenizers split prompts differently; both should"
                             " have CLIP's vocabulary and merges, and the same added tokens")
        return tokenizers

    @property
    def tokenizers(self) -> list[ClipTokens | T5Tokens]:
        """One for each text encoder."""
        return [*self.clip_tokens, *([self.tokens] if isinstance(self.tokens, T5Tokens) else [])]

    def preprocessing(self, model: ModelSpec) -> Preprocessing:
        """How images become its input, as a manifest has it; by default of the model's own size.

        Raises
        ------
        ModelError
            It does not take images, or tiles, of such a size.
        """
        family, tiles = self.family, model.tiles
        size = model.size or family.default_size
        if model.fit == "keep":
            if tiles or not isinstance(size, int):
                raise ModelError("model.fit: keep: each image has an input of its own shape, so"
                                 " model.size is one number, and there are no tiles")
            side = family.check_size(size, "model.size").height
            return Preprocessing.of(model, side, shapes=shapes_of(
                side, family.size_multiple, family.largest))
        if tiles is None:
            return Preprocessing.of(model, family.check_size(size, "model.size"))
        whole = family.check_multiple(size, "model.size")
        tile = family.check_size(tiles.size, "model.tiles.size")
        family.check_multiple(tiles.overlap, "model.tiles.overlap")
        if tile.height > whole.height or tile.width > whole.width or tile == whole:
            raise ModelError(f"model.tiles: the input has {whole} pixels, and a tile {tile}; give a"
                             " larger model.size, or leave tiles out")
        if tiles.overlap >= min(tile):
            raise ModelError(f"model.tiles.overlap: {tiles.overlap} pixels of a tile of {tile}:"
                             " it must be less than a side")
        return Preprocessing.of(model, whole, Tiling(whole, tile, tiles.overlap))

    def schedule(self) -> dict[str, Any]:
        """What of the scheduler's configuration, or of a single file's markers, decides ᾱ.

        Nothing where no noise is added.

        Raises
        ------
        ModelError
            They disagree, or it is not a diffusion model in discrete steps.
        """
        if not self.kind.noised:
            return {}
        if self.kind.flow:
            return layouts.flow_schedule_of(self.source, self.config(SCHEDULER))
        schedule = layouts.schedule_of(self.source, self.config(SCHEDULER))
        if not self.file:
            return schedule
        own = (self.folder(SCHEDULER) / "scheduler_config.json").is_file()
        marked = single_file.marked_schedule(self.file, schedule, own)
        return layouts.checked_schedule(self.source, marked)

    def weight_files(self, component: str) -> list[Path]:
        """The files with a component's weights; or the single file, which holds all."""
        file = self.alone(component)
        return [file] if file else weight_files(self.folder(component), self.variant)

    def shapes(self, component: str) -> dict[str, tuple[int, ...]]:
        """Tensor name to shape in a component's files."""
        return shapes_in(self.weight_files(component))

    def digest(self, component: str) -> str:
        """sha256 over a component's configuration and the files with its weights."""
        return digest(self.config(component), self.weight_files(component))

    @cached_property
    def weights(self) -> dict[str, str]:
        """Digests of what decides a combo's values."""
        modules = {c.replace("text_encoder", "text"): self.digest(c) for c in self.kind.modules}
        return modules | {name: tokens.digest for name, tokens in
                          zip(self.kind.tokenizers, self.tokenizers, strict=True)}

    def latents_dtype(self, dtype: str) -> str:
        """What latents are computed in: XL's VAE, and a transformer's, overflow in float16."""
        if not self.kind.vae:
            return "float32"
        large = self.kind is SDXL or self.kind.t5[0]
        upcast = large and dtype == "float16" and self.config(VAE).get("force_upcast", True)
        return "float32" if upcast else dtype

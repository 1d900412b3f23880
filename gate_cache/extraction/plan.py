"""``plan``: what an extraction will cost, before anything runs. No torch, no zarr."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import ModelError
from gate_cache.core.features import TOKENS_PER_PIECE
from gate_cache.datasets.registry import open_dataset
from gate_cache.diffusion.models.sources import assumed, locate
from gate_cache.diffusion.passes.recipes import (
    check_fit,
    combo_maps,
    input_problems,
)
from gate_cache.diffusion.passes.schedule import Pieces, Wanted, schedule
from gate_cache.diffusion.techniques.denoise import Walk
from gate_cache.diffusion.techniques.registry import read_as, settings
from gate_cache.extraction.storing import encoding_asked, store_block
from gate_cache.manifest.notes import improbable
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import (
    LATENT_MAP,
    group_footprint,
    samples_footprint,
)

if TYPE_CHECKING:
    from gate_cache.manifest.specs import Manifest
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True)
class Line:
    """One group of the store to be: a combo, the latents or the table of samples.

    Attributes
    ----------
    about : how a combo is read where that is not one pass of the noised image
    """

    name: str
    kind: str
    shapes: dict[str, tuple[int, ...]]
    unet_passes: int
    controlnet_passes: int
    bytes: int
    files: int
    at_most: bool = False
    about: str = ""


@dataclass(frozen=True)
class Plan:
    """What an extraction does.

    Attributes
    ----------
    images : number of samples
    block : rows of a block
    encoding : how maps are stored
    notes : what is missing or assumed, a line each
    pieces : what is computed for each image, and how many texts; combos share what they can
    """

    store: str
    model: str
    size: int
    images: int
    block: int
    encoding: str
    lines: list[Line]
    notes: list[str]
    pieces: Pieces

    @property
    def unet_passes(self) -> int:
        """Over all images and combos."""
        return self.images * self.pieces.unet_passes

    @property
    def bytes(self) -> int:
        """Bytes of the finished store, at most where it is compressed."""
        return sum(line.bytes for line in self.lines)

    @property
    def at_most(self) -> bool:
        """Whether a part of it is compressed."""
        return any(line.at_most for line in self.lines)

    @property
    def files(self) -> int:
        """Files of the finished store."""
        return sum(line.files for line in self.lines) + 1


def plan(work: Workspace) -> Plan:
    """Count images, passes, bytes and files.

    Raises
    ------
    UserError
        Data set or model folder missing, or parts or a manifest that do not fit the model.
    """
    manifest, roots = work.manifest, work.roots
    ids = [s.id for s in open_dataset(manifest.dataset, roots).samples()]
    notes, wrong = input_problems(manifest, roots)
    if wrong:
        raise ModelError("\n".join(wrong))
    files = locate(manifest.model, roots)
    if files is None:
        notes.append(f"{manifest.model.source} is not on this machine yet: counted as"
                     f" {assumed(manifest.model).title}; extract will fetch it")
    notes += [*(files.notes if files else ()), *improbable(manifest)]
    model = files or assumed(manifest.model)
    check_fit(manifest, model, roots)
    layout, size = model.family, model.size(manifest.model.size)
    count = files.tokens.count if files else about_tokens
    maps = combo_maps(manifest, model, size, count)
    shapes = {name: m.shapes for name, m in maps.items()}
    lanes = schedule([(Wanted.named(name, manifest.combos[name], m.specs), [0])
                      for name, m in maps.items()], lambda prompt, _row: count(prompt))
    block = store_block(manifest, shapes.values())
    lines = [_table(ids), _latents(layout.latent_shape(size), len(ids), block)]
    lines += [_combo(manifest, n, s, len(ids), block) for n, s in shapes.items()]
    store = work.store_path
    if isinstance(store, Path) and store.exists():
        notes.append("a store is there already: 'gate-cache status' says what is left to do")
    source = files.source if files else manifest.model.source
    return Plan(str(store), source, size, len(ids), block, str(encoding_asked(manifest)), lines,
                notes, Pieces.of(lanes))


def about_tokens(text: str) -> int:
    """Tokens of a prompt without its tokenizer: words and signs, in whole pieces of 77."""
    words = len(re.findall(r"\w+|[^\w\s]", text))
    return TOKENS_PER_PIECE * max(math.ceil(words / (TOKENS_PER_PIECE - 2)), 1)


def _table(ids: list[str]) -> Line:
    size = samples_footprint(ids)
    return Line("samples", "table", {}, 0, 0, size.bytes, size.files)


def _latents(shape: tuple[int, ...], images: int, block: int) -> Line:
    shapes: dict[str, tuple[int, ...]] = {LATENT_MAP: shape}
    size = group_footprint(shapes, Encoding("float32"), images, block)
    return Line("latents", "latents", shapes, 0, 0, size.bytes, size.files, size.at_most)


def _combo(manifest: Manifest, name: str, shapes: dict[str, tuple[int, ...]], images: int,
           block: int) -> Line:
    combo = manifest.combos[name]
    passes = images * Walk.of(combo).passes * combo.ensemble
    size = group_footprint(shapes, encoding_asked(manifest), images, block)
    return Line(name, manifest.kind(name), shapes, passes, passes if combo.controlnet else 0,
                size.bytes, size.files, size.at_most, read_as(settings(combo)))

"""``plan``: what an extraction will cost, before anything runs. No torch, no zarr."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.core.errors import DataError, ModelError
from gate_cache.core.size import nearest_shape
from gate_cache.datasets.common.base import ids_of
from gate_cache.datasets.registry import PUBLISHED, open_dataset
from gate_cache.diffusion.files.locate import assumed, locate
from gate_cache.diffusion.passes.recipes import (
    check_fit,
    combo_maps,
    input_problems,
)
from gate_cache.diffusion.passes.schedule import Pieces, Wanted, schedule
from gate_cache.diffusion.techniques.denoise import Walk
from gate_cache.diffusion.techniques.registry import read_as, settings
from gate_cache.extraction.footprint import (
    MANY_FILES,
    Proposal,
    StoreShape,
    encoding_asked,
    keeps_latents,
    proposals,
    whole,
)
from gate_cache.manifest.notes import improbable
from gate_cache.store.format.layout import LATENT_MAP, Footprint, Shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gate_cache.core.places import Place
    from gate_cache.core.roots import Roots
    from gate_cache.core.size import Sides, Size, Tiling
    from gate_cache.manifest.specs import Manifest
    from gate_cache.workspace.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Line(Footprint):
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
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Plan(Footprint):
    """What an extraction does; the footprint is that of the finished store.

    Attributes
    ----------
    images : number of samples
    block : rows of a block
    encoding : how maps are stored
    notes : what is missing or assumed, a line each
    pieces : what is computed for each image, and how many texts; combos share what they can
    room : bytes that the store may take
    proposals : what takes less, where that is too little
    seconds : of each image, where they were measured or stated
    size : of the input in pixels, of several models the largest; one number of a square
    sizes : of each of several models, by name
    """

    store: str
    model: str
    size: Sides
    images: int
    block: int
    encoding: str
    lines: list[Line]
    notes: list[str]
    pieces: Pieces
    room: int
    proposals: list[Proposal]
    seconds: float | None = None
    sizes: dict[str, Sides] = field(default_factory=dict)

    @property
    def hours(self) -> float | None:
        """Of the whole extraction."""
        return None if self.seconds is None else self.images * self.seconds / 3600

    @property
    def unet_passes(self) -> int:
        """Over all images and combos."""
        return self.images * self.pieces.unet_passes


def plan(work: Workspace, *, room: int | None = None, rate: float | None = None,
         seconds: float | None = None) -> Plan:
    """Count images, passes, bytes, files and folders; and hours where it is known how fast.

    Parameters
    ----------
    work : the manifest on this machine
    room : bytes that the store may take; by default what is free where it will be
    rate : UNet passes a second
    seconds : of each image, as `seconds_an_image` finds them

    Raises
    ------
    UserError
        A data set of one's own or a model's folder is missing, or parts or the manifest do not fit
        the model.
    """
    manifest, store = work.manifest, work.store_path
    ids, absent = _ids(manifest, work.roots)
    notes, wrong = input_problems(manifest, work.roots)
    if wrong:
        raise ModelError("\n".join(wrong))
    keeps = any(m.fit == "keep" for m in manifest.every_model.values())
    sizes = _sizes(manifest, work.roots, ids, bool(absent)) if keeps else []
    models = {name: _planned(part, work.roots, sizes) for name, part in manifest.by_model().items()}
    notes += [*absent, *(n for m in models.values() for n in m.notes), *improbable(manifest)]
    encoding = encoding_asked(manifest)
    shape = StoreShape(
        ids, {_latents(name): m.latent for name, m in models.items() if m.latent},
        {name: shapes for m in models.values() for name, shapes in m.shapes.items()}, encoding,
        manifest.store.block, {name or _latents(model): parts for model, m in models.items()
                               for name, parts in m.parts.items()})
    passes = {name: len(m.tiles or [0]) for m in models.values() for name in m.shapes}
    lines, pieces = _lines(manifest, shape, passes), Pieces.total(m.pieces for m in models.values())
    if isinstance(store, Path) and store.exists():
        notes.append("a store is there already: 'gate-cache status' says what is left to do")
    free = _free(store) if room is None else room
    total = whole(lines)
    large = total.bytes > free or total.files > MANY_FILES
    return Plan(
        **asdict(total), store=str(store), model=" + ".join(m.source for m in models.values()),
        size=max((m.size for m in models.values()), key=lambda s: s.area).sides, images=len(ids),
        block=shape.rows, encoding=str(encoding), lines=lines, notes=notes, pieces=pieces,
        room=free, proposals=proposals(shape, free) if large else [],
        seconds=pieces.unet_passes / rate if rate else seconds,
        sizes={name: m.size.sides for name, m in models.items()} if len(models) > 1 else {})


def _ids(manifest: Manifest, roots: Roots) -> tuple[Sequence[str], list[str]]:
    """Ids of all images; of a published data set that is not here, others, with a note of it."""
    dataset = open_dataset(manifest.dataset, roots)
    try:
        return ids_of(dataset), []
    except DataError as error:
        count = PUBLISHED.get(dataset.name)
        if count is None or Path(getattr(dataset, "root", "")).exists():
            raise
        return [f"{i:032}" for i in range(count)], [
            f"the data set is not here yet: counted as about {count:,} images, as it is published;"
            f" {error}"]


def _latents(model: str) -> str:
    return f"latents {model}".strip()


def _sizes(manifest: Manifest, roots: Roots, ids: Sequence[str],
           absent: bool) -> list[tuple[int, int]]:
    """(height, width) of all images; of a data set that is not here, squares."""
    dataset = open_dataset(manifest.dataset, roots)
    return [(1, 1)] * len(ids) if absent else [dataset.size(i) for i in ids]


@dataclass(frozen=True)
class _Planned:
    """What one model's combos need and leave.

    Attributes
    ----------
    tiles : of an image, where it is cut into some
    latent : shape of what is kept for later combos, if anything is
    shapes : of every map, by combo
    parts : of inputs of several shapes, how many images have which maps, by combo; latents have no
        name
    """

    source: str
    size: Size
    tiles: Tiling | None
    latent: tuple[int, ...] | None
    shapes: dict[str, dict[str, tuple[int, ...]]]
    pieces: Pieces
    notes: list[str]
    parts: dict[str, list[tuple[int, Shapes]]]


def _planned(manifest: Manifest, roots: Roots, sizes: Sequence[tuple[int, int]]) -> _Planned:
    """Of a manifest with one model.

    Parameters
    ----------
    sizes : (height, width) of all images, where they have inputs of several shapes
    """
    spec, notes = manifest.model, list[str]()
    files = locate(spec, roots)
    if files is None:
        notes.append(f"{spec.source} is not on this machine yet: counted as"
                     f" {assumed(spec).title}; extract will fetch it")
    model = files or assumed(spec)
    check_fit(manifest, model, roots)
    how, count = model.preprocessing(spec), files.tokens.count if files else \
        model.kind.about_tokens
    if how.tiles:
        notes.append(f"model.tiles: each image is {len(how.tiles)} tiles of {how.tiles.tile}"
                     " px, each a pass of its own")
    maps = combo_maps(manifest, model, count)
    parts = dict[str, list[tuple[int, Shapes]]]()
    if how.shapes:
        counts = Counter(nearest_shape(how.shapes, *size) for size in sizes)
        notes.append("model.fit: keep: images by their input: " + ", ".join(
            f"{counts[shape]:,} of {shape} px" for shape in how.shapes if counts[shape]))
        parts = {name: [(n, m.at(shape)) for shape, n in counts.items()]
                 for name, m in maps.items()}
        parts[""] = [(n, {LATENT_MAP: model.family.latent_shape(shape)})
                     for shape, n in counts.items()]
    lanes = schedule([(Wanted.named(name, m.combo, m.specs), [0])
                      for name, m in maps.items()], lambda prompt, _row: count(prompt),
                     how.tiles)
    pieces = Pieces.of(lanes)
    return _Planned(
        model.source if files else spec.source, how.size, how.tiles,
        model.family.latent_shape(how.size) if keeps_latents(manifest, model) else None,
        {name: m.shapes for name, m in maps.items()},
        pieces if model.family.text else replace(pieces, texts=0),
        [*(files.notes if files else ()), *notes], parts)


def _free(store: Place) -> int:
    """Bytes free on a disk; buckets have no end."""
    if not isinstance(store, Path):
        return sys.maxsize
    return shutil.disk_usage(next(p for p in (store, *store.absolute().parents) if p.exists())).free


def _lines(manifest: Manifest, shape: StoreShape, passes: Mapping[str, int]) -> list[Line]:
    """The table of samples, the latents, and every combo, of which an image has so many tiles."""
    latents = {name: {LATENT_MAP: latent} for name, latent in shape.latents.items()}
    shapes: dict[str, Shapes] = {"samples": {}, **latents, **shape.combos}
    return [_line(manifest, name, dict(shapes[name]), size, len(shape.ids) * passes.get(name, 0))
            for name, size in shape.groups().items()]


def _line(manifest: Manifest, name: str, shapes: dict[str, tuple[int, ...]], size: Footprint,
          inputs: int) -> Line:
    combo = manifest.combos.get(name)
    if combo is None:
        return Line(**asdict(size), name=name, kind="table" if name == "samples" else "latents",
                    shapes=shapes, unet_passes=0, controlnet_passes=0)
    passes = inputs * Walk.of(combo).passes * combo.ensemble
    return Line(**asdict(size), name=name, kind=manifest.kind(name), shapes=shapes,
                unet_passes=passes, controlnet_passes=passes if combo.controlnet else 0,
                about=read_as(settings(combo)))

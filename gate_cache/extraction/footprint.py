"""How a manifest wants its maps to be stored, what that takes of a disk, and what would take less.

No torch, no zarr.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from gate_cache.core.codecs import Codec
from gate_cache.store.format.encodings import Encoding
from gate_cache.store.format.layout import (
    LATENT_MAP,
    Footprint,
    Shapes,
    block_rows,
    group_footprint,
    listing_bytes,
    samples_footprint,
)

if TYPE_CHECKING:
    from gate_cache.diffusion.models.sources import ModelFiles
    from gate_cache.manifest.specs import Manifest

AUTO_BATCH = 16
"""More images a pass are hardly faster, and most cards hold fewer."""
GRIDS = 16, 8, 4, 1
DENSE = 8
"""Cells a side at which a single map is proposed."""
MANY_FILES = 1_000_000
BLOCK_MOST = 1024


def store_block(manifest: Manifest, shapes: Iterable[Shapes]) -> int:
    """Rows of a block in a new store: as the manifest says, or by the largest map."""
    if manifest.store.block:
        return manifest.store.block
    every = [s for maps in shapes for s in maps.values()]
    return block_rows(every, encoding_asked(manifest))


def store_batch(manifest: Manifest) -> int:
    """Images a pass in a new store; where the manifest leaves it open, to begin with."""
    return AUTO_BATCH if manifest.store.batch == "auto" else manifest.store.batch


def keeps_latents(manifest: Manifest, files: ModelFiles) -> bool:
    """Whether a model's latents are kept; a vision encoder's are the images themselves."""
    return manifest.store.latents and files.kind.noised


def encoding_asked(manifest: Manifest) -> Encoding:
    """How a manifest wants the maps of new groups to be stored."""
    options = manifest.store
    codec = Codec.parse(options.codec) if options.codec else None
    return Encoding(options.dtype, options.keep_bits, codec)


def need_codec(manifest: Manifest) -> None:
    """Raise `UserError` where the codec that a manifest asks for is not installed here."""
    if codec := encoding_asked(manifest).codec:
        from gate_cache.store.format.shards import numcodec

        numcodec(codec)


@dataclass(frozen=True)
class StoreShape:
    """A store to be: all that its size depends on.

    Attributes
    ----------
    latents : shapes of those that are kept, by group
    combos : name to the shapes of its maps
    block : rows of a block; None for what suits the maps
    parts : of groups whose images have inputs of several shapes, how many have which maps
    """

    ids: Sequence[str]
    latents: Mapping[str, tuple[int, ...]]
    combos: Mapping[str, Shapes]
    encoding: Encoding
    block: int | None
    parts: Mapping[str, Sequence[tuple[int, Shapes]]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Of a block."""
        every = [s for shapes in self.combos.values() for s in shapes.values()]
        return self.block or block_rows(every, self.encoding)

    def groups(self) -> dict[str, Footprint]:
        """Of the table of samples, the latents, and each combo."""
        count, block = len(self.ids), self.rows
        groups: dict[str, tuple[Shapes, Encoding]] = {
            name: ({LATENT_MAP: latent}, Encoding("float32"))
            for name, latent in self.latents.items()}
        groups |= {name: (shapes, self.encoding) for name, shapes in self.combos.items()}
        samples = samples_footprint(self.ids)
        parts = {name: self.parts.get(name, [(count, maps)]) for name, (maps, _) in groups.items()}
        listed = sum(listing_bytes(*group) * len(parts[name]) for name, group in groups.items())
        return {"samples": replace(samples, bytes=samples.bytes + listed)} | {
            name: _sum([group_footprint(maps, encoding, rows, block) for rows, maps in parts[name]])
            for name, (_, encoding) in groups.items()}

    def with_maps(self, combos: Mapping[str, Shapes]) -> StoreShape:
        """With other maps; blocks suit them."""
        return replace(self, combos=combos, block=None, parts={})


def whole(groups: Collection[Footprint]) -> Footprint:
    """Of a store with these groups: its own folder, and the file that lists them, are beside."""
    return _sum([*groups, Footprint(0, 1, 1)])


def _sum(groups: Collection[Footprint]) -> Footprint:
    return Footprint(sum(g.bytes for g in groups), sum(g.files for g in groups),
                     sum(g.folders for g in groups), any(g.at_most for g in groups))


@dataclass(frozen=True)
class Proposal:
    """A change of a manifest.

    Attributes
    ----------
    change : what to write in it
    bytes, files : of the store that would be
    fits : whether the disk has room for it
    """

    change: str
    bytes: int
    files: int
    fits: bool


def proposals(shape: StoreShape, room: int) -> list[Proposal]:
    """What takes less than a store that is larger than `room`, or has very many files."""
    smaller = []
    for change, other in _changes(shape):
        size = whole(other.groups().values())
        smaller.append(Proposal(change, size.bytes, size.files, size.bytes <= room))
    return smaller


def _changes(shape: StoreShape) -> Iterator[tuple[str, StoreShape]]:
    if shape.encoding.dtype != "int8":
        yield "store: {dtype: int8}", replace(shape, encoding=Encoding("int8"))
    if whole(shape.groups().values()).files > MANY_FILES and shape.rows < BLOCK_MOST:
        block = min(8 * shape.rows, BLOCK_MOST)
        yield f"store: {{block: {block}}}, more memory", replace(shape, block=block)
    largest = {name: max(shapes, key=lambda n, s=shapes: prod(s[n]))  # type: ignore[misc]
               for name, shapes in shape.combos.items()}
    if all(len(shapes) > 1 for shapes in shape.combos.values()):
        left = {c: {n: s for n, s in shapes.items() if n != largest[c]}
                for c, shapes in shape.combos.items()}
        yield f"maps without {', '.join(sorted(set(largest.values())))}", shape.with_maps(left)
    for grid in GRIDS:
        pooled = {c: {n: _pooled(s, grid) for n, s in shapes.items()}
                  for c, shapes in shape.combos.items()}
        if pooled == shape.combos:
            continue
        change = f"maps: {{<each>: {{grid: {grid}}}}}"
        yield change, shape.with_maps(pooled)
        if grid == 1 and shape.latents:
            yield f"{change}, store: {{latents: false}}", replace(
                shape.with_maps(pooled), latents={})
        for name in _common(pooled) if grid == DENSE else ():
            one = {c: {name: shapes[name]} for c, shapes in pooled.items() if name in shapes}
            yield f"{name} alone, maps: {{{name}: {{grid: {grid}}}}}", shape.with_maps(one)


def _common(combos: Mapping[str, Shapes]) -> list[str]:
    """The maps that most combos have."""
    counts = Counter(name for shapes in combos.values() for name in shapes)
    return [name for name, count in counts.items() if count == max(counts.values())]


def _pooled(shape: tuple[int, ...], grid: int) -> tuple[int, ...]:
    return shape if min(shape[1:]) < grid else (shape[0], grid, grid)

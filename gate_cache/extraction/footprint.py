"""What a store to be takes of a disk, and what would take less. No torch, no zarr."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

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

GRIDS = 16, 8, 4, 1
DENSE = 8
"""Cells a side at which a single map is proposed."""
MANY_FILES = 1_000_000
BLOCK_MOST = 1024


@dataclass(frozen=True)
class StoreShape:
    """A store to be: all that its size depends on.

    Attributes
    ----------
    latents : shapes of those that are kept, by group
    combos : name to the shapes of its maps
    block : rows of a block; None for what suits the maps
    """

    ids: Sequence[str]
    latents: Mapping[str, tuple[int, ...]]
    combos: Mapping[str, Shapes]
    encoding: Encoding
    block: int | None

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
        listed = sum(listing_bytes(*group) for group in groups.values())
        return {"samples": replace(samples, bytes=samples.bytes + listed)} | {
            name: group_footprint(*group, count, block) for name, group in groups.items()}

    def with_maps(self, combos: Mapping[str, Shapes]) -> StoreShape:
        """With other maps; blocks suit them."""
        return replace(self, combos=combos, block=None)


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
        groups = other.groups().values()
        size, files = sum(g.bytes for g in groups), sum(g.files for g in groups) + 1
        smaller.append(Proposal(change, size, files, size <= room))
    return smaller


def _changes(shape: StoreShape) -> Iterator[tuple[str, StoreShape]]:
    if shape.encoding.dtype != "int8":
        yield "store: {dtype: int8}", replace(shape, encoding=Encoding("int8"))
    files = sum(g.files for g in shape.groups().values())
    if files > MANY_FILES and shape.rows < BLOCK_MOST:
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
    return shape[0], min(shape[1], grid), min(shape[2], grid)

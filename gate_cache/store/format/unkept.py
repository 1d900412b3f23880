"""Latents that a manifest does not keep: made anew for every block, and nowhere written."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from gate_cache.store.format.encodings import Encoding, Part
from gate_cache.store.format.groups import GroupWriter, Maps, Stored
from gate_cache.store.format.layout import Blocks

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.store.format.done import Provenance
    from gate_cache.store.places.folders import Folder


class UnkeptGroup(GroupWriter):
    """Stands for a group in the store, of which no row is ever there and none is left to do.

    Parameters
    ----------
    path : the store's folder, or a URL; for messages
    folder : the store's files
    block : rows of a block
    shapes : map name to (C, h, w), of float32
    """

    encoding = Encoding("float32")

    def __init__(self, path: Place, folder: Folder, block: int,
                 shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(path, folder, "", 0, block, lambda: None)
        self._shapes = shapes

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self._shapes)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """As they would be stored."""
        return {name: self.encoding.parts(shape)[0] for name, shape in self._shapes.items()}

    def shape(self, name: str) -> tuple[int, ...]:
        """(C, h, w) of one image's map."""
        return self._shapes[name]

    def todo(self, gone: Collection[int] = ()) -> Blocks:
        """None: they are made where a combo needs them."""
        return Blocks(())

    def kept(self, rows: range) -> int:
        """None."""
        return 0

    def write_stored(self, rows: range, arrays: Maps, absent: Collection[int] = (),
                     made: Provenance | None = None) -> None:
        """Nothing is written."""

    def note_made(self, made: Provenance, rows: range | None = None) -> None:
        """Nothing is noted."""

    def read_kept(self, rows: range) -> Stored:
        """No rows, of all arrays."""
        return super().read_kept(rows[:0])

    def note_absent(self, blocks: Iterable[range], gone: Collection[int]) -> None:
        """Nothing is noted."""

"""An open store, and one group of it: what the views of maps read through."""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.core.errors import RowNotDone, StoreError
from gate_cache.store.format import done
from gate_cache.store.format.attrs import MEND, META, ArrayMeta, is_whole, read_array, read_attrs
from gate_cache.store.format.chunks import Check, Chunks, OpenFiles
from gate_cache.store.format.done import Provenance
from gate_cache.store.format.encodings import Encoding, Part, encoding_of
from gate_cache.store.format.layout import ABSENT
from gate_cache.store.format.samples import Samples, read_samples
from gate_cache.store.format.sums import RowSums

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.store.places.folders import Folder


class OpenStore:
    """A store's files, its own attributes and its table of samples.

    Parameters
    ----------
    path : the store's folder, or a URL; for messages
    folder : its files
    attrs : its own attributes
    check : when rows that are read are compared with their checksums
    """

    def __init__(self, path: Place, folder: Folder, attrs: dict[str, Any],
                 check: Check = "first") -> None:
        self.path = path
        self.folder = folder
        self.attrs = attrs
        """The store's own settings: format, dataset, block, batch, versions."""
        self.check: Check = check
        self.files = OpenFiles(folder)

    @property
    def block(self) -> int:
        """Rows of a block."""
        return int(self.attrs["block"])

    @cached_property
    def samples(self) -> Samples:
        """The table of samples. Opened once: open the store again to see later ones."""
        try:
            return read_samples(self.folder, self.attrs["format"])
        except StoreError as error:
            raise StoreError(f"{self.path}: {error}") from None

    def attrs_of(self, name: str) -> dict[str, Any]:
        """What is written on a group.

        Raises
        ------
        StoreError
            It is damaged.
        """
        attrs = read_attrs(self.folder, name)
        if attrs and not is_whole(attrs, self.attrs["format"]):
            raise StoreError(self._damage(name))
        return attrs

    def _damage(self, name: str) -> str:
        return f"{self.path}: {name}/{META} is damaged; {MEND}"


class OpenGroup:
    """One group of maps: how they are stored, and which rows are extracted."""

    def __init__(self, store: OpenStore, name: str, attrs: dict[str, Any]) -> None:
        self.store = store
        self.name = name
        self.attrs = attrs
        """Everything the store says about the combo: recipe, fingerprint, tokens, versions."""
        self._valid: npt.NDArray[np.bool_] | None = None

    @property
    def label(self) -> str:
        """The combo's name in the manifest that extracted it."""
        return str(self.attrs["combo"])

    @property
    def fingerprint(self) -> str:
        """sha256 of the recipe."""
        return str(self.attrs["fingerprint"])

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps, coarse to fine."""
        return tuple(self.attrs["maps"])

    @cached_property
    def encoding(self) -> Encoding:
        """How the maps are stored.

        Raises
        ------
        StoreError
            In a way that is not known here.
        """
        return encoding_of(f"{self.store.path}: {self.name}", self.attrs,
                           str(self.meta(self.maps[0]).dtype))

    def meta(self, array: str, part: Part | None = None) -> ArrayMeta:
        """Of a stored array; it must fit the part that it is, where that is given.

        Raises
        ------
        StoreError
            It is missing or damaged.
        """
        meta = read_array(self.store.folder, f"{self.name}/{array}")
        if meta is None or meta.packing == "other" or meta.block != self.store.block or (
                (meta.shape[1:], str(meta.dtype)) != (part.shape, part.dtype) if part
                else len(meta.shape) != 4):
            raise StoreError(f"{self.store.path}: {self.name}/{array}: its {META} is missing or"
                             f" damaged; {MEND}")
        return meta

    @cached_property
    def _sums(self) -> RowSums:
        arrays = tuple(name + part.suffix for name in self.maps
                       for part in self.encoding.parts((1, 1, 1)))
        return RowSums(self.store.folder, self.name, self.fingerprint, arrays, self.store.block)

    def chunks(self, array: str, meta: ArrayMeta) -> Chunks:
        """The rows of a stored array."""
        known, key = self._sums, f"{self.name}/{array}"
        if self.store.check == "never":
            return Chunks(self.store.files, key, meta)
        return Chunks(self.store.files, key, meta, lambda block: known.of(array, block),
                      known.forget)

    def done(self) -> npt.NDArray[np.bool_]:
        """(N,) bool: which rows are extracted. Read afresh at each call."""
        self.attrs = self.store.attrs_of(self.name) or self.attrs
        rows, block = len(self.store.samples), self.store.block
        marks = done.BlockMarks(self.store.folder, self.name).read_all(-(-rows // block))
        mask = done.valid(marks, block, rows)
        mask[[row for row in self.attrs.get(ABSENT, ()) if row < rows]] = False
        return mask

    def made(self) -> list[tuple[Provenance | None, int]]:
        """What finished blocks were computed with, and how many; None where it is not noted."""
        numbers = Counter(done.BlockMarks(self.store.folder, self.name).numbers().values())
        known = done.provenances(self.attrs)
        return [(known.get(number), count) for number, count in sorted(numbers.items())]

    def check(self, rows: npt.NDArray[Any]) -> None:
        """Raise `RowNotDone` unless all these rows are extracted."""
        if self._valid is None or not self._valid[rows].all():
            self._valid = self.done()
        missing = rows[~self._valid[rows]]
        if len(missing):
            row = int(missing[0])
            why = "has no maps: its image was gone or changed when this combo was extracted" \
                if row in self.attrs.get(ABSENT, ()) else \
                "is not extracted yet; run 'gate-cache extract' on its manifest"
            raise RowNotDone(f"{self.store.path}: {self.label}: row {row}"
                             f" ('{self.store.samples[row]}') {why}")

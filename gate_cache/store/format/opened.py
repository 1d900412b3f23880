"""An open store: what the views of its combos and maps read through."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError
from gate_cache.store.format.attrs import MEND, META, is_whole, read_attrs
from gate_cache.store.format.chunks import Check, OpenFiles
from gate_cache.store.format.columns import read_samples
from gate_cache.store.format.samples import Samples

if TYPE_CHECKING:
    from gate_cache.core.places import Place
    from gate_cache.store.places.folders import Folder


class OpenStore:
    """A store's files, its own attributes and its table of samples; see `FeatureStore.open`."""

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

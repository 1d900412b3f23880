"""One combo of an open store: its settings, and a view of each of its maps."""

from __future__ import annotations

from collections.abc import Iterator
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from gate_cache.core.errors import StoreError, did_you_mean
from gate_cache.core.geometry import Square
from gate_cache.store.format.attrs import META
from gate_cache.store.format.maps import MapView
from gate_cache.store.format.opened import OpenGroup, OpenStore

if TYPE_CHECKING:
    from gate_cache.core.fingerprint import Recipe


class ComboView(OpenGroup):
    """One combo's maps. ``view["up2"][row]`` reads."""

    store: Any
    """The `FeatureStore` that it is of, whose module imports this one."""

    def __init__(self, store: OpenStore, name: str, attrs: dict[str, Any]) -> None:
        super().__init__(store, name, attrs)
        self._maps: dict[str, MapView] = {}

    def __reduce__(self) -> Any:
        return methodcaller("group", self.name), (self.store,)

    @property
    def recipe(self) -> Recipe:
        """What decides the values."""
        return dict(self.attrs["recipe"])

    @property
    def square(self) -> Square:
        """The model's input, and how images were brought into it.

        Raises
        ------
        StoreError
            The recipe has no size.
        """
        size = self.recipe.get("size")
        if size is None:
            raise StoreError(f"{self.store.path}: {self.name}/{META} says no size of images")
        return Square(int(size), self.recipe.get("resize") or "squash")

    def __getitem__(self, name: str) -> MapView:
        if name not in self.maps:
            raise StoreError(f"{self.name} has no map '{name}'{did_you_mean(name, self.maps)};"
                             f" it has: {', '.join(self.maps)}")
        if name not in self._maps:
            shape = self.meta(name).shape[1:]
            parts = self.encoding.parts(shape)
            metas = {part.suffix: self.meta(name + part.suffix, part) for part in parts}
            self._maps[name] = MapView(self, name, shape, metas)
        return self._maps[name]

    def __repr__(self) -> str:
        maps = ", ".join(f"{name} {self[name].shape[1:]}" for name in self)
        return f"<combo {self.name}: {maps}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

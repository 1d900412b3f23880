"""``view``: one store, opened once, and all that a viewer asks of it.

Images are looked up by id and combos by name, among those that the store has: no request of a
browser ever becomes a path.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.analysis.colours import Colours
from gate_cache.analysis.describe import of_store, original_size, plain_features
from gate_cache.analysis.session_match import Matcher
from gate_cache.core.errors import DataError, RowNotDone, UserError, did_you_mean
from gate_cache.core.places import Place, is_manifest
from gate_cache.learn.features.bucket import Standardise
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.training.inputs import matching_options
from gate_cache.workspace.device import choose_device
from gate_cache.workspace.workspace import Workspace

if TYPE_CHECKING:
    from gate_cache.core.geometry import Placement
    from gate_cache.core.progress import Progress
    from gate_cache.core.roots import Roots
    from gate_cache.datasets.common.base import ImageDataset

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ComboInfo:
    """A combo, for a person who chooses.

    Attributes
    ----------
    maps : name to (C, h, w), coarse to fine
    tokens : of an attention combo, where all images share them
    settings : prompt, seed, timestep, techniques
    done : images that it is extracted for
    """

    name: str
    kind: str
    maps: dict[str, list[int]]
    tokens: list[str]
    settings: dict[str, Any]
    done: int


@dataclass(frozen=True)
class ImageInfo:
    """One image.

    Attributes
    ----------
    size : (height, width) of the original
    category : the folder it is in, without what is above it
    original : whether the picture itself is here, as it was extracted
    """

    id: str
    size: tuple[int, int]
    category: str
    original: bool


class ViewerSession:
    """A store with its pictures, colours and matches.

    Parameters
    ----------
    dataset : where the pictures are, if they are known
    matcher : of the features that can be compared
    """

    def __init__(self, store: FeatureStore, dataset: ImageDataset | None,
                 matcher: Matcher) -> None:
        self.store = store
        self.matcher = matcher
        self.views = dict(zip(store.combos, store.views(), strict=True))
        ids = store.samples.ids
        self.ids = [i for row, i in enumerate(ids) if store.samples.row(i) == row]
        """Images in the store's order; of one whose content was changed, the newest row."""
        self._colours = Colours([v for v in self.views.values() if v.attrs["kind"] == "conv"])
        self._dataset = dataset
        self._listed = {s.id for s in dataset.samples()} if dataset else set()
        self._same: dict[str, bool] = {}
        self._lock = threading.Lock()

    @property
    def has_originals(self) -> bool:
        """Whether the data set is here."""
        return self._dataset is not None

    def combos(self) -> list[ComboInfo]:
        """All combos, convolutional ones first."""
        combos = [ComboInfo(
            name, str(view.attrs["kind"]), {m: list(view[m].shape[1:]) for m in view.maps},
            list(view.attrs.get("tokens") or []), dict(view.recipe.get("settings") or {}),
            int(view.done().sum())) for name, view in self.views.items()]
        return sorted(combos, key=lambda c: c.kind != "conv")

    def find(self, words: str) -> list[str]:
        """Images whose id has all these words in it, whatever their case."""
        parts = words.lower().split()
        return [i for i in self.ids if all(part in i.lower() for part in parts)]

    def category(self, image: str) -> str:
        """The folder an image is in, without what is above it."""
        return "/".join(image.split("/")[:-1]).rpartition("/")[2]

    def others(self, image: str, alike: bool, count: int, seed: int) -> list[str]:
        """Some other images, drawn at random.

        Parameters
        ----------
        image : its id
        alike : of the same category; else of all
        count : at most
        seed : of the draw
        """
        self.row(image)
        category = self.category(image)
        pool = [i for i in self.ids
                if i != image and (not alike or self.category(i) == category)]
        chosen = np.random.default_rng(seed).permutation(len(pool))[:count]
        return [pool[i] for i in chosen]

    def row(self, image: str) -> int:
        """The row of an image; `StoreError` where the store has none of this id."""
        return self.store.samples.row(image)

    def view(self, combo: str) -> ComboView:
        """A combo; `UserError` where the store has none of this name."""
        if combo not in self.views:
            raise UserError(f"no combo '{combo}' in this store{did_you_mean(combo, self.views)}")
        return self.views[combo]

    def image(self, image: str) -> ImageInfo:
        """Size, category and whether the original is here."""
        size = original_size(self.store, self.row(image))
        return ImageInfo(image, size, self.category(image), self._is_here(image))

    def placement(self, image: str, combo: str) -> Placement:
        """Where an image lies in the input of a combo."""
        return self.view(combo).frame.place(*self.image(image).size)

    def picture(self, image: str) -> Picture | None:
        """The original; where it is not here the colours of a map; None where there is neither."""
        self.row(image)
        if self._dataset is not None and self._is_here(image):
            return self._dataset.image(image)
        for name, view in self.views.items():
            if view.attrs["kind"] == "conv":
                try:
                    return self._stand_in(image, name, view)
                except RowNotDone:
                    continue
        return None

    def _stand_in(self, image: str, combo: str, view: ComboView) -> Picture:
        """The finest map's colours, cut out as the image lies in them."""
        finest = max(view.maps, key=lambda m: view[m].shape[-1])
        colours = self.colours(image, combo, finest)
        window = self.placement(image, combo).window(colours.shape[:2])
        return np.asarray(colours[window.rows, window.columns])

    def colours(self, image: str, combo: str, name: str) -> Picture:
        """(h, w, 3): a map's components as colours, comparable among images and combos.

        Raises
        ------
        RowNotDone
            The image is not extracted for this combo.
        """
        view = self.view(combo)
        return self._colours(view, view[name].name, self.row(image))

    def attention(self, image: str, combo: str, name: str,
                  tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """(n, h, w): how much each position attends to each of these tokens.

        Parameters
        ----------
        image, combo, name : of one attention map
        tokens : n positions in the prompt

        Raises
        ------
        UserError
            The prompt has no such token.
        RowNotDone
            The image is not extracted for this combo.
        """
        maps = self.view(combo)[name]
        count = maps.shape[1]
        if not all(0 <= t < count for t in tokens):
            raise UserError(f"{combo}: its prompt has {count} tokens, from 0 to {count - 1}")
        return np.nan_to_num(np.asarray(maps[self.row(image)], np.float32)[list(tokens)])

    def _is_here(self, image: str) -> bool:
        """Whether the picture is in the data set, with the content that was extracted."""
        if self._dataset is None or image not in self._listed:
            return False
        with self._lock:  # an image is hashed once, whatever threads ask for it
            if image not in self._same:
                self._same[image] = False  # and stays so where it cannot be read
                with suppress(DataError):
                    extracted = self.store.samples.sha256[self.row(image)]
                    self._same[image] = self._dataset.sha256(image) == extracted
            return self._same[image]


def open_session(target: Place, roots: Roots, show: Progress, *, runs: Sequence[Path] = (),
                 trial: str | None = None, device: str | None = None) -> ViewerSession:
    """Open a store, or a manifest's store with its data set.

    Parameters
    ----------
    target : a store, or a manifest
    roots : below which the manifest's paths are
    show : receives notes
    runs : trainings of correspondence on this store, whose features can be matched
    trial : which one, of those runs that are sweeps
    device : that computes; by default a GPU where there is one

    Raises
    ------
    UserError
        There is no store, it holds nothing, or a run does not fit it.
    """
    dataset: ImageDataset | None = None
    standardise: Standardise = "none"
    if is_manifest(target):
        work = Workspace.open(target, roots, device, show)
        store, standardise = work.store(), matching_options(work.manifest.train).standardise
        try:
            dataset = work.dataset()
        except DataError as error:
            show.say(f"note: shown without the pictures themselves: {error}")
    else:
        store = FeatureStore.open(target)
        show.say("note: shown without the pictures themselves; name the manifest instead of the"
                 " store to see them")
    if not any(view.done().any() for view in store.views()):
        raise RowNotDone(f"{store.path}: holds no extracted image yet; run 'gate-cache extract'")
    place = choose_device(device)
    trained = [of_store(store, run, trial, place) for run in runs]
    plain = plain_features(store, place, standardise)
    return ViewerSession(store, dataset, Matcher([*plain, *trained]))

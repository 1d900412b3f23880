"""``show``: a store's feature maps as pictures (paper, Figures 7, 8 and 10)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gate_cache.analysis.colours import Colours
from gate_cache.core.errors import UserError, did_you_mean
from gate_cache.core.places import Place, is_manifest
from gate_cache.diffusion.techniques.registry import read_as
from gate_cache.store.reader import ComboView, FeatureStore
from gate_cache.workspace.pick import one
from gate_cache.workspace.workspace import Workspace

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress
    from gate_cache.core.roots import Roots
    from gate_cache.datasets.common.base import ImageDataset

IMAGES, TOKENS, LETTERS = 4, 8, 3
"""Pictures, and words of so many letters or more, shown by default."""


@dataclass(frozen=True)
class ImageMaps:
    """One image's maps, ready for a grid.

    Attributes
    ----------
    image : (H, W, 3), or None where the data set is not here
    conv : combo to map to (h, w, 3) colours
    attention : combo to its words' heat, (h, w) each, with the word
    about : combo to how it was read, where that is not one pass of the noised image, and to which
        words of its prompt are shown, where not all are
    """

    id: str
    image: npt.NDArray[np.uint8] | None
    conv: dict[str, dict[str, npt.NDArray[np.uint8]]]
    attention: dict[str, list[tuple[str, npt.NDArray[np.float32]]]]
    about: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownImages:
    """What `show` reads from.

    Attributes
    ----------
    dataset : where the pictures themselves are, if they are known
    """

    store: FeatureStore
    dataset: ImageDataset | None


def open_shown(target: Place, roots: Roots, show: Progress) -> ShownImages:
    """A store, or a manifest's store with its data set; `UserError` where there is none."""
    if not is_manifest(target):
        return ShownImages(FeatureStore.open(target), None)
    work = Workspace.open(target, roots, progress=show)
    dataset = work.dataset()
    return ShownImages(work.store(), dataset)


def show(source: ShownImages, images: Sequence[str] = (),
         combos: Sequence[str] = (), tokens: Sequence[str] = ()) -> Iterator[ImageMaps]:
    """Maps of some images; colours are comparable among images and combos of one map.

    Parameters
    ----------
    source : of `open_shown`
    images : ids; by default a few, spread over the store
    combos : names; by default all
    tokens : words whose attention is shown; by default the first few of the prompt

    Raises
    ------
    UserError
        No such image or combo, or it is not extracted.
    """
    store, dataset = source.store, source.dataset
    views = [store[name] for name in combos] or store.views()
    if not views:
        raise UserError(f"{store.path}: holds no combo to show")
    rows = [_row(store, image) for image in images] or _first(views)
    conv = [v for v in views if v.attrs["kind"] == "conv"]
    colours = Colours(conv)
    for row in rows:
        yield ImageMaps(
            store.samples[row], dataset.image(store.samples[row]) if dataset else None,
            {v.label: {m: colours(v, m, row) for m in v.maps} for v in conv},
            {v.label: _words(v, row, tokens) for v in views if v.attrs["kind"] == "attention"},
            {v.label: "; ".join(filter(None, (read_as(v.recipe.get("settings", {})),
                                              "" if tokens else _left_out(v)))) for v in views})


def _row(store: FeatureStore, image: str) -> int:
    """The row of an image, by its id or a part of it that only one has."""
    return store.samples.row(one(store.samples.ids, image, str(store.path), "this store"))


def _first(views: Sequence[ComboView]) -> list[int]:
    done = np.logical_and.reduce([v.done() for v in views])
    rows = [int(r) for r in np.flatnonzero(done)]
    if not rows:
        raise UserError(f"{views[0].store.path}: no image has all of these combos yet; run"
                        " 'gate-cache extract', or name combos with --combo")
    return rows[:: max(len(rows) // IMAGES, 1)][:IMAGES]  # spread: first ones are of one folder


def _words(view: ComboView, row: int,
           tokens: Sequence[str]) -> list[tuple[str, npt.NDArray[np.float32]]]:
    """The finest map's attention to these words, or to the first few of the prompt."""
    finest = max(view.maps, key=lambda m: view[m].shape[-1])
    values = np.asarray(view[finest][row], np.float32)
    plain = _plain(view) or [str(i) for i in range(len(values))]
    if tokens:
        missing = [t for t in tokens if t not in plain]
        if missing:
            raise UserError(f"{view.label}: its prompt has no word '{missing[0]}'"
                            f"{did_you_mean(missing[0], plain)}")
        chosen = [plain.index(t) for t in tokens]
    else:
        chosen = (_long(plain) or list(range(len(plain))))[:TOKENS]
    return [(plain[i], values[i]) for i in chosen if i < len(values)]


def _plain(view: ComboView) -> list[str]:
    return [plain_word(w) for w in view.attrs.get("tokens") or ()]


def plain_word(token: str) -> str:
    """A token without what marks a word's end (CLIP) or beginning (T5)."""
    return token.removesuffix("</w>").removeprefix("▁") or token


def _long(words: Sequence[str]) -> list[int]:
    """Numbers of the words that a picture shows; of an empty prompt, what there is of letters."""
    return next(filter(None, ([i for i, w in enumerate(words) if w.isalpha() and len(w) >= least]
                              for least in (LETTERS, 1))), [])


def _left_out(view: ComboView) -> str:
    """Which words of an attention combo's prompt are shown, where not all of them are."""
    words = [w for w in _plain(view) if w.isalnum()] if view.attrs["kind"] == "attention" else []
    shown = min(TOKENS, len(_long(words)))
    return (f"{shown} of {len(words)} words: the first of {LETTERS} letters or more;"
            " --token WORD shows others") if shown < len(words) else ""

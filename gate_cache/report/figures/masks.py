"""Masks as pictures: colours and patterns that the colour-blind tell apart, and their legend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gate_cache.datasets.common.base import IGNORED
from gate_cache.report.figures.marks import OKABE_ITO, PAPER, At, Canvas, Colour, Legend
from gate_cache.report.figures.pictures import Picture, fitted

Labels = npt.NDArray[np.uint8]

GREY, BACKGROUND = (150, 150, 150), (226, 226, 226)
COLOURS: tuple[Colour, ...] = (*OKABE_ITO[:-1], (84, 84, 84))
SWATCH = 14
"""Side of a legend's squares, in pixels."""


class Style(NamedTuple):
    """How a class is drawn.

    Attributes
    ----------
    pattern : 0 for none; each other one cuts other white figures out of the colour
    """

    colour: Colour
    pattern: int = 0


PATTERNS = 8
IGNORE = Style(PAPER, -1)
"""White with grey stripes: no class counts there."""


def styles(names: Sequence[str]) -> dict[int, Style]:
    """How every class is drawn, by its number: the same in every picture and page of a data set.

    Of more than 64 classes those that are 64 apart look alike.
    """
    every = [k for k, name in enumerate(names) if name != "background"]  # which takes no colour
    return {k: Style(BACKGROUND) for k, name in enumerate(names) if name == "background"} | {
        k: Style(COLOURS[i % len(COLOURS)], i // len(COLOURS) % PATTERNS)
        for i, k in enumerate(every)}


def areas(masks: Iterable[Labels]) -> dict[int, int]:
    """Class to number of pixels over several masks."""
    classes, counts = np.unique(np.concatenate([m.ravel() for m in masks]), return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


def enlarged(mask: Labels, side: int) -> Labels:
    """Classes by nearest neighbour, the longer side as given, so that patterns are drawn finer."""
    return fitted(np.repeat(mask[..., None], 3, 2), side)[..., 0]


def painted(mask: Labels, style_of: Mapping[int, Style], ignored: Labels | None = None) -> Picture:
    """(h, w) classes as an (h, w, 3) picture; patterns are drawn in its pixels.

    No class counts where the mask itself, or the truth `ignored`, says so.
    """
    picture = np.zeros((*mask.shape, 3), np.uint8)
    for k in np.unique(mask):
        style = IGNORE if k == IGNORED else style_of[int(k)]
        picture[mask == k] = figure(style, mask.shape)[mask == k]
    if ignored is not None:
        out = ignored == IGNORED
        picture[out] = figure(IGNORE, mask.shape)[out]
    return picture


def figure(style: Style, size: tuple[int, ...]) -> Picture:
    """A style on a rectangle of (h, w) pixels."""
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.full((size[0], size[1], 3), style.colour, np.uint8)
    cut = {-1: (x + y) % 6 < 2, 1: (x - y) % 8 < 2, 2: (x % 7 < 3) & (y % 7 < 3), 3: y % 6 < 2,
           4: x % 6 < 2, 5: (x % 8 < 2) | (y % 8 < 2), 6: (x // 4 + y // 4) % 2 == 0,
           7: ((x + y) % 10 < 2) | ((x - y) % 10 < 2)}
    if style.pattern:
        picture[cut[style.pattern]] = GREY if style.pattern < 0 else PAPER
    return picture


def legend(names: Sequence[str], classes: Iterable[int], style_of: Mapping[int, Style], width: int,
           edge: int) -> Legend:
    """Of all names, those of `classes` beside what they are drawn with."""
    entries = [("ignored", IGNORE) if k == IGNORED else (names[k], style_of[k])
               for k in sorted(classes)]
    return Legend([(name, partial(_swatch, figure(style, (SWATCH, SWATCH))))
                   for name, style in entries], width, edge)


def _swatch(picture: Picture, canvas: Canvas, at: At) -> None:
    canvas.picture(picture, (at[0] - SWATCH // 2, at[1] - SWATCH // 2))

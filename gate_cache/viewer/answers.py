"""Answers to the page: plain data from a viewer's session. Runs on threads."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gate_cache.analysis.show import plain_word
from gate_cache.core.errors import GateCacheError
from gate_cache.report.figures.pictures import encoded, heat

if TYPE_CHECKING:
    from gate_cache.analysis.session import ViewerSession
    from gate_cache.core.geometry import Placement

MOST = 48
"""Images of one answer, words of one map."""
_EMPTY = np.full((2, 2, 3), 128, np.uint8)

Data = dict[str, Any]


def store(session: ViewerSession) -> Data:
    """The store: combos, features, and the colours of heat."""
    palette = heat(np.linspace(0, 1, 256)[None])[0]  # the page colours heat, whatever its scale
    return {
        "name": session.store.path.name, "dataset": session.store.attrs["dataset"],
        "images": len(session.ids), "originals": session.has_originals,
        "combos": [asdict(replace(c, tokens=list(map(plain_word, c.tokens))))
                   for c in session.combos()],
        "features": [{"name": f.name, "about": f.about}
                     for f in session.matcher.features.values()],
        "palette": _packed(palette),
    }


def images(session: ViewerSession, words: str, first: int, count: int, image: str) -> Data:
    """Some of the images whose id has these words, and where `image` is among all of them."""
    ids = session.find(words)
    index = ids.index(image) if image in ids else -1
    return {"total": len(ids), "index": index, "ids": ids[first : first + count]}


def image(session: ViewerSession, name: str) -> Data:
    """An image's size and category, and whether its picture is here."""
    return asdict(session.image(name))


def others(session: ViewerSession, name: str, alike: bool, count: int, seed: int) -> Data:
    """Other images to match with."""
    return {"ids": session.others(name, alike, min(count, MOST), seed)}


def picture(session: ViewerSession, name: str, side: int) -> tuple[bytes, str]:
    """An image file, grey where there is nothing to show; a `StoreError` for an id of no image."""
    session.row(name)
    try:
        image = session.picture(name)
    except GateCacheError:  # a damaged file, or a damaged map in its place
        image = None
    return encoded(_EMPTY if image is None else image, side)


def maps(session: ViewerSession, name: str, combo: str, levels: list[str],
         tokens: list[int]) -> Data:
    """Some maps of a combo: colours, or of an attention combo the heat of each word.

    `levels` are names such as ``up1``, `tokens` places of words in the prompt. A `StoreError` where
    there is no such image, combo or map, a `RowNotDone` where it is not extracted yet.
    """
    view = session.view(combo)
    names = [view[level].name for level in levels]
    if view.attrs["kind"] == "conv":
        tiles = [_colours(session.colours(name, combo, level)) for level in names]
    else:
        tiles = [_values(v) for level in names
                 for v in session.attention(name, combo, level, tokens)]
    return {"frame": _frame(session.placement(name, combo)), "tiles": tiles}


def match(session: ViewerSession, feature: str, name: str, target: str,
          point: tuple[float, float]) -> Data:
    """Where a point, as shares of an image's width and height, is found in another image.

    A `RowNotDone` where one of the images is not extracted yet.
    """
    row, other = session.row(name), session.row(target)
    best = session.matcher.match(feature, row, point, other)
    return {"x": best.x, "y": best.y, "similarity": best.similarity,
            "ms": round(1000 * best.seconds, 1), "held": best.cached,
            "frame": _frame(best.placement),
            "tile": _values(_inside(best.values, best.placement))}


def prepare(session: ViewerSession, feature: str, name: str) -> Data:
    """Read an image's descriptors before they are asked for."""
    session.matcher.prepare(feature, session.row(name))
    return {"ready": True}


def _inside(values: npt.NDArray[np.float32], placement: Placement) -> npt.NDArray[np.float32]:
    """Similarities whose range is that of the cells that show the image."""
    cells = placement.window(values.shape).cut(values)
    return np.clip(values, cells.min(), cells.max())


def _frame(placement: Placement) -> list[float]:
    """Left, top, width and height of the model's input, as shares of the image's sides."""
    (left, top), (right, bottom) = placement.to_image(np.array([[0.0, 0.0], [1.0, 1.0]]))
    return [float(v) for v in (left, top, right - left, bottom - top)]


def _colours(values: npt.NDArray[np.uint8]) -> Data:
    return {"height": values.shape[0], "width": values.shape[1], "rgb": _packed(values)}


def _values(values: npt.NDArray[np.float32]) -> Data:
    """Numbers as bytes, 0 for the lowest and 255 for the highest."""
    low, high = float(values.min()), float(values.max())
    shares = (values - low) / (high - low or 1)
    return {"height": values.shape[0], "width": values.shape[1], "low": low, "high": high,
            "values": _packed((shares * 255).round().astype(np.uint8))}


def _packed(values: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(values.tobytes()).decode()

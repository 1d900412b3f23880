"""The routes of the page: each reads what was asked, and has it answered on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.web import HTTPError

from gate_cache.core.errors import GateCacheError
from gate_cache.viewer import answers
from gate_cache.viewer.guard import Gate, Guarded, NotHere

if TYPE_CHECKING:
    from gate_cache.analysis.session import ViewerSession

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript",
         ".svg": "image/svg+xml"}
SIDES = {"thumb": 96, "picture": 640}
PAGE = 100
"""Images of a part of the list."""


@dataclass(frozen=True)
class Desk:
    """What all routes work with.

    Attributes
    ----------
    pictures : threads of maps and thumbnails
    matches : the one thread that compares
    """

    explorer: ViewerSession
    pictures: ThreadPoolExecutor
    matches: ThreadPoolExecutor


class Asset(Guarded):
    """The page and its own files, read once when the server starts."""

    def initialize(self, gate: Gate, data: bytes, kind: str) -> None:  # type: ignore[override]
        """Told by the routes."""
        super().initialize(gate)
        self._data, self._kind = data, kind

    def get(self) -> None:
        """Its content, as it was read when the server began."""
        self.set_header("Content-Type", f"{self._kind}; charset=utf-8")
        self.finish(self._data)


class _Asking(Guarded):
    def initialize(self, gate: Gate, desk: Desk) -> None:  # type: ignore[override]
        """Told by the routes."""
        super().initialize(gate)
        self._desk = desk

    def _number(self, name: str, default: int, low: int, high: int) -> int:
        try:
            return min(max(int(self.get_query_argument(name, str(default))), low), high)
        except ValueError:
            raise HTTPError(400, reason=f"{name} must be a whole number") from None


class Store(_Asking):
    """What the store holds."""

    async def get(self) -> None:
        """Combos and features."""
        await self.told(self._desk.pictures, answers.store, self._desk.explorer)


class Images(_Asking):
    """The list of images."""

    async def get(self) -> None:
        """A part of it."""
        first = self._number("first", 0, 0, 2**31)
        await self.told(self._desk.pictures, answers.images, self._desk.explorer,
                        self.get_query_argument("q", ""), first, PAGE,
                        self.get_query_argument("id", ""))


class OneImage(_Asking):
    """What is known of the image that is looked at."""

    async def get(self) -> None:
        """Its size and category."""
        await self.told(self._desk.pictures, answers.image, self._desk.explorer,
                        self.get_query_argument("id"))


class Others(_Asking):
    """Images to match with."""

    async def get(self) -> None:
        """Some, drawn at random."""
        alike = self.get_query_argument("near", "category") == "category"
        await self.told(self._desk.pictures, answers.others, self._desk.explorer,
                        self.get_query_argument("id"), alike, self._number("count", 6, 0, 48),
                        self._number("seed", 0, 0, 2**31))


class Picture(_Asking):
    """An image itself, or its stand-in."""

    def initialize(self, gate: Gate, desk: Desk, side: int) -> None:  # type: ignore[override]
        """Told by the routes."""
        super().initialize(gate, desk)
        self._side = side

    async def get(self) -> None:
        """An image file."""
        try:
            data, kind = await self.work(
                self._desk.pictures, answers.picture, self._desk.explorer,
                self.get_query_argument("id"), self._side)
        except asyncio.CancelledError:
            raise HTTPError(503, reason="not done any more") from None
        except GateCacheError as error:
            raise HTTPError(404, reason=_reason(error)) from None
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(data)


class Maps(_Asking):
    """Maps as colours, attention as heat."""

    async def post(self) -> None:
        """Of one image and combo."""
        asked = self.asked()
        await self.told(
            self._desk.pictures, answers.maps, self._desk.explorer, _text(asked, "image"),
            _text(asked, "combo"), _list(asked, "maps", str), _list(asked, "tokens", int))


class MatchRoute(_Asking):
    """Where a point is found."""

    async def post(self) -> None:
        """In one other image."""
        asked = self.asked()
        try:
            point = (answers.number(asked.get("x"), 0, 1, "x"),
                     answers.number(asked.get("y"), 0, 1, "y"))
        except GateCacheError as error:
            raise HTTPError(400, reason=_reason(error)) from None
        await self.told(self._desk.matches, answers.match, self._desk.explorer,
                        _text(asked, "feature"), _text(asked, "image"), _text(asked, "target"),
                        point)


class Prepare(_Asking):
    """Descriptors made before a click asks for them."""

    async def post(self) -> None:
        """One image's descriptors."""
        asked = self.asked()
        await self.told(self._desk.matches, answers.prepare, self._desk.explorer,
                        _text(asked, "feature"), _text(asked, "image"))


def routes(prefix: str, gate: Gate, desk: Desk) -> list[tuple[Any, ...]]:
    """All routes; there are no others.

    Parameters
    ----------
    prefix : of every path: ``/`` and the secret
    """
    given: Mapping[str, Any] = {"gate": gate, "desk": desk}
    asking = {"api/store": Store, "api/images": Images, "api/image": OneImage,
              "api/others": Others, "api/maps": Maps, "api/match": MatchRoute,
              "api/prepare": Prepare}
    found: list[tuple[Any, ...]] = [(f"{prefix}/{name}", handler, given)
                                    for name, handler in asking.items()]
    found += [(f"{prefix}/{name}", Picture, {**given, "side": side})
              for name, side in SIDES.items()]
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            asset = {"gate": gate, "data": path.read_bytes(), "kind": TYPES[path.suffix]}
            name = "" if path.name == "index.html" else f"static/{path.name}"
            found.append((f"{prefix}/{name.replace('.', '[.]')}", Asset, asset))
    return [*found, (".*", NotHere, {"gate": gate})]


def _text(asked: Mapping[str, Any], name: str) -> str:
    if not isinstance(asked.get(name), str):
        raise HTTPError(400, reason=f"{name} must be a text")
    return str(asked[name])


def _list(asked: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    values = asked.get(name, [])
    good = isinstance(values, list) and len(values) <= answers.MOST \
        and all(type(v) is kind for v in values)
    if not good:
        raise HTTPError(400, reason=f"{name} must be a list of at most {answers.MOST}")
    return list(values)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200].encode("ascii", "replace").decode()

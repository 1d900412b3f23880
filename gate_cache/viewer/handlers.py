"""The routes of the page: each reads its query, and has it answered on a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, Field
from tornado.web import HTTPError

from gate_cache.core.errors import GateCacheError
from gate_cache.viewer import answers
from gate_cache.viewer.guard import Gate, Guarded, NotHere, reason

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
        super().initialize(gate)
        self._data, self._kind = data, kind

    def get(self) -> None:
        self.set_header("Content-Type", f"{self._kind}; charset=utf-8")
        self.finish(self._data)


class _Route(Guarded):
    def initialize(self, gate: Gate, desk: Desk) -> None:  # type: ignore[override]
        super().initialize(gate)
        self._desk = desk

    async def answer(self, job: Callable[..., dict[str, Any]], *args: Any) -> None:
        """Respond with what a function of `answers` makes of the viewer's session."""
        pool = self._desk.matches if job in (answers.match, answers.prepare) else \
            self._desk.pictures
        await self.respond(pool, job, self._desk.explorer, *args)

    def number(self, name: str, default: int, high: int) -> int:
        """A whole number of the query, from 0 to `high`."""
        try:
            return min(max(int(self.get_query_argument(name, str(default))), 0), high)
        except ValueError:
            raise HTTPError(400, reason=f"{name} must be a whole number") from None


class Store(_Route):
    """What the store holds: combos and features."""

    async def get(self) -> None:
        await self.answer(answers.store)


class Images(_Route):
    """A part of the list of images."""

    async def get(self) -> None:
        await self.answer(answers.images, self.get_query_argument("q", ""),
                          self.number("first", 0, 2**31), PAGE, self.get_query_argument("id", ""))


class OneImage(_Route):
    """Size and category of the image that is looked at."""

    async def get(self) -> None:
        await self.answer(answers.image, self.get_query_argument("id"))


class Others(_Route):
    """Images to match with, drawn at random."""

    async def get(self) -> None:
        alike = self.get_query_argument("near", "category") == "category"
        await self.answer(answers.others, self.get_query_argument("id"), alike,
                          self.number("count", 6, 48), self.number("seed", 0, 2**31))


class Picture(_Route):
    """An image itself, or its stand-in, as a file."""

    def initialize(self, gate: Gate, desk: Desk, side: int) -> None:  # type: ignore[override]
        super().initialize(gate, desk)
        self._side = side

    async def get(self) -> None:
        try:
            data, kind = await self.work(
                self._desk.pictures, answers.picture, self._desk.explorer,
                self.get_query_argument("id"), self._side)
        except GateCacheError as error:
            raise HTTPError(404, reason=reason(error)) from None
        self.set_header("Content-Type", kind)
        self.set_header("Cache-Control", "private, max-age=3600")
        self.finish(data)


class PostedMaps(BaseModel):
    """Which maps a page asks for."""

    image: str
    combo: str
    maps: list[str] = Field([], max_length=answers.MOST)
    tokens: list[int] = Field([], max_length=answers.MOST)


class PostedImage(BaseModel):
    """An image, and the feature that describes its points."""

    feature: str
    image: str


class PostedPoint(PostedImage):
    """A point, as shares of the image's width and height, to be found in the target."""

    target: str
    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)


class Maps(_Route):
    """Maps of one image and combo as colours, attention as heat."""

    async def post(self) -> None:
        query = self.posted(PostedMaps)
        await self.answer(answers.maps, query.image, query.combo, query.maps, query.tokens)


class MatchRoute(_Route):
    """Where a point is found in one other image."""

    async def post(self) -> None:
        query = self.posted(PostedPoint)
        await self.answer(answers.match, query.feature, query.image, query.target,
                          (query.x, query.y))


class Prepare(_Route):
    """One image's descriptors, made before a click asks for them."""

    async def post(self) -> None:
        query = self.posted(PostedImage)
        await self.answer(answers.prepare, query.feature, query.image)


def routes(prefix: str, gate: Gate, desk: Desk) -> list[tuple[Any, ...]]:
    """All routes; there are no others.

    Parameters
    ----------
    prefix : of every path: ``/`` and the secret
    """
    shared: dict[str, Any] = {"gate": gate, "desk": desk}
    handlers = {"api/store": Store, "api/images": Images, "api/image": OneImage,
                "api/others": Others, "api/maps": Maps, "api/match": MatchRoute,
                "api/prepare": Prepare}
    every: list[tuple[Any, ...]] = [(f"{prefix}/{name}", handler, shared)
                                    for name, handler in handlers.items()]
    every += [(f"{prefix}/{name}", Picture, {**shared, "side": side})
              for name, side in SIDES.items()]
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            asset = {"gate": gate, "data": path.read_bytes(), "kind": TYPES[path.suffix]}
            name = "" if path.name == "index.html" else f"static/{path.name}"
            every.append((f"{prefix}/{name.replace('.', '[.]')}", Asset, asset))
    return [*every, (".*", NotHere, {"gate": gate})]

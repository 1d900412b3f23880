"""The routes of the page: each reads its query, and has it answered on a thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

    session: ViewerSession
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


class Route(Guarded):
    """Answers with what a function of `answers` makes of the viewer's session."""

    def initialize(self, gate: Gate, desk: Desk, about: Any) -> None:  # type: ignore[override]
        super().initialize(gate)
        self._desk, self._about = desk, about

    async def answer(self, job: Callable[..., dict[str, Any]], *args: Any) -> None:
        # a `Matcher` is for one thread
        pool = self._desk.matches if job in (answers.match, answers.prepare) else \
            self._desk.pictures
        await self.respond(pool, job, self._desk.session, *args)

    def number(self, name: str, default: int, high: int) -> int:
        """A whole number of the query, from 0 to `high`."""
        try:
            return min(max(int(self.get_query_argument(name, str(default))), 0), high)
        except ValueError:
            raise HTTPError(400, reason=f"{name} must be a whole number") from None


class Queried(Route):
    """What is asked for in the address, a row of `QUERIES`."""

    async def get(self) -> None:
        await self.answer(*self._about(self))


class Posted(Route):
    """What is asked for in a form, a row of `FORMS`."""

    async def post(self) -> None:
        form, asked = self._about
        await self.answer(*asked(self.posted(form)))


class Picture(Route):
    """An image itself, or its stand-in, as a file of one of `SIDES`."""

    async def get(self) -> None:
        try:
            data, kind = await self.work(
                self._desk.pictures, answers.picture, self._desk.session,
                self.get_query_argument("id"), self._about)
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


QUERIES: dict[str, Callable[[Route], tuple[Any, ...]]] = {
    "store": lambda ask: (answers.store,),
    "images": lambda ask: (answers.images, ask.get_query_argument("q", ""),
                           ask.number("first", 0, 2**31), PAGE, ask.get_query_argument("id", "")),
    "image": lambda ask: (answers.image, ask.get_query_argument("id")),
    "others": lambda ask: (answers.others, ask.get_query_argument("id"),
                           ask.get_query_argument("near", "category") == "category",
                           ask.number("count", 6, 48), ask.number("seed", 0, 2**31)),
}
FORMS: dict[str, tuple[type[BaseModel], Callable[[Any], tuple[Any, ...]]]] = {
    "maps": (PostedMaps, lambda ask: (answers.maps, ask.image, ask.combo, ask.maps, ask.tokens)),
    "match": (PostedPoint, lambda ask: (answers.match, ask.feature, ask.image, ask.target,
                                        (ask.x, ask.y))),
    "prepare": (PostedImage, lambda ask: (answers.prepare, ask.feature, ask.image)),
}


def routes(prefix: str, gate: Gate, desk: Desk) -> list[tuple[Any, ...]]:
    """All routes, below a prefix of ``/`` and the secret; there are no others."""
    tables: tuple[tuple[str, type[Route], Mapping[str, Any]], ...] = (
        ("api/", Queried, QUERIES), ("api/", Posted, FORMS), ("", Picture, SIDES))
    every: list[tuple[Any, ...]] = [
        (f"{prefix}/{below}{name}", handler, {"gate": gate, "desk": desk, "about": about})
        for below, handler, table in tables for name, about in table.items()]
    for path in sorted(STATIC.iterdir()):
        if path.suffix in TYPES:
            asset = {"gate": gate, "data": path.read_bytes(), "kind": TYPES[path.suffix]}
            name = "" if path.name == "index.html" else f"static/{path.name}"
            every.append((f"{prefix}/{name.replace('.', '[.]')}", Asset, asset))
    return [*every, (".*", NotHere, {"gate": gate})]

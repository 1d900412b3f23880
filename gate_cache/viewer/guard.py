"""Who may ask: this machine's browser, for this page. And how answers are made.

A server on loopback is reachable by every page in the user's browser and by every user of the
machine. So a request must name this server as its host (a page elsewhere whose name is made to lead
here cannot), must not come from another site's page, and must know the secret in the address. The
browser is told that address in a file that only the user can read, not in words that `ps` shows
(`server`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, RequestHandler

from gate_cache.core.errors import GateCacheError, RowNotDone

Value = TypeVar("Value")
Form = TypeVar("Form", bound=BaseModel)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none';"
                               " form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MAX_BODY = 8192
"""Bytes of a request's body."""


@dataclass(frozen=True)
class Gate:
    """What a request to the server at this port must be like."""

    port: int

    @cached_property
    def hosts(self) -> set[str]:
        """Values of the header Host that mean this server; browsers leave port 80 out."""
        names = {"127.0.0.1", "localhost"}
        return {f"{name}:{self.port}" for name in names} | (names if self.port == 80 else set())

    def refusal(self, request: HTTPServerRequest) -> str | None:
        """Why a request is not answered, or None."""
        if request.headers.get("Host", "").lower() not in self.hosts:
            return f"this server is 127.0.0.1:{self.port} or localhost:{self.port} and no other"
        origin = request.headers.get("Origin")
        if origin is not None and origin.lower() not in {f"http://{h}" for h in self.hosts}:
            return "asked by a page of another site"
        if request.method == "POST" and origin is None:
            return "a POST must say its Origin"
        from_ = request.headers.get("Sec-Fetch-Site", "none")
        followed = request.headers.get("Sec-Fetch-Mode") == "navigate"
        # a link may be followed from anywhere, as from the file of `server._way_to`
        if from_ not in ("same-origin", "none") and not followed:
            return "asked by a page of another site"
        return None


class Guarded(RequestHandler):
    """Every answer of the server, errors too."""

    SUPPORTED_METHODS = ("GET", "POST")

    def initialize(self, gate: Gate) -> None:
        self._gate = gate
        self._running: Future[Any] | None = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def prepare(self) -> None:
        """Refuse what does not come from the page."""
        why = self._gate.refusal(self.request)
        if why:
            raise HTTPError(403, reason=why)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """One line; no traceback."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}: {self._reason}\n")

    def log_exception(self, *args: Any) -> None:
        """Only what is not an answer of ours."""
        if not isinstance(args[1], HTTPError):
            super().log_exception(*args)

    async def work(self, pool: Executor, job: Callable[..., Value], *args: Any) -> Value:
        """Do a job on a thread; it is not begun once the page has turned away."""
        running = pool.submit(job, *args)
        self._running = running
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:  # the page has gone, or the server is ending
            raise HTTPError(503, reason="not done any more") from None

    def on_connection_close(self) -> None:
        """Cancel the job: the page asks for something else by now."""
        if self._running is not None:
            self._running.cancel()

    async def respond(self, pool: Executor, job: Callable[..., dict[str, Any]],
                      *args: Any) -> None:
        """Do a job and answer in JSON; what the data set or the store lacks is part of it."""
        try:
            answer = await self.work(pool, job, *args)
        except RowNotDone:  # extraction may still be running
            answer = {"missing": True}
        except GateCacheError as error:
            answer = {"problem": " ".join(str(error).split())}
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.finish(json.dumps(answer, ensure_ascii=False, allow_nan=False))

    def posted(self, form: type[Form]) -> Form:
        """The JSON object that a page has posted, if it has this form."""
        if self.request.headers.get("Content-Type", "").split(";")[0] != "application/json":
            raise HTTPError(415, reason="a POST is application/json")
        try:
            return form.model_validate_json(self.request.body, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"])) or "the JSON object of a POST"
            raise HTTPError(400, reason=reason(f"{place}: {problem['msg']}")) from None


def reason(problem: object) -> str:
    """A problem as a status line may say it: one line of ASCII."""
    return " ".join(str(problem).split())[:200].encode("ascii", "replace").decode()


class NotHere(Guarded):
    """Everything that is no route."""

    def get(self) -> None:
        raise HTTPError(404, reason="nothing here; open the address that gate-cache view printed")

    post = get

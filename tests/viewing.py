"""A viewer's server for tests: on a thread of its own, asked byte by byte or by a browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from gate_cache.analysis.session import ViewerSession
from gate_cache.viewer.server import serving


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Served:
    """A running server."""

    address: str

    @property
    def port(self) -> int:
        port = urlsplit(self.address).port
        assert port
        return port

    @property
    def secret(self) -> str:
        return urlsplit(self.address).path.strip("/")

    def ask(self, path: str, body: Any = None, *, method: str | None = None,
            **headers: str | None) -> Answer:
        """Below the secret, or anywhere for a path that begins with a slash.

        `headers` are added, with ``_`` for ``-``; None leaves one away. A body that is no text is
        sent as JSON by the page.
        """
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if body is not None:
            sent |= {"Content-Type": "application/json",
                     "Origin": f"http://127.0.0.1:{self.port}"}
        sent |= {k.replace("_", "-"): v for k, v in headers.items()}  # type: ignore[misc]
        data = body if isinstance(body, str | None) else json.dumps(body)
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        line.putrequest(method or ("GET" if body is None else "POST"),
                        path if path.startswith("/") else f"/{self.secret}/{path}",
                        skip_host=True, skip_accept_encoding=True)
        for name, value in {"Content-Length": str(len(data or "")), **sent}.items():
            if value is not None:
                line.putheader(name, value)
        line.endheaders((data or "").encode())
        found = line.getresponse()
        answer = Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        line.close()
        return answer


@contextmanager
def served(explorer: ViewerSession) -> Iterator[Served]:
    """Serve on any free port for the time of a ``with`` block."""
    ready, told = threading.Event(), []

    async def run() -> None:
        stop = asyncio.Event()
        async with serving(explorer) as address:
            told.extend([address, asyncio.get_running_loop(), stop])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert ready.wait(30)
    address, loop, stop = told
    try:
        yield Served(address)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)

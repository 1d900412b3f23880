"""The server: on loopback alone, until Ctrl-C."""

from __future__ import annotations

import asyncio
import errno
import html
import os
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from gate_cache.core.errors import UserError
from gate_cache.viewer.guard import MAX_BODY, Gate, NotHere
from gate_cache.viewer.handlers import Desk, routes

if TYPE_CHECKING:
    from gate_cache.analysis.session import ViewerSession

LOOPBACK = "127.0.0.1"
PICTURES, MATCHES = "viewer-pictures", "viewer-matches"
"""Names of threads."""
PATIENCE = 3.0
"""Seconds that threads have to end."""
_WAY = """<!doctype html><meta charset="utf-8"><title>gate-cache view</title>
<meta http-equiv="refresh" content="0; url={0}"><a href="{0}">To the viewer</a>
"""


@asynccontextmanager
async def serving(session: ViewerSession, port: int = 0) -> AsyncIterator[str]:
    """Serve a store at a port, 0 for any that is free; yields the page's address with its secret.

    A `UserError` where the port is taken, or not permitted.
    """
    sockets = _bound(port)
    gate = Gate(sockets[0].getsockname()[1])
    secret = secrets.token_urlsafe(16)
    with _threads(session) as desk:
        application = Application(
            routes(f"/{secret}", gate, desk), default_handler_class=NotHere,
            default_handler_args={"gate": gate}, log_function=lambda _: None)  # paths are secret
        server = HTTPServer(application, max_body_size=MAX_BODY, max_buffer_size=4 * MAX_BODY,
                            max_header_size=2 * MAX_BODY, body_timeout=10)
        server.add_sockets(sockets)
        try:
            yield f"http://{LOOPBACK}:{gate.port}/{secret}/"
        finally:
            server.stop()
            await server.close_all_connections()


def serve(session: ViewerSession, port: int, browser: bool, say: Callable[[str], None]) -> None:
    """Serve a store until Ctrl-C, as `serving`; `say` is told the address."""
    async def until_stopped() -> None:
        stop = asyncio.Event()
        async with serving(session, port) as address:
            for number in (signal.SIGINT, signal.SIGTERM):
                with suppress(NotImplementedError):  # on Windows: KeyboardInterrupt
                    asyncio.get_running_loop().add_signal_handler(number, stop.set)
            say(f"{address}\nCtrl-C ends it")
            with ExitStack() as ending:
                if browser and _has_screen():
                    with suppress(OSError):  # no room for the file: the address is printed
                        way = ending.enter_context(_way_to(address))
                        await asyncio.to_thread(webbrowser.open, way)
                await stop.wait()

    with suppress(KeyboardInterrupt):
        asyncio.run(until_stopped())
    _leave()


@contextmanager
def _way_to(address: str) -> Iterator[str]:
    """URL of a file that leads to an address, for the time of a ``with`` block.

    A browser is told it in place of the address: all users of a machine see the words that
    processes are started with, and only this user can read the file.
    """
    with TemporaryDirectory(prefix="gate-cache-", ignore_cleanup_errors=True) as folder:  # 0700
        path = Path(folder, "viewer.html")
        path.touch(0o600)
        path.write_text(_WAY.format(html.escape(address)), encoding="utf-8")
        yield path.as_uri()


def _leave() -> None:
    """End even if a thread waits for a server: whatever it reads, nothing is written here."""
    ours = [t for t in threading.enumerate() if t.name.startswith((PICTURES, MATCHES))]
    for thread in ours:
        thread.join(PATIENCE / len(ours))
    if any(thread.is_alive() for thread in ours):
        sys.stdout.flush()
        os._exit(0)  # sys.exit would join these threads, and wait for a server that hangs


@contextmanager
def _threads(session: ViewerSession) -> Iterator[Desk]:
    desk = Desk(session, ThreadPoolExecutor(2, PICTURES), ThreadPoolExecutor(1, MATCHES))
    try:
        yield desk
    finally:
        for pool in (desk.pictures, desk.matches):
            pool.shutdown(wait=False, cancel_futures=True)


def _bound(port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, LOOPBACK, socket.AF_INET)
    except (OSError, OverflowError) as error:
        why = {errno.EADDRINUSE: "is taken", errno.EACCES: "is not permitted"}.get(
            getattr(error, "errno", None) or 0, "cannot be had")
        raise UserError(f"--port {port}: {why}; choose another one, or leave --port away") from None


def _has_screen() -> bool:
    """Whether a browser would open a window; one in the terminal would be in the way."""
    return sys.platform != "linux" or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))

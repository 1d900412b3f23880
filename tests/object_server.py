"""An S3 server of this process (moto's), which counts requests and fails on demand."""

from __future__ import annotations

import logging
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

Environ = dict[str, Any]
Answer = Callable[..., Any]


class ObjectServer:
    """Serves on loopback until `close`.

    Attributes
    ----------
    requests : method and path of each, with the range asked for
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._faults: list[tuple[str, int, Callable[[Environ], bool]]] = []
        self.requests: list[tuple[str, str, str]] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def bucket(self, name: str) -> str:
        request = urllib.request.Request(f"{self.url}/{name}", method="PUT")
        urllib.request.urlopen(request).close()
        return f"s3://{name}"

    def count(self, method: str = "", part: str = "") -> int:
        return sum(m.startswith(method) and part in path for m, path, _ in self.requests)

    @contextmanager
    def failing(self, how: str, times: int = 10**6,
                when: Callable[[Environ], bool] = lambda _: True) -> Iterator[None]:
        """Fail the next requests: ``503``, ``403``, ``drop``, ``half`` of the answer, ``slow``,
        ``lost`` (done, but the answer is lost)."""
        self._faults.append((how, times, when))
        try:
            yield
        finally:
            self._faults.clear()

    def _answer(self, environ: Environ, start: Answer) -> Iterable[bytes]:
        with self._lock:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"],
                                  environ.get("HTTP_RANGE", "")))
            how = self._fault(environ)
        if how == "drop":
            _hang_up(environ)
        if how == "slow":
            time.sleep(1)
        if how.isdigit():
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(f"{how} No", [("Content-Length", "0")])
            return [b""]
        if how == "lost":
            b"".join(self._app(environ, lambda *_: None))
            _hang_up(environ)
        if how == "half":
            return _half(environ, b"".join(self._app(environ, start)))
        return self._app(environ, start)  # type: ignore[no-any-return]

    def _fault(self, environ: Environ) -> str:
        for i, (how, times, when) in enumerate(self._faults):
            if times and when(environ):
                self._faults[i] = (how, times - 1, when)
                return how
        return ""


def _half(environ: Environ, whole: bytes) -> Iterator[bytes]:
    yield whole[: len(whole) // 2]
    _hang_up(environ)


def _hang_up(environ: Environ) -> NoReturn:
    with suppress(OSError):
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError

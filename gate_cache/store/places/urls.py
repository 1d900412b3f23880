"""Folders behind URLs, opened through obstore, with the cache that the environment names.

A store on an ordinary web server is read only. HTTP has no listing: a store's own ``zarr.json`` has
one; for stores of earlier releases, and for what is not in it, most servers show a page of links
for a folder (Python's ``http.server``, Apache, nginx with ``autoindex``), which is read here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError

from gate_cache.core.errors import RemoteError, StoreError
from gate_cache.store.format.documents import listed_names
from gate_cache.store.places.cache import cache_here
from gate_cache.store.places.folders import in_parallel
from gate_cache.store.places.refusals import reworded
from gate_cache.store.places.remote import RemoteFolder

if TYPE_CHECKING:
    from gate_cache.core.places import Url
    from gate_cache.store.places.folders import Buffer, Folder

CLIENT: dict[str, Any] = {"connect_timeout": "5s", "read_timeout": "60s", "timeout": "15m"}
RETRY: dict[str, Any] = {
    "max_retries": 10, "retry_timeout": timedelta(seconds=120),
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=8)}}


def open_remote(place: Url) -> Folder:
    """The folder behind a URL, with the cache that the environment names, if any."""
    factory: Any = obstore.store.HTTPStore if place.web else obstore.store
    options = {**CLIENT, "allow_http": _plain_http(place)}
    try:
        store = factory.from_url(str(place), client_options=options, retry_config=RETRY)
    except (BaseError, ValueError) as error:
        raise RemoteError(reworded(place, str(error))) from None
    return (WebFolder if place.web else RemoteFolder)(place, store, cache_here())


def _plain_http(place: Url) -> bool:
    """Whether the user's own endpoint is without TLS."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_ENDPOINT",
             "AZURE_STORAGE_ENDPOINT")
    return place.scheme == "http" or any(
        os.environ.get(name, "").startswith("http://") for name in names)


class WebFolder(RemoteFolder):
    """A folder of a web server."""

    def names(self, key: str = "") -> list[str]:
        known = listed_names(self, key)
        if known is not None:
            return known
        names = (name.rstrip("/") for name in self._links(key))
        return sorted(filter(str.isprintable, names))

    def there(self) -> bool:
        """Whether anything is there; servers that list nothing may still have files."""
        return self.read("zarr.json") is not None or bool(self.names())

    def bytes_below(self, key: str = "") -> int:
        links = [f"{key}/{name}".lstrip("/") for name in self._links(key)]
        folders = [link.rstrip("/") for link in links if link.endswith("/")]
        files = in_parallel(self.open_object, [n for n in links if not n.endswith("/")], self.reads)
        return sum(map(self.bytes_below, folders)) + sum(file.size for file in files if file)

    def _links(self, key: str) -> list[str]:
        page = self.read(key)
        if page is None:
            return []
        text = page.decode(errors="replace")
        if "<a " not in text.lower():
            raise StoreError(f"{self.place}: the server shows no page of links for folders, so what"
                             " is in the store cannot be known; turn its directory index on, or"
                             " copy the store to a disk or bucket")
        links = _Links(unquote(urlsplit(f"{self.place}/{key}").path).rstrip("/"))
        links.feed(text)
        return list(links.names)

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        self._refuse()

    def create(self, key: str, data: bytes) -> bool:
        self._refuse()

    def remove(self, key: str) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise StoreError(f"{self.place}: stores on web servers are only read; write to a disk, or"
                         " to s3://, gs:// or az://")


class _Links(HTMLParser):
    """Links of a page to what is directly below its folder; those to folders end with ``/``."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self._folder = folder
        self.names: dict[str, None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        link = dict(attrs).get("href") if tag == "a" else None
        parts = urlsplit(link or "")
        name = unquote(parts.path).removeprefix(self._folder + "/").removeprefix("./")
        if name and name[0] not in "./" and "/" not in name[:-1] and not parts.query:
            self.names[name] = None

"""Opening a folder behind a URL through obstore, with the cache that the environment names."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError

from gate_cache.core.errors import RemoteError
from gate_cache.store.places.cache import cache_here
from gate_cache.store.places.refusals import reworded
from gate_cache.store.places.remote import RemoteFolder
from gate_cache.store.places.web import WebFolder

if TYPE_CHECKING:
    from gate_cache.core.places import Url
    from gate_cache.store.places.folders import Folder

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

"""What a server behind a URL refuses, as one line that names the place and the way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

from gate_cache.core.errors import RemoteError

if TYPE_CHECKING:
    from gate_cache.core.places import Url

_NO_BUCKET = "there is no such bucket; make it, or look at the name"
_started: int | None = None
"""The process whose threads make the requests: threads do not survive a fork."""


@contextmanager
def remote_errors(place: Url) -> Iterator[None]:
    """Turn what obstore raises into a `RemoteError` that shows no settings, so no secrets."""
    need_threads(place)
    try:
        yield
    except FileNotFoundError:
        raise RemoteError(f"{place}: {_NO_BUCKET}") from None
    except (PermissionDeniedError, UnauthenticatedError):
        raise RemoteError(_denied(place)) from None
    except BaseError as error:
        raise RemoteError(reworded(place, str(error))) from None


def reworded(place: Url, text: str) -> str:
    """An error text of obstore as one line that shows no settings."""
    status = re.search(r"status code: (\d{3})", text)
    if "NoSuchBucket" in text or "ContainerNotFound" in text:
        return f"{place}: {_NO_BUCKET}"
    if (status and status[1] in ("401", "403")) or re.search(
            r"169\.254|redential|must be specified", text):
        return _denied(place)
    if status and status[1].startswith("5"):
        return unreachable(place, f"the server answers {status[1]}")
    if status:
        return f"{place}: the server refuses this ({status[1]}); look at the URL, and at region" \
            " and endpoint in the environment"
    if re.search("error sending request|body error|timed out|timeout|onnect", text):
        return unreachable(place, "no answer, or it broke off")
    return f"{place}: {text.splitlines()[0][:200]}"


def unreachable(place: Url, why: str) -> str:
    """The line about a server that does not answer."""
    return f"{place}: cannot be reached ({why}); what is done so far is kept, run the same" \
        " command again"


def _denied(place: Url) -> str:
    if place.web:
        return f"{place}: no permission; only public files can be read there"
    names = {"s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
             "gs": "GOOGLE_APPLICATION_CREDENTIALS"}.get(
        place.scheme.removesuffix("a"), "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY")
    return f"{place}: no permission; give credentials in the environment ({names} …)"


def need_threads(place: Url) -> None:
    """Refuse to wait forever for threads that stayed in another process."""
    global _started
    _started = _started or os.getpid()
    if _started != os.getpid():
        raise RemoteError(f"{place}: cannot be read from a forked process; start workers by 'spawn'"
                          " (multiprocessing_context of a DataLoader)")

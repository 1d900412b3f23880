"""The writer lease: one writer at a time, on one machine or on many, by claims beside a store.

A claim is a file ``.<store>.claim-<n>`` with a number of its own. A process that is to write makes
the file with the next number, which only one process can, and rewrites it every few seconds. A
claim that says it is released, whose process is dead, or that was not rewritten for a minute
(by the waiting process's clock alone) is overtaken by the next number, and its holder finds that
out before it writes another block. All that this needs of a file system is that of several
processes that make the same file one succeeds.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from gate_cache.core.errors import RemoteError, StoreError
from gate_cache.store.format.schema import Text, parse
from gate_cache.store.places.folders import Folder, is_number

if TYPE_CHECKING:
    from gate_cache.core.places import Place

BEAT, EXPIRES, LOOK = 10.0, 60.0, 1.0
"""Seconds: between two signs of life, until a silent claim is void, between two looks at it."""

_TRANSIENT = (OSError, RemoteError)
"""A disk that is full, a server that does not answer."""


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Holder:
    """What a claim's file says; by default of this process.

    Attributes
    ----------
    machine : where process numbers mean the same
    since : local time
    beats : signs of life so far
    """

    id: Text = field(default_factory=lambda: uuid.uuid4().hex)
    host: Text = field(default_factory=platform.node)
    machine: Text = field(default_factory=lambda: _machine())
    pid: Annotated[int, Field(gt=0, lt=2**31)] = field(default_factory=os.getpid)
    since: Text = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M"))
    beats: int = 0
    released: bool = False

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, raw: bytes | None) -> Holder | None:
        """What a file says; None where it is not valid."""
        content = parse(raw) or {}
        if content.keys() != {f.name for f in fields(cls)}:
            return None  # defaults are this process's: never for what a file lacks
        try:
            return cls(**content)
        except ValidationError:
            return None

    @property
    def dead(self) -> bool:
        """Whether it was a process of this machine that is not there any more."""
        return self.machine == _machine() and not _alive(self.pid)

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}"


class Claim:
    """The right to write to a store, a file's name in a folder, held until `release`."""

    def __init__(self, folder: Folder, store: str, number: int, holder: Holder) -> None:
        self._folder, self._store, self._number, self._holder = folder, store, number, holder
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(target=self._live, name="claim", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise `StoreError` if another process has overtaken this claim."""
        if self._lost or _newest(self._folder, self._store) > self._number:
            self._lost = True
            raise StoreError(f"{self._store}: another gate-cache has taken over this store, since"
                             f" this one did not renew its lock for {EXPIRES:.0f} s; what is done"
                             " is kept, run the same command again to resume")

    def release(self) -> None:
        """Let the next one write."""
        self._ended.set()
        self._thread.join()
        if self._lost:
            return
        try:
            self._write(replace(self._holder, released=True))
        except _TRANSIENT:  # files can still be removed from a full disk
            with contextlib.suppress(*_TRANSIENT):
                self._folder.remove(_file(self._store, self._number))

    def _live(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT):
            beats += 1
            with contextlib.suppress(*_TRANSIENT):
                # looked at first: a claim that was overtaken must not come to life again
                if _newest(self._folder, self._store) > self._number:
                    self._lost = True
                    return
                self._write(replace(self._holder, beats=beats))

    def _write(self, holder: Holder) -> None:
        self._folder.write(_file(self._store, self._number), [holder.encode()])


def claim(folder: Folder, store: str, path: Place, waiting: Callable[[str], None] | None) -> Claim:
    """Get the right to write to a store.

    Parameters
    ----------
    folder, store : the folder that holds the store, and the store's name in it
    path : of the store, for messages
    waiting : called with a line that names who is waited for; None: do not wait

    Raises
    ------
    StoreError
        Another process writes, and `waiting` is None.
    """
    last: tuple[int, Holder | None] = 0, None
    changed, announced = 0.0, ""
    while True:
        number = _newest(folder, store)
        other = Holder.decode(folder.read(_file(store, number))) if number else None
        if (number, other) != last:
            last, changed = (number, other), time.monotonic()
        if not number or (other and (other.released or other.dead)) \
                or time.monotonic() - changed > EXPIRES:
            mine = Holder()
            if folder.create(_file(store, number + 1), mine.encode()):
                _tidy(folder, store, number)
                return Claim(folder, store, number + 1, mine)
            continue
        if waiting is None:
            raise StoreError(f"{path}: another gate-cache ({other or 'unknown'}) is writing to this"
                             " store; wait until it ends")
        if other and other.id != announced:
            announced = other.id
            waiting(f"another gate-cache ({other}) is writing to this store: waiting until it ends")
        time.sleep(LOOK)


def identified(path: Place) -> Place:
    """A store's path as it is on the disk, whatever links, ``..`` and other spelling lead to it.

    One store has one claim, so all processes must look for it at the same place.
    """
    if not isinstance(path, Path):
        return path
    own = path.resolve()
    if own.exists() and own.name not in os.listdir(own.parent):  # a disk that ignores case
        twins = [entry.name for entry in os.scandir(own.parent)
                 if entry.name.casefold() == own.name.casefold()]
        return own.with_name(next((n for n in twins if own.with_name(n).samefile(own)), own.name))
    return own


def _newest(folder: Folder, store: str) -> int:
    """The highest number of a claim; 0 where there is none."""
    return max(_numbers(folder, store), default=0)


def _numbers(folder: Folder, store: str) -> list[int]:
    start = _file(store, 0)[:-1]
    tails = [n[len(start):] for n in folder.names() if n.startswith(start)]
    return [int(tail) for tail in tails if is_number(tail)]


def _tidy(folder: Folder, store: str, last: int) -> None:
    """Remove the claims that were overtaken, and drafts of them that killed processes left."""
    start = _file(store, 0)[:-1]
    with contextlib.suppress(*_TRANSIENT):
        for name in folder.names():
            number = name.removeprefix(start).partition(".")[0]
            if name.startswith(start) and is_number(number) and int(number) <= last:
                folder.remove(name)


def _file(store: str, number: int) -> str:
    return f".{store}.claim-{number}"


def _machine() -> str:
    """Where a process number means one process: this boot of this machine, this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return platform.node()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not permitted: another user's
        return True
    return True

"""How long work reports itself, and stops where nothing is lost. Floor 1.

The command line supplies progress that is visible.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from gate_cache.core.errors import Interrupted


class ProgressTask(Protocol):
    """One piece of long work under way."""

    def advance(self, n: int = 1) -> None:
        """Count `n` more units as done."""

    def expect(self, total: int) -> None:
        """Another number of units in all than was said at first."""


class Progress(Protocol):
    """Shows long work; see `Silent` for the simplest one."""

    def task(self, label: str, total: int, unit: str) -> AbstractContextManager[ProgressTask]:
        """Open a task of `total` units, closed at the end of the ``with`` block."""

    def say(self, line: str) -> None:
        """Show one line."""


class _SilentTask:
    def advance(self, n: int = 1) -> None:
        """Show nothing."""

    def expect(self, total: int) -> None:
        """Show nothing."""


class Silent:
    """Shows nothing: the default of every stage when used as a library."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        """A task that shows nothing."""
        yield _SilentTask()  # not itself: a subclass may count only some of its tasks

    def say(self, line: str) -> None:
        """Show nothing."""


@contextmanager
def stopping(stop: Callable[[], object], say: Callable[[str], object]) -> Iterator[None]:
    """Have Ctrl-C call `stop` within the ``with`` block, and raise at its end; say so at once.

    Outside of the main thread, or where Ctrl-C is ignored or handled by others, nothing changes.

    Raises
    ------
    KeyboardInterrupt
        There was one, and the work has stopped.
    """
    if threading.current_thread() is not threading.main_thread() \
            or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    asked = threading.Event()

    def interrupted(*_: Any) -> None:
        if asked.is_set():
            say("aborted; what is written is kept")
            os._exit(Interrupted.exit_code)  # threads may be in the middle of a pass
        asked.set()
        say("stopping after this pass; Ctrl-C once more aborts at once")
        stop()

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked.is_set():
        raise KeyboardInterrupt

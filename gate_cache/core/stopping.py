"""Ctrl-C asks long work to stop where nothing is lost; a second one ends the process. Floor 1."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

CODE = 130
"""Exit status of what Ctrl-C has ended."""


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

    def asks(*_: Any) -> None:
        if asked.is_set():
            say("aborted; what is written is kept")
            os._exit(CODE)  # threads may be in the middle of a pass
        asked.set()
        say("stopping after this pass; Ctrl-C once more aborts at once")
        stop()

    signal.signal(signal.SIGINT, asks)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked.is_set():
        raise KeyboardInterrupt

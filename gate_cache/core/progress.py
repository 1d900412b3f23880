"""How long work reports itself. Floor 1: the command line supplies a visible one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


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

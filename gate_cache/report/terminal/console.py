"""Progress for people: a bar on a terminal, plain lines elsewhere. All of it on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate_cache.core.progress import Progress, ProgressTask

EVERY_SECONDS = 10.0


def console_progress() -> Progress:
    """A bar where stderr is a terminal, else a plain line every ten seconds."""
    return Bars() if sys.stderr.isatty() else Lines()


class _Stderr:
    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class Lines(_Stderr):
    """Progress as plain lines with count, rate and time left."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        """Open a task; its first and last states are always shown."""
        task = _LineTask(label, total, unit)
        task.show()
        yield task
        task.show()


class _LineTask:
    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._began = self._shown = time.monotonic()

    def advance(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._shown >= EVERY_SECONDS:
            self.show()

    def expect(self, total: int) -> None:
        """Another number of units in all."""
        self._total = total

    def show(self) -> None:
        now = time.monotonic()
        self._shown, spent = now, now - self._began
        text = f"{self._label}: {self._done}/{self._total} {self._unit}"
        if self._done:
            rate = self._done / max(spent, 1e-9)
            left = (self._total - self._done) / rate
            text += f", {rate:.1f} {self._unit}/s, "
            text += f"{clock(left)} left" if left else f"took {clock(spent)}"
        print(text, file=sys.stderr, flush=True)


class Bars(_Stderr):
    """Progress as rich bars."""

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        """Open a bar with count, rate and time left."""
        from rich import progress as bars
        from rich.console import Console

        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(),
                   bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[rate]}"),
                   bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn())
        with bars.Progress(*columns, console=Console(stderr=True)) as progress:
            yield _BarTask(progress, progress.add_task(label, total=total, rate=""), unit)


class _BarTask:
    def __init__(self, progress: Any, number: Any, unit: str) -> None:
        self._progress, self._number, self._unit = progress, number, unit

    def advance(self, n: int = 1) -> None:
        speed = self._progress.tasks[self._number].speed
        rate = f"{speed:.1f} {self._unit}/s" if speed else self._unit
        self._progress.update(self._number, advance=n, rate=rate)

    def expect(self, total: int) -> None:
        """Another length of the bar."""
        self._progress.update(self._number, total=total)


def clock(seconds: float) -> str:
    """``3 s``, ``2:05`` or ``1:02:05``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"

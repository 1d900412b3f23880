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
        print(line, file=sys.stderr, flush=True)  # results alone are on stdout


class Lines(_Stderr):
    """Progress as plain lines with count, rate and time left."""

    _open = 0

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        """Open a task; its first and last states are shown, unless it is a short one in another."""
        task, inner = _LineTask(label, total, unit), self._open > 0
        self._open += 1
        try:
            if not inner:
                task.show()
            yield task
            if not inner or task.shown:
                task.show()
        finally:
            self._open -= 1


class _LineTask:
    def __init__(self, label: str, total: int, unit: str) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = 0
        self._began = self._last = time.monotonic()
        self.shown = False

    def advance(self, n: int = 1) -> None:
        self._done += n
        if time.monotonic() - self._last >= EVERY_SECONDS:
            self.show()

    def expect(self, total: int) -> None:
        """Another number of units in all."""
        self._total = total

    def show(self) -> None:
        now = time.monotonic()
        self.shown, self._last, spent = True, now, now - self._began
        text = f"{self._label}: {self._done}/{self._total} {self._unit}"
        if self._done:
            rate = self._done / max(spent, 1e-9)
            left = (self._total - self._done) / rate
            text += f", {rate:.1f} {self._unit}/s, "
            text += f"{clock(left)} left" if left else f"took {clock(spent)}"
        print(text, file=sys.stderr, flush=True)


class Bars(_Stderr):
    """Progress as rich bars; one within another's time stands below it until it is done."""

    _progress: Any = None

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[ProgressTask]:
        """Open a bar with count, rate and time left."""
        if outer := self._progress:  # rich refuses a second live display
            number = outer.add_task(label, total=total, rate="")
            try:
                yield _BarTask(outer, number, unit)
            finally:
                outer.remove_task(number)
            return
        from rich import progress as bars
        from rich.console import Console

        columns = (bars.TextColumn("{task.description}"), bars.BarColumn(),
                   bars.MofNCompleteColumn(), bars.TextColumn("{task.fields[rate]}"),
                   bars.TimeElapsedColumn(), bars.TextColumn("left"), bars.TimeRemainingColumn())
        with bars.Progress(*columns, console=Console(stderr=True)) as self._progress:
            progress = self._progress
            try:
                yield _BarTask(progress, progress.add_task(label, total=total, rate=""), unit)
            finally:
                self._progress = None


class _BarTask:
    def __init__(self, progress: Any, number: Any, unit: str) -> None:
        self._progress, self._number, self._unit = progress, number, unit

    def advance(self, n: int = 1) -> None:
        speed = next(t.speed for t in self._progress.tasks if t.id == self._number)
        rate = f"{speed:.1f} {self._unit}/s" if speed else self._unit
        self._progress.update(self._number, advance=n, rate=rate)

    def expect(self, total: int) -> None:
        """Another length of the bar."""
        self._progress.update(self._number, total=total)


def clock(seconds: float) -> str:
    """``3 s``, ``2:05`` or ``1:02:05``."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    hours, rest = divmod(rounded, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"

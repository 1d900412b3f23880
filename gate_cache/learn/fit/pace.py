"""How long a training will take, measured on its first steps and said while it may be stopped."""

from __future__ import annotations

import time
from collections.abc import Callable

MEASURED = 5.0
"""Seconds of steps that are measured, after the first one, which is slower than others."""
LONG = 600.0
"""Seconds from which on a training is told what would take less."""


class Pace:
    """Says once how long the steps will take, and once what validations add if that is much.

    Parameters
    ----------
    say : shows a line
    label : of the training
    steps : that are left
    every : steps between two validations
    clock : seconds that pass
    """

    def __init__(self, say: Callable[[str], None], label: str, steps: int, every: int,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._label, self._clock = say, label, clock
        self._left, self._every = steps, every
        self._at: float | None = None
        self._spent, self._steps = 0.0, 0
        self._rate = self._judging = 0.0

    def step(self) -> None:
        """A step is done."""
        self._left -= 1
        first = self._at is None
        took = self._lap()
        if first or self._rate:
            return
        self._spent, self._steps = self._spent + took, self._steps + 1
        if self._spent >= MEASURED:
            self._rate = self._spent / self._steps
            self._tell("steps alone", self._rate, "train.steps (--steps)")

    def validated(self) -> None:
        """A validation is done."""
        per_step = self._lap() / self._every
        if self._rate and not self._judging and per_step > self._rate / 2:
            self._judging = per_step
            self._tell("validations included", self._rate + per_step,
                       "train.steps (--steps), validations (train.validate_steps)")

    def _lap(self) -> float:
        """Seconds since the last step or validation."""
        now, before = self._clock(), self._at
        self._at = now
        return now - (now if before is None else before)

    def _tell(self, what: str, seconds: float, less: str) -> None:
        total = self._left * seconds
        if self._left <= 0 or total < MEASURED:
            return
        line = f"{self._label}: about {about(total)} for {self._left} steps more, {what}"
        if total > LONG:
            line += (f"; fewer {less} or a smaller head take less: {max(int(LONG / seconds), 1)}"
                     f" steps about {about(LONG)}")
        self._say(line)


def about(seconds: float) -> str:
    """``40 s``, ``12 min`` or ``3.4 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

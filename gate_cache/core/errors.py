"""Errors that name the place and the way out. Floor 1: imports nothing of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class GateCacheError(Exception):
    """Base of every error this package raises on purpose; its text is one line for a person."""

    exit_code = 1


class Interrupted(GateCacheError):
    """The user pressed Ctrl-C; what was done is kept."""

    exit_code = 130  # 128 and the number of SIGINT, as shells have it


class UserError(GateCacheError, ValueError):
    """Something the user can correct: a manifest, a file, a disk. Exit code 2."""

    exit_code = 2


class ManifestError(UserError):
    """One or more problems in a manifest, all reported at once.

    Parameters
    ----------
    problems : sequence of str
        One line each, with file, line and place.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class DataError(UserError):
    """A data set or an image is missing, damaged or not laid out as expected."""


class ModelError(UserError):
    """Model weights (backbone, ControlNet, LoRA) are missing or do not fit."""


class NotThere(ModelError):
    """A model's file or folder that is not on this machine, or not yet."""


class StoreError(UserError):
    """A store is missing, damaged, locked, or cannot be written."""


class RowNotDone(StoreError, LookupError):
    """A requested row is in no finished block."""


class DiskError(UserError, OSError):
    """The disk is full, read-only or not permitted."""


class RemoteError(GateCacheError, OSError):
    """A store behind a URL does not answer, or refuses."""

    exit_code = 2


TOLD = "told"
"""Type of the pydantic errors whose text is shown as it is."""


COMPARED = 20_000
"""Choices from which on none is looked for: that would take seconds, a minute of a million."""


class OldSpelling(FutureWarning):
    """A field is spelled as in an earlier release; it is still accepted."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest choice, else an empty string."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5) if len(names) < COMPARED else ()
    return f" (did you mean '{near[0]}'?)" if near else ""


def counted(number: int, one: str, several: str = "") -> str:
    """``1 class``, ``2 classes``; the plural ends in ``s`` unless it is given."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Join names for a message: ``a, b, c and 4 more``."""
    names = list(names)
    text = ", ".join(names[:most])
    return f"{text} and {len(names) - most} more" if len(names) > most else text

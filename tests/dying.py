"""A worker that the system ends; in a file of its own, so that it imports nothing before."""

from __future__ import annotations

import os


def die(*_: object) -> str:
    os._exit(9)

"""How many CPU threads a pass has: they decide the last bits of what it computes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gate_cache.extraction.extract import Workers

_ASKED = os.environ.get("OMP_NUM_THREADS", "")
"""As this process was started: dask sets the variable to 1 for its workers, and here as well."""


def own_threads(spread: Workers | None) -> int:
    """CPU threads of a pass in a new store: ``OMP_NUM_THREADS``, or an equal share of the cores."""
    if _ASKED.isdigit() and int(_ASKED):
        return int(_ASKED)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max((cores or 1) // (spread.workers if spread and spread.workers else 1), 1)

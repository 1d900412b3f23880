"""Versions that results and stored values can depend on."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

import gate_cache

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "zarr", "numpy", "pillow",
             "opencv-python-headless", "opencv-python")
"""Whichever of the two packages of OpenCV is there."""


def versions() -> dict[str, str]:
    """Of gate-cache, Python and the libraries that are installed, by name."""
    installed = {"gate-cache": gate_cache.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed

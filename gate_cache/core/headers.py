"""Headers of safetensors files, read without torch or the tensors; and configurations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate_cache.core.errors import ModelError

_LARGEST = 100 * 2**20  # bytes of a header; the safetensors library itself refuses 100 MB
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds.

    Attributes
    ----------
    shapes : tensor name to shape
    metadata : free texts by name, such as those of the ModelSpec standard
    whole : tensors of integers
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]
    whole: tuple[str, ...] = ()


def read_header(path: Path) -> Header:
    """Read the header of one file; `ModelError` where it is not such a file, or cut off."""
    try:
        with path.open("rb") as file:
            first = file.read(8)
            if first + file.read(len(_LFS) - 8) == _LFS:
                raise ModelError(f"{path}: a git-lfs pointer, not the weights; fetch them with"
                                 " 'git lfs pull'")
            file.seek(8)
            length, size = int.from_bytes(first, "little"), path.stat().st_size
            if size < 8 + length <= 8 + _LARGEST and file.read(1) == b"{":
                raise ModelError(f"{path}: cut off within its header; fetch it again")
            file.seek(8)
            data = json.loads(file.read(min(length, _LARGEST)))  # a length may be any 8 bytes
        metadata = dict(data.pop("__metadata__", None) or {})
        shapes = {str(name): tuple(map(int, t["shape"])) for name, t in data.items()}
        whole = tuple(n for n, t in data.items() if str(t["dtype"])[:1] in "IU")
        end = 8 + length + max((int(t["data_offsets"][1]) for t in data.values()), default=0)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ModelError(f"{path}: not a safetensors file"
                         f"{' (it is empty)' if not size else ''}; fetch it again") from None
    if size < end:
        raise ModelError(f"{path}: cut off: {size} of {end} bytes; fetch it again")
    return Header(shapes, {str(k): str(v) for k, v in metadata.items()}, whole)


def read_config(path: Path, expected: str = "expected diffusers layout") -> dict[str, Any]:
    """Read a JSON object; else `ModelError`, in which `expected` says what should be there."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not JSON"
        raise ModelError(f"{path}: cannot be read ({reason}); {expected}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path}: not a JSON object; {expected}")
    return config

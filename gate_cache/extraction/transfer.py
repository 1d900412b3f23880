"""From a device into a block's memory: cast and tested where maps are, copied while it works on.

On a GPU nothing waits but for the end of a copy: maps are cast to what is stored, copied by a
stream of their own into pinned memory, and an event says when they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy.typing as npt
import torch

from gate_cache.store.format.encodings import SCALE, Encoding, Part

_LARGEST = 127
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny
_BITS = {torch.float16: (torch.int16, 10), torch.float32: (torch.int32, 23)}
"""Integers of the same size, and bits of the mantissa."""

Parts = Mapping[str, torch.Tensor]
"""Suffix of a stored array to its rows."""


class Move(NamedTuple):
    """Rows of one map on their way.

    Attributes
    ----------
    values : (n, C, h, w), on the device
    into : the memory for them, of the stored dtypes
    """

    values: torch.Tensor
    into: Parts


class Transfer:
    """Copies maps from a device into `HostMemory`.

    Parameters
    ----------
    device : where the maps are
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, encoding: Encoding, moves: Sequence[Move]) -> Callable[[], bool]:
        """Begin to copy.

        Returns
        -------
        What waits until all is there, and says whether it fits: every value is finite, and is so
        as it is stored
        """
        if self._stream is not None:
            return self._beside(self._stream, encoding, moves)
        for values, into in moves:
            if values.device.type == "cpu" and encoding.direct and encoding.keep_bits is None:
                into[""].copy_(values)  # cast on the way
                continue
            for suffix, part in encode(encoding, values).items():
                into[suffix].copy_(part)
        return lambda: bool(_extremes([into for _, into in moves]).isfinite().all())

    def _beside(self, stream: Any, encoding: Encoding,
                moves: Sequence[Move]) -> Callable[[], bool]:
        stored = [encode(encoding, values) for values, _ in moves]
        extremes = _extremes(stored)
        host_extremes = torch.empty(extremes.shape, dtype=extremes.dtype, pin_memory=True)
        copies = [(into[suffix], part) for parts, (_, into) in zip(stored, moves, strict=True)
                  for suffix, part in parts.items()]
        stream.wait_stream(torch.cuda.current_stream(extremes.device))
        with torch.cuda.stream(stream):
            for host, part in [*copies, (host_extremes, extremes)]:
                host.copy_(part, non_blocking=True)
                part.record_stream(stream)
            there: Any = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            there.record(stream)

        def arrived() -> bool:
            there.synchronize()
            return bool(host_extremes.isfinite().all())
        return arrived


def encode(encoding: Encoding, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """As `gate_cache.store.format.codes.encode`, to the bit, on the device that the values are on.

    What does not fit is infinite, or its scale is not finite.

    Parameters
    ----------
    values : (n, C, h, w)
    """
    if encoding.dtype == "int8":
        return _to_int8(values.float())
    stored = values.to(getattr(torch, encoding.dtype), memory_format=torch.contiguous_format)
    return {"": stored if encoding.keep_bits is None else _rounded(stored, encoding.keep_bits)}


def _to_int8(values: torch.Tensor) -> dict[str, torch.Tensor]:
    least = -values.amin((2, 3))  # the scale of a channel of zeros, whose sign numpy's has too
    largest = torch.maximum(values.amax((2, 3)), least)
    scale = largest / torch.full_like(largest, _LARGEST)  # by a number, CUDA would multiply
    scale = torch.where(largest > 0, scale.clamp_min(_SMALLEST_SCALE), least)
    steps = torch.where(scale > 0, scale, 1.0)
    codes = (values / steps[..., None, None]).round_().to(
        torch.int8, memory_format=torch.contiguous_format)
    return {"": codes, SCALE: scale}


def _rounded(values: torch.Tensor, keep: int) -> torch.Tensor:
    """All bits of the mantissa but the first ones rounded to 0; to nearest, ties to even."""
    kind, mantissa = _BITS[values.dtype]
    drop, bits = mantissa - keep, values.view(kind)
    last = (bits >> drop) & 1
    return ((bits + last + ((1 << (drop - 1)) - 1)) & -(1 << drop)).view(values.dtype)


def _extremes(stored: Sequence[Parts]) -> torch.Tensor:
    """Least and greatest value of each map, or of its scales; NaN where there is a NaN."""
    return torch.stack([end for parts in stored for end in parts.get(SCALE, parts[""]).aminmax()])


class Buffers(NamedTuple):
    """One block of a group: the same memory as tensors and as arrays, by name."""

    tensors: dict[str, torch.Tensor]
    arrays: dict[str, npt.NDArray[Any]]


class HostMemory:
    """Memory of blocks, used again: pinned where a GPU copies into it.

    Parameters
    ----------
    pinned : whether it is
    """

    def __init__(self, pinned: bool) -> None:
        self._pinned = pinned
        self._free: dict[int, list[torch.Tensor]] = {}
        self._lock = Lock()

    def take(self, parts: Mapping[str, Part], rows: int) -> Buffers:
        """Memory for so many rows of each array; what it holds is of no meaning."""
        found = Buffers({}, {})
        for name, part in parts.items():
            raw = self._raw(rows * part.nbytes)
            array = raw.numpy().view(part.dtype).reshape(rows, *part.shape)
            kind = torch.bfloat16 if part.dtype == "uint16" else getattr(torch, part.dtype)
            found.tensors[name] = raw.view(kind).view(rows, *part.shape)
            found.arrays[name] = array
        return found

    def _raw(self, size: int) -> torch.Tensor:
        with self._lock:
            free = self._free.get(size)
            if free:
                return free.pop()
        return torch.empty(size, dtype=torch.uint8, pin_memory=self._pinned)

    def drop(self) -> None:
        """Free what is not in use: what comes has other sizes."""
        with self._lock:
            self._free.clear()

    def give_back(self, buffers: Buffers) -> None:
        """Let memory be used again."""
        with self._lock:
            for tensor in buffers.tensors.values():
                raw = tensor.view(-1).view(torch.uint8)
                self._free.setdefault(raw.numel(), []).append(raw)

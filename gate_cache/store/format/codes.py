"""The arithmetic of `gate_cache.store.format.encodings`: from values to stored arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.bitround import BitRound

from gate_cache.store.format.encodings import (
    BFLOAT16_BITS,
    BFLOAT16_NAN,
    INT8_VOID,
    SCALE,
    Encoding,
)

Array = npt.NDArray[Any]
Parts = Mapping[str, Array]
"""Suffix of a stored array to its rows."""

_LARGEST = np.float32(127)
_SMALLEST_SCALE = np.finfo(np.float32).tiny


class DoesNotFit(ValueError):
    """A value is beyond the largest that is stored."""


def encode(encoding: Encoding, values: Array) -> dict[str, Array]:
    """What is stored of some rows.

    Parameters
    ----------
    values : (n, C, h, w), finite, or NaN throughout a row whose image is gone

    Returns
    -------
    Suffix to rows of each of `Encoding.parts`, contiguous

    Raises
    ------
    DoesNotFit
        A value is too large.
    """
    if encoding.dtype == "int8":
        return _to_int8(np.asarray(values, np.float32))
    if encoding.dtype == "bfloat16":
        rows = _to_bfloat16(np.asarray(values, np.float32))
        infinite = bool(((rows & 0x7FFF) == 0x7F80).any())
    else:
        with np.errstate(over="ignore"):
            rows = np.ascontiguousarray(values, encoding.dtype)
        if encoding.keep_bits is not None:
            rows = _rounded(rows, encoding.keep_bits)
        infinite = _infinite(rows)
    if infinite:
        raise DoesNotFit(f"values beyond {encoding.dtype}")
    return {"": rows}


def decode(encoding: Encoding, parts: Parts, out: Array) -> None:
    """Fill (n, C, h, w) of `Encoding.read_dtype` with the values of stored rows."""
    if encoding.dtype == "int8":
        np.multiply(parts[""], parts[SCALE][..., None, None], out=out, casting="same_kind")
    elif encoding.dtype == "bfloat16":
        np.left_shift(parts[""], np.uint32(16), out=out.view(np.uint32), dtype=np.uint32)
    else:
        out[...] = parts[""]


def _infinite(values: Array) -> bool:
    """Whether any is; by its bits, since numpy's own test of float16 takes ten times as long."""
    mask, infinity = {2: (0x7FFF, 0x7C00), 4: (0x7FFFFFFF, 0x7F800000)}[values.itemsize]
    bits = values.view(f"u{values.itemsize}")
    return bool(((bits & bits.dtype.type(mask)) == infinity).any())


def _to_int8(values: Array) -> dict[str, Array]:
    """Symmetric: −127 … 127 steps of a 127th of each channel's largest value."""
    largest = np.maximum(values.max((2, 3), initial=0), -values.min((2, 3), initial=0))
    scale = largest / _LARGEST
    scale[largest > 0] = np.maximum(scale[largest > 0], _SMALLEST_SCALE)
    steps = np.where(scale > 0, scale, np.float32(1))  # an empty channel; NaN stays out as well
    quantized = values / steps[..., None, None]
    np.rint(quantized, out=quantized)
    void = np.isnan(largest)
    if void.any():
        quantized[void] = INT8_VOID
    return {"": quantized.astype(np.int8), SCALE: scale}


def _to_bfloat16(values: Array) -> Array:
    """The high half of each float32, rounded to nearest, ties to even."""
    bits = (_rounded(values, BFLOAT16_BITS).view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    void = np.isnan(values)
    if void.any():
        bits[void] = BFLOAT16_NAN
    return bits


def _rounded(values: Array, keep: int) -> Array:
    """All bits of the mantissa but the first ones rounded to 0; NaN stays NaN."""
    rounded = np.asarray(BitRound(keep).encode(np.ascontiguousarray(values))).view(values.dtype)
    void = np.isnan(values)
    if void.any():
        rounded[void] = np.nan
    return rounded

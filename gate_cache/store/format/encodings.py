"""How values are stored: chosen in a manifest's ``store``, stated on every group.

No numpy or zarr, so that a plan can use it; the arithmetic is in `gate_cache.store.format.codes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gate_cache.core.codecs import Codec
from gate_cache.core.errors import StoreError
from gate_cache.core.features import MANTISSA_BITS, nbytes

SCALE = ".scale"
"""End of the name of the array that holds a map's scales."""
ENCODING = "encoding"
"""Attribute of a group."""


@dataclass(frozen=True)
class Part:
    """One array that a map is stored in.

    Attributes
    ----------
    suffix : of its name, after the map's
    shape : of one image's row
    fill : what a row holds that was never written, or whose image is gone
    decode : how values come of it, for readers that do not know this package
    """

    suffix: str
    dtype: str
    shape: tuple[int, ...]
    fill: float
    decode: str = ""

    def has_void(self, rows: Any) -> bool:
        """Whether any of these stored rows, an array (n, …), is one without an image."""
        if self.fill != self.fill:
            return bool((rows != rows).any())
        return bool((rows == self.fill).reshape(len(rows), -1).all(1).any())

    @property
    def nbytes(self) -> int:
        """Of one row, uncompressed."""
        return nbytes(self.shape, self.dtype)


@dataclass(frozen=True)
class Encoding:
    """How the maps of a group are stored.

    Attributes
    ----------
    dtype : ``float16``, ``float32``, ``bfloat16``, or ``int8`` with a scale for each channel
        of each image
    keep_bits : of the mantissa of a float16 or float32, the others are rounded to 0; None for all
    codec : that compresses the bytes, without loss; None for none
    """

    dtype: str = "float16"
    keep_bits: int | None = None
    codec: Codec | None = None

    @classmethod
    def of(cls, asked: Encoding | str) -> Encoding:
        """An encoding, or the one that is a bare dtype."""
        return asked if isinstance(asked, Encoding) else cls(asked)

    @classmethod
    def parse(cls, data: Any) -> Encoding:
        """Read ``{"name", "configuration"}``; a ValueError says what is not known of it."""
        if not isinstance(data, Mapping):
            raise ValueError(repr(data)[:40])
        name, settings = data.get("name"), data.get("configuration", {})
        if not isinstance(name, str) or name not in _PARTS or not isinstance(settings, Mapping):
            raise ValueError(repr(name)[:40])
        keep, codec = settings.get("keep_bits"), settings.get("codec")
        if keep is not None and (type(keep) is not int or
                                 keep not in range(MANTISSA_BITS.get(name, 0))):
            raise ValueError(f"keep_bits: {keep!r:.40}")
        if unknown := set(settings) - {"keep_bits", "codec"}:
            raise ValueError(repr(sorted(unknown)[0])[:40])
        return cls(name, keep, None if codec is None else Codec.parse(codec))

    def to_json(self) -> dict[str, Any]:
        """``{"name", "configuration"}``, as `parse` reads it."""
        settings: dict[str, Any] = {} if self.keep_bits is None else {"keep_bits": self.keep_bits}
        settings |= {"codec": self.codec.to_json()} if self.codec else {}
        return {"name": self.dtype, "configuration": settings}

    def __str__(self) -> str:
        kept = f" ({self.keep_bits} bits kept)" if self.keep_bits is not None else ""
        return f"{self.dtype}{kept}{f' + {self.codec}' if self.codec else ''}"

    @property
    def direct(self) -> bool:
        """Whether the stored array holds the values themselves."""
        return self.dtype in MANTISSA_BITS

    @property
    def read_dtype(self) -> str:
        """Numpy name of what is handed out."""
        return self.dtype if self.direct else "float32"

    @property
    def bound(self) -> float:
        """Largest error of a value relative to itself; of int8 relative to its channel's largest.

        Values too small for the exponent are off by half the smallest step at most instead.
        """
        if self.dtype == "int8":
            return 0.5 / _INT8
        bits = BFLOAT16_BITS if self.dtype == "bfloat16" else MANTISSA_BITS[self.dtype]
        whole = 0.0 if bits == MANTISSA_BITS["float32"] else 2.0 ** -(bits + 1)
        return whole if self.keep_bits is None else whole + 2.0 ** -(self.keep_bits + 1)

    @property
    def error(self) -> str:
        """The largest error, for people; empty where there is none."""
        of = "the largest of its channel" if self.dtype == "int8" else "the value"
        return f"at most {100 * self.bound:.2g} % of {of}" if self.bound else ""

    def parts(self, shape: tuple[int, ...]) -> tuple[Part, ...]:
        """The arrays that a map is stored in, in the order checksums run over them.

        Parameters
        ----------
        shape : (C, h, w) of one image's map
        """
        return _PARTS[self.dtype](self.dtype, shape)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of one image's map, uncompressed."""
        return sum(part.nbytes for part in self.parts(shape))


_INT8 = 127
BFLOAT16_BITS = 7
_NAN = float("nan")
BFLOAT16_NAN = 0x7FC0
INT8_VOID = -128


def _direct(dtype: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    return (Part("", dtype, shape, _NAN),)


def _bfloat16(_: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    return (Part("", "uint16", shape, BFLOAT16_NAN,
                 "bfloat16: the high 16 bits of a float32, whose low bits are 0"),)


def _int8(_: str, shape: tuple[int, ...]) -> tuple[Part, ...]:
    return (Part("", "int8", shape, INT8_VOID,
                 f"times its channel's scale, in the array of this name and '{SCALE}'"),
            Part(SCALE, "float32", shape[:1], _NAN))


_PARTS = {**dict.fromkeys(MANTISSA_BITS, _direct), "bfloat16": _bfloat16, "int8": _int8}


def encoding_of(place: str, attrs: Mapping[str, Any], dtype: str) -> Encoding:
    """The encoding that a group states; `dtype` is that of one made before groups stated it.

    Raises
    ------
    StoreError
        It is not known here.
    """
    try:
        return Encoding.parse(attrs.get(ENCODING, {"name": dtype}))
    except ValueError as error:
        raise StoreError(f"{place}: is stored in a way that this gate-cache does not know"
                         f" ({error}); upgrade gate-cache") from None

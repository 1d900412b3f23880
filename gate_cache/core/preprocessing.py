"""How an image becomes the model's input: fit, resampling filter and background. No numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

from gate_cache.core.size import SHAPES, Fit, Shapes, Sides, Size, Tiling

Resample = Literal["bicubic", "lanczos", "bilinear", "opencv"]
"""Filter of enlarging and of shrinking: Pillow's of that name, which are antialiased, or the first
release's ``opencv``: area averages where the longer side shrinks, else cubic without antialiasing.
"""
FIRST: Resample = "opencv"
"""What a recipe means that names no filter."""
Color = tuple[int, int, int]
WHITE: Color = (255, 255, 255)


class ImageOptions(Protocol):
    """What a manifest's ``model`` section says of it."""

    @property
    def fit(self) -> Fit:
        """As `Preprocessing`."""

    @property
    def resample(self) -> Resample:
        """As `Preprocessing`."""

    @property
    def background(self) -> str:
        """``#rrggbb``, or empty where none is given."""


def parse_color(value: Any) -> str:
    """A colour as ``#rrggbb``: of a name or code that CSS knows, or of three numbers; ``""`` stays.

    Raises
    ------
    ValueError
        It is none, or is transparent itself.
    """
    from PIL import ImageColor

    if value == "":  # not given, as a run's configuration has it
        return ""
    if isinstance(value, str):
        try:
            value = ImageColor.getrgb(value)
        except ValueError:
            value = ()
    if not _is_rgb(value):
        raise ValueError("expected a colour: a name such as white, '#rrggbb' in quotes (else YAML"
                         " takes it for a comment), or three numbers of 0 … 255")
    return "#{:02x}{:02x}{:02x}".format(*value)


def _is_rgb(value: Any) -> bool:
    return isinstance(value, Sequence) and len(value) == 3 and all(
        isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255 for v in value)


@dataclass(frozen=True)
class Preprocessing:
    """How images become the model's input.

    Attributes
    ----------
    size : of it, in pixels
    fit : how an image lies in it
    resample : filter
    background : what transparent pixels are laid on; None: alpha is dropped, so that they show
        what lies under it, as in the first release
    tiles : that it is cut into, each for a pass of its own; None: it goes through as a whole
    shapes : as of `Frame`
    """

    size: Size
    fit: Fit = "squash"
    resample: Resample = "bicubic"
    background: Color | None = WHITE
    tiles: Tiling | None = None
    shapes: Shapes = ()

    @classmethod
    def of(cls, model: ImageOptions, size: Sides = 0, tiles: Tiling | None = None,
           shapes: Shapes = ()) -> Preprocessing:
        """What a manifest says; the first release's filter implies that alpha is dropped, too."""
        background = None if model.resample == FIRST else WHITE
        if model.background:
            red, green, blue = bytes.fromhex(model.background[1:])
            background = (red, green, blue)
        return cls(Size.of(size), model.fit, model.resample, background, tiles, shapes)

    def at(self, shape: Size) -> Preprocessing:
        """Of images that have this one of the shapes."""
        return replace(self, size=shape, shapes=())

    @property
    def settings(self) -> dict[str, Any]:
        """Filter and background, as recipes name them."""
        code = "#{:02x}{:02x}{:02x}".format(*self.background) if self.background else None
        return {"resample": self.resample, "background": code}

    @property
    def recipe(self) -> dict[str, Any]:
        """Of `settings` what differs from the first release's, whose recipes say nothing; and the
        shapes."""
        shapes = {SHAPES: list(map(list, self.shapes))} if self.shapes else {}
        return {k: v for k, v in self.settings.items() if v != FIRST_SETTINGS[k]} | shapes


FIRST_SETTINGS: dict[str, Any] = {"resample": FIRST, "background": None}

"""Charts of matplotlib as inline SVG that follows the page's colours, light or dark.

Colours are drawn as marks that stand for the page's own (see ``style.css``) and replaced by them.
Letters stay letters: sharp, small, to be found and copied. They are laid out by matplotlib's own
font, which is everywhere, and wider than those that a browser takes: none are cut or overlap.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path

from markupsafe import escape
from matplotlib import rc_context, rc_params_from_file
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gate_cache.report.html.page import Html

INK, MUTED, LINE, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0202{i:02x}" for i in range(8))
GATE, SINGLE, UNIFORM = SERIES[:3]
"""Colours of what is compared, everywhere the same."""
MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = dict(zip(SERIES, ("-", "--", "-.", ":", "--", "-.", "-", "-"), strict=True))
"""How a colour's line is drawn: those that have a meaning are told apart without it."""
STROKES = {"-": None, "--": "7 3", "-.": "8 3 2 3", ":": "2 3"}
"""The same in an SVG of our own."""
_NAMES = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", PAPER: "var(--paper)",
          **{c: f"var(--c{i})" for i, c in enumerate(SERIES)}}
_STYLE = rc_params_from_file(Path(__file__).with_name("charts.mplstyle"),
                             use_default_template=False)


class Chart:
    """A figure of one or more axes.

    Parameters
    ----------
    size : width and height in pixels
    name : ids inside the SVG begin with it, and with a digest of what is drawn: pages may hold
        charts of several runs
    """

    def __init__(self, name: str, size: tuple[float, float]) -> None:
        self._name = re.sub(r"[^a-z0-9]+", "-", name.lower())
        self._size = size
        self._style = rc_context({**_STYLE, "svg.hashsalt": name})

    def __enter__(self) -> tuple[Chart, Axes]:
        self._style.__enter__()
        self.figure = Figure(figsize=(self._size[0] / 72, self._size[1] / 72),
                             layout="constrained")
        return self, self.figure.add_subplot()

    def __exit__(self, *_: object) -> None:
        self._style.__exit__(None, None, None)

    def svg(self, alt: str) -> Html:
        """The picture, with a sentence that says what it shows."""
        file = io.StringIO()
        self.figure.savefig(file, format="svg", metadata={"Date": None})
        return _inlined(file.getvalue(), self._name, alt)


def _inlined(drawn: str, name: str, alt: str) -> Html:
    svg = drawn[drawn.index("<svg"):]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.S)
    svg = re.sub(r' id="(?:figure|axes|patch|text|line2d|xtick|ytick|matplotlib\.axis|legend|'
                 r'PathCollection|LineCollection|QuadMesh|PolyCollection|FillBetweenPolyCollection'
                 r')_\d+"', "", svg)
    key = f"{name}-{digest(svg)}"  # all charts of a page share one space of ids
    svg = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r'\s(?:xmlns(?::xlink)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href")
    for mark, colour in _NAMES.items():
        svg = svg.replace(mark, colour)
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0]
    svg = re.sub(r'width="[^"]*"', f'width="{width}"', svg, count=1)
    svg = re.sub(r'height="[^"]*"', f'height="{height}"', svg, count=1)
    # nobody sees less than a hundredth of a pixel; labels, between tags, keep their digits
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    return Html(svg.replace("<svg", f'<svg role="img" aria-label="{escape(alt)}"', 1))


def digest(*parts: str) -> str:
    """A few letters that stand for these texts in an id."""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]

"""Markup from Python: everything is escaped that was not made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

VOID = {"meta", "br", "img", "image", "circle", "line", "path", "rect", "link"}


class Html(str):
    """Markup; any other text is escaped where it becomes part of some."""

    __slots__ = ()


Child = str | Html | int | float | None


def text(value: Child) -> Html:
    """A value as markup: escaped, unless it is markup already; None is nothing."""
    if isinstance(value, Html):
        return value
    return Html("" if value is None else escape(str(value), quote=True))


def join(parts: Iterable[Child], between: str = "") -> Html:
    """Parts one after the other; `between` is markup."""
    return Html(between.join(text(part) for part in parts))


def tag(name: str, /, *children: Child, **attributes: Child) -> Html:
    """An element.

    Parameters
    ----------
    attributes : ``class_`` for class, ``_`` for ``-``; False and None leave one out, True gives it
        without a value
    """
    written = "".join(_attribute(k, v) for k, v in attributes.items()
                      if v is not None and v is not False)
    if name in VOID:
        return Html(f"<{name}{written}>" if name in ("meta", "br", "img", "link")
                    else f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def _attribute(name: str, value: Child) -> str:
    plain = name.rstrip("_").replace("_", "-")
    return f" {plain}" if value is True else f' {plain}="{escape(str(value), quote=True)}"'

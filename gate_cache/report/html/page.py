"""Building blocks of a page: its shell, sections, tables, figures, folds.

A report, of one run or of several, is `document(title, sections)`; see ``docs/report.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gate_cache

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

    Of attributes' names ``class_`` is for class, and ``_`` for ``-``; False and None leave one out,
    True gives it without a value.
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


HERE = Path(__file__).parent


@dataclass(frozen=True)
class Section:
    """A part of a page, with its place in the contents."""

    title: str
    body: Html

    @property
    def id(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") or "section"


@dataclass(frozen=True)
class PageCell:
    """A cell of a table.

    Attributes
    ----------
    content : text, or markup
    sort : what a sortable table goes by; by default the content
    note : a smaller second line
    strong : the best of its column, or the one to look at
    """

    content: Child
    sort: float | str | None = None
    note: Child = None
    strong: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    note : a smaller second line: a unit, a split
    words : of text, to the left; numbers are to the right
    """

    title: str
    note: str = ""
    words: bool = False


@dataclass(frozen=True)
class PageRow:
    """A row of a table; its first cell is its head."""

    cells: Sequence[PageCell | Child]
    strong: bool = False


def section(title: str, *parts: Child) -> Section:
    return Section(title, join(parts))


def document(title: str, sections: Iterable[Section], *, lead: Child = None,
             about: Child = None) -> str:
    """A whole page as text, to be written as UTF-8.

    `about` is a line below its only h1, `lead` what is most important, before all sections; of two
    sections of one title each gets an id of its own.
    """
    named = _numbered(list(sections))
    links = [tag("li", tag("a", s.title, href=f"#{key}")) for key, s in named.items()]
    body = [tag("header", tag("h1", title), tag("p", about, class_="about") if about else None),
            tag("div", lead, class_="lead") if lead else None,
            tag("nav", tag("ul", *links), aria_label="Contents") if len(links) > 1 else None,
            tag("main", *(tag("section", tag("h2", s.title, id=key), s.body, aria_labelledby=key)
                          for key, s in named.items())),
            tag("footer", tag("p", f"Written by gate-cache {gate_cache.__version__}."))]
    head = [tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title), tag("style", Html(_asset("style.css")))]
    page = tag("html", tag("head", *head),
               tag("body", *body, tag("script", Html(_asset("sort.js")))), lang="en")
    return f"<!doctype html>\n{page}\n"


def _numbered(sections: Sequence[Section]) -> dict[str, Section]:
    by_id: dict[str, Section] = {}
    for section in sections:
        key, number = section.id, 2
        while key in by_id:
            key, number = f"{section.id}-{number}", number + 1
        by_id[key] = section
    return dict(zip(by_id, _own_ids(list(by_id.values()), set(by_id)), strict=True))


def _own_ids(sections: Sequence[Section], taken: set[str]) -> Iterator[Section]:
    """Sections in which no id is that of another: equal charts of several runs have equal ones."""
    for number, section in enumerate(sections):
        body = section.body
        own = set(re.findall(r' id="([^"]+)"', body))
        for key in sorted(own & taken):
            body = Html(re.sub(rf'(id="|#){re.escape(key)}(?=[")])', rf"\g<1>{key}-{number}", body))
        taken |= own
        yield Section(section.title, body)


def table(columns: Sequence[Column], rows: Sequence[PageRow], caption: str,
          sortable: bool = False) -> Html:
    """A table in a box of its own that scrolls where the page is narrow.

    The first column is that of the rows' heads; the caption is also read aloud in the box's place;
    a click on a head of a `sortable` table sorts its rows.
    """
    head = tag("tr", *(tag("th", tag("span", c.title), tag("small", c.note) if c.note else None,
                           scope="col", class_="words" if c.words or not i else None)
                       for i, c in enumerate(columns)))
    element = tag("table", tag("caption", tag("span", caption)), tag("thead", head),
                  tag("tbody", *(_row(row, columns) for row in rows)),
                  class_="sortable" if sortable else None)
    return tag("div", element, class_="scroll", tabindex="0", role="region", aria_label=caption)


def _row(row: PageRow, columns: Sequence[Column]) -> Html:
    cells = [c if isinstance(c, PageCell) else PageCell(c) for c in row.cells]
    elements = []
    for i, (cell, column) in enumerate(zip(cells, columns, strict=True)):
        names = [n for n, on in (("words", column.words or not i), ("strong", cell.strong)) if on]
        inside = [cell.content, tag("small", cell.note) if cell.note is not None else None]
        elements.append(tag("td" if i else "th", *inside, scope=None if i else "row",
                            class_=" ".join(names) or None, data_sort=cell.sort))
    return tag("tr", *elements, class_="strong" if row.strong else None)


def figure(body: Child, caption: Child) -> Html:
    """A picture or a chart with its caption."""
    return tag("figure", body, tag("figcaption", caption))


def panels(figures: Iterable[Child]) -> Html:
    return tag("div", *figures, class_="panels")


def fold(summary: str, *parts: Child, opened: bool = False) -> Html:
    """Parts that are shown on a click; a closed one is not printed."""
    return tag("details", tag("summary", summary), *parts, open=opened)


def facts(pairs: Mapping[str, Child]) -> Html:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value))
                       for name, value in pairs.items()))


def paragraph(*parts: Child, note: bool = False) -> Html:
    """A paragraph; a note is smaller."""
    return tag("p", *parts, class_="note" if note else None)


def code(lines: str) -> Html:
    return tag("pre", tag("code", lines), tabindex="0")


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")

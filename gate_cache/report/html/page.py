"""Building blocks of a page: its shell, sections, tables, figures, folds.

A report, of one run or of several, is `document(title, sections)`; see ``docs/report.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape_silent

import gate_cache

HERE = Path(__file__).parent
Html = Markup
"""Markup; any other text is escaped where it becomes part of some (markupsafe)."""
Child = str | Html | int | float | None
_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, finalize=lambda value: "" if value is None else value)
_TEMPLATES.filters["n"] = "{:.1f}".format


def render(template: str, **values: Any) -> Html:
    """A file of ``templates/`` with these values in it; None is nothing."""
    return Html(_TEMPLATES.get_template(f"{template}.html").render(values))


def join(parts: Iterable[Child], between: str = "") -> Html:
    """Parts one after the other; `between` is markup, and None is nothing."""
    return Html(between).join(map(escape_silent, parts))


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
    page = render("page", title=title, sections=_numbered(list(sections)), lead=lead, about=about,
                  style=Html(_asset("style.css")), script=Html(_asset("sort.js")),
                  version=gate_cache.__version__)
    return f"{page}\n"  # jinja leaves the last line's end out


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
        body = str(section.body)  # `re` would join pieces of markup by its own join, which escapes
        own = set(re.findall(r' id="([^"]+)"', body))
        for key in sorted(own & taken):
            body = re.sub(rf'(id="|#){re.escape(key)}(?=[")])', rf"\g<1>{key}-{number}", body)
        taken |= own
        yield Section(section.title, Html(body))


def table(columns: Sequence[Column], rows: Sequence[PageRow], caption: str,
          sortable: bool = False) -> Html:
    """A table in a box of its own that scrolls where the page is narrow.

    The first column is that of the rows' heads; the caption is also read aloud in the box's place;
    a click on a head of a `sortable` table sorts its rows.
    """
    shown = [replace(row, cells=[c if isinstance(c, PageCell) else PageCell(c) for c in row.cells])
             for row in rows]
    return render("table", columns=columns, rows=shown, caption=caption, sortable=sortable)


def heading(title: str) -> Html:
    return Html("<h3>{}</h3>").format(title)


def figure(body: Child, caption: Child) -> Html:
    """A picture or a chart with its caption."""
    return Html("<figure>{}<figcaption>{}</figcaption></figure>").format(body, caption)


def panels(figures: Iterable[Child]) -> Html:
    return Html('<div class="panels">{}</div>').format(join(figures))


def fold(summary: str, *parts: Child, opened: bool = False) -> Html:
    """Parts that are shown on a click; a closed one is not printed."""
    return Html("<details{}><summary>{}</summary>{}</details>").format(
        " open" * opened, summary, join(parts))


def facts(pairs: Mapping[str, Child]) -> Html:
    pair = Html("<div><dt>{}</dt><dd>{}</dd></div>")
    return Html("<dl>{}</dl>").format(join(pair.format(*item) for item in pairs.items()))


def paragraph(*parts: Child, note: bool = False) -> Html:
    """A paragraph; a note is smaller."""
    return Html("<p{}>{}</p>").format(Html(' class="note"') * note, join(parts))


def bullets(items: Iterable[Child]) -> Html:
    return Html("<ul>{}</ul>").format(join(map(Html("<li>{}</li>").format, items)))


def code(lines: str) -> Html:
    return Html('<pre tabindex="0"><code>{}</code></pre>').format(lines)


def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")

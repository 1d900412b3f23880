"""Every command with its arguments and options, taken from the command line itself.

A page says ``{{ commands }}`` where they go, so it cannot grow stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

import click
import typer

from gate_cache.cli import app as cli

MARK = "{{ commands }}"
PAGE = "reference/cli"
SHARED = 6
"""Commands that must have an option for it to be told once, for all of them."""
Row = tuple[str, str]
"""An argument or an option, and what it is."""


def pages() -> str:
    """Options that many commands have, then all commands in the order of ``gate-cache --help``."""
    group: Any = typer.main.get_command(cli)
    count = Counter(row for c in group.commands.values() for row in _options(c))
    shared = [row for row, times in count.items() if times >= SHARED]
    lines = ["## Options of many commands\n", *_table("option", shared)]
    for name, command in group.commands.items():
        lines += _command(name, command, shared)
    return "\n".join(lines)


def _command(name: str, command: click.Command, shared: Sequence[Row]) -> Iterator[str]:
    context = click.Context(command, info_name=f"gate-cache {name}")
    yield f"## {name}\n"
    yield f"{command.help}\n"
    yield f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n"
    own = [row for row in _options(command) if row not in shared]
    yield from _table("argument", [(p.make_metavar(context), _told(command, p))
                                   for p in command.params if isinstance(p, click.Argument)])
    yield from _table("option", own)
    also = [f"`{row[0].split()[0]}`" for row in _options(command) if row in shared]
    if also:
        yield f"{'Also' if own else 'Options:'} {', '.join(also)}.\n"


def _options(command: click.Command) -> list[Row]:
    return [(_names(p), _help(p)) for p in command.params
            if isinstance(p, click.Option) and not p.hidden]


def _table(kind: str, rows: Sequence[Row]) -> Iterator[str]:
    if rows:
        yield f"| {kind} | |\n|---|---|"
        for name, text in rows:
            yield f"| `{name}` | {text} |".replace("<", "&lt;")
        yield ""


def _names(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.type.name.removesuffix(' range').upper()}"
    return " ".join(option.opts) + value


def _told(command: click.Command, argument: click.Argument) -> str:
    """An argument's help as its function's annotation has it: newer clicks take it from typer."""
    hints = get_type_hints(command.callback, include_extras=True)
    return next((str(m.help) for m in getattr(hints.get(argument.name), "__metadata__", ())
                 if getattr(m, "help", None)), "")


def _help(option: click.Option) -> str:
    text, default = option.help or "", option.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool)
    return f"{text} [{default}]".strip() if plain and default not in ("", 0) else text


def _fill(app: Any, name: str, source: list[str]) -> None:
    if name == PAGE:
        source[0] = source[0].replace(MARK, pages())


def setup(app: Any) -> dict[str, bool]:
    """Fill the page whenever the site is built."""
    app.connect("source-read", _fill)
    app.connect("env-get-outdated", lambda *_: [PAGE])
    return {"parallel_read_safe": True}

"""YAML text to plain data, and the line of every key. The only module that knows YAML.

Safe by construction: no tags beyond plain YAML, no duplicate keys, no self-reference, and a
bound on size after aliases are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from gate_cache.core.errors import ManifestError

Place = tuple[str | int, ...]
MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # after aliases: a few nested ones may mean billions of nodes
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the numbers of YAML 1.2.

    ``1e-4`` is a number, ``010`` is no octal, ``1:30`` no sexagesimal, a date is text.
    """


def _yaml_1_2_numbers() -> None:
    loader, tag = cast(Any, _Loader), "tag:yaml.org,2002:"
    old = {tag + "int", tag + "float", tag + "timestamp"}
    loader.yaml_implicit_resolvers = {  # new lists: those of SafeLoader are every other user's, too
        first: [(t, pattern) for t, pattern in resolvers if t not in old]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
    integer = re.compile(r"[-+]?(?:0|[1-9][0-9]*)$")
    real = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
                        r"|[0-9]+[eE][-+]?[0-9]+|\.inf|\.Inf|\.INF)$|\.(?:nan|NaN|NAN)$")
    loader.add_implicit_resolver(tag + "int", integer, list("-+0123456789"))
    loader.add_implicit_resolver(tag + "float", real, list("-+.0123456789"))


_yaml_1_2_numbers()


class _Dumper(yaml.SafeDumper):
    """What it writes, `_Loader` reads as it was: text that looks like a number is quoted."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def to_yaml(data: Any) -> str:
    """Plain data as YAML text, in the order of its keys."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=99)
    return text


@dataclass(frozen=True)
class Parsed:
    """One YAML document.

    Attributes
    ----------
    data : plain dicts, lists and scalars
    lines : dict from place (a tuple of keys and indices) to line number, counted from 1
    problems : lines about keys given twice; the rest of the document is still usable
    """

    data: Any
    lines: dict[Place, int]
    problems: list[str]


def read_yaml(path: Path) -> Parsed:
    """Read one YAML document.

    Raises
    ------
    ManifestError
        Missing file, bad syntax, self-reference or a document too large.
    """
    return parse_yaml(_text(path), path.name)


def parse_yaml(text: str, name: str) -> Parsed:
    """Like `read_yaml`, from text; `name` is what messages call the file."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        walk = _Walk(name)
        if node is not None:
            walk.visit(node, ())  # before aliases are expanded: its bounds protect what comes next
        data = loader.construct_document(node) if node is not None else None
        return Parsed(data, walk.lines, walk.problems)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise ManifestError([f"{name}{line}: not valid YAML: {error.problem}"]) from None
    except ManifestError:
        raise
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ManifestError([f"{name}: not valid YAML: {reason}"]) from None


def _text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ManifestError([f"{path}: is a folder, expected a YAML file"])
        if path.stat().st_size > MAX_BYTES:
            raise ManifestError([f"{path}: larger than {MAX_BYTES} bytes; is it a manifest?"])
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        there = f"; there are: {', '.join(near)}" if near else ""
        raise ManifestError([f"{path}: no such manifest{there}"]) from None
    except UnicodeDecodeError:
        raise ManifestError([f"{path}: not UTF-8 text"]) from None
    except OSError as error:
        raise ManifestError([f"{path}: cannot be read: {error.strerror}"]) from None


class _Walk:
    """Visit the node tree once: lines of keys, duplicate keys, loops, size."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: dict[Place, int] = {}
        self.problems: list[str] = []
        self._open: set[int] = set()
        self._count = 0

    def visit(self, node: yaml.Node, place: Place) -> None:
        self.lines.setdefault(place, node.start_mark.line + 1)  # a key's own line came first
        self._count += 1
        if self._count > MAX_NODES:
            raise ManifestError([f"{self.name}: more than {MAX_NODES} nodes after aliases"])
        if id(node) in self._open:
            raise ManifestError([f"{self.name}:{node.start_mark.line + 1}: refers to itself"])
        self._open.add(id(node))
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, place)
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self.visit(item, (*place, i))
        self._open.discard(id(node))

    def _mapping(self, node: yaml.MappingNode, place: Place) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            name, line = str(key.value), key.start_mark.line + 1
            if name in seen:
                self.problems.append(f"{self.name}:{line}: {dotted((*place, name))}: key given"
                                     f" twice (first in line {seen[name]})")
            seen[name] = line
            self.lines.setdefault((*place, name), line)
            self.visit(value, (*place, name))
        for merged in _merged(node):  # after the mapping's own keys, which override merged ones
            self.visit(merged, place)


def _merged(node: yaml.MappingNode) -> Iterator[yaml.Node]:
    for key, value in node.value:
        if key.tag == _MERGE:
            yield from value.value if isinstance(value, yaml.SequenceNode) else [value]


def dotted(place: Place) -> str:
    """``('conv', 'prompt-0', 'lora', 0)`` as ``conv.prompt-0.lora[0]``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text

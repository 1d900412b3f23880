"""Fenced blocks of README and docs, and how each is run.

Marks are HTML comments on the lines before a block:

``not run: REASON``           it needs what a test has not; its commands must parse all the same
``file: PATH``                the block is written there; ``added to: PATH`` appends it
``the test takes: A -> B``    A is replaced, to make it small
"""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from gate_cache.cli import app
from gate_cache.core import plugins
from gate_cache.manifest import heads

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md")
                                     if DOCS / "_build" not in p.parents)]
RUN = ("bash", "python")
MARKS = {"not run", "file", "added to", "the test takes"}
PLAIN = ("yaml", "toml", "json", "text", "csv", "")
FENCE = re.compile(r"^(?P<marks>(?:[ ]*<!--[^\n]*-->\n)*)"
                   r"(?P<indent>[ ]*)```(?P<language>[\w{}-]*)\n"
                   r"(?P<body>.*?)^(?P=indent)```$", re.M | re.S)
SERVES = "gate-cache view "
"""Serves until Ctrl-C: only looked at here, and run by test_viewer.py."""
SHELL = ("cp", "mkdir", "tar", "ls", "rm")
"""Programs that are run as they are; of all others a block must say why it is not run."""


class Bad(AssertionError):
    """A block that cannot be right."""


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    marks: tuple[tuple[str, str], ...]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    def mark(self, kind: str) -> str | None:
        return next((value for name, value in self.marks if name == kind), None)

    def smaller(self) -> str:
        """Its text as a test runs it."""
        text = self.text
        for kind, value in self.marks:
            if kind == "the test takes":
                old, _, new = value.partition(" -> ")
                if old not in text:
                    raise Bad(f"{self.place}: there is no '{old}' to replace")
                text = text.replace(old, new)
        return text


def blocks(path: Path, text: str | None = None) -> Iterator[Block]:
    """All fenced blocks of a page but Sphinx's own directives."""
    text = path.read_text(encoding="utf-8") if text is None else text
    for found in FENCE.finditer(text):
        if not found["language"].startswith("{"):
            marks = [m.strip().partition(":") for m in re.findall(r"<!--(.*?)-->", found["marks"])]
            yield Block(path.relative_to(ROOT).as_posix(),
                        text.count("\n", 0, found.start("body")) + 1, found["language"],
                        re.sub(rf"^{found['indent']}", "", found["body"], flags=re.M),
                        tuple((kind, value.strip()) for kind, _, value in marks))


def commands(text: str) -> Iterator[str]:
    """Lines of a shell block, continued ones joined; no comments, no empty ones."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.strip()


# ------------------------------------------------------------------ what is only looked at


def check_command(line: str, place: str) -> None:
    """Commands and options of ours exist, and so do targets of make and modules of Python."""
    for words in _gate_cache(line):
        parse(words, place)
    for simple in _split(_words(line)):
        if simple[0] == "make":
            check_make(simple[1:], place)
    for name in re.findall(r"python -m ((?:benchmarks|pipelines)[\w.]*)", line):
        if importlib.util.find_spec(name) is None:
            raise Bad(f"{place}: no module {name}")


def _gate_cache(line: str) -> Iterator[list[str]]:
    """Arguments of all commands of ours in a line, also inside quotes (as of ssh)."""
    for simple in _split(_words(line)):
        if simple[0].rpartition("/")[2] == "gate-cache":
            yield simple[1:]
        for word in simple:
            if " " in word:
                yield from _gate_cache(word)


def _split(words: list[str]) -> Iterator[list[str]]:
    """Simple commands of a line, without the variables set before them."""
    simple: list[str] = []
    for word in [*words, ";"]:
        if word in ("&&", "||", "|", "&", ";"):
            if simple:
                yield simple
            simple = []
        elif simple or not re.match(r"[A-Z_]+=", word):
            simple.append(word)


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


def parse(words: list[str], place: str) -> None:
    """Parse a command of ours as the command line does, and run nothing."""
    group: Any = typer.main.get_command(app)
    if words[:1] and words[0] not in group.commands and not words[0].startswith("-"):
        raise Bad(f"{place}: gate-cache has no command '{words[0]}'")
    try:
        if words[0] in group.commands:
            group.commands[words[0]].make_context(words[0], words[1:])
    except click.ClickException as error:
        raise Bad(f"{place}: gate-cache {' '.join(words)}: {error.format_message()}") from None


def check_make(words: list[str], place: str) -> None:
    """Targets and variables exist, and what `make` would run of ours parses."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in [w.partition("=")[0] for w in words if "=" in w]:
        if not re.search(rf"^{name}\s*\??=", text, re.M):
            raise Bad(f"{place}: make has no variable {name}")
    done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True,
                          env=clean_environment())
    if done.returncode:
        raise Bad(f"{place}: make -n {' '.join(words)}: {done.stderr.strip()}")
    for would in done.stdout.splitlines():
        if "bin/gate-cache " in would:
            check_command(would, place)


def check_python(block: Block) -> None:
    """It compiles, and what it imports of ours is there."""
    for node in ast.walk(ast.parse(block.text, block.place)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("gate_cache"):
            module = importlib.import_module(str(node.module))
            lacking = [a.name for a in node.names if not hasattr(module, a.name)]
            if lacking:
                raise Bad(f"{block.place}: {node.module} has no {', '.join(lacking)}")


# ------------------------------------------------------------------ what is run


class Reader:
    """A reader who follows one page: a folder to work in, Python's names, the environment."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.setenv, self._patch = patch.setenv, patch
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def follow(self, block: Block) -> None:
        """Do what a block says, or look at it closely where it says that it cannot be done."""
        reason = block.mark("not run")
        if reason is not None and len(reason) < 8:
            raise Bad(f"{block.place}: is not run, without a reason")
        self.write(block)
        if block.language == "python" and not block.mark("file"):
            check_python(block) if reason else self._python(block)
        elif block.language == "bash":
            for line in commands(block.smaller()):
                check_command(line, block.place)
                if reason is None and not line.startswith(SERVES):
                    self._command(line, block.place)

    def write(self, block: Block) -> None:
        """Write or add to the file that a block is meant for."""
        for kind, mode in (("file", "w"), ("added to", "a")):
            if target := block.mark(kind):
                (self.home / target).parent.mkdir(parents=True, exist_ok=True)
                with (self.home / target).open(mode, encoding="utf-8") as file:
                    file.write(block.smaller())

    def _python(self, block: Block) -> None:
        text = "\n" * (block.line - 1) + block.smaller()
        exec(compile(text, block.page, "exec"), self.names)

    def _command(self, line: str, place: str) -> None:
        words = [self._expanded(w) for w in _words(line)]
        if words[0] == "gate-cache":
            self._ours(words[1:], place)
        elif words[:3] == ["pip", "install", "--editable"]:
            install(self.home / words[3], self._patch)
        elif words[0] == "export":
            for word in words[1:]:
                self.setenv(*word.split("=", 1))
        elif words[0] == "make":
            pass  # `check_command` has seen what it would run
        elif words[0] in SHELL:
            subprocess.run(words, cwd=self.home, check=True)
        elif words[:2] != ["source", ".venv/bin/activate"]:
            raise Bad(f"{place}: '{words[0]}' is not run here; say why in a comment before the"
                      " block: <!-- not run: needs … -->")

    def _expanded(self, word: str) -> str:
        """``runs/RUN`` is a run that the page has made."""
        made = sorted(p.parent for p in (self.home / "runs").glob("*/metrics.json"))
        return str(made[-1]) if word == "runs/RUN" and made else os.path.expandvars(word)

    def _ours(self, words: list[str], place: str) -> None:
        try:
            code = typer.main.get_command(app).main(words, "gate-cache", standalone_mode=False)
        except Exception as error:
            raise Bad(f"{place}: gate-cache {' '.join(words)}: {error}") from error
        if code:
            raise Bad(f"{place}: gate-cache {' '.join(words)} ends with exit code {code}")


def install(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """What ``pip install --editable`` does to a package without dependencies, for this process."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    about = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\n"
                                    f"Version: {project['version']}\n", encoding="utf-8")
    groups = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
              for group, points in project["entry-points"].items()]
    (about / "entry_points.txt").write_text("\n".join(groups), encoding="utf-8")
    patch.syspath_prepend(folder)
    for name in [p.stem for p in folder.glob("*.py")]:
        patch.delitem(sys.modules, name, raising=False)
    forget_plugins()


def forget_plugins() -> None:
    """Entry points are looked for anew."""
    plugins.installed.cache_clear()
    heads.head_of.cache_clear()


def clean_environment() -> Mapping[str, str]:
    """For a process that should see this source tree and none of the caller's roots."""
    ours = ("GATE_CACHE_", "MAKE", "ARGS", "DATASET", "HEAD")  # `make test ARGS=…` hands them on
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}

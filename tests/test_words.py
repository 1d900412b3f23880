"""Words that are gone from what users read; CONTRIBUTING.md has the ones to write."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT

GONE = {
    r"go(es)? on where|goes on with (it|what)|to go on|going on at": "resumes",
    r"say (--|'\w+: |(in )?dataset\.).*": "pass --option, set 'field: value'",
    r"begun": "created, started",
    r"sound": "valid",
    r"counts? for nothing": "ignored",
    r"ma[dk]e (it )?again": "reproduce, repeat",
    r"judg(e|es|ed|ing|ement)": "evaluate, score",
    r"mend(s|ed|ing)?": "fix, repair",
    r"anew": "again, from scratch",
    r"leases?": "lock",
    r"hear(s|d)": "a verb that says what happens",
    r"meant so": "valid",
    r"told": "reported; conditioned on (of a timestep)",
    r"seeded shares?|shares of the (pictures|images)": "seeded fraction, split fractions",
    r"worth a training": "worth training on",
}
"""Patterns of whole words, and what to write."""
HELP = ("commands", "verbs.py")
"""Whose docstrings users read: help texts, and the verbs' reference."""
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def strings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string constant that users may see."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    read = set(HELP) & set(path.relative_to(ROOT).parts)
    shown = {id(n.body[0].value) for n in ast.walk(tree) if read and isinstance(n, DOCUMENTED)
             and n.body and isinstance(n.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) \
                and (id(node) not in bare or id(node) in shown):
            yield node.lineno, node.value


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of all of a file that users read."""
    if path.suffix == ".py":
        yield from strings(path)
    elif path.suffix == ".ipynb":
        for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"], 1):
            yield number, "".join(cell["source"])
    else:
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)


def gone(text: str) -> list[str]:
    return [f"{found.group()} (write: {write})" for pattern, write in GONE.items()
            if (found := re.search(rf"\b({pattern})\b", text, re.I))]


def test_words_that_are_gone_stay_gone() -> None:
    files = [*PAGES, *ROOT.glob("docs/*.ipynb"), *(ROOT / "gate_cache").rglob("*.py")]
    there = [f"{path.relative_to(ROOT)}:{line}: {word}" for path in files
             for line, text in lines(path) if " " in text for word in gone(text)]
    assert not there, "\n".join(there)


@pytest.mark.parametrize(("text", "word"), [
    ("The run goes on where it stopped.", "goes on where"), ("A sound manifest", "sound"),
    ("Mend the file", "Mend"), ("unsound, recommended", ""), ("a heard word", "heard")])
def test_whole_words_are_found(text: str, word: str) -> None:
    assert bool(gone(text)) == bool(word) and all(w.startswith(word) for w in gone(text))


def test_docstrings_are_read_only_where_users_see_them(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("test_words.ROOT", tmp_path)
    code = '"""Head."""\nX = "a message"\n"""About X."""\n\ndef f():\n    """Help."""\n'
    for name in ("inner.py", "verbs.py"):
        (tmp_path / name).write_text(code)
    assert [text for _, text in strings(tmp_path / "inner.py")] == ["a message"]
    assert {text for _, text in strings(tmp_path / "verbs.py")} == {"a message", "Head.", "Help."}

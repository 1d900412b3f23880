"""The house is built as drawn: imports go down, each library stays in its room, starts are light.

Imports are read from the source, those inside functions and for type checkers included.
"""

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np
import pytest

from gate_cache.core.roots import Roots
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.diffusion.models.sources import ModelFiles
from gate_cache.diffusion.passes.recipes import plan_combos
from gate_cache.manifest.load import load
from gate_cache.store.format.samples import NewSample
from gate_cache.store.writer import open_writer

PACKAGE = Path(__file__).parents[1] / "gate_cache"
FLOORS = {  # room (a folder of the package, or a module of its own) to floor
    "cli": 10, "commands": 9,
    "viewer": 8, "verbs": 7.5, "report": 7,
    "analysis": 6.2, "training": 6.1, "extraction": 6,
    "workspace": 5,
    "diffusion": 4, "learn": 4,
    "store": 3, "datasets": 3, "text": 3,
    "manifest": 2, "toyworld": 2,
    "core": 1, "__init__": 0,
}
LONGEST_CHAIN = 16
"""Files, from the command line down: timm has as many."""
LARGEST_ROOM = 0.15
"""Of the package's lines."""
FILES_OF_A_FOLDER = 20
UPWARD = {  # names of `gate_cache` itself, imported on first use
    ("__init__.py", f"gate_cache.{name}") for name in (
        "store.reader", "training.sweep", "verbs", "workspace.workspace")}
FENCES = {  # library to the rooms and files that may import it
    "zarr": ("store/",),
    "numcodecs": ("store/",),
    "pcodec": ("store/format/shards.py",),
    "crc32c": ("store/",),
    "filelock": ("store/places/cache.py", "extraction/cluster.py"),
    "obstore": ("store/places/",),
    "dask": ("store/", "extraction/"),
    "xarray": ("store/",),
    "distributed": ("extraction/cluster.py",),
    "diffusers": ("diffusion/",),
    "transformers": ("diffusion/", "extraction/captions/", "learn/modules/upernet.py"),
    "timm": ("diffusion/files/timm_hub.py",),
    "peft": ("diffusion/", "extraction/lora/"),
    "tokenizers": ("text/",),
    "huggingface_hub": ("core/hub.py", "store/places/hub.py"),
    "torch": ("diffusion/", "learn/", "workspace/", "extraction/", "training/", "analysis/"),
    "safetensors": ("diffusion/", "extraction/", "training/"),
    "cv2": ("datasets/", "toyworld/", "diffusion/techniques/controlnet.py"),
    "PIL": ("datasets/", "toyworld/", "core/preprocessing.py", "report/figures/"),
    "scipy": ("datasets/",),
    "sklearn": ("learn/", "report/"),
    "matplotlib": ("report/",),
    "jinja2": ("report/html/",),
    "markupsafe": ("report/html/",),
    "tornado": ("viewer/",),
    "yaml": ("manifest/yaml_source.py",),
    "pydantic": ("manifest/", "learn/heads/", "training/trained.py", "store/",
                 "viewer/"),
    "pydantic_core": ("manifest/", "store/format/schema.py"),
    "typer": ("cli.py", "commands/"),
    "rich": ("report/",),
    "numpy": ("",),
}


def imported(source: str, typing: bool = True) -> Iterator[str]:
    """Dotted names of all modules that a source text imports, wherever it does.

    Parameters
    ----------
    typing : also those that only a type checker sees
    """
    for node in _walk(ast.parse(source), typing):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute here"
            yield from (_module(node.module, alias.name) for alias in node.names)


def _walk(tree: ast.AST, typing: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if typing or not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
            yield node
            yield from _walk(node, typing)


def _module(package: str, name: str) -> str:
    """What ``from package import name`` imports: a module of ours, or something in `package`."""
    path = PACKAGE.parent.joinpath(*package.split("."), name)
    ours = path.is_dir() or path.with_suffix(".py").is_file()
    return f"{package}.{name}" if ours else package


def room(place: str) -> str:
    """The room of a file below the package, or of a module by its dotted name."""
    if place.endswith(".py"):
        return place.split("/")[0].removesuffix(".py")
    return [*place.split("."), "__init__"][1]


def goes_down(source: str, target: str) -> bool:
    """Whether a module of room `source` may import one of room `target`."""
    return source == target or FLOORS[target] < FLOORS[source]


SOURCES = {p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8")
           for p in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {(path, name) for path, source in SOURCES.items() for name in imported(source)}


def test_imports_are_found_wherever_they_are() -> None:
    source = ("import a.b\ndef f():\n    from gate_cache.diffusion.passes import hooks, nothing\n"
              "if X:\n    from gate_cache.store.reader import FeatureStore as F\n"
              "    from gate_cache import diffusion\n")
    assert set(imported(source)) == {
        "a.b", "gate_cache.diffusion.passes.hooks", "gate_cache.diffusion.passes",
        "gate_cache.diffusion",
        "gate_cache.store.reader"}


@pytest.mark.parametrize(("source", "target", "allowed"), [
    ("cli", "training", True), ("training", "cli", False), ("store", "manifest", True),
    ("store", "datasets", False), ("diffusion", "learn", False), ("learn", "diffusion", False),
    ("learn", "learn", True), ("training", "extraction", True), ("extraction", "training", False),
])
def test_the_rule_of_the_floors(source: str, target: str, allowed: bool) -> None:
    assert goes_down(source, target) == allowed


def test_every_module_has_a_floor() -> None:
    assert {room(path) for path in SOURCES} == set(FLOORS)


@pytest.mark.parametrize("source", FLOORS)
def test_imports_only_go_down(source: str) -> None:
    own = {(path, name) for path, name in IMPORTS - UPWARD
           if room(path) == source and name.split(".")[0] == PACKAGE.name}
    assert not {(path, name) for path, name in own if not goes_down(source, room(name))}


@pytest.mark.parametrize("library", FENCES)
def test_a_library_stays_in_its_room(library: str) -> None:
    users = {path for path, name in IMPORTS if name.split(".")[0] == library}
    assert not {path for path in users if not path.startswith(FENCES[library])}


def test_every_library_has_a_room() -> None:
    used = {name.split(".")[0] for _, name in IMPORTS}
    assert used - {PACKAGE.name} - set(sys.stdlib_module_names) <= set(FENCES)


def modules(files: Iterable[str]) -> dict[str, str]:
    """Dotted names of files of ours, and the files."""
    dotted = {f: ".".join([PACKAGE.name, *f.removesuffix(".py").split("/")]) for f in files}
    return {name.removesuffix(".__init__"): f for f, name in dotted.items()}


def import_graph(sources: Mapping[str, str]) -> dict[str, list[str]]:
    """Which files of ours each file imports when it runs, be it inside a function.

    A package's ``__init__`` is no file of a chain, and what a type checker alone sees is not run.
    """
    files = modules(sources)
    return {f: sorted({files[n] for n in imported(text, False) if n in files and files[n] != f
                       and not files[n].endswith("__init__.py")})
            for f, text in sources.items()}


def longest_chain(graph: Mapping[str, list[str]]) -> list[str]:
    """The longest way down through the imports.

    Raises
    ------
    graphlib.CycleError
        Files import each other in a circle; its second argument names them.
    """
    longest: dict[str, list[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        below = max((longest[n] for n in graph[name]), key=len, default=[])
        longest[name] = [name, *below]
    return max(longest.values(), key=len)


def test_no_files_import_each_other_in_a_circle() -> None:
    TopologicalSorter(import_graph(SOURCES)).prepare()


def test_the_longest_chain_of_imports() -> None:
    chain = longest_chain(import_graph(SOURCES))
    assert len(chain) <= LONGEST_CHAIN, "\n".join(chain)


def large_rooms(sources: Mapping[str, str]) -> set[str]:
    """Rooms with more than their share of the lines."""
    lines: Counter[str] = Counter()
    for path, source in sources.items():
        lines[room(path)] += source.count("\n")
    return {name for name, count in lines.items() if count > LARGEST_ROOM * lines.total()}


def crowded_folders(sources: Mapping[str, str]) -> set[str]:
    """Folders with too many files of their own."""
    files = Counter(Path(path).parent.as_posix() for path in sources
                    if not path.endswith("__init__.py"))
    return {name for name, count in files.items() if count > FILES_OF_A_FOLDER}


def test_no_room_is_too_large() -> None:
    assert not large_rooms(SOURCES)


def test_no_folder_is_crowded() -> None:
    assert not crowded_folders(SOURCES)


def test_the_rules_of_files_see_what_breaks_them() -> None:
    """A circle, a longer chain, a large room, a crowded folder: planted, and found."""
    assert large_rooms({**SOURCES, "core/large.py": "\n" * 10_000}) == {"core"}
    many = {f"core/f{i}.py": "" for i in range(FILES_OF_A_FOLDER)}
    assert crowded_folders({**SOURCES, **many}) == {"core"}
    lowest = "core/errors.py"
    circle = {**SOURCES, lowest: SOURCES[lowest] + "\nfrom gate_cache.core import places\n"}
    with pytest.raises(CycleError, match="places"):
        TopologicalSorter(import_graph(circle)).prepare()
    chain = longest_chain(import_graph(SOURCES))
    top = {**SOURCES, "top.py": f"import {PACKAGE.name}.{chain[0][:-3].replace('/', '.')}\n"}
    assert longest_chain(import_graph(top)) == ["top.py", *chain]


def test_exceptions_are_still_needed() -> None:
    assert UPWARD <= IMPORTS


@pytest.mark.parametrize("path", [p for p in SOURCES if p.endswith("__init__.py")])
def test_init_files_are_thin(path: str) -> None:
    """A docstring, a few names, imports on first use: nothing that runs or loads a room."""
    body = ast.parse(SOURCES[path]).body
    kinds = (ast.ImportFrom, ast.Assign, ast.If, ast.FunctionDef)
    assert isinstance(body[0], ast.Expr) and all(isinstance(s, kinds) for s in body[1:])
    assert len(SOURCES[path].splitlines()) <= 30
    runs = [ast.unparse(s.test if isinstance(s, ast.If) else s.value) for s in body
            if isinstance(s, ast.If | ast.Assign)]
    assert not [text for text in runs if "(" in text]
    light = {"__future__", "typing", "gate_cache.toyworld.names"}
    assert {s.module for s in body if isinstance(s, ast.ImportFrom)} <= light


# ------------------------------------------------------------------------------ assertions

def narrows(test: ast.expr) -> bool:
    """Whether an assertion only tells the type checker a type."""
    if isinstance(test, ast.BoolOp):
        return isinstance(test.op, ast.And) and all(map(narrows, test.values))
    if isinstance(test, ast.Compare):
        return isinstance(test.ops[0], ast.IsNot) and ast.unparse(test.comparators[0]) == "None"
    return isinstance(test, ast.Call) and ast.unparse(test.func) == "isinstance"


def assertions(source: str) -> list[str]:
    """Assertions that check more than a type: ``python -O`` would leave them out."""
    return [ast.unparse(node) for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Assert) and not narrows(node.test)]


def test_assertions_that_check_data_are_found() -> None:
    source = ("assert isinstance(x, int)\nassert x is not None and isinstance(x, str)\n"
              "def f():\n    assert x\nassert x is not None or y\nassert len(x) == 3\n")
    assert assertions(source) == ["assert x is not None or y", "assert len(x) == 3", "assert x"]


@pytest.mark.parametrize("path", SOURCES)
def test_no_assertion_checks_data(path: str) -> None:
    assert not assertions(SOURCES[path])


# ------------------------------------------------------------------------------ light starts

MANIFEST = """
dataset: {name: toyworld, train: 2, val: 0, test: 0}
model: {source: tiny}
conv: {a: {prompt: a cat, maps: [up0]}}
"""
HEAVY = ("torch", "diffusers", "transformers", "peft", "cv2", "scipy")
RUN = """
import sys
from gate_cache.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = sorted(set({banned!r}) & set(sys.modules))
assert not loaded, loaded
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a manifest and its finished store of random maps."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "m.yaml").write_text(MANIFEST)
    loaded, roots = load(folder / "m.yaml"), Roots()
    (combo,) = plan_combos(loaded.manifest, ModelFiles("tiny", HOME), roots)
    new = [NewSample(f"train/{name}", "00" * 32, 64, 64) for name in
           ("aeroplane/00000", "bird/00001")]
    with open_writer(folder / "stores" / "m.zarr", "toyworld", 8, 1) as writer:
        writer.append(new)
        group = writer.require("a", combo.recipe, combo.shapes, "float16", {})
        group.fit()
        group.write(range(2), {n: np.ones((2, *s)) for n, s in combo.shapes.items()})
    return folder


@pytest.mark.mostly_long("--help*", "plan*", "status*", "inspect*")
@pytest.mark.parametrize(("command", "banned", "expected"), [
    ("--help", (*HEAVY, "zarr", "numpy", "pydantic", "yaml", "tokenizers"), "Usage"),
    ("validate m.yaml", (*HEAVY, "zarr", "numpy"), "valid, 1 combo"),
    ("plan m.yaml", (*HEAVY, "zarr", "numpy"), "model passes"),
    ("layers tiny", (*HEAVY, "zarr", "numpy"), "sha256"),
    ("status m.yaml", (*HEAVY, "zarr"), "2/2"),
    ("inspect stores/m.zarr", (*HEAVY, "zarr"), "up0"),
    ("verify stores/m.zarr", HEAVY, "everything is as it was written"),
    ("diff m.yaml stores/m.zarr", HEAVY, "nothing differs"),
    ("prune m.yaml", HEAVY, "nothing to remove"),
])
def test_commands_that_only_look_start_light(
    home: Path, command: str, banned: tuple[str, ...], expected: str,
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GATE_CACHE_")}
    done = subprocess.run([sys.executable, "-c", RUN.format(banned=banned), *command.split()],
                          cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout


def wide(source: str) -> Iterator[str]:
    """Public functions of a source text with more than six parameters."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if len([a for a in given if a.arg not in ("self", "cls")]) > 6:
                yield node.name


@pytest.mark.parametrize("path", [p for p in SOURCES if not p.startswith("commands/")])
def test_functions_have_few_parameters(path: str) -> None:
    """Commands have as many as options."""
    assert list(wide(SOURCES[path])) == []


def test_wide_functions_are_seen() -> None:
    six = "self, a, b, c, /, d, *, e, f"
    assert list(wide(f"class X:\n    def ok({six}): ...\n    def wide({six}, g): ...\n"
                     f"def _own({six}, g): ...\n")) == ["wide"]

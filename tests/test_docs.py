"""Every command and every Python block of README and docs is run, or says why it is not."""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from doc_blocks import (
    DOCS,
    MARKS,
    PAGES,
    PLAIN,
    ROOT,
    RUN,
    Bad,
    Block,
    Reader,
    blocks,
    clean_environment,
    forget_plugins,
    install,
)
from PIL import Image

from gate_cache.cli import app
from gate_cache.core.roots import Roots
from gate_cache.extraction.extract import extract
from gate_cache.manifest.load import Loaded, load
from gate_cache.manifest.sweep_file import load_sweep
from gate_cache.toyworld import draw
from gate_cache.workspace.workspace import Workspace

NAMES = [p.relative_to(ROOT).as_posix() for p in PAGES]
FEW = {"train": 10, "val": 0, "test": 9}
FEWER = {"train": 4, "val": 0, "test": 2}
"""Where pixels are evaluated, by ten networks each."""
BRIEF = {"steps": 1, "validate_steps": 1}
NARROW = {"upernet": {"decoder_channels": 8}}
BASE: dict[str, Any] = {
    "dataset": {"name": "toyworld"}, "model": {"source": "tiny"}, "conv": {"a": {"prompt": "b"}},
    "attention": {}, "train": {}}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What readers have in front of them: manifests (short of toyworld), a store, some images."""
    home = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "manifests", home / "manifests")
    for path in (home / "manifests").rglob("*.yaml"):
        shorten(path)
    for number in range(4):
        scene = draw("test", number, 64)
        path = home / "data" / "images" / scene.category / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene.image).save(path)
    roots = Roots(*(home / n for n in ("data", "models", "stores", "runs")))
    extract(Workspace.open(home / "manifests" / "toyworld.yaml", roots, "cpu"))
    return home


def shorten(path: Path) -> None:
    """The same manifest of toyworld with fewer pictures and less to train; a smaller grid."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "grid" in found:
        found["train"].update(BRIEF)
        found["grid"] = {k: v[:1] for k, v in found["grid"].items()}
    elif found["dataset"]["name"] == "toyworld":
        found["dataset"].update(FEWER if "segmentation" in path.name else FEW)
        found["train"] = {**found.get("train", {}), **BRIEF}
        head = found["train"].get("head")
        if isinstance(head, dict):
            found["train"]["head"] = {**head, **NARROW.get(head["name"], {})}
    path.write_text(yaml.safe_dump(found, sort_keys=False), encoding="utf-8")


@pytest.fixture(autouse=True)
def plugins_of_others() -> Iterator[None]:
    """What a page installs is gone afterwards."""
    yield
    forget_plugins()


@pytest.mark.mostly_long("README.md", "docs/architecture.md")
@pytest.mark.parametrize("name", NAMES)
def test_a_page_can_be_followed(name: str, world: Path, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in [v for v in os.environ if v.startswith("GATE_CACHE_")]:
        monkeypatch.delenv(variable)
    home = tmp_path / "home"
    shutil.copytree(world, home)
    monkeypatch.chdir(home)
    reader = Reader(home, monkeypatch)
    for block in blocks(ROOT / name):
        reader.follow(block)


@pytest.mark.parametrize("name", NAMES)
def test_blocks_say_what_they_are(name: str) -> None:
    for block in blocks(ROOT / name):
        assert block.language in (*RUN, *PLAIN), f"{block.place}: ```{block.language}"
        assert {kind for kind, _ in block.marks} <= MARKS, block.place
        told = re.search(r"^(gate-cache|make|pip) ", block.text, re.M)
        assert block.language in RUN or not told, f"{block.place}: commands; say ```bash"


@pytest.mark.parametrize("name", NAMES)
def test_yaml_blocks_are_sound(name: str, tmp_path: Path,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as they are sections of a manifest, or of a sweep."""
    reader = Reader(tmp_path, monkeypatch)
    for block in blocks(ROOT / name):
        reader.write(block)
        if block.text.startswith("pip install --editable my"):
            install(tmp_path / block.text.split()[-1], monkeypatch)
        found = yaml.safe_load(block.text) if block.language == "yaml" else None
        if found and found.keys() <= BASE.keys() | {"captions", "store"}:
            manifest(tmp_path, {**BASE, **found})
        elif found and "grid" in found:
            (tmp_path / "sweep.yaml").write_text(block.text, encoding="utf-8")
            assert load_sweep(tmp_path / "sweep.yaml", manifest(tmp_path, BASE))


def manifest(folder: Path, sections: dict[str, Any]) -> Loaded:
    (folder / "m.yaml").write_text(yaml.safe_dump(sections), encoding="utf-8")
    return load(folder / "m.yaml")


# ------------------------------------------------------------------ the tests' own teeth


@pytest.mark.parametrize(("language", "text", "says"), [
    ("bash", "gate-cache extrac m.yaml", "no command 'extrac'"),
    ("bash", "gate-cache extract m.yaml --bach 8", "--bach"),
    ("bash", "gate-cache extract", "MANIFEST"),
    ("bash", "ssh there 'cd x && .venv/bin/gate-cache extract m.yaml --no'", "--no"),
    ("bash", "make extrakt", "extrakt"),
    ("bash", "make extract DATSET=folder", "no variable DATSET"),
    ("bash", "python -m benchmarks.nothing", "benchmarks.nothing"),
    ("python", "from gate_cache.learn.features.stream import FeatureStreams",
     "has no FeatureStreams"),
])
def test_a_block_that_is_not_run_must_still_be_right(
    language: str, text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    block = Block("page.md", 3, language, text, (("not run", "needs a GPU"),))
    with pytest.raises(Bad, match=says):
        Reader(tmp_path, monkeypatch).follow(block)


@pytest.mark.parametrize(("language", "text", "marks", "says"), [
    ("bash", "curl https://example.org", (), "'curl' is not run here; say why"),
    ("bash", "gate-cache validate none.yaml", (), "none.yaml"),
    ("bash", "curl https://example.org", (("not run", ""),), "without a reason"),
    ("python", "1 / 0", (), "division"),
])
def test_a_block_must_work_or_say_why_it_is_not_run(
    language: str, text: str, marks: tuple[tuple[str, str], ...], says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises((Bad, ZeroDivisionError), match=says):
        Reader(tmp_path, monkeypatch).follow(Block("page.md", 3, language, text, marks))


def test_marks_are_read_with_their_block(tmp_path: Path) -> None:
    page = DOCS / "_build" / "never-written.md"
    text = "a\n\n<!-- not run: needs it -->\n```bash\nx\n```\n\n- b\n\n  ```python\n  y\n  ```\n"
    first, second = blocks(page, text)
    assert (first.mark("not run"), first.line, first.text) == ("needs it", 5, "x\n")
    assert (second.marks, second.line, second.text) == ((), 11, "y\n")


# ------------------------------------------------------------------ links and the site


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (ROOT / target.partition("#")[0]).exists(), target


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d",
         str(out / "doctrees"), str(DOCS), str(out / "html")],
        capture_output=True, text=True, env=clean_environment())
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.long
def test_the_site_has_every_command_with_its_options(site: Path) -> None:
    text = html.unescape((site / "reference" / "cli.html").read_text(encoding="utf-8"))
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert f"gate-cache {name} " in text
        assert all(option in text for p in command.params for option in p.opts
                   if option.startswith("--") and not getattr(p, "hidden", False))


@pytest.mark.long
def test_every_page_is_reached_from_the_first(site: Path) -> None:
    found, new = set[Path](), {site / "index.html"}
    while new:
        page = new.pop()
        found.add(page)
        for link in re.findall(r'href="([^"#:?]+\.html)', page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target not in found and target.is_file():
                new.add(target)
    pages = {p.relative_to(DOCS).with_suffix(".html") for p in DOCS.rglob("*.md")
             if DOCS / "_build" not in p.parents}
    assert not {p for p in pages if site.resolve() / p not in {f.resolve() for f in found}}

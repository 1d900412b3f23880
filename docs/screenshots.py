"""Take the docs' screenshots, with the tests' browser.

    python docs/screenshots.py report RUN SWEEP    docs/report.png: RUN's report, SWEEP's on a phone

Both folders need their report.html (`gate-cache train` and `sweep` write it).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from browser import CHROMIUM, QUIET  # noqa: E402

GAP = 24


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser that the tests use."""
    if not CHROMIUM:
        sys.exit("needs chromium on the path")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])


def shot(browser: Browser, url: str, width: int, height: int, *, dark: bool = False,
         at: str | None = None) -> Image.Image:
    """What a window of this size shows.

    Parameters
    ----------
    at : the id that it is scrolled to
    """
    context = browser.new_context(viewport={"width": width, "height": height},
                                  color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(url + (f"#{at}" if at else ""))
    found = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    context.close()
    return found


def beside(pictures: list[Image.Image]) -> Image.Image:
    """Pictures in a row, on grey."""
    width = sum(p.width + GAP for p in pictures) + GAP
    row = Image.new("RGB", (width, max(p.height for p in pictures) + 2 * GAP), "#c9ced6")
    x = GAP
    for each in pictures:
        row.paste(each, (x, GAP))
        x += each.width + GAP
    return row


def save(picture: Image.Image, name: str) -> Path:
    """As a small PNG: a page has few colours, and k-means keeps the rare ones of its charts."""
    path = HERE / name
    picture.quantize(256, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def report(run: Path, sweep: Path) -> Path:
    """A training's report, the top of a sweep's on a dark telephone, and the first's examples."""
    one, many = ((folder / "report.html").resolve().as_uri() for folder in (run, sweep))
    with chromium() as browser:
        return save(beside([shot(browser, one, 1000, 1240),
                            shot(browser, many, 380, 1240, dark=True),
                            shot(browser, one, 380, 1240, at="examples")]), "report.png")


SHOTS: dict[str, Callable[..., Path]] = {"report": report}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=SHOTS)
    parser.add_argument("folders", nargs="+", type=Path)
    given = parser.parse_args()
    print(SHOTS[given.what](*given.folders))

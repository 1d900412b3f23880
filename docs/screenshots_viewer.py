"""Take the viewer's screenshot, docs/viewer.png, with the tests' browser.

    python docs/screenshots_viewer.py IMAGE X,Y manifests/toyworld.yaml --run runs/RUN

What follows the point is handed to `gate-cache view`; X and Y are shares of the image's sides.
"""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from screenshots import HERE, chromium


@contextmanager
def viewing(words: list[str]) -> Iterator[str]:
    """The address of a viewer that runs meanwhile."""
    command = [sys.executable, "-m", "gate_cache.cli", "view", "--no-browser", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603
        assert running.stdout
        try:
            yield running.stdout.readline().strip()
        finally:
            running.terminate()


def viewer(image: str, point: str, words: list[str]) -> Path:
    """The page with a point of an image and its matches, clicked when all has been read."""
    state = urlencode({"image": image, "count": 8, "near": "category"})
    with viewing(words) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(f"{address}#{state}")
        page.get_by_text("Click a point in a picture", exact=True).wait_for()
        box = page.locator("#input").bounding_box()
        assert box
        x, y = (float(share) for share in point.split(","))
        page.locator("#input").click(position={"x": x * box["width"], "y": y * box["height"]})
        page.get_by_text("8 matches").wait_for()
        page.mouse.move(0, 0)
        page.wait_for_load_state("networkidle")
        found = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        page.close()
    path = HERE / "viewer.png"
    found.save(path, optimize=True)
    return path


if __name__ == "__main__":
    print(viewer(sys.argv[1], sys.argv[2], sys.argv[3:]))

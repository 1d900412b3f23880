"""Draw the pictures of the docs: python docs/pictures.py [--stores …] [--runs …]

Extracts toyworld and trains what is shown, where that is not there yet; then runs the commands
that the pages name.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

import gate_cache
from gate_cache.analysis.show import ShownImages, show
from gate_cache.cli import app
from gate_cache.core.roots import Roots
from gate_cache.report.figures.match import page
from gate_cache.report.figures.pictures import PictureCell, PictureRow, heat, save, sheet
from gate_cache.toyworld import CATEGORIES, draw

HERE = Path(__file__).parent
TOY, MASKS = "manifests/toyworld.yaml", "manifests/toyworld-segmentation.yaml"
COLUMNS, SIZE, GAP = 10, 96, 4
RUNS = {
    "docs-conv": (TOY, "--head", "conv", "--steps", "200"),
    "docs-pixel-mlp": (MASKS, "--head", "pixel-mlp", "--steps", "1000"),
}
PICTURES = {
    "show.png": ("show", TOY, "--image", "test/horse/00007", "--combo", "prompt-0", "--combo",
                 "lora-0", "--combo", "control-0", "--combo", "attn-0"),
    "activations.png": ("show", TOY, "--activations", "--image", "test/horse/00007", "--combo",
                        "control-0"),
    "match.png": ("match", TOY, "test/horse/00023", "test/horse/00007", "--run", "docs-conv"),
    "match-grid.png": ("match", TOY, "test/horse/00007", "test/cat/00005"),
    "masks.png": ("predict", "docs-pixel-mlp", "--manifest", MASKS),
    "score.png": ("score", TOY),
    "guideline.png": ("guideline", TOY),
}
"""File to the command that draws it."""


FIRST = """\
dataset: {name: toyworld, train: 0, val: 0, test: 40, image_size: 384}
model: {source: tiny, size: 128}
conv:
  plain:
    prompt: >-
      a photo of aeroplane, bird, boat, bottle, car, cat, chair, horse,
      high quality, best quality, highly realistic
    t: 100
    ensemble: 8
attention:
  words: {prompt: a photo of a bird, t: 100, maps: [attn3]}
"""
PAIR = ("test/bird/00025", "test/bird/00033")
"""A pair on which the plain feature does well; most of toyworld's pairs are harder for it."""


def first() -> np.ndarray:
    """Two pictures, the matches of their key points, and the features behind them."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "first.yaml").write_text(FIRST, encoding="utf-8")
        work = gate_cache.Workspace.open(
            Path(folder) / "first.yaml", Roots(*[Path(folder)] * 4))
        store = gate_cache.extract(work)
        matches = page(gate_cache.match(work, *PAIR, combo="plain"))
        cells = [cell for maps in show(ShownImages(store, work.dataset()), PAIR, tokens=["bird"])
                 for cell in (PictureCell(maps.conv["plain"]["up2"], "up2 as colours (PCA)"),
                              PictureCell(heat(maps.attention["words"][0][1]),
                                          "attention to 'bird'"))]
    features = sheet([PictureRow("", cells)], cell=194).done()
    width = max(matches.shape[1], features.shape[1])
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)),
                                  constant_values=255) for part in (matches, features)])


def toyworld() -> np.ndarray:
    """A row a category, pictures of the test split, good and bad quality as they come."""
    side = SIZE + GAP
    sheet = np.full((side * len(CATEGORIES) + GAP, side * COLUMNS + GAP, 3), 255, np.uint8)
    for row in range(len(CATEGORIES)):
        for column in range(COLUMNS):
            picture = draw("test", column * len(CATEGORIES) + row, SIZE).image
            y, x = GAP + row * side, GAP + column * side
            sheet[y : y + SIZE, x : x + SIZE] = picture
    return sheet


def drawn(name: str, stores: str, runs: Path) -> None:
    """Run a command, and keep its only picture."""
    words = [str(runs / w) if w in RUNS else w for w in PICTURES[name]]
    with tempfile.TemporaryDirectory() as folder:
        app([*words, "--stores", stores, "--out", folder], standalone_mode=False)
        (picture,) = Path(folder).glob("*.png")
        (HERE / name).write_bytes(picture.read_bytes())


def main() -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", default="stores")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("only", nargs="*", help="names of pictures [all]")
    args = parser.parse_args()
    every = [*PICTURES, "first.png", "toyworld.jpg"]
    wanted = args.only or every
    if unknown := sorted({*wanted}.difference(every)):
        parser.error(f"no picture {', '.join(unknown)}; there are {', '.join(every)}")
    if "first.png" in wanted:
        save(first(), HERE / "first.png")
    if wanted == ["first.png"]:
        return
    app(["extract", TOY, "--stores", args.stores], standalone_mode=False)
    for run, words in RUNS.items():
        if not (args.runs / run).exists() and any(run in PICTURES.get(p, ()) for p in wanted):
            app(["train", *words, "--stores", args.stores, "--out", str(args.runs / run)],
                standalone_mode=False)
    for name in PICTURES:
        if name in wanted:
            drawn(name, args.stores, args.runs)
    if "toyworld.jpg" in wanted:
        cv2.imwrite(str(HERE / "toyworld.jpg"), toyworld()[..., ::-1],
                    [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()

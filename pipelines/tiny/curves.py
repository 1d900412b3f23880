"""Learning curves of all trainings on photographs: ``python -m pipelines.tiny.curves``.

Reads WORK/probes/<training>-<step>.json, ``tiny`` and ``random`` beside them to compare with, and
the losses in WORK/<training>.jsonl; leaves docs/tiny-curves.png.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from gate_cache.diffusion.embedded import TINY
from pipelines.tiny.card import DOCS

PANELS = {
    "CIFAR-10 probe, accuracy": ("cifar", "up0-up2, 2×2, t = 50", "accuracy"),
    "PF-WILLOW, PCK@0.1 image, raw": ("willow", "up0+up1+up2+up3, t = 50, raw", "image"),
    "the same, channels standardised": ("willow", "up1+up2+up3, t = 50, standardised", "image"),
}


def read(folder: Path) -> tuple[dict[str, dict[int, Any]], dict[str, Any]]:
    """Probes of trainings by step, and of what stays as it is."""
    trained: dict[str, dict[int, Any]] = defaultdict(dict)
    fixed = {}
    for file in sorted(folder.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        name, _, step = file.stem.rpartition("-")
        if step.isdigit():
            trained[name][int(step)] = found
        else:
            fixed[file.stem] = found
    return trained, fixed


def draw(work: Path, out: Path) -> None:
    """One panel a measure, and one for the losses."""
    trained, fixed = read(work / "probes")
    figure, axes = plt.subplots(1, len(PANELS) + 1, figsize=(17, 4), layout="constrained")
    for axis, (title, (part, row, key)) in zip(axes, PANELS.items(), strict=False):
        def value(found: Any, part: str = part, row: str = row, key: str = key) -> float:
            figures = found[part][row][key]
            return float(figures if part == "cifar" else figures[0])

        start = [(0, value(fixed[TINY]))] if TINY in fixed else []
        for name, by_step in trained.items():
            points = start + [(s, value(found)) for s, found in sorted(by_step.items())]
            axis.plot(*zip(*points, strict=True), marker=".", label=name)
        for style, (name, found) in zip(("--", ":"), fixed.items(), strict=False):
            axis.axhline(value(found), linestyle=style, color="grey", linewidth=1, label=name)
        axis.set(title=title, xlabel="steps of 64 pictures", ylabel="%")
    for name in trained:
        lines = [json.loads(x) for x in (work / f"{name}.jsonl").read_text().splitlines()]
        axes[-1].plot([x["step"] for x in lines], [x["loss"] for x in lines], label=name)
    axes[-1].set(title="training loss (of each one's own task)", xlabel="steps", yscale="log")
    axes[0].legend(fontsize=8)
    figure.savefig(out, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=DOCS / "tiny-curves.png")
    args = parser.parse_args()
    draw(args.work, args.out)


if __name__ == "__main__":
    main()

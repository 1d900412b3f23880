"""Learning curves of all trainings on photographs: ``python -m pipelines.tiny.curves``.

Reads WORK/probes/<training>-<step>.json, ``tiny``, ``random`` and ``floors`` to compare with, and
the losses in WORK/<training>.jsonl; leaves docs/tiny-curves.png.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from gate_cache.diffusion.models.embedded import TINY
from pipelines.tiny.card import DOCS

PANELS = {
    "CIFAR-10 probe, accuracy": ("cifar", ("up0-up2, 2×2, t = 50", "pixels"), "accuracy"),
    "PF-WILLOW, PCK@0.1 image, raw": (
        "willow", ("up0+up1+up2+up3, t = 100, raw", "copy the position"), "image"),
    "channels standardised by picture": (
        "willow", ("up1+up2+up3, t = 50, by picture", "copy the position"), "image"),
    "and without the position": ("willow", ("up1+up2+up3, t = 50, content",), "image"),
}
"""Title to the part of a probe's results, the row (of floors, another one), and the figure."""


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


def value(found: Any, title: str) -> float | None:
    """A panel's figure, or None where it was not measured."""
    part, rows, key = PANELS[title]
    for row in rows:
        if row in found[part]:
            figures = found[part][row][key]
            return float(figures if part == "cifar" else figures[0])
    return None


def draw(work: Path, out: Path) -> None:
    """One panel a measure, and one for the losses."""
    trained, fixed = read(work / "probes")
    figure, axes = plt.subplots(1, len(PANELS) + 1, figsize=(20, 4), layout="constrained")
    for axis, title in zip(axes, PANELS, strict=False):
        for name, by_step in trained.items():
            steps = {0: fixed[TINY], **by_step}
            points = [(s, v) for s in sorted(steps) if (v := value(steps[s], title)) is not None]
            axis.plot(*zip(*points, strict=True), marker=".", label=name)
        for style, (name, found) in zip(("--", ":", "-."), fixed.items(), strict=True):
            if (level := value(found, title)) is not None:
                axis.axhline(level, linestyle=style, color="grey", linewidth=1, label=name)
        axis.set(title=title, xlabel="steps of 64 pictures", ylabel="%")
    for name in trained:
        lines = [json.loads(x) for x in (work / f"{name}.jsonl").read_text().splitlines()]
        axes[-1].plot([x["step"] for x in lines], [x["loss"] for x in lines], label=name)
    axes[-1].set(title="training loss, each one's own", xlabel="steps")
    axes[0].legend(fontsize=8)
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=DOCS / "tiny-curves.png")
    args = parser.parse_args()
    draw(args.work, args.out)


if __name__ == "__main__":
    main()

"""The table and the picture of `benchmarks.encodings`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = {  # title and form of each value
    "store": ("stored as", ""), "bytes": ("bytes", ".2f"), "rms": ("rms error, %", ".2g"),
    "max": ("largest error, %", ".2g"), "single": ("PCK single", ".1f"),
    "gate": ("PCK GATE", ".1f"), "miou": ("mIoU", ".1f"), "write": ("write", ".2f"),
    "read": ("read", ".2f")}


def table(rows: list[Row]) -> str:
    """Markdown; bytes, and speeds of writing and reading, relative to float16."""
    lines = [[title for title, _ in COLUMNS.values()], ["---"] * len(COLUMNS),
             *([format(row[key], form) for key, (_, form) in COLUMNS.items()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(rows: list[Row], path: Path) -> None:
    """PCK and mIoU against bytes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, key, name in zip(axes, ("gate", "miou"), (
            "PCK@0.1 of GATE, head nn (%)", "mIoU of a linear probe (%)"), strict=True):
        for row in rows:
            packed = "zstd" in row["store"]
            axis.scatter(row["bytes"], row[key], s=36, marker="s" if packed else "o",
                         color="tab:orange" if packed else "tab:blue")
        place_names(axis, [(r["bytes"], r[key], r["store"].replace(" + zstd", "")) for r in rows])
        axis.set(xlabel="bytes, float16 = 1", ylabel=name, xlim=(0.2, 2.35))
        axis.grid(alpha=0.3)
    axes[0].scatter([], [], marker="o", color="tab:blue", label="uncompressed")
    axes[0].scatter([], [], marker="s", color="tab:orange", label="with zstd")
    axes[0].legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=110)


def place_names(axis: Any, points: list[tuple[float, float, str]]) -> None:
    """Names beside their points, alternately above and below."""
    for i, (x, y, name) in enumerate(sorted(points)):
        axis.annotate(name, (x, y), xytext=(0, 7 if i % 2 else -7), textcoords="offset points",
                      fontsize=7, ha="center", va="bottom" if i % 2 else "top")
    axis.margins(y=0.25)

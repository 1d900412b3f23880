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
    """PCK and mIoU against bytes; axes span two points at least, so that noise looks small."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    titles = {"gate": "PCK@0.1 of GATE, head nn (%)", "miou": "mIoU of a linear probe (%)"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for i, row in enumerate(rows):
            axis.plot(row["bytes"], row[key], linestyle="", label=row["store"], color=f"C{i}",
                      marker="s" if "zstd" in row["store"] else "o", markersize=13 - 0.8 * i,
                      fillstyle="none", markeredgewidth=1.5)
        low, high = min(r[key] for r in rows), max(r[key] for r in rows)
        margin = max(1 - (high - low) / 2, 0.2)
        axis.set(xlabel="bytes (float16: 1)", ylabel=title, xlim=(0, 2.2),
                 ylim=(low - margin, high + margin))
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    figure.savefig(path, dpi=100)

"""`gate-cache show --activations`: one pass as a page, from the noised input to the output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gate_cache.analysis.activations import Activations, Level, activations
from gate_cache.report.figures.pictures import Picture, PictureCell, PictureRow, fitted, sheet
from gate_cache.report.figures.show import beside, file_name, need_folder, written

if TYPE_CHECKING:
    from gate_cache.workspace.workspace import Workspace

STAGES = {"down, mid": ("down", "mid"), "up": ("up",)}
"""Rows between what goes in and what comes out, with what the names of their levels begin with."""


def draw_activations(work: Workspace, images: Sequence[str], combos: Sequence[str],
                     out: Path | None) -> Iterator[Path]:
    """Write one PNG file for each image and combo; yields their paths.

    By default the first image and the first combo are drawn, beside the store; a `UserError` where
    there is no such image or combo, or the folder cannot be written.
    """
    folder = need_folder(out or beside(work.store_path))
    for trace in activations(work, images, combos):
        name = f"{file_name(trace.id)}-{trace.combo}-activations"
        yield written(page(trace), folder, name)


def page(trace: Activations) -> Picture:
    """Along the pass: what goes in, down and mid, up, and what comes out."""
    t = f"t = {trace.t}"
    rows = [PictureRow("input", [_decoded(trace.image, "image"),
                                 _decoded(trace.noised, f"noised, {t}, decoded"),
                                 _level("noised latent", trace.latents)])]
    for title, starts in STAGES.items():
        rows.append(PictureRow(title, [_level(n, level) for n, level in trace.levels.items()
                                       if n.startswith(starts)]))
    rows.append(PictureRow("output", [_level("predicted noise", trace.noise),
                                      _decoded(trace.clean, "denoised at once, decoded")]))
    return sheet(rows, f"{trace.id}, {trace.combo}: one pass; maps as the colours of their first"
                       " three components").done()


def _level(name: str, level: Level) -> PictureCell:
    return PictureCell(level.colours, f"{name}  {' x '.join(map(str, level.shape))}")


def _decoded(picture: Picture, caption: str) -> PictureCell:
    return PictureCell(fitted(picture, smooth=max(picture.shape) > 200), caption)
